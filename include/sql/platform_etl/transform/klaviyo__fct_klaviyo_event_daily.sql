-- Events per day and metric, in the account's zone. A run reads a piece of a day, so every day it touched is counted
-- again from all staged events of that day. The metric that counts orders has a row on every day that was read, with
-- nothing in it if need be: without it a day without orders looks like one whose events nobody has read.
--
-- The day is cut here, in the zone that the account has now: an event that did not change keeps in staging the day that
-- it had when it was read first, and the zone may have changed since. Two zones are less than two days apart.
with
windows as (
    select run_windows.first_day, run_windows.last_day
    from run_windows
    where run_windows.stream = 'events'
),

-- The bounds of all windows, by which an index finds the days: a join with windows is planned as a ninth of all rows.
span as (
    select min(windows.first_day) as first_day, max(windows.last_day) as last_day
    from windows
),

cut as (
    select
        staged.record_key,
        staged.payload,
        ((staged.payload #>> '{attributes,datetime}')::timestamptz at time zone %(time_zone)s)::date as date
    from staging_ingest.klaviyo_events as staged
    where
        staged.connection_id = %(connection_id)s
        and staged.report_key = 'events'
        and staged.record_date >= (select span.first_day - 2 from span)
        and staged.record_date <= (select span.last_day + 2 from span)
),

occurred as (
    select
        cut.record_key,
        cut.date,
        cut.payload #>> '{relationships,metric,data,id}' as metric_id,
        cut.payload #>> '{relationships,profile,data,id}' as profile_id,
        (cut.payload #>> '{attributes,event_properties,$value}')::numeric as value
    from windows
    inner join cut on cut.date between windows.first_day and windows.last_day

    union all

    select
        null,
        day.value::date,
        core_warehouse.klaviyo_conversion_metric(account.settings, account.facts),
        null,
        null
    from windows
    cross join lateral generate_series(windows.first_day, windows.last_day, interval '1 day') as day (value)
    inner join public.platform_connections as account on account.id = %(connection_id)s
),

source as materialized (
    select
        occurred.date, occurred.metric_id,
        max(metric.name) as metric_name,
        %(currency)s::char(3) as currency,
        count(occurred.record_key) as events,
        count(distinct occurred.profile_id) as profiles,
        coalesce(sum(occurred.value), 0)::numeric(18, 6) as value
    from occurred
    left join core_warehouse.dim_klaviyo_metric as metric
        on metric.connection_id = %(connection_id)s and occurred.metric_id = metric.metric_id
    where occurred.metric_id is not null
    group by occurred.date, occurred.metric_id
),

stored as (
    select fact.ctid as place, fact.*
    from core_warehouse.fct_klaviyo_event_daily as fact
    inner join windows on fact.date between windows.first_day and windows.last_day
    where
        fact.connection_id = %(connection_id)s
        and fact.date >= (select span.first_day from span)
        and fact.date <= (select span.last_day from span)
),

-- A full join is hashed or merged. Any other may be looped while the planner believes the tables to be empty, and then
-- every row meets every other.
compared as (
    select stored.place, source.*
    from stored
    full join source
        on
            stored.date = source.date
            and stored.metric_id = source.metric_id
    where
        source.date is null
        or (stored.metric_name, stored.currency, stored.events, stored.profiles, stored.value)
        is distinct from (source.metric_name, source.currency, source.events, source.profiles, source.value)
),

withdrawn as (
    delete from core_warehouse.fct_klaviyo_event_daily as fact
    where fact.ctid = any(array(select place from compared where date is null))
)

insert into core_warehouse.fct_klaviyo_event_daily as fact (
    connection_id, date, metric_id, metric_name, currency, events, profiles, value, run_id
)
select
    %(connection_id)s::uuid, date, metric_id, metric_name, currency, events, profiles, value, %(run_id)s::uuid
from compared
where date is not null
on conflict (connection_id, date, metric_id) do update set
    metric_name = excluded.metric_name,
    currency = excluded.currency,
    events = excluded.events,
    profiles = excluded.profiles,
    value = excluded.value,
    run_id = excluded.run_id,
    loaded_at = now()
