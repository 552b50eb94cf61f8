from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from penstock.clients.ga4 import GA4Client
from penstock.core.errors import CATALOGUE
from penstock.sources.ga4 import LIMITS
from penstock.sources.stream import Request
from tests.client_doubles import NOW, Bench, answer

REPORT = Request("POST", "properties/1:runReport", body={})
GOOD = answer(body={"rowCount": 0})


def status(code: int, name: str, message: str, reason: str | None = None, *, old: bool = False) -> tuple[int, Any]:
    found: dict[str, Any] = {"code": code, "message": message, "status": name}
    if reason:
        kind = "type.googleapis.com/google.rpc.ErrorInfo"
        found["errors" if old else "details"] = [{"reason": reason} if old else {"@type": kind, "reason": reason}]
    return code, {"error": found}


def exhausted(message: str) -> tuple[int, Any]:
    return status(429, "RESOURCE_EXHAUSTED", message)


CASES: list[tuple[tuple[int, Any], str]] = [
    (
        status(403, "PERMISSION_DENIED", "User does not have sufficient permissions for this property."),
        "PERMISSION_DENIED",
    ),
    (status(403, "PERMISSION_DENIED", "API has not been used", "SERVICE_DISABLED"), "API_DISABLED"),
    (status(403, "PERMISSION_DENIED", "Access Not Configured", "accessNotConfigured", old=True), "API_DISABLED"),
    (status(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."), "AUTH_ERROR"),
    (status(404, "NOT_FOUND", "not found"), "PROPERTY_NOT_FOUND"),
    (status(400, "INVALID_ARGUMENT", "UA-1-1 is not a valid property id"), "PROPERTY_NOT_FOUND"),
    (status(400, "INVALID_ARGUMENT", "Field foo is not a valid dimension."), "INVALID_QUERY"),
    (status(400, "INVALID_ARGUMENT", "Requests are limited to 9 dimensions."), "INVALID_QUERY"),
    (exhausted("Exhausted concurrent requests quota. Please wait."), "CONCURRENCY_LIMIT"),
    (exhausted("Exhausted property tokens quota. These quota tokens will return in under an hour."), "QUOTA_HOUR"),
    (exhausted("Exhausted property tokens for a project per hour."), "QUOTA_HOUR"),
    (exhausted("Exhausted potentially thresholded requests quota."), "QUOTA_HOUR"),
    (exhausted("Exhausted property tokens per day."), "QUOTA_DAY"),
    (exhausted("Exhausted server errors quota. Please wait an hour."), "SERVER_ERROR_BUDGET"),
    (exhausted("Too many requests"), "CONCURRENCY_LIMIT"),
    (status(500, "INTERNAL", "Internal error encountered."), "TRANSIENT"),
    (status(503, "UNAVAILABLE", "The service is currently unavailable."), "TRANSIENT"),
    ((504, b"upstream timed out"), "TRANSIENT"),
    (status(418, "TEAPOT", "short and stout"), "ERROR"),
]


def test_errors_are_mapped_by_the_table() -> None:
    for reply, code in CASES:
        failure = Bench(GA4Client, LIMITS, [answer(*reply)] * 5).refused(REPORT)
        assert (reply, failure.code) == (reply, f"GA4_{code}")
        assert isinstance(failure, CATALOGUE[failure.code].kind)
        assert failure.http_status == reply[0]


def test_server_errors_are_tried_twice_only_because_ten_an_hour_close_the_property() -> None:
    set_up = Bench(GA4Client, LIMITS, [answer(500)] * 5)
    assert set_up.refused(REPORT).code == "GA4_TRANSIENT"
    assert set_up.client.requests == 2


@pytest.mark.parametrize(
    ("now", "message", "resets_at"),
    [
        ("2026-11-01T06:30:00+00:00", "per day", "2026-11-01T07:00:00+00:00"),
        ("2026-11-01T12:10:00+00:00", "per day", "2026-11-02T08:00:00+00:00"),  # the clocks went back that night
        ("2026-11-01T12:10:00+00:00", "tokens per hour", "2026-11-01T13:00:00+00:00"),
        ("2026-11-01T12:10:00+00:00", "server errors", "2026-11-01T13:00:00+00:00"),
    ],
)
def test_a_quota_stops_until_its_own_reset_and_nobody_asks_before(now: str, message: str, resets_at: str) -> None:
    reset = dt.datetime.fromisoformat(resets_at)
    set_up = Bench(GA4Client, LIMITS, [answer(*exhausted(message))], now=dt.datetime.fromisoformat(now))
    failure = set_up.refused(REPORT)
    assert failure.resets_at == reset
    assert set_up.limiter.blocked == [("ga4:1:default", (reset - set_up.clock.now).total_seconds(), failure.code)]
    again = set_up.refused(REPORT)
    assert (again.code, again.resets_at, set_up.client.requests) == (failure.code, reset, 1)
    assert again is not failure


def test_after_the_reset_the_property_is_asked_again() -> None:
    set_up = Bench(GA4Client, LIMITS, [answer(*exhausted("tokens per hour")), GOOD])
    set_up.refused(REPORT)
    set_up.clock.now = NOW + dt.timedelta(hours=1)
    assert set_up.client.send(REPORT) == {"rowCount": 0}


def quota(**remaining: int) -> dict[str, Any]:
    return {"propertyQuota": {name: {"consumed": 5, "remaining": left} for name, left in remaining.items()}}


@pytest.mark.parametrize(
    ("left", "code"),
    [
        ({"tokensPerDay": 19_999}, "GA4_QUOTA_DAY"),
        ({"tokensPerHour": 3_999}, "GA4_QUOTA_HOUR"),
        ({"tokensPerProjectPerHour": 1_399}, "GA4_QUOTA_HOUR"),
        ({"serverErrorsPerProjectPerHour": 0}, "GA4_SERVER_ERROR_BUDGET"),
        ({"tokensPerDay": 10, "tokensPerHour": 10}, "GA4_QUOTA_DAY"),
    ],
)
def test_a_tenth_of_a_quota_is_left_to_others(left: dict[str, int], code: str) -> None:
    """The answer that says so is used; the next call is not made."""
    set_up = Bench(GA4Client, LIMITS, [answer(body=quota(**left)), GOOD])
    set_up.client.send(REPORT)
    failure = set_up.refused(REPORT)
    assert failure.code == code
    assert failure.resets_at is not None
    assert set_up.client.requests == 1
    assert set_up.limiter.blocked


def test_quotas_of_a_batchs_reports_count_too() -> None:
    body = {"reports": [quota(tokensPerDay=150_000), quota(tokensPerDay=100)]}
    set_up = Bench(GA4Client, LIMITS, [answer(body=body)])
    set_up.client.send(REPORT)
    assert set_up.refused(REPORT).code == "GA4_QUOTA_DAY"


def test_plenty_of_quota_closes_nothing() -> None:
    set_up = Bench(GA4Client, LIMITS, [answer(body=quota(tokensPerDay=20_000, tokensPerHour=40_000)), GOOD])
    set_up.client.send(REPORT)
    set_up.client.send(REPORT)
    assert set_up.limiter.blocked == []


def test_a_property_that_another_worker_closed_is_a_quota_stop() -> None:
    failure = Bench(GA4Client, LIMITS, [GOOD], waits=[1800.0]).refused(REPORT)
    assert failure.code == "GA4_QUOTA_HOUR"
    assert failure.resets_at == NOW + dt.timedelta(seconds=1800)
    assert Bench(GA4Client, LIMITS, [GOOD], waits=[7200.0]).refused(REPORT).code == "GA4_QUOTA_DAY"


def test_concurrency_waits_for_others_to_finish() -> None:
    set_up = Bench(GA4Client, LIMITS, [answer(*exhausted("Exhausted concurrent requests quota.")), GOOD])
    set_up.client.send(REPORT)
    assert set_up.clock.slept == [30.0]


def test_check_says_what_is_left_of_the_day() -> None:
    body = {"metadata": {"timeZone": "Europe/Zurich", "currencyCode": "CHF"}, **quota(tokensPerDay=150_000)}
    set_up = Bench(GA4Client, LIMITS, [answer(body=body)], account_id="properties/42")
    assert set_up.client.check() == "GA4 property 42, CHF, Europe/Zurich; 150000 tokens left today"
    assert set_up.calls[0].path == "properties/42:runReport"
