-- The tables of the old dashboard worker, as it made them. On its own database every statement here finds
-- what it would make.

create schema if not exists staging_ingest;
create schema if not exists core_warehouse;
create schema if not exists reporting;
create schema if not exists app_dashboard;

create table if not exists core_warehouse.etl_runs (
    id uuid primary key default gen_random_uuid(),
    shop_id text not null,
    status text not null check (status in ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'PARTIAL')),
    job_type text not null check (job_type in ('HISTORICAL', 'INCREMENTAL')),
    platform text not null check (platform in ('SHOPIFY', 'META', 'GA4', 'KLAVIYO')),
    error jsonb,
    records_synced integer,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    completed_at timestamptz
);

create table if not exists core_warehouse.sync_cursors (
    shop_id text not null,
    platform text not null,
    cursor_value text not null,
    last_success_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (shop_id, platform)
);

create table if not exists core_warehouse.shops (
    shop_id text primary key,
    shop_domain text not null,
    shop_name text,
    currency text,
    timezone text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists core_warehouse.fact_marketing_daily (
    shop_id text not null,
    date date not null,
    platform text not null check (platform in ('META', 'GA4', 'KLAVIYO')),
    spend numeric(10, 2) not null default 0,
    impressions integer not null default 0,
    clicks integer not null default 0,
    conversions integer not null default 0,
    revenue numeric(10, 2) not null default 0,
    currency text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (shop_id, date, platform)
);

create table if not exists core_warehouse.fact_ga4_daily (
    shop_id text not null,
    date date not null,
    sessions integer not null default 0,
    users integer not null default 0,
    pageviews integer not null default 0,
    conversions integer not null default 0,
    revenue numeric(10, 2) not null default 0,
    currency text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (shop_id, date)
);

create table if not exists core_warehouse.fact_email_daily (
    shop_id text not null,
    date date not null,
    emails_sent integer not null default 0,
    emails_delivered integer not null default 0,
    opens integer not null default 0,
    clicks integer not null default 0,
    unsubscribes integer not null default 0,
    revenue numeric(10, 2) not null default 0,
    currency text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (shop_id, date)
);
