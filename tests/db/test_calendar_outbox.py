"""The calendar outbox on a real Postgres, before the sandbox's Google Calendar."""

from __future__ import annotations

import pytest

from penstock.warehouse.session import Warehouse
from tests.calendar_scene import Scene, Workspace
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db


@pytest.fixture
def scene(warehouse: Warehouse, sandbox: Sandbox) -> Scene:
    return Scene(warehouse, sandbox.url)


@pytest.fixture
def workspace(scene: Scene) -> Workspace:
    return scene.connect_workspaces()[0]


def test_an_item_becomes_an_event(scene: Scene, workspace: Workspace) -> None:
    scene.upsert(workspace, 1, "Ship it")
    tally = scene.run()
    assert scene.titles(workspace.calendar) == ["Ship it"]
    assert scene.states() == {"COMPLETED": 1}
    assert tally.counts["done"] == 1


def fault(sandbox: Sandbox, status: int, reason: str = "", path: str = "/events", **more: object) -> None:
    params = {"status": status, **({"reason": reason} if reason else {})}
    extra = {name: params.pop(name) for name in () if name in params}
    sandbox.faults(
        {
            "vendor": "google_calendar",
            "path": path,
            "action": "status",
            "params": {**params, **{name: value for name, value in more.items() if name in ("stored", "retry_after")}},
            **{name: value for name, value in more.items() if name not in ("stored", "retry_after")},
            **extra,
        }
    )


def test_only_the_newest_intent_is_sent_and_older_ones_say_so(scene: Scene, workspace: Workspace) -> None:
    for title in ("one", "two", "three"):
        scene.upsert(workspace, 1, title)
    scene.run()
    assert scene.titles(workspace.calendar) == ["three"]
    assert scene.states() == {"COMPLETED": 1, "SUPERSEDED": 2}
    assert len(scene.calls()) == 1


def test_a_change_is_a_patch_with_the_known_etag_and_an_unchanged_event_costs_no_call(
    scene: Scene, workspace: Workspace
) -> None:
    scene.upsert(workspace, 1, "one")
    scene.run()
    scene.upsert(workspace, 1, "two")
    scene.run()
    scene.upsert(workspace, 1, "two")
    scene.run()
    assert [call["operation"] for call in scene.calls()] == ["insert", "patch"]
    assert {call["send_updates"] for call in scene.calls()} == {"none"}
    assert scene.states() == {"COMPLETED": 3}


def test_a_cancelled_source_has_no_event_and_comes_back_under_its_own_id(scene: Scene, workspace: Workspace) -> None:
    scene.upsert(workspace, 1, "one")
    scene.run()
    (event_id,) = scene.seen(workspace.calendar)
    scene.cancel(workspace, 1)
    scene.run()
    assert scene.seen(workspace.calendar) == {}
    assert scene.fetch("select count(*) from public.calendar_event_bindings") == [(0,)]
    scene.upsert(workspace, 1, "again")
    scene.run()
    assert scene.seen(workspace.calendar) == {event_id: "again"}


def test_cancelling_what_was_never_there_is_success(scene: Scene, workspace: Workspace) -> None:
    scene.cancel(workspace, 1)
    scene.cancel(workspace, 2, googleEventId="abc01")
    scene.run()
    assert scene.states() == {"COMPLETED": 2}


def test_items_go_in_batches(scene: Scene, sandbox: Sandbox) -> None:
    workspaces = scene.connect_workspaces(3)
    for workspace in workspaces:
        for number in range(60):
            scene.upsert(workspace, number)
    tally = scene.run()
    assert scene.states() == {"COMPLETED": 180}
    assert sandbox.answered("google_calendar", "batch") == tally.counts["calls"] == 6
    assert all(len(scene.seen(workspace.calendar)) == 60 for workspace in workspaces)


def test_accounts_take_turns(scene: Scene, sandbox: Sandbox) -> None:
    busy, quiet = scene.connect_workspaces(2)
    for number in range(150):
        scene.upsert(busy, number)
    scene.upsert(quiet, 1)
    drain = scene.drain()
    store = drain._store
    assert store.wake() == 2
    order = [claim.workspace_id for claim in (store.claim(), store.claim(), store.claim()) if claim]
    assert sorted(order[:2]) == sorted([busy.workspace_id, quiet.workspace_id])


