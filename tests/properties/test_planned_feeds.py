"""The planner, on simulated feeds: sorted prices in cents, counted as the vendor would."""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from penstock.core import price_shapes
from penstock.core.partitions import WHOLE, Plan, Span, Wish, make_plan
from penstock.core.price_shapes import Shape

NATURAL, LABGROWN = price_shapes.natural_default(), price_shapes.labgrown_default()
NOTHING_KNOWN = Shape([10, 250_000], [0.0, 1.0], is_prior=False)


@dataclass
class Feed:
    """Stones as (cents, hundredths of a carat), and how the vendor reads bounds."""

    stones: list[tuple[int, int]]
    is_floored: bool = False
    invisible: int = 0
    asked: list[Span] = field(default_factory=list)
    rounds: int = 0

    def __post_init__(self) -> None:
        self.stones.sort()
        self.cents = [cents for cents, _ in self.stones]

    def held(self, span: Span) -> list[tuple[int, int]]:
        if span.low is None or span.high is None:
            return self.stones
        low = bisect.bisect_left(self.cents, span.low * 100)
        high = bisect.bisect_right(self.cents, span.high * 100 + (99 if self.is_floored else 0))
        found = self.stones[low:high]
        if span.carats is None:
            return found
        first, last = span.carats
        return [stone for stone in found if first <= stone[1] / 100 <= last]

    def __call__(self, spans: Sequence[Span]) -> list[int]:
        self.asked += spans
        self.rounds += 1
        return [len(self.held(span)) + (self.invisible if span == WHOLE else 0) for span in spans]

    def plan(self, shape: Shape, wish: Wish | None = None) -> Plan:
        return make_plan(self, shape, wish)

    def prior(self) -> Shape:
        counts: dict[int, int] = {}
        for cents in self.cents:
            dollar = -(-cents // 100)
            counts[dollar] = counts.get(dollar, 0) + 1
        return price_shapes.from_histogram(sorted(counts.items()))


def drawn(shape: Shape, count: int, seed: int) -> list[tuple[int, int]]:
    """Stones whose prices lie as the shape says."""
    rng = random.Random(seed)
    prices = [shape.price(rng.random() * shape.total) for _ in range(count)]
    return [(round(price * 100), rng.randint(30, 300)) for price in prices]


SHAPES = {"natural": NATURAL, "labgrown": LABGROWN}
FEEDS = {name: Feed(drawn(shape, 30_000, 1)) for name, shape in SHAPES.items()}
LATER_FEEDS = {name: Feed(drawn(shape, 30_000, 2)) for name, shape in SHAPES.items()}
SIXTY = Wish(partitions=60)


def read(feed: Feed, plan: Plan) -> list[tuple[int, int]]:
    return [stone for partition in plan.partitions for stone in feed.held(partition.span)]


@pytest.mark.parametrize("is_floored", [False, True])
@pytest.mark.parametrize("name", FEEDS)
def test_every_stone_lies_in_a_partition_whether_bounds_are_real_or_floored(name: str, is_floored: bool) -> None:
    feed = Feed(list(FEEDS[name].stones), is_floored)
    plan = feed.plan(feed.prior(), SIXTY)
    assert set(read(feed, plan)) == set(feed.stones)
    assert plan.expected == plan.covered == len(feed.stones)
    if not plan.is_touching:
        assert len(read(feed, plan)) == len(feed.stones)


def test_borders_are_probed_where_most_stones_lie() -> None:
    dense = [(cents, 100) for cents in range(50_000, 70_000)]
    assert not Feed(dense, is_floored=True).plan(NATURAL, Wish(partitions=4)).is_touching
    assert Feed(dense, is_floored=False).plan(NATURAL, Wish(partitions=4)).is_touching
    # With few stones an empty gap proves nothing.
    sparse = [(cents, 100) for cents in range(50_000, 5_000_000, 1_000)]
    assert Feed(sparse, is_floored=True).plan(NATURAL, Wish(partitions=4)).is_touching


@pytest.mark.parametrize("name", FEEDS)
def test_with_last_runs_prices_some_sixty_counts_in_three_rounds_are_enough(name: str) -> None:
    feed = LATER_FEEDS[name]
    plan = feed.plan(FEEDS[name].prior(), SIXTY)
    assert len(plan.partitions) == 60
    assert plan.calls <= 65
    assert plan.rounds <= 3
    assert plan.imbalance <= 1.25


@pytest.mark.parametrize("shape", [NATURAL, LABGROWN, NOTHING_KNOWN], ids=["natural", "labgrown", "nothing"])
@pytest.mark.parametrize("name", FEEDS)
def test_without_them_ninety_counts_in_six_rounds_are(name: str, shape: Shape) -> None:
    feed = LATER_FEEDS[name]
    plan = feed.plan(shape, SIXTY)
    assert plan.calls <= 90
    assert plan.rounds <= 6
    assert max(each.expected for each in plan.partitions) <= 1.55 * plan.covered / 60


def exchanged(cents: list[int], rng: random.Random) -> list[int]:
    """Half of the stones are new, and all 15 % dearer."""
    return [round(rng.choice(cents) * 1.15) for _ in cents]


def half_exchanged(cents: list[int], rng: random.Random) -> list[int]:
    """Half of the stones are new, and these 15 % dearer."""
    return [round(price * 1.15) if rng.random() < 0.5 else price for price in cents]


def scattered(cents: list[int], rng: random.Random) -> list[int]:
    """All are dearer, each by its own percentage."""
    return [round(price * 1.15 * rng.lognormvariate(0, 0.1)) for price in cents]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("moved", [exchanged, half_exchanged, scattered])
@pytest.mark.parametrize("name", SHAPES)
def test_prices_that_have_moved_since_the_last_run_are_followed(
    name: str, moved: Callable[[list[int], random.Random], list[int]], seed: int
) -> None:
    earlier = Feed(drawn(SHAPES[name], 60_000, seed))
    rng = random.Random(seed)
    feed = Feed([(cents, 100) for cents in moved(earlier.cents, rng)])
    plan = feed.plan(earlier.prior(), SIXTY)
    assert plan.calls <= 65
    assert plan.rounds <= 3
    assert plan.imbalance <= 1.25
    assert set(read(feed, plan)) == set(feed.stones)


@pytest.mark.parametrize("is_floored", [False, True])
def test_many_stones_below_one_dollar_are_planned_as_well(is_floored: bool) -> None:
    crowd = [(50, carats) for carats in range(30, 300)] * 20
    others = drawn(LABGROWN, 6_000, 9)
    feed = Feed(crowd + [(round(cents * 1.15), carats) for cents, carats in others], is_floored)
    plan = feed.plan(Feed(crowd + others).prior(), Wish(partitions=20))
    assert set(read(feed, plan)) == set(feed.stones)
    assert any(partition.span.carats for partition in plan.partitions)


@pytest.mark.parametrize("partitions", [1, 2, 3, 4, 7, 20, 200])
def test_any_number_of_partitions_can_be_asked_for(partitions: int) -> None:
    feed = FEEDS["natural"]
    plan = feed.plan(LATER_FEEDS["natural"].prior(), Wish(partitions=partitions, largest_mean=40_000))
    assert 0.9 * partitions <= len(plan.partitions) <= partitions
    assert plan.imbalance <= 1.5
    assert set(read(feed, plan)) == set(feed.stones)


def test_few_stones_are_one_partition_and_cost_no_further_question() -> None:
    feed = Feed(drawn(NATURAL, 1_500, 5))
    plan = feed.plan(NATURAL)
    assert [partition.span for partition in plan.partitions] == [WHOLE]
    assert len(feed.asked) == 2
    assert plan.calls == 0


def test_a_price_range_without_stones_is_no_partition() -> None:
    assert FEEDS["natural"].plan(NATURAL, Wish(low=1_000_000, high=1_000_010)).partitions == ()


def test_no_stones_are_no_partitions() -> None:
    assert Feed([]).plan(NATURAL).partitions == ()


def test_a_price_range_is_cut_inside_its_bounds() -> None:
    feed = FEEDS["natural"]
    plan = feed.plan(NATURAL, Wish(partitions=5, low=1_000, high=4_000))
    assert plan.partitions[0].span.low == 1_000
    assert plan.partitions[-1].span.high == 4_000
    assert set(read(feed, plan)) == {stone for stone in feed.stones if 100_000 <= stone[0] <= 400_000}


@pytest.mark.parametrize("is_floored", [False, True])
def test_a_dollar_with_too_many_stones_is_cut_by_carats(is_floored: bool) -> None:
    rng = random.Random(6)
    crowd = [(10_000, rng.randint(30, 300)) for _ in range(6_000)]
    feed = Feed(drawn(NATURAL, 6_000, 7) + crowd, is_floored)
    plan = feed.plan(NATURAL, Wish(partitions=12))
    assert set(read(feed, plan)) == set(feed.stones)
    by_size = [partition for partition in plan.partitions if partition.span.carats]
    assert len(by_size) > 3
    assert max(partition.expected for partition in plan.partitions) <= 1.6 * len(feed.stones) / 12


def test_counts_that_fall_are_asked_again_and_never_make_a_partition_negative() -> None:
    class Moving(Feed):
        def __call__(self, spans: Sequence[Span]) -> list[int]:
            found = super().__call__(spans)
            return [max(0, count - random.Random(count).randint(0, 400)) for count in found]

    feed = Moving(drawn(NATURAL, 20_000, 8))
    plan = feed.plan(NATURAL, Wish(partitions=20))
    assert all(partition.expected >= 0 for partition in plan.partitions)
    assert set(read(feed, plan)) == set(feed.stones)


def test_the_coverage_tells_of_stones_that_no_price_filter_finds() -> None:
    feed = Feed(list(FEEDS["natural"].stones), invisible=1_500)
    plan = feed.plan(NATURAL, SIXTY)
    assert plan.coverage == pytest.approx(30_000 / 31_500)
