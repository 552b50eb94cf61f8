-- Named queries of the metrics sync.

-- name: claim_connections
-- Connections that are due, or named by a person; a lease that has expired is free. A claim that is tried again gets
-- what it claimed before. Accounts of a shop belong to the platform ETL: their metrics are read as well once any
-- request names ads of that platform, unless their settings say no. When the last request is unlinked, they are read
-- until nothing is shown of them that could still be taken back.
with used as (
    select
        exists(select 1 from public.requests as r where r.metadata ? 'meta_ad_id') as has_meta,
        exists(select 1 from public.requests as r where r.metadata ? 'google_ad_id') as has_google
),

-- The connections whose numbers could still be taken back: read once, and only of platforms that no request names any
-- more. What the old worker left in `source_detail` may have any form.
shown as materialized (
    select distinct n.connection_id
    from public.performance_metrics as p
    cross join used
    cross join lateral jsonb_array_elements_text(
        case jsonb_typeof(p.source_detail -> 'connections') when 'array' then p.source_detail -> 'connections' end
    ) as n (connection_id)
    where
        p.source = 'api_sync' and p.date >= %(first_day)s
        and case p.platform when 'meta' then not used.has_meta when 'google_ads' then not used.has_google end
),

candidates as (
    select c.id
    from public.platform_connections as c
    cross join used
    where
        penstock.metrics_platform(c.platform) = any(%(platforms)s)
        and c.is_active is not false and c.state <> 'PAUSED' and c.account_id is not null
        and coalesce(c.settings -> 'metrics_sync', 'true') <> 'false'
        and (
            c.shop_id is null
            or case penstock.metrics_platform(c.platform) when 'META' then used.has_meta else used.has_google end
            or (c.metrics_synced_at is not null and c.id::text in (select s.connection_id from shown as s))
        )
        and (
            c.metrics_leased_until is null or c.metrics_leased_until < now()
            or c.metrics_leased_by = %(holder)s || '/' || c.id
        )
        and case
            when %(connections)s::text [] is null then c.metrics_next_sync_at <= now()
            else
                c.id::text = any(%(connections)s)
                or replace(replace(c.account_id, 'act_', ''), '-', '') = any(%(connections)s)
        end
    order by c.metrics_next_sync_at
    limit %(limit)s
    for no key update of c skip locked
)

update public.platform_connections as c
set
    metrics_leased_until = now() + %(lease)s,
    metrics_leased_by = %(holder)s || '/' || c.id,
    metrics_lease_epoch = c.metrics_lease_epoch + 1
from candidates
where c.id = candidates.id
returning
    c.id::text as connection_id, penstock.metrics_platform(c.platform) as platform, c.account_id,
    coalesce(c.account_name, '') as account_name, c.metrics_leased_by as holder;

-- name: known_connections
-- Those of the named ones that exist.
select c.id::text as connection_id, replace(replace(c.account_id, 'act_', ''), '-', '') as account_id
from public.platform_connections as c
where
    penstock.metrics_platform(c.platform) = any(%(platforms)s)
    and (
        c.id::text = any(%(connections)s)
        or replace(replace(c.account_id, 'act_', ''), '-', '') = any(%(connections)s)
    );

-- name: close_stale_logs
-- A log in progress whose connection nobody holds: its worker died (or was the old one).
update public.metric_sync_logs as l
set
    status = 'failed', end_time = now(), error_message = %(message)s,
    details = coalesce(l.details, '{}') || '{"is_stale": true}'
where
    l.status = 'in_progress' and l.start_time < now() - %(age)s::interval
    and not exists (
        select 1 from public.platform_connections as c
        where c.id = l.platform_connection_id and c.metrics_leased_until >= now()
    );

-- name: begin_sync
update public.platform_connections
set
    metrics_leased_until = now() + %(lease)s, metrics_leased_by = %(holder)s,
    metrics_lease_epoch = metrics_lease_epoch + 1
