from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from penstock.clients.credentials import Credentials
from penstock.clients.google_ads import GoogleAdsClient, seconds
from penstock.clients.transport import utc_now
from penstock.core.errors import CATALOGUE, ConfigurationError
from penstock.sources.google_ads import LIMITS, rows_of
from penstock.sources.stream import Request
from tests.client_doubles import NOW, Bench, Breaker, Limiter, answer

STREAM = Request(
    "POST", "customers/1234567890/googleAds:searchStream", body={"query": "SELECT customer.id FROM customer"}
)
GOOD = [{"results": [{"customer": {"id": "1234567890"}}], "requestId": "good"}]
CREDENTIALS = Credentials("http://vendor.test", "access", extra={"developer_token": "developer-secret"})


def failed(status: int, kind: str, name: str, *, delay: str | None = None, scope: str = "ACCOUNT") -> tuple[int, Any]:
    """An error as REST words it."""
    found: dict[str, Any] = {"errorCode": {kind: name}, "message": f"{name} happened"}
    if delay:
        quota = {"rateScope": scope, "rateName": "operations", "retryDelay": delay}
        found["details"] = {"quotaErrorDetails": quota}
    failure = {
        "@type": "type.googleapis.com/google.ads.googleads.v26.errors.GoogleAdsFailure",
        "errors": [found],
        "requestId": "asked-1",
    }
    return status, {"error": {"code": status, "message": "Request failed.", "status": "X", "details": [failure]}}


def bench(*answers: Any, **changes: Any) -> Bench:
    return Bench(GoogleAdsClient, LIMITS, answers, credentials=CREDENTIALS, account_id="123-456-7890", **changes)


