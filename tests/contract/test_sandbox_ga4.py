"""The sandbox's Google Analytics as Google's own clients, google-analytics-data and googleapiclient, see it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
import requests
from google.analytics.data_v1beta import BetaAnalyticsDataClient
from google.analytics.data_v1beta.types import (
    BatchRunReportsRequest,
    CheckCompatibilityRequest,
    DateRange,
    Dimension,
    Filter,
    FilterExpression,
    FilterExpressionList,
    Metric,
    MetricAggregation,
    NumericValue,
    OrderBy,
    RunReportRequest,
    RunReportResponse,
)
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import BadRequest, Forbidden, GoogleAPICallError, TooManyRequests
from google.auth.transport.requests import Request
from google.oauth2 import service_account
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError

from sandbox import settings
from sandbox.ga4_query import read_report
from sandbox.ga4_quota import Quota
from tests.sandbox_fixture import Sandbox

READ = "https://www.googleapis.com/auth/analytics.readonly"
WEEK = DateRange(start_date="2026-11-05", end_date="2026-11-11")
TRAFFIC = ("sessionDefaultChannelGroup", "sessionSource", "sessionMedium", "sessionCampaignName")
ADDITIVE = (
    "sessions",
    "engagedSessions",
    "newUsers",
    "keyEvents",
    "ecommercePurchases",
    "purchaseRevenue",
    "totalRevenue",
    "addToCarts",
    "checkouts",
    "screenPageViews",
)

Numbers = dict[tuple[str, ...], tuple[str, ...]]


class ServiceAccount(service_account.Credentials):
    """google-auth's own, except that it asks no other Google host where the account may be used from."""

    def _is_regional_access_boundary_lookup_required(self) -> bool:
        return False


class Ga4:
    """Both clients, pointed at one property of the sandbox."""

    def __init__(self, sandbox: Sandbox, shop: str = "aurora", scope: str = READ) -> None:
        self.account = sandbox.account("GA4", shop)
        info = sandbox.state.tokens.service_account(sandbox.token_url)
        self.credentials = ServiceAccount.from_service_account_info(info, scopes=[scope])
        self.url = sandbox.base_url("ga4")
        self.property = f"properties/{self.account.account_id}"
        self.client = BetaAnalyticsDataClient(
            transport="rest", credentials=self.credentials, client_options=ClientOptions(api_endpoint=self.url)
        )

    def report(
        self, dimensions: tuple[str, ...] = (), metrics: tuple[str, ...] = ("sessions",), **more: Any
    ) -> RunReportResponse:
        return self.client.run_report(self.request(dimensions, metrics, **more), retry=None)

    def request(self, dimensions: tuple[str, ...], metrics: tuple[str, ...], **more: Any) -> RunReportRequest:
        more.setdefault("date_ranges", [WEEK])
        return RunReportRequest(
            property=self.property,
            dimensions=[Dimension(name=name) for name in dimensions],
            metrics=[Metric(name=name) for name in metrics],
            **more,
        )

    def session(self) -> requests.Session:
        self.credentials.refresh(Request())
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {self.credentials.token}"
        return session

    def post(self, method: str, body: Any) -> requests.Response:
        """A call without any client."""
        with self.session() as session:
            return session.post(f"{self.url}/v1beta/{self.property}:{method}", json=body, timeout=20)


@pytest.fixture
def ga4(sandbox: Sandbox) -> Iterator[Ga4]:
    made = Ga4(sandbox)
    yield made
    made.client.transport.close()


def numbers(response: RunReportResponse) -> Numbers:
    """Metric values by dimension values."""
    return {
        tuple(value.value for value in row.dimension_values): tuple(value.value for value in row.metric_values)
        for row in response.rows
    }


def totals(response: RunReportResponse) -> tuple[Decimal, ...]:
    columns = zip(*(row.metric_values for row in response.rows), strict=True)
    return tuple(sum((Decimal(value.value) for value in column), Decimal()) for column in columns)


def set_switch(sandbox: Sandbox, ga4: Ga4, **switches: Any) -> None:
    settings.change(sandbox.state, "ga4", ga4.account.account_id, switches)


def names(*values: str) -> list[dict[str, str]]:
    return [{"name": value} for value in values]


BODY: dict[str, Any] = {
    "dateRanges": [{"startDate": "2026-11-05", "endDate": "2026-11-11"}],
    "dimensions": names("date"),
    "metrics": names("sessions"),
}


