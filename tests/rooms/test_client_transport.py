"""The discipline that all clients share, seen through Klaviyo's, with a wire that the test writes."""

from __future__ import annotations

import traceback
from dataclasses import replace

import pytest

from penstock.clients.klaviyo import KlaviyoClient
from penstock.core.errors import error
from penstock.sources.klaviyo import LIMITS
from penstock.sources.stream import Limit, Request
from tests.client_doubles import TOKEN, Bench, answer

EVENTS = Request("GET", "api/events", limit="events")
REPORT = Request("POST", "api/campaign-values-reports", body={}, limit="reports")
GOOD = answer(body={"data": []})
BUSY = answer(503, body={"errors": [{"code": "service_unavailable", "title": "busy"}]})


def bench(*answers: object, **options: object) -> Bench:
    return Bench(KlaviyoClient, LIMITS, answers, **options)  # type: ignore[arg-type]


def test_every_attempt_takes_its_place_in_the_shared_limit() -> None:
    set_up = bench(BUSY, GOOD, waits=[3.0, 2.0])
    assert set_up.client.send(EVENTS) == {"data": []}
    assert set_up.limiter.reserved == [("klaviyo:1:events", 1)] * 2
    assert set_up.clock.slept == [3.0, 0.5, 2.0]  # place, back-off, place
    assert set_up.client.requests == 2
    assert set_up.breaker.events == ["KLAVIYO_TRANSIENT: busy", "success"]


def test_a_vendor_that_stays_down_is_tried_five_times() -> None:
    set_up = bench(*[BUSY] * 9)
    assert set_up.refused(EVENTS).code == "KLAVIYO_TRANSIENT"
    assert set_up.client.requests == 5
    assert set_up.clock.slept == [0.5, 1.0, 2.0, 4.0]  # full jitter, the middle of it


@pytest.mark.parametrize(
    ("body", "code"), [(b'{"data": [{"id": "1"', "RESPONSE_TRUNCATED"), (b"<html>", "RESPONSE_NOT_JSON")]
)
def test_an_answer_that_is_no_whole_json_is_asked_for_again(body: bytes, code: str) -> None:
    assert bench(answer(body=body), GOOD).client.send(EVENTS) == {"data": []}
    lasting = bench(*[answer(body=body)] * 9)
    assert lasting.refused(EVENTS).code == code
    assert lasting.client.requests == 3


def test_the_records_of_a_large_page_stay_text_and_one_broken_record_is_broken_alone() -> None:
    body = b'{"data": [{"id": "1"}, {"id": "\xe9"}], "links": {"next": null}}'
    read = bench(answer(body=body)).client.send(replace(EVENTS, unread="data"))
    assert read == {"data": [b'{"id": "1"}', b'{"id": "\xe9"}'], "links": {"next": None}}
    # What has no such list, or a broken one, is read as ever.
    assert bench(answer(body=b'{"errors": []}')).client.send(replace(EVENTS, unread="data")) == {"errors": []}
    half = b'{"data": ["\\ud800"]}'
    assert bench(answer(body=half)).client.send(replace(EVENTS, unread="data")) == {"data": ["\ud800"]}


def test_half_surrogate_pairs_and_nul_reach_the_loader_which_refuses_their_record() -> None:
    body = bench(answer(body=b'{"data": ["\\ud800", "\\u0000"]}')).client.send(EVENTS)
    assert body == {"data": ["\ud800", "\x00"]}


def test_nan_is_no_json() -> None:
    assert bench(*[answer(body=b'{"data": NaN}')] * 3).refused(EVENTS).code == "RESPONSE_TRUNCATED"


def test_retry_after_is_waited_for_and_closes_the_limit_for_everybody() -> None:
    set_up = bench(answer(429, retry_after="7"), GOOD)
    set_up.client.send(EVENTS)
    assert set_up.clock.slept == [7.0]
    assert set_up.limiter.blocked == [("klaviyo:1:events", 7.0, "KLAVIYO_RATE_LIMIT")]
    assert set_up.breaker.events == ["success", "success"]  # the vendor is there: a 429 opens no circuit


def test_a_429_without_retry_after_backs_off() -> None:
    set_up = bench(answer(429), answer(429), answer(429), GOOD)
    set_up.client.send(EVENTS)
    assert set_up.clock.slept == [1.0, 1.0, 2.0]


def test_a_wait_beyond_the_budget_is_raised_at_once() -> None:
    set_up = bench(answer(429, retry_after="61"))
    failure = set_up.refused(EVENTS)
    assert (failure.code, failure.retry_after) == ("KLAVIYO_RATE_LIMIT", 61.0)
    assert set_up.clock.slept == []


def test_all_waits_of_a_call_share_one_budget() -> None:
    set_up = bench(*[answer(429, retry_after="25")] * 5)
    assert set_up.refused(EVENTS).code == "KLAVIYO_RATE_LIMIT"
    assert set_up.clock.slept == [25.0, 25.0]


def test_retry_after_of_an_unavailable_vendor_is_honoured_too() -> None:
    set_up = bench(answer(503, retry_after="9"), GOOD)
    set_up.client.send(EVENTS)
    assert set_up.clock.slept == [9.0]