where
    id = %(connection_id)s
    and (metrics_leased_by = %(holder)s or metrics_leased_by is null or metrics_leased_until < now())
returning metrics_lease_epoch as epoch, metrics_failures as failures, metrics_error_code as error_code;

-- name: close_earlier_logs
-- An earlier try of this connection's sync did not come to its end.
update public.metric_sync_logs
set status = 'failed', end_time = now(), error_message = %(message)s
where platform_connection_id = %(connection_id)s and status = 'in_progress';

-- name: forget_pages
delete from penstock.ad_metric_pages where connection_id = %(connection_id)s;

-- name: open_log
insert into public.metric_sync_logs (id, platform_connection_id, status, start_time, details)
values (%(sync_id)s, %(connection_id)s, 'in_progress', now(), %(details)s);

-- name: store_profile
update public.platform_connections
set
    account_name = coalesce(nullif(account_name, ''), %(name)s), time_zone = %(time_zone)s, currency = %(currency)s,
    updated_at = now()
where
    id = %(connection_id)s
    and (coalesce(account_name, ''), time_zone, currency) is distinct from (
        coalesce(nullif(account_name, ''), %(name)s), %(time_zone)s, %(currency)s::char(3)
    );

-- name: renew_lease
update public.platform_connections
set metrics_leased_until = now() + %(lease)s
where id = %(connection_id)s and metrics_lease_epoch = %(epoch)s and metrics_leased_by = %(holder)s
returning 1 as held;

-- name: save_page
-- Pages of a moving listing may overlap: a record seen twice counts once, as it was seen last.
insert into penstock.ad_metric_pages (
    sync_id, record_key, connection_id, ad_id, date, impressions, clicks, spend, reach, problem
)
select
    %(sync_id)s, p.record_key, %(connection_id)s, p.ad_id, p.date, p.impressions, p.clicks, p.spend, p.reach, p.problem
from unnest(
    %(record_keys)s::text [], %(ad_ids)s::text [], %(dates)s::date [], %(impressions)s::bigint [],
    %(clicks)s::bigint [], %(spends)s::numeric [], %(reaches)s::bigint [], %(problems)s::text []
) as p (record_key, ad_id, date, impressions, clicks, spend, reach, problem)
on conflict (sync_id, record_key) do update
set
    impressions = excluded.impressions, clicks = excluded.clicks, spend = excluded.spend, reach = excluded.reach,
    problem = excluded.problem;

-- name: lock_lease
select 1 as held
from public.platform_connections
where id = %(connection_id)s and metrics_lease_epoch = %(epoch)s and metrics_leased_by = %(holder)s
for no key update;

-- name: lock_platform
-- One merge of a platform at a time: a request may have ads of two accounts, and the sum of both must see both.
select pg_advisory_xact_lock(hashtextextended('penstock.metrics_sync.' || %(platform)s, 0));

-- name: find_siblings
-- Other rows of the same account, as 123 and act_123, and those of them that say nothing new: nobody reads them, or
-- cannot.
select
    coalesce(array_agg(c.id::text), '{}') as siblings,
    coalesce(
        array_agg(c.id::text) filter (
            where
            c.is_active is false or c.state = 'PAUSED' or c.metrics_error_code is not null
            or c.settings -> 'metrics_sync' = 'false'
        ), '{}'
    ) as silent
from public.platform_connections as own
inner join public.platform_connections as c
    on replace(replace(own.account_id, 'act_', ''), '-', '') = replace(replace(c.account_id, 'act_', ''), '-', '')
    and penstock.metrics_platform(own.platform) = penstock.metrics_platform(c.platform)
where own.id = %(connection_id)s and c.id <> own.id;

-- name: merge_ad_days
-- The days that were read replace those that were known: what the vendor does not show any more is gone. What an
-- unreadable record names (or everything, when it names nothing) is left as it was. What a silent row of the account
-- said is replaced whole; one that is read as well keeps its days, or both would take them from each other by turns.
-- An ad belongs to one account: what a connection that is deleted or disabled said of it is replaced too.
with days as (
    select
        p.ad_id, p.date, sum(p.impressions) as impressions, sum(p.clicks) as clicks, sum(p.spend) as spend,
        case when count(*) = 1 then max(p.reach) end as reach
    from penstock.ad_metric_pages as p
    where p.sync_id = %(sync_id)s and p.problem is null
    group by p.ad_id, p.date
),