# -- reports -----------------------------------------------------------------------------------------------------


def test_a_daily_report_is_the_business_day_by_day(sandbox: Sandbox, ga4: Ga4) -> None:
    found = numbers(ga4.report(("date",), ("sessions", "ecommercePurchases", "purchaseRevenue")))

    assert len(found) == 7
    for (date,), (sessions, purchases, revenue) in found.items():
        day = dt.datetime.strptime(date, "%Y%m%d").replace(tzinfo=dt.UTC).date()
        known = sandbox.state.business.shop_day(ga4.account.shop, day, sandbox.as_of(ga4.account))
        assert (int(sessions), int(purchases)) == (known.sessions, known.transactions)
        assert Decimal(revenue) == Decimal(known.transaction_cents) / 100


@pytest.mark.parametrize(
    "dimensions",
    [
        ("date",),
        TRAFFIC,
        ("date", *TRAFFIC),
        ("landingPage", "sessionDefaultChannelGroup"),
        ("deviceCategory", "browser", "operatingSystem"),
        ("country", "region"),
        ("date", *TRAFFIC, "landingPage", "deviceCategory", "browser", "country"),
    ],
)
def test_every_report_sums_to_the_property(ga4: Ga4, dimensions: tuple[str, ...]) -> None:
    whole = totals(ga4.report((), ADDITIVE))

    assert whole[0] > 1000
    assert totals(ga4.report(dimensions, ADDITIVE)) == whole


def test_events_sum_to_the_property(ga4: Ga4) -> None:
    metrics = ("eventCount", "eventValue", "keyEvents", "ecommercePurchases", "screenPageViews", "newUsers")
    by_event = ga4.report(("eventName",), metrics)

    assert totals(by_event) == totals(ga4.report((), metrics))
    found = {key[0]: values for key, values in numbers(by_event).items()}
    assert {"session_start", "page_view", "first_visit", "add_to_cart", "begin_checkout", "purchase"} <= set(found)
    assert found["purchase"][0] == found["purchase"][2] == found["purchase"][3]
    assert found["page_view"][1] == "0"


def test_costs_of_search_ads_stand_with_their_source(ga4: Ga4) -> None:
    found = numbers(ga4.report(("sessionSource", "sessionMedium"), ("advertiserAdCost", "advertiserAdClicks")))

    assert set(found) == {("google", "cpc")}
    assert totals(ga4.report((), ("advertiserAdCost",)))[0] == Decimal(found[("google", "cpc")][0]) > 100


def test_users_do_not_add_up(ga4: Ga4) -> None:
    daily, whole = totals(ga4.report(("date",), ("totalUsers", "activeUsers"))), totals(ga4.report((), ("totalUsers",)))

    assert whole[0] < daily[0]
    assert daily[1] < daily[0]


def test_headers_repeat_the_asked_names_and_tell_types(ga4: Ga4) -> None:
    response = ga4.report(("sessionDefaultChannelGrouping",), ("conversions", "purchaseRevenue", "sessions"))
    today = ga4.report(("sessionDefaultChannelGroup",), ("keyEvents", "purchaseRevenue", "sessions"))

    assert [header.name for header in response.dimension_headers] == ["sessionDefaultChannelGrouping"]
    assert [(header.name, header.type_.name) for header in response.metric_headers] == [
        ("conversions", "TYPE_FLOAT"),
        ("purchaseRevenue", "TYPE_CURRENCY"),
        ("sessions", "TYPE_INTEGER"),
    ]
    assert numbers(response) == numbers(today)
    assert response.kind == "analyticsData#runReport"
    assert (response.metadata.time_zone, response.metadata.currency_code) == ("Europe/Zurich", "CHF")


def test_several_date_ranges_add_a_dimension_at_the_end(ga4: Ga4) -> None:
    ranges = [
        DateRange(start_date="2026-11-05", end_date="2026-11-05"),
        DateRange(start_date="2026-11-06", end_date="2026-11-06", name="second"),
    ]
    response = ga4.report(("deviceCategory",), date_ranges=ranges)
    daily = numbers(ga4.report(("date",)))

    assert [header.name for header in response.dimension_headers] == ["deviceCategory", "dateRange"]
    by_range: dict[str, int] = {}
    for (_, name), (sessions,) in numbers(response).items():
        by_range[name] = by_range.get(name, 0) + int(sessions)
    assert by_range == {"date_range_0": int(daily[("20261105",)][0]), "second": int(daily[("20261106",)][0])}


