"""What Klaviyo has counted: aggregates (raw event counts per day) and reports (what its own screens show).

Their records are columns of arrays; `parse` turns them into one record per day. `campaign-values` has no day axis; it
is read as of a day.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from penstock.core.errors import error
from penstock.sources.fields import (
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
from penstock.sources.klaviyo_resources import PLACED_ORDER, bounds, instant, metric_id, next_cursor
from penstock.sources.stream import Account, Page, Record, Request, Row, Slice

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

AGGREGATE_PAGE = 500

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


# -- aggregates --------------------------------------------------------------------------------------------------


def aggregate_variants(account: Account) -> Sequence[Mapping[str, str]]:
    return tuple({"metric": name, "by": by} for name, by in MESSAGE_METRICS.items() if metric_id(account, name))


def totals_variants(account: Account) -> Sequence[Mapping[str, str]]:
    if conversion_metric(account) is None:
        return ()
    return tuple({"metric": PLACED_ORDER, "by": by} for by in TOTAL_GROUPS)


def conversion_metric(account: Account) -> str | None:
    """The metric that revenue is counted by; None when the account has none yet."""
    return metric_id(account, PLACED_ORDER)


def ask_aggregates(account: Account, window: Slice, token: str | None) -> Request:
    start, end = bounds(window)
    attributes: dict[str, Any] = {
        "metric_id": metric_id(account, window.params["metric"]),
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
    """The account's calendar day that begins with an instant. Raises SCHEMA_MISMATCH.

    The contract does not say how a day's beginning is written. One that is written as a midnight names its day,
    whatever its offset: as an instant, `2026-01-01T00:00:00+00:00` would be the 31st in America.
    """
    try:
        moment = dt.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise error("SCHEMA_MISMATCH", f"dates should be timestamps, got {excerpt(value)}") from None
    is_midnight = moment.time() == dt.time.min
    return (moment if moment.tzinfo is None or is_midnight else moment.astimezone(zone)).date().isoformat()


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