def test_an_event_that_a_person_deleted_comes_back(scene: Scene, workspace: Workspace) -> None:
    scene.upsert(workspace, 1, "one")
    scene.run()
    (event_id,) = scene.seen(workspace.calendar)
    scene.post("edit", {"calendar": workspace.calendar, "event": event_id, "change": None})
    scene.upsert(workspace, 1, "two")
    scene.run()
    assert scene.titles(workspace.calendar) == ["two"]
    assert scene.states() == {"COMPLETED": 2}


def test_what_a_person_changed_is_overwritten_and_their_colour_stays(scene: Scene, workspace: Workspace) -> None:
    scene.upsert(workspace, 1, "one")
    scene.run()
    (event_id,) = scene.seen(workspace.calendar)
    change = {"summary": "mine", "colorId": "5"}
    scene.post("edit", {"calendar": workspace.calendar, "event": event_id, "change": change})
    scene.upsert(workspace, 1, "two")
    scene.run()
    (event,) = scene.get("events", calendar=workspace.calendar)[workspace.calendar]
    assert (event["summary"], event["colorId"]) == ("two", "5")
    assert [call["status"] for call in scene.calls()] == [200, 412, 200, 200]


def test_an_id_that_cannot_be_revived_is_replaced_by_the_next_one(scene: Scene, workspace: Workspace) -> None:
    scene.upsert(workspace, 1, "one")
    scene.run()
    (first,) = scene.seen(workspace.calendar)
    scene.cancel(workspace, 1)
    scene.run()
    scene.put("settings", {"refuses_revival": True})
    scene.upsert(workspace, 1, "two")
    scene.run()
    (second,) = scene.seen(workspace.calendar)
    assert first != second
    scene.cancel(workspace, 1)
    scene.run()
    assert scene.seen(workspace.calendar) == {}


def test_an_event_moves_to_another_calendar(scene: Scene, workspace: Workspace) -> None:
    scene.upsert(workspace, 1, "one")
    scene.run()
    scene.upsert(workspace, 1, "one", calendar=workspace.other_calendar)
    scene.run()
    assert (scene.titles(workspace.calendar), scene.titles(workspace.other_calendar)) == ([], ["one"])
    scene.cancel(workspace, 1)
    scene.run()
    assert scene.titles(workspace.other_calendar) == []


def test_an_all_day_event_ends_on_the_day_after(scene: Scene, workspace: Workspace) -> None:
    scene.upsert(workspace, 1, start="2026-03-28T23:00:00Z", end="2026-03-29T22:00:00Z", isAllDay=True)
    scene.run()
    (event,) = scene.get("events", calendar=workspace.calendar)[workspace.calendar]
    assert (event["start"], event["end"]) == ({"date": "2026-03-29"}, {"date": "2026-03-30"})
    scene.upsert(workspace, 1, start="2026-03-29T08:00:00Z", end="2026-03-29T09:00:00Z")
    scene.run()
    (event,) = scene.get("events", calendar=workspace.calendar)[workspace.calendar]
    assert event["start"] == {"dateTime": "2026-03-29T10:00:00+02:00", "timeZone": "Europe/Zurich"}


@pytest.mark.parametrize("status", [500, 503])
def test_a_fault_of_google_is_tried_again_and_counted(
    scene: Scene, workspace: Workspace, sandbox: Sandbox, status: int
) -> None:
    fault(sandbox, status, times=1)
    scene.upsert(workspace, 1, "one")
    scene.upsert(workspace, 2, "two")
    scene.run()
    assert scene.states() == {"COMPLETED": 1, "FAILED": 1}
    scene.forget_delays()
    scene.run()
    assert scene.titles(workspace.calendar) == ["one", "two"]
    assert scene.states() == {"COMPLETED": 2}
    assert sorted(scene.fetch("select attempts from public.sync_outbox")) == [(0,), (1,)]


