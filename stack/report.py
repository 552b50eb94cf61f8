"""What a demo has to show: per account what was read, and whether our totals are the vendor's."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from penstock import sources
from stack.terminal import table

SOURCES = {source.platform: source.name for source in sources.REGISTRY}

_ACCOUNTS = """
select id::text as connection_id, platform, account_id, coalesce(account_name, account_id) as account_name, currency
from public.platform_connections
where is_active is not false and platform = any(%(platforms)s)
order by platform, account_id
"""
_RUNS = """
select
    connection_id::text as connection_id, count(*) as runs,
    count(*) filter (where status <> 'SUCCEEDED') as unsuccessful,
    sum(api_calls)::bigint as requests, sum(coalesce(records_synced, 0))::bigint as read,
    sum(records_staged)::bigint as staged, sum(records_rejected)::bigint as rejected
from core_warehouse.etl_runs
where connection_id is not null and coalesce(completed_at, heartbeat_at, created_at) >= %(since)s
group by connection_id
"""
# The unfinished day goes on between our question and the other: it is left out. Days of a metric for which the vendor
# was asked and only we have a figure are counted apart, for they prove nothing.
_TOTALS = """
select
    connection_id::text as connection_id, metric,
    count(vendor_total) as days,
    count(*) filter (where vendor_total is null and reported <> 0) as unchecked_days,
    sum(vendor_total) as vendor_total,
    sum(coalesce(reported, 0)) filter (where vendor_total is not null) as warehouse_total,
    sum(abs(difference)) as difference,
    sum(known_gap) filter (where vendor_total is not null) as known_gap
from reporting.reconciliation
where not is_provisional
group by connection_id, metric
having count(vendor_total) > 0
order by connection_id, metric
"""
_TABLES = """
select table_schema, table_name
from information_schema.columns
inner join information_schema.tables using (table_schema, table_name)
where
    column_name = 'connection_id' and table_type = 'BASE TABLE'
    and (
        (table_schema = 'staging_ingest' and table_name <> 'rejected_records')
        or table_schema = 'core_warehouse' and (table_name like 'fct\\_%%' or table_name like 'dim\\_%%')
    )
"""


@dataclass(frozen=True, slots=True)
class AccountReport:
    """One account in the report.

    requests, read, staged, rejected: of this demo's runs; `staged` counts rows that were new or had changed.
    staging_rows, warehouse_rows: what the tables hold now.
    days: compared with the vendor's totals. unchecked_days: those of which only we have figures.
    difference: per metric the sum over days of the absolute difference, so that two errors cannot cancel out.
    known_gap: part of the totals that the vendor itself leaves without an owner; not counted.
    """

    source: str
    account_id: str
    name: str
    currency: str
    runs: int
    unsuccessful: int
    requests: int
    read: int
    staged: int
    rejected: int
    staging_rows: int
    warehouse_rows: int
    days: int
    unchecked_days: int
    vendor_totals: Mapping[str, float] = field(default_factory=dict)
    warehouse_totals: Mapping[str, float] = field(default_factory=dict)
    difference: Mapping[str, float] = field(default_factory=dict)
    known_gap: Mapping[str, float] = field(default_factory=dict)

    @property
    def problem(self) -> str | None:
        """Why the account is not all right. Nothing read and nothing compared is a problem as well."""
        if not self.runs:
            return "was not synced"
        if self.unsuccessful:
            return f"{self.unsuccessful} of {self.runs} runs did not succeed"
        if not self.days or not any(self.vendor_totals.values()):
            return "has no totals of the vendor to compare with"
        if self.vendor_totals.keys() != self.warehouse_totals.keys():
            return "has totals on one side only"
        if self.unchecked_days:
            return f"has {self.unchecked_days} days without a total of the vendor"
        wrong = [f"{metric} by {value:,.2f}" for metric, value in self.difference.items() if value]
        return f"differs in {', '.join(wrong)}" if wrong else None


def read_accounts(dsn: str, since: dt.datetime) -> list[AccountReport]:
    """The report of every active account; `since`: the database's time when the demo began."""
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        found = connection.execute(_ACCOUNTS, {"platforms": list(SOURCES)}).fetchall()
        runs = {row["connection_id"]: row for row in connection.execute(_RUNS, {"since": since}).fetchall()}
        totals = connection.execute(_TOTALS).fetchall()
        rows = _row_counts(connection)
    return [
        build_account(
            account,
            runs.get(account["connection_id"], {}),
            [row for row in totals if row["connection_id"] == account["connection_id"]],
            rows.get(account["connection_id"], {}),
        )
        for account in found
    ]


