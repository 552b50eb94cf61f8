"""A database that the old retention worker made: migrated without a row lost, its function callable as before."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from penstock.core.retention import Policy
from penstock.jobs import retention
from penstock.jobs.retention import Order
from penstock.warehouse.migrations import migrate
from penstock.warehouse.session import Warehouse

pytestmark = pytest.mark.db

SETS = ("ops", "retention")
OLD = """
create table public.activity_log (
    id uuid primary key default gen_random_uuid(), user_id uuid, entity_type varchar(50) not null,
    entity_id uuid not null, action varchar(50) not null, details jsonb, created_at timestamptz default now(),
    region text
);
create index idx_activity_log_created_at on public.activity_log (created_at);
create table public.archived_activity_log (
    id uuid, user_id uuid, entity_type varchar(50), entity_id uuid, action varchar(50), details jsonb,
    created_at timestamptz, archived_at timestamptz default now()
);
create table public.retention_policies (
    id uuid primary key default gen_random_uuid(), entity_type varchar(50) not null,
    active_retention_days int not null, archive_retention_days int not null,
    last_archived_at timestamptz, last_purged_at timestamptz,
    created_at timestamptz default now(), updated_at timestamptz default now()
);
create function public.archive_old_activities(keep_for integer) returns bigint language sql as 'select 1::bigint';
insert into public.retention_policies (
    entity_type, active_retention_days, archive_retention_days, last_purged_at, created_at
) values
('activity_log', 30, 400, '2025-05-01', '2025-01-01'),
('activity_log', 60, 200, '2025-06-01', '2025-02-01'),
('user_sessions', 5, 10, null, '2025-01-01');
insert into public.activity_log (id, entity_type, entity_id, action, created_at)
select md5(n::text)::uuid, 'request', gen_random_uuid(), 'edited', now() - interval '100 days'
from generate_series(1, 9) as n;
-- died between its two transactions, twice
insert into public.archived_activity_log (id, entity_type, entity_id, action, created_at)
select id, entity_type, entity_id, action, created_at
from public.activity_log cross join generate_series(1, 2) where id < '80000000-0000-0000-0000-000000000000';
"""


@pytest.fixture
def old(empty_database: str) -> str:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(OLD)
    return empty_database


def fetch(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(statement).fetchall()


def test_two_policies_of_one_entity_become_one_that_keeps_the_longest(old: str) -> None:
    migrate(old, SETS)
    policies = fetch(
        old,
        "select entity_type, active_retention_days, archive_retention_days, last_purged_at::date::text "
        "from public.retention_policies where entity_type in ('activity_log', 'user_sessions', 'notification_queue') "
        "order by 1",
    )
    assert policies == [
        ("activity_log", 60, 400, "2025-06-01"),
        ("notification_queue", 30, 90, None),
        ("user_sessions", 5, 10, None),
    ]
    merged = "select policy ->> 'active_retention_days', merged_at is not null from penstock.merged_retention_policies"
    assert fetch(old, merged) == [("60", True)]
    with pytest.raises(psycopg.errors.UniqueViolation):
        fetch(
            old,
            "insert into public.retention_policies (entity_type, active_retention_days, archive_retention_days) "
            "values ('activity_log', 1, 1) returning id",
        )


def test_the_archive_gets_every_row_once_and_a_place_for_every_column(old: str) -> None:
    before = fetch(old, "select count(distinct id) from public.archived_activity_log")
    migrate(old, SETS)
    assert fetch(old, "select count(*) from public.archived_activity_log") == before
    with Warehouse(old) as warehouse:
        order = Order("r", "trigger:test", is_dry_run=False)
        result = retention.enforce(warehouse, order, Policy("activity_log", 60, 400))
    assert result["rows_archived"] == 9
    assert fetch(old, "select count(*), count(distinct id), min(region) from public.archived_activity_log") == [
        (9, 9, None)
    ]


def test_a_function_of_another_form_gives_way_and_its_callers_do_not_notice(old: str) -> None:
    migrate(old, SETS)
    assert fetch(old, "select archive_old_activities(90)") == [(9,)]
    assert fetch(old, "select count(*) from public.activity_log") == [(0,)]


def test_a_database_with_retention_alone_names_what_it_lacks(old: str) -> None:
    migrate(old, SETS)
    with Warehouse(old) as warehouse:
        lanes = retention.plan(warehouse, Order("r", "schedule", is_dry_run=False), None)
        noted = {row["entity_type"]: row["status"] for row in retention.report(warehouse, "r")}
    assert [lane["entity_type"] for lane in lanes] == ["activity_log"]
    assert noted.pop("user_sessions") == "UNKNOWN"
    assert set(noted.values()) == {"ABSENT"}
    assert {"notification_queue", "sync_outbox", "staging", "rejected_records", "sync_jobs"} <= set(noted)


def test_seeds_do_not_overrule_what_somebody_has_set(old: str) -> None:
    migrate(old, SETS)
    assert fetch(old, "select count(*) from public.retention_policies where entity_type = 'activity_log'") == [(1,)]
