"""The statements of both queues against each other, in every interleaving of two sessions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from penstock.jobs.calendar_outbox import CalendarStore
from penstock.jobs.calendar_outbox.store import Claim
from penstock.jobs.notifications import NotificationStore
from penstock.jobs.notifications.items import Item, Outcome
from penstock.warehouse.session import Warehouse
from tests import calendar_scene, notification_scene
from tests.interleaving import ORDERS, Pair, Session
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db

SENT = Outcome("sent", "sent", slack_ts="1.0")
BACK = Outcome("queued", "retry", given_back=True)


@pytest.fixture
def pair(fresh_database: str) -> Iterator[Pair]:
    with Pair(fresh_database) as sessions:
        yield sessions


def test_every_interleaving_is_tried() -> None:
    assert len(set(ORDERS)) == 70


# -- notifications: two channels with two rows each


class Channels:
    """The queue, made anew for every interleaving."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.scene = notification_scene.Scene(warehouse, "", "")
        self.configs = [self.scene.config(channel) for channel in ("C10001", "C10002")]
        self.rows: list[list[str]] = []

    def begin(self) -> None:
        self.scene.rows("delete from notification_queue")
        self.scene.rows("delete from penstock.notification_lanes")
        self.rows = [self.scene.fill(config, 2) for config in self.configs]
        self.scene.store().resolve()

    def state(self, identity: str) -> str:
        return str(self.scene.row(identity)["state"])

    def deliver_the_rest(self) -> list[str]:
        """One sweep, then whatever can be claimed is sent; the ids in their order."""
        store = self.scene.store("last")
        store.resolve()
        store.wake()
        self.scene.be_ready()
        sent = []
        while items := store.claim(16):
            for item in items:
                assert store.settle(item, SENT)
                sent.append(item.id)
        return sent


@pytest.fixture
def channels(warehouse: Warehouse) -> Channels:
    return Channels(warehouse)


def store_of(session: Session, lease: float = 120.0) -> NotificationStore:
    return NotificationStore(session, str(session.pid), lease=timedelta(seconds=lease))


def claim(session: Session) -> list[Item]:
    return store_of(session).claim(16)


def ids(answers: list[list[Item]]) -> list[str]:
    return [item.id for items in answers for item in items]


def test_two_claims_never_get_the_same_row(channels: Channels, pair: Pair) -> None:
    for order in ORDERS:
        channels.begin()
        got = pair.run(order, {"a": claim, "b": claim})
        heads = sorted(rows[0] for rows in channels.rows)
        assert sorted(ids(got["a"]) + ids(got["b"])) == heads, order
        assert [channels.scene.row(head)["attempts"] for head in heads] == [1, 1], order


def test_a_claim_beside_an_acknowledgement_gets_what_follows_and_never_what_is_sent(
    channels: Channels, pair: Pair
) -> None:
    for order in ORDERS:
        channels.begin()
        mine = next(item for item in channels.scene.store().claim(1))
        got = pair.run(order, {"a": lambda session, mine=mine: store_of(session).settle(mine, SENT), "b": claim})
        assert got["a"] == [True, False], order
        assert mine.id not in ids(got["b"]), order
        assert len(ids(got["b"])) == len(set(ids(got["b"]))), order
        assert channels.state(mine.id) == "sent", order


def test_a_claim_beside_the_end_of_a_row_s_time_takes_it_or_leaves_it(channels: Channels, pair: Pair) -> None:
    for order in ORDERS:
        channels.begin()
        (head, _), (other, _) = channels.rows
        channels.scene.rows("update notification_queue set expires_at = now() - interval '1 s' where id = %s", head)
        got = pair.run(order, {"a": claim, "b": lambda session: store_of(session).expire()})
        is_claimed = head in ids(got["a"])
        assert channels.state(head) == ("sending" if is_claimed else "dead"), order
        assert sum(got["b"]) == (0 if is_claimed else 1), order
        assert channels.state(other) == "sending", order


