"""Workspaces and outbox items in a database, before the sandbox's calendars: for the tests and the soak."""

from __future__ import annotations

import datetime as dt
import json
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

from penstock.clients.credentials import Credentials
from penstock.clients.google_calendar import GoogleCalendarClient
from penstock.jobs.calendar_outbox import Accounts, CalendarStore, Delivery, Drain, Orders, Tally, bound_to
from penstock.jobs.calendar_outbox.delivery import Notice
from penstock.sources.stream import Limit
from penstock.warehouse.limits import SharedBreaker, SharedLimiter
from penstock.warehouse.session import Warehouse
from penstock.warehouse.vault import Key, Vault

KEY = "new:" + "ab" * 32
OLD_KEY = "old:" + "cd" * 32
SCOPE = "https://www.googleapis.com/auth/calendar.events"
WIDE = {"user": (100_000, 60.0), "calendar": (100_000, 10.0), "project": (1_000_000, 60.0)}
"""Limits that no test waits for; the sandbox is told the same."""

WIDE_LIMITS = {name: (Limit(count, period, burst=count),) for name, (count, period) in WIDE.items()}
QUICK = Orders(residence=0, horizon=0.0, threads=2)


@dataclass(frozen=True)
class Workspace:
    """A workspace that is connected to a Google account."""

    workspace_id: str
    connection_id: str
    email: str
    refresh_token: str

    @property
    def calendar(self) -> str:
        return f"c_{self.email.partition('@')[0]}_1"

    @property
    def other_calendar(self) -> str:
        return f"c_{self.email.partition('@')[0]}_2"


