"""A rebuild among producers whose transactions are open: it neither overtakes them nor stands in their way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from penstock.jobs.calendar_outbox import rebuild as rebuild_module
from penstock.jobs.calendar_outbox.store import SQL
from penstock.warehouse.session import Warehouse
from tests.calendar_scene import Scene, Workspace, cancel, source_id, upsert
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db
Producer = psycopg.Connection[Any]
WAITING = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"


@pytest.fixture
def scene(warehouse: Warehouse, sandbox: Sandbox) -> Scene:
    return Scene(warehouse, sandbox.url)


@pytest.fixture
def workspace(scene: Scene) -> Workspace:
    return scene.connect_workspaces()[0]


@pytest.fixture
def producers(fresh_database: str) -> Iterator[tuple[Producer, Producer]]:
    with psycopg.connect(fresh_database) as first, psycopg.connect(fresh_database) as second:
        yield first, second


def milestone(scene: Scene, workspace: Workspace, number: int) -> None:
    scene.fetch(
        "insert into public.milestones (id, workspace_id, title, due_date) values (%s, %s, %s, '2026-12-24')",
        [source_id(number), workspace.workspace_id, f"M{number}"],
    )


def ask(scene: Scene, workspace: Workspace) -> None:
    scene.enqueue(workspace, "REBUILD_ALL", {"workspaceId": workspace.workspace_id})


def rebuild(scene: Scene, workspace: Workspace) -> None:
    ask(scene, workspace)
    scene.run()


def write(producer: Producer, workspace: Workspace, operation: str, payload: dict[str, Any]) -> int:
    """An item in the producer's open transaction; its place."""
    query = "insert into public.sync_outbox (workspace_id, operation, payload) values (%s, %s, %s) returning seq"
    row = producer.execute(query, [workspace.workspace_id, operation, json.dumps(payload)]).fetchone()
    assert row is not None
    return int(row[0])


def move(producer: Producer, workspace: Workspace, number: int) -> int:
    """A milestone's date, and its item."""
    producer.execute("update public.milestones set due_date = '2027-02-01' where id = %s", [source_id(number)])
    event = {"start": "2027-02-01", "end": "2027-02-01", "isAllDay": True}
    payload = upsert(workspace, number, f"M{number}", source_type="milestone", **event)
    return write(producer, workspace, "UPSERT_EVENT", {**payload, "eventType": "MILESTONE"})


def starts(scene: Scene, workspace: Workspace) -> dict[str, str]:
    events = scene.get("events", calendar=workspace.calendar)[workspace.calendar]
    return {event["summary"]: event["start"]["date"] for event in events}


def until_somebody_waits(scene: Scene) -> None:
    deadline = time.monotonic() + 10
    while not scene.fetch(WAITING)[0][0]:
        assert time.monotonic() < deadline, "nobody waits for a lock"
        time.sleep(0.01)


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(60)
    assert not thread.is_alive()


def test_what_a_producer_cancels_meanwhile_does_not_come_back(
    scene: Scene, workspace: Workspace, producers: tuple[Producer, Producer]
) -> None:
    milestone(scene, workspace, 1)
    rebuild(scene, workspace)
    ask(scene, workspace)
    producer = producers[0]
    producer.execute("update public.milestones set status = 'CANCELLED' where id = %s", [source_id(1)])
    write(producer, workspace, "CANCEL_EVENT", cancel(workspace, 1, source_type="milestone"))
    with beside(scene.run):
        until_somebody_waits(scene)
        producer.commit()
    scene.run()
    assert scene.titles(workspace.calendar) == []


@pytest.mark.parametrize("is_known", [True, False], ids=["known key", "new key"])
def test_what_a_producer_moves_meanwhile_is_not_moved_back(
    scene: Scene, workspace: Workspace, producers: tuple[Producer, Producer], is_known: bool
) -> None:
    milestone(scene, workspace, 1)
    if is_known:
        rebuild(scene, workspace)
    ask(scene, workspace)
    move(producers[0], workspace, 1)
    with beside(scene.run):
        until_somebody_waits(scene)
        producers[0].commit()
    scene.run()
    assert starts(scene, workspace) == {"M1": "2027-02-01"}


