"""A drain of the calendar outbox that dies at a chosen statement or call, and scenes to let it die in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from penstock.clients.google_calendar import GoogleCalendarClient
from penstock.jobs.calendar_outbox import CalendarStore
from tests.calendar_scene import Scene, Workspace


class Crash(BaseException):
    """The process is gone."""


@contextmanager
def dying_at(step: int, *, after: bool) -> Iterator[list[int]]:
    """The `step`-th statement of the store or call to Google is the last: it is not made, or its answer is never read.
    From then on nothing of this worker happens any more. Yields the number of steps taken."""
    taken = [0]
    lock = threading.Lock()

    def guard(real: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            with lock:
                taken[0] += 1
                number = taken[0]
            if number > step or (number == step and not after):
                raise Crash
            answer = real(*args, **kwargs)
            if number == step:
                raise Crash
            return answer

        return stepping

    with (
        mock.patch.object(CalendarStore, "_patiently", guard(CalendarStore._patiently)),
        mock.patch.object(CalendarStore, "transaction", guard(CalendarStore.transaction)),
        mock.patch.object(GoogleCalendarClient, "perform", guard(GoogleCalendarClient.perform)),
        mock.patch.object(GoogleCalendarClient, "own_events", guard(GoogleCalendarClient.own_events)),
    ):
        yield taken


def die(scene: Scene, step: int, *, after: bool) -> bool:
    """Whether the drain died before its end; its leases are over then."""
    with dying_at(step, after=after):
        try:
            scene.run()
        except Crash:
            scene.fetch("update penstock.calendar_keys set leased_until = now() - interval '1 second'")
            scene.fetch("update penstock.calendar_lanes set held_until = now() - interval '1 second'")
            return True
    return False


def start(scene: Scene) -> Workspace:
    scene.reset()
    scene.fetch("delete from public.workspaces")
    return scene.connect_workspaces()[0]


def drain_dies(scene: Scene, step: int, *, after: bool) -> bool:
    """Changes, a cancel, a move and a new event; whether the drain died. Raises AssertionError for a wrong calendar."""
    workspace = start(scene)
    scene.upsert(workspace, 1, "changed")
    scene.upsert(workspace, 2, "cancelled")
    scene.upsert(workspace, 3, "moved")
    scene.run()
    scene.upsert(workspace, 1, "changed again")
    scene.cancel(workspace, 2)
    scene.upsert(workspace, 3, "moved", calendar=workspace.other_calendar)
    scene.upsert(workspace, 4, "new")
    died = die(scene, step, after=after)
    scene.upsert(workspace, 4, "newest")
    scene.run()
    assert scene.titles(workspace.calendar) == ["changed again", "newest"], step
    assert scene.titles(workspace.other_calendar) == ["moved"], step
    assert set(scene.states()) <= {"COMPLETED", "SUPERSEDED"}, step
    return died


def rebuild_dies(scene: Scene, step: int, *, after: bool) -> bool:
    """Events whose sources are gone, and sources without events."""
    workspace = start(scene)
    for number in range(3):
        scene.upsert(workspace, number, f"old {number}", source_type="milestone")
    scene.run()
    scene.fetch(
        "insert into public.milestones (id, workspace_id, title, due_date) "
        "select ('00000000-0000-0000-0000-00000000000' || n)::uuid, %s, 'wanted ' || n, '2026-12-24' "
        "from generate_series(2, 5) as n",
        [workspace.workspace_id],
    )
    scene.enqueue(workspace, "REBUILD_ALL", {})
    died = die(scene, step, after=after)
    scene.run()
    assert scene.titles(workspace.calendar) == [f"wanted {number}" for number in (2, 3, 4, 5)], step
    assert set(scene.states()) <= {"COMPLETED", "SUPERSEDED"}, step
    return died
