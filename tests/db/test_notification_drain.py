"""Drains against the sandbox over HTTP: what people see in Slack is what was queued, once and in order."""

from __future__ import annotations

import json
import random
import threading
import time
from datetime import timedelta
from typing import Any

import pytest

from penstock.core.errors import CATALOGUE
from penstock.jobs.notifications import Courier, Drain, NotificationStore, Orders
from penstock.warehouse.limits import SharedBreaker
from penstock.warehouse.session import Warehouse
from sandbox.slack import token
from tests.notification_scene import ALERTS, REPORTS, Scene
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db


@pytest.fixture
def scene(warehouse: Warehouse, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Scene:
    # What an operator waits for in seconds and minutes a test waits for in parts of a second.
    sandbox_switch(sandbox, channel_seconds=0.05)
    monkeypatch.setattr("penstock.jobs.notifications.courier.PACE", _seconds(0.05))
    monkeypatch.setattr("penstock.jobs.notifications.courier.RETRY_BASE", _seconds(0.05))
    monkeypatch.setattr("penstock.jobs.notifications.courier.HISTORY_LAG", _seconds(0.1))
    monkeypatch.setattr("penstock.jobs.notifications.courier.CIRCUIT_PAUSE", _seconds(0.1))
    return Scene(warehouse, sandbox.url, token(sandbox.state))


@pytest.fixture
def real_pace(scene: Scene, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message a second and channel, as Slack has it."""
    sandbox_switch(sandbox, channel_seconds=1.0)
    monkeypatch.setattr("penstock.jobs.notifications.courier.PACE", _seconds(1))


def _seconds(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


@pytest.mark.usefixtures("real_pace")
def test_every_row_is_seen_once_in_its_channel_s_order(scene: Scene, sandbox: Sandbox) -> None:
    expected = {channel: scene.fill(scene.config(channel), 2) for channel in ("C10001", "C10002", ALERTS)}
    person = scene.fill(scene.config(channel=None, user_id=scene.person("U0ANNA")), 1)
    tally = scene.drain()
    assert tally.counts == {"sent": 7}
    assert scene.seen() == expected | {"D00ANNA": person}
    assert scene.states() == {"sent": 7}
    assert [row for row in sandbox.get("calls")["limits"] if row["is_exceeded"]] == []


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "stored_then_drop", "times": 1},
        {"action": "stored_then_status", "times": 1},
        {"action": "truncate", "times": 1},
        {"action": "truncate", "times": 1, "params": {"wrong_length": True}},
        {"action": "drop", "times": 1},
        {"action": "html", "times": 1},
        {"action": "status", "times": 1, "params": {"status": 500}},
        {"action": "status", "times": 1, "params": {"status": 200, "error": "fatal_error"}},
        {"action": "status", "times": 2, "params": {"status": 200, "error": "internal_error"}},
        {"action": "status", "times": 1, "params": {"status": 429, "retry_after": 1}},
        {"action": "status", "times": 1, "params": {"status": 200, "error": "brand_new_error"}},
    ],
    ids=lambda fault: f"{fault['action']} {fault.get('params', '')}",
)
def test_after_a_fault_each_message_is_there_once_and_in_order(
    scene: Scene, sandbox: Sandbox, fault: dict[str, Any]
) -> None:
    ids = scene.fill(scene.config(), 2)
    sandbox.faults({"vendor": "slack", "path": "chat.postMessage", **fault})
    scene.drain(horizon=1.2)
    assert scene.seen() == {ALERTS: ids}
    assert scene.states() == {"sent": 2}


def test_a_429_is_the_lane_s_and_uses_up_no_attempt(scene: Scene, sandbox: Sandbox) -> None:
    (identity,) = scene.fill(scene.config(), 1)
    sandbox.faults(
        {
            "vendor": "slack",
            "path": "chat.postMessage",
            "action": "status",
            "times": 1,
            "params": {"status": 429, "retry_after": 1},
        }
    )
    began = time.monotonic()
    scene.drain()
    assert time.monotonic() - began >= 1.0
    assert scene.row(identity)["attempts"] == 1


def test_a_channel_that_slack_refuses_is_parked_and_told_once(scene: Scene, sandbox: Sandbox) -> None:
    scene.fill(scene.config("C0ARCHIVED"), 2)
    fine = scene.fill(scene.config(), 1)
    scene.drain()
    assert scene.seen() == {ALERTS: fine}
    assert scene.states() == {"queued": 2, "sent": 1}
    scene.be_ready()
    scene.drain()
    assert [(notice.code, notice.message) for notice in scene.notices] == [("SLACK_CHANNEL_ERROR", "is_archived")]
    (lane,) = scene.rows("select parked_reason from penstock.notification_lanes where destination = 'C0ARCHIVED'")
    assert lane["parked_reason"] == "SLACK_CHANNEL_ERROR"


def test_a_parked_channel_goes_on_by_itself_when_the_bot_was_invited(scene: Scene, sandbox: Sandbox) -> None:
    ids = scene.fill(scene.config("C10001"), 2)
    sandbox_switch(sandbox, errors={"C10001": "restricted_action"})
    scene.drain()
    sandbox_switch(sandbox, errors={})
    scene.store().resume("channel", "C10001")
    scene.drain()
    assert scene.seen() == {"C10001": ids}
    assert scene.rows("select parked_reason from penstock.notification_lanes") == [{"parked_reason": None}]


@pytest.mark.parametrize("destination", ["channel", "person"])
def test_what_waits_for_a_wrong_destination_is_sent_when_it_is_corrected(scene: Scene, destination: str) -> None:
    if destination == "channel":
        ids = scene.fill(scene.config("C0NOWHERE"), 2)
    else:
        ids = scene.fill(scene.config(channel=None, user_id=scene.person("nobody@example.com")), 2)
    scene.drain()
    assert scene.states() == {"queued": 2}
    scene.rows("update notification_config set channel_id = %s where channel_id is not null", ALERTS)
    scene.rows("update profiles set slack_id = 'U0ANNA'")
    scene.drain()
    assert scene.seen() == {ALERTS if destination == "channel" else "D00ANNA": ids}


def test_the_bot_enters_a_public_channel_by_itself(scene: Scene) -> None:
    ids = scene.fill(scene.config("C0PUBLIC"), 1)
    scene.drain()
    assert scene.seen() == {"C0PUBLIC": ids}


def test_a_refused_token_stops_everything_touches_no_message_and_is_told_once(scene: Scene, sandbox: Sandbox) -> None:
    ids = [scene.fill(scene.config(channel), 1)[0] for channel in (ALERTS, REPORTS, "C10001")]
    good, scene.token = scene.token, "xoxb-wrong"
    tally = scene.drain(threads=1)
    assert tally.paused_workspaces == ["slack"]
    assert [notice.code for notice in scene.notices] == ["SLACK_AUTH_ERROR"]
    assert scene.states() == {"queued": 3}
    assert sandbox.answered("slack", "chat.postMessage") == 1
    assert all(scene.row(identity)["attempts"] == 0 for identity in ids)
    scene.token = good
    scene.rows("update penstock.notification_pauses set paused_until = now()")
    scene.be_ready()
    scene.drain()
    assert scene.states() == {"sent": 3}
    assert scene.rows("select 1 from penstock.notification_pauses") == []


def test_people_who_cannot_be_written_to_hold_up_no_channel_and_are_told_once(scene: Scene, sandbox: Sandbox) -> None:
    params = {"status": 200, "error": "missing_scope"}
    sandbox.faults(
        {"vendor": "slack", "path": "conversations.open", "action": "status", "times": 1000, "params": params}
    )
    for user in ("U0ANNA", "U0BERT"):
        scene.insert(scene.config(channel=None, user_id=scene.person(user)))
    ids = scene.fill(scene.config(), 3)
    tally = scene.drain(threads=1)
    assert tally.paused_workspaces == []
    assert scene.seen() == {ALERTS: ids}
    assert scene.states() == {"queued": 2, "sent": 3}
    assert [notice.code for notice in scene.notices] == ["SLACK_SCOPE_MISSING"]
    assert "im:write" in CATALOGUE["SLACK_SCOPE_MISSING"].remedy


def test_a_message_slack_will_not_take_is_a_dead_letter_and_the_next_one_goes_on(
    scene: Scene, sandbox: Sandbox
) -> None:
    first, second = scene.fill(scene.config(), 2)
    sandbox.faults(
        {
            "vendor": "slack",
            "path": "chat.postMessage",
            "action": "status",
            "times": 2,
            "params": {"status": 200, "error": "invalid_arguments"},
        }
    )
    scene.drain()
    assert scene.row(first)["error_class"] == "SLACK_MESSAGE_REFUSED"
    assert scene.seen() == {ALERTS: [second]}


def test_five_attempts_without_a_clear_answer_are_a_dead_letter(scene: Scene, sandbox: Sandbox) -> None:
    (identity,) = scene.fill(scene.config(), 1)
    sandbox.faults({"vendor": "slack", "path": "chat.postMessage", "action": "status", "params": {"status": 500}})
    for _ in range(7):
        scene.be_ready()
        scene.rows("delete from penstock.circuit_breakers")
        scene.drain(horizon=0.0)
    row = scene.row(identity)
    assert (row["state"], row["error_class"]) == ("dead", "NOTIFICATION_ATTEMPTS_EXHAUSTED")
    assert sandbox.answered("slack", "chat.postMessage", 500) == 5


def test_where_the_history_is_denied_the_configuration_decides(scene: Scene, sandbox: Sandbox) -> None:
    held = scene.insert(scene.config("C10001", on_ambiguous="hold"))
    again = scene.insert(scene.config("C10002", on_ambiguous="resend"))
    sandbox_switch(sandbox, history_error="missing_scope")
    sandbox.faults({"vendor": "slack", "path": "chat.postMessage", "action": "stored_then_drop", "times": 2})
    scene.drain()
    assert scene.row(held)["error_class"] == "NOTIFICATION_AMBIGUOUS"
    assert scene.row(again)["state"] == "sent"
    assert [message["channel"] for message in scene.messages()].count("C10002") == 2


@pytest.mark.usefixtures("real_pace")
def test_two_drains_at_once_send_each_row_once(scene: Scene, fresh_database: str, sandbox: Sandbox) -> None:
    expected = {f"C1{number:04d}": scene.fill(scene.config(f"C1{number:04d}"), 2) for number in range(15)}

    def work() -> None:
        with Warehouse(fresh_database) as warehouse:
            Scene(warehouse, sandbox.url, scene.token).drain()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scene.seen() == expected
    assert [row for row in sandbox.get("calls")["limits"] if row["rejected"] or row["is_exceeded"]] == []


class Killed(BaseException):
    """What a `kill -9` looks like from inside, for as long as nobody catches it."""


CALLS = ("resolve", "wake", "expire", "claim", "settle before", "settle after", "post before", "post after")


@pytest.mark.parametrize(("place", "number"), [*((place, 1) for place in CALLS), ("post after", 2)])
def test_a_crash_at_any_line_loses_nothing_and_repeats_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    expected = {channel: scene.fill(scene.config(channel), 2) for channel in ("C10001", "C10002")}
    _crash_once(scene, place, number)
    scene.be_ready()
    scene.drain()
    assert scene.seen() == expected
    assert scene.states() == {"sent": 4}


def _crash_once(scene: Scene, place: str, number: int) -> None:
    """Works the queue in this thread, call by call as the drain does, until the n-th call of that name dies."""
    seen = 0

    def reach(name: str) -> None:
        nonlocal seen
        seen += name == place
        if name == place and seen == number:
            raise Killed

    store, client = scene.store("crashing"), scene.client()
    courier = Courier(_Fragile(client, reach), SharedBreaker(scene.warehouse))
    try:
        for _ in range(2):
            for name, step in (("resolve", store.resolve), ("wake", store.wake), ("expire", store.expire)):
                step()
                reach(name)
            items = store.claim(4)
            reach("claim")
            for item in items:
                outcome = courier.deliver(item)
                reach("settle before")
                store.settle(item, outcome)
                reach("settle after")
            time.sleep(0.1)
    except Killed:
        return
    raise AssertionError(f"{place} was never reached {number} times")


class _Fragile:
    """Slack's client, which dies around its POST."""

    def __init__(self, client: Any, reach: Any) -> None:
        self._client = client
        self._reach = reach

    def post(self, channel: str, message: Any) -> Any:
        self._reach("post before")
        posted = self._client.post(channel, message)
        self._reach("post after")
        return posted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


BAD_DATA: list[Any] = [
    {}, {"request_title": None}, {"request_title": {"a": {"b": [1, 2]}}}, {"request_title": "x" * 40_000},
    {"request_title": ""}, {"request_title": "a\u202eb\u2066c"}, {"request_title": "<!channel> <@U1> <http://x|y>"},
    {"request_title": "```*_~`"}, {"request_title": "\n" * 500}, {"request_title": "'; drop table profiles; --"},
    {"request_title": "😀" * 6000}, {"request_title": 1e308}, {"x" * 2000: "y"}, {"request_title": True}, [], "text", 7,
]  # fmt: skip


def test_bad_inputs_are_delivered_or_dead_letters_and_no_lane_is_stuck(scene: Scene, caplog: Any) -> None:
    templates = ("{{request_title}} {{new_status}}", "<https://x.example/{{request_title}}|{{new_status}}>", "{{", "*")
    rng = random.Random(3)
    configs = [scene.config(f"C1{number:04d}", rng.choice(templates)) for number in range(60)]
    for number in range(200):
        scene.insert(configs[number % 60], BAD_DATA[number % len(BAD_DATA)])
    scene.drain(threads=8)
    states = scene.states()
    assert set(states) <= {"sent", "dead"}
    assert sum(states.values()) == 200
    assert {row["error_class"] for row in scene.rows("select error_class from notification_queue")} <= {
        None, "NOTIFICATION_BAD_DATA"
    }  # fmt: skip
    assert "Traceback" not in caplog.text
    assert all("<!" not in json.dumps(message) for message in scene.messages())


def test_without_notifications_the_sweep_alone_delivers(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.warehouse.bell.Bell._run", lambda self: None)
    config = scene.config()
    seconds, drain, thread = 0.0, *_resident(scene)
    identity = scene.insert(config)
    began = time.monotonic()
    while scene.row(identity)["state"] != "sent" and seconds < 10:
        time.sleep(0.05)
        seconds = time.monotonic() - began
    drain.stop()
    thread.join()
    assert seconds < 3


def test_a_resident_drain_sends_at_once_and_stops_when_it_is_told(scene: Scene) -> None:
    config = scene.config()
    drain, thread = _resident(scene)
    waited = []
    for number in range(3):
        identity = scene.insert(scene.config(f"C1000{number}") if number else config)
        began = time.monotonic()
        while scene.row(identity)["state"] != "sent" and time.monotonic() - began < 10:
            time.sleep(0.01)
        waited.append(time.monotonic() - began)
    began = time.monotonic()
    drain.stop()
    thread.join()
    assert time.monotonic() - began < 2
    assert max(waited) < 1.0
    assert scene.rows("select 1 from penstock.drain_residents") == []


def test_the_next_drain_takes_the_resident_s_place(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.jobs.notifications.drain.WAKE_EVERY_S", 0.2)
    _, first = _resident(scene)
    courier = Courier(scene.client(), SharedBreaker(scene.warehouse))
    orders = Orders(residence=1.0, takes_over=True, threads=2)
    tally = Drain(NotificationStore(scene.warehouse, "next"), courier, orders).run()
    first.join(2.0)
    assert tally.is_resident
    assert not first.is_alive()


def test_a_drain_that_notify_started_leaves_when_another_is_resident(scene: Scene) -> None:
    drain, thread = _resident(scene)
    courier = Courier(scene.client(), SharedBreaker(scene.warehouse))
    began = time.monotonic()
    tally = Drain(NotificationStore(scene.warehouse, "second"), courier, Orders(residence=30.0, threads=2)).run()
    assert (tally.is_resident, thread.is_alive()) == (False, True)
    assert time.monotonic() - began < 2
    drain.stop()
    thread.join()


def _resident(scene: Scene) -> tuple[Drain, threading.Thread]:
    courier = Courier(scene.client(), SharedBreaker(scene.warehouse))
    store = NotificationStore(scene.warehouse, "resident")
    drain = Drain(store, courier, Orders(residence=30.0, threads=2))
    thread = threading.Thread(target=drain.run)
    thread.start()
    deadline = time.monotonic() + 5
    while not scene.rows("select 1 from penstock.drain_residents") and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # until it listens
    return drain, thread


def test_a_limit_ends_the_drain_after_so_many_messages(scene: Scene) -> None:
    for number in range(5):
        scene.fill(scene.config(f"C1000{number}"), 1)
    assert scene.drain(limit=3).counts == {"sent": 3}
    assert scene.states() == {"sent": 3, "queued": 2}


def test_an_oldest_row_that_is_too_old_is_told_once(scene: Scene) -> None:
    scene.insert(scene.config())
    scene.store().pause("queue", "", "incident", "anna")
    scene.rows(
        "update notification_queue set created_at = now() - interval '2 hours', "
        "next_attempt_at = now() - interval '2 hours'"
    )
    scene.drain()
    scene.drain()
    assert [notice.code for notice in scene.notices] == ["NOTIFICATIONS_LATE"]


def sandbox_switch(sandbox: Sandbox, **switches: Any) -> None:
    from sandbox.slack_store import store_of

    store_of(sandbox.state).switches.change(switches)
