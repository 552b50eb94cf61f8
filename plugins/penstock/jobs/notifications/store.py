"""The notification queue in Postgres: every write is one statement of `include/sql/notifications/queries.sql`."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg.rows import dict_row

from penstock.jobs.notifications.items import Item, Outcome, Pause
from penstock.warehouse import queries
from penstock.warehouse.failures import is_passing
from penstock.warehouse.session import Warehouse

SQL = queries.load("notifications")
log = logging.getLogger(__name__)
T = TypeVar("T")

CHANNEL = "penstock_notifications"
QUEUE = "notifications"
WORKSPACE = "slack"
"""The one workspace: that of the Airflow connection `slack`."""

LEASE = dt.timedelta(seconds=120)
"""Of a lane, for one message: twelve times what one call to Slack may last."""

MARGIN_S = 25.0
"""Nothing is sent when less of the lease is left: two calls fit into it."""

MAX_OPEN = 3600
"""Rows that wait for one channel at most: an hour's work."""

MAX_DATA_BYTES = 256 * 1024
RESOLVE_LIMIT = 2000
EXPIRE_LIMIT = 1000
PATIENCE_S = 60.0
"""How long a fault of the database that passes is waited out."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one look at new rows did."""

    resolved: int
    dead: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters: None does not narrow."""

    ids: Sequence[str] | None = None
    reason: str | None = None
    since: dt.datetime | None = None
    limit: int = 1000

    def parameters(self) -> dict[str, Any]:
        return {
            "ids": list(self.ids) if self.ids else None,
            "reason": self.reason,
            "since": self.since,
            "limit": self.limit,
        }


class NotificationStore:
    """The queue's statements. Threads may share it; each statement that a worker waits for runs on the warehouse's
    shared connection, so that a drain of many threads holds few connections."""

    def __init__(
        self,
        warehouse: Warehouse,
        holder: str,
        *,
        lease: dt.timedelta = LEASE,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._warehouse = warehouse
        self._holder = holder
        self._lease = lease
        self._sleep = sleep

    @property
    def dsn(self) -> str:
        return self._warehouse.dsn

    def resolve(self) -> Swept:
        """Find out where rows go that are new, or whose configuration was corrected; end those that can go nowhere."""
        self._rows("follow", {"workspace": WORKSPACE})
        parameters = {
            "workspace": WORKSPACE,
            "limit": RESOLVE_LIMIT,
            "max_open": MAX_OPEN,
            "max_bytes": MAX_DATA_BYTES,
        }
        (row,) = self._rows("resolve", parameters)
        return Swept(row["resolved"], row["dead"], row["skipped"])

    def wake(self) -> None:
        """Wake the lanes that sleep although something is due."""
        self._rows("wake", {})

    def expire(self) -> int:
        """End rows whose time to live is over; how many."""
        return len(self._rows("expire", {"limit": EXPIRE_LIMIT}))

    def claim(self, limit: int) -> list[Item]:
        """The first rows of up to `limit` lanes that may be sent to, theirs until the lease ends.

        What was claimed and never told to us (the connection broke over the answer) is taken up again by the lease.
        """
        began = time.monotonic()
        rows = self._rows("claim", {"limit": limit, "lease": self._lease, "holder": self._holder})
        deadline = began + self._lease.total_seconds() - min(MARGIN_S, self._lease.total_seconds() / 4)
        return [Item(**row, deadline=deadline) for row in rows]

    def settle(self, item: Item, outcome: Outcome) -> bool:
        """Write how an item ended; False when somebody else had taken it over meanwhile."""
        parameters = {
            "id": item.id,
            "lane_key": item.lane_key,
            "workspace": item.workspace,
            "row_epoch": item.row_epoch,
            "lane_epoch": item.lane_epoch,
            "state": outcome.state,
            "is_ambiguous": item.is_ambiguous,
            "given_back": int(outcome.given_back),
            "error": outcome.error,
            "error_class": outcome.error_class,
            "slack_ts": outcome.slack_ts,
            "channel_id": outcome.channel_id,
            "delay": outcome.delay,
            "failed": outcome.failed,
            "parked_reason": outcome.parked,
            "parked_message": outcome.error if outcome.parked else None,
            "clears_workspace": item.is_probe and outcome.state == "sent",
        }
        row = self._steady(lambda: self._warehouse.run_shared(SQL["settle"], parameters))
        return bool(row and row[0])

    def park_workspace(self, workspace: str, pause: Pause) -> bool:
        """Let nobody send for a while; whether this was news."""
        parameters = {
            "workspace": workspace,
            "reason": pause.reason,
            "pause": dt.timedelta(seconds=pause.seconds),
        }
        row = self._steady(lambda: self._warehouse.run_shared(SQL["park_workspace"], parameters))
        return bool(row and row[0])

    def next_ready(self) -> float | None:
        """Seconds until the next lane may be sent to; None: none is waiting."""
        rows = self._rows("next_ready", {})
        return float(rows[0]["seconds"]) if rows else None

    # -- for people

    def pause(self, scope: str, scope_key: str, reason: str, by: str, pause: dt.timedelta | None = None) -> None:
        """Let nobody send to a channel, for a tenant, in a workspace, or at all; without `pause` until resumed."""
        parameters = {"scope": scope, "scope_key": scope_key, "reason": reason, "paused_by": by, "pause": pause}
        self._rows("pause", parameters)

    def resume(self, scope: str, scope_key: str) -> int:
        """End a pause, and let parked channels of that name be tried at once; how many were concerned."""
        (row,) = self._rows("resume", {"scope": scope, "scope_key": scope_key})
        return int(row["resumed"])

    def dead_letters(self, choice: Choice) -> list[dict[str, Any]]:
        return self._rows("dead_letters", choice.parameters())

    def replay(self, choice: Choice) -> list[str]:
        """Put dead letters back into the queue; their ids."""
        return [row["id"] for row in self._rows("replay", choice.parameters())]

    def cancel(self, ids: Sequence[str], reason: str) -> list[str]:
        """Cancel rows that nobody has begun to send; their ids."""
        return [row["id"] for row in self._rows("cancel", {"ids": list(ids), "reason": reason})]

    def health(self) -> dict[str, Any]:
        """The queue's row of reporting.queue_health."""
        (row,) = self._rows("health", {})
        oldest = row["oldest_seconds"]
        return {**row, "oldest_seconds": None if oldest is None else float(oldest)}

    # -- drains among themselves

    def become_resident(self, lease: dt.timedelta, *, by_force: bool = False) -> bool:
        """Whether this drain is the one that stays. by_force: whoever stays now leaves at its next renewal."""
        parameters = {"queue": QUEUE, "holder": self._holder, "lease": lease, "by_force": by_force}
        return bool(self._rows("become_resident", parameters))

    def leave(self) -> None:
        self._rows("leave", {"queue": QUEUE, "holder": self._holder})

    def say_once(self, key: str, quiet: dt.timedelta) -> bool:
        """Whether an alert of that name is due: none was within `quiet`."""
        return bool(self._rows("say_once", {"alert_key": key, "quiet": quiet}))

    # -- plumbing

    def _rows(self, name: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        def run() -> list[dict[str, Any]]:
            with self._warehouse.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
                cursor.execute(SQL[name], parameters)
                return cursor.fetchall() if cursor.description else []

        return self._steady(run)

    def _steady(self, run: Callable[[], T]) -> T:
        """Run a statement, again while the database restarts, fails over or breaks a deadlock. Every statement of this
        queue may be run twice."""
        deadline = time.monotonic() + PATIENCE_S
        pause = 0.05
        while True:
            try:
                return run()
            except psycopg.Error as failure:
                if not is_passing(failure) or time.monotonic() + pause > deadline:
                    raise
                log.warning("the database failed (%s), again in %.2f s", type(failure).__name__, pause)
            self._sleep(pause)
            pause = min(pause * 2, 2.0)
