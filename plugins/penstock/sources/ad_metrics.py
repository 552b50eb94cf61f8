"""What the metrics sync reads of each advertising platform: ads by day, in one form for all of them.

The limits are those of the platform's source, so that the metrics sync and the platform ETL share one bucket per ad
account.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from penstock.core.errors import error
from penstock.sources import google_ads, meta_ads
from penstock.sources.fields import compile_fields, join_key, optional, required
from penstock.sources.stream import Account, Kind, Record, Request, Row, Slice, Source, Stream

META_RESTATEMENT_DAYS = 28
"""Actions are credited to clicks of up to 28 days before, and the day's row changes with them
(https://developers.facebook.com/docs/marketing-api/insights/best-practices)."""

SYNC_DAYS = max(META_RESTATEMENT_DAYS, google_ads.RESTATEMENT_DAYS)
"""How many days each sync reads again."""


@dataclass(frozen=True, slots=True)
class AdDay:
    """One ad's numbers of one day; `spend` in the account's currency. `reach`: people, where the vendor tells."""

    ad_id: str
    date: dt.date
    impressions: int
    clicks: int
    spend: Decimal
    reach: int | None = None


@dataclass(frozen=True, slots=True)
class AdPlatform:
    """How the ads of one platform are read and matched.

    label: the value in `performance_metrics.platform`.
    metadata_key: the key of `requests.metadata` that names the ads of a request.
    measure: a row that the stream has checked -> its numbers.
    """

    source: Source
    stream: Stream
    label: str
    metadata_key: str
    measure: Callable[[Row], AdDay]


# -- Meta --------------------------------------------------------------------------------------------------------

# Ratios are made of sums later: those of single ads cannot be added up.
META_FIELDS = "account_id,ad_id,ad_name,date_start,date_stop,impressions,clicks,spend,reach"

check_insight = compile_fields(
    (
        *required("id", "account_id", "ad_id"),
        *required("date", "date_start", "date_stop"),
        *required("decimal", "spend"),
        *required("integer", "impressions"),
        *optional("integer", "clicks", "reach"),
    )
)


def ask_ad_insights(account: Account, window: Slice, token: str | None) -> Request:
    """Every ad by day, archived and deleted ones as well (https://developers.facebook.com/docs/marketing-api/insights)."""
    params = {
        "level": "ad",
        "fields": META_FIELDS,
        "time_increment": "1",
        "time_range": meta_ads.time_range(window.first_day(account.zone), window.last_day(account.zone)),
        "filtering": meta_ads.compact(
            [{"field": "ad.effective_status", "operator": "IN", "value": list(meta_ads.AD_STATUSES)}]
        ),
        "limit": str(window.page_size or meta_ads.PAGE_SIZES["account"]),
    }
    if token:
        params["after"] = token
    return Request("GET", f"{meta_ads.account_path(account)}/insights", params, cost=meta_ads.READ_COST)


def read_ad_insight(record: Record, account: Account) -> Row:
    check_insight(record)
    meta_ads.refuse_other_account(record, account)
    day = meta_ads.one_day(record)
    return Row(join_key(day, record["ad_id"]), day, None, record)


def measure_insight(row: Row) -> AdDay:
    record = row.payload
    return AdDay(
        ad_id=str(record["ad_id"]),
        date=dated(row),
        impressions=int(record["impressions"]),
        clicks=int(record.get("clicks") or 0),
        spend=Decimal(str(record["spend"])),
        reach=None if record.get("reach") is None else int(record["reach"]),
    )


# -- Google Ads ----------------------------------------------------------------------------------------------------


def measure_google_day(row: Row) -> AdDay:
    """The vendor leaves out what is zero; money comes in millionths. It tells no reach of single ads."""
    metrics = row.payload.get("metrics") or {}
    return AdDay(
        ad_id=str(row.payload["adGroupAd"]["ad"]["id"]),
        date=dated(row),
        impressions=int(metrics.get("impressions") or 0),
        clicks=int(metrics.get("clicks") or 0),
        spend=Decimal(int(metrics.get("costMicros") or 0)) / google_ads.MICROS,
    )


def dated(row: Row) -> dt.date:
    if row.record_date is None:
        raise error("MISSING_KEY", "the record has no day")
    return row.record_date


PLATFORMS: tuple[AdPlatform, ...] = (
    AdPlatform(
        source=meta_ads.SOURCE,
        stream=Stream(
            name="ad_metrics",
            table="ad_metrics",
            kind=Kind.DAILY,
            request=ask_ad_insights,
            parse=meta_ads.page_of,
            row=read_ad_insight,
            page_size=meta_ads.PAGE_SIZES["account"],
            min_page_size=meta_ads.MIN_PAGE_SIZE,
            slice_days=SYNC_DAYS,
            retention_days=meta_ads.RETENTION_DAYS,
        ),
        label="meta",
        metadata_key="meta_ad_id",
        measure=measure_insight,
    ),
    AdPlatform(
        source=google_ads.SOURCE,
        stream=google_ads.AD_DAYS,
        label="google_ads",
        metadata_key="google_ad_id",
        measure=measure_google_day,
    ),
)


def by_platform(platform: str) -> AdPlatform:
    """The platform of a connection (`META`). Raises SOURCE_NOT_SUPPORTED."""
    for each in PLATFORMS:
        if each.source.platform == platform:
            return each
    raise error("SOURCE_NOT_SUPPORTED", f"no metrics are read from platform {platform!r}")