def test_relative_dates_are_those_of_the_property(sandbox: Sandbox) -> None:
    # 12:00 UTC is the next day in Kiritimati (UTC+14).
    sandbox.now(dt.datetime(2026, 11, 18, 12, 0, tzinfo=dt.UTC))
    ranges = [DateRange(start_date="2daysAgo", end_date="yesterday")]
    found = {
        shop: sorted(numbers(Ga4(sandbox, shop).report(("date",), date_ranges=ranges)))
        for shop in ("aurora", "kiritimati")
    }

    assert found == {
        "aurora": [("20261116",), ("20261117",)],
        "kiritimati": [("20261117",), ("20261118",)],
    }


def test_the_last_days_are_restated(sandbox: Sandbox, ga4: Ga4) -> None:
    yesterday = [DateRange(start_date="2026-11-17", end_date="2026-11-17")]
    first, again = (totals(ga4.report((), ADDITIVE, date_ranges=yesterday)) for _ in range(2))
    sandbox.now(dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC))
    later = totals(ga4.report((), ADDITIVE, date_ranges=yesterday))

    assert first == again
    assert later[0] > first[0]
    assert later[5] > first[5]


def test_days_without_data_have_no_rows_and_no_row_count(ga4: Ga4) -> None:
    body = ga4.post("runReport", {**BODY, "dateRanges": [{"startDate": "2023-01-01", "endDate": "2023-01-31"}]}).json()

    assert "rows" not in body
    assert "rowCount" not in body
    assert body["dimensionHeaders"] == names("date")


def test_order_filter_and_totals(ga4: Ga4) -> None:
    channel = "sessionDefaultChannelGroup"
    response = ga4.report(
        (channel,),
        ("sessions", "totalUsers"),
        order_bys=[OrderBy(dimension=OrderBy.DimensionOrderBy(dimension_name=channel), desc=True)],
        dimension_filter=FilterExpression(
            or_group=FilterExpressionList(
                expressions=[
                    FilterExpression(
                        filter=Filter(
                            field_name=channel,
                            string_filter=Filter.StringFilter(
                                value="paid", match_type=Filter.StringFilter.MatchType.BEGINS_WITH
                            ),
                        )
                    ),
                    FilterExpression(
                        filter=Filter(field_name="sessionMedium", in_list_filter=Filter.InListFilter(values=["email"]))
                    ),
                ]
            )
        ),
        metric_aggregations=[MetricAggregation.TOTAL],
    )

    assert [row.dimension_values[0].value for row in response.rows] == ["Paid Social", "Paid Search", "Email"]
    assert [value.value for value in response.totals[0].dimension_values] == ["RESERVED_TOTAL"]
    summed = totals(response)
    assert Decimal(response.totals[0].metric_values[0].value) == summed[0]
    assert Decimal(response.totals[0].metric_values[1].value) < summed[1]


def test_rows_are_ordered_by_metric_and_filtered_by_number(ga4: Ga4) -> None:
    response = ga4.report(
        ("sessionSource",),
        order_bys=[OrderBy(metric=OrderBy.MetricOrderBy(metric_name="sessions"))],
        metric_filter=FilterExpression(
            filter=Filter(
                field_name="sessions",
                numeric_filter=Filter.NumericFilter(
                    operation=Filter.NumericFilter.Operation.GREATER_THAN, value=NumericValue(int64_value=2000)
                ),
            )
        ),
    )
    sessions = [int(row.metric_values[0].value) for row in response.rows]

    assert sessions == sorted(sessions)
    assert min(sessions) > 2000


def test_money_is_converted_when_another_currency_is_asked(ga4: Ga4) -> None:
    own = ga4.report((), ("purchaseRevenue", "sessions"))
    dollars = ga4.report((), ("purchaseRevenue", "sessions"), currency_code="USD")

    assert dollars.metadata.currency_code == "USD"
    assert totals(dollars)[0] == pytest.approx(totals(own)[0] * Decimal("1.13"))
    assert totals(dollars)[1] == totals(own)[1]


