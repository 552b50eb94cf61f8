"""The migrations on a database that the old notification worker made: every row keeps its meaning."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from penstock.warehouse.migrations import migrate

pytestmark = pytest.mark.db

OLD = """
create schema auth;
create table auth.users (id uuid primary key);
create type public.request_status as enum ('new_request', 'in_progress', 'needs_review', 'needs_edit', 'completed');
create type public.request_priority as enum ('low', 'medium', 'high', 'urgent');
create table public.clients (id uuid primary key default gen_random_uuid(), name text not null);
create table public.profiles (
    id uuid primary key references auth.users (id), first_name varchar(100), last_name varchar(100), avatar_url text,
    role varchar(50) default 'user', slack_id varchar(255), slack_access_token text,
    slack_notification_preferences jsonb, created_at timestamptz default now(), updated_at timestamptz default now()
);
create unique index old_slack_id on public.profiles (slack_id) where slack_id is not null;
create table public.requests (
    id uuid primary key default gen_random_uuid(), title text not null, description text,
    client_id uuid references public.clients (id), request_type text not null,
    status public.request_status not null default 'new_request',
    priority public.request_priority not null default 'medium', due_date date, created_by uuid, assigned_to uuid,
    metadata jsonb, created_at timestamptz default now(), updated_at timestamptz default now()
);
create table public.notification_config (
    id uuid primary key default gen_random_uuid(), entity_type varchar(50) not null, event_type varchar(50) not null,
    channel_id varchar(255), user_id uuid references auth.users (id), is_active boolean default true, template text,
    created_at timestamptz default now()
);
create table public.notification_queue (
    id uuid primary key default gen_random_uuid(), config_id uuid references public.notification_config (id),
    entity_id uuid not null, entity_type varchar(50) not null, event_data jsonb, is_processed boolean default false,
    attempts integer default 0, max_attempts integer default 5, next_attempt_at timestamptz default now(),
    last_error text, created_at timestamptz default now(), processed_at timestamptz
);
create index old_queue_idx on public.notification_queue (is_processed, next_attempt_at) where not is_processed;
create function public.lock_and_get_notifications(batch_size integer)
returns table (id uuid, config_id uuid, entity_id uuid, entity_type varchar, event_data jsonb, attempts integer)
language sql as 'select id, config_id, entity_id, entity_type, event_data, attempts from public.notification_queue';
create function public.queue_status_notification() returns trigger language plpgsql as $$
begin
    insert into public.notification_queue (config_id, entity_id, entity_type, event_data)
    select c.id, new.id, 'request', '{"by": "the old trigger"}' from public.notification_config as c;
    return new;
end $$;
create trigger on_request_status after update of status on public.requests
for each row execute function public.queue_status_notification();
insert into public.notification_config (entity_type, event_type, channel_id, template)
values ('request', 'status_change', 'C1', 'x');
insert into public.notification_queue
    (entity_id, entity_type, last_error, is_processed, attempts, created_at, processed_at, event_data)
values
    (gen_random_uuid(), 'request', 'third', null, null, '2026-01-03', null, null),
    (gen_random_uuid(), 'request', 'first', true, 1, '2026-01-01', '2026-01-02', '{"client_id": "acme"}'),
    (gen_random_uuid(), 'request', 'second', false, 5, '2026-01-02', null, '[1]'),
    (gen_random_uuid(), 'request', 'fourth', false, 2, '2026-01-04', null, '{}');
insert into public.requests (title, request_type) values ('Spring', 'creative');
"""


@pytest.fixture
def migrated(empty_database: str) -> Any:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(OLD)
        migrate(connection, ("ops", "agency", "notifications"))
        yield connection


def test_every_row_keeps_its_meaning_and_gets_its_place_in_the_order(migrated: Any) -> None:
    rows = migrated.execute(
        "select last_error, seq, state, attempts, is_processed, error_class, tenant, finished_at::date::text "
        "from notification_queue order by seq"
    ).fetchall()
    assert [row[:7] for row in rows] == [
        ("first", 1, "sent", 1, True, None, "acme"),
        ("second", 2, "dead", 5, False, "NOTIFICATION_ATTEMPTS_EXHAUSTED", None),
        ("third", 3, "queued", 0, False, None, None),
        ("fourth", 4, "queued", 2, False, None, None),
    ]
    assert rows[0][7] == "2026-01-02"


def test_a_new_row_comes_after_the_old_ones(migrated: Any) -> None:
    row = migrated.execute(
        "insert into notification_queue (entity_id, entity_type) values (gen_random_uuid(), 'request') returning seq"
    ).fetchone()
    assert row == (5,)


def test_the_old_trigger_goes_on_and_no_second_one_was_made(migrated: Any) -> None:
    migrated.execute("update requests set status = 'in_progress'")
    told = migrated.execute("select event_data ->> 'by' from notification_queue where seq > 4").fetchall()
    assert told == [("the old trigger",)]


def test_the_old_function_is_called_as_before_and_now_locks(migrated: Any) -> None:
    assert len(migrated.execute("select * from lock_and_get_notifications(50)").fetchall()) == 2
    assert migrated.execute("select * from lock_and_get_notifications(batch_size => 50)").fetchall() == []


def test_a_second_migration_finds_nothing_to_do(migrated: Any) -> None:
    assert migrate(migrated, ("ops", "agency", "notifications")) == []
