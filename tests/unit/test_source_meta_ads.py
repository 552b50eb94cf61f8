from __future__ import annotations

import datetime as dt
import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from penstock.core.errors import UnreadableRecord
from penstock.sources.fields import KEY_SEPARATOR
from penstock.sources.meta_ads import SOURCE, report_page
from penstock.sources.stream import Account, Request, Slice

ZONE = ZoneInfo("Australia/Sydney")
ACCOUNT = Account("c0", "shop", "act_42", time_zone="Australia/Sydney", currency="AUD")


def days(first: str, end: str, **more: Any) -> Slice:
    start, stop = (dt.datetime.fromisoformat(day).replace(tzinfo=ZONE) for day in (first, end))
    return Slice(0, "insights_ad", start, stop, **more)


def insight(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "account_id": "42",
        "account_currency": "AUD",
        "campaign_id": "c1",
        "adset_id": "s1",
        "ad_id": "a1",
        "date_start": "2026-11-01",
        "date_stop": "2026-11-01",
        "spend": "12.34",
        "impressions": "1000",
        "clicks": "10",
    }
    return {**good, **changes}


def test_days_are_the_accounts_own_and_both_ends_are_asked_for_once() -> None:
    """A machine in UTC must not shift the day, and consecutive windows must not share one."""
    stream = SOURCE.stream("insights_ad")
    first = stream.request(ACCOUNT, days("2026-10-01", "2026-10-08"), None)
    second = stream.request(ACCOUNT, days("2026-10-08", "2026-10-15"), None)
    assert json.loads(first.params["time_range"]) == {"since": "2026-10-01", "until": "2026-10-07"}
    assert json.loads(second.params["time_range"]) == {"since": "2026-10-08", "until": "2026-10-14"}


def test_insights_are_asked_for_as_ads_manager_shows_them() -> None:
    request = SOURCE.stream("insights_ad").request(ACCOUNT, days("2026-10-01", "2026-10-08"), None)
    assert request.path == "act_42/insights"
    assert json.loads(request.params["action_breakdowns"]) == ["action_type"]
    assert request.params["use_unified_attribution_setting"] == "true"
    assert request.params["time_increment"] == "1"
    assert {"actions", "action_values", "spend", "account_currency"} <= set(request.params["fields"].split(","))


@pytest.mark.parametrize("level", ["campaign", "adset", "ad"])
def test_spend_of_archived_and_deleted_objects_is_asked_for(level: str) -> None:
    request = SOURCE.stream(f"insights_{level}").request(ACCOUNT, days("2026-10-01", "2026-10-08"), None)
    (condition,) = json.loads(request.params["filtering"])
    assert condition["field"] == f"{level}.effective_status"
    assert {"ARCHIVED", "DELETED", "ACTIVE", "PAUSED"} <= set(condition["value"])


@pytest.mark.parametrize("edge", ["campaigns", "adsets", "ads"])
def test_archived_and_deleted_objects_are_listed(edge: str) -> None:
    request = SOURCE.stream(edge).request(ACCOUNT, Slice(0, edge), None)
    assert {"ARCHIVED", "DELETED"} <= set(json.loads(request.params["effective_status"]))


def test_pages_follow_the_cursor_until_there_is_no_next_link() -> None:
    """The page size of 25 that the vendor falls back to kept 25 of 90 days in the old worker."""
    stream = SOURCE.stream("insights_ad")
    request = stream.request(ACCOUNT, days("2026-10-01", "2026-10-08"), None)
    assert request.params["limit"] == "250"
    body = {"data": [insight()], "paging": {"cursors": {"after": "A2"}, "next": "https://graph/?access_token=T"}}
    assert stream.parse(body, request).next_token == "A2"
    last = {"data": [insight()], "paging": {"cursors": {"after": "A3"}}}
    assert stream.parse(last, request).next_token is None
    assert stream.parse({"data": []}, request).next_token is None
    assert stream.request(ACCOUNT, days("2026-10-01", "2026-10-08"), "A2").params["after"] == "A2"


@pytest.mark.parametrize("cursors", [{}, {"cursors": {}}, {"cursors": {"after": ""}}, {"cursors": None}])
def test_a_next_page_without_a_cursor_is_a_mismatch_and_not_the_end(cursors: dict[str, Any]) -> None:
    """The rest would be missing without a word. The link holds the token: it is no part of the message."""
    body = {"data": [], "paging": {**cursors, "next": "https://graph.facebook.com/x?access_token=EAAverysecret"}}
    with pytest.raises(UnreadableRecord, match=r"paging\.next") as refused:
        SOURCE.stream("insights_ad").parse(body, Request("GET", "x"))
    assert refused.value.code == "SCHEMA_MISMATCH"
    assert "EAAverysecret" not in str(refused.value)


def test_the_next_link_with_its_token_never_becomes_part_of_a_page() -> None:
    stream = SOURCE.stream("insights_ad")
    link = "https://graph.facebook.com/x?access_token=EAAverysecret&after=A2"
    body = {"data": [], "paging": {"cursors": {"after": "A2"}, "next": link}}
    assert "EAAverysecret" not in repr(stream.parse(body, Request("GET", "x")))


