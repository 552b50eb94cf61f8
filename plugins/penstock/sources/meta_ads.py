"""Meta Ads: campaigns, ad sets, ads and daily insights of one ad account (Marketing API, Graph v26.0).

Records are the vendor's own. Numbers arrive as decimal strings in the account's currency, days are cut in
the ad account's time zone. `actions` and `action_values` keep every action type side by side: purchase
types overlap (`omni_purchase`, `purchase`, pixel, on-site), so the transform picks one and sums nothing.

Insights stay provisional for 28 days. Account-level rows are read beside ad-level rows because delivery
without an ad is missing below the account.

https://developers.facebook.com/docs/marketing-api/insights/parameters
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.core.errors import error
from penstock.sources.fields import (
    Checker,
    compile_fields,
    excerpt,
    expect_list,
    find,
    join_key,
    optional,
    required,
)
from penstock.sources.stream import Account, Kind, Limit, Page, Profile, Record, Request, Row, Slice, Source, Stream

META_API_VERSION = "v26.0"  # https://developers.facebook.com/docs/graph-api/changelog (29 July 2026)

# Insights are kept for 37 months in the account's time zone; one day of margin for the zone.
# https://developers.facebook.com/docs/marketing-api/insights/best-practices
RETENTION_DAYS = 1123

# At most this many `time_ranges` in one call, so that a totals call stays small.
RANGES_PER_CALL = 30

# Ad rows carry long lists of actions: larger pages are often refused.
ENTITY_PAGE = 500
PAGE_SIZES = {"account": 500, "campaign": 500, "adset": 250, "ad": 250}
MIN_PAGE_SIZE = 25
REPORT_PAGE = 250

# An ad account's score: reads count 1, writes 3, at most 9,000 in 300 s on the full access tier, of which we
# take 95 %. Lower tiers and the hourly budgets announce themselves in the usage headers.
# https://developers.facebook.com/docs/marketing-api/overview/rate-limiting
READ_COST = 1
WRITE_COST = 3
LIMITS = {"default": (Limit(count=8550, period=300.0, burst=30),)}

ACTIVE_ACCOUNT = 1  # https://developers.facebook.com/docs/marketing-api/reference/ad-account (account_status)

# Spend of archived and deleted objects is spend: without this filter the vendor leaves them out.
CAMPAIGN_STATUSES = ("ACTIVE", "PAUSED", "DELETED", "ARCHIVED", "IN_PROCESS", "WITH_ISSUES")
ADSET_STATUSES = (*CAMPAIGN_STATUSES, "CAMPAIGN_PAUSED")
AD_STATUSES = (
    *ADSET_STATUSES,
    "ADSET_PAUSED",
    "PENDING_REVIEW",
    "DISAPPROVED",
    "PREAPPROVED",
    "PENDING_BILLING_INFO",
)
STATUSES = {"campaign": CAMPAIGN_STATUSES, "adset": ADSET_STATUSES, "ad": AD_STATUSES}

CAMPAIGN_FIELDS = (
    "id,account_id,name,objective,status,effective_status,buying_type,bid_strategy,daily_budget,lifetime_budget,"
    "special_ad_categories,start_time,stop_time,created_time,updated_time"
)
ADSET_FIELDS = (
    "id,account_id,campaign_id,name,status,effective_status,optimization_goal,billing_event,bid_strategy,"
    "daily_budget,lifetime_budget,attribution_spec,start_time,end_time,created_time,updated_time"
)
AD_FIELDS = (
    "id,account_id,campaign_id,adset_id,name,status,effective_status,creative{id,name,thumbnail_url},"
    "created_time,updated_time"
)

INSIGHT_FIELDS = (
    "account_id,account_name,account_currency,date_start,date_stop,spend,impressions,clicks,inline_link_clicks,"
    "outbound_clicks,actions,action_values,attribution_setting"
)
# Unique counts do not add up over days or breakdowns; with breakdowns the vendor keeps them for 13 months only.
REACH_FIELDS = "reach,frequency,unique_clicks"
LEVEL_FIELDS = {
    "account": "",
    "campaign": "campaign_id,campaign_name,objective",
    "adset": "campaign_id,campaign_name,adset_id,adset_name,optimization_goal",
    "ad": "campaign_id,campaign_name,adset_id,adset_name,ad_id,ad_name",
}
LEVEL_IDS = {
    "account": (),
    "campaign": ("campaign_id",),
    "adset": ("campaign_id", "adset_id"),
    "ad": ("campaign_id", "adset_id", "ad_id"),
}

UNKNOWN_BREAKDOWN = "unknown"  # rows whose breakdown the vendor does not know are kept, not dropped

COMMON_CHECKS = (
    *required("id", "account_id"),
    *required("date", "date_start", "date_stop"),
    *required("decimal", "spend"),
    *required("integer", "impressions"),
    *optional("integer", "clicks", "inline_link_clicks", "reach", "unique_clicks"),
    *optional("decimal", "frequency"),
    *optional("actions", "actions", "action_values", "outbound_clicks"),
    *optional("currency", "account_currency"),
    *optional("text", "account_name", "attribution_setting"),
)


def account_number(account: Account) -> str:
    """The ad account's number, whether it was stored as `act_123` or `123`."""
    return account.account_id.removeprefix("act_")


