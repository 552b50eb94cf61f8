"""The planner beside the old worker's heat map, on simulated stock: counts, rounds, balance, stones not covered.

Every case is planned for several seeds; the table and the aims are of the worst of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.core import price_shapes
from penstock.core.partitions import Span, Wish, make_plan
from penstock.core.price_shapes import Shape

PARTITIONS = 60
LARGEST_MEAN = 40_000  # lifted for two million stones in sixty partitions
AIM_CALLS, AIM_ROUNDS, AIM_BALANCE = (65, 90), (3, 6), (1.25, 1.55)
"""With the last run's prices, and without."""
MARKUP = 1.15
LAST_DOLLAR = 250_000
NOTHING_KNOWN = Shape([10, LAST_DOLLAR], [0.0, 1.0], is_prior=False)

Cents: TypeAlias = npt.NDArray[np.int64]


@dataclass
class Feed:
    """Sorted prices in cents, counted as the vendor does."""

    cents: Cents
    is_floored: bool
    calls: int = 0

    def __call__(self, spans: Sequence[Span]) -> list[int]:
        self.calls += len(spans)
        return [self.count(span.low, span.high) for span in spans]

    def count(self, low: int | None, high: int | None) -> int:
        if low is None or high is None:
            return len(self.cents)
        first = np.searchsorted(self.cents, low * 100, "left")
        last = np.searchsorted(self.cents, high * 100 + (99 if self.is_floored else 0), "right")
        return max(0, int(last - first))


def drawn(shape: Shape, count: int, rng: np.random.Generator) -> Cents:
    """So many stones whose prices lie as the shape says."""
    heights = np.log(np.asarray(shape.dollars) + 2.0)
    return cents_of(np.exp(np.interp(rng.random(count) * shape.total, shape.weights, heights)) - 2.0)


def cents_of(dollars: npt.NDArray[Any]) -> Cents:
    return np.sort(np.rint(100 * dollars).astype(np.int64))