@pytest.mark.parametrize("outcome", [SENT, BACK], ids=["sent", "given back"])
def test_an_acknowledgement_beside_the_end_of_a_row_s_time(channels: Channels, pair: Pair, outcome: Outcome) -> None:
    for order in ORDERS:
        channels.begin()
        channels.scene.rows("update notification_queue set expires_at = now() - interval '1 s'")
        mine = channels.scene.store().claim(1)[0]
        pair.run(
            order,
            {
                "a": lambda session, mine=mine: store_of(session).settle(mine, outcome),
                "b": lambda session: store_of(session).expire(),
            },
        )
        channels.scene.store().expire()
        assert channels.state(mine.id) == ("sent" if outcome is SENT else "dead"), order
        states = channels.scene.states()
        assert states.get("dead", 0) + states.get("sent", 0) == 4, order


def test_a_late_acknowledgement_beside_the_rescue_of_its_row_keeps_it_sent(channels: Channels, pair: Pair) -> None:
    for order in ORDERS:
        channels.begin()
        mine = channels.scene.store(lease=0.0).claim(1)[0]
        got = pair.run(order, {"a": lambda session, mine=mine: store_of(session).settle(mine, SENT), "b": claim})
        rescued = [item for items in got["b"] for item in items if item.id == mine.id]
        assert all(item.is_ambiguous and item.row_epoch == mine.row_epoch + 1 for item in rescued), order
        assert channels.state(mine.id) == "sent", order
        for item in rescued:
            assert not channels.scene.store().settle(item, BACK), order
        assert channels.state(mine.id) == "sent", order


def test_a_row_that_is_inserted_while_its_lane_falls_asleep_is_found_by_the_next_sweep(
    channels: Channels, pair: Pair
) -> None:
    def insert(session: Session) -> str:
        return notification_scene.Scene(session, "", "").insert(channels.configs[0])

    for order in ORDERS:
        channels.begin()
        channels.scene.rows("delete from notification_queue")  # both lanes are awake for nothing
        got = pair.run(order, {"a": insert, "b": claim})
        assert ids(got["b"]) == [], order
        assert channels.deliver_the_rest() == got["a"], order


def test_a_sweep_beside_a_claim_loses_no_row_and_keeps_the_order(channels: Channels, pair: Pair) -> None:
    def sweep(session: Session) -> None:
        store_of(session).resolve()
        store_of(session).wake()

    for order in ORDERS:
        channels.begin()
        channels.scene.rows("update notification_queue set lane_key = null")
        got = pair.run(order, {"a": sweep, "b": claim})
        sent = ids(got["b"]) + channels.deliver_the_rest()
        first = {identity: place for place, identity in reversed(list(enumerate(sent)))}
        for one, two in channels.rows:
            assert first[one] < first[two], order
        assert set(channels.scene.states()) == {"sent"}, order


def test_rows_that_follow_their_configuration_beside_a_claim_are_sent_once_and_in_order(
    channels: Channels, pair: Pair
) -> None:
    def sweep(session: Session) -> None:
        store_of(session).resolve()

    for order in ORDERS:
        channels.scene.rows("update notification_config set channel_id = 'C10001' where id = %s", channels.configs[0])
        channels.begin()
        channels.scene.rows("update notification_config set channel_id = 'C1NEW' where id = %s", channels.configs[0])
        got = pair.run(order, {"a": sweep, "b": claim})
        mine = [item for items in got["b"] for item in items]
        for item in mine:
            assert channels.scene.row(item.id)["lane_key"] == item.lane_key, order
            assert channels.scene.store().settle(item, SENT), order
        sent = [item.id for item in mine] + channels.deliver_the_rest()
        assert len(sent) == 4, order
        for one, two in channels.rows:
            assert sent.index(one) < sent.index(two), order
        assert set(channels.scene.states()) == {"sent"}, order
        assert {row["attempts"] for row in channels.scene.rows("select attempts from notification_queue")} == {1}, order


