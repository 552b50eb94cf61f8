from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from penstock.clients.klaviyo import KlaviyoClient
from penstock.core.errors import CATALOGUE
from penstock.sources.klaviyo import LIMITS
from penstock.sources.stream import Request
from tests.client_doubles import NOW, Bench, answer

EVENTS = Request("GET", "api/events", limit="events")
REPORT = Request("POST", "api/flow-series-reports", body={}, limit="reports")


def details(code: str, title: str, detail: str = "", **more: Any) -> dict[str, Any]:
    return {"errors": [{"id": "e-1", "status": 0, "code": code, "title": title, "detail": detail, **more}]}


# status, body, Retry-After, request -> code
CASES: list[tuple[int, Any, str | None, Request, str]] = [
    (401, details("not_authenticated", "Authentication credentials were not provided."), None, EVENTS, "AUTH_ERROR"),
    (401, details("authentication_failed", "Incorrect authentication credentials."), None, EVENTS, "AUTH_ERROR"),
    (403, details("permission_denied", "Missing scope", "events:read"), None, EVENTS, "PERMISSION_DENIED"),
    (429, details("throttled", "Request was throttled."), "100", EVENTS, "RATE_LIMIT"),
    (429, details("throttled", "Request was throttled."), None, EVENTS, "RATE_LIMIT"),
    (429, details("throttled", "Request was throttled."), "100", REPORT, "RATE_LIMIT"),
    (429, details("throttled", "Request was throttled."), "40000", REPORT, "DAILY_REPORT_LIMIT"),
    (429, details("throttled", "Request was throttled."), "40000", EVENTS, "RATE_LIMIT"),
    (400, details("invalid", "Invalid input.", "'status' is not filterable"), None, EVENTS, "INVALID_QUERY"),
    (404, details("not_found", "Not found.", "metric"), None, REPORT, "INVALID_QUERY"),
    (409, details("conflict", "Conflict."), None, EVENTS, "INVALID_QUERY"),
    (410, details("gone", "Gone."), None, EVENTS, "REVISION_RETIRED"),
    (
        400,
        details("invalid", "Invalid input.", "'2020-01-01' is not a valid API revision."),
        None,
        EVENTS,
        "REVISION_RETIRED",
    ),
    (500, details("error", "Something went wrong."), None, EVENTS, "TRANSIENT"),
    (502, b"<html>Bad gateway</html>", None, EVENTS, "TRANSIENT"),
    (503, b"", None, EVENTS, "TRANSIENT"),
    (504, b"", None, EVENTS, "TRANSIENT"),
    (524, b"a timeout occurred", None, EVENTS, "TRANSIENT"),
]


def test_errors_are_mapped_by_the_table() -> None:
    for status, body, wait, request, code in CASES:
        headers = {"retry_after": wait} if wait else {}
        failure = Bench(KlaviyoClient, LIMITS, [answer(status, body, **headers)] * 10).refused(request)
        assert (status, body, failure.code) == (status, body, f"KLAVIYO_{code}")
        assert isinstance(failure, CATALOGUE[failure.code].kind)
        assert failure.http_status == status


def test_an_answer_nobody_knows_is_kept_with_status_and_excerpt() -> None:
    failure = Bench(KlaviyoClient, LIMITS, [answer(418, b"I am a teapot")]).refused(EVENTS)
    assert (failure.code, failure.http_status) == ("UNKNOWN", 418)
    assert "teapot" in failure.message


def test_the_message_names_the_part_of_the_request_that_was_refused() -> None:
    body = details("invalid", "Invalid input.", "no such field", source={"parameter": "filter"})
    failure = Bench(KlaviyoClient, LIMITS, [answer(400, body)]).refused(EVENTS)
    assert failure.message == "Invalid input. | no such field | filter"
    assert failure.provider_code == "invalid"


def test_a_wait_that_no_calendar_can_show_is_still_the_vendors_own_error() -> None:
    failure = Bench(KlaviyoClient, LIMITS, [answer(429, retry_after="1e12")]).refused(EVENTS)
    assert (failure.code, failure.resets_at) == ("KLAVIYO_RATE_LIMIT", NOW + dt.timedelta(days=7))


@pytest.mark.parametrize(
    ("link", "allowed"),
    [
        ("http://vendor.test/api/events?page%5Bcursor%5D=x", True),
        ("https://a.klaviyo.com/api/events?page%5Bcursor%5D=x", True),
        ("/api/events?page%5Bcursor%5D=x", True),
        ("https://evil.test/api/events?page%5Bcursor%5D=x", False),
        ("http://vendor.test:81/api/events?page%5Bcursor%5D=x", False),
        ("http://vendor.test@evil.test/api/events?page%5Bcursor%5D=x", False),
    ],
)
def test_a_next_page_on_another_host_is_refused(link: str, allowed: bool) -> None:
    set_up = Bench(KlaviyoClient, LIMITS, [answer(body={"data": [], "links": {"next": link}})])
    if allowed:
        assert set_up.client.send(EVENTS)["links"]["next"] == link
    else:
        assert set_up.refused(EVENTS).code == "RESPONSE_FOREIGN_LINK"


def test_check_says_whose_key_it_is() -> None:
    attributes = {"timezone": "Europe/Zurich", "contact_information": {"organization_name": "Aurora"}}
    set_up = Bench(KlaviyoClient, LIMITS, [answer(body={"data": [{"id": "AbCdEf", "attributes": attributes}]})])
    assert set_up.client.check() == "Klaviyo account Aurora (AbCdEf), Europe/Zurich"
