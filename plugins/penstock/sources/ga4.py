"""Google Analytics 4: daily reports of one property (Data API v1beta).

A record is one row of a report, flattened by the header names: `{"date": "2026-11-01", "<dimension>": "...",
"<metric>": "12"}`; metric values stay the strings that the vendor sends. Unique counts (`totalUsers`,
`newUsers`) do not add up over days or dimensions. Flags about the data's quality go to `Page.flags`.

A request may ask for 9 dimensions, 10 metrics, 4 date ranges and 250,000 rows.
https://developers.google.com/analytics/devguides/reporting/data/v1/api-schema
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.core.errors import error
from penstock.sources.fields import (
    compile_fields,
    excerpt,
    expect_list,
    find,
    is_integer,
    join_key,
    required,
)
from penstock.sources.stream import Account, Kind, Limit, Page, Profile, Record, Request, Row, Slice, Source, Stream

GA4_API_VERSION = "v1beta"  # https://developers.google.com/analytics/devguides/reporting/data/v1/rest

# A parsed page takes about 4.5 kB per row while it is flattened, and several slices read ahead at a time: pages of the
# 100,000 rows that are usual would need more than 2 GB.
PAGE_SIZE = 20_000
REPORTS_PER_BATCH = 5
RANGES_PER_REPORT = 4

# The Data API has no limit per second; its budgets are tokens, which the answers count and the client watches.
# The pace only keeps bursts of several workers away from the 10 concurrent requests of a property.
# https://developers.google.com/analytics/devguides/reporting/data/v1/quotas
LIMITS = {"default": (Limit(count=10, period=1.0, burst=5),)}

# Names that the vendor replaced; its answers may carry either.
# https://developers.google.com/analytics/devguides/reporting/data/v1/changelog
RENAMED = {"conversions": "keyEvents", "sessionDefaultChannelGrouping": "sessionDefaultChannelGroup"}

COUNTS = frozenset(
    {
        "sessions",
        "engagedSessions",
        "totalUsers",
        "newUsers",
        "screenPageViews",
        "ecommercePurchases",
        "addToCarts",
        "checkouts",
        "eventCount",
    }
)

SESSION_METRICS = (
    "sessions",
    "engagedSessions",
    "totalUsers",
    "newUsers",
    "keyEvents",
    "ecommercePurchases",
    "purchaseRevenue",
    "totalRevenue",
)
PROPERTY_METRICS = (*SESSION_METRICS, "addToCarts", "checkouts")

# report -> (dimensions besides the date, metrics)
REPORTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "property": ((), PROPERTY_METRICS),
    "traffic": (
        ("sessionDefaultChannelGroup", "sessionSource", "sessionMedium", "sessionCampaignName"),
        PROPERTY_METRICS,
    ),
    "landing": (("landingPage", "sessionDefaultChannelGroup"), SESSION_METRICS),
    "device": (("deviceCategory", "browser", "operatingSystem"), (*SESSION_METRICS, "screenPageViews")),
    "geo": (("country", "region"), SESSION_METRICS),
    "events": (("eventName",), ("eventCount", "eventValue")),
}

FLAGS = (
    "dataLossFromOtherRow",
    "subjectToThresholding",
    "samplingMetadatas",
    "dataTruncationReasons",
    "emptyReason",
    "schemaRestrictionResponse",
    "timeZone",
    "currencyCode",
)


def property_id(account_id: str) -> str:
    """The property's number, whether it was stored as `properties/123` or `123`."""
    return account_id.removeprefix("properties/")


def property_path(account: Account) -> str:
    return f"properties/{property_id(account.account_id)}"


def names(values: Sequence[str]) -> list[dict[str, str]]:
    return [{"name": value} for value in values]


# -- reports -----------------------------------------------------------------------------------------------------


