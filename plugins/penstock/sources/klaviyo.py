"""Klaviyo: campaigns, flows, audiences, events and e-mail performance of one account (JSON:API).

Two kinds of numbers, never mixed in one column: *aggregates* (raw event counts per day, from
`metric-aggregates`) and *reports* (`campaign-values`, `flow-series`: what Klaviyo's own screens show).
`campaign-values` has no day axis; it is read as of a day.

Records of these endpoints are columns of arrays; `parse` turns them into one record per day. Everything
else is the vendor's JSON:API resource, with `campaign_messages` (the included resources) added to campaigns.

https://developers.klaviyo.com/en/reference/api_overview
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

from penstock.core.errors import error
from penstock.sources.fields import (
    Checker,
    compile_fields,
    excerpt,
    expect_list,
    expect_object,
    find,
    is_date,
    join_key,
    optional,
    required,
)
from penstock.sources.stream import Account, Kind, Limit, Page, Profile, Record, Request, Row, Slice, Source, Stream

# The contract that requests and answers were checked against; a revision lives about two years.
# https://developers.klaviyo.com/en/docs/api_versioning_and_deprecation_policy
KLAVIYO_REVISION = "2026-07-15"

HEADROOM = 0.95  # of every limit: clocks and networks move a call or two over a window's edge

PLACED_ORDER = "Placed Order"
DEFAULT_EVENT_METRICS = (PLACED_ORDER,)

# metric -> what its daily aggregates are grouped by. Orders belong to the message they are attributed to.
MESSAGE_METRICS = {
    PLACED_ORDER: "$attributed_message",
    "Received Email": "$message",
    "Opened Email": "$message",
    "Clicked Email": "$message",
    "Bounced Email": "$message",
    "Unsubscribed from Email Marketing": "$message",
}
TOTAL_GROUPS = ("", "$attributed_channel")
TOTAL = "TOTAL"  # stands for "no grouping" in a totals record's dimension

NO_PAGE_SIZE = 1  # of endpoints that take no wish: there is nothing to halve

# The largest pages that the endpoints allow.
PAGE_SIZES = {
    "campaigns": 100,
    "flows": 50,
    "lists": 10,
    "segments": 10,
    "metrics": NO_PAGE_SIZE,
    "events": 1000,
    "profiles": 100,
}
AGGREGATE_PAGE = 500

CHANNELS = ("email", "sms", "mobile_push")  # a campaign listing has to name one
BOTH = ("false", "true")  # archived objects are left out unless asked for

# Counts and sums only: rates do not add up. https://developers.klaviyo.com/en/reference/reporting_api_overview
REPORT_COUNTS = (
    "recipients",
    "delivered",
    "bounced",
    "failed",
    "opens",
    "opens_unique",
    "clicks",
    "clicks_unique",
    "unsubscribes",
    "unsubscribe_uniques",
    "spam_complaints",
    "conversions",
    "conversion_uniques",
)
REPORT_AMOUNTS = ("conversion_value",)
REPORT_YEAR = dt.timedelta(days=364)  # a report's time frame may not be longer than a year
FLOW_SERIES_DAYS = 60  # with a daily interval

# The vendor's list of zones lacks these names. https://developers.klaviyo.com/en/reference/query_metric_aggregates
ZONE_ALIASES = {"Europe/Kyiv": "Europe/Kiev", "Pacific/Kanton": "Pacific/Enderbury"}


def paced(per_second: int, per_minute: int) -> tuple[Limit, ...]:
    """Burst and steady limits of one endpoint: spread evenly, the burst inside the headroom."""
    burst = max(1, min(per_second, int(per_minute * (1 - HEADROOM) + 1e-9)))
    return (
        Limit(per_second, 1.0 / HEADROOM),
        Limit(per_minute, 60.0 / HEADROOM, burst),
    )


# Per account, shared by all its keys: `x-klaviyo-ratelimit` of each operation in the vendor's OpenAPI document.
# https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling
LIMITS = {
    "accounts": paced(1, 15),
    "campaigns": paced(10, 150),
    "flows": paced(3, 60),
    "lists": paced(75, 750),
    "segments": paced(75, 750),
    "profiles": paced(75, 750),
    "events": paced(350, 3500),
    "metrics": paced(10, 150),
    "metric-aggregates": paced(3, 60),
    "reports": (
        Limit(1, 1.0 / HEADROOM),
        Limit(2, 60.0 / HEADROOM, is_hard_window=True),
        Limit(int(225 * HEADROOM), 86400.0, is_hard_window=True),
    ),
}


# -- JSON:API ----------------------------------------------------------------------------------------------------


def next_cursor(body: Any) -> str | None:
    """The cursor in `links.next`. Its host is checked by the client; the link itself is not followed."""
    link = find(body, "links", "next") or find(body, "data", "links", "next")
    if link is None:
        return None
    query = parse_qs(urlsplit(str(link)).query)
    values = query.get("page[cursor]") or query.get("page_cursor")
    if not values:
        raise error("SCHEMA_MISMATCH", f"links.next has no page[cursor], got {excerpt(link)}")
    return values[0]


def resource_page(body: Any, request: Request) -> Page:
    records = expect_list(body, "data")
    token = next_cursor(body)
    return Page(records, token)


def listing(family: str, params: Mapping[str, str]) -> Callable[[Account, Slice, str | None], Request]:
    def request(account: Account, window: Slice, token: str | None) -> Request:
        return list_page(family, params, window, token)

    return request


def list_page(family: str, params: Mapping[str, str], window: Slice, token: str | None) -> Request:
    """One page of a listing; its rate-limit family has the name of its path."""
    found = {**params, "page[size]": str(window.page_size or PAGE_SIZES[family])}
    if token:
        found["page[cursor]"] = token
    return Request("GET", f"api/{family}", found, limit=family)


def instant(moment: dt.datetime) -> str:
    """An instant for a filter: in UTC, so that no zone is left to interpretation."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def bounds(window: Slice) -> tuple[dt.datetime, dt.datetime]:
    if window.start is None or window.end is None:
        raise ValueError(f"slice {window.slice_no} of {window.stream} has no window")
    return window.start, window.end


