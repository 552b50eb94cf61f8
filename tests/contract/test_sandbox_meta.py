"""The sandbox's Graph API as the vendor's own SDK, facebook-business, sees it."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import requests
from facebook_business.adobjects.adaccount import AdAccount
from facebook_business.adobjects.adreportrun import AdReportRun
from facebook_business.adobjects.adset import AdSet
from facebook_business.adobjects.user import User
from facebook_business.api import FacebookAdsApi
from facebook_business.exceptions import FacebookRequestError
from facebook_business.session import FacebookSession

from sandbox import settings
from tests.sandbox_fixture import Sandbox

NOW = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)
WEEK = {"since": "2026-11-08", "until": "2026-11-14"}
FIELDS = ["spend", "impressions", "clicks", "actions", "action_values"]
pytestmark = [
    # The SDK warns of fields and values that it does not know; here the server is to refuse them.
    pytest.mark.filterwarnings("ignore:.*does not allow field.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:value of .* might not be compatible.*:UserWarning"),
]
ALL_STATUSES = ["ACTIVE", "PAUSED", "ARCHIVED", "DELETED", "CAMPAIGN_PAUSED"]


@pytest.fixture(autouse=True)
def _on_a_sunday(sandbox: Sandbox) -> None:
    sandbox.now(NOW)


class Sdk:
    """The SDK, pointed at one account of the sandbox."""

    def __init__(self, sandbox: Sandbox, shop: str = "borealis", version: str = "v26.0", **session: Any) -> None:
        self.account = sandbox.account("META", shop)
        credentials = self.account.credentials
        session.setdefault("access_token", credentials["access_token"])
        self.session = FacebookSession(timeout=20, **session)
        self.session.GRAPH = f"{sandbox.url}/meta"
        self.api = FacebookAdsApi(self.session, api_version=version)
        self.ad_account = AdAccount(f"act_{self.account.account_id}", api=self.api)

    def insights(self, fields: list[str] = FIELDS, **params: Any) -> list[dict[str, Any]]:
        params.setdefault("time_range", WEEK)
        params.setdefault("limit", 500)
        return [dict(row) for row in self.ad_account.get_insights(fields=fields, params=params)]

    def get(self, path: str, **params: Any) -> requests.Response:
        """A call without the SDK's object layer."""
        values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in params.items()}
        values.setdefault("access_token", self.account.credentials["access_token"])
        return requests.get(f"{self.session.GRAPH}/v26.0/{path}", params=values, timeout=20)

    @property
    def node(self) -> str:
        return f"act_{self.account.account_id}"


@pytest.fixture
def sdk(sandbox: Sandbox) -> Iterator[Sdk]:
    made = Sdk(sandbox)
    yield made
    made.session.requests.close()


def spend(rows: list[dict[str, Any]]) -> Decimal:
    return sum((Decimal(row["spend"]) for row in rows), Decimal())


def impressions(rows: list[dict[str, Any]]) -> int:
    return sum(int(row["impressions"]) for row in rows)


def purchases(row: dict[str, Any], action_type: str, name: str = "actions") -> Decimal:
    return sum((Decimal(each["value"]) for each in row.get(name, ()) if each["action_type"] == action_type), Decimal())


def refusal(call: Any) -> FacebookRequestError:
    with pytest.raises(FacebookRequestError) as caught:
        call()
    return caught.value


# -- insights ----------------------------------------------------------------------------------------------------


def test_account_rows_are_the_business_day_by_day(sandbox: Sandbox, sdk: Sdk) -> None:
    rows = sdk.insights(time_increment=1)

    account = sandbox.account("META", "borealis")
    assert [row["date_start"] for row in rows] == [f"2026-11-{day:02d}" for day in range(8, 15)]
    for row in rows:
        day = dt.date.fromisoformat(row["date_start"])
        known = sandbox.state.business.shop_day(account.shop, day, sandbox.state.as_of(account))
        assert Decimal(row["spend"]) == Decimal(known.spend_cents) / 100
        assert int(row["impressions"]) == known.impressions
        assert int(row["clicks"]) == known.clicks
        assert purchases(row, "omni_purchase") == known.purchases
        assert purchases(row, "omni_purchase", "action_values") == Decimal(known.purchase_cents) / 100


