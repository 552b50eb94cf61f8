"""The migrations on a database that the old workers made: nothing is lost, old callers go on, old views come back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.warehouse.migrations import migrate, pending
from stack.postgres import EmbeddedPostgres

OLD_WORKER = Path(__file__).with_name("old_worker.sql").read_text()
RUN = "00000000-0000-0000-0000-00000000000"
ACCOUNT = "10000000-0000-0000-0000-00000000000"


@pytest.fixture
def old_database(empty_database: str) -> Iterator[psycopg.Connection[Any]]:
    """An old database before the migrations."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(OLD_WORKER)
        yield connection


@pytest.fixture(scope="module")
def migrated_old_database(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """The name of an old database after the migrations, to be copied."""
    name = "old_worker"
    with psycopg.connect(postgres_server.create_database(name), autocommit=True) as connection:
        connection.execute(OLD_WORKER)
        migrate(connection)
    yield name
    postgres_server.drop_database(name)


@pytest.fixture
def migrated(postgres_server: EmbeddedPostgres, migrated_old_database: str) -> Iterator[psycopg.Connection[Any]]:
    dsn = postgres_server.create_database("old_worker_copy", template=migrated_old_database)
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection
    postgres_server.drop_database("old_worker_copy")


def one(connection: psycopg.Connection[Any], statement: str) -> Any:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0] if len(row) == 1 else row


def test_every_row_of_the_old_tables_is_still_there(old_database: psycopg.Connection[Any]) -> None:
    tables = [
        f"{schema}.{table}"
        for schema, table in old_database.execute(
            "select schemaname, tablename from pg_tables where schemaname not in ('pg_catalog', 'information_schema')"
        )
        if table != "platform_connections"
    ]
    columns = {
        table: [
            name
            for (name,) in old_database.execute(
                "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 order by attnum", [table]
            )
        ]
        for table in tables
    }
    assert len(tables) == 12

    def contents() -> dict[str, list[Any]]:
        return {
            table: sorted(map(repr, old_database.execute(f"select {', '.join(columns[table])} from {table}")))
            for table in tables
            if table != "public.metric_sync_logs"
        }

    before = contents()
    migrate(old_database)
    assert contents() == before
    assert pending(old_database) == []


def test_a_bare_insert_of_the_old_dashboard_enqueues(migrated: psycopg.Connection[Any]) -> None:
    migrated.execute(
        "insert into core_warehouse.etl_runs (shop_id, status, job_type, platform)"
        " values ('s1', 'QUEUED', 'INCREMENTAL', 'META')"
    )
    assert (
        one(migrated, "select count(*) from core_warehouse.etl_runs where status = 'QUEUED' and platform = 'META'") == 1
    )


def test_the_old_enqueue_function_keeps_its_parameter_names(migrated: psycopg.Connection[Any]) -> None:
    run_id = one(
        migrated,
        "select core_warehouse.insert_etl_run("
        "shop => 's1', state => 'QUEUED', kind => 'HISTORICAL', vendor => 'KLAVIYO')",
    )
    assert one(migrated, f"select status from core_warehouse.etl_runs where id = '{run_id}'") == "QUEUED"


def test_a_second_run_in_flight_is_still_refused_with_the_code_the_dashboard_knows(
    migrated: psycopg.Connection[Any],
) -> None:
    statement = "select core_warehouse.insert_etl_run('s1', 'QUEUED', 'INCREMENTAL', 'META')"
    migrated.execute(statement)
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        migrated.execute(statement)
    assert caught.value.sqlstate == "23505"


def test_a_run_that_the_old_worker_left_in_progress_gets_a_lease_that_ends(migrated: psycopg.Connection[Any]) -> None:
    assert one(
        migrated,
        "select leased_until between now() and now() + interval '31 minutes' from core_warehouse.etl_runs"
        f" where id = '{RUN}c'",
    )