unreadable as materialized (
    select u.ad_id, u.date from penstock.ad_metric_pages as u where u.sync_id = %(sync_id)s and u.problem is not null
),

withdrawn as (
    delete from penstock.ad_daily_metrics as a
    where
        a.connection_id = %(connection_id)s and a.date between %(first_day)s and %(last_day)s
        and not exists (
            select 1 from penstock.ad_metric_pages as p
            where p.sync_id = %(sync_id)s and p.ad_id = a.ad_id and p.date = a.date and p.problem is null
        )
        and not exists (
            select 1 from unreadable as u
            where coalesce(u.ad_id, a.ad_id) = a.ad_id and coalesce(u.date, a.date) = a.date
        )
    returning a.ad_id
),

own_ads as (
    select k.ad_id from penstock.ad_daily_metrics as k where k.connection_id = %(connection_id)s
    union
    select d.ad_id from days as d
),

outdated as (
    select a.connection_id, a.ad_id, a.date
    from penstock.ad_daily_metrics as a
    where
        a.platform = %(platform)s and a.date between %(first_day)s and %(last_day)s
        and a.ad_id in (select o.ad_id from own_ads as o) and a.connection_id <> %(connection_id)s
        and not exists (
            select 1 from public.platform_connections as c where c.id = a.connection_id and c.is_active is not false
        )
    union
    select a.connection_id, a.ad_id, a.date
    from penstock.ad_daily_metrics as a
    where a.connection_id = any(%(silent)s::uuid []) and a.date between %(first_day)s and %(last_day)s
),

replaced as (
    delete from penstock.ad_daily_metrics as a
    using outdated as o
    where
        a.connection_id = o.connection_id and a.ad_id = o.ad_id and a.date = o.date
        and not exists (
            select 1 from unreadable as u
            where coalesce(u.ad_id, a.ad_id) = a.ad_id and coalesce(u.date, a.date) = a.date
        )
),

-- A restatement that was taken back: what was read equals what was read here last, but a sibling has said something
-- else since. Written anew, it is the newest again.
overtaken as (
    select d.ad_id, d.date
    from days as d
    inner join penstock.ad_daily_metrics as k
        on d.ad_id = k.ad_id and d.date = k.date and k.connection_id = %(connection_id)s
    cross join lateral (
        select 1
        from penstock.ad_daily_metrics as s
        where
            s.connection_id = any(%(siblings)s::uuid []) and s.ad_id = d.ad_id and s.date = d.date
            and s.updated_at >= k.updated_at
            and (s.impressions, s.clicks, s.spend, s.reach) is distinct from (d.impressions, d.clicks, d.spend, d.reach)
    ) as newer
),

written as (
    insert into penstock.ad_daily_metrics as a (
        connection_id, ad_id, date, platform, impressions, clicks, spend, reach, currency
    )
    select
        %(connection_id)s, d.ad_id, d.date, %(platform)s, d.impressions, d.clicks, d.spend, d.reach, %(currency)s
    from days as d
    on conflict (connection_id, ad_id, date) do update
    set
        platform = excluded.platform, impressions = excluded.impressions, clicks = excluded.clicks,
        spend = excluded.spend, reach = excluded.reach, currency = excluded.currency, updated_at = now()
    where
        (a.platform, a.impressions, a.clicks, a.spend, a.reach, a.currency) is distinct from (
            excluded.platform, excluded.impressions, excluded.clicks, excluded.spend, excluded.reach, excluded.currency
        )
        or (a.ad_id, a.date) in (select o.ad_id, o.date from overtaken as o)
    returning a.ad_id
)

