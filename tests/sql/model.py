"""What the tests of the transform SQL share: accounts, staging rows, one run's transforms, tables as rows."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from penstock import sources
from penstock.sources.stream import Account, Record
from penstock.warehouse.queries import load, sql_root
from penstock.warehouse.statements import split

QUERIES = load("platform_etl")
NAMESPACE = uuid.UUID("6f6e7073-7465-636b-0000-000000000000")

Window = tuple[dt.date, dt.date] | None
"""First and last day; None for a listing that was read whole."""

Row = dict[str, Any]


def connection_id(alias: str) -> str:
    return str(uuid.uuid5(NAMESPACE, alias))


class Model:
    """A migrated database in which accounts are known by an alias.

    Its present is that of the test: from the import of a test's module to its turn it may be ten minutes.
    """

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn
        self.now = dt.datetime.now(dt.UTC)
        self.accounts: dict[str, Account] = {}
        self.platforms: dict[str, str] = {}

    def hours_ago(self, hours: float) -> dt.datetime:
        return self.now - dt.timedelta(hours=hours)

    def add_shop(self, shop_id: str, *, currency: str = "EUR", time_zone: str = "UTC") -> None:
        self.insert(
            "core_warehouse.shops",
            [
                {
                    "shop_id": shop_id,
                    "shop_domain": f"{shop_id}.example",
                    "shop_name": shop_id.title(),
                    "currency": currency,
                    "timezone": time_zone,
                }
            ],
        )

    def add_account(
        self,
        alias: str,
        platform: str,
        *,
        account_id: str | None = None,
        shop_id: str = "aurora",
        time_zone: str = "UTC",
        currency: str = "EUR",
        **columns: Any,
    ) -> Account:
        account = Account(
            connection_id=connection_id(alias),
            shop_id=shop_id,
            account_id=account_id or alias,
            name=alias,
            time_zone=time_zone,
            currency=currency,
            settings=columns.get("settings", {}),
            facts=columns.get("facts", {}),
        )
        row = {
            "id": account.connection_id,
            "platform": platform,
            "shop_id": shop_id,
            "account_id": account.account_id,
            "account_name": alias,
            "time_zone": time_zone,
            "currency": currency,
            **columns,
        }
        self.insert("public.platform_connections", [row])
        self.accounts[alias] = account
        self.platforms[alias] = platform
        return account

    def insert(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            statement = sql.SQL("insert into {} ({}) values ({})").format(
                sql.Identifier(*table.split(".")),
                sql.SQL(", ").join(map(sql.Identifier, row)),
                sql.SQL(", ").join(sql.Placeholder() * len(row)),
            )
            self.conn.execute(statement, [_adapted(value) for value in row.values()])

    def stage(self, alias: str, stream: str, records: Sequence[Record]) -> None:
        """Puts records where the loader puts them, under the keys that their source gives them."""
        source = sources.by_platform(self.platforms[alias])
        declared = source.stream(stream)
        table = sql.Identifier("staging_ingest", f"{source.name}_{declared.table}")
        account = self.accounts[alias]
        for record in records:
            row = declared.row(json.loads(json.dumps(record)), account)
            payload = json.dumps(row.payload, sort_keys=True)
            self.conn.execute(
                sql.SQL(
                    "insert into {} (run_id, slice_no, connection_id, report_key, record_key, record_date, "
                    "cursor_value, payload, payload_hash) values (%s, 0, %s, %s, %s, %s, %s, %s, %s) "
                    "on conflict (connection_id, report_key, record_key) do update "
                    "set payload = excluded.payload, payload_hash = excluded.payload_hash"
                ).format(table),
                [
                    uuid.uuid4(),
                    account.connection_id,
                    stream,
                    row.record_key,
                    row.record_date,
                    row.cursor_value,
                    payload,
                    hashlib.sha256(payload.encode()).digest(),
                ],
            )

    def withdraw(self, alias: str, stream: str, condition: str = "true") -> None:
        """Takes rows out of staging, as the job does with those that the vendor no longer sends."""
        source = sources.by_platform(self.platforms[alias])
        self.conn.execute(
            f"delete from staging_ingest.{source.name}_{source.stream(stream).table} "
            f"where connection_id = %s and report_key = %s and {condition}",
            [connection_id(alias), stream],
        )

    def transform(
        self,
        alias: str,
        windows: Mapping[str, Window],
        *,
        flags: Mapping[str, Any] | None = None,
        complete: bool = True,
    ) -> str:
        """One run's transforms, in one transaction, as the job calls them. Returns the run's id.

        flags: what the vendor said of its answers, stored with one finished slice per window.
        complete: whether listings were read whole.
        """
        account = self.accounts[alias]
        run_id = str(uuid.uuid4())
        self.insert(
            "core_warehouse.etl_runs",
            [
                {
                    "id": run_id,
                    "shop_id": account.shop_id,
                    "status": "SUCCEEDED",
                    "job_type": "INCREMENTAL",
                    "platform": self.platforms[alias],
                    "connection_id": account.connection_id,
                }
            ],
        )
        self._add_slices(run_id, account, windows, flags or {})
        parameters = {
            "run_id": run_id,
            "connection_id": account.connection_id,
            "shop_id": account.shop_id,
            "account_id": account.account_id,
            "time_zone": account.time_zone,
            "currency": account.currency,
            "read_at": self.now,
        }
        with self.conn.transaction():
            self.conn.execute(QUERIES["create_run_windows"])
            for stream, window in windows.items():
                first_day, last_day = window or (None, None)
                row = {"stream": stream, "first_day": first_day, "last_day": last_day, "is_complete": complete}
                self.conn.execute(QUERIES["add_run_window"], row)
            self.conn.execute("analyze run_windows")
            for name in sources.by_platform(self.platforms[alias]).transforms:
                for statement in transform_statements(name):
                    self.conn.execute(statement, parameters)
        return run_id

    def _add_slices(
        self, run_id: str, account: Account, windows: Mapping[str, Window], flags: Mapping[str, Any]
    ) -> None:
        for number, (stream, window) in enumerate(windows.items()):
            days = window and (window[0], window[1] + dt.timedelta(days=1))
            start, end = [dt.datetime.combine(day, dt.time(), account.zone) for day in days] if days else (None, None)
            row = {
                "run_id": run_id,
                "slice_no": number,
                "stream": stream,
                "window_start": start,
                "window_end": end,
                "status": "DONE",
                "flags": flags.get(stream, {}),
            }
            self.insert("penstock.slices", [row])

    def rows(self, query: str, **parameters: Any) -> list[Row]:
        return self.conn.cursor(row_factory=dict_row).execute(query, parameters).fetchall()

    def value(self, query: str, **parameters: Any) -> Any:
        """The first column of the first row."""
        return next(iter(self.rows(query, **parameters)[0].values()))

    def alias_of(self, wanted: str) -> str:
        return next((alias for alias in self.accounts if connection_id(alias) == wanted), wanted)


def transform_statements(name: str) -> list[str]:
    path = sql_root() / "platform_etl" / "transform" / f"{name}.sql"
    return [statement.text for statement in split(path.read_text(encoding="utf-8"))]


def _adapted(value: Any) -> Any:
    return Jsonb(value) if isinstance(value, dict | list) else value