CASES: list[tuple[tuple[int, Any], str]] = [
    (failed(401, "authenticationError", "OAUTH_TOKEN_EXPIRED"), "AUTH_ERROR"),
    (failed(401, "authenticationError", "OAUTH_TOKEN_REVOKED"), "AUTH_ERROR"),
    (failed(401, "authenticationError", "OAUTH_TOKEN_DISABLED"), "AUTH_ERROR"),
    (failed(401, "authenticationError", "TWO_STEP_VERIFICATION_NOT_ENROLLED"), "AUTH_ERROR"),
    (failed(401, "authenticationError", "DEVELOPER_TOKEN_INVALID"), "DEVELOPER_TOKEN"),
    (failed(403, "authorizationError", "DEVELOPER_TOKEN_NOT_APPROVED"), "DEVELOPER_TOKEN"),
    (failed(403, "authorizationError", "DEVELOPER_TOKEN_PROHIBITED"), "DEVELOPER_TOKEN"),
    (failed(403, "authorizationError", "CLOUD_PROJECT_NOT_APPROVED_FOR_PRODUCTION"), "DEVELOPER_TOKEN"),
    (failed(403, "authorizationError", "USER_PERMISSION_DENIED"), "PERMISSION_DENIED"),
    (failed(403, "authorizationError", "METRIC_ACCESS_DENIED"), "PERMISSION_DENIED"),
    (failed(403, "quotaError", "ACCESS_PROHIBITED"), "PERMISSION_DENIED"),
    ((403, {"error": {"code": 403, "message": "no", "status": "PERMISSION_DENIED"}}), "PERMISSION_DENIED"),
    (failed(403, "authorizationError", "CUSTOMER_NOT_ENABLED"), "CUSTOMER_NOT_ENABLED"),
    (failed(401, "authenticationError", "CUSTOMER_NOT_FOUND"), "CUSTOMER_NOT_ENABLED"),
    (failed(403, "authorizationError", "ACTION_NOT_PERMITTED_FOR_SUSPENDED_ACCOUNT"), "CUSTOMER_NOT_ENABLED"),
    (failed(400, "queryError", "REQUESTED_METRICS_FOR_MANAGER"), "MANAGER_ACCOUNT"),
    (failed(429, "quotaError", "RESOURCE_TEMPORARILY_EXHAUSTED", delay="5s"), "RATE_LIMIT"),
    (failed(429, "quotaError", "EXCESSIVE_SHORT_TERM_QUERY_RESOURCE_CONSUMPTION", delay="8s"), "RATE_LIMIT"),
    (failed(429, "quotaError", "RESOURCE_EXHAUSTED", delay="7200s"), "QUOTA_DAY"),
    (failed(429, "quotaError", "EXCESSIVE_LONG_TERM_QUERY_RESOURCE_CONSUMPTION"), "QUOTA_DAY"),
    ((429, {"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}}), "RATE_LIMIT"),
    (failed(400, "requestError", "EXPIRED_PAGE_TOKEN"), "PAGE_EXPIRED"),
    (failed(400, "requestError", "INVALID_PAGE_TOKEN"), "PAGE_EXPIRED"),
    (failed(504, "internalError", "DEADLINE_EXCEEDED"), "TOO_MUCH_DATA"),
    (failed(400, "requestError", "RPC_DEADLINE_TOO_SHORT"), "TOO_MUCH_DATA"),
    (failed(400, "queryError", "UNRECOGNIZED_FIELD"), "INVALID_QUERY"),
    (failed(400, "requestError", "INVALID_CUSTOMER_ID"), "INVALID_QUERY"),
    (failed(400, "requestError", "UNSUPPORTED_VERSION"), "VERSION_SUNSET"),
    ((404, b"<html>The requested URL was not found</html>"), "VERSION_SUNSET"),
    (failed(500, "internalError", "INTERNAL_ERROR"), "TRANSIENT"),
    (failed(503, "internalError", "TRANSIENT_ERROR"), "TRANSIENT"),
    ((502, b"<html>Bad Gateway</html>"), "TRANSIENT"),
    ((418, {"error": {"code": 418, "message": "short and stout"}}), "ERROR"),
]


@pytest.mark.parametrize("in_stream", [False, True])
def test_errors_are_mapped_by_the_table_alone_or_in_the_streams_array(in_stream: bool) -> None:
    for (status, body), code in CASES:
        reply = answer(status, [body] if in_stream and isinstance(body, dict) else body)
        failure = bench(*[reply] * 6).refused(STREAM)
        assert (body, failure.code) == (body, f"GOOGLE_ADS_{code}")
        assert isinstance(failure, CATALOGUE[failure.code].kind)


def test_every_code_of_the_vendor_is_in_a_case() -> None:
    codes = {code for code in CATALOGUE if code.startswith("GOOGLE_ADS_")}
    assert codes == {f"GOOGLE_ADS_{code}" for _, code in CASES}


def test_an_error_says_what_the_vendor_said_and_keeps_secrets() -> None:
    body = failed(403, "authorizationError", "METRIC_ACCESS_DENIED")[1]
    body["error"]["details"][0]["errors"][0]["message"] = "developer-secret may not enter"
    failure = bench(answer(403, body)).refused(STREAM)
    assert (failure.provider_code, failure.provider_subcode) == ("authorizationError", "METRIC_ACCESS_DENIED")
    assert (failure.http_status, failure.request_id) == (403, "asked-1")
    assert failure.message == "*** may not enter"


def test_a_stream_that_breaks_off_is_asked_again_and_nothing_of_it_is_kept() -> None:
    broken = [*GOOD, failed(500, "internalError", "INTERNAL_ERROR")[1]]
    at = bench(answer(200, broken), answer(200, GOOD))
    assert at.client.send(STREAM) == GOOD
    assert at.client.requests == 2


def test_a_short_quota_is_waited_for_and_closes_the_customer_for_everybody() -> None:
    at = bench(answer(*failed(429, "quotaError", "RESOURCE_TEMPORARILY_EXHAUSTED", delay="7s")), answer(200, GOOD))
    assert at.client.send(STREAM) == GOOD
    assert at.clock.slept == [7.0]
    assert at.limiter.blocked == [("google_ads:1234567890:default", 7.0, "GOOGLE_ADS_RATE_LIMIT")]


def test_a_used_up_day_of_the_developer_token_closes_all_of_its_customers() -> None:
    reply = answer(*failed(429, "quotaError", "RESOURCE_EXHAUSTED", delay="3600s", scope="DEVELOPER"))
    at = bench(reply)
    failure = at.refused(STREAM)
    assert failure.retry_after == 3600.0
    assert failure.resets_at == NOW + dt.timedelta(hours=1)
    keys = [key for key, _, _ in at.limiter.blocked]
    assert keys[0] == "google_ads:1234567890:default"
    assert keys[1].startswith("google_ads:developer:")
    assert "developer-secret" not in keys[1]
    assert at.client.requests == 1


def test_a_quota_that_asks_for_ages_is_believed_for_a_week() -> None:
    """No instant is 1e14 seconds away: the error came in the place of the vendor's own."""
    failure = bench(answer(*failed(429, "quotaError", "RESOURCE_EXHAUSTED", delay=f"{10**14}s"))).refused(STREAM)
    assert (failure.code, failure.resets_at) == ("GOOGLE_ADS_QUOTA_DAY", NOW + dt.timedelta(days=7))


def test_each_call_counts_for_the_customer_and_for_the_developer_token() -> None:
    at = bench(answer(200, GOOD))
    at.client.send(STREAM)
    (customer, developer) = [key for key, _ in at.limiter.reserved]
    assert (customer, developer.rsplit(":", 1)[0]) == ("google_ads:1234567890:default", "google_ads:developer")


def test_a_developer_token_whose_day_is_closed_calls_nobody() -> None:
    at = bench(answer(200, GOOD), waits=[0.0, 5000.0])
    failure = at.refused(STREAM)
    assert (failure.code, failure.retry_after) == ("GOOGLE_ADS_QUOTA_DAY", 5000.0)
    assert at.client.requests == 0


def test_headers_name_the_developer_and_the_manager() -> None:
    extra = {"developer_token": "d", "login_customer_id": "111-222-3333"}
    client = GoogleAdsClient(
        Credentials("http://vendor.test", "t", extra=extra), "1", LIMITS, Limiter(), Breaker(), utc_now
    )
    assert client._headers("t") == {
        "Authorization": "Bearer t",
        "developer-token": "d",
        "login-customer-id": "1112223333",
    }


def test_without_any_grant_the_credential_is_missing() -> None:
    client = GoogleAdsClient(
        Credentials("http://vendor.test", extra={"developer_token": "d"}), "1", LIMITS, Limiter(), Breaker(), utc_now
    )
    with pytest.raises(ConfigurationError) as refused:
        client.send(STREAM)
    assert refused.value.code == "CREDENTIAL_NOT_FOUND"


def test_durations_are_read_as_json_writes_them() -> None:
    assert [seconds(text) for text in ("30s", "0.500s", "soon", None)] == [30.0, 0.5, None, None]


def test_rows_of_all_batches_come_together_and_none_is_an_empty_stream() -> None:
    assert rows_of([{"results": [{"a": 1}]}, {"fieldMask": "a"}, {"results": [{"a": 2}]}], STREAM).records == [
        {"a": 1},
        {"a": 2},
    ]
    assert rows_of([], STREAM).records == []