@pytest.mark.parametrize("how", [{"stored": True}, {"truncate": True}])
def test_an_event_that_was_made_without_a_word_is_not_made_twice(
    scene: Scene, workspace: Workspace, sandbox: Sandbox, how: dict[str, bool]
) -> None:
    if how.get("stored"):
        fault(sandbox, 500, times=2, stored=True)
    else:
        params = {"wrong_length": True}
        sandbox.faults(
            {"vendor": "google_calendar", "path": "/batch/", "action": "truncate", "times": 1, "params": params}
        )
    scene.upsert(workspace, 1, "one")
    scene.upsert(workspace, 2, "two")
    scene.run()
    assert len(scene.seen(workspace.calendar)) == 2
    scene.upsert(workspace, 2, "newer")
    scene.forget_delays()
    scene.run()
    assert scene.titles(workspace.calendar) == ["newer", "one"]


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        (403, "rateLimitExceeded", "CALENDAR_RATE_LIMIT"),
        (403, "userRateLimitExceeded", "CALENDAR_RATE_LIMIT"),
        (429, "rateLimitExceeded", "CALENDAR_RATE_LIMIT"),
        (403, "quotaExceeded", "CALENDAR_QUOTA"),
    ],
)
def test_a_limit_is_no_failure_of_the_item_or_the_connection(
    scene: Scene, workspace: Workspace, sandbox: Sandbox, status: int, reason: str, code: str
) -> None:
    fault(sandbox, status, reason, times=1)
    scene.upsert(workspace, 1, "one")
    scene.run()
    assert scene.states() == {"PENDING": 1}
    assert scene.fetch("select reason from penstock.calendar_lanes") == [(code,)]
    assert scene.fetch("select is_valid from public.google_connections") == [(True,)]
    scene.forget_delays()
    scene.run()
    assert scene.titles(workspace.calendar) == ["one"]


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        (400, "invalid", "CALENDAR_EVENT_REFUSED"),
        (403, "forbiddenForNonOrganizer", "CALENDAR_NOT_ORGANIZER"),
        (403, "requiredAccessLevel", "CALENDAR_FORBIDDEN"),
        (404, "notFound", "CALENDAR_NOT_FOUND"),
    ],
)
def test_what_no_repetition_mends_is_a_dead_letter_and_can_be_replayed(
    scene: Scene, workspace: Workspace, sandbox: Sandbox, status: int, reason: str, code: str
) -> None:
    from penstock.jobs.calendar_outbox import Choice

    fault(sandbox, status, reason, times=1)
    item = scene.upsert(workspace, 1, "one")
    scene.run()
    ((dead_reason, message),) = scene.dead()
    assert (dead_reason, f"HTTP {status} {reason}" in message) == (code, True)
    assert [notice.code for notice in scene.notices] == [code]
    store = scene.drain()._store
    assert [letter["id"] for letter in store.dead_letters(Choice(reason=code))] == [item]
    assert store.replay(Choice(reason="OTHER")) == []
    assert store.replay(Choice(item_ids=[item])) == [item]
    scene.run()
    assert scene.titles(workspace.calendar) == ["one"]
    assert scene.states() == {"COMPLETED": 1}


def test_a_newer_intent_revives_a_dead_key_and_overtakes_the_dead_letter(
    scene: Scene, workspace: Workspace, sandbox: Sandbox
) -> None:
    fault(sandbox, 400, "invalid", times=1)
    scene.upsert(workspace, 1, "one")
    scene.run()
    scene.upsert(workspace, 1, "two")
    scene.run()
    assert scene.states() == {"COMPLETED": 1, "SUPERSEDED": 1}


def test_a_replay_that_a_newer_item_has_overtaken_ends_without_a_call(scene: Scene, workspace: Workspace) -> None:
    scene.upsert(workspace, 1, "one")
    scene.upsert(workspace, 1, "two")
    scene.run()
    calls = len(scene.calls())
    scene.fetch("update public.sync_outbox set status = 'DEAD_LETTER' where status = 'SUPERSEDED'")
    scene.fetch("update public.sync_outbox set status = 'PENDING' where status = 'DEAD_LETTER'")
    scene.run()
    assert scene.states() == {"COMPLETED": 1, "SUPERSEDED": 1}
    assert (scene.titles(workspace.calendar), len(scene.calls())) == (["two"], calls)