def prior(cents: Cents) -> Shape:
    """The shape of a last run with these prices."""
    dollars, counts = np.unique(-(-cents // 100), return_counts=True)
    return price_shapes.from_histogram(zip(dollars.tolist(), counts.tolist(), strict=True))


def priors(shape: Shape, now: Cents, rng: np.random.Generator) -> Iterator[tuple[str, Shape]]:
    """What a last run may have seen of a feed that is `now`: the same market, or one that has moved since."""
    count = len(now)
    earlier = drawn(shape, count, rng) / 100
    churned = rng.choice(earlier, count)
    yield "last run's prices", prior(cents_of(earlier))
    yield "stale: half exchanged, then 15 % dearer", prior(cents_of(churned * MARKUP))
    yield "stale: half exchanged, then 15 % cheaper", prior(cents_of(churned / MARKUP))
    half = count // 2
    mixed = np.concatenate([rng.choice(now, half) / 100, churned[half:] * MARKUP])
    yield "stale: the exchanged half 15 % dearer", prior(cents_of(mixed))
    own = rng.lognormal(0, 0.1, count)
    yield "stale: 15 % dearer, each by its own 10 %", prior(cents_of(churned * MARKUP * own))


@dataclass(frozen=True)
class HeatMap:
    """What the old worker planned. sizes: stones that its ranges really hold."""

    calls: int
    rounds: int
    sizes: tuple[int, ...]


def heat_map(feed: Feed, workers: int) -> HeatMap:
    """The old worker's algorithm: fixed steps of 100 dollars to 20,000, then steps by density; greedy groups; chunks of
    more than 1.5 times the target cut evenly; disjoint ranges of whole dollars."""
    before = feed.calls
    chunks = [(low, low + 99, feed([Span(low, low + 99)])[0]) for low in range(0, 20_000, 100)]
    low, step = 20_000, 500
    while low < LAST_DOLLAR:
        count = feed([Span(low, low + step - 1)])[0]
        chunks.append((low, low + step - 1, count))
        low += step
        step = min(step * 5, 100_000) if count == 0 else max(200, min(50_000, step * 500 // count))
    calls = feed.calls - before
    target = math.ceil(sum(count for _, _, count in chunks) / workers)
    ranges: list[tuple[int, int]] = []
    first, held = None, 0
    for low, high, count in (piece for chunk in chunks for piece in _evenly(*chunk, target)):
        first = low if first is None else first
        held += count
        if held >= target:
            ranges.append((first, high))
            first, held = None, 0
    if first is not None:
        ranges.append((first, chunks[-1][1]))
    return HeatMap(calls, math.ceil(calls / 3), tuple(feed.count(low, high) for low, high in ranges))


def _evenly(low: int, high: int, count: int, target: int) -> list[tuple[int, int, int]]:
    if count <= 1.5 * target:
        return [(low, high, count)]
    pieces = min(math.ceil(count / target), high - low + 1)
    cuts = [low + (high - low + 1) * index // pieces for index in range(pieces + 1)]
    return [(cuts[index], cuts[index + 1] - 1, count // pieces) for index in range(pieces)]


@dataclass
class Case:
    """A row of the table: what one way to plan came to, seed by seed.

    aims: index into the aims; None: the old worker's.
    """

    name: str
    aims: int | None
    calls: list[int] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    balance: list[float] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, calls: int, rounds: int, sizes: Sequence[int], stones: int, seconds: float) -> None:
        self.calls.append(calls)
        self.rounds.append(rounds)
        self.partitions.append(len(sizes))
        self.balance.append(max(sizes) * len(sizes) / sum(sizes))
        self.lost.append(max(0, stones - sum(sizes)))
        self.seconds.append(seconds)

    @property
    def is_met(self) -> bool:
        if self.aims is None:
            return True
        worst = (max(self.calls), max(self.rounds), max(self.balance))
        aims = (AIM_CALLS[self.aims], AIM_ROUNDS[self.aims], AIM_BALANCE[self.aims])
        return max(self.lost) == 0 and all(value <= aim for value, aim in zip(worst, aims, strict=True))

    @property
    def text(self) -> str:
        return (
            f"{self.name:42}{max(self.calls):>8}{max(self.rounds):>8}{min(self.partitions):>6}"
            f"{min(self.balance):>8.2f} to {max(self.balance):.2f}{max(self.lost):>9,}{max(self.seconds):>7.2f}"
            f"{'' if self.is_met else '  MISSED'}"
        )


def measure(natural: int, labgrown: int, seeds: int) -> bool:
    """Print the tables; whether every aim was met."""
    feeds = (
        ("natural", price_shapes.natural_default(), natural, price_shapes.labgrown_default()),
        ("labgrown", price_shapes.labgrown_default(), labgrown, price_shapes.natural_default()),
    )
    for aims, name in enumerate(("with a last run's prices", "without")):
        print(
            f"\nAims {name}: {AIM_CALLS[aims]} counts in {AIM_ROUNDS[aims]} rounds, max/mean {AIM_BALANCE[aims]}, "
            "nothing lost",
            flush=True,
        )
    cases = [
        case
        for name, shape, count, other in feeds
        for is_floored in (False, True)
        for case in _table(name, shape, other, count, seeds, is_floored=is_floored)
    ]
    return all(case.is_met for case in cases)


def _table(name: str, shape: Shape, other: Shape, count: int, seeds: int, *, is_floored: bool) -> list[Case]:
    kind = "whole dollars" if is_floored else "real numbers"
    print(f"\nPlanner: {count:,} {name} stones, {PARTITIONS} partitions, {seeds} seeds, bounds are {kind}", flush=True)
    cases: dict[str, Case] = {}

    def case(title: str, aims: int | None) -> Case:
        return cases.setdefault(title, Case(title, aims))

    for seed in range(1, seeds + 1):
        rng = np.random.default_rng(seed)
        feed = Feed(drawn(shape, count, rng), is_floored)
        began = time.perf_counter()
        old = heat_map(feed, PARTITIONS)
        case("old heat map", None).add(old.calls, old.rounds, old.sizes, count, time.perf_counter() - began)
        for title, known in priors(shape, feed.cents, rng):
            _plan(case(title, 0), feed, known)
        _plan(case("published shape, first run", 1), feed, shape)
        _plan(case("shape of the other feed", 1), feed, other)
        _plan(case("nothing known", 1), feed, NOTHING_KNOWN)
    print(f"  {'worst of the seeds':42}{'counts':>8}{'rounds':>8}{'P':>6}{'max/mean':>16}{'lost':>9}{'s':>7}")
    for each in cases.values():
        print(f"  {each.text}", flush=True)
    return list(cases.values())


def _plan(case: Case, feed: Feed, shape: Shape) -> None:
    began = time.perf_counter()
    plan = make_plan(feed, shape, Wish(partitions=PARTITIONS, largest_mean=LARGEST_MEAN))
    seconds = time.perf_counter() - began
    sizes = [feed.count(each.span.low, each.span.high) for each in plan.partitions]
    case.add(plan.calls, plan.rounds, sizes, len(feed.cents), seconds)
