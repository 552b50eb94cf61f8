"""The sandbox's Google Ads answers are those of the vendor's own contract: the messages of its SDK, version 26."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from sandbox.google_ads_query import FIELDS
from tests.sandbox_fixture import NOW, Sandbox

SCOPE = "https://www.googleapis.com/auth/adwords"
LAST_DAYS = f"segments.date BETWEEN '{NOW.date() - dt.timedelta(days=6)}' AND '{NOW.date()}'"
EVERYTHING = ", ".join(name for name in FIELDS if not name.startswith("customer_client."))


@pytest.fixture
def customer(sandbox: Sandbox) -> dict[str, Any]:
    listed: list[dict[str, Any]] = requests.get(f"{sandbox.url}/sandbox/google_ads", timeout=10).json()
    return listed[0]


def headers(sandbox: Sandbox, customer: dict[str, Any]) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {sandbox.state.tokens.issue('owner@example.com', frozenset({SCOPE}))}",
        "developer-token": customer["credentials"]["developer_token"],
        "login-customer-id": customer["credentials"]["login_customer_id"],
    }


def ask(sandbox: Sandbox, customer: dict[str, Any], query: str, method: str = "searchStream", **body: Any) -> Any:
    url = f"{sandbox.url}/google_ads/v26/customers/{customer['account_id']}/googleAds:{method}"
    return requests.post(url, json={"query": query, **body}, headers=headers(sandbox, customer), timeout=10)


def messages(reply: Any) -> Iterator[Any]:
    """Every batch as the SDK reads it; a field that the contract does not know raises."""
    from google.ads.googleads.v26.services.types.google_ads_service import SearchGoogleAdsStreamResponse

    for batch in reply.json():
        yield SearchGoogleAdsStreamResponse.from_json(json.dumps(batch))


def test_rows_are_messages_of_the_contract(sandbox: Sandbox, customer: dict[str, Any]) -> None:
    reply = ask(sandbox, customer, f"SELECT {EVERYTHING} FROM ad_group_ad WHERE {LAST_DAYS}")
    assert reply.status_code == 200, reply.text
    (batch,) = messages(reply)
    assert len(batch.results) > 30
    for row in batch.results:
        assert str(row.customer.id) == customer["account_id"]
        assert row.ad_group_ad.resource_name.endswith(f"/adGroupAds/{row.ad_group.id}~{row.ad_group_ad.ad.id}")
        assert row.metrics.impressions >= row.metrics.clicks >= 0
        assert row.metrics.cost_micros >= 0
        assert dt.date.fromisoformat(row.segments.date) <= NOW.date()
    assert set(batch.field_mask.paths) == set(EVERYTHING.split(", "))


def test_every_resource_answers_and_nothing_found_is_an_empty_array(sandbox: Sandbox, customer: dict[str, Any]) -> None:
    for resource in ("customer", "campaign", "ad_group", "ad_group_ad"):
        reply = ask(sandbox, customer, f"SELECT customer.id, metrics.clicks FROM {resource} WHERE {LAST_DAYS}")
        assert [len(batch.results) > 0 for batch in messages(reply)] == [True]
    nothing = "SELECT metrics.clicks FROM customer WHERE segments.date BETWEEN '2020-01-01' AND '2020-01-02'"
    assert ask(sandbox, customer, nothing).json() == []


def test_sums_are_the_same_at_every_level(sandbox: Sandbox, customer: dict[str, Any]) -> None:
    sums = set()
    for resource in ("customer", "campaign", "ad_group", "ad_group_ad"):
        reply = ask(sandbox, customer, f"SELECT metrics.cost_micros FROM {resource} WHERE {LAST_DAYS}")
        sums.add(sum(row.metrics.cost_micros for batch in messages(reply) for row in batch.results))
    assert len(sums) == 1


def test_last_days_grow_and_invalid_clicks_are_taken_back(sandbox: Sandbox, customer: dict[str, Any]) -> None:
    query = f"SELECT segments.date, metrics.clicks, metrics.impressions FROM ad_group_ad WHERE {LAST_DAYS}"

    def by_day() -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for batch in messages(ask(sandbox, customer, query)):
            for row in batch.results:
                clicks, rows = found.get(row.segments.date, (0, 0))
                found[row.segments.date] = (clicks + row.metrics.clicks, rows + 1)
        return found

    first = by_day()
    assert by_day() == first
    sandbox.now(NOW + dt.timedelta(days=7))
    later = by_day()
    today = NOW.date().isoformat()
    assert later[today][0] > first[today][0]
    assert any(later[day][1] < first[day][1] for day in first), "no row was taken back"


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("SELECT nonsense FROM customer", "UNRECOGNIZED_FIELD"),
        ("SELECT metrics.video_views FROM ad_group_ad", "UNRECOGNIZED_FIELD"),
        ("SELECT customer.id FROM nowhere", "BAD_RESOURCE_TYPE_IN_FROM_CLAUSE"),
        ("SELECT ad_group.id FROM campaign", "PROHIBITED_RESOURCE_TYPE_IN_SELECT_CLAUSE"),
        ("SELECT segments.date, metrics.clicks FROM customer", "MISALIGNED_DATE_FOR_FILTER"),
        ("give me everything", "UNEXPECTED_INPUT"),
    ],
)
def test_bad_queries_are_refused_in_the_vendors_words(
    sandbox: Sandbox, customer: dict[str, Any], query: str, name: str
) -> None:
    reply = ask(sandbox, customer, query)
    assert reply.status_code == 400
    assert failure(reply).errors[0].error_code.query_error.name == name


def failure(reply: Any) -> Any:
    """The GoogleAdsFailure of a refusal as the SDK reads it; an unknown error name raises."""
    from google.ads.googleads.v26.errors.types.errors import GoogleAdsFailure

    (wrapped,) = reply.json()
    (detail,) = wrapped["error"]["details"]
    assert detail.pop("@type") == "type.googleapis.com/google.ads.googleads.v26.errors.GoogleAdsFailure"
    found = GoogleAdsFailure.from_json(json.dumps(detail))
    assert found.request_id == reply.headers["request-id"]
    return found


def test_quota_errors_carry_the_details_of_the_contract(sandbox: Sandbox, customer: dict[str, Any]) -> None:
    query = "SELECT customer.id FROM customer"
    replies = [ask(sandbox, customer, query) for _ in range(30)]
    refused = next(reply for reply in replies if reply.status_code == 429)
    error = failure(refused).errors[0]
    assert error.error_code.quota_error.name == "RESOURCE_TEMPORARILY_EXHAUSTED"
    assert error.details.quota_error_details.rate_scope.name == "ACCOUNT"
    assert error.details.quota_error_details.retry_delay.total_seconds() >= 1


@pytest.mark.parametrize(
    ("changed", "status", "kind", "name"),
    [
        ({"Authorization": "Bearer ya29.wrong"}, 401, "authentication_error", "OAUTH_TOKEN_INVALID"),
        ({"developer-token": "wrong"}, 401, "authentication_error", "DEVELOPER_TOKEN_INVALID"),
        ({"developer-token": ""}, 400, "request_error", "DEVELOPER_TOKEN_PARAMETER_MISSING"),
        ({"login-customer-id": "1112223333"}, 403, "authorization_error", "USER_PERMISSION_DENIED"),
        ({"login-customer-id": "111-222"}, 400, "header_error", "INVALID_LOGIN_CUSTOMER_ID"),
    ],
)
def test_the_door_asks_for_all_three_keys(
    sandbox: Sandbox, customer: dict[str, Any], changed: dict[str, str], status: int, kind: str, name: str
) -> None:
    url = f"{sandbox.url}/google_ads/v26/customers/{customer['account_id']}/googleAds:searchStream"
    body = {"query": "SELECT customer.id FROM customer"}
    reply = requests.post(url, json=body, headers=headers(sandbox, customer) | changed, timeout=10)
    assert reply.status_code == status
    assert getattr(failure(reply).errors[0].error_code, kind).name == name


def test_search_pages_are_fixed_and_accessible_customers_are_listed(sandbox: Sandbox, customer: dict[str, Any]) -> None:
    refused = ask(sandbox, customer, "SELECT customer.id FROM customer", "search", pageSize=5)
    assert "PAGE_SIZE_NOT_SUPPORTED" in refused.text
    assert len(ask(sandbox, customer, "SELECT customer.id FROM customer", "search").json()["results"]) == 1
    url = f"{sandbox.url}/google_ads/v26/customers:listAccessibleCustomers"
    names = requests.get(url, headers=headers(sandbox, customer), timeout=10).json()["resourceNames"]
    manager = customer["credentials"]["login_customer_id"]
    assert names == [f"customers/{customer['account_id']}", f"customers/{manager}"]
    tree = ask(
        sandbox,
        {**customer, "account_id": manager},
        "SELECT customer_client.id, customer_client.manager, customer_client.level FROM customer_client",
    )
    clients = [row.customer_client for batch in messages(tree) for row in batch.results]
    assert [(client.manager, client.level) for client in clients] == [(True, 0)] + [(False, 1)] * 3


def test_clicks_of_search_ads_are_the_sessions_that_analytics_shows(sandbox: Sandbox, customer: dict[str, Any]) -> None:
    business = sandbox.state.business
    account = sandbox.account("GA4")
    day = NOW.date() - dt.timedelta(days=3)
    cells = business.visit_cells(account, day, sandbox.as_of(account))
    sessions = sum(cell.sessions for cell in cells if cell.source.channel_group == "Paid Search")
    query = f"SELECT metrics.clicks FROM customer WHERE segments.date BETWEEN '{day}' AND '{day}'"
    ((row,),) = [batch.results for batch in messages(ask(sandbox, customer, query))]
    assert sessions * 0.9 <= row.metrics.clicks <= sessions * 1.1
