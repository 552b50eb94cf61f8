"""The machine of one key: every answer of Google's error table, and where it leads."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.core.calendar_calls import (
    MAX_CALLS,
    MAX_GENERATION,
    Call,
    Kind,
    Known,
    Reply,
    Verdict,
    Work,
    refusal_code,
)
from penstock.core.calendar_events import Cancel, Upsert, body_hash, event_id, read_intent, without_nulls

WORKSPACE = "0b7bb9ce-6d7f-4b53-9b3a-3f6f6f6f2c11"
SOURCE = "5d1b8d3e-0000-4000-8000-000000000001"
KEY = f"{WORKSPACE}:task:{SOURCE}"
OWN_ID = event_id(KEY, "team")


def upsert(calendar: str = "team") -> Upsert:
    payload = {
        "calendarId": calendar,
        "sourceType": "task",
        "sourceId": SOURCE,
        "eventType": "MILESTONE",
        "event": {"title": "T", "start": "2026-12-01T10:00:00Z", "end": "2026-12-01T11:00:00Z"},
    }
    intent = read_intent("UPSERT_EVENT", payload, WORKSPACE, "UTC")
    assert isinstance(intent, Upsert)
    return intent


def play(work: Work, *replies: Reply) -> list[tuple[str, str]]:
    """The calls made for these answers."""
    made = []
    for reply in replies:
        assert work.call is not None, made
        made.append((work.call.kind.value, work.call.event_id))
        work.take(reply)
    return made


def new(known: Known | None = None, intent: Upsert | Cancel | None = None) -> Work:
    return Work(KEY, WORKSPACE, intent or upsert(), known or Known("team"))


def ok(etag: str = '"1"', **body: Any) -> Reply:
    return Reply(200, body={"etag": etag, **body})


def refused(status: int, reason: str = "") -> Reply:
    return Reply(status, reason, "why")


CREATED = Known("team", OWN_ID, 0, True, '"1"', "old")


@pytest.mark.parametrize(
    ("known", "replies", "calls", "verdict", "reason"),
    [
        (Known("team"), [ok()], ["insert"], "done", None),
        (Known("team"), [refused(409, "duplicate"), ok()], ["insert", "update"], "done", None),
        (Known("team"), [refused(409), refused(404)], ["insert", "update"], "again", None),
        (Known("team"), [refused(409), refused(403, "forbidden")], ["insert", "update"], "again", None),
        (Known("team"), [refused(409), refused(503)], ["insert", "update"], "retry", "CALENDAR_TRANSIENT"),
        (Known("team"), [refused(404, "notFound")], ["insert"], "dead", "CALENDAR_NOT_FOUND"),
        (Known("team"), [refused(400, "timeRangeEmpty")], ["insert"], "dead", "CALENDAR_EVENT_REFUSED"),
        (Known("team"), [refused(403, "requiredAccessLevel")], ["insert"], "dead", "CALENDAR_FORBIDDEN"),
        (CREATED, [ok()], ["patch"], "done", None),
        (CREATED, [refused(404), ok()], ["patch", "insert"], "done", None),
        (CREATED, [refused(410), refused(409), ok()], ["patch", "insert", "update"], "done", None),
        (CREATED, [refused(412), ok(status="confirmed"), ok()], ["patch", "get", "patch"], "done", None),
        (CREATED, [refused(412), ok(status="cancelled"), ok()], ["patch", "get", "update"], "done", None),
        (CREATED, [refused(412), refused(404), ok()], ["patch", "get", "insert"], "done", None),
        (CREATED, [refused(412), refused(500)], ["patch", "get"], "retry", "CALENDAR_TRANSIENT"),
        (CREATED, [refused(403, "forbiddenForNonOrganizer")], ["patch"], "dead", "CALENDAR_NOT_ORGANIZER"),
        (CREATED, [refused(403, "rateLimitExceeded")], ["patch"], "release", "CALENDAR_RATE_LIMIT"),
        (CREATED, [refused(403, "userRateLimitExceeded")], ["patch"], "release", "CALENDAR_RATE_LIMIT"),
        (CREATED, [refused(429)], ["patch"], "release", "CALENDAR_RATE_LIMIT"),
        (CREATED, [refused(403, "quotaExceeded")], ["patch"], "release", "CALENDAR_QUOTA"),
        (CREATED, [refused(401)], ["patch"], "release", "OAUTH_INVALID"),
        (CREATED, [refused(403, "insufficientPermissions")], ["patch"], "release", "OAUTH_INVALID"),
        (CREATED, [refused(403, "accessNotConfigured")], ["patch"], "release", "CALENDAR_API_DISABLED"),
        (CREATED, [refused(500)], ["patch"], "retry", "CALENDAR_TRANSIENT"),
        (CREATED, [refused(503)], ["patch"], "retry", "CALENDAR_TRANSIENT"),
        (CREATED, [refused(0)], ["patch"], "retry", "CALENDAR_TRANSIENT"),
        (CREATED, [refused(418)], ["patch"], "dead", "CALENDAR_EVENT_REFUSED"),
    ],
)
def test_an_upsert_follows_the_error_table(
    known: Known, replies: list[Reply], calls: list[str], verdict: str, reason: str | None
) -> None:
    work = new(known)
    assert [kind for kind, _ in play(work, *replies)] == calls
    assert (work.verdict, work.reason, work.call) == (Verdict(verdict), reason, None)


@pytest.mark.parametrize(
    ("status", "reason", "verdict"),
    [(204, "", "done"), (404, "notFound", "done"), (410, "deleted", "done"), (500, "", "retry"),
     (403, "rateLimitExceeded", "release"), (403, "requiredAccessLevel", "dead"), (401, "", "release")],
)  # fmt: skip
def test_a_cancel_follows_the_error_table(status: int, reason: str, verdict: str) -> None:
    work = new(CREATED, Cancel("team", None))
    assert play(work, refused(status, reason)) == [("delete", OWN_ID)]
    assert work.verdict == Verdict(verdict)
    assert work.known.is_created is (verdict != "done")


def test_an_event_as_it_should_be_costs_no_call() -> None:
    first = new()
    play(first, ok())
    again = new(first.known)
    assert (again.call, again.verdict) == (None, Verdict.DONE)


def test_a_patch_is_bound_to_the_etag_and_the_second_one_to_the_newer() -> None:
    work = new(CREATED)
    assert work.call is not None
    assert work.call.etag == '"1"'
    work.take(refused(412))
    work.take(ok('"7"', status="confirmed"))
    assert work.call is not None
    assert work.call.etag == '"7"'


def test_an_old_workers_event_is_deleted_under_both_names() -> None:
    adopted = Known("team", "googlesown1", 0, True)
    assert play(new(adopted, Cancel("team", None)), ok(), refused(404)) == [
        ("delete", "googlesown1"),
        ("delete", OWN_ID),
    ]


def test_an_event_that_an_old_worker_did_not_bind_is_deleted_by_its_name_in_the_item() -> None:
    work = new(Known(None), Cancel("team", "googlesown1"))
    assert play(work, refused(404), ok()) == [("delete", OWN_ID), ("delete", "googlesown1")]
    assert work.verdict is Verdict.DONE


def test_a_cancel_without_any_calendar_has_nothing_to_do() -> None:
    assert new(Known(None), Cancel(None, None)).verdict is Verdict.DONE


def test_a_gone_event_of_an_old_worker_is_made_again_under_our_own_id() -> None:
    work = new(Known("team", "googlesown1", 0, True, None, None))
    assert play(work, refused(404), ok()) == [("patch", "googlesown1"), ("insert", OWN_ID)]
    assert work.known.google_event_id == OWN_ID


def test_an_event_leaves_its_calendar_before_it_is_made_in_another() -> None:
    work = new(CREATED, upsert("other"))
    assert play(work, ok()) == [("delete", OWN_ID)]
    assert (work.verdict, work.known) == (Verdict.AGAIN, Known("other"))
    following = new(work.known, upsert("other"))
    assert play(following, ok()) == [("insert", event_id(KEY, "other"))]


def test_ids_end_after_some_generations() -> None:
    work = new(Known("team", generation=5))
    play(work, refused(409), refused(404))
    assert (work.verdict, work.reason) == (Verdict.DEAD, "CALENDAR_ID_CONFLICT")


def test_an_event_that_somebody_changes_all_the_time_is_left_for_later() -> None:
    work = new(CREATED)
    play(work, *[refused(412), ok('"2"', status="confirmed")] * (MAX_CALLS // 2))
    assert (work.verdict, work.reason) == (Verdict.RETRY, "CALENDAR_TRANSIENT")


def test_what_the_vendor_asked_to_wait_is_kept() -> None:
    work = new()
    work.take(Reply(503, "backendError", "later", retry_after=7.0))
    assert work.retry_after == 7.0


def test_an_unknown_refusal_is_the_events_own_fault_and_a_server_error_never() -> None:
    assert refusal_code(418) == "CALENDAR_EVENT_REFUSED"
    assert {refusal_code(status) for status in (0, 408, 500, 502, 503, 504)} == {"CALENDAR_TRANSIENT"}


def test_a_call_has_a_body_only_where_it_says_something() -> None:
    work = new()
    assert work.call is not None
    assert work.call.kind is Kind.INSERT
    assert work.call.body is not None
    assert work.call.body["id"] == OWN_ID
    assert "description" not in work.call.body


# -- whole calls, and what is known after them


def test_every_call_names_its_calendar_its_event_and_its_body() -> None:
    work = new(CREATED)
    body = work._body
    assert work.call == Call(Kind.PATCH, "team", OWN_ID, body, '"1"')
    work.take(refused(412))
    assert work.call == Call(Kind.GET, "team", OWN_ID)
    work.take(ok(etag='"2"', status="confirmed"))
    assert work.call == Call(Kind.PATCH, "team", OWN_ID, body, '"2"')
    work.take(refused(404))
    assert work.known == Known("team")
    assert work.call == Call(Kind.INSERT, "team", OWN_ID, {"id": OWN_ID, **without_nulls(body)})
    work.take(refused(409))
    assert work.call == Call(Kind.UPDATE, "team", OWN_ID, without_nulls(body))
    work.take(ok(etag='"3"'))
    assert work.known == Known("team", OWN_ID, 0, True, '"3"', body_hash(body))
    assert work.calls == 5


def test_an_id_that_is_of_no_use_is_replaced_by_the_next_generation_s() -> None:
    work = new(Known("team", generation=2))
    play(work, refused(409), refused(404))
    assert (work.verdict, work.known) == (Verdict.AGAIN, Known("team", generation=3))
    last = new(Known("team", generation=MAX_GENERATION))
    play(last, refused(409), refused(404))
    assert (last.verdict, last.reason, last.message) == (Verdict.DEAD, "CALENDAR_ID_CONFLICT", "why")


@pytest.mark.parametrize(
    ("status", "reason", "verdict"),
    [(403, "rateLimitExceeded", "release"), (403, "quotaExceeded", "release"), (401, "", "release"), (500, "", "retry"),
     (429, "", "release"), (403, "insufficientPermissions", "release"), (400, "invalid", "again"),
     (403, "forbidden", "again")],
)  # fmt: skip
def test_an_event_that_cannot_be_revived_now_keeps_its_id_where_trying_later_may_help(
    status: int, reason: str, verdict: str
) -> None:
    work = new()
    play(work, refused(409), refused(status, reason))
    assert work.verdict == Verdict(verdict)
    assert work.known.generation == (1 if verdict == "again" else 0)


@pytest.mark.parametrize(
    ("status", "reason", "verdict"),
    [(204, "", "again"), (404, "", "again"), (410, "", "again"), (403, "forbidden", "again"), (500, "", "retry"),
     (403, "rateLimitExceeded", "release"), (401, "", "release"), (400, "invalid", "dead")],
)  # fmt: skip
def test_an_event_leaves_its_old_calendar_or_stays_there(status: int, reason: str, verdict: str) -> None:
    old = Known("old", event_id(KEY, "old", 2), 2, True, '"1"', "h")
    work = new(old)
    assert work.call == Call(Kind.DELETE, "old", event_id(KEY, "old", 2))
    work.take(refused(status, reason))
    assert work.verdict == Verdict(verdict)
    assert work.known == (Known("team", generation=2) if verdict == "again" else old)
    assert work.message == (None if verdict == "again" else f"HTTP {status} {reason}: why")


def test_a_cancel_keeps_the_generation_and_the_calendar() -> None:
    work = new(Known("team", None, 3), Cancel(None, None))
    assert work.call == Call(Kind.DELETE, "team", event_id(KEY, "team", 3))
    work.take(Reply(204))
    assert (work.verdict, work.known) == (Verdict.DONE, Known("team", generation=3))


def test_a_cancel_that_names_an_event_does_not_delete_a_bound_one_s_namesake() -> None:
    work = new(CREATED, Cancel("team", "theirs"))
    assert play(work, Reply(204)) == [("delete", OWN_ID)]
    assert work.verdict is Verdict.DONE


def test_a_released_key_has_no_call_and_no_reason() -> None:
    work = new()
    work.release()
    assert (work.call, work.verdict, work.reason, work.message) == (None, Verdict.RELEASE, None, None)


def test_a_reply_without_a_call_is_a_defect() -> None:
    work = new()
    work.release()
    with pytest.raises(ValueError, match=KEY):
        work.take(Reply(200))


def test_the_message_says_what_google_said() -> None:
    work = new(CREATED)
    work.take(refused(503, "backendError"))
    assert work.message == "HTTP 503 backendError: why"
    silent = new(CREATED)
    silent.take(refused(0))
    assert silent.message == "why"
    busy = new(CREATED)
    busy.take(Reply(429, "rateLimitExceeded", "why", retry_after=7.0))
    assert busy.retry_after == 7.0
