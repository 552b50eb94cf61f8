"""Ids and certificates of Nivoda's stones: computed from a stone's place in its feed, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sandbox import nivoda_stock as stock
from sandbox.nivoda_market import Feed
from sandbox.nivoda_stock import Array

MARK = {stock.NATURAL: 0x4A, stock.LABGROWN: 0x4B}
CERTIFICATES = {stock.NATURAL: 1_200_000_000, stock.LABGROWN: 5_400_000_000}
SHARED_CERTIFICATE = 200
"""Every so many stones one is offered by two suppliers, under one certificate."""


def stone_id(feed: str, place: int, chance: int) -> str:
    """A stone's UUID; its last twelve digits are its place."""
    return f"{chance & 0xFFFFFFFF:08x}-{MARK[feed]:04x}-4000-8000-{place:012x}"


def place_of(identity: str) -> tuple[str, int] | None:
    """Feed and place of an id of a stone or an offer; None: it is none of ours."""
    parts = identity.removeprefix("DIAMOND/").split("-")
    try:
        mark, place = int(parts[1], 16), int(parts[-1], 16)
    except (ValueError, IndexError):
        return None
    return next(((feed, place) for feed, known in MARK.items() if known == mark), None)


def certificate_numbers(feed: str, places: Array) -> Array:
    """The stones' certificates; one in `SHARED_CERTIFICATE` has its neighbour's."""
    shares_it = places % SHARED_CERTIFICATE == SHARED_CERTIFICATE - 1
    return np.where(shares_it, places - 1, places) + CERTIFICATES[feed]


def certified(feed: Feed, numbers: Sequence[str]) -> Array:
    """Places of a feed's stones with these certificates."""
    first = CERTIFICATES[feed.stock.feed]
    places = [int(number) - first for number in numbers if number.isdecimal()]
    wanted = np.array([place for place in places if 0 <= place < len(feed.stock)], dtype=np.int64)
    near = np.unique(np.concatenate((wanted, wanted + 1)))
    near = near[near < len(feed.stock)]
    found: Array = near[np.isin(certificate_numbers(feed.stock.feed, near) - first, wanted)]
    return found


def is_known(feed: Feed, places: Array) -> Array:
    """Which of the stones are found by id or certificate."""
    found: Array = feed.stock["status"][places] != stock.WITHDRAWN
    hidden = feed.hidden(places) if feed.is_lost_to_lookups else None
    return found if hidden is None else found & ~hidden
