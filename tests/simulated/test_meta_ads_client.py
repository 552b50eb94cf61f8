"""The Meta client against the sandbox: real pages, real refusals, real headers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from penstock.clients.meta_ads import ReportState
from penstock.sources.meta_ads import SOURCE, report_page
from penstock.sources.stream import Request
from tests.client_doubles import Bench, profiled, read_stream, sandbox_bench, stream_window
from tests.sandbox_fixture import Sandbox

STREAMS = [stream.name for stream in SOURCE.streams]


@pytest.fixture
def bench(sandbox: Sandbox) -> Iterator[Bench]:
    found = sandbox_bench(sandbox, "META")
    yield found
    found.client.close()


def test_every_stream_is_read_whole_without_a_refused_record(bench: Bench) -> None:
    for name in STREAMS:
        rows = read_stream(bench, "META", name, days=5)
        assert rows, name
        assert len({row.record_key for row in rows}) == len(rows), name
    assert bench.clock.slept == []


def test_small_pages_give_the_same_rows_as_large_ones(bench: Bench) -> None:
    for name in ("ads", "insights_ad", "insights_age_gender"):
        whole = read_stream(bench, "META", name, days=5)
        paged = read_stream(bench, "META", name, days=5, page_size=25)
        assert len(whole) > 25
        assert {row.record_key: row.payload for row in paged} == {row.record_key: row.payload for row in whole}


def test_spend_agrees_with_the_accounts_own_totals_and_the_truth(sandbox: Sandbox, bench: Bench) -> None:
    account = sandbox.account("META")
    last = sandbox.as_of(account)
    truth = sandbox.truth(account, last - dt.timedelta(days=4), last)

    def spend(stream: str) -> dict[dt.date | None, Decimal]:
        found: dict[dt.date | None, Decimal] = {}
        for row in read_stream(bench, "META", stream, days=5):
            found[row.record_date] = found.get(row.record_date, Decimal()) + Decimal(row.payload["spend"])
        return found

    daily = spend("insights_account")
    assert daily == spend("totals")
    assert {day.isoformat(): amount for day, amount in daily.items() if day} == {
        day["date"]: Decimal(str(day["spend"])) for day in truth
    }


def test_a_report_gives_the_rows_that_the_direct_question_gives(sandbox: Sandbox, bench: Bench) -> None:
    client: Any = bench.client
    account = profiled(bench, "META")
    stream = SOURCE.stream("insights_ad")
    window = stream_window(stream, account, bench.clock.now, 20, {})
    remote_id = client.submit_report(stream.request(account, window, None))
    status = client.poll_report(remote_id)
    for _ in range(500):
        if status.state is not ReportState.RUNNING:
            break
        bench.clock.sleep(0.01)
        status = client.poll_report(remote_id)
    assert status.state is ReportState.COMPLETED, status
    rows, token = {}, None
    while True:
        request = report_page(remote_id, window, token)
        page = stream.parse(client.send(request), request)
        rows.update({row.record_key: row.payload for row in (stream.row(record, account) for record in page.records)})
        token = page.next_token
        if token is None:
            break
    assert rows == {row.record_key: row.payload for row in read_stream(bench, "META", "insights_ad", 20)}


def test_each_shop_has_its_own_zone_and_currency(sandbox: Sandbox) -> None:
    found = {}
    for shop in ("aurora", "borealis", "kiritimati"):
        account = profiled(sandbox_bench(sandbox, "META", shop), "META")
        found[shop] = (account.time_zone, account.currency)
    assert len(set(found.values())) == 3


ACCOUNT = {"fields": "account_id,name"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"token": "EAAwrong0000000"}, "META_AUTH_ERROR"),
        ({"secret": "0" * 32}, "META_APP_SECRET_PROOF_INVALID"),
        ({"account_id": "1"}, "META_PERMISSION_DENIED"),
        ({"extra": {"api_version": "v18.0"}}, "META_VERSION_DEPRECATED"),
    ],
)
def test_refusals_have_their_code_and_are_asked_once(sandbox: Sandbox, changes: dict[str, Any], code: str) -> None:
    bench = sandbox_bench(sandbox, "META", **changes)
    failure = bench.refused(Request("GET", f"act_{bench.client._account_id}", ACCOUNT))
    assert (failure.code, bench.client.requests) == (code, 1)
    assert failure.request_id


def me(bench: Bench) -> Request:
    return Request("GET", f"act_{bench.client._account_id}", ACCOUNT)


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "status", "params": {"status": 500}},
        {"action": "status", "params": {"status": 429, "retry_after": 3}},
        {"action": "status", "params": {"status": 429}},
        {"action": "drop"},
        {"action": "truncate"},
        {"action": "truncate", "params": {"wrong_length": True}},
        {"action": "html", "params": {"status": 200}},
        {"action": "html", "params": {"status": 502}},
    ],
    ids=str,
)
def test_passing_trouble_is_got_over_within_the_call(sandbox: Sandbox, bench: Bench, fault: dict[str, Any]) -> None:
    sandbox.faults({"vendor": "meta", "times": 1, **fault})
    assert bench.client.send(me(bench))["account_id"] == bench.client._account_id
    assert bench.client.requests == 2


@pytest.mark.parametrize(
    ("params", "code", "calls"),
    [
        ({"status": 400, "code": 17, "subcode": 2446079}, "META_ACCOUNT_QUOTA_BLOCK", 1),
        ({"status": 400, "code": 80004}, "META_RATE_LIMIT", 2),
        ({"status": 400, "code": 190, "subcode": 463}, "META_AUTH_ERROR", 1),
        ({"status": 400, "code": 200}, "META_PERMISSION_DENIED", 1),
    ],
)
def test_the_vendors_error_numbers_decide(
    sandbox: Sandbox, bench: Bench, params: dict[str, Any], code: str, calls: int
) -> None:
    sandbox.faults({"vendor": "meta", "action": "status", "params": params})
    failure = bench.refused(me(bench))
    assert (failure.code, bench.client.requests) == (code, calls)


def test_too_much_data_is_told_to_whoever_cuts_the_slice(sandbox: Sandbox, bench: Bench) -> None:
    account = profiled(bench, "META")
    sandbox.faults({"vendor": "meta", "action": "too_much_data", "params": {"above_limit": 50}})
    stream = SOURCE.stream("insights_ad")
    window = stream_window(stream, account, bench.clock.now, 3, {})
    failure = bench.refused(stream.request(account, window, None))
    assert failure.code == "META_TOO_MUCH_DATA"
    smaller = stream.request(account, window.with_page_size(50), None)
    assert stream.parse(bench.client.send(smaller), smaller).records


def test_check_names_the_account(bench: Bench) -> None:
    assert bench.client._account_id in bench.client.check()
