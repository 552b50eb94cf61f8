"""The Google Ads client against the sandbox: tokens, headers, streams, limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from penstock.clients.credentials import Credentials
from penstock.clients.google_ads import GoogleAdsClient
from penstock.sources.google_ads import LIMITS, SOURCE, search_stream
from penstock.sources.stream import Account, Request
from tests.client_doubles import Bench, profiled, read_stream
from tests.sandbox_fixture import Sandbox

Open = Callable[..., Bench]
CUSTOMER = "SELECT customer.id, customer.time_zone FROM customer LIMIT 1"


def customers(sandbox: Sandbox) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = requests.get(f"{sandbox.url}/sandbox/google_ads", timeout=10).json()
    return found


@pytest.fixture
def open_bench(sandbox: Sandbox) -> Iterator[Open]:
    opened: list[Bench] = []

    def open_one(place: int = 1, account_id: str | None = None, token: str = "", **changes: Any) -> Bench:
        """A client of the sandbox's customer; None in `changes` takes a credential away."""
        listed = customers(sandbox)[place]
        extra = {**listed["credentials"], "token_uri": sandbox.token_url, **changes}
        extra = {name: value for name, value in extra.items() if value is not None}
        credentials = Credentials(sandbox.base_url("google_ads"), token, extra=extra)
        found = Bench(
            GoogleAdsClient,
            LIMITS,
            credentials=credentials,
            account_id=account_id or listed["account_id"],
            now=sandbox.state.clock.now(),
        )
        opened.append(found)
        return found

    yield open_one
    for each in opened:
        each.client.close()


def ask(bench: Bench, query: str = CUSTOMER) -> Request:
    return search_stream(Account("", "", bench.client._account_id), query)


def test_every_stream_is_read_whole_without_a_refused_record(open_bench: Open) -> None:
    bench = open_bench()
    for stream in SOURCE.streams:
        rows = read_stream(bench, "GOOGLE_ADS", stream.name, days=12)
        assert rows, stream.name
        assert len({row.record_key for row in rows}) == len(rows), stream.name


def test_ads_add_up_to_the_customers_own_totals(open_bench: Open) -> None:
    bench = open_bench()
    ads = read_stream(bench, "GOOGLE_ADS", "ad_days", days=10)
    totals = {row.record_date: row.payload["metrics"] for row in read_stream(bench, "GOOGLE_ADS", "totals", days=10)}
    assert len(totals) == 10
    for day, total in totals.items():
        for name in ("impressions", "clicks", "costMicros"):
            assert sum(int(row.payload["metrics"][name]) for row in ads if row.record_date == day) == int(total[name])


def test_the_check_names_the_customer(open_bench: Open, sandbox: Sandbox) -> None:
    listed = customers(sandbox)[1]
    said = open_bench().client.check()
    assert said == f"Google Ads customer {listed['account_name']} ({listed['account_id']}), USD, America/Los_Angeles"


def test_a_customer_id_may_be_written_with_dashes(open_bench: Open, sandbox: Sandbox) -> None:
    plain = customers(sandbox)[1]["account_id"]
    bench = open_bench(account_id=f"{plain[:3]}-{plain[3:6]}-{plain[6:]}")
    assert profiled(bench, "GOOGLE_ADS").currency == "USD"
    assert bench.limiter.reserved[0][0] == f"google_ads:{plain}:default"


def test_one_token_serves_many_calls_and_is_renewed_when_it_is_refused(open_bench: Open, sandbox: Sandbox) -> None:
    bench = open_bench()
    for _ in range(3):
        bench.client.send(ask(bench))
    assert sandbox.answered("google") == 1
    sandbox.faults({"vendor": "google_ads", "action": "expired_token", "times": 1})
    assert bench.client.send(ask(bench))
    assert sandbox.answered("google") == 2


def test_a_service_account_works_as_well(open_bench: Open, sandbox: Sandbox) -> None:
    account = sandbox.state.tokens.service_account(sandbox.token_url)
    bench = open_bench(refresh_token=None, service_account=account)
    assert bench.client.send(ask(bench))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"refresh_token": "1//revoked"}, "AUTH_ERROR"),
        ({"refresh_token": None, "token": "ya29.not-a-token"}, "AUTH_ERROR"),
        ({"client_secret": "wrong"}, "AUTH_ERROR"),
        ({"developer_token": "wrong"}, "DEVELOPER_TOKEN"),
        ({"developer_token": ""}, "DEVELOPER_TOKEN"),
        ({"account_id": "1112223333"}, "CUSTOMER_NOT_ENABLED"),
        ({"api_version": "v17"}, "VERSION_SUNSET"),
    ],
)
def test_what_is_wrong_has_its_code_and_shows_no_secret(open_bench: Open, changes: dict[str, Any], code: str) -> None:
    bench = open_bench(**changes)
    failure = bench.refused(ask(bench))
    assert failure.code == f"GOOGLE_ADS_{code}"
    secrets = bench.client._credentials.secrets()
    assert secrets
    assert not any(secret in str(failure) for secret in secrets)


