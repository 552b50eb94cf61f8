-- A database as the old workers made it: the dashboard's ETL worker (schemas of its own) and the agency worker
-- (platform_connections), with constraints under names of their own, data, and people's own views on top.

create schema staging_ingest;
create schema core_warehouse;
create schema reporting;
create schema app_dashboard;

create table core_warehouse.shops (
    shop_id text primary key, shop_domain text not null, shop_name text, currency text, timezone text,
    created_at timestamptz not null default now(), updated_at timestamptz not null default now()
);
create table core_warehouse.etl_runs (
    id uuid primary key default gen_random_uuid(),
    shop_id text not null,
    status text not null,
    job_type text not null,
    platform text not null,
    error jsonb,
    records_synced int,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    completed_at timestamptz,
    constraint valid_status check (status in ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'PARTIAL')),
    constraint chk_job check (job_type in ('HISTORICAL', 'INCREMENTAL')),
    constraint "Platform OK" check (platform in ('SHOPIFY', 'META', 'GA4', 'KLAVIYO', 'TIKTOK'))
);
create index idx_etl_runs_shop on core_warehouse.etl_runs (shop_id);
create index idx_etl_runs_created on core_warehouse.etl_runs (created_at desc);
create unique index "one in flight" on core_warehouse.etl_runs (shop_id, platform)
where status in ('QUEUED', 'IN_PROGRESS');
create unique index one_failure_each on core_warehouse.etl_runs (id) where status = 'FAILED';

create function core_warehouse.insert_etl_run(shop text, state text, kind text, vendor text) returns uuid
language plpgsql security definer as $$
declare
    made uuid;
begin
    insert into core_warehouse.etl_runs (shop_id, status, job_type, platform)
    values (shop, state, kind, vendor) returning id into made;
    return made;
end $$;

create table core_warehouse.sync_cursors (
    shop_id text not null, platform text not null check (platform in ('SHOPIFY', 'META', 'GA4', 'KLAVIYO', 'TIKTOK')),
    cursor_value text not null,
    last_success_at timestamptz not null default now(), updated_at timestamptz not null default now(),
    primary key (shop_id, platform)
);
create table staging_ingest.meta_insights_raw (
    id bigserial primary key, shop_id text not null, raw_data jsonb not null, ingested_at timestamptz not null default now()
);
create table core_warehouse.orders (
    shop_id text not null, shopify_gid text not null, order_number int, order_name text,
    total_price numeric(10, 2), subtotal_price numeric(10, 2), total_tax numeric(10, 2), currency text,
    financial_status text, fulfillment_status text, order_date timestamptz,
    created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
    primary key (shop_id, shopify_gid)
);
create table core_warehouse.order_line_items (
    shop_id text not null, shopify_gid text not null, order_id text not null, product_id text, variant_id text, title text,
    variant_title text, quantity int, price numeric(10, 2), total_discount numeric(10, 2),
    created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
    primary key (shop_id, shopify_gid),
    foreign key (shop_id, order_id) references core_warehouse.orders (shop_id, shopify_gid)
);
create table core_warehouse.transactions (
    shop_id text not null, shopify_gid text not null, order_id text not null, kind text, amount numeric(10, 2),
    currency text, status text, processed_at timestamptz,
    created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
    primary key (shop_id, shopify_gid),
    foreign key (shop_id, order_id) references core_warehouse.orders (shop_id, shopify_gid)
);
create table core_warehouse.payouts (
    shop_id text not null, shopify_gid text not null, payout_date date, amount numeric(10, 2), currency text, status text,
    created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
    primary key (shop_id, shopify_gid)
);
create table core_warehouse.fact_marketing_daily (
    shop_id text not null, date date not null, platform text not null check (platform in ('META', 'GA4', 'KLAVIYO')),
    spend numeric(10, 2) not null default 0, impressions int not null default 0, clicks int not null default 0,
    conversions int not null default 0, revenue numeric(10, 2) not null default 0, currency text,
    created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
    primary key (shop_id, date, platform)
);
create table core_warehouse.fact_ga4_daily (
    shop_id text not null, date date not null, sessions int not null default 0, users int not null default 0,
    pageviews int not null default 0, conversions int not null default 0, revenue numeric(10, 2) not null default 0,
    currency text, created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
    primary key (shop_id, date)
);
create table core_warehouse.fact_email_daily (
    shop_id text not null, date date not null, emails_sent int not null default 0, emails_delivered int not null default 0,
    opens int not null default 0, clicks int not null default 0, unsubscribes int not null default 0,
    revenue numeric(10, 2) not null default 0, currency text,
    created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
    primary key (shop_id, date)
);

create view reporting.sync_status as
select
    r.id as run_id, r.shop_id, s.shop_name, r.status, r.job_type, r.platform, r.records_synced, r.created_at,
    r.started_at, r.completed_at, r.error
from core_warehouse.etl_runs as r left join core_warehouse.shops as s on s.shop_id = r.shop_id
order by r.created_at desc;
create view reporting.orders_daily as
select shop_id, order_date::date as date, count(*) as orders, sum(total_price) as revenue
from core_warehouse.orders group by 1, 2;
create view reporting.daily_revenue as
select
    o.shop_id, o.order_date::date as date, count(*) as order_count, sum(o.total_price) as revenue,
    avg(o.total_price) as aov, o.currency, s.timezone
