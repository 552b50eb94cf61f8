"""REBUILD_ALL, rotation of keys, rows of the old worker, several workers, and what nobody may see."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from typing import Any

import psycopg
import pytest
import requests

from penstock.core.calendar_events import KEY_PROPERTY, WORKSPACE_PROPERTY
from penstock.jobs.calendar_outbox import Orders
from penstock.jobs.calendar_outbox.__main__ import main
from penstock.warehouse.migrations import migrate
from penstock.warehouse.session import Warehouse
from penstock.warehouse.vault import Key, Vault, rotate_all
from tests.calendar_scene import KEY, OLD_KEY, Scene, Workspace, source_id, upsert
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db
SETS = ("ops", "accounts", "calendar")


@pytest.fixture
def scene(warehouse: Warehouse, sandbox: Sandbox) -> Scene:
    return Scene(warehouse, sandbox.url)


@pytest.fixture
def workspace(scene: Scene) -> Workspace:
    return scene.connect_workspaces()[0]


def milestone(scene: Scene, workspace: Workspace, number: int, title: str, status: str = "PLANNED") -> None:
    scene.fetch(
        "insert into public.milestones (id, workspace_id, title, due_date, status) "
        "values (%s, %s, %s, '2026-12-24', %s)",
        [source_id(number), workspace.workspace_id, title, status],
    )


def rebuild(scene: Scene, workspace: Workspace) -> None:
    scene.enqueue(workspace, "REBUILD_ALL", {"workspaceId": workspace.workspace_id})
    scene.run()


def test_a_rebuild_makes_the_calendar_what_the_sources_say(scene: Scene, workspace: Workspace) -> None:
    scene.upsert(workspace, 1, "gone source")
    scene.upsert(workspace, 2, "wrong title", source_type="milestone")
    scene.run()
    milestone(scene, workspace, 2, "Launch")
    milestone(scene, workspace, 3, "Done", "COMPLETED")
    milestone(scene, workspace, 4, "Never", "CANCELLED")
    rebuild(scene, workspace)
    assert scene.titles(workspace.calendar) == ["Launch", "\N{CHECK MARK} Done"]
    assert scene.states()["COMPLETED"] == 6


def test_a_second_rebuild_writes_nothing(scene: Scene, workspace: Workspace) -> None:
    for number in range(5):
        milestone(scene, workspace, number, f"M{number}")
    rebuild(scene, workspace)
    before = len(scene.calls("insert", "patch", "update", "delete"))
    rebuild(scene, workspace)
    assert len(scene.calls("insert", "patch", "update", "delete")) == before == 5


def test_a_rebuild_mends_what_people_did_and_removes_doubles(scene: Scene, workspace: Workspace) -> None:
    for number in range(4):
        milestone(scene, workspace, number, f"M{number}")
    rebuild(scene, workspace)
    ids = sorted(scene.seen(workspace.calendar).items(), key=lambda item: item[1])
    scene.post("edit", {"calendar": workspace.calendar, "event": ids[0][0], "change": {"summary": "mine"}})
    scene.post("edit", {"calendar": workspace.calendar, "event": ids[1][0], "change": None})
    marks = {
        KEY_PROPERTY: f"{workspace.workspace_id}:milestone:{source_id(2)}",
        WORKSPACE_PROPERTY: workspace.workspace_id,
    }
    foreign = {
        KEY_PROPERTY: f"{workspace.workspace_id}:task:{uuid.uuid4()}",
        WORKSPACE_PROPERTY: workspace.workspace_id,
    }
    calendar = scene.open_client("x", workspace.refresh_token)
    base = {"summary": "double", "start": {"date": "2026-12-24"}, "end": {"date": "2026-12-25"}}
    for private in (marks, foreign, {"somebody": "else"}):
        answer = requests.post(
            f"{scene.sandbox_url}/google/calendar/v3/calendars/{workspace.calendar}/events",
            json={**base, "extendedProperties": {"private": private}},
            headers={"Authorization": f"Bearer {calendar._bearer()}"},
            timeout=10,
        )
        answer.raise_for_status()
    calendar.close()
    rebuild(scene, workspace)
    assert scene.titles(workspace.calendar) == ["M0", "M1", "M2", "M3", "double"]


def test_a_rebuild_keeps_the_occurrences_that_people_moved_or_took_out(scene: Scene, workspace: Workspace) -> None:
    scene.fetch(
        "insert into public.project_reviews (id, workspace_id, title, first_review_at, recurrence) "
        "values (%s, %s, 'Weekly', '2026-12-07 09:00+00', 'RRULE:FREQ=WEEKLY')",
        [source_id(1), workspace.workspace_id],
    )
    rebuild(scene, workspace)
    (series,) = scene.seen(workspace.calendar)
    moved, taken_out = f"{series}_20261214T090000Z", f"{series}_20261221T090000Z"
    start, end = ({"dateTime": f"2026-12-15T{hour}:00:00Z"} for hour in (14, 15))
    scene.post("edit", {"calendar": workspace.calendar, "event": moved, "change": {"start": start, "end": end}})
    scene.post("edit", {"calendar": workspace.calendar, "event": taken_out, "change": None})
    before = scene.get("events", calendar=workspace.calendar)
    writes = len(scene.calls("insert", "patch", "update", "delete"))
    rebuild(scene, workspace)
    assert scene.get("events", calendar=workspace.calendar) == before
    assert len(scene.calls("insert", "patch", "update", "delete")) == writes == 1
    scene.fetch("update public.project_reviews set title = 'Review'")
    rebuild(scene, workspace)
    assert scene.seen(workspace.calendar) == {series: "Review", moved: "Weekly"}
    scene.fetch("delete from public.project_reviews")
    rebuild(scene, workspace)
    assert scene.seen(workspace.calendar) == {}


def test_a_rebuild_waits_for_google_and_for_a_connection(scene: Scene, workspace: Workspace, sandbox: Sandbox) -> None:
    milestone(scene, workspace, 1, "Launch")
    sandbox.faults(
        {"vendor": "google_calendar", "method": "GET", "action": "status", "times": 1, "params": {"status": 503}}
    )
    rebuild(scene, workspace)
    assert scene.states() == {"FAILED": 1}
    scene.post("revoke", {"email": workspace.email})
    scene.forget_delays()
    scene.run()
    assert scene.dead()[0][0] == "OAUTH_INVALID"
    token = scene.post("connect", {"email": workspace.email})["refresh_token"]
    scene.fetch("update public.google_connections set refresh_token_encrypted = %s, is_valid = true", [token])
    scene.run()
    assert scene.titles(workspace.calendar) == ["Launch"]


@pytest.mark.parametrize(
    ("age", "attempts", "is_dead"), [("25 hours", 5, True), ("25 hours", 2, False), ("1 hour", 5, False)]
)
def test_a_rebuild_that_fails_for_a_day_becomes_a_dead_letter(
    scene: Scene, workspace: Workspace, sandbox: Sandbox, age: str, attempts: int, is_dead: bool
) -> None:
    sandbox.faults({"vendor": "google_calendar", "method": "GET", "action": "status", "params": {"status": 503}})
    scene.enqueue(workspace, "REBUILD_ALL", {"workspaceId": workspace.workspace_id})
    scene.fetch("update public.sync_outbox set created_at = now() - %s::interval, attempts = %s", [age, attempts])
    scene.run()
    assert scene.states() == {"DEAD_LETTER" if is_dead else "FAILED": 1}
    assert [reason for reason, _ in scene.dead()] == (["CALENDAR_TRANSIENT"] if is_dead else [])


def test_items_that_name_no_source_are_dead_letters_in_words(scene: Scene, workspace: Workspace) -> None:
    bad: tuple[Any, ...] = (
        {},
        [1],
        "text",
        {"sourceType": "task", "sourceId": "x" * 2000},
        {**upsert(workspace, 1), "workspaceId": str(uuid.uuid4())},
        {
            **upsert(workspace, 2),
            "event": {"title": "T", "start": "2026-12-02T10:00:00Z", "end": "2026-12-01T10:00:00Z"},
        },
        upsert(workspace, 3, timeZone="Foo/Bar"),
        upsert(workspace, 4, recurrence=["RRULE:garbage"]),
        upsert(workspace, 5, description="x" * 100_000),
    )
    scene.enqueue(workspace, "UPSERT_EVENT", *bad)
    scene.upsert(workspace, 9, "good")
    scene.run()
    assert {reason for reason, _ in scene.dead()} == {"CALENDAR_EVENT_INVALID"}
    assert scene.states() == {"COMPLETED": 1, "DEAD_LETTER": len(bad)}
    assert scene.titles(workspace.calendar) == ["good"]


def test_keys_are_rotated_while_the_drain_runs(scene: Scene) -> None:
    workspaces = scene.connect_workspaces(6)
    old, both = Vault((Key.parse(KEY),)), Vault((Key.parse(OLD_KEY), Key.parse(KEY)))
    scene.vault = both
    stop = threading.Event()

    def rotate_for_ever() -> None:
        with psycopg.connect(scene.warehouse.dsn, autocommit=True) as connection:
            while not stop.is_set():
                scene.fetch("update public.google_connections set refresh_token_encrypted = refresh_token_encrypted")
                rotate_all(connection, both)

    thread = threading.Thread(target=rotate_for_ever)
    thread.start()
    try:
        for turn in range(3):
            for workspace in workspaces:
                scene.upsert(workspace, turn, f"turn {turn}")
            scene.run()
    finally:
        stop.set()
        thread.join()
    assert scene.states() == {"COMPLETED": 18}
    stored = [value for (value,) in scene.fetch("select refresh_token_encrypted from public.google_connections")]
    assert all(value.startswith("v1:old:") for value in stored)
    with psycopg.connect(scene.warehouse.dsn, autocommit=True) as connection:
        again = rotate_all(connection, both)
        refused = rotate_all(connection, old)
    assert (again.seen, again.rewritten, len(refused.problems)) == (6, 0, 6)


def test_a_token_that_was_copied_into_another_row_opens_nothing(scene: Scene) -> None:
    first, second = scene.connect_workspaces(2)
    scene.fetch(
        "update public.google_connections set refresh_token_encrypted = "
        "(select refresh_token_encrypted from public.google_connections where id = %s) where id = %s",
        [first.connection_id, second.connection_id],
    )
    scene.upsert(second, 1, "stolen")
    scene.run()
    assert scene.dead()[0][0] == "CREDENTIAL_UNDECRYPTABLE"
    assert scene.seen(first.calendar) == scene.seen(second.calendar) == {}


def test_no_token_is_in_the_database_or_the_log(
    scene: Scene, workspace: Workspace, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scene.fetch("update public.google_connections set refresh_token_encrypted = %s", [workspace.refresh_token])
    scene.upsert(workspace, 1, "one")
    scene.run()
    sandbox.faults({"vendor": "*", "path": "/batch", "action": "status", "params": {"status": 500}})
    scene.upsert(workspace, 2, "two")
    scene.run()
    sandbox.faults()
    scene.post("revoke", {"email": workspace.email})
    scene.forget_delays()
    scene.run()
    assert workspace.refresh_token in scene.secrets
    assert any(secret.startswith("ya29.") for secret in scene.secrets)
    tables = scene.fetch(
        "select format('%%I.%%I', schemaname, tablename) from pg_tables where schemaname in ('public', 'penstock')"
    )
    dump = "\n".join(str(row) for (table,) in tables for row in scene.fetch(f"select to_jsonb(t)::text from {table} t"))
    for secret in {*scene.secrets, scene.get("accounts")["client_secret"]}:
        assert secret not in dump
        assert secret not in caplog.text


def test_two_drains_share_the_work_and_nothing_is_sent_twice(scene: Scene) -> None:
    workspaces = scene.connect_workspaces(4)
    for workspace in workspaces:
        for number in range(60):
            scene.upsert(workspace, number)
    drains = [scene.drain(holder=f"drain {number}") for number in range(2)]
    threads = [threading.Thread(target=drain.run) for drain in drains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scene.states() == {"COMPLETED": 240}
    assert len(scene.calls("insert")) == 240
    assert len(scene.calls()) == 240


def test_a_resident_drain_sends_within_a_second_and_stops_when_told(scene: Scene, workspace: Workspace) -> None:
    drain = scene.drain(Orders(residence=30, threads=2))
    thread = threading.Thread(target=drain.run)
    thread.start()
    try:
        time.sleep(1.0)
        began = time.monotonic()
        scene.upsert(workspace, 1, "now")
        while not scene.calls() and time.monotonic() < began + 5:
            time.sleep(0.02)
        waited = time.monotonic() - began
    finally:
        drain.stop()
        thread.join(5)
    assert not thread.is_alive()
    assert waited < 1.0
    assert scene.titles(workspace.calendar) == ["now"]


def test_dead_letters_are_listed_replayed_and_workspaces_paused_by_command(
    scene: Scene, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.upsert(workspace, 1, "one", calendar="nobodys")
    scene.run()
    dsn = ["--dsn", scene.warehouse.dsn]
    assert main(["list", *dsn]) == 0
    listed = capsys.readouterr().out
    assert "CALENDAR_NOT_FOUND" in listed
    assert "correct its id" in listed
    assert main(["replay", "--code", "CALENDAR_NOT_FOUND", *dsn]) == 0
    assert main(["pause", "--workspace", workspace.workspace_id, "--reason", "audit", *dsn]) == 0
    scene.run()
    assert scene.states() == {"PENDING": 1}
    assert main(["resume", "--workspace", workspace.workspace_id, *dsn]) == 0
    assert main(["rebuild", "--workspace", workspace.workspace_id, *dsn]) == 0
    scene.forget_delays()
    scene.run()
    assert scene.states() == {"COMPLETED": 2, "SUPERSEDED": 1}


OLD_SCHEMA = """
create type outbox_operation as enum ('UPSERT_EVENT', 'CANCEL_EVENT', 'REBUILD_ALL');
create type outbox_status as enum ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED', 'DEAD_LETTER');
create type event_kind as enum ('GATE_REVIEW', 'BLOCKER_DEADLINE', 'MILESTONE', 'PROJECT_REVIEW');
create table workspaces (id uuid primary key default gen_random_uuid(), name text, slug text unique);
create table sync_outbox (
    id uuid primary key default gen_random_uuid(), workspace_id uuid not null references workspaces on delete cascade,
    operation outbox_operation not null, payload jsonb not null, status outbox_status not null default 'PENDING',
    attempts int not null default 0, max_attempts int not null default 5,
    next_attempt_at timestamptz not null default now(), last_error text, created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(), processed_at timestamptz,
    check (attempts >= 0 and attempts <= max_attempts));