def read_resource(check: Checker, updated: str) -> Callable[[Record, Account], Row]:
    def row(record: Record, account: Account) -> Row:
        check(record)
        return Row(str(record["id"]), None, record["attributes"].get(updated), record)

    return row


def resource_checks(created: str, updated: str) -> Checker:
    return compile_fields(
        (
            *required("id", "id"),
            *required("object", "attributes"),
            *optional("text", "attributes/name", "attributes/status"),
            *optional("boolean", "attributes/archived"),
            *optional("timestamp", f"attributes/{created}", f"attributes/{updated}"),
        )
    )


# -- campaigns, flows, audiences, metrics ------------------------------------------------------------------------


def ask_campaigns(account: Account, window: Slice, token: str | None) -> Request:
    filters = f"equals(messages.channel,'{window.params['channel']}'),equals(archived,{window.params['archived']})"
    params = {"filter": filters, "include": "campaign-messages", "sort": "id"}
    return list_page("campaigns", params, window, token)


def parse_campaigns(body: Any, request: Request) -> Page:
    page = resource_page(body, request)
    included = {item.get("id"): item for item in find(body, "included") or () if type(item) is dict}
    for record in page.records:
        links = find(record, "relationships", "campaign-messages", "data") or ()
        if type(record) is dict:
            record["campaign_messages"] = [
                included[link["id"]] for link in links if type(link) is dict and link.get("id") in included
            ]
    return page


def ask_flows(account: Account, window: Slice, token: str | None) -> Request:
    params = {"filter": f"equals(archived,{window.params['archived']})", "sort": "id"}
    return list_page("flows", params, window, token)


def ask_metrics(account: Account, window: Slice, token: str | None) -> Request:
    """The one listing without a page size."""
    return Request("GET", "api/metrics", {"page[cursor]": token} if token else {}, limit="metrics")


check_campaign = compile_fields(
    (
        *required("id", "id"),
        *required("object", "attributes"),
        *optional("text", "attributes/name", "attributes/status"),
        *optional("boolean", "attributes/archived"),
        *optional(
            "timestamp",
            "attributes/created_at",
            "attributes/updated_at",
            "attributes/scheduled_at",
            "attributes/send_time",
        ),
    )
)


# -- events and profiles -----------------------------------------------------------------------------------------


def metric_id(account: Account, name: str) -> str | None:
    found = (account.facts.get("metrics") or {}).get(name)
    return None if found is None else str(found)


def event_variants(account: Account) -> Sequence[Mapping[str, str]]:
    """One slice per chosen metric that this account has."""
    chosen = account.settings.get("event_metrics") or DEFAULT_EVENT_METRICS
    return tuple({"metric": name} for name in chosen if metric_id(account, name))