def ask_report(dimensions: Sequence[str], metrics: Sequence[str]) -> Callable[[Account, Slice, str | None], Request]:
    """Pages are addressed by row number, so the order is fixed by all dimensions."""
    columns = ("date", *dimensions)
    common = {
        "dimensions": names(columns),
        "metrics": names(metrics),
        "orderBys": [{"dimension": {"dimensionName": column}} for column in columns],
        "keepEmptyRows": not dimensions,
        "returnPropertyQuota": True,
    }

    def request(account: Account, window: Slice, token: str | None) -> Request:
        first, last = window.first_day(account.zone), window.last_day(account.zone)
        body = {
            **common,
            "dateRanges": [{"startDate": first.isoformat(), "endDate": last.isoformat()}],
            "offset": token or "0",
            "limit": str(window.page_size or PAGE_SIZE),
        }
        return Request("POST", f"{property_path(account)}:runReport", body=body)

    return request


def parse_report(body: Any, request: Request) -> Page:
    """A page of a report; the next token is the row number that follows its last row."""
    records = flatten(body)
    expected = row_count(body, records)
    offset = int((request.body or {})["offset"])
    reached = offset + len(records)
    if reached < expected and not records:
        raise error("ROWCOUNT_MISMATCH", f"rows {offset} to {expected} are missing: the page is empty")
    token = str(reached) if reached < expected else None
    return Page(records, token, expected, flags_of(body))


def row_count(report: Any, records: Sequence[Record]) -> int:
    """The rows of all pages. Raises SCHEMA_MISMATCH: without it no page can be told from the last.

    Google leaves out what is zero. https://protobuf.dev/programming-guides/json/
    """
    count = find(report, "rowCount")
    if count is None and not records:
        return 0
    if not is_integer(count) or int(count) < 0:
        raise error("SCHEMA_MISMATCH", f"rowCount should be the number of all rows, got {excerpt(count)}")
    return int(count)


def flatten(report: Any) -> list[Record]:
    """The rows of a report as flat objects. Raises SCHEMA_MISMATCH: an answer that is no report, such as an error under
    the status 200, must not count as days on which nothing happened."""
    if find(report, "rows") is None:
        if find(report, "kind") is None and find(report, "metadata") is None:
            raise error("SCHEMA_MISMATCH", f"the answer is no report, got {excerpt(report)}")
        return []
    dimensions = headers(report, "dimensionHeaders")
    metrics = headers(report, "metricHeaders")
    return [flat_row(row, dimensions, metrics) for row in expect_list(report, "rows")]


def flat_row(row: Any, dimensions: Sequence[str], metrics: Sequence[str]) -> Record:
    """One row as a flat object; one that does not fit its headers as it came, so that it is refused alone."""
    try:
        record = dict(zip(dimensions, [cell["value"] for cell in row.get("dimensionValues", ())], strict=True))
        record.update(zip(metrics, [cell["value"] for cell in row.get("metricValues", ())], strict=True))
    except (AttributeError, KeyError, TypeError, ValueError):
        return row if type(row) is dict else {"row": row}
    day = record.get("date")
    if type(day) is str and len(day) == 8 and day.isdigit():
        record["date"] = f"{day[:4]}-{day[4:6]}-{day[6:]}"
    return record


def headers(report: Any, key: str) -> list[str]:
    found = [find(header, "name") for header in find(report, key) or ()]
    if not all(type(name) is str for name in found):
        raise error("SCHEMA_MISMATCH", f"{key} should be names, got {excerpt(find(report, key))}")
    return [RENAMED.get(name, name) for name in found]


def flags_of(report: Any) -> dict[str, Any]:
    metadata = find(report, "metadata") or {}
    return {flag: metadata[flag] for flag in FLAGS if metadata.get(flag)}


def metric_fields(metrics: Sequence[str]) -> tuple[Any, ...]:
    counts = [name for name in metrics if name in COUNTS]
    amounts = [name for name in metrics if name not in COUNTS]
    return (*required("integer", *counts), *required("decimal", *amounts))


def read_report(dimensions: Sequence[str], metrics: Sequence[str]) -> Callable[[Record, Account], Row]:
    """Key: date and all dimensions."""
    check = compile_fields((*required("date", "date"), *required("text", *dimensions), *metric_fields(metrics)))

    def row(record: Record, account: Account) -> Row:
        check(record)
        key = join_key(record["date"], *[record[dimension] for dimension in dimensions])
        return Row(key, dt.date.fromisoformat(record["date"]), None, record)

    return row