def test_ads_miss_what_was_delivered_without_an_ad(sandbox: Sandbox, sdk: Sdk) -> None:
    by_level = {level: sdk.insights(level=level, time_increment=1) for level in ("account", "campaign", "adset", "ad")}

    account = sandbox.account("META", "borealis")
    as_of = sandbox.state.as_of(account)
    days = [dt.date(2026, 11, day) for day in range(8, 15)]
    missing = sum(sandbox.state.business.shop_day(account.shop, day, as_of).adless_spend_cents for day in days)
    assert missing > 0
    assert spend(by_level["campaign"]) == spend(by_level["adset"]) == spend(by_level["account"])
    assert spend(by_level["ad"]) == spend(by_level["account"]) - Decimal(missing) / 100


@pytest.mark.parametrize(
    "breakdowns",
    [
        ["age", "gender"],
        ["country"],
        ["region"],
        ["publisher_platform"],
        ["publisher_platform", "platform_position"],
        ["hourly_stats_aggregated_by_advertiser_time_zone"],
    ],
)
def test_breakdown_rows_sum_to_the_account(sdk: Sdk, breakdowns: list[str]) -> None:
    whole = sdk.insights(time_increment=1)
    parts = sdk.insights(time_increment=1, breakdowns=breakdowns)

    assert len(parts) > len(whole)
    assert all(set(breakdowns) <= set(row) for row in parts)
    assert (spend(parts), impressions(parts)) == (spend(whole), impressions(whole))
    for action_type, name in (
        ("omni_purchase", "actions"),
        ("omni_purchase", "action_values"),
        ("link_click", "actions"),
    ):
        total = sum(purchases(row, action_type, name) for row in whole)
        assert sum(purchases(row, action_type, name) for row in parts) == total


def test_numbers_are_strings_and_purchase_types_overlap(sdk: Sdk) -> None:
    row = sdk.insights(["spend", "reach", "ctr", "actions", "action_values"])[0]

    assert all(isinstance(row[name], str) for name in ("spend", "reach", "ctr"))
    everything = purchases(row, "omni_purchase")
    parts = [purchases(row, name) for name in ("offsite_conversion.fb_pixel_purchase", "onsite_conversion.purchase")]
    assert everything == purchases(row, "purchase") == sum(parts)
    assert all(part > 0 for part in parts)


def test_attribution_windows_stand_beside_the_value(sdk: Sdk) -> None:
    row = sdk.insights(action_attribution_windows=["1d_click", "7d_click", "1d_view"])[0]

    entry = next(each for each in row["actions"] if each["action_type"] == "omni_purchase")
    assert Decimal(entry["7d_click"]) + Decimal(entry["1d_view"]) == Decimal(entry["value"])
    assert Decimal(entry["1d_click"]) < Decimal(entry["7d_click"])


def test_action_breakdowns_without_the_type_count_overlapping_types_twice(sdk: Sdk) -> None:
    by_device = sdk.insights(action_breakdowns=["action_device"])[0]["actions"]
    by_both = sdk.insights(action_breakdowns=["action_type", "action_device"])[0]["actions"]
    by_type = sdk.insights()[0]["actions"]

    assert "action_type" not in by_device[0]
    assert sum(int(each["value"]) for each in by_device) == sum(int(each["value"]) for each in by_type)
    bought = [int(each["value"]) for each in by_both if each["action_type"] == "omni_purchase"]
    assert len(bought) == 3
    assert sum(bought) == next(int(each["value"]) for each in by_type if each["action_type"] == "omni_purchase")


def test_windows_of_several_days_months_and_free_ranges_cover_the_same_days(sdk: Sdk) -> None:
    span = {"since": "2026-10-20", "until": "2026-11-14"}
    daily = sdk.insights(time_range=span, time_increment=1)
    ways = {
        "weekly": sdk.insights(time_range=span, time_increment=7),
        "monthly": sdk.insights(time_range=span, time_increment="monthly"),
        "whole": sdk.insights(time_range=span),
        "ranges": sdk.insights(time_ranges=[{"since": row["date_start"], "until": row["date_start"]} for row in daily]),
    }

    assert {name: len(rows) for name, rows in ways.items()} == {"weekly": 4, "monthly": 2, "whole": 1, "ranges": 26}
    assert [row["date_start"] for row in ways["monthly"]] == ["2026-10-20", "2026-11-01"]
    assert ways["weekly"][-1]["date_stop"] == "2026-11-14"
    assert all(spend(rows) == spend(daily) for rows in ways.values())