from core_warehouse.orders as o inner join core_warehouse.shops as s on s.shop_id = o.shop_id
group by o.shop_id, o.order_date::date, o.currency, s.timezone;
create view reporting.cash_to_bank as
select
    p.shop_id, p.payout_date, p.amount as payout_amount, p.currency, p.status as payout_status,
    0::numeric as total_sales, 0::numeric as total_refunds
from core_warehouse.payouts as p;
create view reporting.mer_roas as
select
    m.shop_id, m.date, m.platform, m.spend, m.currency as marketing_currency, d.revenue,
    d.currency as revenue_currency, d.revenue / nullif(m.spend, 0) as roas, m.spend / nullif(d.revenue, 0) as mer
from core_warehouse.fact_marketing_daily as m
left join reporting.daily_revenue as d on d.shop_id = m.shop_id and d.date = m.date;

-- A person's own view and materialized view over the worker's.
create view public.my_failures as select run_id, shop_name, error from reporting.sync_status where status = 'FAILED';
comment on view public.my_failures is 'for the Monday meeting';
create materialized view public.spend_by_month as
select shop_id, date_trunc('month', date) as month, sum(spend) as spend from core_warehouse.fact_marketing_daily group by 1, 2;
create unique index spend_by_month_key on public.spend_by_month (shop_id, month);

insert into core_warehouse.shops (shop_id, shop_domain, shop_name, currency, timezone)
values ('s1', 's1.example', 'Shop One', 'USD', 'UTC');
insert into core_warehouse.etl_runs (id, shop_id, status, job_type, platform, records_synced, completed_at, error) values
('00000000-0000-0000-0000-00000000000a', 's1', 'SUCCEEDED', 'HISTORICAL', 'META', 1200, now(), null),
('00000000-0000-0000-0000-00000000000b', 's1', 'FAILED', 'INCREMENTAL', 'META', 0, now(), '{"code": "UNKNOWN"}'),
('00000000-0000-0000-0000-00000000000c', 's1', 'IN_PROGRESS', 'INCREMENTAL', 'GA4', null, null, null),
('00000000-0000-0000-0000-00000000000d', 's1', 'QUEUED', 'INCREMENTAL', 'TIKTOK', null, null, null);
insert into core_warehouse.sync_cursors (shop_id, platform, cursor_value) values ('s1', 'META', '2026-10-30'), ('s1', 'TIKTOK', 'x');
insert into core_warehouse.fact_marketing_daily (shop_id, date, platform, spend, impressions, conversions, revenue, currency)
values ('s1', '2026-10-30', 'META', 120.55, 9000, 3, 480.10, 'USD');
insert into core_warehouse.fact_ga4_daily (shop_id, date, sessions, revenue) values ('s1', '2026-10-30', 700, 510.25);
insert into core_warehouse.fact_email_daily (shop_id, date, emails_sent, revenue) values ('s1', '2026-10-30', 1000, 99.99);
insert into core_warehouse.orders (shop_id, shopify_gid, total_price, currency, order_date)
values ('s1', 'gid://1', 50.25, 'USD', '2026-10-30T12:00:00Z');
insert into staging_ingest.meta_insights_raw (shop_id, raw_data) values ('s1', '{"spend": "120.55"}');
refresh materialized view public.spend_by_month;

create table public.platform_connections (
    id uuid primary key default gen_random_uuid(),
    platform varchar(50) not null,
    credentials jsonb not null,
    account_id varchar(255),
    account_name varchar(255),
    is_active boolean default true,
    last_synced_at timestamptz,
    sync_frequency integer default 1440,
    created_at timestamptz default now(),
    created_by uuid
);
create table public.metric_sync_logs (
    id uuid primary key default gen_random_uuid(),
    platform_connection_id uuid references public.platform_connections (id) on delete cascade,
    status varchar(50), start_time timestamptz, end_time timestamptz, metrics_updated int, metrics_created int,
    error_message text, details jsonb
);
insert into public.platform_connections (id, platform, credentials, account_id, is_active, last_synced_at) values
('10000000-0000-0000-0000-000000000001', 'meta', '{"access_token": "EAAB-1"}', 'act_1', true, now() - interval '9 days'),
('10000000-0000-0000-0000-000000000002', 'Meta', '{"access_token": "EAAB-2"}', 'act_1', true, now() - interval '1 day'),
('10000000-0000-0000-0000-000000000003', 'facebook', '{"access_token": "EAAB-3"}', 'act_1', false, now()),
('10000000-0000-0000-0000-000000000004', 'google_ads', '{"access_token": "ya29"}', '123', true, null),
('10000000-0000-0000-0000-000000000005', 'pinterest', '{"access_token": "p"}', null, true, null),
('10000000-0000-0000-0000-000000000006', 'pinterest', '{"access_token": "q"}', null, true, null);
insert into public.metric_sync_logs (platform_connection_id, status)
select id, 'success' from public.platform_connections where account_id = 'act_1';
