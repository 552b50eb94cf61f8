"""The metrics sync in the demo: requests that name the sandbox's ads, and every number compared with its truth."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import requests
from psycopg.rows import dict_row

from stack.parts.part import Ground, PartResult

DAYS = 30
TIMEOUT = 60  # seconds
SCALE = Decimal("0.000001")
NAMESPACE = uuid.UUID("6a1f4c7e-0f6c-4d3a-9a53-2f9f1f0b7d11")
KEYS = {"META": "meta_ad_id", "GOOGLE_ADS": "google_ad_id"}
LABELS = {"META": "meta", "GOOGLE_ADS": "google_ads"}

_REGISTERED = """
select platform, account_id
from public.platform_connections
where is_active is not false and settings ->> 'registered_by' = 'sandbox'
"""
_REQUEST = """
insert into public.requests (id, title, request_type, metadata)
values (%(id)s, %(title)s, 'performance', %(metadata)s)
on conflict (id) do update set metadata = excluded.metadata
"""
_DUE = """
update public.platform_connections
set metrics_next_sync_at = now()
where penstock.metrics_platform(platform) is not null and account_id = any(%(accounts)s)
"""
_WAITING = """
select count(*) as waiting
from public.platform_connections
where
    account_id = any(%(accounts)s) and coalesce(metrics_synced_at, '-infinity') < %(since)s
    and metrics_error_code is null
"""
_SYNCED = """
select account_id, metrics_synced_at, metrics_error_code
from public.platform_connections
where account_id = any(%(accounts)s)
"""
_METRICS = """
select metric_type, date::text as date, value
from public.performance_metrics
where request_id = %(request_id)s and platform = %(label)s
"""
_LOGS = """
select
    count(*) as syncs, coalesce(sum(metrics_created), 0) as created, coalesce(sum(metrics_updated), 0) as updated,
    coalesce(sum((details ->> 'ads_unknown')::integer), 0) as ads_unknown