def test_reach_does_not_add_up(sdk: Sdk) -> None:
    daily = sdk.insights(["reach", "impressions", "frequency"], time_increment=1)
    whole = sdk.insights(["reach", "impressions", "frequency"])[0]

    assert max(int(row["reach"]) for row in daily) < int(whole["reach"]) < sum(int(row["reach"]) for row in daily)
    assert Decimal(whole["frequency"]) > 1


def test_days_without_delivery_have_no_row(sandbox: Sandbox) -> None:
    rows = Sdk(sandbox, "kiritimati").insights(
        time_increment=1, time_range={"since": "2026-11-01", "until": "2026-11-15"}
    )

    assert len(rows) == 12


def test_the_sdks_cursor_reads_every_page_once(sdk: Sdk) -> None:
    fields = ["ad_id", "spend"]
    in_one = sdk.insights(fields, level="ad", time_increment=1)
    in_pages = sdk.insights(fields, level="ad", time_increment=1, limit=7)

    assert len(in_one) > 50
    assert in_pages == in_one


def test_pages_hold_25_rows_unless_asked_and_the_next_link_carries_the_token(sdk: Sdk) -> None:
    body = sdk.get(f"{sdk.node}/insights", level="ad", time_increment="1", time_range=WEEK, fields="ad_id").json()

    assert len(body["data"]) == 25
    following = requests.get(body["paging"]["next"], timeout=20).json()
    assert sdk.account.credentials["access_token"] in body["paging"]["next"]
    assert following["data"][0] != body["data"][0]


def test_filtering_takes_objects_and_numbers(sdk: Sdk) -> None:
    rows = sdk.insights(["ad_id", "campaign_id", "impressions", "spend"], level="ad")
    campaign = rows[0]["campaign_id"]
    only = sdk.insights(
        ["ad_id", "campaign_id"],
        level="ad",
        filtering=[{"field": "campaign.id", "operator": "IN", "value": [campaign]}],
    )
    most = max(int(row["impressions"]) for row in rows)
    large = sdk.insights(
        ["ad_id"], level="ad", filtering=[{"field": "impressions", "operator": "GREATER_THAN", "value": most - 1}]
    )

    assert {row["campaign_id"] for row in only} == {campaign}
    assert len(only) == sum(row["campaign_id"] == campaign for row in rows)
    assert len(large) == 1


def test_sorting_follows_a_field(sdk: Sdk) -> None:
    spent = [Decimal(row["spend"]) for row in sdk.insights(["spend"], level="ad", sort=["spend_descending"])]

    assert spent == sorted(spent, reverse=True)


def test_late_purchases_are_restated_and_the_same_day_tells_the_same(sandbox: Sandbox, sdk: Sdk) -> None:
    params = {"time_increment": 1, "time_range": {"since": "2026-11-20", "until": "2026-11-20"}}
    first, again = sdk.insights(**params)[0], sdk.insights(**params)[0]
    sandbox.now(NOW + dt.timedelta(days=10))
    later = sdk.insights(**params)[0]

    assert first == again
    assert purchases(later, "omni_purchase") > purchases(first, "omni_purchase")
    assert Decimal(later["spend"]) > Decimal(first["spend"])


# -- what is refused ---------------------------------------------------------------------------------------------


def test_an_unknown_field_is_named(sdk: Sdk) -> None:
    error = refusal(lambda: sdk.insights(["spend", "spent_money", "age"]))

    assert (error.http_status(), error.api_error_code()) == (400, 100)
    assert "spent_money, age are not valid for fields param" in error.api_error_message()
    assert error.body()["error"]["fbtrace_id"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"level": "creative"}, "level must be one of"),
        ({"time_increment": 91}, "time_increment"),
        ({"time_increment": "weekly"}, "time_increment"),
        ({"breakdowns": ["dma"]}, "breakdowns[0] must be one of"),
        ({"breakdowns": ["age", "country"]}, "Current combination of data breakdown columns"),
        ({"action_attribution_windows": ["28d_view"]}, "action_attribution_windows[0] must be one of"),
        ({"time_range": {"since": "2026-11-10", "until": "2026-11-01"}}, "before the end date"),
        ({"time_range": {"since": "2026-11-10"}}, "non-empty"),
        ({"time_range": {"since": "10.11.2026", "until": "2026-11-12"}}, "YYYY-MM-DD"),
        ({"filtering": [{"field": "spend", "operator": "LIKE", "value": 1}]}, "filtering[0][operator]"),
        ({"filtering": [{"field": "spend", "operator": "GREATER_THAN", "value": "much"}]}, "must be a number"),
        ({"limit": 0}, "limit"),
        ({"after": "%%%"}, "cursor"),
    ],
)
def test_a_wrong_parameter_is_refused_with_100(sdk: Sdk, params: dict[str, Any], words: str) -> None:
    asked = {"time_range": WEEK, **params}
    answer = sdk.get(
        f"{sdk.node}/insights", **{k: v if isinstance(v, str) else json.dumps(v) for k, v in asked.items()}
    )

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == 100
    assert words in answer.json()["error"]["message"]


