"""Neighbouring counts put together into few groups whose largest is as small as can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Counted = TypeVar("Counted")


def grouped(pieces: Sequence[Counted], count: Callable[[Counted], int], cap: int) -> list[list[Counted]]:
    """Neighbours in groups of at most `cap`; a piece that is larger by itself stands alone."""
    groups: list[list[Counted]] = []
    size = 0
    for piece in pieces:
        if groups and size + count(piece) <= cap:
            groups[-1].append(piece)
            size += count(piece)
        else:
            groups.append([piece])
            size = count(piece)
    return groups


def smallest_cap(runs: Sequence[Sequence[int]], groups: int) -> int:
    """The least size of the largest group when each run of counts is put together into `groups` groups in all."""
    low = max((count for run in runs for count in run), default=0)
    high = max(sum(sum(run) for run in runs), low)
    while low < high:
        middle = (low + high) // 2
        if sum(groups_needed(run, middle) for run in runs) <= groups:
            high = middle
        else:
            low = middle + 1
    return low


def groups_needed(counts: Sequence[int], cap: int) -> int:
    """How many groups of at most `cap` a run of counts makes."""
    needed, size = 1, 0
    for count in counts:
        if size + count > cap:
            needed += 1
            size = 0
        size += count
    return needed
