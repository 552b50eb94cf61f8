"""The Klaviyo client against the sandbox, which validates every parameter, filter and limit by the contract."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.sources.klaviyo import SOURCE
from penstock.sources.stream import Request
from tests.client_doubles import Bench, profiled, read_stream, sandbox_bench
from tests.sandbox_fixture import Sandbox

ACCOUNTS = Request("GET", "api/accounts", limit="accounts")
FLOWS = Request("GET", "api/flows", {"page[size]": "50"}, limit="flows")


@pytest.fixture
def bench(sandbox: Sandbox) -> Iterator[Bench]:
    found = sandbox_bench(sandbox, "KLAVIYO")
    yield found
    found.client.close()


def test_every_stream_is_read_whole_without_a_refused_record(sandbox: Sandbox, bench: Bench) -> None:
    account = profiled(bench, "KLAVIYO")
    bench.client._sleep = lambda seconds: sandbox.state.reset()  # time passes: the limits' windows begin anew
    for stream in SOURCE.streams:
        if not stream.is_default:
            continue
        rows = read_stream(bench, "KLAVIYO", stream.name, days=4, account=account)
        assert rows, stream.name
        assert len({row.record_key for row in rows}) == len(rows), stream.name


def test_small_pages_give_the_same_rows_as_large_ones(bench: Bench) -> None:
    account = profiled(bench, "KLAVIYO")
    whole = read_stream(bench, "KLAVIYO", "events", days=4, account=account)
    paged = read_stream(bench, "KLAVIYO", "events", days=4, account=account, page_size=50)
    assert len(whole) > 100
    assert {row.record_key: row.payload for row in paged} == {row.record_key: row.payload for row in whole}


def test_orders_of_the_events_are_the_orders_of_the_totals(bench: Bench) -> None:
    account = profiled(bench, "KLAVIYO")
    events = read_stream(bench, "KLAVIYO", "events", days=4, account=account)
    counted: dict[dt.date | None, int] = {}
    for row in events:
        counted[row.record_date] = counted.get(row.record_date, 0) + 1
    totals = read_stream(bench, "KLAVIYO", "totals", days=4, account=account)
    assert {row.record_date: row.payload["count"] for row in totals if row.payload["by"] == ""} == counted


def test_flow_series_hold_the_days_that_were_asked_for(sandbox: Sandbox) -> None:
    for shop in ("aurora", "borealis", "kiritimati"):
        bench = sandbox_bench(sandbox, "KLAVIYO", shop)
        account = profiled(bench, "KLAVIYO")
        rows = read_stream(bench, "KLAVIYO", "flow_series", days=6, account=account)
        today = account.today(bench.clock.now)
        assert {row.record_date for row in rows} <= {today - dt.timedelta(days=number) for number in range(6)}
        assert len({row.record_date for row in rows}) >= 5


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"token": "pk_00000000000000000000000000000000"}, "KLAVIYO_AUTH_ERROR"),
        ({"extra": {"revision": "2021-01-01"}}, "KLAVIYO_REVISION_RETIRED"),
        ({"extra": {"revision": "yesterday"}}, "KLAVIYO_REVISION_RETIRED"),
    ],
)
def test_refusals_have_their_code_and_are_asked_once(sandbox: Sandbox, changes: dict[str, Any], code: str) -> None:
    bench = sandbox_bench(sandbox, "KLAVIYO", **changes)
    failure = bench.refused(ACCOUNTS)
    assert (failure.code, bench.client.requests) == (code, 1)
    assert failure.request_id


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "status", "params": {"status": 500}},
        {"action": "status", "params": {"status": 503, "retry_after": 2}},
        {"action": "status", "params": {"status": 429, "retry_after": 2}},
        {"action": "status", "params": {"status": 429}},
        {"action": "drop"},
        {"action": "truncate"},
        {"action": "truncate", "params": {"wrong_length": True}},
        {"action": "html", "params": {"status": 200}},
    ],
    ids=str,
)
def test_passing_trouble_is_got_over_within_the_call(sandbox: Sandbox, bench: Bench, fault: dict[str, Any]) -> None:
    sandbox.faults({"vendor": "klaviyo", "times": 1, **fault})
    assert bench.client.send(FLOWS)["data"]
    assert bench.client.requests == 2


def test_calls_without_a_pace_run_into_the_limit_and_close_it_for_everybody(bench: Bench) -> None:
    """The limiter of this test lets everything pass, so the vendor has to say no."""
    failures = [failure for failure in (attempt(bench) for _ in range(6)) if failure]
    assert {failure.code for failure in failures} == {"KLAVIYO_RATE_LIMIT"}
    assert {key for key, _, _ in bench.limiter.blocked} == {f"klaviyo:{bench.client._account_id}:accounts"}
    assert bench.breaker.events.count("success") == bench.client.requests


def attempt(bench: Bench) -> Any:
    try:
        bench.client.send(ACCOUNTS)
    except Exception as failure:  # noqa: BLE001  the caller looks at what it is
        return failure
    return None


def test_a_metric_that_the_account_does_not_have_is_a_matter_of_configuration(bench: Bench) -> None:
    attributes = {
        "metric_id": "NoSuch",
        "measurements": ["count"],
        "filter": [
            "greater-or-equal(datetime,2026-11-01T00:00:00Z)",
            "less-than(datetime,2026-11-02T00:00:00Z)",
        ],
    }
    body = {"data": {"type": "metric-aggregate", "attributes": attributes}}
    request = Request("POST", "api/metric-aggregates", body=body, limit="metric-aggregates")
    assert bench.refused(request).code == "KLAVIYO_INVALID_QUERY"


def test_check_names_the_account(bench: Bench) -> None:
    assert bench.client._account_id in bench.client.check()