def test_history_ends_37_months_ago_in_the_accounts_own_zone(sandbox: Sandbox) -> None:
    # 12:00 UTC on the 22nd is the 23rd in Kiritimati (UTC+14) and still the 22nd in Los Angeles.
    params = {"time_range": {"since": "2023-10-22", "until": "2023-10-24"}}
    error = refusal(lambda: Sdk(sandbox, "kiritimati").insights(**params))

    assert error.api_error_code() == 3018
    assert "beyond 37 months" in error.api_error_message()
    assert Sdk(sandbox, "borealis").insights(**params) == []


def test_too_much_data_is_a_500_with_code_1_until_the_call_is_smaller(sandbox: Sandbox, sdk: Sdk) -> None:
    settings.change(sandbox.state, "meta", sdk.account.account_id, {"data_threshold": 600})
    error = refusal(lambda: sdk.insights(["spend", "ad_id"], level="ad", time_increment=1))

    assert (error.http_status(), error.api_error_code()) == (500, 1)
    assert "reduce the amount of data" in error.api_error_message()
    assert len(sdk.insights(["spend", "ad_id"], level="ad", time_increment=1, limit=40)) > 80


def test_one_forbidden_field_refuses_the_whole_account(sdk: Sdk) -> None:
    error = refusal(lambda: sdk.ad_account.api_get(fields=["name", "currency", "owner"]))

    assert error.api_error_code() == 10
    assert "'owner'" in error.api_error_message()
    node = sdk.ad_account.api_get(fields=["name", "currency", "timezone_name", "account_status"])
    assert (node["currency"], node["timezone_name"], node["account_status"]) == ("USD", "America/Los_Angeles", 1)


@pytest.mark.parametrize(
    ("token", "status", "code"), [("wrong", 400, 190), ("", 400, 104)], ids=["malformed", "missing"]
)
def test_a_bad_token_is_refused(sdk: Sdk, token: str, status: int, code: int) -> None:
    answer = sdk.get(sdk.node, access_token=token)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "OAuth" in answer.headers["www-authenticate"]


def test_an_expired_token_is_190_463(sandbox: Sandbox, sdk: Sdk) -> None:
    sandbox.faults({"vendor": "meta", "account": sdk.account.account_id, "action": "expired_token"})
    error = refusal(sdk.insights)

    assert (error.http_status(), error.api_error_code(), error.api_error_subcode()) == (401, 190, 463)
    assert len(Sdk(sandbox, "aurora").insights()) == 1


def test_the_token_is_taken_from_query_form_or_header(sdk: Sdk) -> None:
    url = f"{sdk.session.GRAPH}/v26.0/{sdk.node}"
    token = sdk.account.credentials["access_token"]
    by_header = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=20)
    by_form = requests.post(url, data={"access_token": token, "method": "get"}, timeout=20)

    assert by_header.json() == by_form.json() == sdk.get(sdk.node).json()
    assert by_header.json()["account_id"] == sdk.account.account_id


def test_another_accounts_token_has_no_permission(sandbox: Sandbox, sdk: Sdk) -> None:
    other = sandbox.account("META", "aurora")
    foreign = sdk.get(f"act_{other.account_id}")
    unknown = sdk.get("act_12345")

    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, 200)
    assert (unknown.json()["error"]["code"], unknown.json()["error"]["error_subcode"]) == (100, 33)


