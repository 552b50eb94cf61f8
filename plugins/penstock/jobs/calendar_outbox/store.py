"""The outbox in Postgres: every write is one statement of `include/sql/calendar/queries.sql`."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from penstock.core.calendar_calls import Known
from penstock.warehouse import queries
from penstock.warehouse.failures import is_passing
from penstock.warehouse.session import Warehouse

SQL = queries.load("calendar")
log = logging.getLogger(__name__)
T = TypeVar("T")

CHANNEL = "penstock_sync_outbox"
BATCH = 50
LEASE = dt.timedelta(minutes=2)
"""Of a batch's keys, renewed before every further call: no call lasts longer than a minute."""

HOLD = dt.timedelta(minutes=3)
"""Of a workspace under a rebuild, renewed between its calls."""

PATIENCE_S = 60.0
"""How long a fault of the database that passes is waited out."""


@dataclass(frozen=True, slots=True)
class ClaimedKey:
    """One source object that is ours until the lease ends.

    operation, payload: of its newest item; both None when that item is not to be carried out any more.
    failing_seconds: since its first failure in a row.
    """

    event_key: str
    source_type: str
    source_id: str
    seq: int
    epoch: int
    attempts: int
    failing_seconds: float
    known: Known
    operation: str | None
    payload: Any


@dataclass(frozen=True, slots=True)
class Claim:
    """Keys of one workspace; none when the lane had nothing due. claimed_at: monotonic, before the lease began."""

    workspace_id: str
    keys: tuple[ClaimedKey, ...]
    claimed_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True, repr=False)
class ConnectionRow:
    """A workspace's Google account as stored; its `repr` shows no token. status: ACTIVE, INVALID, ERROR, MISSING."""

    connection_id: str | None
    time_zone: str
    stored_token: str
    is_valid: bool
    status: str

    def __repr__(self) -> str:
        return f"ConnectionRow({self.connection_id}, {self.status})"