@pytest.mark.parametrize("body", [None, [], "x", {}, {"data": {}}, {"data": None}])
def test_a_body_without_data_is_a_mismatch(body: Any) -> None:
    with pytest.raises(UnreadableRecord) as refused:
        SOURCE.stream("insights_ad").parse(body, Request("GET", "x"))
    assert refused.value.code == "SCHEMA_MISMATCH"


def test_keys_have_the_same_parts_at_every_level() -> None:
    row = SOURCE.stream("insights_ad").row(insight(), ACCOUNT)
    assert row.record_key.split(KEY_SEPARATOR) == ["2026-11-01", "42", "c1", "s1", "a1"]
    assert row.record_date == dt.date(2026, 11, 1)
    account_row = SOURCE.stream("insights_account").row(insight(), ACCOUNT)
    assert account_row.record_key.split(KEY_SEPARATOR) == ["2026-11-01", "42", "", "", ""]


def test_breakdown_rows_keep_apart_and_unknown_values_are_kept() -> None:
    stream = SOURCE.stream("insights_age_gender")
    keys = {
        stream.row(insight(age=age, gender=gender), ACCOUNT).record_key
        for age in ("18-24", "25-34", None)
        for gender in ("female", "male")
    }
    assert len(keys) == 6
    assert stream.row(insight(gender="male"), ACCOUNT).payload["age"] == "unknown"


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"account_id": "43"}, "SCHEMA_MISMATCH", "account_id should be 42"),
        ({"spend": None}, "MISSING_KEY", "spend"),
        ({"spend": "12,34"}, "WRONG_TYPE", '"12,34"'),
        ({"impressions": 10.5}, "WRONG_TYPE", "impressions"),
        ({"ad_id": None}, "MISSING_KEY", "ad_id"),
        ({"date_start": "2026-11-31"}, "WRONG_TYPE", "date_start"),
        ({"date_stop": "2026-11-02"}, "WRONG_TYPE", "date_stop"),
        ({"account_currency": "dollars"}, "WRONG_TYPE", "account_currency"),
        ({"action_values": [{"action_type": "purchase", "value": "lots"}]}, "WRONG_TYPE", "action_values"),
    ],
)
def test_records_that_sql_could_not_cast_are_refused_one_by_one(changes: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(UnreadableRecord) as refused:
        SOURCE.stream("insights_ad").row(insight(**changes), ACCOUNT)
    assert refused.value.code == code
    assert text in refused.value.message


def test_fractional_and_overlapping_purchases_are_kept_as_they_came() -> None:
    """Attribution gives fractions; which of the overlapping types counts is decided in SQL, from all of them."""
    types = ("omni_purchase", "purchase", "offsite_conversion.fb_pixel_purchase", "onsite_conversion.purchase")
    actions = [{"action_type": name, "value": "1.5"} for name in types]
    row = SOURCE.stream("insights_ad").row(insight(actions=actions, action_values=actions), ACCOUNT)
    assert [action["action_type"] for action in row.payload["actions"]] == list(types)
    assert {action["value"] for action in row.payload["action_values"]} == {"1.5"}


def test_totals_are_another_question_than_the_daily_rows() -> None:
    stream = SOURCE.stream("totals")
    request = stream.request(ACCOUNT, days("2026-10-01", "2026-10-31"), None)
    ranges = json.loads(request.params["time_ranges"])
    assert len(ranges) == 30
    assert ranges[0] == {"since": "2026-10-01", "until": "2026-10-01"}
    assert ranges[-1] == {"since": "2026-10-30", "until": "2026-10-30"}
    assert "time_increment" not in request.params
    assert stream.row(insight(), ACCOUNT).record_key == "2026-11-01"


def test_a_report_is_read_page_by_page_without_asking_the_question_again() -> None:
    request = report_page("777", days("2026-10-01", "2026-10-31", page_size=100), "A2")
    assert (request.path, dict(request.params)) == ("777/insights", {"limit": "100", "after": "A2"})


def test_long_windows_of_ads_go_through_reports_and_history_is_bounded() -> None:
    stream = SOURCE.stream("insights_ad")
    assert stream.is_async
    assert stream.slice_days is not None
    assert stream.slice_days > stream.sync_days
    assert stream.retention_days == 1123
    assert SOURCE.report_page is report_page


def test_the_profile_says_zone_currency_and_whether_the_account_can_be_read() -> None:
    body = {
        "account_id": "42",
        "name": "Acme",
        "currency": "AUD",
        "timezone_name": "Australia/Sydney",
        "account_status": 1,
    }
    good = SOURCE.profile(ACCOUNT, [body])
    assert (good.name, good.time_zone, good.currency, good.problem) == ("Acme", "Australia/Sydney", "AUD", None)
    assert SOURCE.profile(ACCOUNT, [{**body, "account_status": 2}]).problem == "META_ACCOUNT_DISABLED"
    with pytest.raises(UnreadableRecord):
        SOURCE.profile(ACCOUNT, [{**body, "currency": None}])
