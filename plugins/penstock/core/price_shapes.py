"""How the prices of a feed lie: from the stones of the last run, or by what is published of such feeds."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# The natural feed by dollar_value, counted in a public scan: bucket start -> stones. Two-thirds of them cost less than
# 2,000 dollars, one in a hundred more than 50,000.
NATURAL_BUCKETS: tuple[tuple[int, int], ...] = (
    (0, 100451),
    (500, 90198),
    (1000, 48195),
    (1500, 37391),
    (2000, 25684),
    (2500, 18940),
    (3000, 13959),
    (3500, 10695),
    (4000, 8485),
    (4500, 6845),
    (5000, 5712),
    (5500, 4866),
    (6000, 4345),
    (6500, 3714),
    (7000, 3287),
    (7500, 2723),
    (8000, 2485),
    (8500, 2190),
    (9000, 2108),
    (9500, 1864),
    (10000, 6133),  # from here the scan's buckets of 500 dollars are put together by four: they fall evenly
    (12000, 4326),
    (14000, 3455),
    (16000, 2581),
    (18000, 2216),
    (20000, 3945),
    (25000, 2790),
    (30000, 1889),
    (35000, 1440),
    (40000, 1104),
    (45000, 824),
    (50000, 1074),
    (60000, 691),
    (70000, 445),
    (80000, 351),
    (90000, 247),
    (100000, 483),
    (125000, 258),
    (150000, 189),
    (175000, 90),
    (200000, 66),
    (225000, 37),
)
NATURAL_END = 250_000

# Lab-grown stones: share of the feed -> total price, from published counts by price per carat.
LABGROWN_QUANTILES: tuple[tuple[float, int], ...] = (
    (0.0, 8),
    (0.01, 30),
    (0.10, 62),
    (0.25, 101),
    (0.50, 179),
    (0.75, 331),
    (0.90, 648),
    (0.95, 1_081),
    (0.99, 2_856),
    (1.0, 250_000),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Cumulative weights at rising whole dollars; logarithmic in between.

    is_prior: the prices are those of this feed at the last run, so they may be trusted.
    """

    dollars: Sequence[int]
    weights: Sequence[float]
    is_prior: bool

    @property
    def total(self) -> float:
        return self.weights[-1]

    def below(self, dollar: float) -> float:
        """The weight of stones that cost at most so much."""
        index = bisect_right(self.dollars, dollar) - 1
        if index < 0:
            return 0.0
        if index == len(self.dollars) - 1 or self.dollars[index] == dollar:
            return self.weights[index]
        low, high = self.dollars[index], self.dollars[index + 1]
        share = plain_share(low, dollar, high)
        return self.weights[index] + share * (self.weights[index + 1] - self.weights[index])

    def share(self, after: int, dollar: int, to: int) -> float:
        """Of the stones above `after` up to `to` dollars, the share that costs at most `dollar`."""
        first, last = self.below(after), self.below(to)
        if last - first <= 0:
            return plain_share(after, dollar, to)
        return (self.below(dollar) - first) / (last - first)

    def price(self, weight: float) -> float:
        """The price that so much weight costs at most."""
        index = bisect_right(self.weights, weight)
        if index == 0:
            return float(self.dollars[0])
        if index == len(self.weights):
            return float(self.dollars[bisect_left(self.weights, self.total)])
        low, high = self.weights[index - 1], self.weights[index]
        first, last = math.log(self.dollars[index - 1] + 2), math.log(self.dollars[index] + 2)
        return math.exp(first + (last - first) * (weight - low) / (high - low)) - 2


def from_histogram(stones: Iterable[tuple[int, int]]) -> Shape:
    """The shape of a last run: (dollar, stones that cost more than dollar - 1 and at most dollar), dollars rising."""
    dollars: list[int] = []
    weights: list[float] = []
    total = 0.0
    for dollar, count in stones:
        if not dollars or dollars[-1] < dollar - 1:
            dollars.append(dollar - 1)
            weights.append(total)
        total += count
        dollars.append(dollar)
        weights.append(total)
    return Shape(dollars, weights, is_prior=True)


def natural_default() -> Shape:
    """The published counts of the natural feed."""
    starts = [start for start, _ in NATURAL_BUCKETS]
    weights = [0.0]
    for _, count in NATURAL_BUCKETS:
        weights.append(weights[-1] + count)
    # Nothing costs less than some ten dollars, and logarithms begin somewhere.
    return Shape([100, *starts[1:], NATURAL_END], weights, is_prior=False)


def labgrown_default() -> Shape:
    """The published quantiles of the lab-grown feed."""
    return Shape([price for _, price in LABGROWN_QUANTILES], [share for share, _ in LABGROWN_QUANTILES], is_prior=False)


def plain_share(after: int, dollar: float, to: int) -> float:
    """The share by the logarithm of the price."""
    first, last = math.log(after + 2), math.log(to + 2)
    return (math.log(dollar + 2) - first) / (last - first) if last > first else 0.0