def test_a_place_too_far_off_puts_the_run_back() -> None:
    set_up = bench(GOOD, waits=[100.0])
    failure = set_up.refused(EVENTS)
    assert (failure.code, failure.retry_after, failure.retryable) == ("RATE_LIMIT_WAIT_TOO_LONG", 100.0, True)
    assert set_up.client.requests == 0
    assert set_up.clock.slept == []


def test_an_open_circuit_is_waited_out_within_the_budget() -> None:
    set_up = bench(GOOD, allowed=[False, False, True])
    assert set_up.client.send(EVENTS) == {"data": []}
    assert set_up.client.requests == 1
    lasting = bench(GOOD, allowed=[False] * 30)
    assert lasting.refused(EVENTS).code == "CIRCUIT_OPEN"
    assert sum(lasting.clock.slept) <= 60.0
    assert lasting.client.requests == 0


def test_a_call_that_the_open_circuit_refuses_takes_no_place_in_the_limit() -> None:
    set_up = bench(GOOD, allowed=[False, False, True])
    set_up.client.send(REPORT)
    assert set_up.limiter.reserved == [("klaviyo:1:reports", 1)]


def test_a_circuit_that_opens_while_a_place_is_waited_for_stops_the_call() -> None:
    set_up = bench(GOOD, waits=[3.0])
    sleep = set_up.clock.sleep

    def others_fail(seconds: float) -> None:
        sleep(seconds)
        set_up.breaker.allowed.append(False)
        set_up.client._sleep = sleep

    set_up.client._sleep = others_fail
    assert set_up.client.send(EVENTS) == {"data": []}
    assert set_up.clock.slept == [3.0, 7.5]  # its place, then until the circuit is asked again
    assert (len(set_up.limiter.reserved), set_up.client.requests) == (2, 1)


def test_network_faults_are_tried_again_and_counted_against_the_vendor() -> None:
    set_up = bench(error("NETWORK_TIMEOUT", "no answer"), error("NETWORK_UNREACHABLE", "reset"), GOOD)
    assert set_up.client.send(EVENTS) == {"data": []}
    assert set_up.breaker.events == ["NETWORK_TIMEOUT: no answer", "NETWORK_UNREACHABLE: reset", "success"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_what_a_person_has_to_mend_is_not_tried_again(status: int) -> None:
    set_up = bench(answer(status, {"errors": [{"code": "x", "title": "no"}]}), GOOD)
    assert not set_up.refused(EVENTS).retryable
    assert set_up.client.requests == 1
    assert set_up.clock.slept == []


def test_a_redirect_is_not_followed() -> None:
    failure = bench(answer(302, location="https://elsewhere.test")).refused(EVENTS)
    assert failure.code == "CONFIG_INVALID"


def test_errors_say_who_failed_on_whose_behalf() -> None:
    failure = bench(answer(401, {"errors": [{"id": "req-9", "title": "no"}]}), account_id="AbCdEf").refused(EVENTS)
    stored = failure.as_json()
    assert (stored["service"], stored["account_id"], stored["request_id"]) == ("clients.klaviyo", "AbCdEf", "req-9")
    assert stored["http_status"] == 401


def test_a_token_that_a_vendor_repeats_reaches_no_message_and_no_traceback() -> None:
    body = {"errors": [{"title": f"key {TOKEN} is wrong", "detail": "see https://x.test/?api_key=abcdefgh"}]}
    for reply in (answer(401, body), answer(500, TOKEN.encode()), answer(body=TOKEN.encode())):
        failure = bench(*[reply] * 5).refused(EVENTS)
        text = "".join(traceback.format_exception(failure)) + repr(failure) + repr(failure.as_json())
        assert TOKEN not in text
        assert "abcdefgh" not in text


def test_slow_families_are_asked_one_at_a_time_so_that_nobody_waits_holding_a_place() -> None:
    set_up = Bench(KlaviyoClient, LIMITS, [GOOD])
    assert list(set_up.client._turns) == ["reports"]
    with set_up.client._turn("reports"):
        assert set_up.client._turns["reports"].locked()
    assert not set_up.client._turns["reports"].locked()
    with set_up.client._turn("events"):
        assert not set_up.client._turns["reports"].locked()


def test_limits_say_which_family_a_request_belongs_to() -> None:
    set_up = Bench(KlaviyoClient, {"events": (Limit(1, 1.0),)}, [GOOD])
    with pytest.raises(KeyError):
        set_up.client.send(REPORT)


def test_a_days_report_calls_that_are_used_up_are_a_quota() -> None:
    by_pace = bench(GOOD, waits=[5000.0]).refused(REPORT)
    by_vendor = bench(answer(429, retry_after="4000")).refused(REPORT)
    for failure, seconds in ((by_pace, 5000), (by_vendor, 4000)):
        assert failure.code == "KLAVIYO_DAILY_REPORT_LIMIT"
        assert failure.resets_at is not None
        assert (failure.resets_at - Bench(KlaviyoClient, LIMITS).clock.now).total_seconds() == seconds


def test_the_vendors_window_that_is_used_up_closes_the_limit() -> None:
    set_up = bench(answer(body={}, ratelimit_remaining="0", ratelimit_reset="12"), GOOD)
    set_up.client.send(EVENTS)
    assert set_up.limiter.blocked == [("klaviyo:1:events", 12.0, "RateLimit-Remaining is 0")]
    quiet = bench(answer(body={}, ratelimit_remaining="5", ratelimit_reset="12"))
    quiet.client.send(EVENTS)
    assert quiet.limiter.blocked == []