# -- the calendar: one workspace with three keys


class Keys:
    """The outbox, made anew for every interleaving."""

    def __init__(self, warehouse: Warehouse, sandbox: Sandbox) -> None:
        self.scene = calendar_scene.Scene(warehouse, sandbox.url)
        (self.workspace,) = self.scene.connect_workspaces(1)

    def begin(self) -> None:
        for table in ("public.sync_outbox", "penstock.calendar_keys", "penstock.calendar_lanes"):
            self.scene.fetch(f"delete from {table}")
        for number in range(3):
            self.scene.upsert(self.workspace, number, "first")
        self.store().wake()

    def store(self, lease: float = 60.0) -> CalendarStore:
        return CalendarStore(self.scene.warehouse, "last", lease=timedelta(seconds=lease))

    def open_keys(self) -> int:
        ((count,),) = self.scene.fetch("select count(*) from penstock.calendar_keys where dirty_seq > done_seq")
        return int(count)


@pytest.fixture
def keys(warehouse: Warehouse, sandbox: Sandbox) -> Keys:
    return Keys(warehouse, sandbox)


def calendar(session: Session) -> CalendarStore:
    return CalendarStore(session, str(session.pid))


def claim_keys(session: Session) -> Claim | None:
    return calendar(session).claim()


def done(claimed: Claim) -> list[dict[str, Any]]:
    return [
        {
            "event_key": key.event_key,
            "seq": key.seq,
            "epoch": key.epoch,
            "verdict": "done",
            "is_created": True,
            "generation": key.known.generation,
        }
        for key in claimed.keys
    ]


def names(answers: list[Claim | None]) -> list[str]:
    return [key.event_key for claimed in answers if claimed for key in claimed.keys]


def test_two_claims_never_get_the_same_key(keys: Keys, pair: Pair) -> None:
    for order in ORDERS:
        keys.begin()
        got = pair.run(order, {"a": claim_keys, "b": claim_keys})
        held = names(got["a"]) + names(got["b"])
        assert len(held) == len(set(held)) == 3, order


def test_a_late_acknowledgement_beside_the_rescue_of_its_keys(keys: Keys, pair: Pair) -> None:
    for order in ORDERS:
        keys.begin()
        mine = keys.store(lease=0.0).claim()
        assert mine is not None
        keys.store().wake()
        told = done(mine)
        got = pair.run(order, {"a": lambda session, told=told: calendar(session).acknowledge(told), "b": claim_keys})
        written, rescued = set().union(*got["a"]), set(names(got["b"]))
        assert written | rescued == {key.event_key for key in mine.keys}, order
        assert not written & rescued, order
        assert keys.open_keys() == len(rescued), order


def test_a_newer_intent_beside_an_acknowledgement_stays_to_be_sent(keys: Keys, pair: Pair) -> None:
    for order in ORDERS:
        keys.begin()
        mine = keys.store().claim()
        assert mine is not None
        told = done(mine)

        def enqueue(session: Session) -> None:
            calendar_scene.Scene(session, keys.scene.sandbox_url).upsert(keys.workspace, 0, "newer")

        pair.run(order, {"a": enqueue, "b": lambda session, told=told: calendar(session).acknowledge(told)})
        assert keys.open_keys() == 1, order
        keys.store().wake()
        (again,) = keys.store().claim().keys
        assert again.payload["event"]["title"] == "newer", order


def test_an_intent_that_is_inserted_while_its_lane_falls_asleep_is_found_by_the_next_sweep(
    keys: Keys, pair: Pair
) -> None:
    def enqueue(session: Session) -> None:
        calendar_scene.Scene(session, keys.scene.sandbox_url).upsert(keys.workspace, 7, "new")

    for order in ORDERS:
        keys.begin()
        got = pair.run(order, {"a": enqueue, "b": claim_keys})
        keys.store().wake()
        rest = keys.store().claim()
        held = names(got["b"]) + names([rest])
        assert len(held) == len(set(held)) == 4, order