def test_a_revoked_grant_stops_its_own_connection_alone_and_comes_back_by_itself(
    scene: Scene, sandbox: Sandbox
) -> None:
    lost, fine = scene.connect_workspaces(2)
    scene.upsert(lost, 1, "lost")
    scene.upsert(fine, 1, "fine")
    scene.post("revoke", {"email": lost.email})
    scene.run()
    assert scene.fetch("select is_valid, status, last_error_code from public.google_connections order by is_valid") == [
        (False, "INVALID", "OAUTH_INVALID"),
        (True, "ACTIVE", None),
    ]
    assert [reason for reason, _ in scene.dead()] == ["OAUTH_INVALID"]
    assert [notice.code for notice in scene.notices] == ["OAUTH_INVALID"]
    asked = sandbox.answered("google")
    scene.upsert(lost, 2, "later")
    scene.run()
    assert sandbox.answered("google") == asked
    assert [reason for reason, _ in scene.dead()] == ["OAUTH_INVALID", "OAUTH_INVALID"]
    fresh = scene.post("connect", {"email": lost.email})["refresh_token"]
    scene.fetch(
        "update public.google_connections set refresh_token_encrypted = %s, is_valid = true where id = %s",
        [fresh, lost.connection_id],
    )
    assert scene.states() == {"COMPLETED": 1, "PENDING": 2}
    scene.run()
    assert scene.titles(lost.calendar) == ["later", "lost"]
    ((stored,),) = scene.fetch(
        "select refresh_token_encrypted from public.google_connections where id = %s", [lost.connection_id]
    )
    assert stored.startswith("v1:new:")


def test_a_grant_that_is_revoked_between_two_batches_is_noticed_at_the_second(
    scene: Scene, workspace: Workspace
) -> None:
    scene.upsert(workspace, 1, "one")
    drain = scene.drain()
    drain._accounts.close = lambda: None  # type: ignore[method-assign]
    drain.run()
    scene.post("revoke", {"email": workspace.email})
    scene.upsert(workspace, 2, "two")
    scene.drain().run()
    assert [reason for reason, _ in scene.dead()] == ["OAUTH_INVALID"]


def test_a_workspace_without_a_connection_waits_for_one(scene: Scene, workspace: Workspace) -> None:
    saved = scene.fetch("delete from public.google_connections returning id, workspace_id, refresh_token_encrypted")[0]
    scene.upsert(workspace, 1, "one")
    scene.run()
    assert [reason for reason, _ in scene.dead()] == ["CALENDAR_NOT_CONNECTED"]
    scene.fetch(
        "insert into public.google_connections (id, workspace_id, refresh_token_encrypted) values (%s, %s, %s)", saved
    )
    scene.run()
    assert scene.titles(workspace.calendar) == ["one"]


def test_a_missing_key_is_a_clear_dead_letter_and_no_crash_loop(scene: Scene, workspace: Workspace) -> None:
    from penstock.warehouse.vault import Key, Vault
    from tests.calendar_scene import OLD_KEY

    scene.upsert(workspace, 1, "one")
    right, scene.vault = scene.vault, Vault((Key.parse(OLD_KEY),))
    scene.run()
    scene.run()
    ((reason, message),) = scene.dead()
    assert (reason, "there is no encryption key new" in message) == ("CREDENTIAL_UNDECRYPTABLE", True)
    assert scene.fetch("select is_valid, status from public.google_connections") == [(True, "ERROR")]
    scene.vault = right
    scene.run()
    assert scene.titles(workspace.calendar) == ["one"]
    assert scene.fetch("select status from public.google_connections") == [("ACTIVE",)]


def test_a_wrong_oauth_client_stops_the_drain_and_harms_nothing(scene: Scene, workspace: Workspace) -> None:
    from penstock.clients.credentials import Credentials
    from penstock.clients.google_calendar import GoogleCalendarClient
    from penstock.core.errors import PenstockError

    def open_wrong(connection_id: str, refresh_token: str) -> GoogleCalendarClient:
        client = scene.open_client(connection_id, refresh_token)
        held = client._credentials
        client._credentials = Credentials(held.base_url, held.token, "wrong", held.extra)
        return client

    scene.upsert(workspace, 1, "one")
    with pytest.raises(PenstockError) as raised:
        scene.run(open_client=open_wrong)
    assert raised.value.code == "CALENDAR_CLIENT_INVALID"
    assert scene.states() == {"PENDING": 1}
    assert scene.fetch("select is_valid from public.google_connections") == [(True,)]
    scene.forget_delays()
    scene.run()
    assert scene.titles(workspace.calendar) == ["one"]


