"""The planner beside the old worker's heat map, on simulated stock: counts, rounds, balance, stones not covered."""

from __future__ import annotations

import array
import bisect
import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from penstock.core import price_shapes
from penstock.core.partitions import Plan, Span, Wish, make_plan
from penstock.core.price_shapes import Shape

PARTITIONS = 60
LARGEST_MEAN = 40_000  # lifted for two million stones in sixty partitions
AIM_CALLS, AIM_ROUNDS, AIM_BALANCE = (65, 90), (3, 6), (1.25, 1.55)
"""With the last run's prices, and without."""
MARKUP = 1.15
LAST_DOLLAR = 250_000


@dataclass
class Feed:
    """Sorted prices in cents, counted as the vendor does."""

    cents: array.array[int]
    is_floored: bool
    calls: int = 0

    def __call__(self, spans: Sequence[Span]) -> list[int]:
        self.calls += len(spans)
        return [self.count(span.low, span.high) for span in spans]

    def count(self, low: int | None, high: int | None) -> int:
        if low is None or high is None:
            return len(self.cents)
        first = bisect.bisect_left(self.cents, low * 100)
        last = bisect.bisect_right(self.cents, high * 100 + (99 if self.is_floored else 0))
        return max(0, last - first)


def drawn(shape: Shape, count: int, seed: int) -> array.array[int]:
    rng = random.Random(seed)
    total = shape.total
    return array.array("q", sorted(round(100 * shape.price(rng.random() * total)) for _ in range(count)))


def prior(cents: Iterable[int]) -> Shape:
    """The shape of a last run with these prices."""
    counts: dict[int, int] = {}
    for each in cents:
        dollar = -(-each // 100)
        counts[dollar] = counts.get(dollar, 0) + 1
    return price_shapes.from_histogram(sorted(counts.items()))


def stale(cents: array.array[int], seed: int) -> list[int]:
    """Half of the stones exchanged, all 15 % dearer."""
    rng = random.Random(seed)
    return [round(rng.choice(cents) * MARKUP) for _ in cents]


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


def measure(natural: int, labgrown: int) -> bool:
    """Print the table; whether every aim was met."""
    is_met = True
    for name, shape, count, other in (
        ("natural", price_shapes.natural_default(), natural, price_shapes.labgrown_default()),
        ("labgrown", price_shapes.labgrown_default(), labgrown, price_shapes.natural_default()),
    ):
        for is_floored in (False, True):
            kind = "whole dollars" if is_floored else "real numbers"
            print(f"\nPlanner: {count:,} {name} stones, {PARTITIONS} partitions, bounds are {kind}", flush=True)
            feed = Feed(drawn(shape, count, 1), is_floored)
            earlier = drawn(shape, count, 2)
            print(f"  {'':34}{'counts':>8}{'rounds':>8}{'P':>5}{'max/mean':>10}{'max/ideal':>11}{'lost':>9}{'s':>7}")
            old = heat_map(feed, PARTITIONS)
            _row("old heat map", old.calls, old.rounds, old.sizes, count, 0.0)
            is_met &= _ours("last run's prices", feed, prior(earlier), aims=0)
            _ours("stale: half exchanged, +15 %", feed, prior(stale(earlier, 3)), aims=None)
            is_met &= _ours("published shape, first run", feed, shape, aims=1)
            _ours("shape of the other feed", feed, other, aims=None)
            _ours("nothing known", feed, Shape([10, LAST_DOLLAR], [0.0, 1.0], is_prior=False), aims=None)
    return is_met


def _ours(name: str, feed: Feed, shape: Shape, aims: int | None) -> bool:
    began = time.perf_counter()
    plan = make_plan(feed, shape, Wish(partitions=PARTITIONS, largest_mean=LARGEST_MEAN))
    seconds = time.perf_counter() - began
    sizes = tuple(feed.count(each.span.low, each.span.high) for each in plan.partitions)
    _row(name, plan.calls, plan.rounds, sizes, len(feed.cents), seconds)
    return aims is None or _meets(plan, aims)


def _meets(plan: Plan, aims: int) -> bool:
    is_met = plan.calls <= AIM_CALLS[aims] and plan.rounds <= AIM_ROUNDS[aims] and plan.imbalance <= AIM_BALANCE[aims]
    if not is_met:
        print(f"  MISSED aim: {AIM_CALLS[aims]} counts, {AIM_ROUNDS[aims]} rounds, max/mean {AIM_BALANCE[aims]}")
    return is_met


def _row(name: str, calls: int, rounds: int, sizes: Sequence[int], stones: int, seconds: float) -> None:
    largest, mean = max(sizes), sum(sizes) / len(sizes)
    lost = max(0, stones - sum(sizes))
    print(
        f"  {name:34}{calls:>8}{rounds:>8}{len(sizes):>5}{largest / mean:>10.2f}{largest * PARTITIONS / stones:>11.2f}"
        f"{lost:>9,}{seconds:>7.2f}",
        flush=True,
    )