def account_path(account: Account) -> str:
    return f"act_{account_number(account)}"


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def page_of(body: Any, request: Request) -> Page:
    """A cursor-paged answer. The link in `paging.next` holds the access token and is not followed."""
    records = expect_list(body, "data")
    if not find(body, "paging", "next"):
        return Page(records)
    token = find(body, "paging", "cursors", "after")
    if not token:
        raise error("SCHEMA_MISMATCH", "paging.next names another page, and paging.cursors has no after to ask for it")
    return Page(records, token)


# -- entities ----------------------------------------------------------------------------------------------------


def list_entities(edge: str, fields: str, statuses: Sequence[str]) -> Callable[[Account, Slice, str | None], Request]:
    """Requests of one edge of the ad account, archived and deleted objects included."""

    def request(account: Account, window: Slice, token: str | None) -> Request:
        params = {
            "fields": fields,
            "effective_status": compact(statuses),
            "limit": str(window.page_size or ENTITY_PAGE),
        }
        if token:
            params["after"] = token
        return Request("GET", f"{account_path(account)}/{edge}", params, cost=READ_COST)

    return request


def read_entity(check: Checker) -> Callable[[Record, Account], Row]:
    def row(record: Record, account: Account) -> Row:
        check(record)
        refuse_other_account(record, account)
        return Row(str(record["id"]), None, record.get("updated_time"), record)

    return row


def refuse_other_account(record: Record, account: Account) -> None:
    """One client's data must never land in another's tables."""
    if str(record["account_id"]) != account_number(account):
        raise error(
            "SCHEMA_MISMATCH", f"account_id should be {account_number(account)}, got {excerpt(record['account_id'])}"
        )


ENTITY_CHECKS = (
    *required("id", "id", "account_id"),
    *optional("text", "name", "status", "effective_status"),
    *optional("decimal", "daily_budget", "lifetime_budget"),
    *optional("timestamp", "created_time", "updated_time", "start_time", "stop_time", "end_time"),
)


def entity_stream(edge: str, fields: str, level: str, parents: Sequence[str]) -> Stream:
    return Stream(
        name=edge,
        table=edge,
        kind=Kind.ENTITY,
        request=list_entities(edge, fields, STATUSES[level]),
        parse=page_of,
        row=read_entity(compile_fields((*ENTITY_CHECKS, *required("id", *parents)))),
        page_size=ENTITY_PAGE,
        min_page_size=MIN_PAGE_SIZE,
    )


# -- insights ----------------------------------------------------------------------------------------------------