@dataclass(frozen=True, slots=True)
class UnkeyedItem:
    """A rebuild, or an item that names no source.

    age_seconds: since it was written. has_tries: its attempts are not used up.
    """

    item_id: str
    workspace_id: str
    operation: str
    payload: Any
    attempts: int
    age_seconds: float
    has_tries: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters: None does not narrow."""

    item_ids: Sequence[str] | None = None
    reason: str | None = None
    workspace_id: str | None = None

    def parameters(self) -> dict[str, Any]:
        return {
            "item_ids": list(self.item_ids) if self.item_ids else None,
            "reason": self.reason,
            "workspace_id": self.workspace_id,
        }


class CalendarStore:
    """The queue's statements. Threads may share it; each uses a connection of its own.

    workspace_id: narrows everything to one workspace.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        holder: str,
        *,
        workspace_id: str | None = None,
        lease: dt.timedelta = LEASE,
        hold: dt.timedelta = HOLD,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._warehouse = warehouse
        self.holder = holder
        self.workspace_id = workspace_id
        self.lease = lease
        self.hold = hold
        self._sleep = sleep

    @property
    def dsn(self) -> str:
        return self._warehouse.dsn

    # -- keys

    def wake(self) -> int:
        """Wake the lanes that sleep although something is due; how many."""
        return self._count("wake_lanes", {"workspace_id": self.workspace_id})

    def claim(self, limit: int = BATCH) -> Claim | None:
        """The keys of the lane whose turn it is; None when it is nobody's."""
        parameters = {
            "workspace_id": self.workspace_id,
            "limit": limit,
            "holder": self.holder,
            "lease_seconds": self.lease.total_seconds(),
        }
        began = time.monotonic()
        rows = self._rows("claim_keys", parameters)
        if not rows:
            return None
        return Claim(rows[0]["workspace_id"], tuple(_key(row) for row in rows if row["event_key"]), began)

    def acknowledge(self, outcomes: Sequence[Mapping[str, Any]]) -> set[str]:
        """Write what became of keys; those that were still ours."""
        if not outcomes:
            return set()
        return {row["event_key"] for row in self._rows("acknowledge", {"outcomes": Jsonb(list(outcomes))})}

    def renew(self, keys: Sequence[ClaimedKey]) -> set[str]:
        """Hold keys for another lease; those that are still ours."""
        told = [{"event_key": key.event_key, "epoch": key.epoch} for key in keys]
        parameters = {"keys": Jsonb(told), "lease_seconds": self.lease.total_seconds()}
        return {row["event_key"] for row in self._rows("renew_keys", parameters)}

    def repair(self, event_keys: Sequence[str]) -> None:
        """Have keys written again that a frozen worker of ours may have written over."""
        self._count("repair_keys", {"keys": Jsonb([{"event_key": key} for key in event_keys])})

    def put_off(self, workspace_id: str, seconds: float, reason: str) -> None:
        """Let the others have their turns until then."""
        self._count("put_off_lane", {"workspace_id": workspace_id, "seconds": seconds, "reason": reason[:200]})

    def next_due(self) -> float | None:
        """Seconds until something is due; None: nothing waits."""
        (row,) = self._rows("next_due", {"workspace_id": self.workspace_id})
        value = next(iter(row.values()))
        return None if value is None else max(0.0, float(value))

    # -- connections

    def connection(self, workspace_id: str) -> ConnectionRow:
        rows = self._rows("connection", {"workspace_id": workspace_id})
        if not rows:  # the workspace was deleted, and its keys with it
            return ConnectionRow(None, "UTC", "", is_valid=False, status="MISSING")
        row = rows[0]
        return ConnectionRow(
            row["id"], row["timezone"], row["refresh_token_encrypted"] or "", row["is_valid"], row["status"]
        )

    def bury(self, workspace_id: str, reason: str, message: str) -> int:
        """Dead letters for everything that waits for a connection which cannot be used; how many."""
        parameters = {"workspace_id": workspace_id, "reason": reason, "message": message, "holder": self.holder}
        (row,) = self._rows("bury_workspace", parameters)
        return int(row["count"])

    def invalidate(self, connection_id: str, code: str, message: str) -> bool:
        """Whether it was us who found out."""
        parameters = {"connection_id": connection_id, "code": code, "message": message}
        return bool(self._rows("invalidate_connection", parameters))

    def mark_unreadable(self, connection_id: str, code: str, message: str) -> bool:
        """Whether it was us who found out."""
        parameters = {"connection_id": connection_id, "code": code, "message": message}
        return bool(self._rows("connection_unreadable", parameters))

    def unreadable(self) -> list[tuple[str, str, str]]:
        """Connections whose key was missing: id, workspace, stored token."""
        rows = self._rows("unreadable_connections", {})
        return [(row["id"], row["workspace_id"], row["refresh_token_encrypted"]) for row in rows]

    def mark_readable(self, connection_id: str) -> None:
        self._count("connection_readable", {"connection_id": connection_id})

    def store_token(self, connection_id: str, stored: str, fresh: str) -> None:
        """Replace a stored token by the same one under the newest key."""
        self._count("store_token", {"connection_id": connection_id, "stored": stored, "fresh": fresh})

    def mark_used(self, connection_id: str) -> None:
        self._count("connection_used", {"connection_id": connection_id})

    # -- items without a key

    def unkeyed(self) -> list[UnkeyedItem]:
        rows = self._rows("open_unkeyed", {"workspace_id": self.workspace_id})
        return [
            UnkeyedItem(
                item_id=row["id"],
                workspace_id=row["workspace_id"],
                operation=row["operation"],
                payload=row["payload"],
                attempts=row["attempts"],
                age_seconds=row["age_seconds"],
                has_tries=row["has_tries"],
            )
            for row in rows
        ]

    def close_item(
        self, item_id: str, status: str, *, reason: str | None = None, message: str | None = None, delay: float = 0.0
    ) -> None:
        parameters = {
            "item_id": item_id,
            "status": status,
            "reason": reason,
            "message": message,
            "delay_seconds": delay,
        }
        self._count("close_item", parameters)

    # -- for people

    def dead_letters(self, choice: Choice, limit: int = 1000) -> list[dict[str, Any]]:
        return self._rows("dead_letters", {**choice.parameters(), "limit": limit})

    def replay(self, choice: Choice) -> list[str]:
        """Put dead letters back; their ids. Those that a newer item has overtaken end as SUPERSEDED."""
        return [row["id"] for row in self._rows("replay_dead_letters", choice.parameters())]

    def request_rebuild(self, workspace_id: str, requested_by: str) -> str:
        """A new REBUILD_ALL item; its id."""
        parameters = {"workspace_id": workspace_id, "requested_by": requested_by}
        return str(self._rows("request_rebuild", parameters)[0]["id"])

    def pause(self, workspace_id: str, until: dt.datetime | None, by: str, reason: str) -> None:
        """Hand out no keys of the workspace until then; None ends a pause."""
        self._count("pause_lane", {"workspace_id": workspace_id, "until": until, "by": by, "reason": reason})

    def oldest(self) -> tuple[float | None, int]:
        """Age in seconds of the oldest item that waits, and how many wait."""
        (row,) = self._rows("oldest_item", {})
        return row["oldest_seconds"], int(row["depth"])

    def say_once(self, key: str, quiet: dt.timedelta) -> bool:
        """Whether to tell it: nobody has been told for so long."""
        return bool(self._rows("say_once", {"key": key, "quiet_seconds": quiet.total_seconds()}))

    # -- statements

    def rows(self, name: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
        """The rows of a query of this concern."""
        return self._rows(name, parameters)

    @contextmanager
    def transaction(self) -> Iterator[Callable[[str, Mapping[str, object]], list[dict[str, Any]]]]:
        """Queries that commit together. Not tried again here: the caller's whole work is."""
        with self._warehouse.transaction() as connection:

            def run(name: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
                with connection.cursor(row_factory=dict_row) as cursor:
                    cursor.execute(SQL[name], parameters)
                    return cursor.fetchall() if cursor.description else []

            yield run

    def _rows(self, name: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
        def run(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
            with connection.cursor(row_factory=dict_row) as cursor:
                cursor.execute(SQL[name], parameters)
                return cursor.fetchall() if cursor.description else []

        return self._patiently(run)

    def _count(self, name: str, parameters: Mapping[str, object]) -> int:
        return self._patiently(lambda connection: connection.execute(SQL[name], parameters).rowcount)

    def _patiently(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Statements may take effect twice when a connection breaks over their answer: all of them bear that, because
        they compare states or epochs. Raises psycopg.Error for what does not pass within `PATIENCE_S`."""
        deadline = time.monotonic() + PATIENCE_S
        delay = 0.1
        while True:
            try:
                with self._warehouse.connection() as connection:
                    return work(connection)
            except psycopg.Error as failure:
                if not is_passing(failure) or time.monotonic() + delay > deadline:
                    raise
                log.warning("the database failed (%s), trying again in %.1f s", type(failure).__name__, delay)
            self._sleep(delay)
            delay = min(2 * delay, 5.0)


def _key(row: Mapping[str, Any]) -> ClaimedKey:
    is_open = row["item_id"] is not None
    return ClaimedKey(
        event_key=row["event_key"],
        source_type=row["source_type"],
        source_id=row["source_id"],
        seq=row["dirty_seq"],
        epoch=row["lease_epoch"],
        attempts=row["attempts"],
        failing_seconds=row["failing_seconds"],
        known=Known(
            row["calendar_id"],
            row["google_event_id"],
            row["generation"],
            row["is_created"],
            row["etag"],
            row["body_hash"],
        ),
        operation=row["operation"] if is_open else None,
        payload=row["payload"] if is_open else None,
    )