def test_platforms_unknown_to_us_stay_and_can_still_be_written(migrated: psycopg.Connection[Any]) -> None:
    migrated.execute(f"update core_warehouse.etl_runs set status = 'FAILED', completed_at = now() where id = '{RUN}d'")
    migrated.execute("update core_warehouse.sync_cursors set cursor_value = 'y' where platform = 'TIKTOK'")
    with pytest.raises(psycopg.errors.CheckViolation):
        migrated.execute("select core_warehouse.insert_etl_run('s1', 'QUEUED', 'INCREMENTAL', 'MYSPACE')")
    migrated.execute("select core_warehouse.insert_etl_run('s1', 'QUEUED', 'INCREMENTAL', 'GOOGLE_ADS')")


def test_a_unique_index_with_another_purpose_is_left_alone(migrated: psycopg.Connection[Any]) -> None:
    assert one(migrated, "select to_regclass('core_warehouse.one_failure_each') is not null")
    assert one(migrated, "select to_regclass('core_warehouse.\"one in flight\"') is null")


def test_accounts_registered_twice_become_one_and_nothing_is_forgotten(migrated: psycopg.Connection[Any]) -> None:
    kept = migrated.execute(
        "select id::text, platform from public.platform_connections where account_id = 'act_1'"
    ).fetchall()
    assert kept == [(f"{ACCOUNT}2", "META")]  # active, and synced last
    merged = migrated.execute(
        "select id::text, kept_id::text, connection -> 'credentials' ->> 'access_token'"
        " from penstock.merged_connections order by id"
    ).fetchall()
    assert merged == [(f"{ACCOUNT}1", f"{ACCOUNT}2", "EAAB-1"), (f"{ACCOUNT}3", f"{ACCOUNT}2", "EAAB-3")]
    assert one(migrated, "select count(*), count(distinct platform_connection_id) from metric_sync_logs") == (3, 1)


def test_accounts_without_an_id_and_of_unknown_platforms_stay(migrated: psycopg.Connection[Any]) -> None:
    rows = migrated.execute(
        "select platform, count(*) from public.platform_connections group by platform order by platform"
    ).fetchall()
    assert rows == [("GOOGLE_ADS", 1), ("META", 1), ("PINTEREST", 2)]


def test_peoples_own_views_come_back_with_comment_and_index(migrated: psycopg.Connection[Any]) -> None:
    assert one(migrated, "select shop_name, error ->> 'code' from public.my_failures") == ("Shop One", "UNKNOWN")
    assert one(migrated, "select obj_description('public.my_failures'::regclass)") == "for the Monday meeting"
    assert one(migrated, "select spend::numeric(10, 2)::text from public.spend_by_month") == "120.55"
    assert one(migrated, "select to_regclass('public.spend_by_month_key') is not null")
    assert migrated.execute("select view_name, problem from penstock.views_set_aside").fetchall() == []


def test_the_old_reporting_views_answer(migrated: psycopg.Connection[Any]) -> None:
    assert one(migrated, f"select records_synced from reporting.sync_status where run_id = '{RUN}a'") == 1200
    for view in ("sync_status", "orders_daily", "daily_revenue", "cash_to_bank", "mer_roas"):
        migrated.execute(f"select * from reporting.{view}")


def test_counts_beyond_32_bits_fit_after_the_migration(migrated: psycopg.Connection[Any]) -> None:
    migrated.execute(f"update core_warehouse.etl_runs set records_synced = 5000000000 where id = '{RUN}a'")
    assert one(migrated, "select max(records_synced) from core_warehouse.etl_runs") == 5_000_000_000


def test_a_deployment_that_lost_its_unique_index_keeps_one_run_in_flight_per_account(
    old_database: psycopg.Connection[Any],
) -> None:
    old_database.execute('drop index core_warehouse."one in flight"')
    old_database.execute(
        "insert into core_warehouse.etl_runs (shop_id, status, job_type, platform, created_at)"
        " select 's1', 'QUEUED', 'INCREMENTAL', 'GA4', now() + n * interval '1 s' from generate_series(1, 3) as n"
    )
    migrate(old_database)
    rows = old_database.execute(
        "select status, error ->> 'message' from core_warehouse.etl_runs where platform = 'GA4' order by created_at"
    ).fetchall()
    in_flight = f"another run of this shop and platform was in flight already: {RUN}c"
    assert rows == [("IN_PROGRESS", None), *[("FAILED", in_flight)] * 3]