def source_id(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


def upsert(
    workspace: Workspace,
    number: int,
    title: str = "Review",
    *,
    calendar: str | None = None,
    source_type: str = "task",
    **event: Any,
) -> dict[str, Any]:
    """The payload of an UPSERT_EVENT."""
    return {
        "workspaceId": workspace.workspace_id,
        "calendarId": calendar or workspace.calendar,
        "sourceType": source_type,
        "sourceId": source_id(number),
        "eventType": "BLOCKER_DEADLINE",
        "event": {
            "title": title,
            "start": "2026-12-01T10:00:00Z",
            "end": "2026-12-01T11:00:00Z",
            "isAllDay": False,
            **event,
        },
    }


def cancel(workspace: Workspace, number: int, *, source_type: str = "task", **more: Any) -> dict[str, Any]:
    """The payload of a CANCEL_EVENT."""
    return {
        "workspaceId": workspace.workspace_id,
        "calendarId": workspace.calendar,
        "sourceType": source_type,
        "sourceId": source_id(number),
        **more,
    }


@dataclass
class Scene:
    """One database and one sandbox."""

    warehouse: Warehouse
    sandbox_url: str
    vault: Vault = field(default_factory=lambda: Vault((Key.parse(KEY),)))
    limits: Mapping[str, tuple[Limit, ...]] = field(default_factory=lambda: WIDE_LIMITS)
    notices: list[Notice] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.limits is WIDE_LIMITS:
            self.put("limits", WIDE)

    def reset(self) -> None:
        """No workspace, and a sandbox that remembers nothing."""
        requests.post(f"{self.sandbox_url}/sandbox/reset", timeout=30).raise_for_status()
        self.__post_init__()
        self.fetch("delete from public.workspaces")

    # -- the sandbox

    def get(self, door: str, **query: str) -> Any:
        answer = requests.get(f"{self.sandbox_url}/sandbox/calendar/{door}", params=query, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def put(self, door: str, body: Any) -> None:
        requests.put(f"{self.sandbox_url}/sandbox/calendar/{door}", json=body, timeout=30).raise_for_status()

    def post(self, door: str, body: Any) -> Any:
        answer = requests.post(f"{self.sandbox_url}/sandbox/calendar/{door}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def seen(self, calendar: str) -> dict[str, str]:
        """What a person sees in a calendar: event id -> title."""
        return {event["id"]: event["summary"] for event in self.get("events", calendar=calendar)[calendar]}

    def titles(self, calendar: str) -> list[str]:
        return sorted(self.seen(calendar).values())

    def calls(self, *operations: str) -> list[dict[str, Any]]:
        return [call for call in self.get("calls") if not operations or call["operation"] in operations]

    # -- the database

    def connect_workspaces(self, count: int = 1) -> list[Workspace]:
        """Workspaces with connected accounts."""
        accounts = self.get("accounts", count=str(count))["accounts"]
        made = []
        for account in accounts:
            workspace = Workspace(str(uuid.uuid4()), str(uuid.uuid4()), account["email"], account["refresh_token"])
            stored = self.vault.encrypt(
                workspace.refresh_token, bound_to(workspace.connection_id, workspace.workspace_id)
            )
            with self.warehouse.connection() as connection:
                connection.execute(
                    "insert into public.workspaces (id, name, slug, calendar_id) values (%s, %s, %s, %s)",
                    [workspace.workspace_id, account["email"], workspace.workspace_id, workspace.calendar],
                )
                connection.execute(
                    "insert into public.google_connections (id, workspace_id, refresh_token_encrypted, scopes) "
                    "values (%s, %s, %s, %s)",
                    [workspace.connection_id, workspace.workspace_id, stored, [SCOPE]],
                )
            made.append(workspace)
        return made

    def enqueue(self, workspace: Workspace, operation: str, *payloads: Mapping[str, Any]) -> list[str]:
        """New items, in one transaction; their ids."""
        with self.warehouse.transaction() as connection:
            return [
                str(
                    connection.execute(
                        "insert into public.sync_outbox (workspace_id, operation, payload) values (%s, %s, %s) "
                        "returning id",
                        [workspace.workspace_id, operation, json.dumps(payload)],
                    ).fetchone()[0]  # type: ignore[index]
                )
                for payload in payloads
            ]

    def upsert(self, workspace: Workspace, number: int, title: str = "Review", **event: Any) -> str:
        return self.enqueue(workspace, "UPSERT_EVENT", upsert(workspace, number, title, **event))[0]

    def cancel(self, workspace: Workspace, number: int, **more: Any) -> str:
        return self.enqueue(workspace, "CANCEL_EVENT", cancel(workspace, number, **more))[0]

    def fetch(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self.warehouse.connection() as connection:
            cursor = connection.execute(query, parameters)
            return list(cursor.fetchall()) if cursor.description else []

    def states(self) -> dict[str, int]:
        """Items by status."""
        rows = self.fetch("select status::text, count(*) from public.sync_outbox group by 1")
        return {str(status): int(count) for status, count in rows}

    def dead(self) -> list[tuple[Any, ...]]:
        return self.fetch(
            "select dead_reason, last_error from public.sync_outbox where status = 'DEAD_LETTER' order by seq"
        )

    def forget_delays(self) -> None:
        """Let back-offs and put-off turns be over, as if time had passed."""
        self.fetch("update penstock.calendar_keys set next_attempt_at = now() where next_attempt_at > now()")
        self.fetch("update public.sync_outbox set next_attempt_at = now() where next_attempt_at > now()")
        self.fetch("update penstock.calendar_lanes set next_turn_at = now()")
        self.fetch("update penstock.circuit_breakers set open_until = now()")
        self.fetch("update penstock.rate_limits set blocked_until = null")

    # -- the drain

    def open_client(self, connection_id: str, refresh_token: str) -> GoogleCalendarClient:
        told = self.get("accounts")
        credentials = Credentials(
            base_url=f"{self.sandbox_url}/google",
            token=refresh_token,
            secret=told["client_secret"],
            extra={"client_id": told["client_id"], "token_uri": f"{self.sandbox_url}/google/token"},
        )
        return GoogleCalendarClient(
            credentials,
            connection_id,
            self.limits,
            SharedLimiter(self.warehouse, max_wait=2.0),
            SharedBreaker(self.warehouse),
            on_secret=self.secrets.append,
        )

    def drain(
        self,
        orders: Orders = QUICK,
        *,
        holder: str = "test",
        workspace_id: str | None = None,
        lease: float = 120.0,
        open_client: Callable[[str, str], GoogleCalendarClient] | None = None,
    ) -> Drain:
        store = CalendarStore(
            self.warehouse,
            holder,
            workspace_id=workspace_id,
            lease=dt.timedelta(seconds=lease),
            hold=dt.timedelta(seconds=lease),
        )
        accounts = Accounts(store, self.vault, open_client or self.open_client, self.secrets.append)
        delivery = Delivery(store, accounts, random.Random(1))
        return Drain(store, accounts, delivery, orders, self.notices.append)

    def run(self, orders: Orders = QUICK, **options: Any) -> Tally:
        return self.drain(orders, **options).run()