def test_the_app_secret_proof_must_fit(sandbox: Sandbox, sdk: Sdk) -> None:
    credentials = sdk.account.credentials
    good = Sdk(sandbox, app_id=credentials["app_id"], app_secret=credentials["app_secret"])
    bad = Sdk(sandbox, app_id=credentials["app_id"], app_secret="another")

    assert len(good.insights()) == 1
    error = refusal(bad.insights)
    assert error.api_error_code() == 100
    assert "Invalid appsecret_proof" in error.api_error_message()
    settings.change(sandbox.state, "meta", None, {"requires_proof": True})
    assert "require an appsecret_proof" in refusal(sdk.insights).api_error_message()
    proof = hmac.new(
        credentials["app_secret"].encode(), credentials["access_token"].encode(), hashlib.sha256
    ).hexdigest()
    assert sdk.get(sdk.node, appsecret_proof=proof).status_code == 200


@pytest.mark.parametrize("version", ["v18.0", "v24.0"])
def test_versions_that_are_over_say_so(sandbox: Sandbox, version: str) -> None:
    error = refusal(Sdk(sandbox, version=version).insights)

    assert error.api_error_code() == 2635
    assert "v26.0" in error.api_error_message()


def test_the_version_before_still_answers(sandbox: Sandbox) -> None:
    assert len(Sdk(sandbox, version="v25.0").insights()) == 1


# -- objects -----------------------------------------------------------------------------------------------------


def test_me_adaccounts_lists_the_accounts_of_the_token(sdk: Sdk) -> None:
    fields = ["account_id", "name", "currency", "timezone_name", "account_status"]
    found = list(User("me", api=sdk.api).get_ad_accounts(fields=fields))

    assert [each["account_id"] for each in found] == [sdk.account.account_id]
    assert found[0]["id"] == sdk.node


def test_archived_and_deleted_objects_are_left_out_unless_asked_for(sdk: Sdk) -> None:
    shown = list(sdk.ad_account.get_campaigns(fields=["id", "effective_status"], params={"limit": 100}))
    everything = list(
        sdk.ad_account.get_campaigns(
            fields=["id", "effective_status"],
            params={"limit": 100, "effective_status": ["ACTIVE", "PAUSED", "ARCHIVED", "DELETED"]},
        )
    )

    hidden = {each["effective_status"] for each in everything} - {each["effective_status"] for each in shown}
    assert {"ARCHIVED", "DELETED"} & hidden == hidden != set()
    assert {each["id"] for each in shown} < {each["id"] for each in everything}


def test_insights_of_ads_belong_to_listed_ads(sdk: Sdk) -> None:
    listed = sdk.ad_account.get_ads(
        fields=["id", "adset_id", "campaign_id", "creative{id,name}"],
        params={"limit": 500, "effective_status": [*ALL_STATUSES, "ADSET_PAUSED"]},
    )
    ads = {ad["id"]: ad for ad in listed}

    for row in sdk.insights(["ad_id", "adset_id", "campaign_id"], level="ad"):
        assert ads[row["ad_id"]]["adset_id"] == row["adset_id"]
        assert ads[row["ad_id"]]["campaign_id"] == row["campaign_id"]
    assert set(next(iter(ads.values()))["creative"]) == {"id", "name"}


def test_an_edge_pages_and_refuses_unknown_fields_and_states(sdk: Sdk) -> None:
    statuses = {"effective_status": ALL_STATUSES}
    in_one = [each["id"] for each in sdk.ad_account.get_ad_sets(fields=["id"], params={**statuses, "limit": 500})]
    in_pages = [each["id"] for each in sdk.ad_account.get_ad_sets(fields=["id"], params={**statuses, "limit": 4})]

    assert in_pages == in_one
    assert len(set(in_one)) == len(in_one) > 10
    error = sdk.get(f"{sdk.node}/adsets", fields="id,colour").json()["error"]
    assert "nonexisting field (colour) on node type (AdSet)" in error["message"]
    error = sdk.get(f"{sdk.node}/adsets", effective_status=["ADSET_PAUSED"]).json()["error"]
    assert "effective_status[0] must be one of" in error["message"]


def test_an_object_is_a_node_with_insights_of_its_own(sdk: Sdk) -> None:
    row = sdk.insights(["adset_id", "spend"], level="adset")[0]
    node = AdSet(row["adset_id"], api=sdk.api).api_get(fields=["name", "campaign_id"])
    own = AdSet(row["adset_id"], api=sdk.api).get_insights(fields=["spend"], params={"time_range": WEEK})

    assert node["name"]
    assert own[0]["spend"] == row["spend"]


