"""The calendar outbox in the demo: rows as an old worker left them, and every calendar compared with what is wanted."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
import requests
from psycopg import sql
from psycopg.rows import dict_row

from penstock.warehouse.vault import Vault
from stack.parts.part import Ground, PartResult

WORKSPACES = 3
ITEMS = 16  # with all that becomes of them in a rebuild, just under what Google lets change in ten seconds
TIMEOUT = 60  # seconds
NAMESPACE = uuid.UUID("0b7bb9ce-6d7f-4b53-9b3a-3f6f6f6f2c11")
OLD_STATES = ("PENDING", "PROCESSING", "FAILED", "DEAD_LETTER", "COMPLETED")

_WORKSPACE = """
insert into public.workspaces (id, name, slug, timezone, calendar_id)
values (%(id)s, %(name)s, %(slug)s, %(zone)s, %(calendar)s)
on conflict (id) do nothing
"""
_CONNECTION = """
insert into public.google_connections (id, workspace_id, google_account_email, refresh_token_encrypted)
values (%(id)s, %(workspace)s, %(email)s, %(token)s)
on conflict (id) do update set refresh_token_encrypted = excluded.refresh_token_encrypted, is_valid = true
"""
_TASK = """
insert into public.tasks (id, workspace_id, title, priority, is_blocking, due_at, status)
values (%(id)s, %(workspace)s, %(title)s, 'P1', true, now() + interval '7 days', %(status)s)
on conflict (id) do update set title = excluded.title, status = excluded.status
"""
_ITEM = """
insert into public.sync_outbox (workspace_id, operation, payload, status, attempts, last_error, requested_by)
values (%(workspace)s, %(operation)s, %(payload)s, %(status)s, %(attempts)s, %(last_error)s, 'demo')
"""
_OPEN = "select count(*) as open from public.sync_outbox where status in ('PENDING', 'PROCESSING', 'FAILED')"
_STATES = """
select status::text as status, count(*) as items
from public.sync_outbox
where requested_by is not null and updated_at >= %(since)s
group by 1
"""
_PLAIN = "select count(*) as plain from public.google_connections where refresh_token_encrypted not like 'v1:%%'"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A workspace of the demo and its account at the sandbox."""

    workspace_id: str
    connection_id: str
    email: str
    refresh_token: str
    calendar: str

    @classmethod
    def of(cls, account: Mapping[str, Any]) -> Tenant:
        email = str(account["email"])
        return cls(
            str(uuid.uuid5(NAMESPACE, email)),
            str(uuid.uuid5(NAMESPACE, f"connection {email}")),
            email,
            str(account["refresh_token"]),
            str(account["calendars"][1]),
        )

    def source(self, name: str) -> str:
        return str(uuid.uuid5(NAMESPACE, f"{self.email} {name}"))


class CalendarOutbox:
    """`stack.parts.Part` of the calendar outbox."""

    name = "calendar_outbox"
    dag_id = "calendar_outbox"
    params: Mapping[str, Any] | None = None
    is_always_triggered = False

    def prepare(self, ground: Ground) -> None:
        """Items in every state that the old worker knew, a rebuild, and a refresh token in plain text."""
        vault = Vault.from_environment({"PENSTOCK_ENCRYPTION_KEYS": ground.vault_keys})
        with psycopg.connect(ground.warehouse_dsn) as connection:
            for number, tenant in enumerate(tenants(ground)):
                bound = f"google_connections:{tenant.connection_id}:{tenant.workspace_id}:refresh_token"
                # The first is as a careless application would store it; it is encrypted when it is first used.
                token = tenant.refresh_token if number == 0 else vault.encrypt(tenant.refresh_token, bound)
                self._tenant(connection, tenant, token)
                # The sandbox has forgotten the calendars of the demo before; nothing is known of them any more.
                for table in ("public.sync_outbox", "public.calendar_event_bindings", "penstock.calendar_keys"):
                    connection.execute(
                        sql.SQL("delete from {} where workspace_id = %s").format(sql.Identifier(*table.split("."))),
                        [tenant.workspace_id],
                    )
                for item in items(tenant):
                    connection.execute(_ITEM, item)
            last = tenants(ground)[-1]
            self._tasks(connection, last)

    @staticmethod
    def _tenant(connection: psycopg.Connection[Any], tenant: Tenant, token: str) -> None:
        workspace = {
            "id": tenant.workspace_id,
            "name": tenant.email,
            "slug": f"demo-{tenant.email}",
            "zone": "Europe/Zurich",
            "calendar": tenant.calendar,
        }
        connection.execute(_WORKSPACE, workspace)
        values = {"id": tenant.connection_id, "workspace": tenant.workspace_id, "email": tenant.email, "token": token}
        connection.execute(_CONNECTION, values)

    @staticmethod
    def _tasks(connection: psycopg.Connection[Any], tenant: Tenant) -> None:
        """The last workspace is rebuilt from its tasks alone."""
        for number in range(ITEMS):
            task = {
                "id": tenant.source(f"task {number}"),
                "workspace": tenant.workspace_id,
                "title": f"Blocker {number}",
                "status": "DONE" if number % 4 == 0 else "TODO",
            }
            connection.execute(_TASK, task)
        rebuild = {
            "workspace": tenant.workspace_id,
            "operation": "REBUILD_ALL",
            "payload": json.dumps({"workspaceId": tenant.workspace_id}),
            "status": "PENDING",
            "attempts": 0,
            "last_error": None,
        }
        connection.execute(_ITEM, rebuild)

    def is_over(self, ground: Ground) -> bool:
        with psycopg.connect(ground.warehouse_dsn, row_factory=dict_row) as connection:
            row = connection.execute(_OPEN).fetchone()
        return row is not None and row["open"] == 0

    def result(self, ground: Ground) -> PartResult:
        """Every calendar as it has to be; no item left over, no token in plain, calls against items."""
        problems: list[str] = []
        shown = 0
        everybody = tenants(ground)
        for tenant in everybody:
            seen = events(ground, tenant.calendar)
            wanted = rebuilt_titles() if tenant is everybody[-1] else item_titles()
            shown += len(seen)
            if seen != wanted:
                problems.append(f"calendar {tenant.calendar}: {len(seen)} events, {len(wanted)} are wanted")
        with psycopg.connect(ground.warehouse_dsn, row_factory=dict_row) as connection:
            states = {row["status"]: row["items"] for row in connection.execute(_STATES, {"since": ground.since})}
            plain = connection.execute(_PLAIN).fetchone()
        if plain is None or plain["plain"]:
            problems.append("a refresh token is stored in plain text")
        carried = states.get("COMPLETED", 0) + states.get("SUPERSEDED", 0)
        if not carried:
            problems.append("no item was carried out")
        calls = google_calls(ground)
        data = {"events": shown, "items": states, "calls_to_google": calls}
        line = f"{carried} items became {shown} events in {len(everybody)} calendars with {calls} calls to Google"
        return PartResult(data, [line], problems)


