"""Cuts a feed of priced stones into partitions of nearly equal size, with as few counts as possible.

Everything rests on F(x), the number of stones that cost at most x dollars: it only grows, so a plan made of it has no
gaps, and P partitions need no more than P - 1 questions when last run's prices say where to ask. Questions go out in
rounds; those of one round are independent and may be asked side by side.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from penstock.core.partition_groups import grouped, smallest_cap
from penstock.core.partition_outlook import Outlook
from penstock.core.partition_sizes import split_by_size
from penstock.core.price_shapes import Shape, plain_share

TOP = 2_000_000_000
"""The highest bound asked for, in dollars: IntRange bounds are GraphQL Ints, 32 bits with a sign."""

TARGET = 8_000
LARGEST_MEAN = 25_000
"""Half of the vendor's largest offset, so that a feed that grew since the plan still fits."""
MOST_PARTITIONS = 64
SINGLE = 2_000
"""So few stones are read in one piece: a plan would cost more than it saves."""

TOLERANCE = 1.25
"""One dollar's stones above so many times the ideal size are cut by carats."""
CONTENT = 1.15
"""With the largest group no larger than so many times the ideal size nothing more is asked."""
TOO_LARGE = 1.55
"""Above so many times the ideal size no interval is left that can be cut, whatever number of questions it takes."""
COARSE_CUTS = (6, 8)
"""Questions of the first rounds, which find out how far the shape can be trusted."""
MISFIT = 0.3
"""A shape further off than this share of a partition is taken to have moved along the prices."""
STAGE = 3
"""Every third cut is asked first: what these tell says where the two between belong."""
EVEN = 1.04
"""No question is asked to make the largest group smaller than so many times the ideal size: estimates are no better."""
UNRESERVED = 0.94
"""The share of the questions that may be gone before all cuts are known; the others mend what was misjudged."""
MOST_COUNTS, MOST_ROUNDS = 90, 6
MOST_COUNTS_WITH_PRIOR, MOST_ROUNDS_WITH_PRIOR = 65, 3

PROOF_STONES = 10.0
"""Stones that the probed one-dollar gap is expected to hold before its emptiness proves anything."""


@dataclass(frozen=True, slots=True)
class Span:
    """A filter as the vendor takes it, both bounds included.

    low, high: whole dollars of the key field; None: no filter on it. carats: sizes, if they are filtered too.
    """

    low: int | None
    high: int | None
    carats: tuple[float, float] | None = None


WHOLE = Span(None, None)
Counts = Callable[[Sequence[Span]], Sequence[int]]
"""One round: the stones in each of these spans, asked in any order and side by side."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A span and the stones it is expected to hold (by F, so that no stone is expected twice)."""

    span: Span
    expected: int


@dataclass(frozen=True, slots=True)
class Wish:
    """What the plan is to look like.

    partitions: how many; None: by the number of stones. concurrency: readers at work at the same time; the number of
    partitions is a multiple of it. low, high: only this price range, whole dollars, both included.
    """

    partitions: int | None = None
    concurrency: int = 1
    target: int = TARGET
    largest_mean: int = LARGEST_MEAN
    low: int = 0
    high: int = TOP
    single: int = SINGLE

    @property
    def is_whole(self) -> bool:
        return self.low == 0 and self.high == TOP


@dataclass(frozen=True, slots=True)
class Plan:
    """partitions: disjoint, or touching in one dollar (`is_touching`), cheapest first.

    total: stones without a price filter. covered: those that the price filter finds. calls, rounds: counts asked,
    without the two totals and the probe.
    """

    partitions: tuple[Partition, ...]
    total: int
    covered: int
    is_touching: bool
    calls: int
    rounds: int

    @property
    def coverage(self) -> float:
        """The share of the stones that the price filter finds."""
        return self.covered / self.total if self.total else 1.0

    @property
    def expected(self) -> int:
        return sum(partition.expected for partition in self.partitions)

    @property
    def imbalance(self) -> float:
        """Largest partition by mean partition; 1 is perfect."""
        if not self.expected:
            return 1.0
        return max(each.expected for each in self.partitions) * len(self.partitions) / self.expected


def make_plan(counts: Counts, shape: Shape, wish: Wish | None = None) -> Plan:
    """Ask as little as possible and cut the feed.

    Parameters
    ----------
    counts: asks the vendor one round of questions.
    shape: where the prices lie, from the last run or by default.
    """
    wish = wish or Wish()
    total, covered = counts([WHOLE, Span(wish.low, wish.high)])
    if covered == 0 or (wish.partitions is None and total <= wish.single):
        span = WHOLE if wish.is_whole else Span(wish.low, wish.high)
        expected = total if wish.is_whole else covered
        partitions = (Partition(span, expected),) if expected else ()
        return Plan(partitions, total, covered, is_touching=False, calls=0, rounds=0)
    return _Search(counts, shape, wish, covered).plan(total)


