"""The stones of one feed: columns, not objects, so that two million of them take some hundred megabytes.

Natural stones are by default the 53,940 of the public data set `diamonds` (sandbox/data/NOTICE), at their own prices.
Larger stocks are generated: prices as the vendor's histogram and a model of its lab-grown prices have them, everything
else taken over from real stones of a like rank in price.
"""

from __future__ import annotations

import csv
import datetime as dt
import functools
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

DATA = Path(__file__).parent / "data" / "diamonds.csv.gz"
NATURAL, LABGROWN = "natural", "labgrown"
FEEDS = (NATURAL, LABGROWN)

Array = npt.NDArray[Any]

CHUNK = 1 << 18
"""Stones that are generated at a time: bounds the memory of intermediate values."""

BATCH = 40
"""Stones of one upload, which share their time of creation."""

SUPPLIERS = 20
OLDEST = dt.datetime(2022, 1, 1, tzinfo=dt.UTC)
"""Uploads began here and went on for two years; stones were last touched in the half year after that."""

UPLOAD_SECONDS = 2 * 365 * 86_400
TOUCH_SECONDS = 180 * 86_400

SHAPES = ("ROUND", "OVAL", "CUSHION", "PRINCESS", "EMERALD", "PEAR", "RADIANT", "MARQUISE", "ASSCHER", "HEART")
COLORS = ("D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "FANCY")
CLARITIES = ("FL", "IF", "VVS1", "VVS2", "VS1", "VS2", "SI1", "SI2", "SI3", "I1", "I2")
QUALITIES = ("EIGHTX", "ID", "EX", "VG", "GD", "FR", "PR")
FLUORESCENCES = ("NON", "FNT", "MED", "STG", "VST", "SLT")
LABS = ("GIA", "IGI", "HRD", "GCAL")
AVAILABILITIES = ("AVAILABLE", "HOLD", "ON_HOLD", "MEMO", "SOLD", "NOT_AVAILABLE")
CUTS = {"Ideal": "ID", "Premium": "EX", "Very Good": "VG", "Good": "GD", "Fair": "FR"}

CODES = {
    "shape": SHAPES,
    "color": COLORS,
    "clarity": CLARITIES,
    "cut": QUALITIES,
    "polish": QUALITIES,
    "symmetry": QUALITIES,
    "fluorescence": FLUORESCENCES,
    "lab": LABS,
    "availability": AVAILABILITIES,
}
"""Columns of small numbers, and what the numbers mean."""

TYPES: dict[str, type[np.generic]] = {
    **dict.fromkeys(CODES, np.uint8),
    "price": np.int32,  # cents
    "carats": np.int16,  # hundredths
    "depth_percent": np.int16,  # tenths
    "table_percent": np.int16,
    "length": np.int16,  # hundredths of a millimetre; 0: not measured
    "width": np.int16,
    "depth": np.int16,
    "supplier": np.uint8,
    "status": np.uint8,
    "created": np.int32,  # seconds since 1970
    "updated": np.int64,  # microseconds since 1970
}
LISTED, SOLD, WITHDRAWN = 0, 1, 2
"""Status. A sold stone is still found by its id or certificate; a withdrawn one is not found at all."""

# How many natural stones a scan of the whole filtered feed found from each price on (dollars), February 2026.
NATURAL_HISTOGRAM: Sequence[tuple[int, int]] = (
    (0, 100451), (500, 90198), (1000, 48195), (1500, 37391), (2000, 25684), (2500, 18940), (3000, 13959),
    (3500, 10695), (4000, 8485), (4500, 6845), (5000, 5712), (5500, 4866), (6000, 4345), (6500, 3714), (7000, 3287),
    (7500, 2723), (8000, 2485), (8500, 2190), (9000, 2108), (9500, 1864), (10000, 1831), (10500, 1565),
    (11000, 1462), (11500, 1275), (12000, 1263), (12500, 1074), (13000, 1043), (13500, 946), (14000, 905),
    (14500, 865), (15000, 892), (15500, 793), (16000, 680), (16500, 642), (17000, 642), (17500, 617), (18000, 599),
    (18500, 561), (19000, 543), (19500, 513), (20000, 3945), (25000, 2790), (30000, 1889), (35000, 1440),
    (40000, 1104), (45000, 824), (50000, 1074), (60000, 691), (70000, 445), (80000, 351), (90000, 247),
    (100000, 483), (125000, 258), (150000, 189), (175000, 90), (200000, 66), (225000, 37),
)  # fmt: skip
NATURAL_CHEAPEST, NATURAL_DEAREST = 80, 250_000

# Quantiles of a lab-grown stone's price in dollars. A model: no scan of that feed is public.
LAB_QUANTILES: Sequence[tuple[float, int]] = (
    (0.0, 15), (0.01, 30), (0.1, 62), (0.25, 101), (0.5, 179), (0.75, 331), (0.9, 648), (0.95, 1_081), (0.99, 2_856),
    (1.0, 40_000),
)  # fmt: skip
LAB_CARATS = 1.8
"""By so much a lab-grown stone is heavier than a natural one of the same rank in price."""


def mixed(numbers: Array, salt: int) -> Array:
    """64 bits of chance per number and salt, always the same (splitmix64, https://prng.di.unimi.it/splitmix64.c)."""
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64((salt * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def shares(numbers: Array, salt: int) -> Array:
    """A number from 0 to 1 per number and salt."""
    return (mixed(numbers, salt) >> np.uint64(11)).astype(np.float64) / 2.0**53


def chosen(numbers: Array, salt: int, weights: Sequence[float]) -> Array:
    """The place of one weight per number, as often as the weights say."""
    steps = np.cumsum(weights)
    return np.searchsorted(steps / steps[-1], shares(numbers, salt), side="right").astype(np.uint8)


class Stock:
    """The columns of one feed, with room to grow."""

    def __init__(self, feed: str, columns: dict[str, Array]) -> None:
        self.feed = feed
        self.columns = columns
        self.size = len(columns["price"])

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, name: str) -> Array:
        """A column, without the spare room at its end."""
        return self.columns[name][: self.size]

    def append(self, columns: dict[str, Array]) -> Array:
        """More stones; their places."""
        first, last = self.size, self.size + len(columns["price"])
        for name, values in columns.items():
            held = self.columns[name]
            if last > len(held):
                held = self.columns[name] = np.concatenate((held, np.zeros(max(last - len(held), 1024), held.dtype)))
            held[first:last] = values
        self.size = last
        return np.arange(first, last)

    def copy(self) -> Stock:
        return Stock(self.feed, {name: values[: self.size].copy() for name, values in self.columns.items()})


@functools.cache
def real_columns() -> dict[str, Array]:
    """The public data set, in its own order: price in cents, the rest as in `TYPES`."""
    with gzip.open(DATA, "rt", encoding="ascii", newline="") as file:
        rows = list(csv.reader(file))[1:]
    carat, cut, color, clarity, depth, table, price, x, y, z = zip(*rows, strict=True)

    def scaled(values: Sequence[str], factor: int) -> Array:
        found: Array = np.rint(np.array(values, dtype=np.float64) * factor)
        return found

    def coded(values: Sequence[str], codes: Sequence[str]) -> Array:
        places = {code: place for place, code in enumerate(codes)}
        return np.array([places[value] for value in values])

    columns = {
        "price": scaled(price, 100),
        "carats": scaled(carat, 100),
        "cut": coded([CUTS[value] for value in cut], QUALITIES),
        "color": coded(color, COLORS),
        "clarity": coded(clarity, CLARITIES),
        "depth_percent": scaled(depth, 10),
        "table_percent": scaled(table, 10),
        "length": scaled(x, 100),
        "width": scaled(y, 100),
        "depth": scaled(z, 100),
    }
    return {name: values.astype(TYPES[name]) for name, values in columns.items()}


@functools.lru_cache(maxsize=4)
def built(feed: str, seed: int, count: int | None) -> Stock:
    """The stock of a feed as it is at the start. `count` None: the real stones. Copy it before you change it."""
    if count is None:
        real = real_columns()
        return Stock(feed, {**real, **_common(feed, seed, np.arange(len(real["price"])))})
    parts = [generated(feed, seed, np.arange(first, min(first + CHUNK, count))) for first in range(0, count, CHUNK)]
    parts = parts or [generated(feed, seed, np.arange(0))]
    return Stock(feed, {name: np.concatenate([part[name] for part in parts]) for name in TYPES})


def generated(feed: str, seed: int, numbers: Array) -> dict[str, Array]:
    """The columns of made-up stones with these numbers."""
    salt = seed * 1_000 + (500 if feed == LABGROWN else 0)
    rank = shares(numbers, salt + 1)
    price = np.rint(_prices(feed, rank) * 100)
    real = _by_price()
    places = np.clip(rank + (shares(numbers, salt + 2) - 0.5) * 0.2, 0, 1) * (len(real["carats"]) - 1)
    taken = {name: values[places.astype(np.int64)] for name, values in real.items()}
    if feed == LABGROWN:
        taken["carats"] = np.rint(taken["carats"] * LAB_CARATS)
        for side in ("length", "width", "depth"):
            taken[side] = np.rint(taken[side] * LAB_CARATS ** (1 / 3))
    columns = {**taken, **_common(feed, seed, numbers), "price": price}
    columns["shape"] = chosen(numbers, salt + 3, (60, 9, 6, 5, 5, 5, 4, 3, 2, 1))
    return {name: np.asarray(columns[name]).astype(kind) for name, kind in TYPES.items()}


def _common(feed: str, seed: int, numbers: Array) -> dict[str, Array]:
    """What the data set does not have."""
    salt = seed * 1_000 + (500 if feed == LABGROWN else 0)
    batch = numbers // BATCH
    created = OLDEST.timestamp() + np.floor(shares(batch, salt + 10) * UPLOAD_SECONDS)
    touched = OLDEST.timestamp() + UPLOAD_SECONDS + shares(numbers, salt + 11) * TOUCH_SECONDS
    columns = {
        "shape": np.zeros(len(numbers)),
        "polish": chosen(numbers, salt + 12, (0, 0, 70, 25, 5)),
        "symmetry": chosen(numbers, salt + 13, (0, 0, 65, 28, 7)),
        "fluorescence": chosen(numbers, salt + 14, (70, 15, 8, 4, 1, 2)),
        "lab": chosen(numbers, salt + 15, (20, 75, 1, 4) if feed == LABGROWN else (88, 8, 3, 1)),
        "availability": chosen(numbers, salt + 16, (98.5, 0.5, 0.4, 0.4, 0, 0.2)),
        "supplier": chosen(batch, salt + 17, (1.0,) * SUPPLIERS),
        "status": np.full(len(numbers), LISTED),
        "created": created,
        "updated": touched * 1_000_000,
    }
    return {name: np.asarray(values).astype(TYPES[name]) for name, values in columns.items()}


@functools.cache
def _by_price() -> dict[str, Array]:
    real = real_columns()
    order = np.argsort(real["price"], kind="stable")
    return {name: values[order] for name, values in real.items() if name != "price"}


def _prices(feed: str, rank: Array) -> Array:
    """Dollars at these ranks from 0 to 1."""
    if feed == LABGROWN:
        steps, dollars = np.array(LAB_QUANTILES).T
        linear = np.interp(rank, steps, dollars)
        # Above the median prices thin out from quantile to quantile.
        dear = np.exp(np.interp(rank, steps, np.log(dollars)))
        prices: Array = np.where(rank < 0.5, linear, dear)
        return prices
    starts = np.array([start for start, _ in NATURAL_HISTOGRAM] + [NATURAL_DEAREST], dtype=np.float64)
    starts[0] = NATURAL_CHEAPEST
    found = np.concatenate(([0], np.cumsum([count for _, count in NATURAL_HISTOGRAM])))
    return np.interp(rank, found / found[-1], starts)