def test_debug_token_knows_good_tokens(sdk: Sdk) -> None:
    good = sdk.get("debug_token", input_token=sdk.account.credentials["access_token"]).json()["data"]
    bad = sdk.get("debug_token", input_token="nonsense").json()["data"]

    assert good["is_valid"]
    assert "ads_read" in good["scopes"]
    assert not bad["is_valid"]
    assert bad["error"]["code"] == 190


# -- report jobs -------------------------------------------------------------------------------------------------


def start_report(sdk: Sdk, **params: Any) -> AdReportRun:
    run = sdk.ad_account.get_insights_async(
        fields=["ad_id", "spend"], params={"level": "ad", "time_increment": 1, "time_range": WEEK, **params}
    )
    return AdReportRun(run["report_run_id"], api=sdk.api)


def test_a_report_job_runs_completes_and_holds_the_same_rows(sandbox: Sandbox, sdk: Sdk) -> None:
    settings.change(sandbox.state, "meta", None, {"report_polls": 2})
    run = start_report(sdk)
    early = refusal(lambda: list(run.get_insights()))
    seen = [(state["async_status"], state["async_percent_completion"]) for state in (run.api_get() for _ in range(3))]

    assert (early.api_error_code(), early.api_error_subcode()) == (2601, 1815107)
    assert [status for status, _ in seen] == ["Job Not Started", "Job Running", "Job Completed"]
    assert seen[-1][1] == 100
    rows = [dict(row) for row in run.get_insights(params={"limit": 9})]
    assert rows == sdk.insights(["ad_id", "spend"], level="ad", time_increment=1)


@pytest.mark.parametrize("status", ["Job Failed", "Job Skipped"])
def test_a_failed_job_tells_why(sandbox: Sandbox, sdk: Sdk, status: str) -> None:
    fault = {"vendor": "meta", "path": "/insights$", "method": "POST", "times": 1}
    sandbox.faults({**fault, "action": "report_fails", "params": {"status": status, "error_subcode": 1815107}})
    run = start_report(sdk)
    run.api_get()
    state = run.api_get(
        fields=["async_status", "async_percent_completion", "error_code", "error_subcode", "error_user_msg"]
    )

    assert state["async_status"] == status
    assert (state["error_code"], state["error_subcode"]) == (-2, 1815107)
    assert state["error_user_msg"]
    again = start_report(sdk)
    again.api_get()
    assert again.api_get()["async_status"] == "Job Completed"


def test_a_hanging_job_never_completes(sandbox: Sandbox, sdk: Sdk) -> None:
    sandbox.faults({"vendor": "meta", "method": "POST", "action": "report_hangs"})
    run = start_report(sdk)
    states = [run.api_get() for _ in range(8)]

    assert {state["async_status"] for state in states} == {"Job Running"}
    assert max(state["async_percent_completion"] for state in states) < 100


def test_a_job_may_be_unknown_right_after_it_was_made(sandbox: Sandbox, sdk: Sdk) -> None:
    params = {"status": 400, "code": 100, "subcode": 33}
    sandbox.faults({"vendor": "meta", "path": r"/v26.0/\d+/?$", "action": "status", "times": 1, "params": params})
    run = start_report(sdk)
    error = refusal(run.api_get)

    assert (error.api_error_code(), error.api_error_subcode()) == (100, 33)
    assert run.api_get()["async_status"] == "Job Running"


def test_the_ledger_tells_endpoints_apart(sandbox: Sandbox, sdk: Sdk) -> None:
    sdk.ad_account.api_get(fields=["name"])
    start_report(sdk).api_get()
    sdk.insights()
    answers = sandbox.state.ledger.calls()["answers"]

    assert {row["endpoint"]: row["count"] for row in answers} == {"account": 1, "insights": 2, "node": 1}
    assert {row["account"] for row in answers} == {sdk.account.account_id}


def test_a_job_of_another_account_is_unknown(sandbox: Sandbox, sdk: Sdk) -> None:
    run = start_report(sdk)
    stranger = AdReportRun(run["id"], api=Sdk(sandbox, "aurora").api)

    assert refusal(stranger.api_get).api_error_subcode() == 33


