from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from penstock.clients.meta_ads import MetaClient, ReportState, usage_of
from penstock.core.errors import CATALOGUE, PenstockError
from penstock.core.pacing import LONGEST_WAIT_S
from penstock.sources.meta_ads import LIMITS
from penstock.sources.stream import Request
from tests.client_doubles import TOKEN, Bench, answer

INSIGHTS = Request("GET", "act_1/insights", {"level": "ad", "limit": "250", "after": "A2"})
GOOD = answer(body={"data": []})


def refusal(code: int, subcode: int | None = None, message: str = "(#x) refused", **more: Any) -> dict[str, Any]:
    found = {"message": message, "type": "OAuthException", "code": code, "fbtrace_id": "trace-1", **more}
    return {"error": found if subcode is None else {**found, "error_subcode": subcode}}


REDUCE = "Please reduce the amount of data you're asking for, then retry your request"

# status, body -> code
CASES: list[tuple[int, Any, str]] = [
    (400, refusal(190, 463, "Error validating access token: Session has expired"), "AUTH_ERROR"),
    (401, refusal(190, 460), "AUTH_ERROR"),
    (400, refusal(102), "AUTH_ERROR"),
    (401, b"", "AUTH_ERROR"),
    (400, refusal(100, None, "Invalid appsecret_proof provided in the API argument"), "APP_SECRET_PROOF_INVALID"),
    (403, refusal(10, None, "Application does not have permission for this action"), "PERMISSION_DENIED"),
    (403, refusal(200, None, "Ad account owner has NOT granted ads_read"), "PERMISSION_DENIED"),
    (403, refusal(294), "PERMISSION_DENIED"),
    (400, refusal(3), "PERMISSION_DENIED"),
    (400, refusal(100, 33, "Unsupported get request. Object does not exist"), "PERMISSION_DENIED"),
    (403, b"<html>", "PERMISSION_DENIED"),
    (403, refusal(200, None, "(#200) Missing Permissions"), "FIELD_FORBIDDEN"),
    (400, refusal(1487390, None, "Error 1487390: the ad account is disabled"), "ACCOUNT_DISABLED"),
    (400, refusal(4, 1504022, "Application request limit reached"), "RATE_LIMIT"),
    (403, refusal(4, 1504039), "RATE_LIMIT"),
    (400, refusal(32), "RATE_LIMIT"),
    (400, refusal(613), "RATE_LIMIT"),
    (400, refusal(80000), "RATE_LIMIT"),
    (400, refusal(80004), "RATE_LIMIT"),
    (400, refusal(80014), "RATE_LIMIT"),
    (429, b"", "RATE_LIMIT"),
    (400, refusal(17, 2446079, "User request limit reached", is_transient=False), "ACCOUNT_QUOTA_BLOCK"),
    (400, refusal(613, 1487742, "There have been too many calls from this ad-account"), "ACCOUNT_QUOTA_BLOCK"),
    (500, refusal(1, None, REDUCE), "TOO_MUCH_DATA"),
    (400, refusal(100, None, REDUCE), "TOO_MUCH_DATA"),
    (400, refusal(100, 1504018), "TOO_MUCH_DATA"),
    (500, refusal(2, 1504038, "timed out"), "TOO_MUCH_DATA"),
    (500, refusal(1, 99, "An unknown error occurred"), "TRANSIENT"),
    (500, refusal(2, None, "Service temporarily unavailable", is_transient=True), "TRANSIENT"),
    (500, refusal(2, 1504043), "TRANSIENT"),
    (400, refusal(2601, 1815107, "Loading async report failed"), "TRANSIENT"),
    (400, refusal(341), "TRANSIENT"),
    (400, refusal(960), "TRANSIENT"),
    (400, refusal(100, 2446211), "TRANSIENT"),
    (400, refusal(100, None, "Cannot include actions in summary param because they weren't there"), "TRANSIENT"),
    (502, b"<html>Bad gateway</html>", "TRANSIENT"),
    (503, b"", "TRANSIENT"),
    (200, refusal(2), "TRANSIENT"),
    (400, refusal(-2, 2490547), "REPORT_FAILED"),
    (400, refusal(100, None, "(#100) foo is not valid for fields param"), "INVALID_QUERY"),
    (400, refusal(2, 1504041), "INVALID_QUERY"),
    (400, refusal(2, 1504042), "INVALID_QUERY"),
    (400, refusal(100, 2446289), "INVALID_QUERY"),
    (400, refusal(3018, None, "The start date of the time range cannot be beyond 37 months"), "RANGE_TOO_OLD"),
    (400, refusal(100, None, "time_range beyond 37 months from the current date"), "RANGE_TOO_OLD"),
    (400, refusal(2635, None, "You are calling a deprecated version of the Ads API"), "VERSION_DEPRECATED"),
    (400, refusal(12, None, "This API version is deprecated"), "VERSION_DEPRECATED"),
    (400, refusal(100, None, "The dma breakdown is no longer available"), "BREAKDOWN_RETIRED"),
]


