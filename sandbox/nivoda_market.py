"""The market: two feeds whose stones are sold, added, repriced and uploaded again while they are read.

It moves by the clock (`speed` market seconds per second), by every request (`seconds_per_request`), or when it is told
to. Whatever happens to a stone is stamped with the clock's time and logged, so that it is known for certain which
stones nobody touched since a moment.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sandbox import nivoda_stock as stock
from sandbox.nivoda_stock import AVAILABILITIES, FEEDS, LISTED, SOLD, WITHDRAWN, Array, Stock
from sandbox.state import State

HOUR = 3600.0
MICROSECONDS = 1_000_000
AVAILABLE, ON_HOLD = AVAILABILITIES.index("AVAILABLE"), AVAILABILITIES.index("ON_HOLD")
SOLD_OUT = AVAILABILITIES.index("SOLD")

SOLD_EVENT, ADDED, REPRICED, HELD, UPLOADED = "sold", "added", "repriced", "held", "uploaded"


@dataclass(frozen=True, slots=True)
class Switches:
    """How the API behaves; `PUT /sandbox/nivoda` changes some, a reset of the sandbox puts all back.

    natural, labgrown: stones of the feeds at the start; natural None: the 53,940 real ones. Changing one of them
        rebuilds the market.
    bounds: `real` compares a price in cents with whole dollars as numbers, `floor` cuts the cents off first.
    ties: `stable` orders equal keys always alike, `unstable` anew in every request.
    total_count: what a page says of it: its own length (`page`), what is left from its offset on (`remaining`), or
        `total`.
    short_pages: of so many full pages in a row one comes with two thirds of its items; what it leaves out is found
        at its own offset. 0: never.
    offset_limit: the highest offset that is answered; None: any.
    token_seconds: life of a token.
    refuses_tokens: no token is good, not even a new one.
    validation_status: HTTP status of a query that breaks the schema, 200 or 400.
    bad_enums: share of items with values outside the schema's enumerations in fields that may be null.
    bad_colors: share of items with such a colour, which may not be null: the whole item becomes null.
    unpriced: share of stones that no filter on price finds.
    unmeasured: share of stones with "0" and "null" among their measurements, beside those that have them by nature.
    without_media: share of stones without image, and again without video.
    arbitrary_ranges: whether a price range that ends before it begins is answered with 30 stones.
    request_limit, request_period: hard limit of requests, None for none.
    has_retry_after: whether a refusal by that limit says how long to wait.
    batch_limit: most root fields of one request; None: any.
    speed: market seconds per second of the clock. seconds_per_request: market seconds per request.
    silent_holds: whether `updated` stays when only the availability changes.
    sold, added, repriced, held: share of a feed's stones per market hour. uploads: supplier uploads per market hour,
        each of which touches a twentieth of the feed.
    """

    natural: int | None = None
    labgrown: int = 4_000
    bounds: str = "real"
    ties: str = "stable"
    total_count: str = "page"
    short_pages: int = 0
    offset_limit: int | None = 50_000
    token_seconds: float = 6 * 3600
    refuses_tokens: bool = False
    validation_status: int = 400
    bad_enums: float = 0.0
    bad_colors: float = 0.0
    unpriced: float = 0.0
    unmeasured: float = 0.0
    without_media: float = 0.0
    arbitrary_ranges: bool = True
    request_limit: int | None = None
    request_period: float = 1.0
    has_retry_after: bool = True
    batch_limit: int | None = None
    speed: float = 1.0
    seconds_per_request: float = 0.0
    silent_holds: bool = False
    sold: float = 0.0
    added: float = 0.0
    repriced: float = 0.0
    held: float = 0.0
    uploads: float = 0.0


CHOICES = {
    "bounds": ("real", "floor"),
    "ties": ("stable", "unstable"),
    "total_count": ("page", "remaining", "total"),
    "validation_status": (200, 400),
}


@dataclass(slots=True)
class Feed:
    """One feed's stock and what has happened to it.

    touched: places of the touched stones, oldest first; touched_at: when, in microseconds since 1970.
    version: counts what makes every answer out of date at once, as when stones are taken away.
    """

    stock: Stock
    rng: np.random.Generator
    carried: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    events: Counter[str] = field(default_factory=Counter)
    touched: list[Array] = field(default_factory=list)
    touched_at: list[Array] = field(default_factory=list)
    next_supplier: int = 0
    version: int = 0
    taken_away: float = 0.0
    is_lost_to_lookups: bool = True

    def hidden(self, places: Array | slice) -> Array | None:
        """Which of the stones were taken away; None: none of the feed."""
        if not self.taken_away:
            return None
        numbers = np.arange(len(self.stock))[places]
        return stock.shares(numbers, 77) < self.taken_away

    def listed(self, places: Array | slice = slice(None)) -> Array:
        """Which of the stones a search can find."""
        found: Array = self.stock["status"][places] == LISTED
        hidden = self.hidden(places)
        return found if hidden is None else found & ~hidden

    def touched_since(self, moment: int) -> Array:
        """Places of the stones that were touched at that time (microseconds) or later, each once."""
        if not self.touched:
            return np.arange(0)
        places, times = np.concatenate(self.touched), np.concatenate(self.touched_at)
        found: Array = np.unique(places[times >= moment])
        return found


class Market:
    """Both feeds of one sandbox."""

    def __init__(self, state: State, switches: Switches) -> None:
        self.state = state
        self.switches = switches
        self.feeds = {name: self._feed(name, number) for number, name in enumerate(FEEDS)}
        self._seen = state.clock.now()

    def _feed(self, name: str, number: int) -> Feed:
        count = self.switches.natural if name == stock.NATURAL else self.switches.labgrown
        base = stock.built(name, self.state.seed, count)
        return Feed(base.copy(), np.random.default_rng((self.state.seed, number)))

    def now(self) -> int:
        """The clock's time in microseconds since 1970."""
        return round(self.state.clock.now().timestamp() * MICROSECONDS)

    def catch_up(self, requests: int = 0) -> None:
        """Let happen what the time since the last look, and this request, bring."""
        now = self.state.clock.now()
        passed = max(0.0, (now - self._seen).total_seconds())
        since = round(self._seen.timestamp() * MICROSECONDS)
        self._seen = now
        self.move(passed * self.switches.speed + requests * self.switches.seconds_per_request, since)

    def move(self, seconds: float, since: int | None = None) -> None:
        """Let so many market seconds pass. What happens is stamped between `since` and now."""
        now = self.now()
        for feed in self.feeds.values():
            for kind in (SOLD_EVENT, ADDED, REPRICED, HELD):
                feed.carried[kind] += getattr(self.switches, kind) * len(feed.stock) * seconds / HOUR
            feed.carried[UPLOADED] += self.switches.uploads * seconds / HOUR
            for kind in (SOLD_EVENT, ADDED, REPRICED, HELD, UPLOADED):
                due = int(feed.carried[kind])
                feed.carried[kind] -= due
                if due:
                    self._happen(feed, kind, due, since if since is not None and since < now else now, now)

    def _happen(self, feed: Feed, kind: str, count: int, since: int, now: int) -> None:
        if kind == UPLOADED:
            for _ in range(count):
                places = np.flatnonzero((feed.stock["supplier"] == feed.next_supplier) & feed.listed())
                feed.next_supplier = (feed.next_supplier + 1) % stock.SUPPLIERS
                self._touch(feed, kind, places, since, now)
            return
        if kind == ADDED:
            numbers = np.arange(len(feed.stock), len(feed.stock) + count)
            columns = stock.generated(feed.stock.feed, self.state.seed, numbers)
            columns["created"] = np.full(count, now // MICROSECONDS, dtype=np.int32)
            self._touch(feed, kind, feed.stock.append(columns), since, now)
            return
        places = self._drawn(feed, count)
        if kind == SOLD_EVENT:
            self._sell(feed, places)
        elif kind == REPRICED:
            prices = feed.stock["price"]
            prices[places] = np.maximum(100, np.rint(prices[places] * feed.rng.uniform(0.9, 1.1, len(places))))
        else:
            held = feed.stock["availability"]
            held[places] = np.where(held[places] == AVAILABLE, ON_HOLD, AVAILABLE)
        is_silent = kind == HELD and self.switches.silent_holds
        self._touch(feed, kind, places, since, now, is_silent=is_silent)

    @staticmethod
    def _drawn(feed: Feed, count: int) -> Array:
        """Some stones that are still there, each once; fewer when many are gone."""
        drawn = np.unique(feed.rng.integers(0, len(feed.stock), count)) if len(feed.stock) else np.arange(0)
        found: Array = drawn[feed.stock["status"][drawn] == LISTED]
        return found

    @staticmethod
    def _sell(feed: Feed, places: Array) -> None:
        """Every second one stays to be found by its certificate."""
        is_found = stock.shares(places, 78) < 0.5
        feed.stock["status"][places] = np.where(is_found, SOLD, WITHDRAWN)
        feed.stock["availability"][places] = SOLD_OUT

    @staticmethod
    def _touch(feed: Feed, kind: str, places: Array, since: int, now: int, *, is_silent: bool = False) -> None:
        times = np.sort(feed.rng.integers(since, now, len(places), endpoint=True))
        if not is_silent:
            feed.stock["updated"][places] = times
        feed.touched.append(places)
        feed.touched_at.append(times)
        feed.events[kind] += len(places)

    def take_away(self, name: str, share: float, is_lost_to_lookups: bool) -> None:
        """Let a share of a feed's stones be missing, as when the vendor's index breaks; 0 brings them back.
        They count as untouched."""
        feed = self.feeds[name]
        feed.taken_away, feed.is_lost_to_lookups = share, is_lost_to_lookups
        feed.version += 1


def market_of(state: State) -> Market:
    """The sandbox's market, made when it is first asked for."""
    memory = state.remembered("nivoda")
    if "market" not in memory:
        memory["market"] = Market(state, Switches(**state.nivoda))
    market: Market = memory["market"]
    return market


def change(state: State, values: Mapping[str, Any]) -> Switches:
    """Set some switches. Raises ValueError for an unknown name or value."""
    known = {each.name for each in dataclasses.fields(Switches)}
    unknown = set(values) - known
    if unknown:
        raise ValueError(f"unknown switches: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    for name, choices in CHOICES.items():
        if name in values and values[name] not in choices:
            raise ValueError(f"{name} is one of {', '.join(map(str, choices))}")
    market = market_of(state)
    market.catch_up()
    switches = dataclasses.replace(market.switches, **values)
    if {"natural", "labgrown"} & set(values):
        state.remembered("nivoda")["market"] = Market(state, switches)
    else:
        market.switches = switches
        for feed in market.feeds.values():
            feed.version += 1
    return switches
