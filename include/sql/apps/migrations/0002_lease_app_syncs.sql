-- Who works on which app for which source. One app may be read for several sources at the same time, so that the
-- lease belongs to the pair; public.sync_status keeps what is said of the app as a whole.

create table penstock.app_sources (
    source text primary key,
    fixed_interval interval,  -- null: each app's own sync_interval_hours
    added_at timestamptz not null default now()
);

insert into penstock.app_sources (source, fixed_interval) values
('steamspy', null), ('storefront', null), ('reviews', null), ('histogram', interval '7 days'), ('scraper', null),
('pics', null);

create table penstock.app_sync_states (
    source text not null references penstock.app_sources (source),
    appid integer not null references public.apps (appid) on delete cascade,
    last_synced_at timestamptz,         -- answered: synced, or skipped because the vendor has no such item
    last_outcome text check (last_outcome in ('synced', 'skipped', 'failed')),
    last_error_code text,
    failures integer not null default 0, -- in a row, for this source alone
    not_before timestamptz,             -- back-off and cool-down
    leased_until timestamptz,
    leased_by text,
    lease_epoch bigint not null default 0,
    updated_at timestamptz not null default now(),
    primary key (source, appid)
) with (fillfactor = 70);

create index app_sync_states_leased_idx on penstock.app_sync_states (source, leased_until)
where leased_until is not null;

-- What an old worker counted goes on counting.
insert into penstock.app_sync_states (source, appid, failures, last_outcome)
select s.last_error_source, s.appid, s.consecutive_errors, 'failed'
from public.sync_status as s
where s.consecutive_errors > 0 and s.last_error_source in (select known.source from penstock.app_sources as known);

-- An app that was given up is told to people once.
alter table public.sync_status add column if not exists disabled_at timestamptz;
alter table public.sync_status add column if not exists disabled_alert_at timestamptz;

create index if not exists sync_status_unreported_idx on public.sync_status (appid)
where disabled_at is not null and disabled_alert_at is null;