select
    (select count(*) from days) as ad_days,
    (select count(distinct d.ad_id) from days as d) as ads,
    (select count(*) from written) as ad_days_written,
    (select count(*) from withdrawn) as ad_days_withdrawn;

-- name: find_members
-- The requests that this sync can change, with the ads that they name: those that name one of this connection's ads,
-- and those that show numbers of its account (whose ads may be others by now; without any ad the request stands
-- alone). One pass over the requests, because looking each ad up in the GIN index is slow while its list of fresh rows
-- is long.
-- A table and its statistics instead of a CTE: the planner would compare every row with every other.
create temporary table sync_members on commit drop as
with links as materialized (
    select r.id as request_id, n.ad_id
    from public.requests as r
    cross join lateral penstock.ad_ids(r.metadata -> %(metadata_key)s) as n
    where r.metadata ? %(metadata_key)s
),

own_ads as materialized (
    select distinct a.ad_id
    from penstock.ad_daily_metrics as a
    where a.connection_id = %(connection_id)s and a.date between %(first_day)s and %(last_day)s
),

touched as materialized (
    select l.request_id from links as l where l.ad_id in (select o.ad_id from own_ads as o)
    union
    select p.request_id
    from public.performance_metrics as p
    where
        p.platform = %(label)s and p.source = 'api_sync' and p.date between %(first_day)s and %(last_day)s
        and p.source_detail -> 'connections' ?| (%(siblings)s::text [] || %(connection_id)s::text)
)

select
    t.request_id, l.ad_id,
    exists(select 1 from own_ads as o where o.ad_id = l.ad_id) as is_own
from touched as t
left join links as l on t.request_id = l.request_id;

-- name: lock_requests
-- A request that is deleted meanwhile waits for this transaction; one that is gone already is left out below.
select count(*) as locked
from (
    select 1
    from public.requests as r
    where r.id in (select m.request_id from sync_members as m)
    order by r.id
    for key share
) as held;

-- name: find_wanted
-- What the touched requests should show, summed over all of their ads, whoever's they are. Counts and spend are sums;
-- ratios are made of the sums. Reach does not add up over ads (the same people saw both): a day on which several ads
-- of a request delivered has none. Spend of several currencies is no sum either.
create temporary table sync_wanted on commit drop as
with days as materialized (
    -- An account may be registered twice, as 123 and as act_123: its ads count once, as they were read last.
    select distinct on (a.ad_id, a.date)
        a.ad_id, a.date, a.connection_id, a.impressions, a.clicks, a.spend, a.reach, a.currency
    from penstock.ad_daily_metrics as a
    where
        a.platform = %(platform)s and a.date between %(first_day)s and %(last_day)s
        and a.ad_id in (select m.ad_id from sync_members as m)
    order by a.ad_id asc, a.date asc, a.updated_at desc, a.connection_id asc
),

sums as (
    select
        m.request_id, d.date, count(*) as ads, sum(d.impressions) as impressions, sum(d.clicks) as clicks,
        case when count(distinct d.currency) <= 1 then sum(d.spend) end as spend, max(d.reach) as reach,
        jsonb_strip_nulls(
            jsonb_build_object(
                'ads', jsonb_agg(distinct d.ad_id), 'connections', jsonb_agg(distinct d.connection_id),
                'currency', case when count(distinct d.currency) <= 1 then min(d.currency) end
            )
        ) as source_detail
    from sync_members as m
    inner join days as d on m.ad_id = d.ad_id
    group by m.request_id, d.date
)

select s.request_id, s.date, v.metric_type, v.value, s.source_detail
from sums as s
cross join lateral (
    values
    ('impressions', s.impressions),
    ('clicks', s.clicks),
    ('spend', s.spend),
    ('reach', case when s.ads = 1 then s.reach end),
    ('cpm', round(s.spend * 1000 / nullif(s.impressions, 0), 6)),
    ('cpc', round(s.spend / nullif(s.clicks, 0), 6)),
    ('ctr', round(s.clicks * 100 / nullif(s.impressions, 0), 6))
) as v (metric_type, value)
where v.value is not null and exists (select 1 from public.requests as r where r.id = s.request_id);

