"""The platform ETL without Airflow: real jobs, clients and warehouse, a real sandbox over HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

from penstock.clients import CLIENTS
from penstock.clients.credentials import Credentials
from penstock.core.errors import PenstockError
from penstock.jobs import platform_etl
from penstock.jobs.accounts import register_account
from penstock.jobs.platform_etl import RunContext, RunNotComplete, RunWaiting, VendorClient
from penstock.jobs.platform_etl.context import utc_now
from penstock.sources.stream import Account, Source
from penstock.warehouse.limits import SharedBreaker, SharedLimiter
from penstock.warehouse.session import Warehouse
from penstock.warehouse.vault import Vault
from sandbox.state import State

BASE_PATHS = {"meta_ads": "meta", "ga4": "ga4", "klaviyo": "klaviyo"}
VOLATILE = {
    "run_id",
    "slice_no",
    "connection_id",
    "ingested_at",
    "loaded_at",
    "created_at",
    "updated_at",
    "first_seen_at",
    "last_seen_at",
    "seen",
    "id",
}
"""Columns that differ from run to run."""
SOURCES = {"META": "meta_ads", "GA4": "ga4", "KLAVIYO": "klaviyo"}


@dataclass
class Outcome:
    """What became of one claimed run."""

    lane: Mapping[str, Any]
    status: str
    error: PenstockError | None = None
    extracted: dict[str, Any] = field(default_factory=dict)


@dataclass
class Pipeline:
    """Everything a run needs, against one sandbox and one database."""

    warehouse: Warehouse
    sandbox_url: str
    vault: Vault = field(default_factory=lambda: Vault.from_environment({"PENSTOCK_ENCRYPTION_KEYS": "11" * 32}))
    is_last_try: bool = True
    now: Callable[[], dt.datetime] = utc_now
    runs_started: int = 0
    vendor_pace: float = 1.0
    """How many of the vendor's seconds pass in one of ours, as in `hurried`."""

    def accounts(self, *platforms: str) -> list[dict[str, Any]]:
        listed = requests.get(f"{self.sandbox_url}/sandbox/accounts", timeout=10).json()
        wanted = [each for each in listed if not each["account_id"].startswith("BENCH")]
        return [each for each in wanted if not platforms or each["platform"] in platforms]

    def register(self, accounts: Iterable[Mapping[str, Any]]) -> list[str]:
        return [
            register_account(
                self.warehouse,
                self.vault,
                platform=account["platform"],
                shop_id=account["shop_id"],
                account_id=account["account_id"],
                account_name=account["account_name"],
                credentials=account["credentials"],
                time_zone=None,
                currency=None,
                settings=account["settings"],
                shop_name=account["shop_name"],
            )
            for account in accounts
        ]

    def open_client(self, source: Source, account: Account, own: Mapping[str, str] | None) -> VendorClient:
        own = own or {}
        extra = {"service_account": json.loads(own["service_account_json"])} if "service_account_json" in own else {}
        credentials = Credentials(
            base_url=f"{self.sandbox_url}/{BASE_PATHS[source.name]}",
            token=own.get("access_token") or own.get("api_key") or "",
            secret=own.get("app_secret"),
            extra=extra,
        )
        limiter, breaker = SharedLimiter(self.warehouse), SharedBreaker(self.warehouse)
        limits = {
            family: tuple(dataclasses.replace(limit, period=limit.period / self.vendor_pace) for limit in together)
            for family, together in source.limits.items()
        }
        return CLIENTS[source.name](credentials, account.account_id, limits, limiter, breaker)

    def enqueue(self, source: str, **wish: Any) -> list[str]:
        self.runs_started += 1
        defaults: dict[str, Any] = {
            "window_start": None,
            "window_end": None,
            "job_type": "INCREMENTAL",
            "accounts": None,
            "streams": None,
            "is_dry_run": False,
            "requested_by": "test",
            "dag_id": f"platform_etl__{source}",
            "dag_run_id": f"run {self.runs_started}",
        }
        return platform_etl.enqueue_scheduled(self.warehouse, source, **{**defaults, **wish})

    def claim(self, source: str, run_ids: list[str]) -> list[dict[str, Any]]:
        return platform_etl.claim(
            self.warehouse,
            source=source,
            dag_id=f"platform_etl__{source}",
            dag_run_id=f"run {self.runs_started}",
            limit=50,
            run_ids=run_ids,
        )

    def context(self, lane: Mapping[str, Any], **changes: Any) -> RunContext:
        settings: dict[str, Any] = {
            "warehouse": self.warehouse,
            "vault": self.vault,
            "run": lane,
            "open_client": self.open_client,
            "is_last_try": self.is_last_try,
            "now": self.now,
        }
        return RunContext(**{**settings, **changes})

    def work(self, lane: Mapping[str, Any], **changes: Any) -> Outcome:
        """The three stages of one lane, as the mapped task group runs them."""
        context = self.context(lane, **changes)
        outcome = Outcome(lane, "SUCCEEDED")
        try:
            outcome.extracted = platform_etl.extract(context)
            platform_etl.transform(context)
        except RunWaiting as waiting:
            return Outcome(lane, "QUEUED", waiting.cause)
        except PenstockError as failure:
            outcome.error = failure
        try:
            outcome.status = platform_etl.finish(context)["status"]
        except RunNotComplete as incomplete:
            outcome.status = incomplete.status
        return outcome

    def sync(self, source: str, **wish: Any) -> list[Outcome]:
        """Enqueue, claim and work every account of the source."""
        return [self.work(lane) for lane in self.claim(source, self.enqueue(source, **wish))]

    def fetch(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with self.warehouse.connection() as conn:
            return conn.execute(query, parameters).fetchall()


@contextlib.contextmanager
def hurried(state: State, pace: float) -> Iterator[None]:
    """The sandbox's rate-limit windows run so many times as fast: a pipeline of the same `vendor_pace` keeps to them
    as it would to the real ones, and waits less. Time-stamps and Retry-After stay as they are."""
    clock = state.clock
    real = clock.monotonic
    clock.monotonic = lambda: real() * pace  # type: ignore[method-assign]
    try:
        yield
    finally:
        del clock.monotonic


def snapshot(pipeline: Pipeline, *schemas: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the staging tables, facts and dimensions, without what differs from run to run."""
    columns: dict[str, list[str]] = {}
    for schema, table, column in pipeline.fetch(
        "select c.table_schema, c.table_name, c.column_name from information_schema.columns c "
        "join information_schema.tables t using (table_schema, table_name) "
        "where t.table_type = 'BASE TABLE' and c.table_schema = any(%(schemas)s) "
        "and c.table_name not in ('etl_runs', 'sync_cursors', 'shops') order by c.ordinal_position",
        schemas=list(schemas) or ["staging_ingest", "core_warehouse"],
    ):
        if column not in VOLATILE:
            columns.setdefault(f"{schema}.{table}", []).append(column)
    rows = {
        table: sorted(pipeline.fetch(f"select {', '.join(f'{name}::text' for name in names)} from {table}"), key=str)
        for table, names in columns.items()
    }
    return {table: found for table, found in rows.items() if found}
