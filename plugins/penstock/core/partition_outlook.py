"""Where to cut next: the best groups by what is known and expected of F, for a limited number of further questions.

Known points are the places where F has been asked; a cut there costs nothing. Between two of them F is an estimate.
A way through known points, each stretch between them cut into some groups of at most a cap, needs one question for
every group but the last of its stretch. The least cap is looked for under which a way is cheap enough.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

LONGEST = 8
"""Groups of a stretch at most, unless the next known point is further."""
PRECISION = 0.004
"""Of the cap, as a share of the mean group."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """From one known point to another, by their places, in so many groups."""

    first: int
    last: int
    groups: int


@dataclass
class Outlook:
    """F as it is known and expected.

    known: the dollars where it was asked, rising, both ends among them. values: F there. estimate: F anywhere.
    """

    known: Sequence[int]
    values: Sequence[int]
    estimate: Callable[[int], float]
    _cache: dict[int, float] = field(init=False, default_factory=dict)

    def cuts(self, groups: int, questions: int, enough: float) -> list[int]:
        """Cuts into at most so many groups, rising, at most so many of them unknown.

        The largest group is expected to be as small as it can be, but not smaller than `enough` times the mean: what
        would only make it smaller still is not asked.
        """
        mean = (self.values[-1] - self.values[0]) / groups
        low, high = enough * mean, float(self.values[-1] - self.values[0])
        way = self._way(low, groups, questions)
        if not way:
            way = self._way(high, groups, questions)
            while high - low > PRECISION * mean:
                cap = (low + high) / 2
                found = self._way(cap, groups, questions)
                if found:
                    way, high = found, cap
                else:
                    low = cap
        cuts: list[int] = []
        for stretch in way:
            cuts += [*self._spread(stretch), self.known[stretch.last]]
        return cuts[:-1]

    def _way(self, cap: float, groups: int, questions: int) -> list[_Stretch]:
        """The way with the fewest questions; empty when they are too many."""
        # Of each known point: groups up to there -> questions, and the stretch that ends there.
        best: list[dict[int, tuple[int, _Stretch | None]]] = [{} for _ in self.known]
        best[0][0] = (0, None)
        for first, ways in enumerate(best[:-1]):
            reached = _worthwhile(ways)
            for stretch in self._stretches(first, cap, groups) if reached else ():
                there = best[stretch.last]
                for before, asked in reached:
                    total, needed = before + stretch.groups, asked + stretch.groups - 1
                    if total > groups or needed > questions:
                        continue
                    if total not in there or needed < there[total][0]:
                        there[total] = (needed, stretch)
        if not best[-1]:
            return []
        groups = min(best[-1], key=lambda each: best[-1][each][0])
        way: list[_Stretch] = []
        place = len(self.known) - 1
        while (last := best[place][groups][1]) is not None:
            way.append(last)
            place, groups = last.first, groups - last.groups
        return way[::-1]

    def _stretches(self, first: int, cap: float, groups: int) -> list[_Stretch]:
        """To the known points behind this one, in the fewest groups not expected above the cap, unless one is a
        single dollar."""
        found: list[_Stretch] = []
        after, last = self.known[first], first + 1
        for number in range(1, groups + 1):
            after = self._furthest(after, cap)
            while last < len(self.known) and self.known[last] <= after:
                found.append(_Stretch(first, last, number))
                last += 1
            if last == len(self.known) or (found and number >= LONGEST):
                break
        return found

    def _spread(self, stretch: _Stretch) -> list[int]:
        """The cuts inside a stretch that make its largest group smallest."""
        start, end = self.known[stretch.first], self.known[stretch.last]
        stones = float(self.values[stretch.last] - self.values[stretch.first])
        low, high = stones / stretch.groups, stones
        cuts: list[int] = []
        while high - low > PRECISION * stones / stretch.groups:
            cap = (low + high) / 2
            found: list[int] = []
            after = self._furthest(start, cap)
            while after < end and len(found) < stretch.groups:
                found.append(after)
                after = self._furthest(after, cap)
            if len(found) < stretch.groups:
                cuts, high = found, cap
            else:
                low = cap
        return cuts

    def _furthest(self, after: int, cap: float) -> int:
        """The highest dollar up to which a group from there is not expected above the cap; at least the next one."""
        limit = self._at(after) + cap
        place = bisect_right(self.values, limit)
        if place == len(self.values):
            return self.known[-1]
        low, high = max(after + 1, self.known[place - 1]), self.known[place] - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._at(middle) <= limit:
                low = middle
            else:
                high = middle - 1
        return low

    def _at(self, dollar: int) -> float:
        found = self._cache.get(dollar)
        if found is None:
            found = self._cache[dollar] = self.estimate(dollar)
        return found


def _worthwhile(ways: Mapping[int, tuple[int, _Stretch | None]]) -> list[tuple[int, int]]:
    """Groups and questions of the ways to a point that have fewer groups, or fewer questions, than any other."""
    found: list[tuple[int, int]] = []
    for groups in sorted(ways):
        questions = ways[groups][0]
        if not found or questions < found[-1][1]:
            found.append((groups, questions))
    return found