-- name: merge_metrics
-- The days of the touched requests become as wanted. Equal rows are not written; rows that a person entered stay.
with removed as (
    delete from public.performance_metrics as p
    where
        p.request_id in (select m.request_id from sync_members as m)
        and p.platform = %(label)s and p.source = 'api_sync' and p.date between %(first_day)s and %(last_day)s
        and p.metric_type in ('impressions', 'clicks', 'spend', 'reach', 'cpm', 'cpc', 'ctr')
        and not exists (
            select 1 from sync_wanted as w
            where w.request_id = p.request_id and w.date = p.date and w.metric_type = p.metric_type
        )
    returning p.id
),

merged as (
    insert into public.performance_metrics as p (
        request_id, platform, metric_type, value, date, source, source_detail, sync_id, created_at, updated_at
    )
    select
        w.request_id, %(label)s, w.metric_type, w.value, w.date, 'api_sync', w.source_detail, %(sync_id)s, now(), now()
    from sync_wanted as w
    order by w.request_id, w.metric_type, w.date
    on conflict (request_id, platform, metric_type, date) do update
    set
        value = excluded.value, source = excluded.source, source_detail = excluded.source_detail,
        sync_id = excluded.sync_id, updated_at = now()
    where
        p.source is distinct from 'manual_entry'
        and (p.value, p.source, p.source_detail) is distinct from (
            excluded.value, excluded.source, excluded.source_detail
        )
    returning (p.xmax = 0) as is_created
)

select
    (select count(*) from merged as g where g.is_created) as metrics_created,
    (select count(*) from merged as g where not g.is_created) as metrics_updated,
    (select count(*) from removed) as metrics_removed,
    (select count(*) from sync_wanted) as metrics_known,
    (select count(distinct m.request_id) from sync_members as m where m.is_own) as requests,
    (
        select count(distinct a.ad_id)
        from penstock.ad_daily_metrics as a
        where
            a.connection_id = %(connection_id)s and a.date between %(first_day)s and %(last_day)s
            and a.ad_id not in (select m.ad_id from sync_members as m where m.is_own)
    ) as ads_unknown;

-- name: end_log
update public.metric_sync_logs
set
    status = %(status)s, end_time = now(), metrics_updated = %(updated)s, metrics_created = %(created)s,
    error_message = %(message)s, details = coalesce(details, '{}') || %(details)s
where id = %(sync_id)s;

-- name: connection_synced
-- `last_synced_at` says of a shop's account what the platform ETL has loaded; it is ours where no shop is. A pause,
-- which a person may have begun meanwhile, is ended by a person alone.
update public.platform_connections
set
    metrics_synced_at = now(), metrics_failures = 0, metrics_error_code = null,
    metrics_leased_until = null, metrics_leased_by = null, updated_at = now(),
    metrics_next_sync_at = penstock.next_metrics_slot(id, sync_frequency),
    last_synced_at = case when shop_id is null then now() else last_synced_at end,
    last_error_code = case when shop_id is null then null else last_error_code end,
    state = case when shop_id is null and state <> 'PAUSED' then 'OK' else state end
where id = %(connection_id)s;

-- name: connection_failed
update public.platform_connections
set
    metrics_failures = metrics_failures + %(counted)s, metrics_error_code = %(code)s,
    metrics_next_sync_at = now() + %(delay)s,
    metrics_leased_until = null, metrics_leased_by = null, updated_at = now(),
    last_error_code = case when shop_id is null then %(code)s else last_error_code end,
    state = case when shop_id is null and state <> 'PAUSED' then coalesce(%(state)s, state) else state end
where id = %(connection_id)s;

-- name: release_lease
update public.platform_connections
set metrics_leased_until = null, metrics_leased_by = null
where id = %(connection_id)s and metrics_lease_epoch = %(epoch)s and metrics_leased_by = %(holder)s;
