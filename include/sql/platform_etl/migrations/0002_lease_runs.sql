-- What the old queue lacked: accounts, windows, leases, quota stops, slices, cursors per stream.

alter table core_warehouse.etl_runs
    add column if not exists connection_id uuid references public.platform_connections (id),
    add column if not exists window_start date,      -- first day read; null: the job decides from the cursor
    add column if not exists window_end date,        -- half-open
    add column if not exists streams text [],        -- null: every default stream of the source
    add column if not exists is_dry_run boolean not null default false,
    add column if not exists priority smallint not null default 100,  -- lower goes first
    add column if not exists not_before timestamptz,  -- a quota's reset: nobody claims the run earlier
    add column if not exists attempts smallint not null default 0,
    add column if not exists leased_until timestamptz,
    add column if not exists leased_by text,
    add column if not exists lease_epoch bigint not null default 0,
    add column if not exists heartbeat_at timestamptz,
    add column if not exists api_calls bigint not null default 0,
    add column if not exists records_staged bigint not null default 0,
    add column if not exists records_rejected bigint not null default 0,
    add column if not exists warnings jsonb not null default '[]',
    add column if not exists requested_by text,      -- who asked: dashboard, schedule, trigger, backfill
    add column if not exists dag_id text,
    add column if not exists dag_run_id text;

-- Wider checks and one run in flight per account. The old constraints' names are not known, so they are found
-- by what they check. Values that an old deployment added for itself stay allowed.
do $$
declare
    found record;
    allowed text;
begin
    for found in
        select distinct c.conrelid::regclass as table_name, c.conname
        from pg_constraint as c
        inner join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = any(c.conkey)
        where c.contype = 'c' and (
            (c.conrelid = 'core_warehouse.etl_runs'::regclass and a.attname in ('job_type', 'platform'))
            or (c.conrelid = 'core_warehouse.sync_cursors'::regclass and a.attname = 'platform')
        )
    loop
        execute format('alter table %s drop constraint %I', found.table_name, found.conname);
    end loop;
    for found in
        select i.indexrelid::regclass as index_name
        from pg_index as i
        where i.indrelid = 'core_warehouse.etl_runs'::regclass and i.indisunique and i.indpred is not null
            and (
                select array_agg(a.attname::text order by a.attname)
                from pg_attribute as a
                where a.attrelid = i.indrelid and a.attnum = any(i.indkey)
            ) = array['platform', 'shop_id']
    loop
        execute format('drop index %s', found.index_name);
    end loop;

    select string_agg(quote_literal(v.value), ', ' order by v.value) into allowed
    from (
        select unnest(array['HISTORICAL', 'INCREMENTAL', 'BACKFILL']) as value
        union
        select job_type from core_warehouse.etl_runs
    ) as v;
    execute format(
        'alter table core_warehouse.etl_runs add constraint etl_runs_job_type_check check (job_type in (%s))', allowed
    );
    for found in
        select 'etl_runs' as table_name
        union all
        select 'sync_cursors'
    loop
        execute format(
            $query$
            select string_agg(quote_literal(v.value), ', ' order by v.value)
            from (
                select unnest(array['SHOPIFY', 'META', 'GA4', 'KLAVIYO', 'GOOGLE_ADS']) as value
                union
                select platform from core_warehouse.%I
            ) as v
            $query$, found.table_name
        ) into allowed;
        execute format(
            'alter table core_warehouse.%I add constraint %I check (platform in (%s))',
            found.table_name, found.table_name || '_platform_check', allowed
        );
    end loop;
end $$;

alter table core_warehouse.etl_runs
add constraint etl_runs_window_check check (window_start < window_end);

-- The old reporting.sync_status reads the column.
select penstock.set_aside_views('core_warehouse.etl_runs');
alter table core_warehouse.etl_runs alter column records_synced type bigint;
select penstock.restore_views();

-- The old worker never rescued a run whose process died. Its runs in progress get a lease that ends, so that they
-- are taken up again; where a deployment had lost the old unique index, the first run of each account stays.
update core_warehouse.etl_runs
set leased_until = now() + interval '30 minutes', leased_by = 'old worker'
where status = 'IN_PROGRESS' and leased_until is null;

update core_warehouse.etl_runs as r
set
    status = 'FAILED',
    completed_at = now(),
    error = jsonb_build_object(
        'code', 'UNKNOWN', 'service', 'migrations', 'task', 'lease_runs',
        'message', 'another run of this shop and platform was in flight already: ' || d.first_id
    )
from (
    select
        id,
        first_value(id) over in_flight as first_id,
        row_number() over in_flight as place
    from core_warehouse.etl_runs
    where status in ('QUEUED', 'IN_PROGRESS')
    window in_flight as (partition by shop_id, platform order by status, created_at, id)
) as d
where r.id = d.id and d.place > 1;

