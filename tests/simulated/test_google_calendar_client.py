"""The calendar client before the sandbox's Google."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from google.auth.exceptions import RefreshError

from penstock.clients.credentials import Credentials
from penstock.clients.google_calendar import LIMITS, GoogleCalendarClient
from penstock.clients.multipart import PartAnswer
from penstock.core.calendar_calls import Call, Kind, Reply
from penstock.core.errors import PenstockError
from tests.client_doubles import Breaker, Limiter
from tests.sandbox_fixture import Sandbox

BODY = {"summary": "T", "start": {"date": "2026-12-01"}, "end": {"date": "2026-12-02"}}
MARK = {"extendedProperties": {"private": {"itc_ws": "w", "itc_key": "k"}}}


def insert(event_id: str, calendar: str = "primary", **more: Any) -> Call:
    return Call(Kind.INSERT, calendar, event_id, {**BODY, **more, "id": event_id})


@pytest.fixture
def limiter() -> Limiter:
    return Limiter()


@pytest.fixture
def breaker() -> Breaker:
    return Breaker()


@pytest.fixture
def secrets() -> list[str]:
    return []


@pytest.fixture
def client(sandbox: Sandbox, limiter: Limiter, breaker: Breaker, secrets: list[str]) -> Iterator[GoogleCalendarClient]:
    told = sandbox.get("calendar/accounts")
    credentials = Credentials(
        f"{sandbox.url}/google",
        told["accounts"][0]["refresh_token"],
        told["client_secret"],
        {"client_id": told["client_id"], "token_uri": sandbox.token_url},
    )
    made = GoogleCalendarClient(
        credentials, "c1", LIMITS, limiter, breaker, sleep=lambda seconds: None, on_secret=secrets.append
    )
    yield made
    made.close()


def test_a_batch_takes_its_units_of_every_limit_and_one_token_serves_for_all(
    sandbox: Sandbox, client: GoogleCalendarClient, limiter: Limiter, secrets: list[str]
) -> None:
    replies = client.perform([insert("abc01"), insert("abc02"), Call(Kind.GET, "primary", "abc01")])
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert limiter.reserved == [
        ("google_calendar:calendar:primary", 2),
        ("google_calendar:user:c1", 3),
        ("google_calendar:project", 3),
    ]
    client.perform([Call(Kind.DELETE, "primary", "abc01")])
    assert (len(secrets), sandbox.answered("google", "token")) == (1, 1)


def test_a_place_that_is_far_off_is_left_to_the_queue(client: GoogleCalendarClient, limiter: Limiter) -> None:
    limiter.waits = [9.5]
    with pytest.raises(PenstockError) as raised:
        client.perform([insert("abc01")])
    assert (raised.value.code, raised.value.retry_after) == ("RATE_LIMIT_WAIT_TOO_LONG", 9.5)
    assert client.requests == 0


@pytest.mark.parametrize("path", ["/batch/", "/events"])
def test_a_token_that_google_refuses_is_renewed_once(
    sandbox: Sandbox, client: GoogleCalendarClient, secrets: list[str], path: str
) -> None:
    sandbox.faults({"vendor": "google_calendar", "path": path, "action": "expired_token", "times": 1})
    assert [reply.status for reply in client.perform([insert("abc01")])] == [200]
    assert len(secrets) == 2


def test_a_grant_that_is_gone_is_told_and_no_secret_with_it(
    sandbox: Sandbox, client: GoogleCalendarClient, secrets: list[str]
) -> None:
    client.perform([insert("abc01")])
    requests.post(f"{sandbox.url}/sandbox/calendar/revoke", json={"email": "user000@example.com"}, timeout=10)
    with pytest.raises(PenstockError) as raised:
        client.perform([insert("abc02")])
    assert raised.value.code == "OAUTH_INVALID"
    assert "invalid_grant" in raised.value.message
    for secret in (*secrets, client._credentials.token, str(client._credentials.secret)):
        assert secret not in str(raised.value.as_json())


def test_a_token_that_ends_within_a_batch_is_renewed_and_no_grant_is_blamed(
    sandbox: Sandbox, client: GoogleCalendarClient, secrets: list[str]
) -> None:
    sandbox.faults({"vendor": "google_calendar", "path": "/events", "action": "expired_token", "after": 1, "times": 1})
    replies = client.perform([insert("abc01"), insert("abc02")])
    assert 401 not in [reply.status for reply in replies]
    assert len(secrets) == 2


def test_a_page_instead_of_a_token_does_not_end_a_grant(sandbox: Sandbox, client: GoogleCalendarClient) -> None:
    sandbox.faults({"vendor": "*", "path": "/token", "action": "html"})
    with pytest.raises(PenstockError) as raised:
        client.perform([insert("abc01")])
    assert (raised.value.code, raised.value.retryable) == ("CALENDAR_TRANSIENT", True)


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (("<html>502 Bad Gateway</html>",), "CALENDAR_TRANSIENT"),
        (("{}", {"error": {"code": 403, "message": "blocked"}}), "CALENDAR_TRANSIENT"),
        (("No access token in response.", {}), "CALENDAR_TRANSIENT"),
        (("invalid_grant: gone", {"error": "invalid_grant"}), "OAUTH_INVALID"),
        (("invalid_scope: no", {"error": "invalid_scope"}), "OAUTH_INVALID"),
    ],
)
def test_a_gateway_before_the_token_endpoint_does_not_end_a_grant(
    client: GoogleCalendarClient, told: tuple[Any, ...], code: str
) -> None:
    assert client._refresh_error(RefreshError(*told, retryable=False)).code == code


def test_what_a_vendor_says_can_be_stored(client: GoogleCalendarClient) -> None:
    body = json.dumps({"error": {"errors": [{"reason": "odd\x00"}], "message": "bad\x00 \ud800 title"}}).encode()
    reply = client._reply(PartAnswer(400, {}, body))
    assert (reply.reason, reply.message) == ("odd", "bad \ufffd title")
    assert Reply(200, body={"etag": '"a\x00"'}).etag is None


def test_a_wrong_client_is_a_setting_and_no_grant(sandbox: Sandbox, client: GoogleCalendarClient) -> None:
    held = client._credentials
    client._credentials = Credentials(held.base_url, held.token, "wrong", held.extra)
    with pytest.raises(PenstockError) as raised:
        client.perform([insert("abc01")])
    assert raised.value.code == "CALENDAR_CLIENT_INVALID"


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ({"action": "status", "params": {"status": 503}}, "CALENDAR_TRANSIENT"),
        ({"action": "status", "params": {"status": 429, "retry_after": 3}}, "CALENDAR_RATE_LIMIT"),
        ({"action": "status", "params": {"status": 403, "reason": "quotaExceeded"}}, "CALENDAR_QUOTA"),
        ({"action": "html"}, "RESPONSE_NOT_JSON"),
        ({"action": "drop"}, "NETWORK_UNREACHABLE"),
    ],
)
def test_a_batch_that_fails_as_a_whole_is_sent_once_and_never_again_from_here(
    sandbox: Sandbox, client: GoogleCalendarClient, breaker: Breaker, rule: dict[str, Any], code: str
) -> None:
    sandbox.faults({"vendor": "google_calendar", "path": "/batch/", **rule})
    with pytest.raises(PenstockError) as raised:
        client.perform([insert("abc01")])
    assert raised.value.code == code
    assert client.requests == 1
    is_limit = code in ("CALENDAR_RATE_LIMIT", "CALENDAR_QUOTA")
    assert (breaker.events == ["success"]) == is_limit


def test_a_cut_answer_spoils_only_the_parts_that_it_lacks(sandbox: Sandbox, client: GoogleCalendarClient) -> None:
    sandbox.faults({"vendor": "google_calendar", "path": "/batch/", "action": "truncate", "times": 1})
    replies = client.perform([insert(f"abc{number:02d}") for number in range(10)])
    statuses = [reply.status for reply in replies]
    assert statuses[0] == 200
    assert set(statuses) == {0, 200}


def test_listings_go_through_all_pages_and_show_ours_alone(
    sandbox: Sandbox, client: GoogleCalendarClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.clients.google_calendar.PAGE_SIZE", 2)
    client.perform([insert(f"abc{number:02d}", **MARK) for number in range(5)] + [insert("other1")])
    assert sorted(event["id"] for event in client.own_events("primary", "w")) == [f"abc{n:02d}" for n in range(5)]
    with pytest.raises(PenstockError) as raised:
        list(client.own_events("c_user001_1", "w"))
    assert raised.value.code == "CALENDAR_NOT_FOUND"


def test_a_listing_leaves_out_the_occurrences_that_people_changed(client: GoogleCalendarClient) -> None:
    start, end = ({"dateTime": f"2026-12-01T{hour}:00:00Z", "timeZone": "UTC"} for hour in ("09", "10"))
    weekly = {"start": start, "end": end, "recurrence": ["RRULE:FREQ=WEEKLY"]}
    replies = client.perform(
        [
            insert("abc01", **weekly, **MARK),
            Call(Kind.PATCH, "primary", "abc01_20261208T090000Z", {"summary": "longer"}),
            Call(Kind.DELETE, "primary", "abc01_20261215T090000Z"),
        ]
    )
    assert [reply.status for reply in replies] == [200, 200, 204]
    assert [event["id"] for event in client.own_events("primary", "w")] == ["abc01"]


def test_a_batch_has_one_to_fifty_calls(client: GoogleCalendarClient) -> None:
    for count in (0, 51):
        with pytest.raises(ValueError, match="1 to 50"):
            client.perform([insert(f"abc{number:02d}") for number in range(count)])


def test_the_check_names_the_account(client: GoogleCalendarClient) -> None:
    assert client.check() == "Google Calendar of user000@example.com"