def report_stream(name: str) -> Stream:
    dimensions, metrics = REPORTS[name]
    return Stream(
        name=name,
        table="reports",
        kind=Kind.DAILY,
        request=ask_report(dimensions, metrics),
        parse=parse_report,
        row=read_report(dimensions, metrics),
        page_size=PAGE_SIZE,
        min_page_size=1000,
        slice_days=366 if not dimensions else 31,
        includes_today=False,
    )


# -- totals ------------------------------------------------------------------------------------------------------


def ask_totals(account: Account, window: Slice, token: str | None) -> Request:
    """Reports without any dimension, one range per day: another question than the daily rows, for checking them."""
    first, last = window.first_day(account.zone), window.last_day(account.zone)
    days = [(first + dt.timedelta(days=number)).isoformat() for number in range((last - first).days + 1)]
    groups = [days[start : start + RANGES_PER_REPORT] for start in range(0, len(days), RANGES_PER_REPORT)]
    reports = [
        {
            "dateRanges": [{"startDate": day, "endDate": day, "name": day} for day in group],
            "metrics": names(PROPERTY_METRICS),
            "keepEmptyRows": True,
            "returnPropertyQuota": True,
        }
        for group in groups
    ]
    return Request("POST", f"{property_path(account)}:batchRunReports", body={"requests": reports}, cost=len(reports))


def parse_totals(body: Any, request: Request) -> Page:
    """With several ranges the vendor adds the dimension `dateRange`, which holds the range's name."""
    asked = (request.body or {})["requests"]
    reports = expect_list(body, "reports")
    if len(reports) != len(asked):
        raise error("ROWCOUNT_MISMATCH", f"{len(asked)} reports were asked, {len(reports)} came")
    records: list[Record] = []
    flags: dict[str, Any] = {}
    for question, report in zip(asked, reports, strict=True):
        for record in flatten(report):
            day = record.pop("dateRange", question["dateRanges"][0]["name"])
            records.append({"date": day, **record})
        flags.update(flags_of(report))
    return Page(records, None, None, flags)


check_totals = compile_fields((*required("date", "date"), *metric_fields(PROPERTY_METRICS)))


def read_totals(record: Record, account: Account) -> Row:
    check_totals(record)
    return Row(record["date"], dt.date.fromisoformat(record["date"]), None, record)


# -- the property itself -----------------------------------------------------------------------------------------


def ask_profile(account: Account) -> Sequence[Request]:
    """The smallest report there is: its metadata tells zone and currency without the Admin API."""
    body = {
        "dateRanges": [{"startDate": "yesterday", "endDate": "yesterday"}],
        "metrics": names(("sessions",)),
        "limit": "1",
        "returnPropertyQuota": True,
    }
    return (Request("POST", f"{property_path(account)}:runReport", body=body),)


check_profile = compile_fields((*required("text", "metadata/timeZone"), *required("currency", "metadata/currencyCode")))


def read_profile(account: Account, bodies: Sequence[Any]) -> Profile:
    check_profile(bodies[0])
    metadata = bodies[0]["metadata"]
    restricted = find(metadata, "schemaRestrictionResponse", "activeMetricRestrictions")
    facts = {"metric_restrictions": restricted} if restricted else {}
    return Profile(account.name, metadata["timeZone"], metadata["currencyCode"], facts)


SOURCE = Source(
    name="ga4",
    platform="GA4",
    streams=(
        *(report_stream(name) for name in REPORTS),
        Stream(
            name="totals",
            table="totals",
            kind=Kind.TOTALS,
            request=ask_totals,
            parse=parse_totals,
            row=read_totals,
            page_size=1,  # a row per day: only a shorter window is less
            slice_days=REPORTS_PER_BATCH * RANGES_PER_REPORT,
            includes_today=False,
        ),
    ),
    limits=LIMITS,
    concurrency=5,
    profile_requests=ask_profile,
    profile=read_profile,
    transforms=(
        "ga4__fct_ga4_daily",
        "ga4__fct_account_totals",
        "ga4__quality_results",
        "ga4__compat_fact_ga4_daily",
    ),
)