def test_a_batch_answers_up_to_five_reports(ga4: Ga4) -> None:
    def batch(count: int) -> Any:
        requests_ = [ga4.request((), ("sessions",)) for _ in range(count)]
        return ga4.client.batch_run_reports(
            BatchRunReportsRequest(property=ga4.property, requests=requests_), retry=None
        )

    assert [totals(each) for each in batch(5).reports] == [totals(ga4.report())] * 5
    with pytest.raises(BadRequest, match="1 to 5 requests"):
        batch(6)


# -- paging ------------------------------------------------------------------------------------------------------


def test_offset_and_limit_page_to_the_row_count(ga4: Ga4) -> None:
    dimensions = ("date", *TRAFFIC, "landingPage")
    whole = ga4.report(dimensions)
    pages = [ga4.report(dimensions, limit=50, offset=offset) for offset in range(0, whole.row_count, 50)]

    assert whole.row_count == len(whole.rows) > 100
    assert [row for page in pages for row in page.rows] == list(whole.rows)
    assert {page.row_count for page in pages} == {whole.row_count}
    assert len(ga4.report(dimensions, offset=whole.row_count).rows) == 0


def test_a_page_holds_10000_rows_unless_asked(sandbox: Sandbox, ga4: Ga4) -> None:
    set_switch(sandbox, ga4, extra_rows=12_000)
    day = {"dateRanges": [{"startDate": "2026-11-05", "endDate": "2026-11-05"}], "metrics": names("sessions")}
    request = {**day, "dimensions": names("landingPage")}
    first = ga4.post("runReport", request).json()
    rest = ga4.post("runReport", {**request, "offset": "10000"}).json()

    assert len(first["rows"]) == 10_000
    assert len(first["rows"]) + len(rest["rows"]) == first["rowCount"] > 12_000
    assert "offset" not in rest
    in_all = sum(int(row["metricValues"][0]["value"]) for row in (*first["rows"], *rest["rows"]))
    assert in_all == int(ga4.post("runReport", day).json()["rows"][0]["metricValues"][0]["value"])


