"""Where to cut next, where F is known in some places and grows evenly between them."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

import pytest

from penstock.core.partition_outlook import Outlook

ENDS = {-1: 0, 999: 1_000}
"""One stone a dollar."""


def outlook(known: dict[int, int]) -> Outlook:
    dollars = sorted(known)

    def estimate(dollar: int) -> float:
        above = bisect_left(dollars, dollar)
        if dollars[above] == dollar:
            return float(known[dollar])
        low, high = dollars[above - 1], dollars[above]
        return known[low] + (dollar - low) / (high - low) * (known[high] - known[low])

    return Outlook(dollars, [known[dollar] for dollar in dollars], estimate)


def sizes(cuts: list[int]) -> list[int]:
    return [high - low for low, high in pairwise([-1, *cuts, 999])]


def test_with_enough_questions_all_groups_are_equal() -> None:
    assert sizes(outlook(ENDS).cuts(10, 9, enough=1.0)) == [100] * 10


def test_with_fewer_questions_there_are_fewer_groups() -> None:
    cuts = outlook(ENDS).cuts(10, 3, enough=1.0)
    assert len(cuts) == 3
    assert max(sizes(cuts)) <= 251


def test_known_points_are_cuts_that_cost_nothing() -> None:
    known = {**ENDS, 240: 241, 510: 511, 760: 761}
    assert outlook(known).cuts(4, 0, enough=1.0) == [240, 510, 760]


def test_a_known_point_that_fits_badly_is_passed_over() -> None:
    known = {**ENDS, 260: 261, 499: 500}
    cuts = outlook(known).cuts(2, 5, enough=1.0)
    assert cuts == [499]


@pytest.mark.parametrize(("enough", "asked"), [(1.0, 3), (1.2, 2)])
def test_no_question_is_asked_for_what_is_even_enough(enough: float, asked: int) -> None:
    known = {**ENDS, 289: 290}
    cuts = outlook(known).cuts(4, 3, enough)
    assert len(set(cuts) - known.keys()) == asked
    assert max(sizes(cuts)) <= enough * 250 + 1


def test_a_single_dollar_may_be_larger_than_any_group() -> None:
    known = {-1: 0, 499: 250, 500: 9_250, 999: 9_500}
    cuts = outlook(known).cuts(4, 3, enough=1.0)
    assert {499, 500} <= set(cuts)
