-- When a connection's metrics are due, and who is reading them. The platform ETL has columns of its own
-- (next_sync_at, consecutive_failures): a row may belong to both, and neither moves the other's clock.

alter table public.platform_connections
    add column metrics_next_sync_at timestamptz not null default now(),
    add column metrics_synced_at timestamptz,
    add column metrics_failures integer not null default 0,
    add column metrics_error_code text,            -- of the last sync; null when it went well
    add column metrics_leased_until timestamptz,
    add column metrics_leased_by text,
    add column metrics_lease_epoch bigint not null default 0;

create index platform_connections_metrics_due_idx
on public.platform_connections (metrics_next_sync_at) where is_active is not false;

-- The platform of a connection, by whatever name somebody wrote it; null when we read no metrics from it.
create function penstock.metrics_platform(p_name text) returns text language sql immutable parallel safe as $$
    select case
        when lower(p_name) in ('meta', 'meta_ads', 'facebook', 'facebook_ads') then 'META'
        when lower(p_name) in ('google_ads', 'google-ads', 'googleads', 'google', 'adwords') then 'GOOGLE_ADS'
    end
$$;

-- The ad ids that a request names: one text or number, or an array of them.
create function penstock.ad_ids(p_value jsonb) returns table (ad_id text) language sql immutable parallel safe as $$
    select distinct item #>> '{}'
    from jsonb_array_elements(case jsonb_typeof(p_value) when 'array' then p_value else jsonb_build_array(p_value) end)
        as item
    where jsonb_typeof(item) in ('string', 'number') and item #>> '{}' <> ''
$$;

-- The next regular sync: every connection has a place of its own in its interval, drawn from its id, so that a
-- thousand connections with one frequency are spread evenly over it and stay so.
create function penstock.next_metrics_slot(p_connection_id uuid, p_minutes integer)
returns timestamptz language sql stable as $$
    select case when s.slot < now() + s.length / 2 then s.slot + s.length else s.slot end
    from (
        select
            i.length,
            date_bin(
                i.length, now(),
                timestamptz '2000-01-01 00:00:00+00'
                + i.length * ((hashtextextended(p_connection_id::text, 0) & 65535) / 65536.0)
            ) + i.length as slot
        from (select make_interval(mins => greatest(coalesce(p_minutes, 1440), 10)) as length) as i
    ) as s
$$;

-- What the old worker left is due when it would have been; what is overdue is spread over the first hour.
update public.platform_connections
set
    metrics_synced_at = case when shop_id is null then last_synced_at end,
    metrics_next_sync_at = greatest(
        last_synced_at + make_interval(mins => coalesce(sync_frequency, 1440)),
        now() + interval '1 hour' * ((hashtextextended(id::text, 0) & 65535) / 65536.0)
    )
where last_synced_at is not null;

-- A connection that waits for a person goes on as soon as that person has changed something.
create function penstock.wake_metrics_connection() returns trigger language plpgsql as $$
begin
    new.metrics_next_sync_at := now();
    new.metrics_failures := 0;
    new.metrics_error_code := null;
    return new;
end $$;

create trigger penstock_wake_metrics_connection
before update of credentials, account_id, is_active, state on public.platform_connections
for each row
when (
    old.metrics_error_code is not null and new.metrics_next_sync_at = old.metrics_next_sync_at
    and (
        new.credentials is distinct from old.credentials or new.account_id is distinct from old.account_id
        or (new.is_active and not old.is_active) or (new.state = 'OK' and old.state <> 'OK')
    )
)
execute function penstock.wake_metrics_connection();

-- What the vendors say of each ad and day. A request with several ads, of several accounts, is summed from here. A
-- connection that is deleted leaves its days: they were delivered.
create table penstock.ad_daily_metrics (
    connection_id uuid not null,
    ad_id text not null,
    date date not null,
    platform text not null,
    impressions bigint not null,
    clicks bigint not null,
    spend numeric(18, 6) not null,
    reach bigint,
    currency char(3),
    updated_at timestamptz not null default now(),
    primary key (connection_id, ad_id, date)
);
create index ad_daily_metrics_ad_idx on penstock.ad_daily_metrics (platform, ad_id, date);
create index ad_daily_metrics_window_idx on penstock.ad_daily_metrics (connection_id, date);

-- The pages of a sync until it is whole. Logged: pages that a restart of the server took away would look like days
-- that the vendor withdrew.
create table penstock.ad_metric_pages (
    sync_id uuid not null,
    record_key text not null,
    connection_id uuid not null,
    ad_id text,
    date date,
    impressions bigint,
    clicks bigint,
    spend numeric(18, 6),
    reach bigint,
    problem text,                              -- why the record cannot be read; what it names then stays as it was
    primary key (sync_id, record_key)
);
create index ad_metric_pages_ad_idx on penstock.ad_metric_pages (sync_id, ad_id, date);
create index ad_metric_pages_connection_idx on penstock.ad_metric_pages (connection_id);