def test_errors_are_mapped_by_the_table() -> None:
    for status, body, code in CASES:
        failure = Bench(MetaClient, LIMITS, [answer(status, body)] * 10).refused(INSIGHTS)
        assert (body, failure.code) == (body, f"META_{code}")
        assert isinstance(failure, CATALOGUE[failure.code].kind)
        assert failure.http_status == status


def test_an_error_keeps_the_vendors_numbers_and_says_what_an_expired_token_means() -> None:
    body = refusal(190, 463, "Error validating access token", error_user_msg="Log in again")
    stored = Bench(MetaClient, LIMITS, [answer(400, body)]).refused(INSIGHTS).as_json()
    assert (stored["provider_code"], stored["provider_subcode"], stored["request_id"]) == ("190", "463", "trace-1")
    assert stored["message"] == "the token has expired: Error validating access token | Log in again"


def test_an_error_nobody_knows_is_kept_with_its_number() -> None:
    failure = Bench(MetaClient, LIMITS, [answer(400, refusal(987654))]).refused(INSIGHTS)
    assert (failure.code, failure.provider_code) == ("UNKNOWN", "987654")


# -- limits


def business(percent: int, minutes: int = 0) -> str:
    usage = {"type": "ads_insights", "call_count": percent, "total_time": 1, "total_cputime": 2}
    return json.dumps({"9988": [{**usage, "estimated_time_to_regain_access": minutes}]})


def test_a_rate_limit_waits_a_minute_then_two() -> None:
    set_up = Bench(MetaClient, LIMITS, [answer(400, refusal(80004))] * 3)
    failure = set_up.refused(INSIGHTS)
    assert set_up.clock.slept == [60.0]
    assert failure.retry_after == 120.0
    assert [seconds for _, seconds, _ in set_up.limiter.blocked] == [60.0, 120.0]


def test_the_business_header_counts_in_minutes_and_lies_below_a_business_id() -> None:
    header = business(100, 12)
    set_up = Bench(MetaClient, LIMITS, [answer(400, refusal(80004), x_business_use_case_usage=header)])
    assert set_up.refused(INSIGHTS).retry_after == 720.0


def test_a_header_that_asks_for_ages_closes_the_limit_for_a_week() -> None:
    """No instant is 1e12 minutes away; the database refused it."""
    set_up = Bench(MetaClient, LIMITS, [answer(body={"data": []}, x_business_use_case_usage=business(96, 10**12))])
    set_up.client.send(INSIGHTS)
    assert [seconds for _, seconds, _ in set_up.limiter.blocked] == [LONGEST_WAIT_S]


@pytest.mark.parametrize(("minutes", "seconds"), [(0, 600), (7, 420), (400, 3600)])
def test_an_accounts_block_puts_the_run_back_for_as_long_as_it_lasts(minutes: int, seconds: int) -> None:
    """Though `is_transient` is false, the block goes by itself: no retry storm, one call."""
    reply = answer(400, refusal(17, 2446079, is_transient=False), x_business_use_case_usage=business(100, minutes))
    set_up = Bench(MetaClient, LIMITS, [reply])
    failure = set_up.refused(INSIGHTS)
    assert failure.code == "META_ACCOUNT_QUOTA_BLOCK"
    assert failure.resets_at == set_up.clock.now + dt.timedelta(seconds=seconds)
    assert set_up.client.requests == 1
    assert max(blocked for _, blocked, _ in set_up.limiter.blocked) >= seconds


@pytest.mark.parametrize(
    ("headers", "percent", "regain"),
    [
        ({"x-app-usage": '{"call_count": 28, "total_time": 90, "total_cputime": 5}'}, 90.0, None),
        ({"x-ad-account-usage": '{"acc_id_util_pct": 66.5, "reset_time_duration": 100}'}, 66.5, None),
        ({"x-ad-account-usage": '{"acc_id_util_pct": 100, "reset_time_duration": 100}'}, 100.0, 100.0),
        ({"x-business-use-case-usage": business(81, 3)}, 81.0, 180.0),
        ({"x-fb-ads-insights-throttle": '{"app_id_util_pct": 97.1, "acc_id_util_pct": 3}'}, 97.1, None),
        ({"x-app-usage": "no json"}, 0.0, None),
        ({"x-app-usage": "[1]"}, 0.0, None),
        ({}, 0.0, None),
    ],
)
def test_usage_is_the_fullest_limit_of_all_headers(
    headers: dict[str, str], percent: float, regain: float | None
) -> None:
    usage = usage_of(headers)
    assert (usage.percent, usage.regain_seconds) == (percent, regain)