# -- batches -----------------------------------------------------------------------------------------------------


def test_each_part_of_a_batch_has_its_own_status_and_headers(sdk: Sdk) -> None:
    batch = sdk.api.new_batch()
    succeeded: list[Any] = []
    failed: list[Any] = []
    sdk.ad_account.api_get(fields=["name"], batch=batch, success=succeeded.append, failure=failed.append)
    sdk.ad_account.get_insights(
        fields=["spend"], params={"time_range": WEEK}, batch=batch, success=succeeded.append, failure=failed.append
    )
    sdk.ad_account.api_get(fields=["owner"], batch=batch, success=succeeded.append, failure=failed.append)
    assert batch.execute() is None

    assert [answer.status() for answer in (*succeeded, *failed)] == [200, 200, 403]
    assert succeeded[1].json()["data"][0]["spend"]
    assert "x-business-use-case-usage" in [header["name"] for header in succeeded[1].headers()]
    assert failed[0].json()["error"]["code"] == 10


def test_a_batch_holds_50_calls(sdk: Sdk) -> None:
    def post(count: int) -> requests.Response:
        parts = [{"method": "GET", "relative_url": sdk.node}] * count
        token = {"access_token": sdk.account.credentials["access_token"]}
        return requests.post(f"{sdk.session.GRAPH}/v26.0/", params=token, data={"batch": json.dumps(parts)}, timeout=20)

    assert [part["code"] for part in post(50).json()] == [200] * 50
    assert "Too many requests in batch" in post(51).json()["error"]["message"]


# -- limits ------------------------------------------------------------------------------------------------------


def test_usage_headers_tell_business_account_app_and_insights_load(sdk: Sdk) -> None:
    headers = sdk.get(f"{sdk.node}/insights", time_range=WEEK).headers
    [(business, uses)] = json.loads(headers["x-business-use-case-usage"]).items()

    assert business.isdigit()
    assert uses[0]["type"] == "ads_insights"
    assert uses[0]["estimated_time_to_regain_access"] == 0
    assert set(json.loads(headers["x-app-usage"])) == {"call_count", "total_time", "total_cputime"}
    assert "acc_id_util_pct" in json.loads(headers["x-ad-account-usage"])
    assert "acc_id_util_pct" in json.loads(headers["x-fb-ads-insights-throttle"])
    assert "x-fb-ads-insights-throttle" not in sdk.get(sdk.node).headers


@pytest.mark.parametrize(("code", "subcode"), [(17, 2446079), (80000, 2446079), (80004, 2446079), (613, 1487742)])
def test_calls_over_the_hard_limit_are_refused_and_counted(sandbox: Sandbox, sdk: Sdk, code: int, subcode: int) -> None:
    limit = {"request_limit": 5, "request_period": 3600, "request_limit_code": code}
    settings.change(sandbox.state, "meta", sdk.account.account_id, limit)
    answers = [sdk.get(f"{sdk.node}/insights", time_range=WEEK) for _ in range(8)]

    assert [answer.status_code for answer in answers] == [200] * 5 + [400] * 3
    error = answers[-1].json()["error"]
    assert error["error_subcode"] == subcode
    assert error["code"] == (80000 if code == 80004 else code)
    [uses] = json.loads(answers[-1].headers["x-business-use-case-usage"]).values()
    assert uses[0]["call_count"] == 100
    assert 50 <= uses[0]["estimated_time_to_regain_access"] <= 60
    [row] = [row for row in sandbox.state.ledger.calls()["limits"] if row["family"] == "requests"]
    assert (row["most_granted"], row["most_in_window"], row["rejected"]) == (5, 8, 3)
    assert Sdk(sandbox, "aurora").get(f"act_{sandbox.account('META', 'aurora').account_id}").status_code == 200


def test_switches_are_set_over_http_and_reset_with_the_sandbox(sandbox: Sandbox, sdk: Sdk) -> None:
    def put(change: dict[str, Any]) -> int:
        return requests.put(f"{sandbox.url}/sandbox/settings", json=change, timeout=20).status_code

    limit = {"vendor": "meta", "account": sdk.account.account_id, "settings": {"request_limit": 1}}
    assert put(limit) == 200
    assert [sdk.get(sdk.node).status_code for _ in range(2)] == [200, 400]
    assert put({"vendor": "meta", "settings": {"request_limits": 1}}) == 400
    assert put({"vendor": "myspace", "settings": {}}) == 400
    sandbox.state.reset()
    assert [sdk.get(sdk.node).status_code for _ in range(2)] == [200, 200]