def insight_params(level: str, breakdowns: Sequence[str]) -> dict[str, str]:
    """What all pages of an insights stream have in common.

    Only `action_type` as action breakdown agrees with what Ads Manager shows.
    """
    fields = [INSIGHT_FIELDS, LEVEL_FIELDS[level], "" if breakdowns else REACH_FIELDS]
    params = {
        "level": level,
        "fields": ",".join(filter(None, fields)),
        "time_increment": "1",
        "action_breakdowns": compact(["action_type"]),
        "use_unified_attribution_setting": "true",
    }
    if breakdowns:
        params["breakdowns"] = compact(breakdowns)
    if level in STATUSES:
        params["filtering"] = compact(
            [{"field": f"{level}.effective_status", "operator": "IN", "value": list(STATUSES[level])}]
        )
    return params


def ask_insights(level: str, breakdowns: Sequence[str]) -> Callable[[Account, Slice, str | None], Request]:
    common = insight_params(level, breakdowns)

    def request(account: Account, window: Slice, token: str | None) -> Request:
        first, last = window.first_day(account.zone), window.last_day(account.zone)
        size = window.page_size or PAGE_SIZES[level]
        params = {**common, "time_range": time_range(first, last), "limit": str(size)}
        if token:
            params["after"] = token
        return Request("GET", f"{account_path(account)}/insights", params, cost=READ_COST)

    return request


def time_range(first: dt.date, last: dt.date) -> str:
    """Both ends are included."""
    return compact({"since": first.isoformat(), "until": last.isoformat()})


def report_page(remote_id: str, window: Slice, token: str | None) -> Request:
    """One page of a finished report."""
    params = {"limit": str(window.page_size or REPORT_PAGE)}
    if token:
        params["after"] = token
    return Request("GET", f"{remote_id}/insights", params, cost=READ_COST)


def read_insight(level: str, breakdowns: Sequence[str]) -> Callable[[Record, Account], Row]:
    """Key: date, account, campaign, ad set, ad (empty above the level), then the breakdowns' values."""
    check = compile_fields((*COMMON_CHECKS, *required("id", *LEVEL_IDS[level]), *optional("text", *breakdowns)))
    entity_keys = LEVEL_IDS[level]
    padding = ("",) * (3 - len(entity_keys))

    def row(record: Record, account: Account) -> Row:
        check(record)
        refuse_other_account(record, account)
        day = one_day(record)
        for breakdown in breakdowns:
            record[breakdown] = record.get(breakdown) or UNKNOWN_BREAKDOWN
        entities = [record[key] for key in entity_keys]
        values = [record[breakdown] for breakdown in breakdowns]
        return Row(join_key(day, record["account_id"], *entities, *padding, *values), day, None, record)

    return row


def one_day(record: Record) -> dt.date:
    """The day of a record; one that spans several days would count on the first alone."""
    if record["date_stop"] != record["date_start"]:
        raise error(
            "WRONG_TYPE", f"date_stop should be date_start {record['date_start']}, got {excerpt(record['date_stop'])}"
        )
    return dt.date.fromisoformat(record["date_start"])


def insight_stream(
    name: str,
    level: str,
    *,
    breakdowns: Sequence[str] = (),
    slice_days: int,
    sync_days: int | None = None,
) -> Stream:
    """`sync_days`: longer slices are read through a report that the vendor prepares; None: never."""
    return Stream(
        name=name,
        table="insights",
        kind=Kind.DAILY,
        request=ask_insights(level, breakdowns),
        parse=page_of,
        row=read_insight(level, breakdowns),
        page_size=PAGE_SIZES[level],
        min_page_size=MIN_PAGE_SIZE,
        slice_days=slice_days,
        retention_days=RETENTION_DAYS,
        is_async=sync_days is not None,
        sync_days=sync_days or 0,
    )


# -- totals ------------------------------------------------------------------------------------------------------

TOTALS_FIELDS = (
    "account_id,account_currency,date_start,date_stop,spend,impressions,clicks,inline_link_clicks,actions,action_values"
)