@pytest.mark.parametrize(("percent", "pause"), [(74, None), (80, 2.5), (94, 9.5), (95, 300.0), (100, 300.0)])
def test_calls_slow_down_from_three_quarters_and_stop_just_below_the_limit(percent: int, pause: float | None) -> None:
    header = json.dumps({"call_count": percent, "total_time": 0, "total_cputime": 0})
    set_up = Bench(MetaClient, LIMITS, [answer(body={"data": []}, x_app_usage=header)])
    set_up.client.send(INSIGHTS)
    assert [seconds for _, seconds, _ in set_up.limiter.blocked] == ([pause] if pause else [])
    assert set_up.limiter.observed == ([("meta_ads:1:default", float(percent))] if pause else [])


# -- reports


def test_a_report_is_the_same_question_without_its_paging() -> None:
    set_up = Bench(MetaClient, LIMITS, [answer(body={"report_run_id": "777"})])
    assert set_up.client.submit_report(INSIGHTS) == "777"  # type: ignore[attr-defined]
    (call,) = set_up.calls
    assert (call.method, call.path, dict(call.params)) == ("POST", "act_1/insights", {"level": "ad"})
    assert set_up.limiter.reserved == [("meta_ads:1:default", 3)]


def polled(*answers: Any) -> Any:
    set_up = Bench(MetaClient, LIMITS, answers)
    return set_up.client.poll_report("777")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "percent", "state"),
    [
        ("Job Not Started", 0, ReportState.RUNNING),
        ("Job Running", 40, ReportState.RUNNING),
        ("Job Completed", 99, ReportState.RUNNING),
        ("Job Running", 100, ReportState.RUNNING),
        ("Job Completed", 100, ReportState.COMPLETED),
        ("Job Failed", 60, ReportState.FAILED),
        ("Job Skipped", 0, ReportState.FAILED),
    ],
)
def test_a_report_is_done_when_status_and_percent_say_so(status: str, percent: int, state: ReportState) -> None:
    found = polled(answer(body={"async_status": status, "async_percent_completion": percent}))
    assert (found.state, found.percent) == (state, percent)
    assert (found.error is not None) == (state is ReportState.FAILED)


def test_a_failed_report_says_why() -> None:
    body = {
        "async_status": "Job Failed",
        "async_percent_completion": 3,
        "error_code": 100,
        "error_subcode": 1504018,
        "error_message": "too big",
        "error_user_msg": f"ask for less than {TOKEN}",
    }
    failure = polled(answer(body=body)).error
    assert failure.code == "META_TOO_MUCH_DATA"
    assert (failure.provider_code, failure.provider_subcode) == ("100", "1504018")
    assert failure.message == "Job Failed | too big | ask for less than ***"
    assert polled(answer(body={"async_status": "Job Failed"})).error.code == "META_REPORT_FAILED"


def test_a_new_report_may_be_unknown_for_a_minute_and_then_is_lost() -> None:
    unknown = answer(400, refusal(100, 33))
    set_up = Bench(MetaClient, LIMITS, [answer(body={"report_run_id": "777"}), unknown, unknown])
    client: Any = set_up.client
    client.submit_report(INSIGHTS)
    assert client.poll_report("777").state is ReportState.RUNNING
    set_up.clock.now += dt.timedelta(seconds=61)
    lost = client.poll_report("777")
    assert (lost.state, lost.error.code) == (ReportState.FAILED, "META_REPORT_FAILED")


def test_a_report_of_a_dead_worker_that_the_vendor_forgot_has_failed() -> None:
    assert polled(answer(400, refusal(100, 33))).state is ReportState.FAILED


def test_a_poll_that_is_refused_for_good_raises() -> None:
    with pytest.raises(PenstockError) as refused:
        polled(answer(400, refusal(190)))
    assert refused.value.code == "META_AUTH_ERROR"


# -- the account


def test_check_says_whose_account_it_is() -> None:
    body = {"name": "Acme", "currency": "AUD", "timezone_name": "Australia/Sydney", "account_id": "42"}
    set_up = Bench(MetaClient, LIMITS, [answer(body=body)], account_id="act_42")
    assert set_up.client.check() == "Meta ad account Acme (42), AUD, Australia/Sydney"
    assert set_up.calls[0].path == "act_42"