def number_of_partitions(stones: int, wish: Wish) -> int:
    """As many as asked for, else by size: multiples of the readers, means no larger than `largest_mean`."""
    wanted = wish.partitions or min(max(math.ceil(stones / wish.target), 1), MOST_PARTITIONS)
    wanted = max(wanted, math.ceil(stones / wish.largest_mean), 1)
    if wish.partitions is None and wanted > wish.concurrency:
        wanted = math.ceil(wanted / wish.concurrency) * wish.concurrency
    return wanted


@dataclass
class _Search:
    """One search for cuts. `known` maps a dollar x to F(x); the first key is the dollar below the range."""

    counts: Counts
    shape: Shape
    wish: Wish
    covered: int
    known: dict[int, int] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    calls: int = 0
    rounds: int = 0
    is_touching: bool = True
    is_moved: bool = False
    is_misled: bool = False

    def plan(self, total: int) -> Plan:
        groups = number_of_partitions(self.covered, self.wish)
        self._learn({self.wish.low - 1: 0, self.wish.high: self.covered})
        if groups > 1:
            self._search(groups)
        ideal = self.covered / groups
        atoms = {piece.to: self._split_by_size(piece, ideal) for piece in self._pieces() if self._is_atom(piece, ideal)}
        partitions = self._merged(atoms, groups)
        return Plan(tuple(partitions), total, self.covered, self.is_touching, self.calls, self.rounds)

    # -- where to ask

    def _search(self, groups: int) -> None:
        has_prior = self.shape.is_prior
        most_calls = MOST_COUNTS_WITH_PRIOR if has_prior else MOST_COUNTS
        most_rounds = MOST_ROUNDS_WITH_PRIOR if has_prior else MOST_ROUNDS
        # Budgets are stated for 60 partitions; a plan of more may ask in proportion.
        most_calls = max(most_calls, math.ceil(most_calls * groups / 60))
        for number in () if has_prior else COARSE_CUTS:
            if groups > 2 * number:
                self._ask(self._cuts(number + 1, number), groups)
        if groups > 2 * STAGE:
            self._ask(self._cuts(groups, most_calls)[STAGE - 1 :: STAGE], groups)
        self._ask(self._cuts(groups, int(UNRESERVED * most_calls) - self.calls), groups, probe=True)
        while self.rounds < most_rounds and self.calls < most_calls:
            if self._cap(groups) <= CONTENT * self.covered / groups:
                return
            cuts = self._cuts(groups, most_calls - self.calls)
            if self.known.keys() >= set(cuts):
                break
            self._ask(cuts, groups)
        self.is_misled = True
        while self._has_too_large(groups):
            cuts = self._cuts(groups, groups)
            if self.known.keys() >= set(cuts):
                return
            self._ask(cuts, groups)

    def _ask(self, cuts: Sequence[int], groups: int, *, probe: bool = False) -> None:
        """One round: F at the cuts, and where `probe` the stones above the densest of them."""
        new = sorted(set(cuts) - self.known.keys())
        probed = self._densest(cuts) if probe and cuts else None
        spans = [Span(self.wish.low, cut) for cut in new]
        above = [] if probed is None else [Span(probed + 1, self.wish.high)]
        answers = self.counts([*spans, *above])
        self.calls += len(spans)
        self.rounds += 1
        self._learn(dict(zip(new, answers, strict=False)))
        self.is_moved = self._has_moved(groups)
        if probed is not None:
            self._judge_borders(probed, answers[-1])

    def _learn(self, answers: dict[int, int]) -> None:
        """Take the answers in. F cannot fall: what contradicts a lower bound was changed while we asked, and is asked
        once more; after that the data are moving and the higher answer counts."""
        self.known.update(answers)
        self.cuts = sorted(self.known)
        falling = self._falling()
        again = [cut for cut in falling if cut in answers]
        if again:
            repeated = self.counts([Span(self.wish.low, cut) for cut in again])
            self.calls += len(again)
            self.known.update(zip(again, repeated, strict=True))
        highest = 0
        for cut in self.cuts:
            highest = self.known[cut] = min(max(highest, self.known[cut]), self.covered)

    def _falling(self) -> list[int]:
        return [cut for before, cut in pairwise(self.cuts) if self.known[cut] < self.known[before]]

    def _judge_borders(self, cut: int, above: int) -> None:
        """Whether bounds are whole dollars to the vendor. Stones between `cut` and `cut + 1` are in neither count when
        bounds are real numbers; none missing proves the contrary only where some are expected."""
        expected = self._estimate(cut + 1) - self._estimate(cut)
        loses_nothing = self.known[cut] + above == self.covered
        self.is_touching = not (loses_nothing and expected >= PROOF_STONES)

    def _densest(self, cuts: Sequence[int]) -> int:
        """The cut near which most stones per dollar are expected."""
        return max(cuts, key=lambda cut: self._estimate(cut + 1) - self._estimate(cut))

    # -- what is expected between known points

    def _estimate(self, dollar: int) -> float:
        """F at `dollar`: known, or read off the shape between the known points around it."""
        if dollar in self.known:
            return float(self.known[dollar])
        place = bisect_left(self.cuts, dollar)
        below, above = self.cuts[place - 1], self.cuts[place]
        share = self.shape.share(below, dollar, above)
        if self.is_misled:
            share = plain_share(below, dollar, above)
        elif self.is_moved:
            moved = self._moved_share(below, dollar, above)
            # Last run's stones changed their prices; a foreign shape may differ in any way.
            share = moved if self.shape.is_prior else (share + moved) / 2
        return self.known[below] + share * (self.known[above] - self.known[below])

    def _moved_share(self, below: int, dollar: int, above: int) -> float:
        """The share as `Shape.share`, of a shape whose prices have moved: known points say how far, by the price that
        the shape has at their place in the order. Beyond the outermost ones everything moved as far as these."""
        first, last = self._origin(below), self._origin(above)
        if below == self.cuts[0]:
            price = dollar * last / max(above, 1) if above < self.cuts[-1] else float(dollar)
        elif above == self.cuts[-1]:
            price = dollar * first / max(below, 1)
        else:
            # How far they moved changes slowly along the prices; the prices themselves need not be interpolated.
            way = plain_share(below, dollar, above)
            price = dollar * (first / max(below, 1)) ** (1 - way) * (last / above) ** way
        low, high = self.shape.below(first), self.shape.below(last)
        if high <= low:
            return self.shape.share(below, dollar, above)
        return min(max((self.shape.below(price) - low) / (high - low), 0.0), 1.0)

    def _origin(self, cut: int) -> float:
        return max(self.shape.price(self.known[cut] / self.covered * self.shape.total), 1.0)

    def _has_moved(self, groups: int) -> bool:
        """Whether a known point is further from where the shape has it than the partitions can bear."""
        if not self.shape.total or not self.wish.is_whole:
            return False  # the shape is that of the whole feed
        return any(
            abs(count / self.covered - self.shape.below(cut) / self.shape.total) > MISFIT / groups
            for cut, count in self.known.items()
        )

    def _cuts(self, groups: int, questions: int) -> list[int]:
        """The cuts into so many groups whose largest is expected to be smallest, known points among them; at most so
        many are new."""
        outlook = Outlook(self.cuts, [self.known[cut] for cut in self.cuts], self._estimate)
        return outlook.cuts(groups, max(questions, 0), EVEN)

    # -- from known points to partitions

    def _pieces(self) -> list[_Piece]:
        return [_Piece(after, to, self.known[to] - self.known[after]) for after, to in pairwise(self.cuts)]

    def _cap(self, groups: int) -> int:
        return smallest_cap([[piece.count for piece in self._pieces()]], groups)

    def _has_too_large(self, groups: int) -> bool:
        limit = TOO_LARGE * self.covered / groups
        return any(piece.count > limit and piece.to - piece.after > 1 for piece in self._pieces())

    def _is_atom(self, piece: _Piece, ideal: float) -> bool:
        return piece.to - piece.after == 1 and piece.count > TOLERANCE * ideal

    def _span(self, after: int, to: int, carats: tuple[float, float] | None = None) -> Span:
        is_first = after < self.wish.low
        low = self.wish.low if is_first else after if self.is_touching else after + 1
        return Span(low, to, carats)

    def _merged(self, atoms: dict[int, list[Partition]], groups: int) -> list[Partition]:
        """Neighbours put together again, so that at most `groups` are left and the largest is as small as it can be."""
        runs: list[list[_Piece]] = [[]]
        for piece in self._pieces():
            if piece.to in atoms:
                runs.append([])
            else:
                runs[-1].append(piece)
        split = sum(len(parts) for parts in atoms.values())
        filled = [run for run in runs if run]
        left = max(groups - split, len(filled))
        cap = smallest_cap([[piece.count for piece in run] for run in filled], left) if filled else 0
        partitions = [partition for parts in atoms.values() for partition in parts]
        for run in filled:
            partitions += [
                Partition(self._span(group[0].after, group[-1].to), sum(piece.count for piece in group))
                for group in grouped(run, lambda piece: piece.count, cap)
            ]
        return sorted(partitions, key=lambda each: (each.span.low or 0, each.span.high or 0, each.span.carats or ()))

    def _split_by_size(self, atom: _Piece, ideal: float) -> list[Partition]:
        """The stones of one dollar by their carats."""

        def up_to(sizes: Sequence[float]) -> Sequence[int]:
            self.calls += len(sizes)
            self.rounds += 1
            return self.counts([self._span(atom.after, atom.to, (0.0, size)) for size in sizes])

        bands = split_by_size(up_to, atom.count, ideal)
        return [Partition(self._span(atom.after, atom.to, carats), count) for carats, count in bands]


@dataclass(frozen=True, slots=True)
class _Piece:
    """The stones that cost more than `after` and at most `to` dollars."""

    after: int
    to: int
    count: int
