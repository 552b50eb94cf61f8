"""How many partitions a plan has, and how counts are grouped into them. Whole plans: tests/properties."""

from __future__ import annotations

import pytest

from penstock.core.partition_groups import grouped, smallest_cap
from penstock.core.partitions import TOP, Wish, number_of_partitions


@pytest.mark.parametrize(
    ("stones", "wish", "expected"),
    [
        (1_000, Wish(), 1),
        (53_940, Wish(), 7),
        (53_940, Wish(concurrency=4), 8),
        (500_000, Wish(concurrency=8), 64),
        (2_000_000, Wish(), 80),
        (2_000_000, Wish(partitions=60), 80),
        (2_000_000, Wish(partitions=60, largest_mean=40_000), 60),
    ],
)
def test_how_many_partitions(stones: int, wish: Wish, expected: int) -> None:
    assert number_of_partitions(stones, wish) == expected


def test_the_merge_is_the_best_there_is() -> None:
    counts = [5, 1, 1, 7, 3, 3, 2]
    cap = smallest_cap([counts], 3)
    assert cap == 8
    assert [sum(group) for group in grouped(counts, int, cap)] == [7, 7, 8]


def test_top_fits_a_graphql_int() -> None:
    assert TOP < 2**31
