"""REBUILD_ALL: look at the calendar, remove what nobody wants, and write a new item for everything that is wanted.

Nothing is cancelled first. The new items go the way of all others; an event that is as it should be costs no call. The
plan is one transaction: a rebuild that dies before it is begun again from the start, after it there is nothing left
to do but to drain. Producers are kept out while it reads the sources and writes the items, so that no item of a
rebuild is newer than a change that it has not seen.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.errors import DeadlockDetected, LockNotAvailable
from psycopg.types.json import Jsonb

from penstock.clients.google_calendar import MAX_BATCH
from penstock.core.calendar_calls import Call, Kind, refusal_code
from penstock.core.calendar_events import CANCEL, KEY_PROPERTY, UPSERT, event_id
from penstock.core.calendar_sources import wanted_payloads
from penstock.core.errors import PenstockError, error
from penstock.jobs.calendar_outbox.accounts import Account
from penstock.jobs.calendar_outbox.store import CalendarStore, UnkeyedItem

log = logging.getLogger(__name__)

PRIMARY = "primary"
IN_HAND_PAUSE_S = 0.2
LEAST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
PRODUCERS_PATIENCE_S = 30.0
"""How long the transactions of producers are waited for, before the rebuild is put off."""

SOURCES = {
    "task": "source_tasks",
    "milestone": "source_milestones",
    "gate_run": "source_gate_runs",
    "project_review": "source_project_reviews",
}


@dataclass(frozen=True, slots=True)
class Found:
    """An event in the calendar that carries the workspace's mark."""

    calendar_id: str
    event_id: str
    event_key: str
    etag: str | None


class Busy(Exception):
    """Another worker has keys of the workspace, or a rebuild of its own."""


class Rebuild:
    """One rebuild of one workspace."""

    def __init__(self, store: CalendarStore, account: Account, item: UnkeyedItem) -> None:
        self._store = store
        self._account = account
        self._item = item
        self._workspace_id = item.workspace_id
        self._epoch = 0

    def run(self) -> dict[str, int]:
        """Plan it; how many events were removed and items written.

        Raises Busy, PenstockError of Google's, LEASE_LOST, psycopg.Error; nothing is planned then.
        """
        self._hold()
        try:
            self._wait_for_others()
            keys = {row["event_key"]: row for row in self._rows("workspace_keys")}
            found = self._find(keys)
            current, orphans = sort_out(keys, found)
            self._remove(orphans)
            return {"removed": len(orphans), **self._plan_among_producers(keys, current)}
        finally:
            self._rows("release_hold", epoch=self._epoch)

    # -- alone with the workspace

    def _hold(self) -> None:
        self._rows("make_lane")
        held = self._rows("hold_lane", holder=self._store.holder, lease_seconds=self._store.hold.total_seconds())
        if not held:
            raise Busy
        self._epoch = held[0]["hold_epoch"]

    def _wait_for_others(self) -> None:
        """Keys that were handed out before are on their way still."""
        deadline = time.monotonic() + self._store.lease.total_seconds()
        while self._rows("keys_in_hand")[0]["count"]:
            if time.monotonic() > deadline:
                raise Busy
            time.sleep(IN_HAND_PAUSE_S)
            self._keep_hold()

    def _keep_hold(self) -> None:
        if not self._rows("renew_hold", epoch=self._epoch, lease_seconds=self._store.hold.total_seconds()):
            raise error("LEASE_LOST", f"another rebuild of workspace {self._workspace_id} has begun")

    # -- the calendar as it is

    def _find(self, keys: Mapping[str, Mapping[str, Any]]) -> list[Found]:
        calendars = {row["calendar_id"] for row in keys.values() if row["calendar_id"]} | {self._calendar_id()}
        return [event for calendar_id in sorted(calendars) for event in self._listed(calendar_id)]

    def _listed(self, calendar_id: str) -> Iterator[Found]:
        self._keep_hold()
        try:
            for event in self._account.client.own_events(calendar_id, self._workspace_id):
                key = ((event.get("extendedProperties") or {}).get("private") or {}).get(KEY_PROPERTY)
                if key and event.get("status") != "cancelled":
                    yield Found(calendar_id, str(event["id"]), str(key), event.get("etag"))
        except PenstockError as refused:
            if refused.code != "CALENDAR_NOT_FOUND":
                raise
            log.warning("calendar %s does not exist any more", calendar_id)

    def _remove(self, orphans: Sequence[Found]) -> None:
        for start in range(0, len(orphans), MAX_BATCH):
            self._keep_hold()
            calls = [
                Call(Kind.DELETE, event.calendar_id, event.event_id) for event in orphans[start : start + MAX_BATCH]
            ]
            for reply in self._account.client.perform(calls):
                if not (reply.is_good or reply.is_gone):
                    code = refusal_code(reply.status, reply.reason)
                    raise error(code, f"an event cannot be removed: HTTP {reply.status} {reply.message}")

    # -- what is to be

    def _calendar_id(self) -> str:
        rows = self._rows("workspace")
        return str((rows[0]["calendar_id"] if rows else None) or PRIMARY)

    def _plan_among_producers(self, keys: Mapping[str, Mapping[str, Any]], current: Sequence[Found]) -> dict[str, int]:
        """Step back and try again, ever less often, while one of them is not done: who waits for the gate makes all
        that come behind it wait too."""
        deadline = time.monotonic() + PRODUCERS_PATIENCE_S
        pause = LEAST_PAUSE_S
        while True:
            try:
                return self._plan(keys, current)
            except (LockNotAvailable, DeadlockDetected):
                if time.monotonic() > deadline:
                    break
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
            self._keep_hold()
        message = f"others have written to the workspace's items for {PRODUCERS_PATIENCE_S:.0f} s without a commit"
        raise error("CALENDAR_TRANSIENT", message)

    def _plan(self, keys: Mapping[str, Mapping[str, Any]], current: Sequence[Found]) -> dict[str, int]:
        with self._store.transaction() as run:
            workspace = {"workspace_id": self._workspace_id}
            run("be_brief", {})
            run("shut_gate", workspace)  # before any other lock: who waits for it must hold nothing
            hold = {**workspace, "epoch": self._epoch, "lease_seconds": self._store.hold.total_seconds()}
            if not run("renew_hold", hold):
                raise error("LEASE_LOST", f"another rebuild of workspace {self._workspace_id} has begun")
            row = run("workspace", workspace)[0]
            sources = {source: run(query, workspace) for source, query in SOURCES.items()}
            wanted = wanted_payloads(
                self._workspace_id, row["calendar_id"] or PRIMARY, row["weekly_review_rrule"], sources
            )
            intents = [{"operation": UPSERT, "payload": payload} for payload in wanted.values()]
            gone = [self._cancel(key) for key in keys.values() if is_gone(key, wanted.keys())]
            run("learn_from_calendar", {**workspace, "found": Jsonb(learned(keys, current))})
            requested_by = f"rebuild {self._item.item_id}"
            run("enqueue_intents", {**workspace, "intents": Jsonb(intents + gone), "requested_by": requested_by})
            done = {"status": "COMPLETED", "reason": None, "message": None, "delay_seconds": 0.0}
            run("close_item", {**done, "item_id": self._item.item_id})
        return {"wanted": len(intents), "cancelled": len(gone)}

    def _cancel(self, key: Mapping[str, Any]) -> dict[str, Any]:
        payload = {
            "workspaceId": self._workspace_id,
            "calendarId": key["calendar_id"],
            "sourceType": key["source_type"],
            "sourceId": key["source_id"],
        }
        return {"operation": CANCEL, "payload": payload}

    def _rows(self, name: str, **parameters: object) -> list[dict[str, Any]]:
        values = {"workspace_id": self._workspace_id, **parameters}
        return self._store.rows(name, values)