from public.metric_sync_logs
where start_time >= %(since)s and status = 'success'
"""
_PLAIN = """
select count(*) as plain
from public.platform_connections as c
cross join lateral jsonb_each_text(c.credentials) as t
where c.account_id = any(%(accounts)s) and jsonb_typeof(c.credentials) = 'object' and t.value not like 'v1:%%'
"""

AdDay = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Account:
    """One advertising account of the sandbox."""

    platform: str
    account_id: str
    name: str
    time_zone: str

    @property
    def today(self) -> dt.date:
        return dt.datetime.now(dt.UTC).astimezone(ZoneInfo(self.time_zone)).date()


@dataclass(frozen=True, slots=True)
class Linked:
    """A request and the ads of one account that it names."""

    request_id: uuid.UUID
    account: Account
    ads: tuple[str, ...]


class MetricsSync:
    """Requests with one ad, with several, and with one that no account has."""

    name = "metrics_sync"
    dag_id = "metrics_sync"
    params: Mapping[str, Any] | None = None
    is_always_triggered = False

    def prepare(self, ground: Ground) -> None:
        accounts = sandbox_accounts(ground)
        with psycopg.connect(ground.warehouse_dsn, autocommit=True) as connection:
            for linked in requests_of(ground, accounts):
                named = list(linked.ads) if len(linked.ads) > 1 else linked.ads[0]
                _link(connection, linked.request_id, f"Ads of {linked.account.name}", linked.account.platform, named)
            _link(connection, uuid.uuid5(NAMESPACE, "stranger"), "An ad that nobody has", "META", "1")
            connection.execute(_DUE, {"accounts": [account.account_id for account in accounts]})

    def is_over(self, ground: Ground) -> bool:
        accounts = [account.account_id for account in sandbox_accounts(ground)]
        (row,) = _rows(ground, _WAITING, {"accounts": accounts, "since": ground.since})
        return int(row["waiting"]) == 0

    def result(self, ground: Ground) -> PartResult:
        accounts = sandbox_accounts(ground)
        ids = {"accounts": [account.account_id for account in accounts]}
        synced = {row["account_id"]: row for row in _rows(ground, _SYNCED, ids)}
        problems = [*not_synced(accounts, synced, ground.since)]
        compared = 0
        for linked in requests_of(ground, accounts):
            row = synced.get(linked.account.account_id) or {}
            if not same_day(linked.account, row.get("metrics_synced_at")):
                continue  # not synced, which was said, or its day has turned meanwhile and the truth with it
            count, differing = _compare(ground, linked)
            compared += count
            problems += differing
        (log,) = _rows(ground, _LOGS, {"since": ground.since})
        (plain,) = _rows(ground, _PLAIN, ids)
        if plain["plain"]:
            problems.append(f"{plain['plain']} credentials are still stored plain")
        if not compared:
            problems.append("no number was compared")
        data = {"compared": compared, "differing": len(problems), **{name: int(value) for name, value in log.items()}}
        line = (
            f"{len(accounts)} connections, {compared:,} numbers equal the vendors', {data['created']:,} written, "
            f"{data['ads_unknown']} ads without a request"
        )
        return PartResult(data, [line], problems)


def _link(connection: psycopg.Connection[Any], request_id: uuid.UUID, title: str, platform: str, ads: Any) -> None:
    """A request that names these ads."""
    values: dict[str, Any] = {"id": request_id, "title": title, "metadata": json.dumps({KEYS[platform]: ads})}
    connection.execute(_REQUEST, values)


def sandbox_accounts(ground: Ground) -> list[Account]:
    """The accounts with ads that this stack reads from the sandbox."""
    registered = {(row["platform"], row["account_id"]) for row in _rows(ground, _REGISTERED, {})}
    listed = [*_get(ground, "accounts"), *_get(ground, "google_ads")]
    return [
        Account(item["platform"], item["account_id"], item["account_name"], item["time_zone"])
        for item in listed
        if item["platform"] in KEYS and (item["platform"], item["account_id"]) in registered
    ]


def requests_of(ground: Ground, accounts: Sequence[Account]) -> Iterator[Linked]:
    """For every account one request with one ad, and one with three."""
    for account in accounts:
        days = ad_days(ground, account)
        ads = sorted({day["ad_id"] for day in days})
        for number, chosen in enumerate((ads[:1], ads[1:4])):
            if chosen:
                request_id = uuid.uuid5(NAMESPACE, f"{account.platform} {account.account_id} {number}")
                yield Linked(request_id, account, tuple(chosen))


def ad_days(ground: Ground, account: Account) -> list[AdDay]:
    first = account.today - dt.timedelta(days=DAYS - 1)
    query = {"platform": account.platform, "account_id": account.account_id}
    window = {"from": first.isoformat(), "to": account.today.isoformat()}
    found: list[AdDay] = _get(ground, "ad_days", **query, **window)
    return found


def not_synced(
    accounts: Sequence[Account], synced: Mapping[str, Mapping[str, Any]], since: dt.datetime
) -> Iterator[str]:
    for account in accounts:
        row = synced.get(account.account_id)
        at = row["metrics_synced_at"] if row else None
        if at is None or at < since:
            code = (row or {}).get("metrics_error_code") or "it was never due"
            yield f"{account.platform} {account.account_id} was not synced: {code}"


def same_day(account: Account, moment: dt.datetime | None) -> bool:
    return moment is not None and moment.astimezone(ZoneInfo(account.time_zone)).date() == account.today


def truth(days: Sequence[AdDay], ads: Sequence[str]) -> dict[tuple[str, str], Decimal]:
    """(metric, day) -> value of a request with these ads."""
    by_day: dict[str, list[AdDay]] = {}
    for day in days:
        if day["ad_id"] in ads:
            by_day.setdefault(day["date"], []).append(day)
    return {(name, date): value for date, rows in by_day.items() for name, value in _of_day(rows).items()}


def _of_day(rows: Sequence[AdDay]) -> dict[str, Decimal]:
    """The metrics of one day, from the days of its ads. Reach of several ads is no sum: there is none."""
    impressions, clicks = (Decimal(sum(row[name] for row in rows)) for name in ("impressions", "clicks"))
    spend = sum((Decimal(row["spend"]) for row in rows), Decimal())
    found = {"impressions": impressions, "clicks": clicks, "spend": spend}
    if impressions:
        found |= {"cpm": _ratio(spend * 1000, impressions), "ctr": _ratio(clicks * 100, impressions)}
    if clicks:
        found["cpc"] = _ratio(spend, clicks)
    if len(rows) == 1 and rows[0]["reach"] is not None:
        found["reach"] = Decimal(rows[0]["reach"])
    return found


def _ratio(top: Decimal, bottom: Decimal) -> Decimal:
    """A quotient with six places, rounded as Postgres rounds."""
    return (top / bottom).quantize(SCALE, ROUND_HALF_UP)


def _compare(ground: Ground, linked: Linked) -> tuple[int, list[str]]:
    """Numbers compared, and what differs."""
    values = {"request_id": linked.request_id, "label": LABELS[linked.account.platform]}
    ours = {(row["metric_type"], row["date"]): row["value"] for row in _rows(ground, _METRICS, values)}
    theirs = truth(ad_days(ground, linked.account), linked.ads)
    differing = [
        f"{linked.account.name} {date} {name}: {ours.get((name, date))}, the vendor says {theirs.get((name, date))}"
        for name, date in sorted(ours.keys() | theirs.keys())
        if ours.get((name, date)) != theirs.get((name, date))
    ]
    return len(theirs), differing[:5]


def _rows(ground: Ground, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    with psycopg.connect(ground.warehouse_dsn, autocommit=True, row_factory=dict_row) as connection:
        return connection.execute(query, values).fetchall()


def _get(ground: Ground, door: str, **query: str) -> Any:
    answer = requests.get(f"{ground.sandbox_url}/sandbox/{door}", params=query, timeout=TIMEOUT)
    answer.raise_for_status()
    return answer.json()
