"""What a page tells of the vendor's order, beside the stones that were read above it."""

from __future__ import annotations

import pytest

from penstock.jobs.nivoda_ingestion.pages import is_unsteady, joined

ABOVE = list("fghijklmno")


@pytest.mark.parametrize(
    ("below", "why"),
    [
        ("abcde", "nothing moved"),
        ("bcdef", "one left below"),
        ("defgh", "three left"),
        ("cdegh", "and one of those that were read"),
        ("fghij", "a whole page left"),
        ("hijkl", "more than a page left"),
    ],
)
def test_stones_that_leave_bring_the_first_of_the_page_above_back_at_the_end(below: str, why: str) -> None:
    assert not is_unsteady(ABOVE, list(below)), why


@pytest.mark.parametrize(
    ("below", "why"),
    [
        ("abgcd", "in the middle"),
        ("fabcd", "at the beginning"),
        ("abcgf", "in another order"),
        ("abfcg", "not side by side"),
    ],
)
def test_no_other_stones_come_back_in_an_order_that_stands(below: str, why: str) -> None:
    assert is_unsteady(ABOVE, list(below)), why


def test_the_first_page_tells_nothing() -> None:
    assert not is_unsteady([], ABOVE)


def test_two_equal_stones_that_change_places_at_a_border_are_noticed() -> None:
    assert is_unsteady(joined([], list("klmno")), list("fghkj"))
