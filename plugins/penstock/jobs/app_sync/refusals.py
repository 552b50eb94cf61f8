"""Whose a refusal is: the item's that was refused, or everybody's."""

from __future__ import annotations

from dataclasses import dataclass, field

REFUSALS_OF_AN_ITEM = 5
"""So often an item meets a closed limit, others being answered in between, before it is the item that is refused.
Fewer would charge an item for a limit that opens and closes."""

WRONG_CALLS_OF_AN_ITEM = 2
"""Likewise for a call that the vendor finds wrong: a limit does not come into it."""

WRONG_CALLS_IN_A_ROW = 3
"""So many different items whose calls are wrong, nobody being answered in between: all calls are."""


@dataclass(slots=True)
class Refusals:
    """What a worker knows of the items that were refused. The item is to blame when others are answered."""

    _answers: int = 0
    _seen: dict[int, tuple[int, int]] = field(default_factory=dict)  # app -> times, answers to others at the last one
    _wrong: set[int] = field(default_factory=set)

    def answered(self) -> None:
        """The vendor answered for some item."""
        self._answers += 1
        self._wrong.clear()

    def is_own_limit(self, appid: int) -> bool:
        """After a call that met a limit: whether the limit is this item's alone."""
        return self._times(appid) >= REFUSALS_OF_AN_ITEM

    def is_own_wrong_call(self, appid: int) -> bool:
        """After a call that the vendor found wrong: whether it is this item's alone."""
        return self._times(appid) >= WRONG_CALLS_OF_AN_ITEM

    def is_every_call_wrong(self, appid: int) -> bool:
        """After a wrong call that may be anybody's: whether to give up asking."""
        is_known = appid in self._wrong
        self._wrong.add(appid)
        return is_known or len(self._wrong) >= WRONG_CALLS_IN_A_ROW

    def _times(self, appid: int) -> int:
        """How often the item was refused; refusals between which nobody was answered are one."""
        times, answers = self._seen.get(appid, (0, -1))
        times += self._answers > answers
        self._seen[appid] = (times, self._answers)
        return times