@pytest.mark.parametrize("given", [None, "1112223333"])
def test_the_manager_is_found_where_none_or_a_wrong_one_is_named(
    open_bench: Open, sandbox: Sandbox, given: str | None
) -> None:
    """The user may enter a customer and a manager; only the manager has the one that is asked for."""
    bench = open_bench(login_customer_id=given)
    assert profiled(bench, "GOOGLE_ADS").currency == "USD"
    calls = bench.client.requests
    bench.client.send(ask(bench))
    assert bench.client.requests == calls + 1
    assert sandbox.answered("google_ads", "listAccessibleCustomers") == 1


def test_a_customer_that_no_manager_has_stays_refused(open_bench: Open, sandbox: Sandbox) -> None:
    bench = open_bench(login_customer_id=None)
    sandbox.faults({"vendor": "google_ads", "path": "searchStream$", "action": "status", "params": {"status": 403}})
    for _ in range(2):
        assert bench.refused(ask(bench)).code == "GOOGLE_ADS_PERMISSION_DENIED"
    assert sandbox.answered("google_ads", "listAccessibleCustomers") == 1


def test_a_customer_of_ones_own_needs_no_manager(open_bench: Open) -> None:
    bench = open_bench(place=0, login_customer_id=None)
    assert profiled(bench, "GOOGLE_ADS").currency == "CHF"


def test_a_manager_account_is_told_from_a_customer(open_bench: Open, sandbox: Sandbox) -> None:
    manager = customers(sandbox)[1]["credentials"]["login_customer_id"]
    bench = open_bench(account_id=manager)
    query = "SELECT metrics.clicks FROM customer WHERE segments.date BETWEEN '2026-11-01' AND '2026-11-02'"
    assert bench.refused(ask(bench, query)).code == "GOOGLE_ADS_MANAGER_ACCOUNT"
    source_account = Account("", "", manager)
    bodies = [bench.client.send(request) for request in SOURCE.profile_requests(source_account)]
    assert SOURCE.profile(source_account, bodies).problem == "GOOGLE_ADS_MANAGER_ACCOUNT"


def test_a_suspended_customer_is_not_read(open_bench: Open, sandbox: Sandbox) -> None:
    listed = customers(sandbox)[1]["account_id"]
    change = {"customer": listed, "status": "SUSPENDED"}
    requests.put(f"{sandbox.url}/sandbox/google_ads", json=change, timeout=10).raise_for_status()
    bench = open_bench()
    assert bench.refused(ask(bench)).code == "GOOGLE_ADS_CUSTOMER_NOT_ENABLED"


def test_a_query_that_the_vendor_does_not_understand_is_ours_to_mend(open_bench: Open) -> None:
    bench = open_bench()
    assert bench.refused(ask(bench, "SELECT metrics.video_views FROM campaign")).code == "GOOGLE_ADS_INVALID_QUERY"


def test_passing_trouble_is_got_over(open_bench: Open, sandbox: Sandbox) -> None:
    bench = open_bench()
    faults: list[dict[str, Any]] = [
        {"action": "status", "params": {"status": 503}},
        {"action": "truncate"},
        {"action": "drop"},
        {"action": "metadata"},  # the stream breaks off in the middle
    ]
    for fault in faults:
        sandbox.faults({"vendor": "google_ads", "times": 1, **fault})
        assert len(bench.client.send(ask(bench))[0]["results"]) == 1
    assert sandbox.answered("google_ads", "searchStream") == 2 * len(faults)


def test_calls_that_come_too_fast_are_told_to_wait(open_bench: Open) -> None:
    bench = open_bench()
    for _ in range(10):
        bench.client.send(ask(bench))
    assert bench.refused(ask(bench)).code == "GOOGLE_ADS_RATE_LIMIT"
    assert {reason for _, _, reason in bench.limiter.blocked} == {"GOOGLE_ADS_RATE_LIMIT"}
    assert min(bench.clock.slept) >= 1


def test_a_used_up_day_is_not_waited_for(open_bench: Open, sandbox: Sandbox) -> None:
    sandbox.faults({"vendor": "google_ads", "action": "status", "params": {"status": 429, "retry_delay": 20_000}})
    bench = open_bench()
    failure = bench.refused(ask(bench))
    assert (failure.code, failure.retry_after) == ("GOOGLE_ADS_QUOTA_DAY", 20_000.0)
    assert bench.clock.slept == []
