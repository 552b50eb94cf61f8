"""Which stones a query finds, and in which order.

A view is a sorted array of (order key, place) pairs packed into one number each. It is kept per query; when the market
moves, only the stones that were touched since are looked at again.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sandbox import nivoda_stock as stock
from sandbox.nivoda_filters import Query, Test, discounts, matching, tests_of
from sandbox.nivoda_identity import certified, is_known
from sandbox.nivoda_market import Feed, Market
from sandbox.nivoda_stock import Array

PLACE_BITS = 23
"""Room for eight million stones in the low bits of a packed number."""

PLACE_MASK = (1 << PLACE_BITS) - 1
MOST_VIEWED = 12_000_000
"""Stones in all kept views together; the view that was not used for longest goes first."""

ARBITRARY = 30
"""So many stones answer a range that ends before it begins."""

MOST_COUNTS = 4_096
"""Counts that are remembered until the market moves."""

ORDERS = ("createdAt", "price", "size", "discount", "none")


@dataclass(slots=True)
class View:
    """What one query finds: the packed stones, and how much of the feed's log they know of."""

    packed: Array
    log_length: int
    version: int


class Search:
    """Answers queries on one market."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self._views: OrderedDict[tuple[str, str], View] = OrderedDict()
        self._counts: dict[str, tuple[tuple[int, int], int]] = {}

    def count(self, query: Query) -> int:
        """How many stones a query finds."""
        feed = self._feed(query)
        if is_inverted(query) and self.market.switches.arbitrary_ranges:
            return min(ARBITRARY, len(feed.stock))
        text = json.dumps(query, sort_keys=True)
        for order in ORDERS:
            if (text, order) in self._views:
                return len(self._view(query, order).packed)
        state = (feed.version, len(feed.touched))
        known = self._counts.get(text)
        if known is None or known[0] != state:
            if len(self._counts) > MOST_COUNTS:
                self._counts.clear()
            found = int(np.count_nonzero(matching(feed, tests_of(self.market, query), slice(None))))
            known = self._counts[text] = (state, found)
        return known[1]

    def page(self, query: Query, order: str, direction: str, offset: int, limit: int) -> tuple[Feed, Array]:
        """The places of one page's stones."""
        feed = self._feed(query)
        if is_inverted(query) and self.market.switches.arbitrary_ranges:
            places = np.arange(min(ARBITRARY, len(feed.stock)))
            return feed, places[offset : offset + limit]
        if order == "insert":
            order, direction = "createdAt", "DESC"
        packed = self._view(query, order).packed
        if self.market.switches.ties == "unstable":
            packed = packed[np.lexsort((feed.rng.random(len(packed)), packed >> PLACE_BITS))]
        if direction == "DESC":
            packed = packed[::-1]
        return feed, packed[offset : offset + limit] & PLACE_MASK

    def by_certificates(self, numbers: Sequence[str]) -> list[tuple[Feed, Array]]:
        """Stones with these certificates, of both feeds, sold ones included; no other filter counts."""
        found = []
        for feed in self.market.feeds.values():
            places = certified(feed, numbers)
            found.append((feed, places[is_known(feed, places)]))
        return found

    def _feed(self, query: Query) -> Feed:
        # A query that does not say finds natural stones.
        return self.market.feeds[stock.LABGROWN if query.get("labgrown") else stock.NATURAL]

    def _view(self, query: Query, order: str) -> View:
        feed = self._feed(query)
        key = (json.dumps(query, sort_keys=True), order)
        view = self._views.get(key)
        if view is None or view.version != feed.version:
            tests = tests_of(self.market, query)
            places = np.flatnonzero(matching(feed, tests, slice(None)))
            view = self._views[key] = View(_sorted(feed, order, places), len(feed.touched), feed.version)
            self._forget()
        elif view.log_length < len(feed.touched):
            self._renew(feed, view, order, tests_of(self.market, query))
        self._views.move_to_end(key)
        return view

    def _renew(self, feed: Feed, view: View, order: str, tests: Sequence[Test]) -> None:
        """Look again at what was touched since."""
        touched = np.unique(np.concatenate(feed.touched[view.log_length :]))
        view.log_length = len(feed.touched)
        places = view.packed & PLACE_MASK
        at = np.minimum(np.searchsorted(touched, places), max(len(touched) - 1, 0))
        kept = view.packed[touched[at] != places] if len(touched) else view.packed
        fresh = _sorted(feed, order, touched[matching(feed, tests, touched)])
        view.packed = np.insert(kept, np.searchsorted(kept, fresh), fresh)

    def _forget(self) -> None:
        while len(self._views) > 1 and sum(len(view.packed) for view in self._views.values()) > MOST_VIEWED:
            self._views.popitem(last=False)


def is_inverted(query: Query) -> bool:
    """Whether a price range ends before it begins."""
    ranges = (query.get("dollar_value"), query.get("dollar_per_carat"))
    return any(each is not None and each["from"] > each["to"] for each in ranges)


def _sorted(feed: Feed, order: str, places: Array) -> Array:
    places = places.astype(np.int64)
    match order:
        case "createdAt":
            key = feed.stock["created"][places].astype(np.int64)
        case "price":
            key = feed.stock["price"][places].astype(np.int64)
        case "size":
            key = feed.stock["carats"][places].astype(np.int64)
        case "discount":
            key = discounts(places) + 10_000
        case _:
            return places
    return np.sort(key << PLACE_BITS | places)