def sort_out(keys: Mapping[str, Mapping[str, Any]], found: Sequence[Found]) -> tuple[list[Found], list[Found]]:
    """The one event of each known key, and all others: second ones, and those of keys that nobody knows."""
    by_key: defaultdict[str, list[Found]] = defaultdict(list)
    for event in found:
        by_key[event.event_key].append(event)
    current: list[Found] = []
    for event_key, events in by_key.items():
        key = keys.get(event_key)
        if key is not None:
            current.append(min(events, key=lambda event: _rank(event, key)))
    kept = {id(event) for event in current}
    return current, [event for event in found if id(event) not in kept]


def _rank(event: Found, key: Mapping[str, Any]) -> tuple[bool, bool, str]:
    """First the event that the key speaks of, then the one that a worker which died has made, then any."""
    derived = event_id(event.event_key, event.calendar_id, key["generation"])
    is_known = event.calendar_id == key["calendar_id"] and event.event_id == (key["google_event_id"] or derived)
    return (not is_known, event.event_id != derived, event.event_id)


def learned(keys: Mapping[str, Mapping[str, Any]], current: Sequence[Found]) -> list[dict[str, Any]]:
    """Rows for the query `learn_from_calendar`; a key without an event is in it as well."""
    seen = {event.event_key: event for event in current}
    rows = []
    for event_key in keys:
        event = seen.get(event_key)
        rows.append(
            {
                "event_key": event_key,
                "etag": event.etag if event else None,
                "google_event_id": event.event_id if event else None,
                "calendar_id": event.calendar_id if event else None,
            }
        )
    return rows


def is_gone(key: Mapping[str, Any], wanted: Any) -> bool:
    """Whether the key's source is no longer there while its event is, or may be."""
    if key["source_type"] not in SOURCES or (key["source_type"], key["source_id"]) in wanted:
        return False
    return bool(key["is_created"]) or key["dirty_seq"] > key["done_seq"]