def test_no_page_holds_more_than_250000_rows() -> None:
    today = dt.date(2026, 11, 18)

    assert read_report({**BODY, "limit": "300000"}, today).limit == 250_000
    assert read_report(BODY, today).limit == 10_000


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dimensions": names("dates")}, "Field dates is not a valid dimension"),
        ({"metrics": names("visits")}, "Field visits is not a valid metric"),
        ({"dimensions": names(*["date"] * 10)}, "limited to 9 dimensions"),
        ({"metrics": names(*["sessions"] * 11)}, "limited to 10 metrics"),
        ({"dateRanges": BODY["dateRanges"] * 5}, "limited to 4 dateRanges"),
        ({"dateRanges": []}, "dateRange is required"),
        ({"dateRanges": [{"startDate": "2026-11-05", "endDate": "2026-11-01"}]}, "cannot be after endDate"),
        ({"dateRanges": [{"startDate": "20261105", "endDate": "5.11.2026"}]}, "YYYY-MM-DD"),
        ({"limit": "many"}, "Invalid value at 'limit'"),
        ({"offset": -1}, "must not be negative"),
        ({"pageSize": 10}, 'Unknown name "pageSize"'),
        ({"dimensions": names("browser"), "metrics": names("advertiserAdCost")}, "Please remove browser"),
        ({"orderBys": [{"metric": {"metricName": "newUsers"}}]}, "not one of the request's metrics"),
        ({"dimensionFilter": {"filter": {"fieldName": "colour"}}}, "Field colour is not a valid dimension"),
    ],
)
def test_a_wrong_request_is_an_invalid_argument(ga4: Ga4, change: dict[str, Any], words: str) -> None:
    answer = ga4.post("runReport", {**BODY, **change})
    error = answer.json()["error"]

    assert (answer.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert words in error["message"]


def test_a_body_that_is_not_json_is_refused(ga4: Ga4) -> None:
    with ga4.session() as session:
        answer = session.post(f"{ga4.url}/v1beta/{ga4.property}:runReport", data=b"{", timeout=20)

    assert answer.status_code == 400
    assert "Invalid JSON payload" in answer.json()["error"]["message"]


def test_calls_without_a_good_token_are_unauthenticated(ga4: Ga4) -> None:
    url = f"{ga4.url}/v1beta/{ga4.property}:runReport"
    for headers in ({}, {"Authorization": "Bearer ya29.nonsense"}, {"Authorization": "Basic dXNlcjpwYXNz"}):
        answer = requests.post(url, json=BODY, headers=headers, timeout=20)
        assert answer.status_code == 401
        assert answer.json()["error"]["status"] == "UNAUTHENTICATED"


def test_a_token_for_something_else_is_not_enough(sandbox: Sandbox) -> None:
    with pytest.raises(Forbidden, match="insufficient authentication scopes"):
        Ga4(sandbox, scope="https://www.googleapis.com/auth/cloud-platform").report()


def test_unknown_properties_and_old_view_ids_are_told_apart(ga4: Ga4) -> None:
    ga4.property = "properties/999"
    with pytest.raises(Forbidden, match="sufficient permissions for this property"):
        ga4.report()
    ga4.property = "properties/UA-12345-1"
    with pytest.raises(BadRequest, match="Property IDs are numeric"):
        ga4.report()


def test_an_api_that_is_off_says_where_to_switch_it_on(sandbox: Sandbox, ga4: Ga4) -> None:
    set_switch(sandbox, ga4, is_api_disabled=True)
    answer = ga4.post("runReport", BODY)

    assert answer.status_code == 403
    assert answer.json()["error"]["details"][0]["reason"] == "SERVICE_DISABLED"


# -- quotas ------------------------------------------------------------------------------------------------------


def test_the_property_quota_comes_when_asked(ga4: Ga4) -> None:
    silent, first, second = ga4.report(), ga4.report(return_property_quota=True), ga4.report(return_property_quota=True)

    assert not silent.property_quota
    quota = first.property_quota
    assert quota.tokens_per_day.consumed >= 1
    assert (
        second.property_quota.tokens_per_day.remaining == quota.tokens_per_day.remaining - quota.tokens_per_day.consumed
    )
    assert 39_900 < quota.tokens_per_hour.remaining < 40_000
    assert 13_900 < quota.tokens_per_project_per_hour.remaining < 14_000
    assert quota.concurrent_requests.remaining == 9
    assert quota.server_errors_per_project_per_hour.remaining == 10
    assert quota.potentially_thresholded_requests_per_hour.remaining == 120


@pytest.mark.parametrize(
    ("switch", "words"),
    [
        ("tokens_per_day", "property tokens per day"),
        ("tokens_per_hour", "property tokens per hour"),
        ("tokens_per_project_per_hour", "property tokens for a project per hour"),
    ],
)
def test_a_used_up_quota_is_429_until_its_time_comes(sandbox: Sandbox, ga4: Ga4, switch: str, words: str) -> None:
    set_switch(sandbox, ga4, **{switch: 2})
    ga4.report()
    ga4.report()
    with pytest.raises(TooManyRequests, match=words):
        ga4.report()
    assert Ga4(sandbox, "borealis").report().row_count == 1
    # Half past twelve in California: the hour ends in 30 minutes, the day in half a day.
    sandbox.now(dt.datetime(2026, 11, 18, 21, 1, tzinfo=dt.UTC))
    if switch == "tokens_per_day":
        with pytest.raises(TooManyRequests):
            ga4.report()
        sandbox.now(dt.datetime(2026, 11, 19, 8, 1, tzinfo=dt.UTC))
    assert ga4.report().row_count == 1


def test_requests_at_the_same_time_are_limited(sandbox: Sandbox, ga4: Ga4) -> None:
    set_switch(sandbox, ga4, concurrent_requests=1)
    running = Quota(sandbox.state, ga4.account.account_id)
    running.enter()
    with pytest.raises(TooManyRequests, match="Exhausted concurrent requests quota"):
        ga4.report()
    assert Ga4(sandbox, "borealis").report().row_count == 1
    running.leave()
    assert [ga4.report().row_count for _ in range(3)] == [1, 1, 1]


def test_server_errors_use_up_a_budget_of_their_own(sandbox: Sandbox, ga4: Ga4) -> None:
    set_switch(sandbox, ga4, server_errors_per_hour=3)
    sandbox.faults({"vendor": "ga4", "action": "status", "times": 3, "params": {"status": 500}})
    answers = [ga4.post("runReport", BODY) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [500, 500, 500, 429]
    assert answers[0].json()["error"]["status"] == "INTERNAL"
    assert "server errors quota" in answers[3].json()["error"]["message"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"status": 429}, "concurrent requests quota"),
        ({"status": 429, "quota": "tokensPerDay"}, "tokens per day"),
        ({"status": 429, "quota": "potentiallyThresholdedRequestsPerHour"}, "potentially thresholded requests quota"),
        ({"status": 503}, "currently unavailable"),
        ({"status": 403}, "sufficient permissions"),
    ],
)
def test_a_fault_has_googles_own_words(sandbox: Sandbox, ga4: Ga4, params: dict[str, Any], words: str) -> None:
    sandbox.faults({"vendor": "ga4", "account": ga4.account.account_id, "action": "status", "params": params})
    with pytest.raises(GoogleAPICallError, match=words):
        ga4.report()


