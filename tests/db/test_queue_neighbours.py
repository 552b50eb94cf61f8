"""The queues beside workers that are not ours, and with rows that nobody expects: no harm to the calendar, and no row
that ends everybody's drain."""

from __future__ import annotations

import dataclasses
import threading

import psycopg
import pytest

from penstock.clients.answers import Answer
from penstock.clients.google_calendar import GoogleCalendarClient
from penstock.core.calendar_calls import Call, Kind
from penstock.jobs.calendar_outbox.delivery import Report
from penstock.jobs.calendar_outbox.store import Claim
from penstock.warehouse.session import Warehouse
from sandbox.slack import token
from tests import notification_scene
from tests.calendar_scene import Scene, Workspace, cancel, source_id, upsert
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db
THEIR_EVENT = "0123456789abcdefghijklmnop"


@pytest.fixture
def scene(warehouse: Warehouse, sandbox: Sandbox) -> Scene:
    return Scene(warehouse, sandbox.url)


@pytest.fixture
def workspace(scene: Scene) -> Workspace:
    return scene.connect_workspaces()[0]


def old_worker_makes(scene: Scene, workspace: Workspace, item: str, number: int, title: str) -> None:
    """What the old worker does with an item: lock, insert with an id of Google's, bind, complete, unlock."""
    assert scene.fetch("select try_lock_outbox_item(%s)", [item]) == [(True,)]
    event = {
        "id": THEIR_EVENT,
        "summary": title,
        "start": {"dateTime": "2026-12-01T10:00:00Z"},
        "end": {"dateTime": "2026-12-01T11:00:00Z"},
    }
    client = scene.open_client(workspace.connection_id, workspace.refresh_token)
    try:
        (reply,) = client.perform([Call(Kind.INSERT, workspace.calendar, THEIR_EVENT, event)])
    finally:
        client.close()
    assert reply.is_good
    scene.fetch(
        "insert into calendar_event_bindings (workspace_id, google_event_id, calendar_id, source_type, source_id, "
        "event_type) values (%s, %s, %s, 'task', %s, 'BLOCKER_DEADLINE')",
        [workspace.workspace_id, THEIR_EVENT, workspace.calendar, source_id(number)],
    )
    scene.fetch("update sync_outbox set status = 'COMPLETED', processed_at = now() where id = %s", [item])
    assert scene.fetch("select unlock_outbox_item(%s)", [item]) == [(True,)]


@pytest.mark.parametrize("drains_between", [True, False])
def test_an_event_that_an_old_worker_makes_meanwhile_is_kept_changed_and_cancelled(
    scene: Scene, workspace: Workspace, drains_between: bool
) -> None:
    old_worker_makes(scene, workspace, scene.upsert(workspace, 1, "theirs"), 1, "theirs")
    if drains_between:
        scene.run()
        assert scene.seen(workspace.calendar) == {THEIR_EVENT: "theirs"}
        assert scene.fetch("select google_event_id from calendar_event_bindings") == [(THEIR_EVENT,)]
    scene.enqueue(workspace, "UPSERT_EVENT", upsert(workspace, 1, "ours"))
    scene.run()
    assert scene.seen(workspace.calendar) == {THEIR_EVENT: "ours"}
    scene.enqueue(workspace, "CANCEL_EVENT", cancel(workspace, 1))
    scene.run()
    assert scene.seen(workspace.calendar) == {}
    assert scene.fetch("select count(*) from calendar_event_bindings") == [(0,)]


def test_the_old_cleanup_spares_what_is_held_and_refuses_nonsense(scene: Scene, workspace: Workspace) -> None:
    for number in range(3):
        scene.upsert(workspace, number)
    scene.run()
    scene.fetch("alter table sync_outbox add column legal_hold boolean")
    scene.fetch("alter table sync_outbox disable trigger user")
    scene.fetch("update sync_outbox set updated_at = now() - interval '40 days'")
    scene.fetch("update sync_outbox set legal_hold = true where seq = (select min(seq) from sync_outbox)")
    assert scene.fetch("select cleanup_old_outbox_items()") == [(2,)]
    assert scene.fetch("select legal_hold from sync_outbox") == [(True,)]
    with pytest.raises(psycopg.errors.RaiseException, match="at least 1, got null"):
        scene.fetch("select cleanup_old_outbox_items(null)")


def test_sources_without_a_time_that_a_calendar_has_stop_no_rebuild(scene: Scene, workspace: Workspace) -> None:
    for number, due in enumerate(("infinity", "-infinity", "20000-01-01", "0001-01-01 BC", "2026-12-01T10:00:00Z")):
        scene.fetch(
            "insert into tasks (workspace_id, title, priority, is_blocking, due_at) values (%s, %s, 'P1', true, %s)",
            [workspace.workspace_id, f"task {number}", due],
        )
        scene.fetch(
            "insert into project_reviews (workspace_id, title, first_review_at) values (%s, %s, %s)",
            [workspace.workspace_id, f"review {number}", due],
        )
    scene.enqueue(workspace, "REBUILD_ALL", {"workspaceId": workspace.workspace_id})
    scene.run()
    assert scene.titles(workspace.calendar) == ["Deadline: task 4", "review 4"]


