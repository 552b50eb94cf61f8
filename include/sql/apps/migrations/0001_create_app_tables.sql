-- The tables of the old keyed-entity worker, as it made them. On its own database every statement here finds what it
-- would make, or adds the columns that came with the worker's later versions.

create schema if not exists reporting;

do $$
begin
    if to_regtype('public.sync_source') is null then
        create type public.sync_source as enum ('steamspy', 'storefront', 'reviews', 'histogram', 'scraper', 'pics');
    end if;
    if to_regtype('public.app_type') is null then
        create type public.app_type as enum (
            'game', 'dlc', 'demo', 'mod', 'video', 'hardware', 'music', 'episode', 'tool', 'application', 'series',
            'advertising'
        );
    end if;
    if to_regtype('public.refresh_tier') is null then
        create type public.refresh_tier as enum ('active', 'moderate', 'dormant', 'dead');
    end if;
end $$;

create table if not exists public.apps (
    appid integer primary key,
    name text not null,
    type public.app_type,
    is_free boolean,
    release_date date,
    has_workshop boolean,
    current_price_cents integer,
    current_discount_percent integer,
    is_released boolean,
    is_delisted boolean default false,
    has_developer_info boolean default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

alter table public.apps
    add column if not exists type public.app_type,
    add column if not exists is_free boolean,
    add column if not exists release_date date,
    add column if not exists has_workshop boolean,
    add column if not exists current_price_cents integer,
    add column if not exists current_discount_percent integer,
    add column if not exists is_released boolean,
    add column if not exists is_delisted boolean default false,
    add column if not exists has_developer_info boolean default false,
    add column if not exists created_at timestamptz not null default now(),
    add column if not exists updated_at timestamptz not null default now(),
    add column if not exists price_currency char(3);

create table if not exists public.sync_status (
    appid integer primary key references public.apps (appid) on delete cascade,
    last_steamspy_sync timestamptz,
    last_storefront_sync timestamptz,
    last_reviews_sync timestamptz,
    last_histogram_sync timestamptz,
    last_page_creation_scrape timestamptz,
    priority_score integer default 0,
    priority_calculated_at timestamptz,
    next_sync_after timestamptz default now(),
    sync_interval_hours integer default 24,
    consecutive_errors integer default 0,
    last_error_source text,
    last_error_message text,
    last_error_at timestamptz,
    needs_page_creation_scrape boolean default true,
    is_syncable boolean default true
);

alter table public.sync_status
    add column if not exists refresh_tier public.refresh_tier default 'moderate',
    add column if not exists last_activity_at timestamptz,
    add column if not exists storefront_accessible boolean default true,
    add column if not exists steamspy_available boolean,
    add column if not exists last_pics_sync timestamptz,
    add column if not exists pics_change_number bigint,
    add column if not exists next_reviews_sync timestamptz,
    add column if not exists reviews_interval_hours integer default 24,
    add column if not exists review_velocity_tier text default 'unknown',
    add column if not exists reviews_claimed_by text,
    add column if not exists reviews_claimed_at timestamptz,
    add column if not exists reviews_claim_expires_at timestamptz,
    add column if not exists reviews_priority_override_bucket integer,
    add column if not exists reviews_priority_override_score integer,
    add column if not exists reviews_priority_override_reason text,
    add column if not exists reviews_priority_override_until timestamptz;

-- An enum takes a new source only by a change of the type, and not in the transaction that uses it. Sources are
-- registered in penstock.app_sources instead.
do $$
begin
    if (
        select a.atttypid = 'public.sync_source'::regtype
        from pg_attribute as a
        where a.attrelid = 'public.sync_status'::regclass and a.attname = 'last_error_source'
    ) then
        perform penstock.set_aside_views('public.sync_status');
        alter table public.sync_status alter column last_error_source type text using last_error_source::text;
        perform penstock.restore_views();
    end if;
end $$;

create table if not exists public.sync_jobs (
    id uuid primary key default gen_random_uuid(),
    job_type text not null,
    started_at timestamptz default now(),
    completed_at timestamptz,
    status text default 'running',  -- running -> completed, failed
    items_processed integer default 0,
    items_succeeded integer default 0,
    items_failed integer default 0,
    batch_size integer,
    error_message text,
    github_run_id text,             -- what started the job: now the id of the DAG run
    created_at timestamptz default now()
);

alter table public.sync_jobs
    add column if not exists items_created integer default 0,
    add column if not exists items_updated integer default 0,
    add column if not exists items_skipped integer default 0,   -- answered, but the vendor has no such item
    add column if not exists items_released integer default 0,  -- given back untouched: limit, outage, stop
    add column if not exists lane integer,
    add column if not exists updated_at timestamptz default now();

create index if not exists sync_jobs_job_type_started_at_idx on public.sync_jobs (job_type, started_at desc);
create index if not exists sync_jobs_running_idx on public.sync_jobs (status) where status = 'running';

create table if not exists public.daily_metrics (
    id bigserial primary key,
    appid integer not null references public.apps (appid) on delete cascade,
    metric_date date not null,
    owners_min integer,
    owners_max integer,
    ccu_peak integer,
    average_playtime_forever integer,
    average_playtime_2weeks integer,
    total_reviews integer,
    positive_reviews integer,
    negative_reviews integer,
    review_score integer,
    review_score_desc text,
    unique (appid, metric_date)
);

alter table public.daily_metrics
    add column if not exists ccu_peak integer,
    add column if not exists total_reviews integer,
    add column if not exists positive_reviews integer,
    add column if not exists negative_reviews integer,
    add column if not exists review_score integer,
    add column if not exists review_score_desc text;

create unique index if not exists daily_metrics_appid_metric_date_key on public.daily_metrics (appid, metric_date);

create table if not exists public.api_rate_limit_state (
    source text primary key,
    available_tokens double precision not null,
    max_tokens double precision not null,
    refill_rate_per_second double precision not null,
    last_refill_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    last_worker_id text
);

-- Every price that a storefront ever named, one row per change.
create table penstock.app_prices (
    appid integer not null references public.apps (appid) on delete cascade,
    changed_at timestamptz not null default now(),
    currency char(3),
    price_cents integer,
    initial_price_cents integer,
    discount_percent integer,
    primary key (appid, changed_at)
);
