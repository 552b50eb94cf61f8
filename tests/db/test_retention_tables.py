"""What retention may take of each table beside the activity log, and partitioned tables."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from penstock.core.retention import Policy
from penstock.jobs import retention
from penstock.jobs.retention import Order, partitions
from penstock.warehouse.migrations import migrate
from penstock.warehouse.session import Connection, Warehouse
from tests.db.test_retention import ACTIVITY, counts, enforce, fetch, fill_activity

pytestmark = pytest.mark.db

DAYS = 90
META = str(uuid.UUID(int=1))
OLD, NEW = "now() - interval '100 days'", "now() - interval '80 days'"


def account(warehouse: Warehouse) -> None:
    fetch(
        warehouse,
        "insert into platform_connections (id, platform, account_id, shop_id) values (%s, 'META', '1', 'aurora')",
        META,
    )


def run(warehouse: Warehouse, status: str, number: int) -> str:
    run_id = str(uuid.UUID(int=1000 + number))
    fetch(
        warehouse,
        "insert into core_warehouse.etl_runs (id, shop_id, status, job_type, platform, connection_id) "
        "values (%s, 'aurora', %s, 'BACKFILL', 'META', %s)",
        run_id,
        status,
        META,
    )
    return run_id


def slice_of(warehouse: Warehouse, run_id: str, window: tuple[str, str], *, age: str = OLD, slice_no: int = 1) -> None:
    fetch(
        warehouse,
        "insert into penstock.slices (run_id, slice_no, stream, window_start, window_end, status, updated_at) "
        f"values (%s, %s, 'insights_ad', %s, %s, 'DONE', {age})",
        run_id,
        slice_no,
        *window,
    )
    fetch(
        warehouse,
        "insert into penstock.slice_keys (run_id, slice_no, page_no, key_hashes) values (%s, %s, 1, '{1,2}')",
        run_id,
        slice_no,
    )


def stage(warehouse: Warehouse, key: str, day: str | None, run_id: str, *, age: str = OLD) -> None:
    fetch(
        warehouse,
        "insert into staging_ingest.meta_ads_insights (run_id, slice_no, connection_id, report_key, record_key, "
        "record_date, payload, payload_hash, ingested_at) "
        f"values (%s, 1, %s, 'insights_ad', %s, %s, '{{}}', '', {age})",
        run_id,
        META,
        key,
        day,
    )


def staged(warehouse: Warehouse) -> list[str]:
    return [key for (key,) in fetch(warehouse, "select record_key from staging_ingest.meta_ads_insights order by 1")]


def purge(warehouse: Warehouse, entity_type: str) -> int:
    return int(enforce(warehouse, Policy(entity_type, DAYS, DAYS), dag_run_id=uuid.uuid4().hex)["rows_purged"])


def test_staging_rows_go_by_the_time_they_came_when_no_run_knows_of_them(warehouse: Warehouse) -> None:
    account(warehouse)
    ended = run(warehouse, "SUCCEEDED", 1)
    stage(warehouse, "old", "2026-01-05", ended)
    stage(warehouse, "new", "2026-01-05", ended, age=NEW)
    assert purge(warehouse, "staging") == 1
    assert staged(warehouse) == ["new"]


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "PARTIAL"])
def test_staging_rows_stay_while_a_run_that_can_be_cleared_would_load_them_again(
    warehouse: Warehouse, status: str
) -> None:
    """Its finished slices are not read again: without their rows, its days would be loaded empty."""
    account(warehouse)
    ended = run(warehouse, status, 1)
    slice_of(warehouse, ended, ("2026-01-01", "2026-01-10"))
    for key, day in {"inside": "2026-01-05", "outside": "2025-06-01", "listing": None}.items():
        stage(warehouse, key, day, ended)
    assert purge(warehouse, "staging") == 1
    assert staged(warehouse) == ["inside", "listing"]
    assert purge(warehouse, "run_slices") == 1
    assert purge(warehouse, "staging") == 2


@pytest.mark.parametrize("status", ["QUEUED", "IN_PROGRESS"])
def test_nothing_of_an_account_with_a_run_in_flight_goes(warehouse: Warehouse, status: str) -> None:
    """A page that did not change is not written again: its row is old, and the run counts on it."""
    account(warehouse)
    running = run(warehouse, status, 1)
    stage(warehouse, "planned", "2026-01-05", running)
    stage(warehouse, "perhaps planned next", "2025-06-01", running)
    slice_of(warehouse, running, ("2026-01-01", "2026-01-10"))
    assert purge(warehouse, "staging") == purge(warehouse, "run_slices") == 0
    fetch(warehouse, "update core_warehouse.etl_runs set status = 'SUCCEEDED'")
    assert (purge(warehouse, "run_slices"), purge(warehouse, "staging")) == (1, 2)


def test_a_walk_through_the_pages_leaves_none_out(warehouse: Warehouse) -> None:
    """Several batches, and no index on the time."""
    account(warehouse)
    fetch(
        warehouse,
        "insert into staging_ingest.meta_ads_insights (run_id, slice_no, connection_id, report_key, record_key, "
        f"payload, payload_hash, ingested_at) select gen_random_uuid(), 1, %s, 'insights_ad', n::text, "
        f"jsonb_build_object('text', repeat('x', 1500)), '', {OLD} from generate_series(1, 600) as n",
        META,
    )
    result = enforce(warehouse, Policy("staging", DAYS, DAYS))
    assert (result["rows_purged"], result["rows_left"]) == (600, 0)
    assert result["batches"] >= 4, "the first takes 16 pages of five rows"


def test_the_slices_of_ended_runs_go_with_their_keys(warehouse: Warehouse) -> None:
    account(warehouse)
    ended = run(warehouse, "FAILED", 1)
    slice_of(warehouse, ended, ("2026-01-01", "2026-01-10"))
    slice_of(warehouse, ended, ("2026-01-10", "2026-01-20"), age=NEW, slice_no=2)
    assert purge(warehouse, "run_slices") == 1
    assert fetch(warehouse, "select slice_no from penstock.slices") == [(2,)]
    assert fetch(warehouse, "select slice_no from penstock.slice_keys") == [(2,)]


def test_rejected_records_go_when_their_run_has_ended(warehouse: Warehouse) -> None:
    account(warehouse)
    runs = {1: run(warehouse, "SUCCEEDED", 1), 2: run(warehouse, "IN_PROGRESS", 2), 3: str(uuid.UUID(int=99))}
    for number, run_id in runs.items():
        fetch(
            warehouse,
            "insert into staging_ingest.rejected_records (run_id, slice_no, connection_id, source, stream, "
            "reason_code, reason, payload, payload_hash, last_seen_at) "
            f"values (%s, 1, %s, 'm', 's', 'X', 'y', '', %s, {OLD})",
            run_id,
            META,
            str(number),
        )
    assert purge(warehouse, "rejected_records") == 2
    assert fetch(warehouse, "select payload_hash from staging_ingest.rejected_records") == [("2",)]


OUTBOX = """
create table if not exists public.sync_outbox (
    id uuid primary key default gen_random_uuid(), workspace_id uuid not null, operation text not null,
    payload jsonb not null, status text not null, updated_at timestamptz not null default now()
)"""
JOBS = """
create table if not exists public.sync_jobs (
    id uuid primary key default gen_random_uuid(), job_type text not null, started_at timestamptz default now(),
    completed_at timestamptz, status text default 'running'
)"""


def test_the_outbox_loses_what_has_ended_dead_letters_among_it(warehouse: Warehouse) -> None:
    fetch(warehouse, OUTBOX)
    fetch(warehouse, "alter table public.sync_outbox disable trigger user")
    if fetch(warehouse, "select to_regclass('public.workspaces')") != [(None,)]:
        fetch(warehouse, "insert into public.workspaces (id, name) values (%s, 'w')", META)
    states = ["PENDING", "PROCESSING", "FAILED", "COMPLETED", "DEAD_LETTER"]
    for state in states:
        for age in (OLD, NEW):
            fetch(
                warehouse,
                "insert into public.sync_outbox (workspace_id, operation, payload, status, updated_at) values (%s, "
                f"'REBUILD_ALL', jsonb_build_object('calendarId', 'c', 'workspaceId', %s::text), %s, {age})",
                META,
                META,
                state,
            )
    assert purge(warehouse, "sync_outbox") == 2
    left = fetch(warehouse, "select status::text, count(*) from public.sync_outbox group by 1")
    assert dict(left) == {"PENDING": 2, "PROCESSING": 2, "FAILED": 2, "COMPLETED": 1, "DEAD_LETTER": 1}  # type: ignore[arg-type]


def test_jobs_and_sync_logs_go_also_those_that_a_dead_worker_left_running(warehouse: Warehouse) -> None:
    fetch(warehouse, JOBS)
    for status in ("running", "completed", "failed"):
        for age in (OLD, NEW):
            fetch(
                warehouse,
                f"insert into public.sync_jobs (job_type, status, started_at) values ('x', %s, {age})",
                status,
            )
            log = {"running": "in_progress", "completed": "success"}.get(status, status)
            fetch(warehouse, f"insert into metric_sync_logs (status, start_time) values (%s, {age})", log)
    assert purge(warehouse, "sync_jobs") == purge(warehouse, "metric_sync_logs") == 3
    assert fetch(warehouse, "select count(*) from public.sync_jobs") == [(3,)]


def partition(warehouse: Warehouse, table: str, *, is_empty: bool = False) -> None:
    """The table made anew, split by time into five partitions and a default one; or into none yet."""
    with warehouse.transaction() as connection:
        connection.execute(f"alter table {table} rename to {table.removeprefix('public.')}_plain")
        connection.execute(
            f"create table {table} (like {table}_plain including defaults) partition by range (created_at)"
        )
        connection.execute(f"create unique index on {table} (id, created_at)")
        connection.execute(f"create index on {table} (created_at)")
        if not is_empty:
            _quarters(connection, table)


def _quarters(connection: Connection, table: str) -> None:
    for number, (first, last) in enumerate([(400, 300), (300, 200), (200, 100), (100, 50), (50, -50)]):
        row = connection.execute("select current_date - %s::int, current_date - %s::int", [first, last]).fetchone()
        assert row is not None
        name = f"{table}_q{number}"
        connection.execute(f"create table {name} partition of {table} for values from ('{row[0]}') to ('{row[1]}')")
    connection.execute(f"create table {table}_default partition of {table} default")


def parts(warehouse: Warehouse, table: str) -> list[str]:
    rows = fetch(
        warehouse,
        "select inhrelid::regclass::text from pg_inherits where inhparent = %s::regclass order by 1",
        f"public.{table}",
    )
    return [name.removeprefix("activity_log_") for (name,) in rows]


AGES = {390: 5, 250: 7, 150: 11, 95: 13, 60: 17, 1: 19}


def test_partitions_that_are_old_as_a_whole_move_into_a_partitioned_archive(warehouse: Warehouse) -> None:
    partition(warehouse, "public.activity_log")
    partition(warehouse, "public.archived_activity_log", is_empty=True)
    fill_activity(warehouse, AGES)
    fetch(warehouse, "create table archive_default partition of public.archived_activity_log default")
    result = enforce(warehouse, ACTIVITY)
    # 95 days lie in a partition that is not old as a whole: row by row. 390 days are purged from the archive.
    assert counts(warehouse) == (36, 31)
    assert (result["rows_archived"], result["rows_purged"], result["partitions"]) == (36, 5, 3)
    assert parts(warehouse, "activity_log") == ["default", "q3", "q4"]
    assert fetch(warehouse, "select count(*) from archived_activity_log where archived_at is null") == [(0,)]


def test_a_partition_that_would_have_to_be_indexed_under_the_lock_is_moved_row_by_row(warehouse: Warehouse) -> None:
    partition(warehouse, "public.activity_log")
    partition(warehouse, "public.archived_activity_log", is_empty=True)
    fetch(warehouse, "create table archive_default partition of public.archived_activity_log default")
    fetch(warehouse, "create index on public.archived_activity_log (user_id)")
    fill_activity(warehouse, AGES)
    assert enforce(warehouse, ACTIVITY)["partitions"] == 0
    assert counts(warehouse) == (36, 31)


def test_a_partition_of_which_rows_went_into_the_default_one_before_goes_when_it_is_old_as_a_whole(
    warehouse: Warehouse,
) -> None:
    """Every partition comes to this: it grows old row by row, then as a whole."""
    partition(warehouse, "public.activity_log")
    partition(warehouse, "public.archived_activity_log", is_empty=True)
    fetch(warehouse, "create table archive_default partition of public.archived_activity_log default")
    fill_activity(warehouse, AGES)
    enforce(warehouse, ACTIVITY)
    later = enforce(warehouse, Policy("activity_log", 45, 365), dag_run_id="weeks later")
    assert (later["status"], later["rows_archived"], later["rows_left"]) == ("SUCCEEDED", 17, 0)
    assert counts(warehouse) == (19, 7 + 11 + 13 + 17)


def test_an_archive_that_has_partitions_of_its_own_takes_the_rows_one_by_one(warehouse: Warehouse) -> None:
    partition(warehouse, "public.activity_log")
    partition(warehouse, "public.archived_activity_log")
    fill_activity(warehouse, AGES)
    result = enforce(warehouse, ACTIVITY)
    assert (result["status"], result["rows_archived"], result["rows_left"]) == ("SUCCEEDED", 36, 0)
    assert counts(warehouse) == (36, 31)


def test_a_partitioned_table_with_a_plain_archive_is_moved_row_by_row(warehouse: Warehouse) -> None:
    partition(warehouse, "public.activity_log")
    fill_activity(warehouse, AGES)
    result = enforce(warehouse, ACTIVITY)
    assert counts(warehouse) == (36, 31)
    assert (result["rows_archived"], result["rows_purged"], result["partitions"]) == (36, 5, 0)


def test_an_archive_partition_that_is_old_as_a_whole_is_dropped(warehouse: Warehouse) -> None:
    partition(warehouse, "public.archived_activity_log")
    fill_activity(warehouse, AGES, table="public.archived_activity_log")
    result = enforce(warehouse, Policy("activity_log", 90, 120))
    assert (result["rows_purged"], result["partitions"]) == (5 + 7 + 11, 2)
    assert counts(warehouse) == (0, 13 + 17 + 19)
    assert fetch(warehouse, "select partitions from penstock.retention_runs") == [
        (["public.archived_activity_log_q0", "public.archived_activity_log_q1"],)
    ]


def test_a_legal_hold_keeps_a_partition_from_being_dropped(warehouse: Warehouse) -> None:
    fetch(warehouse, "alter table public.archived_activity_log add column legal_hold boolean")
    partition(warehouse, "public.archived_activity_log")
    fill_activity(warehouse, {390: 5, 250: 7}, table="public.archived_activity_log")
    fetch(
        warehouse, "update archived_activity_log set legal_hold = true where created_at < now() - interval '300 days'"
    )
    result = enforce(warehouse, Policy("activity_log", 90, 120))
    assert (result["rows_purged"], result["partitions"]) == (7, 0)
    assert counts(warehouse) == (0, 5)


def test_a_partition_in_use_is_not_waited_for(
    warehouse: Warehouse, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that is waited for makes every writer wait behind it: the rows go one by one instead."""
    monkeypatch.setattr(partitions, "MAX_TRIES", 4)
    partition(warehouse, "public.archived_activity_log")
    fill_activity(warehouse, {390: 5}, table="public.archived_activity_log")
    with connect() as reader, reader.transaction():
        reader.execute("select count(*) from public.archived_activity_log where created_at > now()")
        order = Order("test", "trigger:test", is_dry_run=False)
        waits: list[float] = []
        result = retention.enforce(warehouse, order, Policy("activity_log", 90, 120), sleep=waits.append)
    assert (result["rows_purged"], result["partitions"]) == (5, 0)
    assert waits.count(partitions.SECONDS_BETWEEN_TRIES) == 2 * 3, "two partitions are old as a whole"


