"""Nivoda's filters: one test of stones per field of `DiamondQuery`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sandbox import nivoda_stock as stock
from sandbox.clock import parse_instant
from sandbox.nivoda_market import MICROSECONDS, Feed, Market
from sandbox.nivoda_stock import AVAILABILITIES, CODES, Array

Query = Mapping[str, Any]
Places = Array | slice
Test = Callable[[Feed, Places], Array]


CODED = {
    "cut": "cut",
    "polish": "polish",
    "symmetry": "symmetry",
    "color": "color",
    "clarity": "clarity",
    "shapes": "shape",
    "flouresence": "fluorescence",
    "certificate_lab": "lab",
    "availability": "availability",
}
MEASURED = {
    "table_percentage": ("table_percent", 10),
    "depth_percentage": ("depth_percent", 10),
    "length_mm": ("length", 100),
    "width_mm": ("width", 100),
    "depth_mm": ("depth", 100),
}
MEDIA = ("has_image", "has_v360")
IGNORED = frozenset(
    {
        "labgrown",
        "search_on_markup_price",
        "search_on_preferred_currency",
        "add_taxes_on_search",
        "certificate_numbers",
        *MEDIA,
    }
)
MEMO = AVAILABILITIES.index("MEMO")


class SearchError(Exception):
    """A query that the schema allows and the search refuses."""


def tests_of(market: Market, query: Query) -> list[Test]:
    """One test per filter. Raises SearchError for a filter that the sandbox does not serve."""
    tests: list[Test] = []
    for name, value in query.items():
        if value is None or value == [] or name in IGNORED:
            continue
        if name in CODED:
            tests.append(_one_of(CODED[name], value))
        elif name in MEASURED:
            tests.append(_between(*MEASURED[name], value["from"], value["to"]))
        elif name in PRICED:
            tests.append(PRICED[name](market, value))
        elif name in SPECIAL:
            tests.append(SPECIAL[name](market, value))
        else:
            raise SearchError(f"filter {name} is not served by the sandbox")
    media = [name for name in MEDIA if query.get(name)]
    if media:
        # Both together find stones with either.
        tests.append(_with_media(market, media))
    return tests


def matching(feed: Feed, tests: Sequence[Test], places: Places) -> Array:
    """Which of the stones pass all tests."""
    found = feed.listed(places)
    for test in tests:
        found &= test(feed, places)
    return found


def discounts(places: Array) -> Array:
    """Hundredths of a percent off the list price."""
    return -(stock.mixed(places, 31) % np.uint64(6_000)).astype(np.int64)


def within(values: Array, low: float, high: float) -> Array:
    """Which values lie between two bounds, both included."""
    found: Array = (values >= low) & (values <= high)
    return found


def _one_of(column: str, names: Sequence[str | None]) -> Test:
    codes = [CODES[column].index(name) for name in names if name in CODES[column]]
    wanted = np.zeros(256, dtype=bool)
    wanted[codes] = True
    return lambda feed, places: wanted[feed.stock[column][places]]


def _between(column: str, scale: int, low: float, high: float) -> Test:
    first, last = low * scale - 1e-6, high * scale + 1e-6

    def test(feed: Feed, places: Places) -> Array:
        values = feed.stock[column][places]
        return within(values, first, last)

    return test


def _dollars(market: Market, bounds: Mapping[str, int]) -> Test:
    first, last = bounds["from"] * 100, bounds["to"] * 100
    last += 99 if market.switches.bounds == "floor" else 0
    priced = _priced(market)

    def test(feed: Feed, places: Places) -> Array:
        cents = feed.stock["price"][places]
        return within(cents, min(first, 2**31 - 1), min(last, 2**31 - 1)) & priced(feed, places)

    return test


def _dollars_per_carat(market: Market, bounds: Mapping[str, int]) -> Test:
    def test(feed: Feed, places: Places) -> Array:
        dollars = feed.stock["price"][places] / feed.stock["carats"][places]
        if market.switches.bounds == "floor":
            dollars = np.floor(dollars)
        return within(dollars, bounds["from"], bounds["to"])

    return test


def _priced(market: Market) -> Test:
    share = market.switches.unpriced

    def test(feed: Feed, places: Places) -> Array:
        numbers = np.arange(len(feed.stock))[places]
        return stock.shares(numbers, 79) >= share if share else np.ones(len(numbers), dtype=bool)

    return test


def _discount(market: Market, bounds: Mapping[str, int]) -> Test:
    def test(feed: Feed, places: Places) -> Array:
        values = discounts(np.arange(len(feed.stock))[places])
        return within(values, bounds["from"] * 100, bounds["to"] * 100)

    return test


PRICED: Mapping[str, Callable[[Market, Mapping[str, int]], Test]] = {
    "dollar_value": _dollars,
    "dollar_per_carat": _dollars_per_carat,
    "discount": _discount,
}


def _sizes(market: Market, ranges: Sequence[Mapping[str, float] | None]) -> Test:
    tests = [_between("carats", 100, each["from"], each["to"]) for each in ranges if each is not None]

    def test(feed: Feed, places: Places) -> Array:
        found = np.zeros(len(feed.stock["carats"][places]), dtype=bool)
        for each in tests:
            found |= each(feed, places)
        return found

    return test


def _updated(market: Market, bounds: Mapping[str, str | None]) -> Test:
    first = _moment(bounds.get("from"), 0)
    last = _moment(bounds.get("to"), 2**62)

    def test(feed: Feed, places: Places) -> Array:
        values = feed.stock["updated"][places]
        return within(values, first, last)

    return test


def _moment(text: str | None, otherwise: int) -> int:
    if not text:
        return otherwise
    try:
        since = parse_instant(text) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    except ValueError as broken:
        raise SearchError(f'invalid input syntax for type timestamp with time zone: "{text}"') from broken
    return since // dt.timedelta(seconds=1) * MICROSECONDS + since.microseconds


def _suppliers(market: Market, ids: Sequence[str]) -> Test:
    numbers = [int(each.removeprefix("SUPPLIER")) for each in ids if each.removeprefix("SUPPLIER").isdecimal()]
    return lambda feed, places: np.isin(feed.stock["supplier"][places], numbers)


def _ratio(market: Market, bounds: Mapping[str, float]) -> Test:
    def test(feed: Feed, places: Places) -> Array:
        length, width = feed.stock["length"][places], feed.stock["width"][places]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = length / width
        return within(ratio, bounds["from"], bounds["to"])

    return test


def _hide_memo(market: Market, is_on: bool) -> Test:
    return lambda feed, places: (feed.stock["availability"][places] != MEMO) | (not is_on)


def _treated(market: Market, is_on: bool) -> Test:
    return lambda feed, places: np.full(len(feed.stock["price"][places]), not is_on)


SPECIAL: Mapping[str, Callable[[Market, Any], Test]] = {
    "sizes": _sizes,
    "updated": _updated,
    "suppliers": _suppliers,
    "ratio": _ratio,
    "hide_memo": _hide_memo,
    "treated": _treated,
}


def media_of(market: Market, places: Array, kind: str) -> Array:
    """Which stones have an image (`has_image`) or a video (`has_v360`)."""
    share = market.switches.without_media
    return stock.shares(places, 80 + MEDIA.index(kind)) >= share


def _with_media(market: Market, kinds: Sequence[str]) -> Test:
    def test(feed: Feed, places: Places) -> Array:
        numbers = np.arange(len(feed.stock))[places]
        found = np.zeros(len(numbers), dtype=bool)
        for kind in kinds:
            found |= media_of(market, numbers, kind)
        return found

    return test
