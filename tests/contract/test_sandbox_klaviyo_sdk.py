"""The vendor's own SDK against the sandbox, unchanged: what klaviyo-api cannot work with is not Klaviyo."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from klaviyo_api import KlaviyoAPI
from openapi_client.api_arg_options import USE_DICTIONARY_FOR_RESPONSE_DATA
from openapi_client.exceptions import ApiException

from tests.sandbox_fixture import NOW, Sandbox

LAST_DAY = NOW.date() - dt.timedelta(days=1)
FIRST_DAY = LAST_DAY - dt.timedelta(days=6)


def client(sandbox: Sandbox, shop: str = "aurora", key: str | None = None) -> KlaviyoAPI:
    account = sandbox.account("KLAVIYO", shop)
    return KlaviyoAPI(
        key or account.credentials["api_key"],
        max_delay=1,
        max_retries=1,
        test_host=sandbox.base_url("klaviyo"),
        options={USE_DICTIONARY_FOR_RESPONSE_DATA: True},
    )


@pytest.fixture
def api(sandbox: Sandbox) -> KlaviyoAPI:
    return client(sandbox)


def cursor_of(body: dict[str, Any]) -> str | None:
    """The cursor in `links.next`; the SDK reads it out of https URLs only."""
    following = body["links"]["next"]
    return parse_qs(urlsplit(following).query)["page[cursor]"][0] if following else None


def metric(api: KlaviyoAPI, name: str) -> str:
    data = api.Metrics.get_metrics()["data"]
    return next(str(each["id"]) for each in data if each["attributes"]["name"] == name)


def window(metric_id: str, first: dt.date, last: dt.date, zone: dt.tzinfo) -> str:
    start = dt.datetime.combine(first, dt.time(), tzinfo=zone).isoformat()
    end = dt.datetime.combine(last + dt.timedelta(days=1), dt.time(), tzinfo=zone).isoformat()
    return f"equals(metric_id,'{metric_id}'),greater-or-equal(datetime,{start}),less-than(datetime,{end})"


def all_events(api: KlaviyoAPI, condition: str, size: int, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        body = api.Events.get_events(filter=condition, page_size=size, page_cursor=cursor, sort="datetime", **options)
        found += body["data"]
        cursor = cursor_of(body)
        if cursor is None:
            return found


def test_the_account_tells_zone_and_currency(api: KlaviyoAPI) -> None:
    attributes = api.Accounts.get_accounts()["data"][0]["attributes"]
    assert (attributes["timezone"], attributes["preferred_currency"]) == ("Europe/Zurich", "CHF")


def test_archived_campaigns_are_listed_only_when_asked_for_and_page_by_page(api: KlaviyoAPI) -> None:
    current = api.Campaigns.get_campaigns(filter="equals(messages.channel,'email')")["data"]
    assert current
    assert not any(each["attributes"]["archived"] for each in current)
    archived: list[dict[str, Any]] = []
    cursor: str | None = None
    pages = 0
    while pages == 0 or cursor:
        body = api.Campaigns.get_campaigns(
            filter="equals(messages.channel,'email'),equals(archived,true)", page_size=100, page_cursor=cursor
        )
        archived += body["data"]
        cursor = cursor_of(body)
        pages += 1
    assert pages > 1
    assert all(each["attributes"]["archived"] for each in archived)
    assert len({each["id"] for each in archived}) == len(archived)


def test_included_messages_belong_to_their_campaigns(api: KlaviyoAPI) -> None:
    body = api.Campaigns.get_campaigns(filter="equals(messages.channel,'sms')", include=["campaign-messages"])
    messages = {each["id"]: each["relationships"]["campaign"]["data"]["id"] for each in body["included"]}
    for campaign in body["data"]:
        for message in campaign["relationships"]["campaign-messages"]["data"]:
            assert messages[message["id"]] == campaign["id"]


def test_lists_and_segments_come_ten_at_a_time(api: KlaviyoAPI) -> None:
    for listing in (api.Lists.get_lists, api.Segments.get_segments):
        first = listing()
        second = listing(page_cursor=cursor_of(first))
        assert len(first["data"]) == 10
        assert 0 < len(second["data"]) < 10
        assert cursor_of(second) is None


def test_flows_are_listed_without_the_archived_ones(api: KlaviyoAPI) -> None:
    live = api.Flows.get_flows()["data"]
    archived = api.Flows.get_flows(filter="equals(archived,true)")["data"]
    assert len(live) == 5
    assert [each["attributes"]["archived"] for each in archived] == [True]


@pytest.mark.parametrize("size", [7, 100, 1000])
def test_events_read_in_pages_of_any_size_are_the_orders_of_the_days(sandbox: Sandbox, size: int) -> None:
    sandbox.state.ledger.reset()
    api, account = client(sandbox, "kiritimati"), sandbox.account("KLAVIYO", "kiritimati")
    condition = window(metric(api, "Placed Order"), LAST_DAY, LAST_DAY, account.shop.zone)
    found = all_events(api, condition, size)
    truth = sandbox.truth(account, LAST_DAY, LAST_DAY)[0]
    assert len(found) == truth["placed_orders"] == len({each["id"] for each in found})
    value = sum(Decimal(str(each["attributes"]["event_properties"]["$value"])) for each in found)
    assert value == Decimal(truth["placed_order_value"])
    times = [each["attributes"]["datetime"] for each in found]
    assert times == sorted(times)


def test_a_page_that_is_exactly_full_may_be_the_last(sandbox: Sandbox, api: KlaviyoAPI) -> None:
    zone = sandbox.account("KLAVIYO").shop.zone
    condition = window(metric(api, "Placed Order"), LAST_DAY, LAST_DAY, zone)
    total = len(all_events(api, condition, 1000))
    body = api.Events.get_events(filter=condition, page_size=total, sort="datetime")
    assert len(body["data"]) == total
    assert cursor_of(body) is None


def test_descending_order_is_ascending_order_reversed(sandbox: Sandbox, api: KlaviyoAPI) -> None:
    condition = window(metric(api, "Placed Order"), LAST_DAY, LAST_DAY, sandbox.account("KLAVIYO").shop.zone)
    ascending = [each["id"] for each in all_events(api, condition, 1000)]
    body = api.Events.get_events(filter=condition, page_size=1000, sort="-datetime")
    assert [each["id"] for each in body["data"]] == ascending[::-1]


def test_attributed_orders_name_their_message(sandbox: Sandbox, api: KlaviyoAPI) -> None:
    account = sandbox.account("KLAVIYO")
    condition = window(metric(api, "Placed Order"), LAST_DAY, LAST_DAY, account.shop.zone)
    body = api.Events.get_events(filter=condition, page_size=1000, include=["attributions"])
    assert len(body["included"]) == sandbox.truth(account, LAST_DAY, LAST_DAY)[0]["attributed_orders"]


def test_no_event_lies_in_the_future(api: KlaviyoAPI) -> None:
    newest = api.Events.get_events(page_size=1, sort="-datetime")["data"][0]["attributes"]["datetime"]
    assert dt.datetime.fromisoformat(newest) <= NOW


def aggregate(api: KlaviyoAPI, name: str, by: list[str], zone: str, first: dt.date, last: dt.date) -> dict[str, Any]:
    query = {
        "data": {
            "type": "metric-aggregate",
            "attributes": {
                "metric_id": metric(api, name),
                "measurements": ["count", "sum_value", "unique"],
                "interval": "day",
                "by": by,
                "timezone": zone,
                "filter": [
                    f"greater-or-equal(datetime,{first.isoformat()}T00:00:00)",
                    f"less-than(datetime,{(last + dt.timedelta(days=1)).isoformat()}T00:00:00)",
                ],
            },
        }
    }
    attributes: dict[str, Any] = api.Metrics.query_metric_aggregates(query)["data"]["attributes"]
    return attributes


def test_aggregates_are_the_truth_of_each_day_in_the_account_zone(sandbox: Sandbox, api: KlaviyoAPI) -> None:
    account = sandbox.account("KLAVIYO")
    found = aggregate(api, "Placed Order", [], account.shop.time_zone, FIRST_DAY, LAST_DAY)
    truth = sandbox.truth(account, FIRST_DAY, LAST_DAY)
    measurements = found["data"][0]["measurements"]
    assert measurements["count"] == [day["placed_orders"] for day in truth]
    assert [f"{value:.2f}" for value in measurements["sum_value"]] == [day["placed_order_value"] for day in truth]
    assert found["dates"][0] == f"{FIRST_DAY - dt.timedelta(days=1)}T23:00:00+00:00"


def test_attributed_and_unattributed_orders_add_up(sandbox: Sandbox, api: KlaviyoAPI) -> None:
    account = sandbox.account("KLAVIYO")
    found = aggregate(api, "Placed Order", ["$attributed_message"], account.shop.time_zone, LAST_DAY, LAST_DAY)
    by_message = {row["dimensions"][0]: row["measurements"]["count"][0] for row in found["data"]}
    truth = sandbox.truth(account, LAST_DAY, LAST_DAY)[0]
    assert sum(by_message.values()) == truth["placed_orders"]
    assert truth["placed_orders"] - by_message[""] == truth["attributed_orders"]


def test_hours_of_a_day_add_up_to_the_day_for_messages_too(sandbox: Sandbox, api: KlaviyoAPI) -> None:
    account = sandbox.account("KLAVIYO")
    day = aggregate(api, "Opened Email", ["$message"], account.shop.time_zone, LAST_DAY, LAST_DAY)
    total = sum(sum(row["measurements"]["count"]) for row in day["data"])
    # Cut in another zone, the same two days hold the whole of it.
    around = [LAST_DAY - dt.timedelta(days=1), LAST_DAY + dt.timedelta(days=1)]
    condition = window(metric(api, "Opened Email"), LAST_DAY, LAST_DAY, account.shop.zone)
    assert total == len(all_events(api, condition, 1000))
    elsewhere = aggregate(api, "Opened Email", [], "UTC", *around)
    assert sum(elsewhere["data"][0]["measurements"]["count"]) > total


def report(api: KlaviyoAPI, kind: str, first: dt.date, last: dt.date, **more: Any) -> dict[str, Any]:
    attributes = {
        "statistics": ["recipients", "delivered", "conversions", "conversion_value"],
        "timeframe": {"start": f"{first}T00:00:00+00:00", "end": f"{last}T00:00:00+00:00"},
        "conversion_metric_id": metric(api, "Placed Order"),
        **more,
    }
    body = {"data": {"type": kind, "attributes": attributes}}
    send = {
        "campaign-values-report": api.Reporting.query_campaign_values,
        "flow-series-report": api.Reporting.query_flow_series,
        "flow-values-report": api.Reporting.query_flow_values,
    }[kind]
    found: dict[str, Any] = send(body)["data"]["attributes"]
    return found


def test_flow_series_has_a_value_for_each_day_both_ends_included(api: KlaviyoAPI) -> None:
    found = report(api, "flow-series-report", FIRST_DAY, LAST_DAY, interval="daily")
    assert [text[:10] for text in found["date_times"]] == [
        (FIRST_DAY + dt.timedelta(days=number)).isoformat() for number in range(7)
    ]
    assert found["date_times"][0].endswith("T00:00:00+01:00")
    assert all(len(row["statistics"]["recipients"]) == 7 for row in found["results"])


def test_flow_values_are_the_sum_of_the_series(api: KlaviyoAPI) -> None:
    series = report(api, "flow-series-report", FIRST_DAY, LAST_DAY, interval="daily")["results"]
    values = report(api, "flow-values-report", FIRST_DAY, LAST_DAY)["results"]
    summed = {row["groupings"]["flow_message_id"]: sum(row["statistics"]["conversions"]) for row in series}
    assert {row["groupings"]["flow_message_id"]: row["statistics"]["conversions"] for row in values} == summed


def test_campaign_values_tell_campaigns_by_their_day_of_sending(sandbox: Sandbox, api: KlaviyoAPI) -> None:
    rows = report(api, "campaign-values-report", FIRST_DAY, LAST_DAY)["results"]
    shop = sandbox.account("KLAVIYO").shop
    sent = [
        each.campaign_id
        for each in sandbox.state.business.mail.campaigns(shop, NOW.date())
        if FIRST_DAY <= each.sent_on <= LAST_DAY and not each.is_cancelled
    ]
    assert [row["groupings"]["campaign_id"] for row in rows] == sent
    assert all(row["statistics"]["recipients"] > row["statistics"]["delivered"] > 0 for row in rows)


def test_profiles_come_in_the_order_in_which_they_were_made(api: KlaviyoAPI) -> None:
    since = f"{LAST_DAY - dt.timedelta(days=2)}T00:00:00+00:00"
    first = api.Profiles.get_profiles(filter=f"greater-than(updated,{since})", sort="updated", page_size=50)
    second = api.Profiles.get_profiles(
        filter=f"greater-than(updated,{since})", sort="updated", page_size=50, page_cursor=cursor_of(first)
    )
    times = [each["attributes"]["updated"] for each in first["data"] + second["data"]]
    assert len(first["data"]) == 50
    assert times == sorted(times)
    assert len({each["id"] for each in first["data"] + second["data"]}) == len(times)


def test_a_wrong_key_is_told_so(sandbox: Sandbox) -> None:
    with pytest.raises(ApiException) as refused:
        client(sandbox, key="pk_wrong").Lists.get_lists()
    assert refused.value.status == 401
    assert "authentication_failed" in str(refused.value)


def test_the_sdk_gets_over_the_burst_limit_by_the_retry_after_it_is_told(sandbox: Sandbox, api: KlaviyoAPI) -> None:
    for _ in range(2):
        assert api.Accounts.get_accounts()["data"]
    assert sandbox.answered("klaviyo", "accounts", 200) == 2
    assert sandbox.answered("klaviyo", "accounts", 429) >= 1


def test_the_steady_window_is_told_in_headers(api: KlaviyoAPI) -> None:
    headers = api.Lists.get_lists_with_http_info().headers
    assert headers["ratelimit-limit"] == "750"
    assert headers["ratelimit-remaining"] == "749"