def test_rows_in_another_database_than_the_policies_go_all_the_same(warehouse: Warehouse, empty_database: str) -> None:
    """`agency_db` with a connection of its own: staging stays in the warehouse."""
    migrate(empty_database, ("ops", "retention"))
    account(warehouse)
    stage(warehouse, "old", "2026-01-05", run(warehouse, "SUCCEEDED", 1))
    order, types = Order("test", "trigger:test", is_dry_run=False), ["staging", "sync_outbox", "activity_log"]
    with Warehouse(empty_database) as agency:
        homes = {"agency_db": agency, "warehouse": warehouse, "calendar_db": agency}
        lanes = retention.plan(agency, order, types, homes=homes)
        assert [lane["entity_type"] for lane in lanes] == ["activity_log", "staging"]
        result = retention.enforce(agency, order, Policy("staging", DAYS, DAYS), homes=homes)
        assert (result["rows_found"], result["rows_purged"], result["rows_left"]) == (1, 1, 0)
        stamped = "select entity_type from public.retention_policies where last_purged_at is not null"
        assert fetch(agency, stamped) == [("staging",)]
        noted = fetch(agency, "select entity_type, status from penstock.retention_runs order by 1")
        assert noted == [("staging", "SUCCEEDED"), ("sync_outbox", "ABSENT")]
    assert staged(warehouse) == []
    assert fetch(warehouse, "select count(*) from penstock.retention_runs") == [(0,)]
