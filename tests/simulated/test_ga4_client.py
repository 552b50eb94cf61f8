"""The GA4 client against the sandbox: tokens signed and exchanged, pages to the last row, quotas watched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.clients import sessions
from penstock.sources.ga4 import SOURCE
from penstock.sources.stream import Request
from tests.client_doubles import Bench, profiled, read_stream, sandbox_bench, stream_window
from tests.sandbox_fixture import Sandbox


@pytest.fixture
def bench(sandbox: Sandbox) -> Iterator[Bench]:
    found = sandbox_bench(sandbox, "GA4")
    yield found
    found.client.close()


def small(bench: Bench) -> Request:
    body = {"dateRanges": [{"startDate": "yesterday", "endDate": "yesterday"}], "metrics": [{"name": "sessions"}]}
    return Request("POST", f"properties/{bench.client._account_id}:runReport", body=body)


def test_every_report_is_read_whole_without_a_refused_record(bench: Bench) -> None:
    for stream in SOURCE.streams:
        rows = read_stream(bench, "GA4", stream.name, days=6)
        assert rows, stream.name
        assert len({row.record_key for row in rows}) == len(rows), stream.name


def test_pages_go_on_to_row_count(bench: Bench) -> None:
    """A peer stops after the first page, because the answer has no offset."""
    whole = read_stream(bench, "GA4", "traffic", days=10)
    calls = bench.client.requests
    paged = read_stream(bench, "GA4", "traffic", days=10, page_size=50)
    assert len(whole) > 150
    assert bench.client.requests - calls > 3
    assert [row.payload for row in paged] == [row.payload for row in whole]


def test_totals_without_dimensions_agree_with_the_daily_report(bench: Bench) -> None:
    daily = {row.record_date: row.payload for row in read_stream(bench, "GA4", "property", days=20)}
    totals = {row.record_date: row.payload for row in read_stream(bench, "GA4", "totals", days=20)}
    assert len(totals) == 20
    for name in ("sessions", "purchaseRevenue", "ecommercePurchases"):
        assert {day: float(values[name]) for day, values in totals.items()} == {
            day: float(values[name]) for day, values in daily.items()
        }


def test_the_token_is_fetched_once_and_shared_by_all_calls(sandbox: Sandbox, bench: Bench) -> None:
    for _ in range(3):
        bench.client.send(small(bench))
    assert sandbox.answered("google") == 1


def test_a_token_that_is_refused_before_its_time_is_renewed(sandbox: Sandbox, bench: Bench) -> None:
    bench.client.send(small(bench))
    sandbox.faults({"vendor": "ga4", "action": "expired_token", "times": 1})
    assert bench.client.send(small(bench))["rowCount"] == 1
    assert sandbox.answered("google") == 2
    assert bench.client.requests == 3


def test_a_token_that_is_always_refused_is_an_error_of_authentication(sandbox: Sandbox, bench: Bench) -> None:
    sandbox.faults({"vendor": "ga4", "action": "expired_token"})
    assert bench.refused(small(bench)).code == "GA4_AUTH_ERROR"
    assert bench.client.requests == 2


def changed(sandbox: Sandbox, **parts: Any) -> dict[str, Any]:
    listed = next(each for each in sandbox.accounts() if each["platform"] == "GA4")
    return {**json.loads(listed["credentials"]["service_account_json"]), **parts}


def test_a_key_that_google_does_not_know_is_an_error_of_authentication(sandbox: Sandbox) -> None:
    info = changed(sandbox, client_email="somebody@else.iam.gserviceaccount.com")
    bench = sandbox_bench(sandbox, "GA4", extra={"service_account": info})
    failure = bench.refused(small(bench))
    assert failure.code == "GA4_AUTH_ERROR"
    assert info["private_key"][40:80] not in repr(failure)
    assert not failure.retryable


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"service_account": "{not json"}, "CREDENTIAL_INVALID"),
        ({"service_account": {"type": "service_account"}}, "CREDENTIAL_INVALID"),
        ({"service_account": "[]"}, "CREDENTIAL_INVALID"),
        ({}, "CREDENTIAL_NOT_FOUND"),
    ],
)
def test_credentials_that_cannot_be_read_say_so(sandbox: Sandbox, given: dict[str, Any], code: str) -> None:
    bench = sandbox_bench(sandbox, "GA4", extra=given)
    failure = bench.refused(small(bench))
    assert failure.code == code
    assert failure.__context__ is None


def test_any_google_credentials_will_do(sandbox: Sandbox) -> None:
    from google.oauth2 import service_account

    held = service_account.Credentials.from_service_account_info(changed(sandbox))
    bench = sandbox_bench(sandbox, "GA4", extra={"google_credentials": held})
    assert bench.client.send(small(bench))["rowCount"] == 1
    again = sandbox_bench(sandbox, "GA4", extra={}, token=bench.client._tokens.bearer())  # type: ignore[attr-defined]
    assert again.client.send(small(again))["rowCount"] == 1


def test_a_token_endpoint_that_cannot_be_reached_is_a_matter_of_the_network(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CONNECT_TIMEOUT_S", 0.2)
    info = changed(sandbox, token_uri="http://127.0.0.1:9/token")
    bench = sandbox_bench(sandbox, "GA4", extra={"service_account": info})
    failure = bench.refused(small(bench))
    assert (failure.code, failure.retryable) == ("NETWORK_UNREACHABLE", True)


def test_another_clients_property_is_refused(sandbox: Sandbox) -> None:
    bench = sandbox_bench(sandbox, "GA4", account_id="999")
    assert bench.refused(small(bench)).code in ("GA4_PERMISSION_DENIED", "GA4_PROPERTY_NOT_FOUND")


@pytest.mark.parametrize(
    ("quota", "code"),
    [
        ("concurrentRequests", "GA4_CONCURRENCY_LIMIT"),
        ("tokensPerHour", "GA4_QUOTA_HOUR"),
        ("tokensPerProjectPerHour", "GA4_QUOTA_HOUR"),
        ("potentiallyThresholdedRequestsPerHour", "GA4_QUOTA_HOUR"),
        ("tokensPerDay", "GA4_QUOTA_DAY"),
        ("serverErrorsPerProjectPerHour", "GA4_SERVER_ERROR_BUDGET"),
    ],
)
def test_each_quota_has_its_own_code(sandbox: Sandbox, bench: Bench, quota: str, code: str) -> None:
    sandbox.faults({"vendor": "ga4", "action": "status", "params": {"status": 429, "quota": quota}})
    failure = bench.refused(small(bench))
    assert failure.code == code
    assert (failure.resets_at is None) == (code == "GA4_CONCURRENCY_LIMIT")


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "status", "params": {"status": 503}},
        {"action": "drop"},
        {"action": "truncate"},
        {"action": "html"},
    ],
    ids=str,
)
def test_passing_trouble_is_got_over_within_the_call(sandbox: Sandbox, bench: Bench, fault: dict[str, Any]) -> None:
    bench.client.send(small(bench))
    sandbox.faults({"vendor": "ga4", "times": 1, **fault})
    assert bench.client.send(small(bench))["rowCount"] == 1
    assert bench.client.requests == 3


def test_an_invalid_question_is_a_matter_of_configuration(bench: Bench) -> None:
    request = small(bench)
    body = {**(request.body or {}), "metrics": [{"name": "noSuchMetric"}]}
    assert bench.refused(Request("POST", request.path, body=body)).code == "GA4_INVALID_QUERY"


def test_flags_and_counts_come_with_the_page(bench: Bench) -> None:
    account = profiled(bench, "GA4")
    stream = SOURCE.stream("geo")
    request = stream.request(account, stream_window(stream, account, bench.clock.now, 2, {}), None)
    page = stream.parse(bench.client.send(request), request)
    assert page.expected == len(page.records)
    assert page.flags["currencyCode"] == account.currency


def test_check_names_the_property(bench: Bench) -> None:
    assert f"GA4 property {bench.client._account_id}" in bench.client.check()
