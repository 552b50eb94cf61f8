-- Events per day and metric, in the account's zone. A run reads a piece of a day, so every day it touched is counted
-- again from all staged events of that day.
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

source as materialized (
    select
        staged.record_date as date,
        staged.payload #>> '{relationships,metric,data,id}' as metric_id,
        max(metric.name) as metric_name,
        %(currency)s::char(3) as currency,
        count(*) as events,
        count(distinct staged.payload #>> '{relationships,profile,data,id}') as profiles,
        coalesce(
            sum((staged.payload #>> '{attributes,event_properties,$value}')::numeric), 0
        )::numeric(18, 6) as value
    from windows
    inner join staging_ingest.klaviyo_events as staged
        on staged.record_date between windows.first_day and windows.last_day
    left join core_warehouse.dim_klaviyo_metric as metric
        on
            staged.connection_id = metric.connection_id
            and staged.payload #>> '{relationships,metric,data,id}' = metric.metric_id
    where
        staged.connection_id = %(connection_id)s
        and staged.report_key = 'events'
        and staged.record_date >= (select span.first_day from span)
        and staged.record_date <= (select span.last_day from span)
    group by staged.record_date, staged.payload #>> '{relationships,metric,data,id}'
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
