"""Reading outbox payloads, building events, naming them; sources of a rebuild."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest

from penstock.core.calendar_events import (
    CANCEL,
    UPSERT,
    Cancel,
    Upsert,
    body_hash,
    event_body,
    read_intent,
    without_nulls,
)
from penstock.core.calendar_sources import wanted_payloads
from penstock.core.errors import UnreadableRecord
from penstock.core.recurrence import check_rule

WORKSPACE = "0b7bb9ce-6d7f-4b53-9b3a-3f6f6f6f2c11"
SOURCE = "5d1b8d3e-0000-4000-8000-000000000001"
ZONE = "Europe/Zurich"


def payload(fields: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "workspaceId": WORKSPACE,
        "calendarId": "team",
        "sourceType": "task",
        "sourceId": SOURCE,
        "eventType": "MILESTONE",
        "event": {"title": "T", "start": "2026-12-01T10:00:00Z", "end": "2026-12-01T11:00:00Z", **(fields or {})},
        **more,
    }


def read(value: Any, operation: str = UPSERT, zone: str = ZONE) -> Upsert | Cancel:
    return read_intent(operation, value, WORKSPACE, zone)


def body(event: dict[str, Any], zone: str = ZONE) -> dict[str, Any]:
    intent = read(payload(event), zone=zone)
    assert isinstance(intent, Upsert)
    return without_nulls(event_body(intent.event, f"{WORKSPACE}:task:{SOURCE}", WORKSPACE))


def test_a_timed_event_is_told_in_the_calendars_zone() -> None:
    told = body({"start": "2026-07-01T08:00:00Z", "end": "2026-07-01T05:00:00-04:00", "location": "Zug"})
    assert told["start"] == {"dateTime": "2026-07-01T10:00:00+02:00", "timeZone": ZONE}
    assert told["end"] == {"dateTime": "2026-07-01T11:00:00+02:00", "timeZone": ZONE}
    assert (told["summary"], told["location"], "description" in told) == ("T", "Zug", False)


@pytest.mark.parametrize(
    ("start", "end", "first", "until"),
    [
        ("2026-03-01", "2026-03-01", "2026-03-01", "2026-03-02"),
        ("2026-02-28T23:00:00Z", "2026-03-01T23:00:00Z", "2026-03-01", "2026-03-02"),
        ("2026-03-01T00:00:00", "2026-03-02T00:00:00", "2026-03-01", "2026-03-02"),
        ("2026-03-01T00:00:00", "2026-03-01T23:59:59", "2026-03-01", "2026-03-02"),
        ("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", "2026-03-29", "2026-03-30"),  # 23 hours
        ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", "2026-10-25", "2026-10-26"),  # 25 hours
        ("2028-02-29", "2028-02-29", "2028-02-29", "2028-03-01"),
        ("2026-12-30", "2027-01-02T12:00:00", "2026-12-30", "2027-01-03"),
    ],
)
def test_an_all_day_event_has_whole_days_of_the_zone_and_an_exclusive_end(
    start: str, end: str, first: str, until: str
) -> None:
    told = body({"start": start, "end": end, "isAllDay": True})
    assert (told["start"], told["end"]) == ({"date": first}, {"date": until})


def test_a_local_time_that_the_clock_skips_is_an_hour_later() -> None:
    told = body({"start": "2026-03-29T02:30:00", "end": "2026-03-29T04:00:00"})
    assert told["start"]["dateTime"] == "2026-03-29T03:30:00+02:00"


def test_a_recurring_event_keeps_its_zone_and_its_rules() -> None:
    told = body({"recurrence": ["freq=weekly;byday=mo", "EXDATE;TZID=Europe/Zurich:20261207T100000"]})
    assert told["recurrence"] == ["RRULE:FREQ=WEEKLY;BYDAY=MO", "EXDATE;TZID=Europe/Zurich:20261207T100000"]
    assert told["start"]["timeZone"] == ZONE


def test_a_patch_clears_what_is_not_there_and_the_other_form_of_time() -> None:
    intent = read(payload())
    assert isinstance(intent, Upsert)
    told = event_body(intent.event, "key", WORKSPACE)
    assert (told["description"], told["recurrence"], told["start"]["date"]) == (None, None, None)
    assert "colorId" not in told


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"title": ""}, "title is empty"),
        ({"title": "x" * 501}, "501 characters"),
        ({"title": None}, "title is missing"),
        ({"title": "\ud800"}, "half a surrogate pair"),
        ({"description": "a\x00b"}, "control character"),
        ({"description": "x" * 9000}, "9000 characters"),
        ({"start": "2026-02-29T10:00:00Z"}, "start is not an ISO time"),
        ({"start": "yesterday"}, "start is not an ISO time"),
        ({"start": 5}, "start is not an ISO time"),
        ({"start": "0001-01-01T00:00:00Z"}, "start is not an ISO time"),
        ({"end": "9999-12-31T23:59:59Z"}, "end is not an ISO time"),
        ({"end": "2026-12-01T09:00:00Z"}, "end is before"),
        ({"isAllDay": "yes"}, "isAllDay"),
        ({"timeZone": "Foo/Bar"}, "no time zone 'Foo/Bar'"),
        ({"timeZone": "../etc/passwd"}, "no time zone"),
        ({"colorId": "red"}, "colorId"),
        ({"recurrence": "RRULE:FREQ=DAILY"}, "recurrence is a list"),
        ({"recurrence": ["RRULE:EVERY=DAY"]}, "unknown or there twice"),
        ({"recurrence": ["garbage"]}, "no RRULE"),
        ({"location": ["Zug"]}, "location is missing or no text"),
    ],
)
def test_a_bad_event_is_refused_in_words(event: dict[str, Any], words: str) -> None:
    with pytest.raises(UnreadableRecord) as refused:
        read(payload(event))
    assert refused.value.code == "CALENDAR_EVENT_INVALID"
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workspaceId": str(uuid.uuid4())}, "differs from the item's own workspace"),
        ({"workspaceId": "x"}, "workspaceId is not a uuid"),
        ({"sourceType": "note"}, "sourceType is none of"),
        ({"sourceId": "x" * 2000}, "sourceId is not a uuid"),
        ({"calendarId": ""}, "calendarId is empty"),
        ({"calendarId": "c" * 2000}, "2000 characters"),
        ({"eventType": "PARTY"}, "eventType is none of"),
        ({"event": None}, "event is missing"),
        ({"event": [1]}, "event is missing"),
    ],
)
def test_a_bad_payload_is_refused_in_words(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UnreadableRecord) as refused:
        read(payload(**change))
    assert words in refused.value.message


def test_a_cancel_needs_no_event_and_no_calendar() -> None:
    assert read({"sourceType": "task", "sourceId": SOURCE}, CANCEL) == Cancel(None, None)
    with pytest.raises(UnreadableRecord, match="googleEventId"):
        read(payload(googleEventId="x" * 2000), CANCEL)
    with pytest.raises(UnreadableRecord, match="no operation"):
        read(payload(), "DANCE")


def test_an_unknown_zone_of_the_workspace_is_the_items_dead_letter() -> None:
    with pytest.raises(UnreadableRecord, match="no time zone 'Foo/Bar'"):
        read(payload(), zone="Foo/Bar")


def test_the_hash_does_not_depend_on_the_order_of_fields_nor_on_the_mark() -> None:
    first = body({"location": "Zug"})
    assert body_hash(first) == body_hash(dict(reversed(list(first.items()))))
    assert body_hash(first) == body_hash({**first, "extendedProperties": {}})
    assert body_hash(first) != body_hash(body({"location": "Bern"}))


@pytest.mark.parametrize(
    "line",
    ["", "RRULE:", "RRULE:FREQ=HOURLY", "RRULE:FREQ=DAILY;FREQ=DAILY", "RRULE:BYDAY=MO", "RRULE:FREQ=DAILY;COUNT=0",
     "RRULE:FREQ=DAILY;COUNT=2;UNTIL=20270101", "RRULE:FREQ=WEEKLY;BYDAY=XX", "RRULE:FREQ=DAILY;BYMONTHDAY=0",
     "DTSTART:20260101", "EXDATE:soon", "RRULE:FREQ=DAILY;BYHOUR=24", None, 7, "RRULE:" + "A" * 2000],
)  # fmt: skip
def test_a_rule_without_sense_is_refused(line: Any) -> None:
    with pytest.raises(UnreadableRecord):
        check_rule(line)


@pytest.mark.parametrize(
    "line",
    ["RRULE:FREQ=WEEKLY;BYDAY=MO;BYHOUR=9;BYMINUTE=0", "RRULE:FREQ=MONTHLY;BYDAY=-1FR;INTERVAL=2;WKST=SU",
     "RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=-1;UNTIL=20301231T235959Z", "RDATE:20260101,20260201T100000Z"],
)  # fmt: skip
def test_a_good_rule_stays_as_it_is(line: str) -> None:
    assert check_rule(line) == line


AT = dt.datetime(2026, 11, 30, 12, 0, tzinfo=dt.UTC)


def test_a_rebuild_wants_what_belongs_into_the_calendar() -> None:
    task = {"id": "1", "title": "Pay", "description": "", "priority": "P1", "is_blocking": True, "due_at": AT}
    sources = {
        "task": [
            {**task, "status": "TODO"},
            {**task, "id": "2", "status": "DONE"},
            {**task, "id": "3", "status": "CANCELLED"},
            {**task, "id": "4", "status": "TODO", "priority": "P2"},
            {**task, "id": "5", "status": "TODO", "is_blocking": False},
            {**task, "id": "6", "status": "TODO", "due_at": None},
        ],
        "milestone": [
            {"id": "7", "title": "Launch", "due_date": dt.date(2026, 12, 24), "status": "COMPLETED"},
            {"id": "8", "title": "None", "due_date": None, "status": "PLANNED"},
        ],
        "gate_run": [
            {"id": "9", "gate": "G1", "run_number": 2, "status": "COMPLETED", "completed_at": AT, "decision": None},
            {"id": "10", "gate": "G1", "run_number": 1, "status": "RUNNING", "completed_at": None, "decision": None},
        ],
        "project_review": [
            {"id": "11", "title": "Weekly", "first_review_at": AT, "duration_minutes": 45, "recurrence": None,
             "status": "ACTIVE"},
        ],
    }  # fmt: skip
    wanted = wanted_payloads(WORKSPACE, "team", "RRULE:FREQ=WEEKLY;BYDAY=MO", sources)
    titles = {key: value["event"]["title"] for key, value in wanted.items()}
    assert titles == {
        ("task", "1"): "Deadline: Pay",
        ("task", "2"): "\N{CHECK MARK} Deadline: Pay",
        ("milestone", "7"): "\N{CHECK MARK} Launch",
        ("gate_run", "9"): "Gate review: G1 #2",
        ("project_review", "11"): "Weekly",
    }
    assert wanted["gate_run", "9"]["event"]["start"] == "2026-12-01T12:00:00+00:00"
    assert wanted["milestone", "7"]["event"]["isAllDay"] is True
    assert wanted["project_review", "11"]["event"]["recurrence"] == ["RRULE:FREQ=WEEKLY;BYDAY=MO"]