def test_a_rebuild_that_cannot_be_read_is_tried_later_and_stops_nobody_else(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = scene.connect_workspaces(2)

    def unreadable(*arguments: object) -> object:
        raise OverflowError("date value out of range")

    monkeypatch.setattr("penstock.jobs.calendar_outbox.rebuild.wanted_payloads", unreadable)
    scene.enqueue(bad, "REBUILD_ALL", {"workspaceId": bad.workspace_id})
    scene.upsert(good, 1, "one")
    scene.run()
    assert scene.titles(good.calendar) == ["one"]
    assert scene.fetch("select last_error from sync_outbox where status = 'FAILED' and next_attempt_at > now()") == [
        ("a source of the workspace cannot be read: OverflowError",)
    ]


def test_a_hundred_rebuilds_of_one_workspace_hold_up_nobody_else_s(scene: Scene) -> None:
    busy, other = scene.connect_workspaces(2)
    payload = {"workspaceId": busy.workspace_id}
    scene.enqueue(busy, "REBUILD_ALL", *[payload] * 101)
    scene.fetch(
        "insert into penstock.calendar_lanes (workspace_id, paused_until) values (%s, now() + interval '1 hour')",
        [busy.workspace_id],
    )
    scene.enqueue(other, "REBUILD_ALL", {"workspaceId": other.workspace_id})
    assert scene.run().counts["rebuilt"] == 1
    assert scene.states() == {"PENDING": 101, "COMPLETED": 1}


def test_an_account_that_google_forbids_everything_ends_nobody_else_s_drain(scene: Scene) -> None:
    forbidden, good = scene.connect_workspaces(2)
    for workspace in (forbidden, good):
        scene.upsert(workspace, 1, "one")

    def open_client(connection_id: str, refresh_token: str) -> GoogleCalendarClient:
        client = scene.open_client(connection_id, refresh_token)
        if connection_id == forbidden.connection_id:
            client._exchange_once = lambda request, token: Answer(403, {}, b"{}")  # type: ignore[method-assign]
        return client

    scene.run(open_client=open_client)
    assert scene.titles(good.calendar) == ["one"]
    assert scene.states() == {"COMPLETED": 1, "PENDING": 1}
    assert [notice.code for notice in scene.notices] == ["CALENDAR_FORBIDDEN"]


def test_a_failure_of_one_claim_keeps_the_notices_of_the_others(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    revoked, broken = scene.connect_workspaces(2)
    scene.post("revoke", {"email": revoked.email})
    for workspace in (revoked, broken):
        scene.upsert(workspace, 1)
    drain = scene.drain()
    deliver, both_begun = drain._delivery.deliver, threading.Barrier(2, timeout=10)

    def failing(claim: Claim) -> Report:
        both_begun.wait()
        if claim.workspace_id == broken.workspace_id:
            raise psycopg.errors.DiskFull("no space left")
        return deliver(claim)

    monkeypatch.setattr(drain._delivery, "deliver", failing)
    with pytest.raises(psycopg.errors.DiskFull):
        drain.run()
    assert [notice.code for notice in scene.notices] == ["OAUTH_INVALID"]


def test_a_key_that_was_claimed_long_ago_is_renewed_before_the_first_call(scene: Scene, workspace: Workspace) -> None:
    scene.upsert(workspace, 1)
    drain = scene.drain()
    drain._store.wake()
    claim = drain._store.claim()
    assert claim is not None
    scene.fetch("update penstock.calendar_keys set lease_epoch = lease_epoch + 1")
    frozen = dataclasses.replace(claim, claimed_at=claim.claimed_at - 121)
    report = drain._delivery.deliver(frozen)
    assert report.counts["requests"] == 0
    assert scene.calls() == []


@pytest.mark.parametrize("column", ["next_attempt_at", "created_at", "time_to_live"])
def test_a_row_of_a_far_future_does_not_end_the_sweep(warehouse: Warehouse, sandbox: Sandbox, column: str) -> None:
    scene = notification_scene.Scene(warehouse, sandbox.url, token(sandbox.state))
    fine, config = scene.insert(scene.config()), scene.config()
    if column == "time_to_live":
        scene.rows("update notification_config set time_to_live = '300000 years' where id = %s::uuid", config)
    far = scene.insert(config, **({} if column == "time_to_live" else {column: "294276-12-31 12:00+00"}))
    scene.drain()
    assert scene.row(fine)["state"] == "sent"
    assert scene.rows("select state from notification_queue where id = %s::uuid", far)[0]["state"] in ("queued", "sent")
