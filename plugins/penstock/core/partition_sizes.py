"""One dollar with too many stones, cut by carats: two rounds of cumulative counts over the sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from penstock.core.partition_groups import grouped, smallest_cap

LOW, TOP = 0.0, 1_000.0
"""All carats."""
STEP = 0.01
SMALLEST, SPREAD = 0.2, 25.0
"""The first round looks from 0.2 to 5 carats, where nearly all stones are."""
FIRST_CUTS = 15

Band = tuple[tuple[float, float], int]
"""Carats from and to, and their stones."""

UpTo = Callable[[Sequence[float]], Sequence[int]]
"""One round: the stones of at most so many carats."""


def split_by_size(up_to: UpTo, stones: int, ideal: float) -> list[Band]:
    """Bands of about `ideal` stones. Cuts lie between the hundredths in which carats are told, and the bands touch: a
    size that is told more finely falls into two of them rather than into none."""
    known = {LOW: 0, TOP: stones}
    pieces = math.ceil(stones / ideal)
    _ask(up_to, known, [SMALLEST * SPREAD ** (index / FIRST_CUTS) for index in range(FIRST_CUTS)])
    _ask(up_to, known, [_size_at(known, stones * index / pieces) for index in range(1, pieces)])
    bands = [((low, high), known[high] - known[low]) for low, high in pairwise(sorted(known))]
    cap = smallest_cap([[count for _, count in bands]], pieces)
    return [
        ((group[0][0][0], group[-1][0][1]), sum(count for _, count in group))
        for group in grouped(bands, lambda band: band[1], cap)
    ]


def _ask(up_to: UpTo, known: dict[float, int], sizes: Sequence[float]) -> None:
    cuts = sorted({_between_steps(size) for size in sizes} - known.keys())
    if not cuts:
        return
    known.update(zip(cuts, up_to(cuts), strict=True))
    highest = 0
    for cut in sorted(known):  # ranges that touch count stones of the dollar below as well
        highest = known[cut] = min(max(highest, known[cut]), known[TOP])


def _between_steps(size: float) -> float:
    return round((math.floor(size / STEP) + 0.5) * STEP, 3)


def _size_at(known: dict[float, int], stones: float) -> float:
    """The size below which so many stones are expected: linear between the known ones."""
    for low, high in pairwise(sorted(known)):
        inside = known[high] - known[low]
        if inside and known[low] + inside >= stones:
            return low + (high - low) * (stones - known[low]) / inside
    return TOP