def ask_events(account: Account, window: Slice, token: str | None) -> Request:
    start, end = bounds(window)
    filters = (
        f"equals(metric_id,'{metric_id(account, window.params['metric'])}'),"
        f"greater-or-equal(datetime,{instant(start)}),less-than(datetime,{instant(end)})"
    )
    params = {"filter": filters, "sort": "datetime"}
    return list_page("events", params, window, token)


check_event = compile_fields(
    (
        *required("id", "id"),
        *required("timestamp", "attributes/datetime"),
        *required("id", "relationships/metric/data/id"),
        *optional("id", "relationships/profile/data/id"),
        *optional("object", "attributes/event_properties"),
        *optional("decimal", "attributes/event_properties/$value"),
    )
)


def read_event(record: Record, account: Account) -> Row:
    check_event(record)
    moment = record["attributes"]["datetime"]
    day = dt.datetime.fromisoformat(moment).astimezone(account.zone).date()
    return Row(str(record["id"]), day, moment, record)


# Names, addresses and phone numbers stay at the vendor.
PROFILE_FIELDS = "created,updated,last_event_date,external_id,location.country,location.region"


# -- aggregates --------------------------------------------------------------------------------------------------


def aggregate_variants(account: Account) -> Sequence[Mapping[str, str]]:
    return tuple({"metric": name, "by": by} for name, by in MESSAGE_METRICS.items() if metric_id(account, name))


def totals_variants(account: Account) -> Sequence[Mapping[str, str]]:
    if conversion_metric(account) is None:
        return ()
    return tuple({"metric": PLACED_ORDER, "by": by} for by in TOTAL_GROUPS)


def conversion_metric(account: Account) -> str | None:
    """The metric that revenue is counted by; None when the account has none yet."""
    chosen = account.settings.get("conversion_metric_id")
    return str(chosen) if chosen else metric_id(account, PLACED_ORDER)


def ask_aggregates(account: Account, window: Slice, token: str | None) -> Request:
    start, end = bounds(window)
    name = window.params["metric"]
    attributes: dict[str, Any] = {
        "metric_id": conversion_metric(account) if name == PLACED_ORDER else metric_id(account, name),
        "measurements": ["count", "unique", "sum_value"],
        "interval": "day",
        "page_size": window.page_size or AGGREGATE_PAGE,
        "timezone": ZONE_ALIASES.get(account.time_zone, account.time_zone),
        "filter": [f"greater-or-equal(datetime,{instant(start)})", f"less-than(datetime,{instant(end)})"],
    }
    if window.params["by"]:
        attributes["by"] = [window.params["by"]]
    if token:
        attributes["page_cursor"] = token
    body = {"data": {"type": "metric-aggregate", "attributes": attributes}}
    return Request("POST", "api/metric-aggregates", body=body, limit="metric-aggregates")


def parse_aggregates(body: Any, request: Request) -> Page:
    """One record per day and dimension; days on which a message had nothing are left out."""
    asked = (request.body or {})["data"]["attributes"]
    zone = ZoneInfo(asked["timezone"])
    days = [local_day(value, zone) for value in expect_list(body, "data", "attributes", "dates")]
    grouped = bool(asked.get("by"))
    records = []
    for group in expect_list(body, "data", "attributes", "data"):
        dimension = group_name(group) if grouped else TOTAL
        for day, values in daily_values(days, find(group, "measurements"), ("count", "unique", "sum_value")):
            if grouped and not any(values.values()):
                continue
            records.append(
                {
                    "date": day,
                    "metric_id": asked["metric_id"],
                    "by": asked["by"][0] if grouped else "",
                    "dimension": dimension,
                    **values,
                }
            )
    token = next_cursor(body)
    return Page(records, token)


def group_name(group: Any) -> Any:
    """The one dimension; empty for what belongs to none."""
    dimensions = find(group, "dimensions") or [""]
    return dimensions[0] if type(dimensions) is list and len(dimensions) == 1 else dimensions


def local_day(value: Any, zone: ZoneInfo) -> str:
    """The account's calendar day of an instant. Raises SCHEMA_MISMATCH."""
    try:
        moment = dt.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise error("SCHEMA_MISMATCH", f"dates should be timestamps, got {excerpt(value)}") from None
    return (moment.astimezone(zone) if moment.tzinfo else moment).date().isoformat()


