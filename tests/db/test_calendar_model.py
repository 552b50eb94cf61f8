"""The key queue against a model: whatever is written, claimed, acknowledged, lost and replayed, in whatever order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from penstock.core.calendar_calls import Known, Verdict
from penstock.jobs.calendar_outbox import CalendarStore, Choice
from penstock.jobs.calendar_outbox.delivery import _row
from penstock.jobs.calendar_outbox.store import ClaimedKey
from penstock.warehouse.session import Warehouse
from tests.calendar_scene import Scene, Workspace
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db
NUMBERS = st.integers(0, 3)
PLACES = st.integers(0, 1)
OPEN = ("PENDING", "PROCESSING", "FAILED")


class KeyQueue(RuleBasedStateMachine):
    """Two workers, two workspaces, four keys in each. The model knows who holds a key, and how many items there are."""

    scene: Scene
    workspaces: list[Workspace]

    @initialize()
    def empty(self) -> None:
        self.scene.fetch("delete from public.sync_outbox")
        self.scene.fetch("delete from penstock.calendar_keys")
        self.scene.fetch("delete from penstock.calendar_lanes")
        self.stores = [CalendarStore(self.scene.warehouse, f"worker {n}", lease=dt.timedelta(hours=1)) for n in (0, 1)]
        self.held: dict[str, tuple[int, ClaimedKey]] = {}
        self.stale: list[tuple[int, ClaimedKey]] = []
        self.items = 0

    @rule(place=PLACES, number=NUMBERS, is_cancel=st.booleans())
    def write(self, place: int, number: int, is_cancel: bool) -> None:
        workspace = self.workspaces[place]
        if is_cancel:
            self.scene.cancel(workspace, number)
        else:
            self.scene.upsert(workspace, number)
        self.items += 1

    @rule(worker=PLACES, limit=st.integers(1, 3))
    def claim(self, worker: int, limit: int) -> None:
        self.stores[worker].wake()
        claim = self.stores[worker].claim(limit)
        if claim is None:
            return
        assert len(claim.keys) <= limit
        assert len({key.event_key.partition(":")[0] for key in claim.keys}) <= 1
        for key in claim.keys:
            assert key.event_key not in self.held, "held twice"
            self.held[key.event_key] = (worker, key)

    @rule(data=st.data(), verdict=st.sampled_from(list(Verdict)))
    def acknowledge(self, data: st.DataObject, verdict: Verdict) -> None:
        if not self.held:
            return
        name = data.draw(st.sampled_from(sorted(self.held)))
        worker, key = self.held.pop(name)
        row = outcome(key, verdict)
        assert self.stores[worker].acknowledge([row]) == {name}
        below = self.scene.fetch(
            "select status::text from public.sync_outbox where event_key = %s and seq < %s", [name, key.seq]
        )
        own = self.scene.fetch("select status::text from public.sync_outbox where seq = %s", [key.seq])
        if verdict is Verdict.DONE:
            assert {status for (status,) in below} <= {"COMPLETED", "SUPERSEDED"}
            assert own in ([("COMPLETED",)], [("SUPERSEDED",)])
        if verdict is Verdict.DEAD and key.operation is not None:
            assert own == [("DEAD_LETTER",)]

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """A lease ends; its worker does not know."""
        if not self.held:
            return
        name = data.draw(st.sampled_from(sorted(self.held)))
        self.stale.append(self.held.pop(name))
        self.scene.fetch(
            "update penstock.calendar_keys set leased_until = now() - interval '1 second' where event_key = %s", [name]
        )

    @rule(verdict=st.sampled_from(list(Verdict)))
    def write_late(self, verdict: Verdict) -> None:
        """A worker that lost its lease to another one changes nothing any more."""
        for worker, key in self.stale:
            holder = self.held.get(key.event_key)
            if holder is not None and holder[1].epoch > key.epoch:
                before = self.scene.fetch("select * from penstock.calendar_keys where event_key = %s", [key.event_key])
                assert self.stores[worker].acknowledge([outcome(key, verdict)]) == set()
                after = self.scene.fetch("select * from penstock.calendar_keys where event_key = %s", [key.event_key])
                assert before == after

    @rule()
    def replay(self) -> None:
        self.stores[0].replay(Choice())

    @rule(place=PLACES)
    def bury_and_return(self, place: int) -> None:
        """The connection is lost and found again."""
        workspace = self.workspaces[place]
        worker = self.stores[0]
        worker.bury(workspace.workspace_id, "OAUTH_INVALID", "revoked")
        self.held = {
            name: held
            for name, held in self.held.items()
            if not (name.startswith(workspace.workspace_id) and held[0] == 0)
        }
        self.scene.fetch(
            "update public.google_connections set is_valid = false where id = %s", [workspace.connection_id]
        )
        self.scene.fetch(
            "update public.google_connections set is_valid = true where id = %s", [workspace.connection_id]
        )
        assert self.scene.fetch("select count(*) from public.sync_outbox where dead_reason = 'OAUTH_INVALID'") == [(0,)]

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "items"):
            return
        assert self.scene.fetch("select count(*) from public.sync_outbox") == [(self.items,)]
        # Whatever is open has a key that will be claimed for it.
        forgotten = self.scene.fetch(
            "select o.seq from public.sync_outbox as o left join penstock.calendar_keys as k using (event_key) "
            "where o.status = any(%s::public.outbox_status[]) "
            "and (k.event_key is null or k.dirty_seq <= k.done_seq or k.dead_reason is not null)",
            [list(OPEN)],
        )
        assert forgotten == []
        most = self.scene.fetch("select count(*) from public.sync_outbox where attempts > max_attempts")
        assert most == [(0,)]

    def teardown(self) -> None:
        """Everything that is left can be carried out, and then nothing is open."""
        if not hasattr(self, "items"):
            return
        self.scene.fetch("update penstock.calendar_keys set leased_until = null, next_attempt_at = now()")
        self.scene.fetch("update penstock.calendar_lanes set next_turn_at = now()")
        self.stores[0].replay(Choice())
        for claim in claims(self.stores[0]):
            self.stores[0].acknowledge([outcome(key, Verdict.DONE) for key in claim])
        states = self.scene.states()
        assert set(states) <= {"COMPLETED", "SUPERSEDED"}
        assert sum(states.values()) == self.items
        newest = self.scene.fetch(
            "select distinct on (event_key) status::text from public.sync_outbox order by event_key, seq desc"
        )
        assert {status for (status,) in newest} <= {"COMPLETED"}


def outcome(key: ClaimedKey, verdict: Verdict) -> dict[str, Any]:
    row = _row(key, Known("calendar", is_created=verdict is Verdict.DONE), verdict, "CALENDAR_FORBIDDEN", "why")
    return {**row, "verdict": "done"} if key.operation is None else row


def claims(store: CalendarStore) -> Iterator[tuple[ClaimedKey, ...]]:
    for _ in range(100):
        store.wake()
        claim = store.claim()
        if claim is None:
            return
        yield claim.keys


def test_the_key_queue_does_what_its_model_does(warehouse: Warehouse, sandbox: Sandbox) -> None:
    scene = Scene(warehouse, sandbox.url)

    class Prepared(KeyQueue):
        pass

    Prepared.scene = scene
    Prepared.workspaces = scene.connect_workspaces(2)
    run_state_machine_as_test(
        Prepared,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )
