"""google-api-python-client, with its own discovery document, against the sandbox's calendars."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build_from_document
from googleapiclient.discovery_cache import get_static_doc
from googleapiclient.errors import HttpError

from tests.sandbox_fixture import Sandbox

SCOPE = "https://www.googleapis.com/auth/calendar.events"
TIMED = {
    "summary": "Review",
    "start": {"dateTime": "2026-12-01T10:00:00+01:00", "timeZone": "Europe/Zurich"},
    "end": {"dateTime": "2026-12-01T11:00:00+01:00", "timeZone": "Europe/Zurich"},
}


def account(sandbox: Sandbox, number: int = 0) -> dict[str, Any]:
    told = sandbox.get("calendar/accounts", count=str(number + 1))
    return {**told["accounts"][number], "client_id": told["client_id"], "client_secret": told["client_secret"]}


def service(sandbox: Sandbox, of: dict[str, Any], scope: str = SCOPE) -> Any:
    """The client as Google ships it; only the root URL in the document is another."""
    document = json.loads(get_static_doc("calendar", "v3"))
    document["rootUrl"] = f"{sandbox.url}/google/"
    credentials = Credentials(
        None,
        refresh_token=of["refresh_token"],
        client_id=of["client_id"],
        client_secret=of["client_secret"],
        token_uri=sandbox.token_url,
        scopes=[scope],
    )
    return build_from_document(document, credentials=credentials)


@pytest.fixture
def calendar(sandbox: Sandbox) -> Iterator[Any]:
    with service(sandbox, account(sandbox)) as built:
        yield built.events()


def refused(call: Any) -> tuple[int, str]:
    with pytest.raises(HttpError) as raised:
        call.execute(num_retries=0)
    return raised.value.status_code, raised.value.error_details[0]["reason"]


def test_an_event_is_made_read_patched_replaced_and_deleted(calendar: Any) -> None:
    made = calendar.insert(calendarId="primary", body={**TIMED, "id": "abc01", "location": "Zug"}).execute()
    assert (made["id"], made["status"], made["etag"][0]) == ("abc01", "confirmed", '"')
    patched = calendar.patch(calendarId="primary", eventId="abc01", body={"location": None, "summary": "New"}).execute()
    assert ("location" in patched, patched["summary"], patched["etag"] != made["etag"]) == (False, "New", True)
    replaced = calendar.update(calendarId="primary", eventId="abc01", body=TIMED).execute()
    assert replaced["summary"] == "Review"
    assert calendar.delete(calendarId="primary", eventId="abc01").execute() == ""
    assert calendar.get(calendarId="primary", eventId="abc01").execute()["status"] == "cancelled"


def test_a_deleted_id_stays_taken_and_comes_back_by_update_alone(calendar: Any) -> None:
    calendar.insert(calendarId="primary", body={**TIMED, "id": "abc01"}).execute()
    assert refused(calendar.insert(calendarId="primary", body={**TIMED, "id": "abc01"})) == (409, "duplicate")
    calendar.delete(calendarId="primary", eventId="abc01").execute()
    assert refused(calendar.insert(calendarId="primary", body={**TIMED, "id": "abc01"})) == (409, "duplicate")
    assert refused(calendar.delete(calendarId="primary", eventId="abc01")) == (410, "deleted")
    revived = calendar.update(calendarId="primary", eventId="abc01", body={**TIMED, "status": "confirmed"}).execute()
    assert revived["status"] == "confirmed"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({**TIMED, "id": "not-hex"}, "invalid"),
        ({**TIMED, "end": {"dateTime": "2026-12-01T09:00:00+01:00"}}, "timeRangeEmpty"),
        ({**TIMED, "start": {"dateTime": "2026-12-01T10:00:00", "timeZone": "Foo/Bar"}}, "invalid"),
        ({**TIMED, "recurrence": ["RRULE:EVERY=DAY"]}, "invalid"),
        ({"summary": "no times"}, "required"),
        ({**TIMED, "start": {"date": "2026-12-01"}}, "invalid"),
        ({"start": {"date": "2026-12-01"}, "end": {"date": "2026-12-01"}}, "timeRangeEmpty"),
        (
            {
                "start": {"dateTime": "2026-12-01T10:00:00Z"},
                "end": {"dateTime": "2026-12-01T11:00:00Z"},
                "recurrence": ["RRULE:FREQ=DAILY"],
            },
            "required",
        ),
    ],
)
def test_a_bad_event_is_refused_with_its_reason(calendar: Any, body: dict[str, Any], reason: str) -> None:
    assert refused(calendar.insert(calendarId="primary", body=body)) == (400, reason)


def test_an_etag_of_the_past_is_refused(calendar: Any) -> None:
    made = calendar.insert(calendarId="primary", body={**TIMED, "id": "abc01"}).execute()
    stale = calendar.patch(calendarId="primary", eventId="abc01", body={"summary": "B"})
    stale.headers["If-Match"] = made["etag"]
    stale.execute()
    again = calendar.patch(calendarId="primary", eventId="abc01", body={"summary": "C"})
    again.headers["If-Match"] = made["etag"]
    assert refused(again) == (412, "conditionNotMet")


def test_listings_have_pages_filters_and_sync_tokens_that_expire(sandbox: Sandbox, calendar: Any) -> None:
    for number in range(5):
        private = {"private": {"itc_ws": "a" if number < 3 else "b"}}
        calendar.insert(calendarId="primary", body={**TIMED, "extendedProperties": private}).execute()
    first = calendar.list(calendarId="primary", privateExtendedProperty="itc_ws=a", maxResults=2).execute()
    second = calendar.list(
        calendarId="primary", privateExtendedProperty="itc_ws=a", maxResults=2, pageToken=first["nextPageToken"]
    ).execute()
    assert (len(first["items"]), len(second["items"]), "nextPageToken" in second) == (2, 1, False)
    token = calendar.list(calendarId="primary").execute()["nextSyncToken"]
    calendar.delete(calendarId="primary", eventId=first["items"][0]["id"]).execute()
    changed = calendar.list(calendarId="primary", syncToken=token).execute()["items"]
    assert [event["status"] for event in changed] == ["cancelled"]
    requests.put(f"{sandbox.url}/sandbox/calendar/settings", json={"expire_sync_tokens": True}, timeout=10)
    assert refused(calendar.list(calendarId="primary", syncToken=token)) == (410, "fullSyncRequired")


def test_a_changed_occurrence_is_listed_beside_its_series_and_has_its_properties(calendar: Any) -> None:
    private = {"private": {"itc_ws": "a"}}
    weekly = {**TIMED, "id": "abc01", "recurrence": ["RRULE:FREQ=WEEKLY"], "extendedProperties": private}
    calendar.insert(calendarId="primary", body=weekly).execute()
    assert calendar.get(calendarId="primary", eventId="abc01_20261208T090000Z").execute()["recurringEventId"] == "abc01"
    start, end = ({"dateTime": f"2026-12-08T{hour}:00:00+01:00", "timeZone": "Europe/Zurich"} for hour in (15, 16))
    moved = {"start": start, "end": end, "recurringEventId": "other"}
    calendar.patch(calendarId="primary", eventId="abc01_20261208T090000Z", body=moved).execute()
    calendar.delete(calendarId="primary", eventId="abc01_20261215T090000Z").execute()
    series, changed, taken_out = calendar.list(calendarId="primary", privateExtendedProperty="itc_ws=a").execute()[
        "items"
    ]
    assert ("recurrence" in series, "recurrence" in changed) == (True, False)
    assert (changed["recurringEventId"], changed["iCalUID"]) == ("abc01", series["iCalUID"])
    assert (changed["originalStartTime"]["dateTime"], changed["start"]) == ("2026-12-08T10:00:00+01:00", start)
    assert (taken_out["status"], taken_out["recurringEventId"]) == ("cancelled", "abc01")
    calendar.delete(calendarId="primary", eventId="abc01").execute()
    assert calendar.list(calendarId="primary").execute()["items"] == []


def test_days_of_a_series_are_occurrences_too_and_others_are_not_found(calendar: Any) -> None:
    daily = {"start": {"date": "2026-12-01"}, "end": {"date": "2026-12-02"}, "recurrence": ["RRULE:FREQ=DAILY"]}
    calendar.insert(calendarId="primary", body={**daily, "id": "abc01"}).execute()
    day = calendar.get(calendarId="primary", eventId="abc01_20261205").execute()
    assert (day["start"], day["end"]) == ({"date": "2026-12-05"}, {"date": "2026-12-06"})
    for wrong in ("abc01_20261130", "abc01_20261205T090000Z", "abc02_20261205"):
        assert refused(calendar.get(calendarId="primary", eventId=wrong)) == (404, "notFound")


def test_an_answer_holds_what_was_asked_for(calendar: Any) -> None:
    private = {"private": {"itc_ws": "a", "itc_key": "k"}}
    calendar.insert(calendarId="primary", body={**TIMED, "id": "abc01", "extendedProperties": private}).execute()
    fields = "nextPageToken,items(id,start/timeZone,extendedProperties/private/itc_key)"
    (event,) = calendar.list(calendarId="primary", fields=fields).execute()["items"]
    assert event == {
        "id": "abc01",
        "start": {"timeZone": "Europe/Zurich"},
        "extendedProperties": {"private": {"itc_key": "k"}},
    }


# The library refreshes a batch's token on a connection of its own and never closes it.
LEAK = pytest.mark.filterwarnings("ignore:.*unclosed.*socket.*")


@LEAK
def test_a_batch_answers_each_call_by_itself(sandbox: Sandbox) -> None:
    replies: dict[str, Any] = {}
    sandbox.faults(
        {"vendor": "google_calendar", "path": "/events/abc02$", "action": "status", "params": {"status": 503}}
    )
    with service(sandbox, account(sandbox)) as built:
        calendar = built.events()
        batch = built.new_batch_http_request(
            callback=lambda number, reply, error: replies.__setitem__(number, error.status_code if error else reply)
        )
        batch.add(calendar.insert(calendarId="primary", body={**TIMED, "id": "abc01"}), request_id="made")
        batch.add(calendar.get(calendarId="primary", eventId="abc02"), request_id="fault")
        batch.add(calendar.delete(calendarId="primary", eventId="abc03"), request_id="missing")
        batch.execute()
    assert replies["made"]["summary"] == "Review"
    assert (replies["fault"], replies["missing"]) == (503, 404)
    assert sandbox.answered("google_calendar", "batch", 200) == 1
    assert [call["in_batch"] for call in sandbox.get("calendar/calls")] == [3, 3, 3]


@LEAK
def test_the_51st_change_of_a_calendar_within_ten_seconds_is_refused(sandbox: Sandbox) -> None:
    statuses: list[int] = []
    with service(sandbox, account(sandbox)) as built:
        calendar = built.events()
        batch = built.new_batch_http_request(
            callback=lambda number, reply, error: statuses.append(error.status_code if error else 200)
        )
        for _ in range(51):
            batch.add(calendar.insert(calendarId="c_user000_1", body=TIMED))
        batch.execute()
    assert sorted(statuses) == [200] * 50 + [403]


def test_foreign_calendars_are_unknown_and_read_only_ones_cannot_be_changed(calendar: Any) -> None:
    assert refused(calendar.list(calendarId="c_user001_1")) == (404, "notFound")
    assert calendar.list(calendarId="r_user000_1").execute()["items"] == []
    assert refused(calendar.insert(calendarId="r_user000_1", body=TIMED)) == (403, "requiredAccessLevel")


def test_a_revoked_grant_ends_its_access_tokens_and_a_new_one_works(sandbox: Sandbox) -> None:
    from google.auth.exceptions import RefreshError

    of = account(sandbox)
    with service(sandbox, of) as built:
        calendar = built.events()
        calendar.list(calendarId="primary").execute()
        requests.post(f"{sandbox.url}/google/revoke", data={"token": of["refresh_token"]}, timeout=10)
        with pytest.raises(RefreshError, match="invalid_grant"):
            calendar.list(calendarId="primary").execute()
    fresh = requests.post(f"{sandbox.url}/sandbox/calendar/connect", json={"email": of["email"]}, timeout=10).json()
    assert fresh["refresh_token"] != of["refresh_token"]
    with service(sandbox, {**of, **fresh}) as built:
        assert built.events().list(calendarId="primary").execute()["items"] == []


def test_a_grant_without_the_calendar_scope_is_refused(sandbox: Sandbox) -> None:
    with service(sandbox, account(sandbox), "https://www.googleapis.com/auth/drive.file") as built:
        assert refused(built.events().list(calendarId="primary")) == (403, "insufficientPermissions")