def daily_values(
    days: Sequence[str], columns: Any, names: Iterable[str]
) -> Iterator[tuple[str, dict[str, float | int | None]]]:
    """Columns of arrays, turned into one mapping per day. Raises SCHEMA_MISMATCH when a column has another length."""
    found = {name: find(columns, name) for name in names}
    for name, column in found.items():
        if type(column) is not list or len(column) != len(days):
            raise error("SCHEMA_MISMATCH", f"{name} should have {len(days)} values, got {excerpt(column)}")
    for number, day in enumerate(days):
        yield day, {name: whole(column[number]) for name, column in found.items()}


def whole(value: Any) -> Any:
    """Counts come as floats (`3.0`); written without the point, so that they are integers to everybody."""
    return int(value) if type(value) is float and value.is_integer() else value


AGGREGATE_FIELDS = (
    *required("date", "date"),
    *required("id", "metric_id"),
    *required("text", "dimension"),
    *required("integer", "count", "unique"),
    *required("decimal", "sum_value"),
)
check_aggregate = compile_fields(AGGREGATE_FIELDS)


def read_message_aggregate(record: Record, account: Account) -> Row:
    """Key: date, metric, message."""
    check_aggregate(record)
    record["metric_name"] = metric_name(account, record["metric_id"])
    key = join_key(record["date"], record["metric_id"], record["dimension"])
    return Row(key, dt.date.fromisoformat(record["date"]), None, record)


def metric_name(account: Account, wanted: str) -> str:
    """Our name of a metric: a chosen conversion metric counts as orders, whatever it is called there."""
    if wanted == conversion_metric(account):
        return PLACED_ORDER
    return next((name for name in MESSAGE_METRICS if metric_id(account, name) == wanted), "")


def read_totals(record: Record, account: Account) -> Row:
    """Key: date, grouping, dimension."""
    check_aggregate(record)
    key = join_key(record["date"], record["by"], record["dimension"])
    return Row(key, dt.date.fromisoformat(record["date"]), None, record)


# -- reports -----------------------------------------------------------------------------------------------------


def report_variants(account: Account) -> Sequence[Mapping[str, str]]:
    return ({},) if conversion_metric(account) else ()


def report_request(kind: str, attributes: Mapping[str, Any], token: str | None) -> Request:
    body = {"data": {"type": kind, "attributes": attributes}}
    params = {"page_cursor": token} if token else {}
    return Request("POST", f"api/{kind}s", params, body, limit="reports")


def time_frame(first: dt.date, last: dt.date, zone: ZoneInfo) -> dict[str, str]:
    """Whole days of the account, both included. The vendor says that it ignores the offset and takes the account's
    zone; with the zone's own offset it does not matter whether it does."""
    start = dt.datetime.combine(first, dt.time.min, tzinfo=zone)
    end = dt.datetime.combine(last, dt.time(23, 59, 59), tzinfo=zone)
    return {"start": start.isoformat(), "end": end.isoformat()}


def ask_campaign_values(account: Account, window: Slice, token: str | None) -> Request:
    """A year of campaigns, as of the window's last day."""
    last = window.last_day(account.zone)
    attributes = {
        "statistics": [*REPORT_COUNTS, *REPORT_AMOUNTS],
        "timeframe": time_frame(last - REPORT_YEAR, last, account.zone),
        "conversion_metric_id": conversion_metric(account),
        "group_by": ["campaign_id", "campaign_message_id", "send_channel"],
    }
    return report_request("campaign-values-report", attributes, token)


def parse_campaign_values(body: Any, request: Request) -> Page:
    asked = (request.body or {})["data"]["attributes"]
    records = [
        {
            "as_of": asked["timeframe"]["end"][:10],
            "conversion_metric_id": asked["conversion_metric_id"],
            **expect_object(result, "groupings"),
            **{name: whole(value) for name, value in expect_object(result, "statistics").items()},
        }
        for result in expect_list(body, "data", "attributes", "results")
    ]
    token = next_cursor(body)
    return Page(records, token)


REPORT_FIELDS = (*required("integer", *REPORT_COUNTS), *required("decimal", *REPORT_AMOUNTS))
check_campaign_values = compile_fields(
    (
        *required("date", "as_of"),
        *required("id", "conversion_metric_id", "campaign_id", "campaign_message_id"),
        *optional("text", "send_channel"),
        *REPORT_FIELDS,
    )
)


def read_campaign_values(record: Record, account: Account) -> Row:
    """Key: as-of day, campaign, message, channel, conversion metric."""
    check_campaign_values(record)
    key = join_key(
        record["as_of"],
        record["campaign_id"],
        record["campaign_message_id"],
        record.get("send_channel") or "",
        record["conversion_metric_id"],
    )
    return Row(key, dt.date.fromisoformat(record["as_of"]), None, record)