def test_a_fault_may_carry_any_code(sandbox: Sandbox, sdk: Sdk) -> None:
    expected = {
        4: (400, 4, 1504022),
        2: (503, 2, None),
        1: (500, 1, 99),
        80014: (400, 80014, 2446079),
    }
    for code, (status, told, subcode) in expected.items():
        sandbox.faults({"vendor": "meta", "action": "status", "times": 1, "params": {"code": code}})
        answer = sdk.get(sdk.node)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error.get("error_subcode")) == (status, told, subcode)


def test_plain_http_failures_have_graphs_own_body(sandbox: Sandbox, sdk: Sdk) -> None:
    for status, code in ((500, 1), (502, 2), (503, 2), (429, 4), (401, 190), (403, 10)):
        sandbox.faults({"vendor": "meta", "action": "status", "times": 1, "params": {"status": status}})
        answer = sdk.get(sdk.node)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


# -- pages and records that go wrong -----------------------------------------------------------------------------


def test_too_much_data_on_demand_depends_on_limit_or_days(sandbox: Sandbox, sdk: Sdk) -> None:
    sandbox.faults({"vendor": "meta", "action": "too_much_data", "params": {"above_limit": 50, "above_days": 7}})
    status = [
        sdk.get(f"{sdk.node}/insights", limit="51", time_range=WEEK).status_code,
        sdk.get(f"{sdk.node}/insights", limit="50", time_range=WEEK).status_code,
        sdk.get(f"{sdk.node}/insights", limit="50", time_range={**WEEK, "until": "2026-11-15"}).status_code,
        sdk.get(sdk.node).status_code,
    ]

    assert status == [500, 200, 500, 200]


def read_pages(sdk: Sdk, most: int = 6) -> list[dict[str, Any]]:
    pages: list[dict[str, Any]] = []
    params: dict[str, Any] = {"fields": "ad_id", "level": "ad", "time_range": WEEK, "limit": "9"}
    while len(pages) < most:
        pages.append(sdk.get(f"{sdk.node}/insights", **params).json())
        if "next" not in pages[-1]["paging"]:
            break
        params["after"] = pages[-1]["paging"]["cursors"]["after"]
    return pages


def test_a_cursor_may_repeat_for_ever(sandbox: Sandbox, sdk: Sdk) -> None:
    sandbox.faults({"vendor": "meta", "path": "/insights$", "action": "repeat_cursor"})
    pages = read_pages(sdk)

    assert len(pages) == 6
    assert len({page["paging"]["cursors"]["after"] for page in pages[1:]}) == 1


def test_a_page_may_come_twice(sandbox: Sandbox, sdk: Sdk) -> None:
    clean = read_pages(sdk)
    sandbox.faults({"vendor": "meta", "path": "/insights$", "action": "duplicate_page", "times": 1, "after": 1})
    pages = read_pages(sdk)

    assert [page["data"] for page in pages] == [
        clean[0]["data"],
        clean[1]["data"],
        *(page["data"] for page in clean[1:]),
    ][: len(pages)]
    tokens = [page["paging"]["cursors"]["after"] for page in pages]
    assert len(set(tokens)) == len(tokens)


def test_spoiled_records_are_extra_ones(sandbox: Sandbox, sdk: Sdk) -> None:
    clean = sdk.get(f"{sdk.node}/campaigns", fields="id,name,updated_time").json()["data"]
    sandbox.faults(
        {"vendor": "meta", "path": "/campaigns$", "action": "missing_id"},
        {"vendor": "meta", "path": "/campaigns$", "action": "nul_character"},
        {"vendor": "meta", "path": "/campaigns$", "action": "wrong_type"},
    )
    spoiled = sdk.get(f"{sdk.node}/campaigns", fields="id,name,updated_time").json()["data"]

    assert spoiled[: len(clean)] == clean
    without_id, with_nul, wrongly_typed = spoiled[len(clean) :]
    assert "id" not in without_id
    assert "\x00" in with_nul["name"]
    assert not isinstance(wrongly_typed["updated_time"], str)
