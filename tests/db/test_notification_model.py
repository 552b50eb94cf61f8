"""The notification queue against a model, in random order: hypothesis drives three workers, producers and people.

The model knows what a row's state must be and who may write it; the queue is the real one in Postgres. Time is moved
by making leases end and lanes due, so that no step waits.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from penstock.jobs.notifications import Choice, Item, Outcome
from penstock.warehouse.session import Warehouse
from tests.notification_scene import Scene

pytestmark = pytest.mark.db

WORKERS, LANES = 3, 2
OPEN = ("queued", "sending")
MAX_ATTEMPTS = 4


class QueueMachine(RuleBasedStateMachine):
    """One queue with two lanes; `told` is every row in the order of its insert."""

    warehouse: ClassVar[Warehouse]

    @initialize()
    def start(self) -> None:
        self.scene = Scene(self.warehouse, "", "")
        self.scene.rows("truncate notification_queue, notification_config, penstock.notification_lanes, "
                        "penstock.notification_pauses cascade")  # fmt: skip
        self.configs = [self.scene.config(f"C1MODEL{number}") for number in range(LANES)]
        self.stores = [self.scene.store(f"worker {number}") for number in range(WORKERS)]
        self.held: list[list[Item]] = [[] for _ in range(WORKERS)]
        self.lane_of: dict[str, int] = {}
        self.state: dict[str, str] = {}
        self.epoch: dict[str, int] = {}
        self.sent: list[list[str]] = [[] for _ in range(LANES)]

    # -- producers and people

    @rule(lane=st.integers(0, LANES - 1), count=st.integers(1, 3))
    def enqueue(self, lane: int, count: int) -> None:
        for _ in range(count):
            identity = self.scene.insert(self.configs[lane], max_attempts=MAX_ATTEMPTS)
            self.lane_of[identity], self.state[identity] = lane, "queued"

    @precondition(lambda self: "queued" in self.state.values())
    @rule(worker=st.integers(0, WORKERS - 1))
    def claim_while_paused(self, worker: int) -> None:
        self.stores[0].pause("queue", "", "test", "model")
        assert self.stores[worker].claim(LANES) == []
        self.stores[0].resume("queue", "")

    @rule()
    def cancel_the_newest(self) -> None:
        waiting = [identity for identity, state in self.state.items() if state in OPEN]
        if not waiting:
            return
        chosen = waiting[-1]
        cancelled = self.stores[0].cancel([chosen], "test")
        assert cancelled == ([chosen] if self.state[chosen] == "queued" else [])
        if cancelled:
            self.state[chosen] = "cancelled"

    @precondition(lambda self: "dead" in self.state.values())
    @rule()
    def replay(self) -> None:
        replayed = self.stores[0].replay(Choice(limit=10))
        assert set(replayed) == {identity for identity, state in self.state.items() if state == "dead"}
        for identity in replayed:
            self.state[identity] = "replayed"
        for identity, state in self._stored().items():
            if self.state[identity] == "replayed":
                assert state in OPEN
                self.state[identity] = state

    @precondition(lambda self: list(self.state.values()).count("queued") > 3)
    @rule()
    def expire_everything(self) -> None:
        self.stores[0].resolve()
        self.scene.rows("update notification_queue set expires_at = now() - interval '1 s' where state = 'queued'")
        self.stores[0].expire()
        for identity, state in self.state.items():
            if state == "queued":
                self.state[identity] = "dead"

    # -- workers

    @rule(worker=st.integers(0, WORKERS - 1), limit=st.integers(1, LANES))
    def claim(self, worker: int, limit: int) -> None:
        store = self.stores[worker]
        store.resolve()
        for item in store.claim(limit):
            lane = self.lane_of[item.id]
            first = next(each for each, at in self.lane_of.items() if at == lane and self.state[each] in OPEN)
            assert item.id == first, "the first row of the lane, and no other"
            assert item.is_ambiguous == (self.state[item.id] == "sending")
            assert item.row_epoch > self.epoch.get(item.id, 0), "no two owners have one epoch"
            self.epoch[item.id], self.state[item.id] = item.row_epoch, "sending"
            self.held[worker].append(item)

    @precondition(lambda self: any(self.held))
    @rule(end=st.sampled_from(["sent", "queued", "sending", "dead"]), data=st.data())
    def settle(self, end: Any, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([number for number in range(WORKERS) if self.held[number]]))
        item = self.held[worker].pop(0)
        is_owner = self.state[item.id] == "sending" and self.epoch[item.id] == item.row_epoch
        reason = "UNKNOWN" if end == "dead" else None
        settled = self.stores[worker].settle(
            item, Outcome(end, end, given_back=end == "queued", error_class=reason, slack_ts="1")
        )
        if end == "sent":
            # What is in Slack is in Slack, whoever says so.
            assert settled == (self.state[item.id] != "sent")
        else:
            assert settled == is_owner, "only the owner of the epoch may write"
        if settled:
            if end == "sent" and is_owner:
                self.sent[self.lane_of[item.id]].append(item.id)
            self.state[item.id] = end

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def is_thought_dead(self, data: st.DataObject) -> None:
        """Its leases end while it still works."""
        self._end_leases(data.draw(st.sampled_from([number for number in range(WORKERS) if self.held[number]])))

    def _end_leases(self, worker: int) -> None:
        self.scene.rows(
            "update penstock.notification_lanes set leased_until = now() - interval '1 s' where leased_by = %s",
            f"worker {worker}",
        )

    @precondition(lambda self: any(self.held))
    @rule(worker=st.integers(0, WORKERS - 1))
    def die(self, worker: int) -> None:
        self._end_leases(worker)
        self.held[worker].clear()

    @rule()
    def time_passes(self) -> None:
        self.scene.rows("update penstock.notification_lanes set next_send_at = now() where next_send_at < 'infinity'")
        self.stores[0].wake()

    # -- what always holds

    @invariant()
    def every_row_is_in_the_state_that_the_model_knows(self) -> None:
        if hasattr(self, "scene"):
            assert self._stored() == self.state

    @invariant()
    def a_lane_has_one_live_owner_and_a_processed_row_is_sent(self) -> None:
        if not hasattr(self, "scene"):
            return
        rows = self.scene.rows("select state, is_processed, finished_at, attempts from notification_queue")
        for row in rows:
            assert row["is_processed"] == (row["state"] == "sent")
            assert (row["finished_at"] is None) == (row["state"] in OPEN)
        owners = Counter(row["lane_key"] for row in self.scene.rows(
            "select lane_key from notification_queue where state = 'sending' and lane_key is not null"))  # fmt: skip
        assert all(count <= 2 for count in owners.values())

    @invariant()
    def what_was_sent_was_sent_once(self) -> None:
        for done in getattr(self, "sent", []):
            assert len(done) == len(set(done))

    def _stored(self) -> dict[str, str]:
        return {str(row["id"]): row["state"] for row in self.scene.rows("select id, state from notification_queue")}


def test_the_queue_does_what_the_model_says(warehouse: Warehouse) -> None:
    QueueMachine.warehouse = warehouse
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=15,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