create table calendar_event_bindings (
    id uuid primary key default gen_random_uuid(), workspace_id uuid not null, google_event_id text not null,
    calendar_id text not null, source_type text not null, source_id uuid not null, event_type event_kind not null,
    event_title text, event_start timestamptz, event_end timestamptz, last_synced_at timestamptz not null default now(),
    sync_version int not null default 1, created_at timestamptz default now(), updated_at timestamptz default now());
create table google_connections (
    id uuid primary key default gen_random_uuid(), workspace_id uuid not null, calendar_id text,
    refresh_token_encrypted text not null, scopes text[] not null default '{}', is_valid boolean not null default true,
    created_at timestamptz default now(), updated_at timestamptz default now());
create function try_lock_outbox_item(p_id uuid) returns boolean language sql
    as 'select pg_try_advisory_lock(hashtext(p_id::text))';
create function cleanup_old_outbox_items(p_days int default 30) returns int language sql as 'select 0';
"""


@pytest.fixture
def old_scene(empty_database: str, sandbox: Sandbox) -> Scene:
    """A database of the old worker, not migrated yet."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(OLD_SCHEMA)
    return Scene(Warehouse(empty_database, patience=5), sandbox.url)


def test_rows_of_the_old_worker_in_every_state_drain_correctly(old_scene: Scene) -> None:
    scene = old_scene
    account = scene.get("accounts")["accounts"][0]
    workspace = Workspace(str(uuid.uuid4()), str(uuid.uuid4()), account["email"], account["refresh_token"])
    scene.fetch("insert into workspaces (id, name) values (%s, 'old')", [workspace.workspace_id])
    for age in (2, 1):
        scene.fetch(
            "insert into google_connections (workspace_id, refresh_token_encrypted, updated_at) "
            "values (%s, %s, now() - %s * interval '1 day')",
            [workspace.workspace_id, workspace.refresh_token if age == 1 else "1//stale", age],
        )
    states = ("PENDING", "PROCESSING", "FAILED", "DEAD_LETTER", "COMPLETED")
    for number, status in enumerate(states):
        scene.fetch(
            "insert into sync_outbox (workspace_id, operation, payload, status, last_error, created_at) "
            "values (%s, 'UPSERT_EVENT', %s, %s, %s, now() - interval '1 hour')",
            [
                workspace.workspace_id,
                json.dumps(upsert(workspace, number, status)),
                status,
                "invalid_grant: Token has been expired" if status == "DEAD_LETTER" else None,
            ],
        )
    scene.fetch(
        "insert into sync_outbox (workspace_id, operation, payload, status, created_at) "
        "values (%s, 'UPSERT_EVENT', %s, 'PROCESSING', now() - interval '2 hours')",
        [workspace.workspace_id, json.dumps(upsert(workspace, 0, "older"))],
    )
    for _ in range(2):  # the old upsert named no conflict target
        scene.fetch(
            "insert into calendar_event_bindings (workspace_id, google_event_id, calendar_id, source_type, source_id, "
            "event_type) values (%s, 'oldid0001', %s, 'task', %s, 'MILESTONE')",
            [workspace.workspace_id, workspace.calendar, source_id(1)],
        )
    migrate(scene.warehouse.dsn, SETS)
    migrate(scene.warehouse.dsn, SETS)
    with requests.Session() as session:
        client = scene.open_client("x", workspace.refresh_token)
        session.headers["Authorization"] = f"Bearer {client._bearer()}"
        made = session.post(
            f"{scene.sandbox_url}/google/calendar/v3/calendars/{workspace.calendar}/events",
            json={"id": "oldid0001", "summary": "by the old worker", "start": {"date": "2026-12-01"},
                  "end": {"date": "2026-12-02"}},
            timeout=10,
        )  # fmt: skip
        made.raise_for_status()
        client.close()
    scene.run()
    assert scene.titles(workspace.calendar) == ["FAILED", "PENDING", "PROCESSING"]
    assert scene.seen(workspace.calendar)["oldid0001"] == "PROCESSING"
    assert scene.states() == {"COMPLETED": 4, "DEAD_LETTER": 1, "SUPERSEDED": 1}
    scene.fetch("update google_connections set is_valid = false")
    scene.fetch("update google_connections set is_valid = true")
    scene.run()
    assert scene.titles(workspace.calendar) == ["DEAD_LETTER", "FAILED", "PENDING", "PROCESSING"]
    assert scene.fetch("select count(*), count(distinct source_id) from calendar_event_bindings") == [(4, 4)]
    scene.warehouse.close()


def test_the_old_functions_do_what_they_say(old_scene: Scene) -> None:
    scene = old_scene
    migrate(scene.warehouse.dsn, SETS)
    workspace = scene.connect_workspaces()[0]
    item = scene.upsert(workspace, 1, "one")
    lock, unlock = "select try_lock_outbox_item(%s)", "select unlock_outbox_item(%s)"
    assert (scene.fetch(lock, [item]), scene.fetch(lock, [item])) == ([(True,)], [(False,)])
    scene.run()
    assert scene.states() == {"PENDING": 1}
    assert (scene.fetch(unlock, [item]), scene.fetch(unlock, [item])) == ([(True,)], [(False,)])
    scene.run()
    assert scene.states() == {"COMPLETED": 1}
    scene.fetch("alter table sync_outbox disable trigger sync_outbox_touch")
    scene.fetch("update sync_outbox set updated_at = now() - interval '31 days'")
    assert scene.fetch("select cleanup_old_outbox_items()") == [(1,)]
    with pytest.raises(psycopg.errors.RaiseException, match="at least 1"):
        scene.fetch("select cleanup_old_outbox_items(0)")
    scene.warehouse.close()