def build_account(
    account: Mapping[str, Any],
    runs: Mapping[str, Any],
    totals: Sequence[Mapping[str, Any]],
    rows: Mapping[str, int],
) -> AccountReport:
    """Put the rows of the queries together."""
    return AccountReport(
        source=SOURCES[account["platform"]],
        account_id=account["account_id"],
        name=account["account_name"],
        currency=account["currency"] or "",
        **{
            name: int(runs.get(name) or 0)
            for name in ("runs", "unsuccessful", "requests", "read", "staged", "rejected")
        },
        staging_rows=rows.get("staging_ingest", 0),
        warehouse_rows=rows.get("core_warehouse", 0),
        days=max((int(row["days"]) for row in totals), default=0),
        unchecked_days=max((int(row["unchecked_days"]) for row in totals), default=0),
        vendor_totals=_numbers(totals, "vendor_total"),
        warehouse_totals=_numbers(totals, "warehouse_total"),
        difference=_numbers(totals, "difference"),
        known_gap=_numbers(totals, "known_gap"),
    )


def problems(
    accounts: Sequence[AccountReport], dag_runs: Sequence[Mapping[str, Any]], dag_ids: Sequence[str]
) -> list[str]:
    """Everything that keeps the demo from being a success; an empty demo is none."""
    found = [] if accounts else ["there is no active account"]
    found += [] if dag_ids else ["there is no DAG"]
    finished = {run["dag_id"] for run in dag_runs}
    found += [f"{dag_id} did not run" for dag_id in dag_ids if dag_id not in finished]
    found += [f"{run['dag_id']} ({run['run_id']}): {run['state']}" for run in dag_runs if run["state"] != "success"]
    found += [f"{account.source} {account.name}: {account.problem}" for account in accounts if account.problem]
    return found


def as_json(accounts: Sequence[AccountReport]) -> list[dict[str, Any]]:
    """The accounts as `demo-report.json` has them."""
    return [asdict(account) for account in accounts]


def text(accounts: Sequence[AccountReport], dag_runs: Sequence[Mapping[str, Any]]) -> str:
    """The report for people."""
    runs = [["DAG", "state", "seconds"]]
    runs += [[str(run["dag_id"]), str(run["state"]), f"{run['seconds']:.1f}"] for run in dag_runs]
    loads = [["source", "account", "requests", "read", "staged", "rejected", "in staging", "in warehouse"]]
    loads += [
        [
            *(account.source, f"{account.name} ({account.account_id})"),
            *(f"{number:,}" for number in (account.requests, account.read, account.staged, account.rejected)),
            *(f"{number:,}" for number in (account.staging_rows, account.warehouse_rows)),
        ]
        for account in accounts
    ]
    totals = [["source", "account", "metric", "days", "vendor", "warehouse", "difference", "known gap"]]
    for account in accounts:
        for metric, vendor in account.vendor_totals.items():
            totals.append(
                [
                    *(account.source, account.name, metric, str(account.days), f"{vendor:,.2f}"),
                    f"{account.warehouse_totals.get(metric, 0):,.2f}",
                    f"{account.difference.get(metric, 0):,.2f}",
                    f"{account.known_gap[metric]:,.2f}" if metric in account.known_gap else "",
                ]
            )
    parts = (
        table(runs, frozenset({2})),
        table(loads, frozenset(range(2, 8))),
        table(totals, frozenset(range(3, 8))),
    )
    return "\n\n".join(parts)


def _row_counts(connection: psycopg.Connection[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """connection id -> schema -> rows of all its tables."""
    counts: dict[str, dict[str, int]] = {}
    for found in connection.execute(_TABLES).fetchall():
        query = sql.SQL("select connection_id::text as connection_id, count(*) as rows from {} group by 1").format(
            sql.Identifier(found["table_schema"], found["table_name"])
        )
        for row in connection.execute(query).fetchall():
            schemas = counts.setdefault(row["connection_id"], {})
            schemas[found["table_schema"]] = schemas.get(found["table_schema"], 0) + row["rows"]
    return counts


def _numbers(rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, float]:
    """metric -> number. Differences are taken before this, in exact arithmetic."""
    return {row["metric"]: float(row[column]) for row in rows if isinstance(row[column], Decimal | int)}