def test_an_expired_token_is_401(sandbox: Sandbox, ga4: Ga4) -> None:
    sandbox.faults({"vendor": "ga4", "action": "expired_token", "times": 1})

    assert ga4.post("runReport", BODY).status_code == 401
    assert ga4.post("runReport", BODY).status_code == 200


# -- quality of the data -----------------------------------------------------------------------------------------


def test_rows_beyond_the_limit_fall_into_the_other_row(sandbox: Sandbox, ga4: Ga4) -> None:
    clean = ga4.report(("date", "sessionCampaignName"), ADDITIVE)
    set_switch(sandbox, ga4, other_row_after=3)
    response = ga4.report(("date", "sessionCampaignName"), ADDITIVE)

    assert response.metadata.data_loss_from_other_row
    assert not clean.metadata.data_loss_from_other_row
    assert [row.dimension_values[1].value for row in response.rows].count("(other)") == 7
    assert response.row_count == 28
    assert totals(response) == totals(clean)
    assert not ga4.report(("date",)).metadata.data_loss_from_other_row


def test_rows_of_few_people_are_withheld(sandbox: Sandbox, ga4: Ga4) -> None:
    clean = ga4.report(("date", "sessionCampaignName"), ("sessions", "totalUsers"))
    set_switch(sandbox, ga4, withholds_below=60)
    response = ga4.report(("date", "sessionCampaignName"), ("sessions", "totalUsers"))

    assert response.metadata.subject_to_thresholding
    assert 0 < response.row_count < clean.row_count
    assert min(int(row.metric_values[1].value) for row in response.rows) >= 60
    quota = ga4.report(return_property_quota=True).property_quota
    assert quota.potentially_thresholded_requests_per_hour.remaining == 118


def test_hidden_metrics_read_as_zero_and_are_named(sandbox: Sandbox, ga4: Ga4) -> None:
    set_switch(sandbox, ga4, restricted=["REVENUE_DATA"])
    response = ga4.report(("date",), ("sessions", "purchaseRevenue"))
    restrictions = response.metadata.schema_restriction_response.active_metric_restrictions

    assert totals(response)[1] == 0
    assert totals(response)[0] > 0
    assert [each.metric_name for each in restrictions] == ["purchaseRevenue"]
    assert ga4.client.get_metadata(name=f"{ga4.property}/metadata").metrics[-6].blocked_reasons


@pytest.mark.parametrize("way", ["settings", "fault"])
def test_other_flags_can_be_switched_on(sandbox: Sandbox, ga4: Ga4, way: str) -> None:
    flags = {
        "samplingMetadatas": [{"samplesReadCount": "500000", "samplingSpaceSize": "1000000"}],
        "emptyReason": "NO_DATA",
    }
    if way == "settings":
        set_switch(sandbox, ga4, metadata=flags)
    else:
        sandbox.faults({"vendor": "ga4", "action": "metadata", "params": flags})
    metadata = ga4.report().metadata

    assert metadata.sampling_metadatas[0].sampling_space_size == 1_000_000
    assert metadata.empty_reason == "NO_DATA"


def test_spoiled_rows_are_extra_ones(sandbox: Sandbox, ga4: Ga4) -> None:
    request = {**BODY, "dimensions": names("date", "deviceCategory")}
    clean = ga4.post("runReport", request).json()
    sandbox.faults(
        *({"vendor": "ga4", "path": ":runReport$", "action": action} for action in ("missing_id", "wrong_type")),
        {"vendor": "ga4", "path": ":runReport$", "action": "nul_character"},
    )
    spoiled = ga4.post("runReport", request).json()

    assert spoiled["rows"][: clean["rowCount"]] == clean["rows"]
    assert spoiled["rowCount"] == clean["rowCount"] + 3
    missing, wrong, nul = spoiled["rows"][clean["rowCount"] :]
    assert len(missing["dimensionValues"]) == 1
    assert wrong["metricValues"] == [{"value": {"unexpected": "object"}}]
    assert "\x00" in nul["dimensionValues"][1]["value"]


