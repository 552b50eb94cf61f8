-- One policy per entity type, an archive that can take every row once, and a record of what each run moved.

create schema if not exists reporting;

-- The old table let an entity have two policies, and the old worker obeyed both. The row that was written first
-- stays, with the longest of their times: a merge must not shorten anybody's retention. The others move here whole.
create table penstock.merged_retention_policies (
    id uuid primary key,
    kept_id uuid not null,
    policy jsonb not null,
    merged_at timestamptz not null default now()
);

insert into penstock.merged_retention_policies (id, kept_id, policy)
select r.id, r.kept_id, r.policy
from (
    select
        p.id,
        first_value(p.id) over same_type as kept_id,
        to_jsonb(p) as policy,
        row_number() over same_type as place
    from public.retention_policies as p
    window same_type as (partition by p.entity_type order by p.created_at asc nulls last, p.id asc)
) as r
where r.place > 1;

update public.retention_policies as p
set
    active_retention_days = w.active_retention_days, archive_retention_days = w.archive_retention_days,
    last_archived_at = w.last_archived_at, last_purged_at = w.last_purged_at, updated_at = now()
from (
    select
        entity_type,
        max(active_retention_days) as active_retention_days,
        max(archive_retention_days) as archive_retention_days,
        max(last_archived_at) as last_archived_at,
        max(last_purged_at) as last_purged_at
    from public.retention_policies
    group by entity_type
    having count(*) > 1
) as w
where w.entity_type = p.entity_type;

delete from public.retention_policies as p
using penstock.merged_retention_policies as m
where p.id = m.id;

create unique index if not exists retention_policies_entity_type_key on public.retention_policies (entity_type);

-- The first two are the old worker's. The others keep our own tables and queues from growing for ever.
insert into public.retention_policies (entity_type, active_retention_days, archive_retention_days) values
('activity_log', 90, 365),
('notification_queue', 30, 90),
('sync_outbox', 30, 30),
('metric_sync_logs', 90, 90),
('sync_jobs', 90, 90),
('run_slices', 90, 90),
('staging', 90, 90),
('rejected_records', 90, 90)
on conflict (entity_type) do nothing;

-- The old worker copied, then deleted, in two transactions: when it died in between, the rows are in both tables, and
-- its next run copied them once more. The archive gets each row once from here on. A column that somebody added to
-- the live table gets its place in the archive.
do $$
declare
    missing record;
begin
    for missing in
        select a.attname, format_type(a.atttypid, a.atttypmod) as column_type
        from pg_attribute as a
        where a.attrelid = 'public.activity_log'::regclass and a.attnum > 0 and not a.attisdropped
            and not exists (
                select 1
                from pg_attribute as b
                where b.attrelid = 'public.archived_activity_log'::regclass and b.attname = a.attname
                    and not b.attisdropped
            )
    loop
        execute format('alter table public.archived_activity_log add column %I %s', missing.attname, missing.column_type);
    end loop;

    -- A partitioned archive would need the time in the key; it stays as it is.
    if (select c.relkind from pg_class as c where c.oid = 'public.archived_activity_log'::regclass) = 'r' then
        delete from public.archived_activity_log as a
        using public.archived_activity_log as b
        where a.id = b.id and a.ctid > b.ctid;
        if not exists (
            select 1
            from pg_index as i
            inner join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
            where i.indrelid = 'public.archived_activity_log'::regclass and i.indisunique and i.indpred is null
                and i.indnkeyatts = 1 and a.attname = 'id'
        ) then
            create unique index archived_activity_log_id_key on public.archived_activity_log (id);
        end if;
    end if;
end $$;

alter table public.archived_activity_log
    add column if not exists archived_at timestamptz default now();

-- One row per DAG run and policy. The counts are raised in the transaction that moves the rows.
create table penstock.retention_runs (
    id bigint generated always as identity primary key,
    dag_run_id text not null,
    entity_type text not null,
    -- UNKNOWN: no such entity type. ABSENT: its tables are not in this database. REFUSED: the policy makes no sense,
    -- or there were more rows than anybody had confirmed.
    status text not null check (status in ('RUNNING', 'SUCCEEDED', 'FAILED', 'REFUSED', 'UNKNOWN', 'ABSENT')),
    is_dry_run boolean not null,
    requested_by text not null,           -- schedule, or trigger:<who>
    active_retention_days integer not null,
    archive_retention_days integer not null,
    archive_before timestamptz,           -- live rows of before this instant leave the live table
    purge_before timestamptz,             -- archived rows of before this instant are deleted
    rows_found bigint not null default 0,     -- what there was to do when the run began; all that a dry run does
    bytes_found bigint not null default 0,
    rows_archived bigint not null default 0,
    bytes_archived bigint not null default 0,
    rows_purged bigint not null default 0,
    bytes_purged bigint not null default 0,
    rows_left bigint not null default 0,      -- locked by others to the end: for the next run
    oldest_at timestamptz,                -- of the rows that were moved or deleted; in a dry run of those found
    newest_at timestamptz,
    batches integer not null default 0,
    longest_batch_ms integer not null default 0,
    partitions text [] not null default '{}',  -- those that were moved or dropped whole
    findings jsonb not null default '[]',  -- [{check_code, severity, message}]
    error jsonb,
    started_at timestamptz not null default now(),
    completed_at timestamptz,
    unique (dag_run_id, entity_type)
) with (fillfactor = 50);
create index retention_runs_entity_idx on penstock.retention_runs (entity_type, started_at desc);