create unique index etl_runs_in_flight_key on core_warehouse.etl_runs (
    shop_id, platform, coalesce(connection_id, '00000000-0000-0000-0000-000000000000'::uuid)
) where status in ('QUEUED', 'IN_PROGRESS') and job_type <> 'BACKFILL';
create index etl_runs_claim_idx on core_warehouse.etl_runs (priority, created_at)
where status in ('QUEUED', 'IN_PROGRESS');
create index etl_runs_account_idx on core_warehouse.etl_runs (connection_id, created_at desc);

-- A run without an account stands for one run per active account of its shop and platform.
create table penstock.run_members (
    parent_run_id uuid not null references core_warehouse.etl_runs (id) on delete cascade,
    run_id uuid not null references core_warehouse.etl_runs (id) on delete cascade,
    primary key (parent_run_id, run_id)
);
create index run_members_run_idx on penstock.run_members (run_id);

create table penstock.slices (
    run_id uuid not null references core_warehouse.etl_runs (id) on delete cascade,
    slice_no integer not null,
    parent_slice_no integer,              -- set when a slice was split
    stream text not null,
    params jsonb not null default '{}',
    window_start timestamptz,
    window_end timestamptz,
    page_size integer,
    status text not null default 'PENDING' check (status in ('PENDING', 'DONE', 'SPLIT', 'FAILED')),
    next_token text,                      -- the page to read next; null at the first page
    pages integer not null default 0,
    requests integer not null default 0,
    rows_read bigint not null default 0,
    rows_written bigint not null default 0,
    rows_rejected bigint not null default 0,
    rows_expected bigint,                 -- the vendor's own count, where it tells one
    flags jsonb not null default '{}',
    error jsonb,
    updated_at timestamptz not null default now(),
    primary key (run_id, slice_no)
);

-- The record keys that a slice has seen, 8 bytes each, so that rows which the vendor withdrew can be told from
-- rows that did not change. Gone when the run is transformed.
create table penstock.slice_keys (
    run_id uuid not null,
    slice_no integer not null,
    page_no integer not null,
    key_hashes bigint [] not null,        -- hashtextextended(record_key, 0)
    primary key (run_id, slice_no, page_no)
);

-- Reports that run at the vendor (Meta insights): their id outlives the worker that asked for them.
create table penstock.remote_jobs (
    connection_id uuid not null references public.platform_connections (id) on delete cascade,
    request_hash text not null,           -- the same question asked again finds its running answer
    remote_id text not null,
    run_id uuid not null,
    slice_no integer not null,
    status text not null check (status in ('RUNNING', 'COMPLETED', 'FAILED')),
    percent smallint not null default 0,
    submitted_at timestamptz not null default now(),
    progressed_at timestamptz not null default now(),
    error jsonb,
    primary key (connection_id, request_hash)
);

create table penstock.stream_cursors (
    connection_id uuid not null references public.platform_connections (id) on delete cascade,
    stream text not null,
    cursor_at timestamptz not null,       -- everything before this instant is loaded
    run_id uuid not null,
    updated_at timestamptz not null default now(),
    primary key (connection_id, stream)
);

create table penstock.quality_results (
    run_id uuid not null references core_warehouse.etl_runs (id) on delete cascade,
    check_code text not null,             -- TOTALS_MISMATCH, GA4_SAMPLED, ...
    scope text not null default '',       -- stream, day
    severity text not null check (severity in ('INFO', 'WARN', 'FAIL')),
    observed numeric,
    expected numeric,
    detail jsonb not null default '{}',
    created_at timestamptz not null default now(),
    primary key (run_id, check_code, scope)
);

create table staging_ingest.rejected_records (
    id bigint generated always as identity primary key,
    run_id uuid not null,
    slice_no integer not null,
    connection_id uuid not null,
    source text not null,
    stream text not null,
    record_key text,                      -- null when the record has none
    reason_code text not null,            -- MISSING_KEY, WRONG_TYPE, FORBIDDEN_CHARACTER, SCHEMA_MISMATCH
    reason text not null,                 -- names the field and the value
    payload text not null,                -- the record as it came; text, because some are not valid jsonb
    payload_hash text not null,
    first_seen_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    seen integer not null default 1,
    replayed_at timestamptz,
    unique (connection_id, stream, payload_hash)
);

create function penstock.notify_etl_run_queued() returns trigger language plpgsql as $$
begin
    perform pg_notify('penstock_etl_runs', '');
    return null;
end $$;
-- A row with not_before waits for its time, or belongs to the DAG run that wrote it: nobody need be woken.
create trigger etl_runs_notify
after insert or update of status on core_warehouse.etl_runs
for each row when (new.status = 'QUEUED' and new.not_before is null) execute function penstock.notify_etl_run_queued();

-- An old database has the function already, under parameter names that callers may use.
do $do$
begin
    if to_regprocedure('core_warehouse.insert_etl_run(text, text, text, text)') is null then
        create function core_warehouse.insert_etl_run(
            p_shop_id text, p_status text, p_job_type text, p_platform text
        )
        returns uuid language sql security definer set search_path = core_warehouse, pg_temp as $$
            insert into core_warehouse.etl_runs (shop_id, status, job_type, platform)
            values (p_shop_id, p_status, p_job_type, p_platform) returning id
        $$;
    end if;
end $do$;
