"""Google Ads API: GAQL queries and their rows. Pure: nothing here opens a connection.

`SOURCE` is complete but for transforms, so that the platform ETL could take it into its registry; until then the
metrics sync reads it.

https://developers.google.com/google-ads/api/docs/query/overview,
https://developers.google.com/google-ads/api/rest/common/search
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from typing import Any

from penstock.core.errors import error
from penstock.sources.fields import compile_fields, excerpt, expect_object, find, join_key, optional, required
from penstock.sources.stream import Account, Kind, Limit, Page, Profile, Record, Request, Row, Slice, Source, Stream

GOOGLE_ADS_API_VERSION = "v26"  # https://developers.google.com/google-ads/api/docs/release-notes

# Reports with a date are kept for 37 months (https://developers.google.com/google-ads/api/docs/reporting/overview);
# one day of margin for the zone.
RETENTION_DAYS = 1123

# Clicks are credited with conversions for 30 days unless a conversion action says otherwise, invalid clicks are taken
# back later still (https://support.google.com/google-ads/answer/3123169).
RESTATEMENT_DAYS = 30

# The vendor names no number for calls per second (https://developers.google.com/google-ads/api/docs/best-practices/quotas);
# this is a pace that stays clear of RESOURCE_TEMPORARILY_EXHAUSTED.
LIMITS = {"default": (Limit(count=5, period=1.0),)}

# Basic access: 15,000 operations a day per developer token, of which we take 80 %. One stream is one operation.
# https://developers.google.com/google-ads/api/docs/access-levels
DEVELOPER_LIMITS = (Limit(count=12_000, period=86_400.0, burst=6_000),)

ENABLED = "ENABLED"
MICROS = 1_000_000

# Without a filter on status the vendor also answers for removed ads: what they spent is spent.
AD_DAYS_QUERY = (
    "SELECT customer.id, campaign.id, campaign.name, ad_group.id, ad_group.name, ad_group_ad.ad.id,"
    " ad_group_ad.ad.name, segments.date, metrics.impressions, metrics.clicks, metrics.cost_micros,"
    " metrics.conversions, metrics.conversions_value"
    " FROM ad_group_ad WHERE segments.date BETWEEN '{first}' AND '{last}'"
)
TOTALS_QUERY = (
    "SELECT customer.id, segments.date, metrics.impressions, metrics.clicks, metrics.cost_micros,"
    " metrics.conversions, metrics.conversions_value"
    " FROM customer WHERE segments.date BETWEEN '{first}' AND '{last}'"
)
PROFILE_QUERY = (
    "SELECT customer.id, customer.descriptive_name, customer.currency_code, customer.time_zone, customer.manager,"
    " customer.status FROM customer LIMIT 1"
)

MEASURE_CHECKS = (
    *required("id", "customer/id"),
    *required("date", "segments/date"),
    *optional("integer", "metrics/impressions", "metrics/clicks", "metrics/costMicros"),
    *optional("decimal", "metrics/conversions", "metrics/conversionsValue"),
)


def customer_id(account_id: str) -> str:
    """The ten digits, whether they were stored as 123-456-7890, with a prefix or plain."""
    return re.sub(r"[^0-9]", "", account_id)


def search_stream(account: Account, query: str) -> Request:
    """One call that answers the whole query (https://developers.google.com/google-ads/api/rest/common/search)."""
    path = f"customers/{customer_id(account.account_id)}/googleAds:searchStream"
    return Request("POST", path, body={"query": query})


def rows_of(body: Any, request: Request) -> Page:
    """The rows of all batches. A stream has no pages: it is an array of batches, empty when nothing was found.

    Raises SCHEMA_MISMATCH, and RESPONSE_TRUNCATED when the array ends with an error: what came before is not all.
    """
    if not isinstance(body, list):
        raise error("SCHEMA_MISMATCH", f"a stream is a list of batches, got {excerpt(body)}")
    records: list[Record] = []
    for batch in body:
        if find(batch, "error") is not None:
            raise error("RESPONSE_TRUNCATED", f"the stream broke off: {excerpt(find(batch, 'error', 'message'))}")
        results = find(batch, "results")
        if results is None:
            expect_object(batch)
            continue
        if not isinstance(results, list):
            raise error("SCHEMA_MISMATCH", f"results is no list, got {excerpt(results)}")
        records += results
    return Page(records)


def ask_days(query: str) -> Callable[[Account, Slice, str | None], Request]:
    def request(account: Account, window: Slice, token: str | None) -> Request:
        first, last = window.first_day(account.zone), window.last_day(account.zone)
        return search_stream(account, query.format(first=first.isoformat(), last=last.isoformat()))

    return request


def refuse_other_customer(record: Record, account: Account) -> None:
    """One client's data must never land in another's tables."""
    found = str(record["customer"]["id"])
    if found != customer_id(account.account_id):
        raise error("SCHEMA_MISMATCH", f"customer.id should be {customer_id(account.account_id)}, got {excerpt(found)}")


check_ad_day = compile_fields((*MEASURE_CHECKS, *required("id", "adGroup/id", "adGroupAd/ad/id")))
check_total = compile_fields(MEASURE_CHECKS)


def read_ad_day(record: Record, account: Account) -> Row:
    """Key: date, ad group, ad. One ad may serve in several ad groups."""
    check_ad_day(record)
    refuse_other_customer(record, account)
    day = dt.date.fromisoformat(record["segments"]["date"])
    return Row(join_key(day, record["adGroup"]["id"], record["adGroupAd"]["ad"]["id"]), day, None, record)


def read_total(record: Record, account: Account) -> Row:
    check_total(record)
    refuse_other_customer(record, account)
    day = dt.date.fromisoformat(record["segments"]["date"])
    return Row(day.isoformat(), day, None, record)


def ask_profile(account: Account) -> Sequence[Request]:
    return (search_stream(account, PROFILE_QUERY),)


check_profile = compile_fields(
    (
        *required("id", "customer/id"),
        *required("currency", "customer/currencyCode"),
        *required("text", "customer/timeZone"),
    )
)


def read_profile(account: Account, bodies: Sequence[Any]) -> Profile:
    records = rows_of(bodies[0], ask_profile(account)[0]).records
    if not records:
        raise error("SCHEMA_MISMATCH", "the vendor says nothing of the customer")
    check_profile(records[0])
    customer = records[0]["customer"]
    status = customer.get("status", ENABLED)
    return Profile(
        name=customer.get("descriptiveName") or account.name,
        time_zone=customer["timeZone"],
        currency=customer["currencyCode"],
        facts={"status": status},
        problem=profile_problem(status, is_manager=bool(customer.get("manager"))),
    )


def profile_problem(status: str, *, is_manager: bool) -> str | None:
    """Why nothing can be read of the customer: numbers belong to the accounts below a manager, not to itself."""
    if is_manager:
        return "GOOGLE_ADS_MANAGER_ACCOUNT"
    return None if status == ENABLED else "GOOGLE_ADS_CUSTOMER_NOT_ENABLED"


AD_DAYS = Stream(
    name="ad_days",
    table="daily",
    kind=Kind.DAILY,
    request=ask_days(AD_DAYS_QUERY),
    parse=rows_of,
    row=read_ad_day,
    page_size=1,
    slice_days=30,
    retention_days=RETENTION_DAYS,
)

SOURCE = Source(
    name="google_ads",
    platform="GOOGLE_ADS",
    streams=(
        AD_DAYS,
        Stream(
            name="totals",
            table="totals",
            kind=Kind.TOTALS,
            request=ask_days(TOTALS_QUERY),
            parse=rows_of,
            row=read_total,
            page_size=1,
            slice_days=90,
            retention_days=RETENTION_DAYS,
        ),
    ),
    limits=LIMITS,
    concurrency=2,
    profile_requests=ask_profile,
    profile=read_profile,
    transforms=(),
)
