"""What a page tells of the vendor's order, beside the stones that were read above it."""

from __future__ import annotations

import random

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


PAGE = 10


def pages_downwards(listed: list[str], rng: random.Random, most_leave: int) -> list[list[str]]:
    """The pages of a list, read from its end, from which stones leave between two requests, sometimes many at once."""
    pages = []
    for offset in range(len(listed) // PAGE * PAGE, -1, -PAGE):
        pages.append(listed[offset : offset + PAGE])
        for _ in range(rng.choice([0, 0, 1, 3, most_leave])):
            if listed:
                listed.pop(rng.randrange(len(listed)))
    return pages


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("most_leave", [2, 37, 140])
def test_however_many_stones_leave_the_order_stands(most_leave: int, seed: int) -> None:
    rng = random.Random(seed)
    above: list[str] = []
    for page in pages_downwards([f"{number:04}" for number in range(1_003)], rng, most_leave):
        assert not is_unsteady(above, page)
        above = joined(above, page)
        assert above == sorted(above)


def test_two_equal_stones_that_change_places_at_a_border_are_noticed() -> None:
    assert is_unsteady(joined([], list("klmno")), list("fghkj"))
