"""The notification queue's statements: what is claimed, by whom, in which order, and what old clients still may do."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from penstock.jobs.notifications import Choice, Item, Outcome
from penstock.jobs.notifications.items import Pause
from penstock.warehouse.session import Warehouse
from tests.notification_scene import ALERTS, REPORTS, Scene

pytestmark = pytest.mark.db

SENT = Outcome("sent", "sent", slack_ts="1.0", channel_id=ALERTS)


@pytest.fixture
def scene(warehouse: Warehouse) -> Iterator[Scene]:
    return Scene(warehouse, "http://127.0.0.1:9", "xoxb-none")


def claim(scene: Scene, holder: str = "test", limit: int = 10, lease: float = 120.0) -> list[Item]:
    store = scene.store(holder, lease)
    store.resolve()
    return store.claim(limit)


@pytest.mark.parametrize(
    ("columns", "state", "reason"),
    [
        ({"channel": None}, "dead", "NOTIFICATION_NO_DESTINATION"),
        ({"channel": "  "}, "dead", "NOTIFICATION_NO_DESTINATION"),
        ({"template": None}, "dead", "NOTIFICATION_NO_TEMPLATE"),
        ({"is_active": False}, "cancelled", "NOTIFICATION_CONFIG_INACTIVE"),
        ({}, "queued", None),
    ],
)
def test_a_row_goes_where_its_configuration_says_or_ends(
    scene: Scene, columns: dict[str, Any], state: str, reason: str | None
) -> None:
    identity = scene.insert(scene.config(**columns))
    scene.store().resolve()
    row = scene.row(identity)
    assert (row["state"], row["error_class"], row["is_processed"]) == (state, reason, False)


def test_rows_that_nobody_can_send_are_dead_letters_at_once(scene: Scene) -> None:
    config = scene.config()
    without, listed = scene.insert(None), scene.insert(config, ["a", "list"])
    # 300 kB that do not compress
    large = scene.insert(config, {"x": "".join(str(hash(("x", n))) for n in range(20_000))})
    worn_out = scene.insert(config, attempts=5)
    scene.store().resolve()
    assert [scene.row(each)["error_class"] for each in (without, listed, large, worn_out)] == [
        "NOTIFICATION_NO_CONFIG",
        "NOTIFICATION_BAD_DATA",
        "NOTIFICATION_BAD_DATA",
        "NOTIFICATION_ATTEMPTS_EXHAUSTED",
    ]


def test_a_person_s_direct_message_is_a_lane_of_its_own(scene: Scene) -> None:
    config = scene.config(channel=None, user_id=scene.person("U0ANNA"))
    scene.insert(config)
    (item,) = claim(scene)
    assert (item.lane_key, item.destination) == ("slack/U0ANNA", "U0ANNA")
    nobody = scene.insert(scene.config(channel=None, user_id=scene.person(None)))
    claim(scene)
    assert scene.row(nobody)["error_class"] == "NOTIFICATION_NO_DESTINATION"


def move(scene: Scene, config: str, channel: str | None) -> None:
    scene.rows("update notification_config set channel_id = %s where id = %s::uuid", channel, config)


def lanes(scene: Scene, ids: list[str]) -> list[str | None]:
    return [scene.row(identity)["lane_key"] for identity in ids]


def test_rows_that_wait_follow_the_corrected_channel_before_later_ones(scene: Scene) -> None:
    config, other = scene.config("C0WRONG"), scene.fill(scene.config("C0OTHER"), 1)
    waiting = scene.fill(config, 3)
    store = scene.store()
    store.resolve()
    move(scene, config, ALERTS)
    ids = [*waiting, scene.insert(config)]
    store.resolve()
    assert lanes(scene, ids) == [f"slack/{ALERTS}"] * 4
    assert lanes(scene, other) == ["slack/C0OTHER"]
    order = []
    while items := store.claim(10):
        for item in items:
            order.append(item.id)
            store.settle(item, SENT)
        scene.be_ready()
    assert [identity for identity in order if identity in ids] == ids


def test_rows_that_wait_follow_the_corrected_address_of_a_person(scene: Scene) -> None:
    person = scene.person("nobody@example.com")
    ids = scene.fill(scene.config(channel=None, user_id=person), 2)
    store = scene.store()
    store.resolve()
    scene.rows("update profiles set slack_id = 'U0ANNA' where id = %s::uuid", person)
    store.resolve()
    assert lanes(scene, ids) == ["slack/U0ANNA"] * 2


def test_rows_that_were_begun_or_are_held_stay_where_they_may_have_been_posted(scene: Scene) -> None:
    config = scene.config("C0WRONG")
    begun, waiting = scene.fill(config, 2)
    store = scene.store()
    (item,) = claim(scene)
    store.settle(item, Outcome("sending", "ambiguous"))
    held = scene.fill(scene.config("C0OLD"), 1)
    store.resolve()
    scene.rows("update notification_queue set leased_until = now() + interval '1 min', state = 'sending' "
               "where id = %s", held[0])  # fmt: skip
    scene.rows("update notification_config set channel_id = %s", ALERTS)
    store.resolve()
    assert lanes(scene, [begun, waiting, *held]) == ["slack/C0WRONG", f"slack/{ALERTS}", "slack/C0OLD"]


def test_rows_that_wait_stay_while_their_configuration_names_no_channel(scene: Scene) -> None:
    """An edit in two steps must not end them."""
    config = scene.config(ALERTS)
    ids = scene.fill(config, 2)
    store = scene.store()
    store.resolve()
    move(scene, config, "  ")
    store.resolve()
    assert lanes(scene, ids) == [f"slack/{ALERTS}"] * 2
    assert scene.states() == {"queued": 2}


def test_a_channel_that_nothing_waits_for_any_more_is_no_longer_shown_as_parked(scene: Scene) -> None:
    config = scene.config("C0WRONG")
    scene.fill(config, 1)
    store = scene.store()
    (item,) = claim(scene)
    store.settle(item, Outcome("queued", "parked", given_back=True, parked="SLACK_CHANNEL_ERROR"))
    assert store.health()["detail"]["parked_lanes"] == {"slack/C0WRONG": "SLACK_CHANNEL_ERROR"}
    move(scene, config, ALERTS)
    store.resolve()
    scene.be_ready()
    assert [item.destination for item in store.claim(10)] == [ALERTS]
    assert store.health()["detail"]["parked_lanes"] == {}


def test_a_lane_has_one_sender_and_gives_its_rows_in_order(scene: Scene) -> None:
    for expected in scene.fill(scene.config(), 3):
        (item,) = claim(scene)
        assert item.id == expected
        assert claim(scene, "another") == []
        assert scene.store().settle(item, SENT)


def test_a_noisy_channel_does_not_hold_up_the_others(scene: Scene) -> None:
    scene.fill(scene.config(ALERTS), 500)
    scene.fill(scene.config(REPORTS), 1)
    assert {item.destination for item in claim(scene)} == {ALERTS, REPORTS}


def test_an_acknowledged_row_is_processed_in_the_old_column_too(scene: Scene) -> None:
    identity = scene.insert(scene.config())
    (item,) = claim(scene)
    assert scene.store().settle(item, SENT)
    row = scene.row(identity)
    assert (row["state"], row["is_processed"], row["slack_ts"], row["attempts"]) == ("sent", True, "1.0", 1)
    assert row["processed_at"] is not None
    assert row["finished_at"] is not None


def test_the_lease_of_a_dead_worker_ends_and_its_row_is_known_to_be_ambiguous(scene: Scene) -> None:
    identity = scene.insert(scene.config())
    (lost,) = claim(scene, lease=0.0)
    (found,) = claim(scene, "another")
    assert (lost.is_ambiguous, found.is_ambiguous, found.id) == (False, True, identity)
    assert found.lane_epoch == lost.lane_epoch + 1
    assert found.attempts == 2


def test_a_worker_that_was_thought_dead_cannot_undo_its_successor_s_claim(scene: Scene) -> None:
    identity = scene.insert(scene.config())
    (zombie,) = claim(scene, lease=0.0)
    (heir,) = claim(scene, "another")
    store = scene.store()
    assert not store.settle(zombie, Outcome("queued", "retry", given_back=True))
    assert not store.settle(zombie, Outcome("dead", "dead", error_class="UNKNOWN"))
    assert scene.row(identity)["state"] == "sending"
    (lane,) = scene.rows("select leased_by from penstock.notification_lanes")
    assert lane["leased_by"] == "another"
    assert store.settle(heir, SENT)


def test_a_message_that_is_in_slack_is_acknowledged_by_whoever_knows_it(scene: Scene) -> None:
    identity = scene.insert(scene.config())
    (zombie,) = claim(scene, lease=0.0)
    (heir,) = claim(scene, "another")
    assert scene.store().settle(zombie, SENT)
    assert not scene.store().settle(heir, Outcome("queued", "retry", given_back=True))
    assert scene.row(identity)["state"] == "sent"


def test_what_is_given_back_counts_no_attempt(scene: Scene) -> None:
    identity = scene.insert(scene.config())
    (item,) = claim(scene)
    scene.store().settle(item, Outcome("queued", "rate_limited", dt.timedelta(seconds=30), given_back=True, error="x"))
    row = scene.row(identity)
    assert (row["state"], row["attempts"], row["sending_at"], row["last_error"]) == ("queued", 0, None, "x")
    assert claim(scene) == []


def test_a_lane_with_nothing_due_goes_to_sleep_and_an_insert_wakes_it(scene: Scene) -> None:
    config = scene.config()
    scene.insert(config)
    (item,) = claim(scene)
    scene.store().settle(item, SENT)
    assert claim(scene) == []
    asleep = "select next_send_at = 'infinity' as asleep from penstock.notification_lanes"
    assert scene.rows(asleep) == [{"asleep": True}]
    assert scene.store().next_ready() is None
    scene.insert(config)
    assert len(claim(scene)) == 1


def test_a_lost_wake_up_is_repaired_by_the_sweep(scene: Scene) -> None:
    scene.insert(scene.config())
    scene.store().resolve()
    scene.rows("update penstock.notification_lanes set next_send_at = 'infinity'")
    assert scene.store().claim(10) == []
    scene.store().wake()
    assert len(scene.store().claim(10)) == 1


def test_a_row_for_later_is_not_sent_now_and_does_not_hold_up_the_others(scene: Scene) -> None:
    config = scene.config()
    scene.insert(config, next_attempt_at=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
    now = scene.insert(config)
    assert [item.id for item in claim(scene)] == [now]


@pytest.mark.parametrize(
    ("scope", "key"),
    [("queue", ""), ("workspace", "slack"), ("channel", ALERTS), ("channel", f"slack/{ALERTS}"), ("tenant", "acme")],
)
def test_a_pause_stops_what_it_names_until_it_is_resumed(scene: Scene, scope: str, key: str) -> None:
    paused = scene.insert(scene.config(ALERTS), {"client_id": "acme"})
    other = scene.insert(scene.config(REPORTS), {"client_id": "globex"})
    store = scene.store()
    store.pause(scope, key, "incident", "anna")
    expected = [] if scope in ("queue", "workspace") else [other]
    assert [item.id for item in claim(scene)] == expected
    assert store.resume(scope, key) >= 1
    scene.be_ready()
    assert paused in [item.id for item in claim(scene)]


def test_a_paused_workspace_is_tried_again_when_its_time_is_over_and_cleared_by_a_success(scene: Scene) -> None:
    scene.insert(scene.config())
    store = scene.store()
    assert store.park_workspace("slack", Pause("SLACK_AUTH_ERROR", 0.0)) is True
    assert store.park_workspace("slack", Pause("SLACK_AUTH_ERROR", 0.0)) is False
    (item,) = claim(scene)
    assert item.is_probe
    store.settle(item, SENT)
    assert scene.rows("select 1 from penstock.notification_pauses") == []


def test_a_refused_token_pauses_again_after_a_person_s_pause_is_over(scene: Scene) -> None:
    scene.insert(scene.config())
    store = scene.store()
    store.pause("workspace", "slack", "incident", "anna", dt.timedelta(seconds=-1))
    assert store.park_workspace("slack", Pause("SLACK_AUTH_ERROR", 60.0)) is True
    assert store.park_workspace("slack", Pause("SLACK_AUTH_ERROR", 60.0)) is False
    assert scene.rows("select paused_by, reason from penstock.notification_pauses") == [
        {"paused_by": "penstock", "reason": "SLACK_AUTH_ERROR"}
    ]
    assert claim(scene) == []


@pytest.mark.parametrize("pause", [None, dt.timedelta(hours=1)])
def test_a_refused_token_leaves_a_person_s_pause_as_it_is(scene: Scene, pause: dt.timedelta | None) -> None:
    store = scene.store()
    store.pause("workspace", "slack", "incident", "anna", pause)
    before = scene.rows("select p::text from penstock.notification_pauses as p")
    assert store.park_workspace("slack", Pause("SLACK_AUTH_ERROR", 60.0)) is False
    assert scene.rows("select p::text from penstock.notification_pauses as p") == before


def test_a_channel_that_is_configured_by_name_loses_its_id_when_slack_refuses_it(scene: Scene) -> None:
    """It may have been archived and made anew under its name."""
    scene.fill(scene.config("#sales"), 3)
    store = scene.store()
    (item,) = claim(scene)
    store.settle(item, Outcome("sent", "sent", channel_id="C0OLD"))
    scene.be_ready()
    (item,) = claim(scene)
    assert item.channel_id == "C0OLD"
    store.settle(item, Outcome("queued", "rate_limited", given_back=True))
    scene.be_ready()
    (item,) = claim(scene)
    assert item.channel_id == "C0OLD"
    store.settle(item, Outcome("queued", "parked", given_back=True, parked="SLACK_CHANNEL_ERROR"))
    scene.be_ready()
    (item,) = claim(scene)
    assert item.channel_id is None
    store.settle(item, Outcome("sent", "sent", channel_id="C0NEW"))
    scene.be_ready()
    (item,) = claim(scene)
    assert item.channel_id == "C0NEW"


def test_what_waits_too_long_expires(scene: Scene) -> None:
    late = scene.insert(scene.config(), created_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=3),
                        next_attempt_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=3))  # fmt: skip
    store = scene.store()
    store.resolve()
    assert store.expire() == 1
    row = scene.row(late)
    assert (row["state"], row["error_class"]) == ("dead", "NOTIFICATION_EXPIRED")


def test_a_loop_upstream_fills_a_lane_only_so_far(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.jobs.notifications.store.MAX_OPEN", 20)
    scene.fill(scene.config(), 30)
    scene.store().resolve()
    assert scene.rows("select error_class, count(*) from notification_queue group by 1 order by 1 nulls first") == [
        {"error_class": None, "count": 20},
        {"error_class": "NOTIFICATION_FLOOD", "count": 10},
    ]


def test_a_dead_letter_is_listed_and_replayed_with_the_configuration_of_now(scene: Scene) -> None:
    config = scene.config(channel=None)
    dead = scene.insert(config)
    store = scene.store()
    store.resolve()
    choice = Choice(reason="NOTIFICATION_NO_DESTINATION")
    assert [letter["id"] for letter in store.dead_letters(choice)] == [dead]
    assert store.dead_letters(Choice(since=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))) == []
    scene.rows("update notification_config set channel_id = %s", ALERTS)
    assert store.replay(choice) == [dead]
    (item,) = claim(scene)
    assert (item.id, item.destination, item.is_ambiguous) == (dead, ALERTS, False)
    assert scene.row(dead)["replays"] == 1


def test_a_replay_of_what_may_have_arrived_is_looked_up_again(scene: Scene) -> None:
    identity = scene.insert(scene.config())
    (item,) = claim(scene)
    store = scene.store()
    store.settle(item, Outcome("dead", "dead", error_class="NOTIFICATION_AMBIGUOUS"))
    assert store.replay(Choice(ids=[identity])) == [identity]
    (again,) = claim(scene)
    assert again.is_ambiguous


def test_a_second_replay_still_knows_that_the_message_may_be_there(scene: Scene) -> None:
    identity = scene.insert(scene.config())
    store = scene.store()
    (item,) = claim(scene)
    store.settle(item, Outcome("sending", "ambiguous"))
    scene.be_ready()
    (item,) = claim(scene)
    store.settle(item, Outcome("dead", "dead", error_class="NOTIFICATION_ATTEMPTS_EXHAUSTED"))
    scene.rows("update notification_config set channel_id = null")  # the first replay ends for another reason
    store.replay(Choice(ids=[identity]))
    store.resolve()
    assert scene.row(identity)["error_class"] == "NOTIFICATION_NO_DESTINATION"
    scene.rows("update notification_config set channel_id = %s", ALERTS)
    store.replay(Choice(ids=[identity]))
    (again,) = claim(scene)
    assert again.is_ambiguous


def test_an_ambiguous_row_that_ends_for_another_reason_is_looked_up_when_it_is_replayed(scene: Scene) -> None:
    identity = scene.insert(scene.config())
    store = scene.store()
    (item,) = claim(scene)
    store.settle(item, Outcome("sending", "ambiguous"))
    scene.be_ready()
    (item,) = claim(scene)
    store.settle(item, Outcome("dead", "dead", error_class="NOTIFICATION_BAD_DATA"))
    store.replay(Choice(ids=[identity]))
    scene.be_ready()
    (again,) = claim(scene)
    assert again.is_ambiguous


def test_what_slack_has_refused_is_replayed_without_a_look_up(scene: Scene) -> None:
    """Where the history may not be read and the configuration says hold, it could never be sent otherwise."""
    identity = scene.insert(scene.config())
    store = scene.store()
    (item,) = claim(scene)
    store.settle(item, Outcome("dead", "dead", error_class="SLACK_MESSAGE_REFUSED"))
    store.replay(Choice(ids=[identity]))
    scene.be_ready()
    (again,) = claim(scene)
    assert not again.is_ambiguous


def test_only_rows_that_nobody_has_begun_are_cancelled(scene: Scene) -> None:
    begun, waiting = scene.fill(scene.config(), 2)
    claim(scene)
    assert scene.store().cancel([begun, waiting], "not wanted") == [waiting]
    assert scene.row(waiting)["error_class"] == "NOTIFICATION_CANCELLED"


def test_the_same_wish_twice_is_one_row(scene: Scene) -> None:
    config = scene.config()
    scene.insert(config, dedupe_key="order-1-paid")
    with pytest.raises(psycopg.errors.UniqueViolation):
        scene.insert(config, dedupe_key="order-1-paid")


def test_only_one_drain_is_resident_and_the_next_one_takes_its_place(scene: Scene) -> None:
    first, second = scene.store("first"), scene.store("second")
    lease = dt.timedelta(seconds=15)
    assert first.become_resident(lease)
    assert not second.become_resident(lease)
    assert second.become_resident(lease, by_force=True)
    assert not first.become_resident(lease)
    second.leave()
    assert first.become_resident(lease)


def test_an_alert_is_said_once(scene: Scene) -> None:
    store = scene.store()
    assert store.say_once("lane x", dt.timedelta(hours=1))
    assert not store.say_once("lane x", dt.timedelta(hours=1))
    assert store.say_once("lane x", dt.timedelta(0))


def test_an_insert_is_notified(scene: Scene, connect: Any) -> None:
    listener = connect()
    listener.execute("listen penstock_notifications")
    scene.insert(scene.config())
    assert [each.channel for each in listener.notifies(timeout=2, stop_after=1)] == ["penstock_notifications"]


def test_a_request_s_new_status_queues_a_row_per_active_configuration(scene: Scene) -> None:
    active = scene.config()
    scene.config(is_active=False)
    (request,) = scene.rows("insert into requests (title, request_type) values ('Spring', 'creative') returning id")
    scene.rows("update requests set status = 'in_progress' where id = %s", request["id"])
    (row,) = scene.rows("select config_id::text, entity_id, event_data from notification_queue")
    assert (row["config_id"], row["entity_id"]) == (active, request["id"])
    told = {"old_status": "new_request", "new_status": "in_progress", "request_title": "Spring"}
    assert told.items() <= row["event_data"].items()
    assert set(row["event_data"]) >= {"request_id", "changed_by", "client_id"}


def test_a_request_cannot_jump_to_a_status_that_does_not_follow(scene: Scene) -> None:
    (request,) = scene.rows("insert into requests (title, request_type) values ('Spring', 'creative') returning id")
    with pytest.raises(psycopg.errors.CheckViolation, match="Invalid status transition"):
        scene.rows("update requests set status = 'needs_edit' where id = %s", request["id"])


# -- clients of the old worker's function


def old_client_takes(scene: Scene, batch_size: int = 50) -> list[dict[str, Any]]:
    return scene.rows("select * from lock_and_get_notifications(%s)", batch_size)


def test_the_old_function_really_locks(scene: Scene) -> None:
    ids = scene.fill(scene.config(), 3)
    taken = old_client_takes(scene)
    assert [str(row["id"]) for row in taken] == ids
    assert list(taken[0]) == ["id", "config_id", "entity_id", "entity_type", "event_data", "attempts"]
    assert old_client_takes(scene) == []
    assert claim(scene) == []


def test_what_a_drain_of_ours_sends_no_old_client_gets(scene: Scene) -> None:
    scene.fill(scene.config(), 2)
    assert len(claim(scene)) == 1
    assert old_client_takes(scene) == []


def test_an_old_client_acknowledges_by_its_own_columns(scene: Scene) -> None:
    first, second = scene.fill(scene.config(), 2)
    old_client_takes(scene, 1)
    scene.rows("update notification_queue set is_processed = true, processed_at = now() where id = %s::uuid", first)
    assert scene.row(first)["state"] == "sent"
    assert [item.id for item in claim(scene)] == [second]


def test_an_old_client_s_failure_gives_the_row_back_and_the_fifth_is_a_dead_letter(scene: Scene) -> None:
    identity = scene.insert(scene.config())
    fail = (
        "update notification_queue set attempts = attempts + 1, last_error = 'no', next_attempt_at = now() "
        "where id = %s::uuid"
    )
    for attempt in range(5):
        assert len(old_client_takes(scene)) == 1, attempt
        scene.rows(fail, identity)
    row = scene.row(identity)
    assert (row["state"], row["error_class"]) == ("dead", "NOTIFICATION_ATTEMPTS_EXHAUSTED")
    assert old_client_takes(scene) == []


def test_an_old_client_that_died_leaves_a_row_that_is_taken_up(scene: Scene) -> None:
    identity = scene.insert(scene.config())
    old_client_takes(scene)
    scene.rows("update notification_queue set leased_until = now() - interval '1 second'")
    (item,) = claim(scene)
    assert (item.id, item.is_ambiguous) == (identity, True)


# -- several at once


def test_eight_claimers_never_get_the_same_row(scene: Scene, fresh_database: str) -> None:
    for number in range(40):
        scene.fill(scene.config(f"C1{number:04d}"), 5)
    scene.store().resolve()
    got: list[tuple[str, int]] = []
    guard = threading.Lock()

    def work(name: str) -> None:
        with Warehouse(fresh_database) as warehouse:
            store = Scene(warehouse, "", "").store(name)
            while items := store.claim(3):
                for item in items:
                    with guard:
                        got.append((item.id, item.row_epoch))
                    store.settle(item, SENT)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Claimers that look at the same moment pass over what the other looks at: all may leave with rows still there.
    work("last")
    assert len(got) == len(set(got)) == 200
    assert scene.states() == {"sent": 200}


def test_the_claim_goes_by_its_indexes_whatever_the_history(scene: Scene) -> None:
    config = scene.config()
    scene.rows("alter table notification_queue disable trigger user")
    scene.rows(
        "insert into notification_queue (config_id, entity_id, entity_type, state, lane_key, is_processed) "
        "select %s::uuid, gen_random_uuid(), 'request', case when g %% 20 = 0 then 'queued' else 'sent' end, "
        "'slack/C1' || g %% 2000, g %% 20 <> 0 from generate_series(1, 40000) as g",
        config,
    )
    scene.rows(
        "insert into penstock.notification_lanes (lane_key, workspace, destination, next_send_at) "
        "select 'slack/C1' || g, 'slack', 'C1' || g, now() from generate_series(0, 1999) as g"
    )
    scene.rows("analyze notification_queue")
    scene.rows("analyze penstock.notification_lanes")
    from penstock.jobs.notifications.store import SQL

    plans = {
        "claim": {"limit": 16, "lease": dt.timedelta(seconds=120), "holder": "x"},
        "expire": {"limit": 1000},
        "resolve": {"workspace": "slack", "limit": 2000, "max_open": 3600, "max_bytes": 1000},
        "follow": {"workspace": "slack"},
    }
    for name, parameters in plans.items():
        with scene.warehouse.connection() as connection:
            row = connection.execute("explain (format json) " + SQL[name], parameters).fetchone()
        assert row is not None
        assert "notification_queue" not in _sequential_scans(row[0][0]["Plan"]), name


def test_the_sweep_counts_what_waits_once_per_lane(scene: Scene) -> None:
    """Counted once per row and lane, it took minutes for a burst over 2,000 channels."""
    lanes = 60
    for number in range(lanes):
        scene.fill(scene.config(f"C1{number:04d}"), 2)
    from penstock.jobs.notifications.store import SQL

    parameters = {"workspace": "slack", "limit": 2000, "max_open": 3600, "max_bytes": 1000}
    with scene.warehouse.connection() as connection:
        row = connection.execute("explain (analyze, format json) " + SQL["resolve"], parameters).fetchone()
    assert row is not None
    counted = [
        node["Actual Loops"]
        for node in _nodes(row[0][0]["Plan"])
        if node.get("Index Name") == "notification_queue_lane_idx"
    ]
    assert counted
    assert max(counted) <= lanes


def test_a_sweep_asks_once_per_configuration_and_lane_whether_its_rows_are_where_they_belong(scene: Scene) -> None:
    """It runs at every insert; looking at each of 100,000 waiting rows would take a tenth of a second."""
    ids = scene.fill(scene.config(), 3000)
    scene.store().resolve()
    scene.store().resolve()
    from penstock.jobs.notifications.store import SQL

    with scene.warehouse.connection() as connection:
        row = connection.execute("explain (analyze, format json) " + SQL["follow"], {"workspace": "slack"}).fetchone()
    assert row is not None
    read = [node["Actual Rows"] * node["Actual Loops"] for node in _nodes(row[0][0]["Plan"])
            if node.get("Relation Name") == "notification_queue" and "Actual Rows" in node]  # fmt: skip
    assert read
    assert sum(read) < len(ids) / 100


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in _nodes(child))]


def _sequential_scans(plan: dict[str, Any]) -> list[str]:
    own = [plan["Relation Name"]] if plan["Node Type"] == "Seq Scan" else []
    return own + [name for child in plan.get("Plans", ()) for name in _sequential_scans(child)]


def test_the_queue_s_health_is_one_row(scene: Scene) -> None:
    scene.fill(scene.config(), 3)
    scene.insert(scene.config(channel=None))
    claim(scene)
    (row,) = scene.rows("select * from reporting.queue_health where queue = 'notifications'")
    assert (row["depth"], row["ready"], row["in_flight"], row["dead"]) == (3, 3, 1, 1)
    assert row["dead_by_reason"] == {"NOTIFICATION_NO_DESTINATION": 1}
    assert row["expired_leases"] == 0
    assert json.loads(json.dumps(row["detail"]))["leased_lanes"] == 1
    assert {each["queue"] for each in scene.rows("select queue from reporting.queue_health")} >= {"etl_runs"}


def test_two_sweeps_at_once_do_not_share_the_rows_so_that_none_overtakes(scene: Scene, fresh_database: str) -> None:
    """The second would find the first's rows locked, skip them, and let later ones of the same channel go first."""
    scene.fill(scene.config(), 5)
    with Warehouse(fresh_database) as other, other.transaction():
        assert Scene(other, "", "").store().resolve().resolved == 5
        assert scene.store().resolve().resolved == 0
    assert scene.store().resolve().resolved == 0