def test_a_producer_that_takes_its_change_back_is_not_believed(
    scene: Scene, workspace: Workspace, producers: tuple[Producer, Producer]
) -> None:
    milestone(scene, workspace, 1)
    ask(scene, workspace)
    move(producers[0], workspace, 1)
    with beside(scene.run):
        until_somebody_waits(scene)
        producers[0].rollback()
    assert starts(scene, workspace) == {"M1": "2026-12-24"}


def test_who_comes_while_a_rebuild_writes_comes_behind_it(
    scene: Scene, workspace: Workspace, producers: tuple[Producer, Producer]
) -> None:
    rebuilds, producer = producers
    seqs: list[int] = []
    rebuilds.execute(SQL["shut_gate"], {"workspace_id": workspace.workspace_id})
    with beside(lambda: seqs.append(write(producer, workspace, "UPSERT_EVENT", upsert(workspace, 1)))):
        until_somebody_waits(scene)
        seqs.append(write(rebuilds, workspace, "UPSERT_EVENT", upsert(workspace, 1)))
        rebuilds.commit()
    producer.commit()
    assert seqs == sorted(seqs)
    assert scene.fetch("select dirty_seq from penstock.calendar_keys") == [(seqs[1],)]


def test_other_workspaces_go_on_while_one_is_rebuilt(scene: Scene, producers: tuple[Producer, Producer]) -> None:
    one, *others = scene.connect_workspaces(4)
    other = next(each for each in others if each.workspace_id[-2:] != one.workspace_id[-2:])  # one in 256 shares a gate
    producers[0].execute(SQL["shut_gate"], {"workspace_id": one.workspace_id})
    producers[1].execute("set lock_timeout = '100ms'")
    write(producers[1], other, "UPSERT_EVENT", upsert(other, 1))
    with pytest.raises(psycopg.errors.LockNotAvailable):
        write(producers[1], one, "UPSERT_EVENT", upsert(one, 1))


def test_producers_that_write_in_another_order_are_not_ended_by_a_rebuild(
    scene: Scene, workspace: Workspace, producers: tuple[Producer, Producer]
) -> None:
    """The first holds the last key and then wants the first one, which a rebuild would have locked before."""
    for number in range(4):
        milestone(scene, workspace, number)
    rebuild(scene, workspace)
    ask(scene, workspace)
    first, second = producers
    move(first, workspace, 3)
    move(second, workspace, 1)
    with beside(scene.run):
        until_somebody_waits(scene)
        began = time.monotonic()
        for number in (2, 0):
            move(first, workspace, number)
        first.commit()
        second.commit()
        held_up = time.monotonic() - began
    scene.run()
    assert starts(scene, workspace) == {f"M{number}": "2027-02-01" for number in range(4)}
    assert held_up < 1.0


def test_a_producer_that_comes_while_a_rebuild_waits_is_let_through(
    scene: Scene, workspace: Workspace, producers: tuple[Producer, Producer]
) -> None:
    milestone(scene, workspace, 1)
    milestone(scene, workspace, 2)
    ask(scene, workspace)
    first, second = producers
    move(first, workspace, 1)
    with beside(scene.run):
        until_somebody_waits(scene)
        second.execute("set lock_timeout = '1s'")
        move(second, workspace, 2)
        second.commit()
        first.commit()
    scene.run()
    assert starts(scene, workspace) == {"M1": "2027-02-01", "M2": "2027-02-01"}


def test_a_producer_that_does_not_end_puts_the_rebuild_off_and_nobody_else(
    scene: Scene, producers: tuple[Producer, Producer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild_module, "PRODUCERS_PATIENCE_S", 0.5)
    one, other = scene.connect_workspaces(2)
    milestone(scene, one, 1)
    ask(scene, one)
    move(producers[0], one, 1)
    scene.upsert(other, 1, "other's")
    scene.run()
    assert scene.titles(other.calendar) == ["other's"]
    assert scene.states() == {"COMPLETED": 1, "FAILED": 1}
    assert "without a commit" in scene.fetch("select last_error from public.sync_outbox where status = 'FAILED'")[0][0]
    producers[0].commit()
    scene.forget_delays()
    scene.run()
    assert starts(scene, one) == {"M1": "2027-02-01"}
