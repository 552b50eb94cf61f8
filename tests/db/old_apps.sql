-- The old keyed-entity worker's tables in an early version, with rows, before the later columns came.
create type public.sync_source as enum ('steamspy', 'storefront', 'reviews', 'histogram', 'scraper');
create type public.app_type as enum ('game', 'dlc', 'demo');
create table public.apps (
    appid integer primary key, name text not null, type public.app_type, is_free boolean default false,
    release_date date, is_released boolean default true, is_delisted boolean default false,
    created_at timestamptz default now(), updated_at timestamptz default now()
);
create table public.sync_status (
    appid integer primary key references public.apps (appid) on delete cascade,
    last_steamspy_sync timestamptz, last_storefront_sync timestamptz, last_reviews_sync timestamptz,
    last_histogram_sync timestamptz, last_page_creation_scrape timestamptz,
    priority_score integer default 0, priority_calculated_at timestamptz, next_sync_after timestamptz default now(),
    sync_interval_hours integer default 24, consecutive_errors integer default 0,
    last_error_source public.sync_source, last_error_message text, last_error_at timestamptz,
    needs_page_creation_scrape boolean default true, is_syncable boolean default true
);
create view public.failing_apps as
select appid, last_error_source from public.sync_status where consecutive_errors > 0;
create table public.sync_jobs (
    id uuid primary key default gen_random_uuid(), job_type text not null, started_at timestamptz default now(),
    completed_at timestamptz, status text default 'running', items_processed integer default 0,
    items_succeeded integer default 0, items_failed integer default 0, batch_size integer, error_message text,
    github_run_id text, created_at timestamptz default now()
);
create table public.daily_metrics (
    id bigserial primary key, appid integer not null references public.apps (appid), metric_date date not null,
    owners_min integer, owners_max integer, ccu_peak integer, total_reviews integer, unique (appid, metric_date)
);
create function public.get_apps_for_sync(p_source public.sync_source, p_limit integer default 100)
returns table (appid integer) language sql as $$
    select appid from public.sync_status where next_sync_after <= now() limit p_limit
$$;
insert into public.apps (appid, name, type) values (10, 'Counter-Strike', 'game'), (20, 'Team Fortress', 'game');
insert into public.sync_status (appid, last_storefront_sync, consecutive_errors, last_error_source, next_sync_after)
values (10, now() - interval '2 days', 0, null, now() + interval '1 year'), (20, null, 3, 'storefront', now());
insert into public.sync_jobs (job_type, status, github_run_id) values ('storefront', 'completed', '7');
insert into public.daily_metrics (appid, metric_date, ccu_peak, total_reviews) values (10, '2025-12-01', 12000, 150000);
