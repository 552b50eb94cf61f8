"""What passes between the queue, the courier and the drain."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["queued", "sending", "sent", "dead", "cancelled"]

NO_DELAY = dt.timedelta(0)


@dataclass(frozen=True, slots=True)
class Item:
    """A claimed row: the first of its lane, `sending` in the table.

    lane_epoch, row_epoch: what writes about the lane and the row must match. deadline: on the monotonic clock, when
    nothing may be sent any more because the lease is nearly over. is_ambiguous: somebody may have sent it already.
    is_probe: its workspace is paused and this is a try whether it works again. event_data: JSON text.
    """

    id: str
    lane_key: str
    workspace: str
    destination: str
    channel_id: str | None
    lane_epoch: int
    row_epoch: int
    failures: int
    is_parked: bool
    is_probe: bool
    is_ambiguous: bool
    attempts: int
    max_attempts: int
    event_data: str | None
    sending_at: dt.datetime
    is_expired: bool
    template: str
    is_active: bool
    allow_broadcast: bool
    on_ambiguous: str
    deadline: float = float("inf")


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person has to know, once. `key` is what it is about."""

    key: str
    code: str
    message: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """Of a whole workspace, by ourselves."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a claimed row ended.

    given_back: the attempt does not count, because nothing can have been delivered. delay: until the lane may be used
    again. failed: one more failure of the lane in a row. parked: why the lane is refused. event: what it counts as.
    """

    state: State
    event: str
    delay: dt.timedelta = NO_DELAY
    given_back: bool = False
    failed: bool = False
    error: str | None = None
    error_class: str | None = None
    slack_ts: str | None = None
    channel_id: str | None = None
    parked: str | None = None
    pause: Pause | None = None
    notice: Notice | None = None


@dataclass(slots=True)
class Tally:
    """What a drain has done; JSON for XCom and counters for metrics."""

    counts: dict[str, int] = field(default_factory=dict)
    is_resident: bool = False
    health: Mapping[str, Any] = field(default_factory=dict)
    paused_workspaces: list[str] = field(default_factory=list)

    def add(self, event: str, count: int = 1) -> None:
        if count:
            self.counts[event] = self.counts.get(event, 0) + count

    def as_json(self) -> dict[str, Any]:
        """Ids and counts only."""
        return {"counts": dict(sorted(self.counts.items())), "resident": self.is_resident, "health": dict(self.health)}
