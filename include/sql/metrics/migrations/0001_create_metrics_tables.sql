-- The old metrics worker's tables, with the unique key that its upsert always named and never had.

create table if not exists public.performance_metrics (
    id uuid primary key default gen_random_uuid(),
    asset_id uuid references public.assets (id) on delete set null,
    request_id uuid references public.requests (id) on delete cascade,
    platform varchar(50),                      -- meta, google_ads
    metric_type varchar(50),                   -- impressions, clicks, spend, reach, cpm, cpc, ctr
    value numeric,
    date date,
    source varchar(50),                        -- api_sync, manual_entry
    source_detail jsonb,                       -- {"ads": [...], "connections": [...], "currency": "CHF"}
    sync_id uuid,                              -- metric_sync_logs.id of the sync that wrote it last
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);

create table if not exists public.metric_sync_logs (
    id uuid primary key default gen_random_uuid(),
    platform_connection_id uuid,
    status varchar(50),                        -- in_progress, success, partial, failed
    start_time timestamptz default now(),
    end_time timestamptz,
    metrics_updated integer default 0,
    metrics_created integer default 0,
    error_message text,
    details jsonb
);

-- Rows of the old worker that say the same thing twice. The newest stays; the others move here whole.
create table penstock.merged_metrics (
    id uuid primary key,
    kept_id uuid not null,
    metric jsonb not null,
    merged_at timestamptz not null default now()
);

lock table public.performance_metrics in share row exclusive mode;

with ranked as (
    select
        m.id,
        first_value(m.id) over newest_first as kept_id,
        to_jsonb(m) as metric,
        row_number() over newest_first as place
    from public.performance_metrics as m
    where m.request_id is not null and m.platform is not null and m.metric_type is not null and m.date is not null
    window newest_first as (
        partition by m.request_id, m.platform, m.metric_type, m.date
        order by m.updated_at desc nulls last, m.created_at desc nulls last, m.id asc
    )
),

moved as (
    insert into penstock.merged_metrics (id, kept_id, metric)
    select r.id, r.kept_id, r.metric from ranked as r where r.place > 1
    returning id
)

delete from public.performance_metrics as m using moved where m.id = moved.id;

create unique index if not exists performance_metrics_request_platform_type_date_key
on public.performance_metrics (request_id, platform, metric_type, date);
create index if not exists idx_performance_metrics_asset_id on public.performance_metrics (asset_id);
create index if not exists idx_performance_metrics_date on public.performance_metrics (date);
create index if not exists idx_performance_metrics_sync_id on public.performance_metrics (sync_id);
create index if not exists metric_sync_logs_connection_idx
on public.metric_sync_logs (platform_connection_id, start_time desc);
create index if not exists metric_sync_logs_open_idx
on public.metric_sync_logs (start_time) where status = 'in_progress';

-- Made by the agency's tables already; a database that has only `requests` of its own gets it here.
create index if not exists requests_metadata_idx on public.requests using gin (metadata jsonb_path_ops);
