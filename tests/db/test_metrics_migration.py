"""A database that the old metrics worker has filled, migrated without loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from penstock.warehouse.migrations import migrate
from penstock.warehouse.session import Warehouse
from tests.metrics_stage import MetricsStage
from tests.sandbox_fixture import NOW, Sandbox

pytestmark = pytest.mark.db

SETS = ("ops", "accounts", "agency", "metrics")
REQUEST, OTHER = (f"00000000-0000-0000-0000-00000000000{number}" for number in (1, 2))
CONNECTION = "00000000-0000-0000-0000-0000000000c1"

OLD_TABLES = """
create type request_status as enum ('new_request', 'in_progress', 'needs_review', 'needs_edit', 'completed');
create type request_priority as enum ('low', 'medium', 'high', 'urgent');
create table clients (id uuid primary key default gen_random_uuid(), name varchar(255) not null);
create table requests (
    id uuid primary key, title varchar(255) not null, description text, client_id uuid references clients (id),
    request_type varchar(50) not null, status request_status not null default 'new_request',
    priority request_priority not null default 'medium', due_date timestamptz, created_by uuid, assigned_to uuid,
    metadata jsonb, created_at timestamptz default now(), updated_at timestamptz default now()
);
create table assets (id uuid primary key default gen_random_uuid(), name text);
create table performance_metrics (
    id uuid primary key default gen_random_uuid(), asset_id uuid references assets (id) on delete set null,
    request_id uuid references requests (id) on delete cascade, platform varchar(50), metric_type varchar(50),
    value numeric, date date, source varchar(50), source_detail jsonb, sync_id uuid,
    created_at timestamptz default now(), updated_at timestamptz default now()
);
create index idx_performance_metrics_request_id on performance_metrics (request_id);
create table platform_connections (
    id uuid primary key default gen_random_uuid(), platform varchar(50) not null, credentials jsonb not null,
    account_id varchar(255), account_name varchar(255), is_active boolean default true, last_synced_at timestamptz,
    sync_frequency integer default 1440, created_at timestamptz default now(), created_by uuid
);
create table metric_sync_logs (
    id uuid primary key default gen_random_uuid(),
    platform_connection_id uuid references platform_connections (id), status varchar(50), start_time timestamptz,
    end_time timestamptz, metrics_updated integer, metrics_created integer, error_message text, details jsonb
);
"""


@pytest.fixture
def old(empty_database: str) -> Iterator[psycopg.Connection[Any]]:
    connection = psycopg.connect(empty_database, autocommit=True)
    connection.execute(OLD_TABLES)
    connection.execute(
        "insert into requests (id, title, request_type, metadata) "
        "values (%s, 'a', 'creative', %s), (%s, 'b', 'creative', null)",
        [REQUEST, '{"meta_ad_id": "1"}', OTHER],
    )
    yield connection
    connection.close()


def add(connection: psycopg.Connection[Any], value: int, updated: str | None, **columns: Any) -> str:
    row = {
        "request_id": REQUEST,
        "platform": "meta",
        "metric_type": "spend",
        "date": "2026-01-05",
        "value": value,
        "updated_at": updated,
        **columns,
    }
    names = ", ".join(row)
    values = ", ".join(f"%({name})s" for name in row)
    found = connection.execute(f"insert into performance_metrics ({names}) values ({values}) returning id::text", row)
    (added,) = found.fetchone() or ("",)
    return str(added)


def test_of_rows_that_say_the_same_the_newest_stays_and_the_others_are_kept_whole(
    old: psycopg.Connection[Any],
) -> None:
    first = add(old, 1, "2026-01-06", source_detail='{"try": 1}', source="api_sync")
    newest = add(old, 3, "2026-01-08")
    without_time = add(old, 2, None)
    others = [
        add(old, 4, "2026-01-06", request_id=OTHER),
        add(old, 5, "2026-01-06", metric_type="clicks"),
        add(old, 6, "2026-01-06", date="2026-01-06"),
        add(old, 7, "2026-01-06", platform="google_ads"),
        # rows without a request (an asset's, a manual one) have no key: none of them is a double
        add(old, 8, "2026-01-06", request_id=None),
        add(old, 8, "2026-01-06", request_id=None),
    ]
    migrate(old, SETS)
    left = {row[0] for row in old.execute("select id::text from performance_metrics")}
    assert left == {newest, *others}
    moved = old.execute(
        "select id::text, kept_id::text, metric ->> 'value', metric -> 'source_detail', metric ->> 'source' "
        "from penstock.merged_metrics order by 3"
    ).fetchall()
    assert moved == [(first, newest, "1", {"try": 1}, "api_sync"), (without_time, newest, "2", None, None)]


def test_the_old_workers_upsert_works_from_now_on(old: psycopg.Connection[Any]) -> None:
    upsert = (
        "insert into performance_metrics (request_id, platform, metric_type, value, date, source) "
        "values (%s, 'meta', 'spend', %s, '2026-01-05', 'api_sync') "
        "on conflict (request_id, platform, metric_type, date) do update set value = excluded.value"
    )
    with pytest.raises(psycopg.errors.InvalidColumnReference):
        old.execute(upsert, [REQUEST, 1])
    migrate(old, SETS)
    for value in (1, 2):
        old.execute(upsert, [REQUEST, value])
    assert old.execute("select value from performance_metrics").fetchall() == [(2,)]


def test_connections_are_due_when_they_would_have_been_and_overdue_ones_are_spread(
    old: psycopg.Connection[Any],
) -> None:
    old.execute(
        "insert into platform_connections (platform, credentials, account_id, last_synced_at) "
        "select 'meta', '{}', n::text, now() - interval '2 days' from generate_series(1, 100) as n"
    )
    old.execute(
        "insert into platform_connections (platform, credentials, account_id, last_synced_at) values "
        "('google_ads', '{}', 'fresh', now() - interval '10 hours'), ('meta', '{}', 'never', null)"
    )
    migrate(old, SETS)
    due = dict(
        old.execute(
            "select account_id, extract(epoch from metrics_next_sync_at - now())::float from platform_connections"
        ).fetchall()
    )
    overdue = [seconds for account, seconds in due.items() if account.isdigit()]
    assert all(-60 <= seconds <= 3_600 for seconds in overdue)
    assert len({int(seconds // 600) for seconds in overdue}) >= 5
    assert 13 * 3_600 < due["fresh"] < 15 * 3_600
    assert due["never"] <= 0


def test_logs_and_metrics_stay_and_a_second_migration_changes_nothing(old: psycopg.Connection[Any]) -> None:
    old.execute(
        "insert into platform_connections (id, platform, credentials, account_id) values (%s, 'meta', '{}', '1')",
        [CONNECTION],
    )
    old.execute(
        "insert into metric_sync_logs (platform_connection_id, status, metrics_updated) values (%s, 'success', 4)",
        [CONNECTION],
    )
    add(old, 1, "2026-01-06")
    assert migrate(old, SETS)
    before = old.execute("select * from performance_metrics").fetchall()
    assert migrate(old, SETS) == []
    assert old.execute("select * from performance_metrics").fetchall() == before
    assert old.execute("select status, metrics_updated from metric_sync_logs").fetchall() == [("success", 4)]
    assert "requests_metadata_idx" in plan_of_a_match(old)


def test_the_old_workers_rows_are_synced_in_a_database_of_the_agencys_own(
    old: psycopg.Connection[Any], empty_database: str, sandbox: Sandbox
) -> None:
    """Connection, request and wrong numbers as the old worker left them; nothing of the platform ETL is there."""
    with Warehouse(empty_database) as warehouse:
        stage = MetricsStage(warehouse, sandbox.url, sandbox.state.clock.now)
        account = stage.accounts("META")[0]
        ad = stage.ads("META", account["account_id"])[0]
        stage.connect({**account, "account_id": f"act_{account['account_id']}"}, platform="Meta")
        stage.execute("update requests set metadata = %(m)s", m=Jsonb({"meta_ad_id": [ad]}))
        for value in (1, 2):
            add(old, value, None, date=NOW.date(), source="api_sync")
        migrate(old, SETS)
        stage.make_due()
        assert [outcome.status for outcome in stage.sync()] == ["success"]
        for request in (REQUEST, OTHER):
            assert stage.metrics(request) == stage.expected("meta", [ad], account["account_id"])


def plan_of_a_match(connection: psycopg.Connection[Any]) -> str:
    connection.execute("set enable_seqscan = off")
    query = """explain select 1 from requests where metadata @> '{"meta_ad_id": "1"}'"""
    return "\n".join(row[0] for row in connection.execute(query))