def ask_flow_series(account: Account, window: Slice, token: str | None) -> Request:
    attributes = {
        "statistics": [*REPORT_COUNTS, *REPORT_AMOUNTS],
        "timeframe": time_frame(window.first_day(account.zone), window.last_day(account.zone), account.zone),
        "interval": "daily",
        "conversion_metric_id": conversion_metric(account),
        "group_by": ["flow_id", "flow_message_id", "send_channel"],
    }
    return report_request("flow-series-report", attributes, token)


def parse_flow_series(body: Any, request: Request) -> Page:
    """One record per day and message; days on which a message had nothing are left out."""
    asked = (request.body or {})["data"]["attributes"]
    days = days_from(asked["timeframe"]["start"], expect_list(body, "data", "attributes", "date_times"))
    records = []
    for result in expect_list(body, "data", "attributes", "results"):
        groupings = expect_object(result, "groupings")
        for day, values in daily_values(days, find(result, "statistics"), (*REPORT_COUNTS, *REPORT_AMOUNTS)):
            if any(values.values()):
                records.append(
                    {"date": day, "conversion_metric_id": asked["conversion_metric_id"], **groupings, **values}
                )
    token = next_cursor(body)
    return Page(records, token)


def days_from(start: str, moments: Sequence[Any]) -> list[str]:
    """The account's days that a series' date times stand for, counted from the first one asked for.

    Their offsets are not to be relied on, their order is. Raises SCHEMA_MISMATCH when they begin on another day.
    """
    first = dt.date.fromisoformat(start[:10])
    if moments:
        written = str(moments[0])[:10]
        if not is_date(written) or abs((dt.date.fromisoformat(written) - first).days) > 1:
            raise error("SCHEMA_MISMATCH", f"date_times should begin on {first}, got {excerpt(moments[0])}")
    return [(first + dt.timedelta(days=number)).isoformat() for number in range(len(moments))]


check_flow_series = compile_fields(
    (
        *required("date", "date"),
        *required("id", "conversion_metric_id", "flow_id", "flow_message_id"),
        *optional("text", "send_channel"),
        *REPORT_FIELDS,
    )
)


def read_flow_series(record: Record, account: Account) -> Row:
    """Key: date, flow, message, channel, conversion metric."""
    check_flow_series(record)
    key = join_key(
        record["date"],
        record["flow_id"],
        record["flow_message_id"],
        record.get("send_channel") or "",
        record["conversion_metric_id"],
    )
    return Row(key, dt.date.fromisoformat(record["date"]), None, record)


# -- the account itself ------------------------------------------------------------------------------------------

# Where a metric's name occurs several times, the shop's own integration counts, then the API's.
PREFERRED_INTEGRATIONS = ("Shopify", "API", "Klaviyo")


def ask_profile(account: Account) -> Sequence[Request]:
    """The account and its metrics. The listing has pages of 200, so those that matter are asked for by name."""
    return (
        Request("GET", "api/accounts", limit="accounts"),
        Request("GET", "api/metrics", limit="metrics"),
        *(
            Request("GET", "api/metrics", {"filter": f"equals(integration.name,'{name}')"}, limit="metrics")
            for name in PREFERRED_INTEGRATIONS
        ),
    )


check_account = compile_fields(
    (
        *required("id", "id"),
        *required("text", "attributes/timezone"),
        *required("currency", "attributes/preferred_currency"),
    )
)


def read_profile(account: Account, bodies: Sequence[Any]) -> Profile:
    accounts = expect_list(bodies[0], "data")
    if not accounts:
        raise error("SCHEMA_MISMATCH", "the key belongs to no account: the list of accounts is empty")
    check_account(accounts[0])
    attributes = accounts[0]["attributes"]
    metrics = [metric for body in bodies[1:] for metric in expect_list(body, "data")]
    return Profile(
        name=find(attributes, "contact_information", "organization_name") or account.name,
        time_zone=attributes["timezone"],
        currency=attributes["preferred_currency"],
        facts={"metrics": metric_ids(metrics), "klaviyo_account_id": accounts[0]["id"]},
    )


def metric_ids(metrics: Iterable[Any]) -> dict[str, str]:
    """Metric ids by name, the preferred integration's where a name occurs several times."""
    named = [metric for metric in metrics if find(metric, "id") and find(metric, "attributes", "name")]
    ranked = sorted(named, key=lambda metric: (integration_rank(metric), str(metric["id"])), reverse=True)
    return {metric["attributes"]["name"]: str(metric["id"]) for metric in ranked}


