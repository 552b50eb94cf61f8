from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from penstock.core.errors import PenstockError
from penstock.sources import ad_metrics, google_ads, meta_ads
from penstock.sources.ad_metrics import AdDay, by_platform
from penstock.sources.stream import Account, Slice

ACCOUNT = Account("c", "", "act_123", time_zone="Europe/Zurich")
CUSTOMER = Account("c", "", "123-456-7890", time_zone="Europe/Zurich")
ZURICH = ZoneInfo("Europe/Zurich")
WINDOW = Slice(0, "ad", dt.datetime(2026, 10, 24, tzinfo=ZURICH), dt.datetime(2026, 10, 27, tzinfo=ZURICH))
INSIGHT = {
    "account_id": "123",
    "ad_id": "7",
    "date_start": "2026-10-25",
    "date_stop": "2026-10-25",
    "impressions": "1000",
    "clicks": "10",
    "spend": "12.34",
    "reach": "800",
}
GOOGLE_ROW: dict[str, Any] = {
    "customer": {"id": "1234567890"},
    "adGroup": {"id": "5"},
    "adGroupAd": {"ad": {"id": "7"}},
    "segments": {"date": "2026-10-25"},
    "metrics": {"impressions": "1000", "clicks": "10", "costMicros": "12345678"},
}


def test_meta_is_asked_for_every_ad_by_day_with_its_id_page_by_page() -> None:
    """The old worker asked for neither `ad_id` nor days, and read one page."""
    stream = by_platform("META").stream
    request = stream.request(ACCOUNT, WINDOW, None)
    assert request.path == "act_123/insights"
    assert (request.params["level"], request.params["time_increment"]) == ("ad", "1")
    assert {"ad_id", "impressions", "clicks", "spend", "reach"} <= set(request.params["fields"].split(","))
    assert json.loads(request.params["time_range"]) == {"since": "2026-10-24", "until": "2026-10-26"}
    (statuses,) = json.loads(request.params["filtering"])
    assert {"DELETED", "ARCHIVED", "PAUSED", "ACTIVE"} <= set(statuses["value"])
    assert stream.request(ACCOUNT, WINDOW, "next").params["after"] == "next"
    body = {"data": [INSIGHT], "paging": {"cursors": {"after": "next"}, "next": "https://..."}}
    assert stream.parse(body, request).next_token == "next"


def test_both_concerns_have_the_same_limits_per_account() -> None:
    assert by_platform("META").source.limits is meta_ads.SOURCE.limits
    assert by_platform("META").stream.request(ACCOUNT, WINDOW, None).limit in meta_ads.LIMITS


def test_a_record_of_meta_becomes_an_ads_day() -> None:
    platform = by_platform("META")
    assert platform.measure(platform.stream.row(dict(INSIGHT), ACCOUNT)) == AdDay(
        "7", dt.date(2026, 10, 25), 1000, 10, Decimal("12.34"), 800
    )


def test_google_is_asked_for_every_ad_by_day_removed_ones_as_well() -> None:
    request = by_platform("GOOGLE_ADS").stream.request(CUSTOMER, WINDOW, None)
    assert request.path == "customers/1234567890/googleAds:searchStream"
    assert request.body is not None
    query = request.body["query"]
    assert "ad_group_ad.ad.id" in query
    assert query.endswith("FROM ad_group_ad WHERE segments.date BETWEEN '2026-10-24' AND '2026-10-26'")
    assert "status" not in query


def test_a_row_of_google_becomes_an_ads_day_and_zeros_may_be_left_out() -> None:
    platform = by_platform("GOOGLE_ADS")
    row = platform.stream.row(dict(GOOGLE_ROW), CUSTOMER)
    assert platform.measure(row) == AdDay("7", dt.date(2026, 10, 25), 1000, 10, Decimal("12.345678"))
    silent = platform.stream.row({**GOOGLE_ROW, "metrics": {}}, CUSTOMER)
    assert platform.measure(silent) == AdDay("7", dt.date(2026, 10, 25), 0, 0, Decimal(0))


@pytest.mark.parametrize(
    ("platform", "account", "record"),
    [
        ("META", ACCOUNT, {**INSIGHT, "ad_id": None}),
        ("META", ACCOUNT, {**INSIGHT, "spend": "much"}),
        ("META", ACCOUNT, {**INSIGHT, "date_stop": "2026-10-26"}),
        ("META", ACCOUNT, {**INSIGHT, "account_id": "124"}),
        ("GOOGLE_ADS", CUSTOMER, {**GOOGLE_ROW, "adGroupAd": {"ad": {}}}),
        ("GOOGLE_ADS", CUSTOMER, {**GOOGLE_ROW, "metrics": {"costMicros": {"x": 1}}}),
        ("GOOGLE_ADS", CUSTOMER, {**GOOGLE_ROW, "customer": {"id": "1"}}),
        ("GOOGLE_ADS", CUSTOMER, {**GOOGLE_ROW, "segments": {"date": "yesterday"}}),
    ],
)
def test_a_record_that_is_not_as_declared_is_refused(platform: str, account: Account, record: dict[str, Any]) -> None:
    with pytest.raises(PenstockError):
        by_platform(platform).stream.row(record, account)


def test_a_platform_without_ads_is_refused() -> None:
    with pytest.raises(PenstockError) as refused:
        by_platform("KLAVIYO")
    assert refused.value.code == "SOURCE_NOT_SUPPORTED"


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({}, None),
        ({"status": "ENABLED", "manager": False}, None),
        ({"status": "SUSPENDED"}, "GOOGLE_ADS_CUSTOMER_NOT_ENABLED"),
        ({"manager": True}, "GOOGLE_ADS_MANAGER_ACCOUNT"),
    ],
)
def test_a_customer_tells_its_zone_and_whether_it_can_be_read(facts: dict[str, Any], problem: str | None) -> None:
    customer = {"id": "1234567890", "currencyCode": "CHF", "timeZone": "Europe/Zurich", "descriptiveName": "Shop"}
    profile = google_ads.read_profile(CUSTOMER, [[{"results": [{"customer": customer | facts}]}]])
    assert (profile.name, profile.time_zone, profile.currency) == ("Shop", "Europe/Zurich", "CHF")
    assert profile.problem == problem


def test_a_stream_that_ends_with_an_error_is_not_taken_for_whole() -> None:
    broken = [{"results": [GOOGLE_ROW]}, {"error": {"code": 500, "message": "gone"}}]
    with pytest.raises(PenstockError) as refused:
        google_ads.rows_of(broken, google_ads.search_stream(CUSTOMER, "SELECT customer.id FROM customer"))
    assert refused.value.code == "RESPONSE_TRUNCATED"


def test_a_month_is_read_again() -> None:
    assert ad_metrics.SYNC_DAYS == 30