def tenants(ground: Ground) -> list[Tenant]:
    answer = requests.get(
        f"{ground.sandbox_url}/sandbox/calendar/accounts", params={"count": WORKSPACES}, timeout=TIMEOUT
    )
    answer.raise_for_status()
    return [Tenant.of(account) for account in answer.json()["accounts"]]


def items(tenant: Tenant) -> Iterator[dict[str, Any]]:
    """For every source object an older and a newer item; every fourth is cancelled at last. States in turn."""
    for number in range(ITEMS):
        yield _item(tenant, number, "UPSERT_EVENT", f"Old title {number}", OLD_STATES[number % len(OLD_STATES)])
        operation = "CANCEL_EVENT" if number % 4 == 0 else "UPSERT_EVENT"
        yield _item(tenant, number, operation, f"Review {number}", ("PENDING", "PROCESSING", "FAILED")[number % 3])


def item_titles() -> list[str]:
    return sorted(f"Review {number}" for number in range(ITEMS) if number % 4)


def rebuilt_titles() -> list[str]:
    done = "\N{CHECK MARK} "
    return sorted(f"{'' if number % 4 else done}Deadline: Blocker {number}" for number in range(ITEMS))


def _item(tenant: Tenant, number: int, operation: str, title: str, status: str) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "workspaceId": tenant.workspace_id,
        "calendarId": tenant.calendar,
        "sourceType": "gate_run",
        "sourceId": tenant.source(f"gate {number}"),
    }
    if operation == "UPSERT_EVENT":
        day = f"2026-12-{number % 28 + 1:02d}"
        event = {"title": title, "start": f"{day}T09:00:00Z", "end": f"{day}T10:00:00Z", "isAllDay": number % 5 == 0}
        payload |= {"eventType": "GATE_REVIEW", "event": event}
    return {
        "workspace": tenant.workspace_id,
        "operation": operation,
        "payload": json.dumps(payload),
        "status": status,
        "attempts": 1 if status in ("FAILED", "DEAD_LETTER") else 0,
        "last_error": "invalid_grant" if status == "DEAD_LETTER" else None,
    }


def events(ground: Ground, calendar: str) -> list[str]:
    """What a person sees in a calendar: titles."""
    answer = requests.get(
        f"{ground.sandbox_url}/sandbox/calendar/events", params={"calendar": calendar}, timeout=TIMEOUT
    )
    answer.raise_for_status()
    return sorted(event["summary"] for event in answer.json()[calendar])


def google_calls(ground: Ground) -> int:
    """HTTP calls: batches, listings, tokens."""
    answer = requests.get(f"{ground.sandbox_url}/sandbox/calls", timeout=TIMEOUT)
    answer.raise_for_status()
    return sum(
        int(row["count"])
        for row in answer.json()["answers"]
        if row["vendor"] == "google_calendar" and not row["endpoint"].startswith("batched")
    )