def integration_rank(metric: Any) -> int:
    name = find(metric, "attributes", "integration", "name")
    return PREFERRED_INTEGRATIONS.index(name) if name in PREFERRED_INTEGRATIONS else len(PREFERRED_INTEGRATIONS)


# -- the streams -------------------------------------------------------------------------------------------------


def campaign_variants(account: Account) -> Sequence[Mapping[str, str]]:
    return tuple({"channel": channel, "archived": archived} for channel in CHANNELS for archived in BOTH)


def archived_variants(account: Account) -> Sequence[Mapping[str, str]]:
    return tuple({"archived": archived} for archived in BOTH)


def entity_stream(
    name: str,
    request: Callable[[Account, Slice, str | None], Request],
    *,
    is_default: bool = True,
    variants: Callable[[Account], Sequence[Mapping[str, str]]] = lambda account: ({},),
) -> Stream:
    return Stream(
        name=name,
        table=name,
        kind=Kind.ENTITY,
        request=request,
        parse=resource_page,
        row=read_resource(resource_checks("created", "updated"), "updated"),
        page_size=PAGE_SIZES[name],
        variants=variants,
        is_default=is_default,
    )


SOURCE = Source(
    name="klaviyo",
    platform="KLAVIYO",
    streams=(
        Stream(
            name="campaigns",
            table="campaigns",
            kind=Kind.ENTITY,
            request=ask_campaigns,
            parse=parse_campaigns,
            row=read_resource(check_campaign, "updated_at"),
            page_size=PAGE_SIZES["campaigns"],
            variants=campaign_variants,
        ),
        entity_stream("flows", ask_flows, variants=archived_variants),
        entity_stream("lists", listing("lists", {"sort": "id"})),
        entity_stream("segments", listing("segments", {"sort": "id"})),
        entity_stream("metrics", ask_metrics),
        Stream(
            name="events",
            table="events",
            kind=Kind.EVENT,
            request=ask_events,
            parse=resource_page,
            row=read_event,
            page_size=PAGE_SIZES["events"],
            min_page_size=50,
            slice_days=30,
            variants=event_variants,
        ),
        entity_stream(
            "profiles",
            listing("profiles", {"fields[profile]": PROFILE_FIELDS, "sort": "id"}),
            is_default=False,
        ),
        Stream(
            name="message_aggregates",
            table="metric_aggregates",
            kind=Kind.DAILY,
            request=ask_aggregates,
            parse=parse_aggregates,
            row=read_message_aggregate,
            page_size=AGGREGATE_PAGE,
            min_page_size=50,
            slice_days=90,
            variants=aggregate_variants,
        ),
        Stream(
            name="campaign_values",
            table="campaign_values",
            kind=Kind.DAILY,
            request=ask_campaign_values,
            parse=parse_campaign_values,
            row=read_campaign_values,
            page_size=NO_PAGE_SIZE,
            is_as_of=True,
            variants=report_variants,
        ),
        Stream(
            name="flow_series",
            table="flow_series",
            kind=Kind.DAILY,
            request=ask_flow_series,
            parse=parse_flow_series,
            row=read_flow_series,
            page_size=NO_PAGE_SIZE,
            slice_days=FLOW_SERIES_DAYS,
            variants=report_variants,
        ),
        Stream(
            name="totals",
            table="totals",
            kind=Kind.TOTALS,
            request=ask_aggregates,
            parse=parse_aggregates,
            row=read_totals,
            page_size=AGGREGATE_PAGE,
            min_page_size=50,
            slice_days=90,
            variants=totals_variants,
        ),
    ),
    limits=LIMITS,
    concurrency=4,
    profile_requests=ask_profile,
    profile=read_profile,
    transforms=(
        "klaviyo__dim_klaviyo_metric",
        "klaviyo__dim_klaviyo_audience",
        "klaviyo__dim_klaviyo_flow",
        "klaviyo__dim_klaviyo_message",
        "klaviyo__fct_klaviyo_message_daily",
        "klaviyo__fct_klaviyo_flow_daily",
        "klaviyo__fct_klaviyo_campaign_total",
        "klaviyo__fct_klaviyo_event_daily",
        "klaviyo__fct_account_totals",
        "klaviyo__compat_fact_email_daily",
    ),
)
