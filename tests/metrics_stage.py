"""The metrics sync without Airflow: real jobs, clients and database, a real sandbox over HTTP."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import requests
from psycopg.types.json import Jsonb

from penstock.clients import CLIENTS
from penstock.clients.credentials import Credentials
from penstock.jobs import metrics_sync
from penstock.jobs.metrics_sync import SyncContext, SyncFailed, SyncWaiting
from penstock.jobs.metrics_sync.context import VendorClient
from penstock.sources.stream import Account, Source
from penstock.warehouse.limits import SharedBreaker, SharedLimiter
from penstock.warehouse.session import Warehouse
from penstock.warehouse.vault import Vault
from stack.parts.metrics_sync import LABELS, truth

Metrics = dict[tuple[str, str, str], Decimal]
"""(platform, metric type, day) -> value of one request."""


@dataclass
class Outcome:
    """How one sync ended."""

    status: str
    code: str | None = None
    counts: Mapping[str, Any] = field(default_factory=dict)
    is_reported: bool = False


@dataclass
class MetricsStage:
    """Everything a sync needs, against one sandbox and one database."""

    warehouse: Warehouse
    sandbox_url: str
    now: Callable[[], dt.datetime]
    vault: Vault = field(default_factory=lambda: Vault.from_environment({"PENSTOCK_ENCRYPTION_KEYS": "11" * 32}))
    runs: int = 0

    # -- what other people's systems wrote

    def accounts(self, platform: str) -> list[dict[str, Any]]:
        door = "google_ads" if platform == "GOOGLE_ADS" else "accounts"
        listed = requests.get(f"{self.sandbox_url}/sandbox/{door}", timeout=10).json()
        return [each for each in listed if each["platform"] == platform]

    def connect(self, account: Mapping[str, Any], **columns: Any) -> str:
        """A row as the old worker's application wrote them: no shop, credentials plain."""
        row: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "platform": account["platform"].lower(),
            "account_id": account["account_id"],
            "account_name": account["account_name"],
            "credentials": Jsonb(account["credentials"]),
            **columns,
        }
        names = ", ".join(row)
        values = ", ".join(f"%({name})s" for name in row)
        self.execute(f"insert into platform_connections ({names}) values ({values})", **row)
        return str(row["id"])

    def connections(self) -> list[str]:
        """The ids of all rows."""
        return [str(row[0]) for row in self.fetch("select id from platform_connections order by created_at, id")]

    def request(self, **metadata: Any) -> str:
        """A request of the agency with this metadata."""
        (row,) = self.fetch(
            "insert into requests (title, request_type, metadata) values ('Launch', 'performance', %(metadata)s) "
            "returning id::text",
            metadata=Jsonb(metadata),
        )
        return str(row[0])

    # -- syncing

    def claim(self, *connections: str, limit: int = 50) -> list[dict[str, Any]]:
        self.runs += 1
        return metrics_sync.claim(
            self.warehouse,
            holder=f"metrics_sync/run {self.runs}",
            limit=limit,
            connections=connections or None,
            now=self.now,
        )

    def work(self, lane: Mapping[str, Any], **changes: Any) -> Outcome:
        """One lane, as the mapped task runs it."""
        try:
            return Outcome("success", counts=metrics_sync.sync_connection(self.context(lane, **changes)))
        except SyncWaiting as waiting:
            return Outcome("waiting", waiting.cause.code)
        except SyncFailed as failed:
            return Outcome("failed", failed.cause.code, is_reported=failed.is_reported)

    def sync(self, *connections: str, **changes: Any) -> list[Outcome]:
        """Everything that is due, or these connections."""
        return [self.work(lane, **changes) for lane in self.claim(*connections)]

    def make_due(self) -> None:
        self.execute("update platform_connections set metrics_next_sync_at = now()")

    def context(self, lane: Mapping[str, Any], **changes: Any) -> SyncContext:
        values: dict[str, Any] = {
            "warehouse": self.warehouse,
            "vault": self.vault,
            "claimed": lane,
            "open_client": self.open_client,
            "now": self.now,
        }
        return SyncContext(**{**values, **changes})

    def open_client(self, source: Source, account: Account, own: Mapping[str, str] | None) -> VendorClient:
        held = dict(own or {})
        path = {"meta_ads": "meta", "google_ads": "google_ads"}[source.name]
        token, secret = held.pop("access_token", ""), held.pop("app_secret", None)
        extra = {"token_uri": f"{self.sandbox_url}/google/token", **held} if source.name == "google_ads" else {}
        credentials = Credentials(f"{self.sandbox_url}/{path}", token, secret, extra)
        limiter, breaker = SharedLimiter(self.warehouse), SharedBreaker(self.warehouse)
        return CLIENTS[source.name](credentials, account.account_id, source.limits, limiter, breaker)

    # -- truth

    def ad_days(self, platform: str, account_id: str, days: int = 30) -> list[dict[str, Any]]:
        """Every ad's days, as the sandbox knows them now."""
        account = next(each for each in self.accounts(platform) if each["account_id"] == account_id)
        today = self.now().astimezone(ZoneInfo(account["time_zone"])).date()
        first = today - dt.timedelta(days=days - 1)
        query = {"platform": platform, "account_id": account_id, "from": first.isoformat(), "to": today.isoformat()}
        rows = requests.get(f"{self.sandbox_url}/sandbox/ad_days", params=query, timeout=30)
        rows.raise_for_status()
        found: list[dict[str, Any]] = rows.json()
        return found

    def ads(self, platform: str, account_id: str) -> list[str]:
        """Ads that delivered lately, those with most days first."""
        counts: dict[str, int] = {}
        for row in self.ad_days(platform, account_id):
            counts[row["ad_id"]] = counts.get(row["ad_id"], 0) + 1
        return sorted(counts, key=lambda ad_id: (-counts[ad_id], ad_id))

    def expected(self, label: str, ad_ids: Iterable[str], *accounts: str, days: int = 30) -> Metrics:
        """What a request with these ads should show."""
        platform = next(name for name, each in LABELS.items() if each == label)
        days_of_ads = [row for account_id in accounts for row in self.ad_days(platform, account_id, days)]
        return {(label, name, day): value for (name, day), value in truth(days_of_ads, list(ad_ids)).items()}

    def metrics(self, request_id: str) -> Metrics:
        """What the request shows."""
        rows = self.fetch(
            "select platform, metric_type, date::text, value from performance_metrics where request_id = %(id)s",
            id=request_id,
        )
        return {(platform, name, day): value for platform, name, day, value in rows}

    # -- the database

    def fetch(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with self.warehouse.connection() as conn:
            return conn.execute(query, parameters).fetchall()

    def execute(self, statement: str, **parameters: Any) -> None:
        with self.warehouse.connection() as conn:
            conn.execute(statement, parameters)

    def logs(self) -> list[tuple[Any, ...]]:
        return self.fetch(
            "select status, metrics_created, metrics_updated, end_time is not null from metric_sync_logs "
            "order by start_time, id"
        )