def test_the_circuit_breaker_of_one_connection_leaves_the_others_alone(scene: Scene, sandbox: Sandbox) -> None:
    broken, fine = scene.connect_workspaces(2)
    sandbox.faults(
        {"vendor": "google_calendar", "account": broken.email, "action": "status", "params": {"status": 503}}
    )
    for number in range(6):
        scene.upsert(broken, number)
        scene.fetch("update penstock.calendar_keys set next_attempt_at = now() where next_attempt_at > now()")
        scene.fetch("update penstock.calendar_lanes set next_turn_at = now()")
        scene.run()
    scene.upsert(fine, 1, "fine")
    scene.run()
    assert scene.titles(fine.calendar) == ["fine"]
    assert scene.fetch("select breaker_key, state from penstock.circuit_breakers where state <> 'closed'") == [
        (f"google_calendar:{broken.connection_id}", "open")
    ]
    sandbox.faults()
    scene.forget_delays()
    scene.run()
    assert len(scene.seen(broken.calendar)) == 6


def test_a_fault_that_lasts_a_day_ends_as_a_dead_letter(scene: Scene, workspace: Workspace, sandbox: Sandbox) -> None:
    fault(sandbox, 503)
    scene.upsert(workspace, 1, "one")
    scene.run()
    scene.fetch("update penstock.calendar_keys set attempts = 6, first_failed_at = now() - interval '25 hours'")
    scene.forget_delays()
    scene.run()
    assert [reason for reason, _ in scene.dead()] == ["CALENDAR_TRANSIENT"]


def test_a_paused_workspace_is_left_alone(scene: Scene, workspace: Workspace) -> None:
    import datetime as dt

    scene.upsert(workspace, 1, "one")
    store = scene.drain()._store
    store.pause(workspace.workspace_id, dt.datetime.now(dt.UTC) + dt.timedelta(hours=1), "anna", "migration")
    scene.run()
    assert scene.states() == {"PENDING": 1}
    ((detail,),) = scene.fetch("select detail -> 'paused' from reporting.queue_health where queue = 'calendar'")
    assert detail == {workspace.workspace_id: "migration"}
    store.pause(workspace.workspace_id, None, "anna", "")
    scene.fetch("update penstock.calendar_lanes set next_turn_at = 'infinity'")
    scene.run()
    assert scene.states() == {"COMPLETED": 1}


def test_a_lease_that_ended_is_taken_up_and_the_late_worker_cannot_write(scene: Scene, workspace: Workspace) -> None:
    scene.upsert(workspace, 1, "one")
    late = scene.drain(holder="late")._store
    late.wake()
    claim = late.claim()
    assert claim is not None
    scene.fetch("update penstock.calendar_keys set leased_until = now() - interval '1 second'")
    scene.run()
    assert scene.states() == {"COMPLETED": 1}
    (key,) = claim.keys
    from penstock.core.calendar_calls import Verdict
    from penstock.jobs.calendar_outbox.delivery import _row

    assert late.acknowledge([_row(key, key.known, Verdict.DEAD, "X", "late")]) == set()
    assert scene.states() == {"COMPLETED": 1}


def test_what_a_frozen_worker_may_have_written_over_is_written_again(scene: Scene, workspace: Workspace) -> None:
    scene.upsert(workspace, 1, "right")
    scene.run()
    (event_id,) = scene.seen(workspace.calendar)
    scene.post("edit", {"calendar": workspace.calendar, "event": event_id, "change": {"summary": "stale"}})
    ((event_key,),) = scene.fetch("select event_key from penstock.calendar_keys")
    scene.drain()._store.repair([event_key])
    scene.run()
    assert scene.titles(workspace.calendar) == ["right"]
    assert scene.states() == {"COMPLETED": 1}