def ask_totals(account: Account, window: Slice, token: str | None) -> Request:
    """The account as a whole, one range per day: another question than the daily rows, for checking them."""
    first, last = window.first_day(account.zone), window.last_day(account.zone)
    days = [first + dt.timedelta(days=number) for number in range((last - first).days + 1)]
    params = {
        "level": "account",
        "fields": TOTALS_FIELDS,
        "time_ranges": compact([{"since": day.isoformat(), "until": day.isoformat()} for day in days]),
        "action_breakdowns": compact(["action_type"]),
        "use_unified_attribution_setting": "true",
        "limit": str(window.page_size or PAGE_SIZES["account"]),
    }
    if token:
        params["after"] = token
    return Request("GET", f"{account_path(account)}/insights", params, cost=READ_COST)


check_totals = compile_fields(COMMON_CHECKS)


def read_totals(record: Record, account: Account) -> Row:
    check_totals(record)
    refuse_other_account(record, account)
    day = one_day(record)
    return Row(day.isoformat(), day, None, record)


# -- the account itself ------------------------------------------------------------------------------------------


def ask_profile(account: Account) -> Sequence[Request]:
    params = {"fields": "account_id,name,currency,timezone_name,account_status"}
    return (Request("GET", account_path(account), params, cost=READ_COST),)


check_profile = compile_fields(
    (*required("id", "account_id"), *required("currency", "currency"), *required("text", "timezone_name"))
)


def read_profile(account: Account, bodies: Sequence[Any]) -> Profile:
    body: Mapping[str, Any] = bodies[0]
    check_profile(bodies[0])
    status = body.get("account_status", ACTIVE_ACCOUNT)
    return Profile(
        name=body.get("name") or account.name,
        time_zone=body["timezone_name"],
        currency=body["currency"],
        facts={"account_status": status},
        problem=None if status == ACTIVE_ACCOUNT else "META_ACCOUNT_DISABLED",
    )


SOURCE = Source(
    name="meta_ads",
    platform="META",
    streams=(
        entity_stream("campaigns", CAMPAIGN_FIELDS, "campaign", ()),
        entity_stream("adsets", ADSET_FIELDS, "adset", ("campaign_id",)),
        entity_stream("ads", AD_FIELDS, "ad", ("campaign_id", "adset_id")),
        insight_stream("insights_account", "account", slice_days=180),
        insight_stream("insights_campaign", "campaign", slice_days=60, sync_days=31),
        insight_stream("insights_adset", "adset", slice_days=30, sync_days=14),
        insight_stream("insights_ad", "ad", slice_days=30, sync_days=7),
        insight_stream("insights_age_gender", "account", breakdowns=("age", "gender"), slice_days=60),
        insight_stream("insights_country", "account", breakdowns=("country",), slice_days=30),
        insight_stream(
            "insights_platform", "account", breakdowns=("publisher_platform", "platform_position"), slice_days=30
        ),
        Stream(
            name="totals",
            table="totals",
            kind=Kind.TOTALS,
            request=ask_totals,
            parse=page_of,
            row=read_totals,
            page_size=PAGE_SIZES["account"],
            min_page_size=MIN_PAGE_SIZE,
            slice_days=RANGES_PER_CALL,
            retention_days=RETENTION_DAYS,
        ),
    ),
    limits=LIMITS,
    concurrency=4,
    profile_requests=ask_profile,
    profile=read_profile,
    transforms=(
        "meta_ads__dim_campaign",
        "meta_ads__dim_ad_group",
        "meta_ads__dim_ad",
        "meta_ads__fct_meta_daily",
        "meta_ads__fct_meta_action_daily",
        "meta_ads__fct_meta_breakdown_daily",
        "meta_ads__fct_account_totals",
        "meta_ads__quality_results",
        "meta_ads__compat_fact_marketing_daily",
    ),
    report_page=report_page,
)
