"""Pages of a list that shrinks while it is read downwards."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.jobs.nivoda_ingestion.pages import is_unsteady, joined

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


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), most_leave=st.sampled_from([2, 37, 140]), stones=st.integers(0, 1_003))
def test_however_many_stones_leave_the_order_stands(seed: int, most_leave: int, stones: int) -> None:
    above: list[str] = []
    for page in pages_downwards([f"{number:04}" for number in range(stones)], random.Random(seed), most_leave):
        assert not is_unsteady(above, page)
        above = joined(above, page)
        assert above == sorted(above)