# -- metadata, compatibility, the Admin API ----------------------------------------------------------------------


def test_metadata_lists_every_field_with_its_former_names(ga4: Ga4) -> None:
    metadata = ga4.client.get_metadata(name=f"{ga4.property}/metadata")
    former = {name: each.api_name for each in metadata.metrics for name in each.deprecated_api_names}
    renamed = {name: each.api_name for each in metadata.dimensions for name in each.deprecated_api_names}

    assert {"date", *TRAFFIC, "landingPage", "eventName"} <= {each.api_name for each in metadata.dimensions}
    assert set(ADDITIVE) <= {each.api_name for each in metadata.metrics}
    assert former["conversions"] == "keyEvents"
    assert renamed["sessionDefaultChannelGrouping"] == "sessionDefaultChannelGroup"


def test_check_compatibility_sorts_fields(ga4: Ga4) -> None:
    request = CheckCompatibilityRequest(property=ga4.property, metrics=[Metric(name="advertiserAdCost")])
    response = ga4.client.check_compatibility(request)
    words = {each.dimension_metadata.api_name: each.compatibility.name for each in response.dimension_compatibilities}

    assert words["sessionSource"] == "COMPATIBLE"
    assert words["browser"] == "INCOMPATIBLE"
    request.compatibility_filter = "INCOMPATIBLE"
    only = ga4.client.check_compatibility(request)
    assert {each.compatibility.name for each in only.dimension_compatibilities} == {"INCOMPATIBLE"}


@pytest.mark.parametrize("prefix", ["", "admin/"])
def test_the_admin_api_tells_zone_and_currency(sandbox: Sandbox, prefix: str) -> None:
    ga4 = Ga4(sandbox, "kiritimati")
    with ga4.session() as session:
        told = session.get(f"{ga4.url}/{prefix}v1beta/{ga4.property}", timeout=20).json()

    assert (told["timeZone"], told["currencyCode"]) == ("Pacific/Kiritimati", "AUD")
    assert told["name"] == ga4.property


# -- googleapiclient ---------------------------------------------------------------------------------------------


def discovered(ga4: Ga4, name: str = "analyticsdata", root: str = "") -> Any:
    return build(
        name,
        "v1beta",
        credentials=ga4.credentials,
        static_discovery=True,
        client_options={"api_endpoint": f"{ga4.url}/{root}"},
    )


def test_googleapiclient_reads_reports_and_metadata(ga4: Ga4) -> None:
    with discovered(ga4) as service:
        report = service.properties().runReport(property=ga4.property, body=BODY).execute()
        batch = service.properties().batchRunReports(property=ga4.property, body={"requests": [BODY]}).execute()
        metadata = service.properties().getMetadata(name=f"{ga4.property}/metadata").execute()

    assert report["rowCount"] == 7
    assert batch["reports"][0]["rows"] == report["rows"]
    assert metadata["name"] == f"{ga4.property}/metadata"


def test_googleapiclient_sees_errors_and_the_admin_api(ga4: Ga4) -> None:
    with discovered(ga4) as service, pytest.raises(HttpError) as caught:
        service.properties().runReport(property=ga4.property, body={**BODY, "metrics": names("hits")}).execute()
    assert caught.value.status_code == 400
    assert json.loads(caught.value.content)["error"]["status"] == "INVALID_ARGUMENT"

    with discovered(ga4, "analyticsadmin", "admin/") as service:
        assert service.properties().get(name=ga4.property).execute()["currencyCode"] == "CHF"


def test_the_ledger_tells_endpoints_apart(sandbox: Sandbox, ga4: Ga4) -> None:
    calls: tuple[Callable[[], Any], ...] = (ga4.report, lambda: ga4.post("batchRunReports", {"requests": [BODY]}))
    for call in calls:
        call()

    assert sandbox.answered("ga4", "runReport", 200) == 1
    assert sandbox.answered("ga4", "batchRunReports", 200) == 1
