-- Events per day and metric, in the account's zone. A run reads a piece of a day, so every day it touched is counted
-- again from all staged events of that day.
with
windows as (
    select run_windows.first_day, run_windows.last_day
    from run_windows
    where run_windows.stream = 'events'
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
    where staged.connection_id = %(connection_id)s and staged.report_key = 'events'
    group by staged.record_date, staged.payload #>> '{relationships,metric,data,id}'
),

withdrawn as (
    delete from core_warehouse.fct_klaviyo_event_daily as fact
    using windows
    where
        fact.connection_id = %(connection_id)s
        and fact.date between windows.first_day and windows.last_day
        and not exists (
            select from source where source.date = fact.date and source.metric_id = fact.metric_id
        )
),

changed as (
    select source.*
    from source
    left join core_warehouse.fct_klaviyo_event_daily as fact
        on
            fact.connection_id = %(connection_id)s
            and source.date = fact.date
            and source.metric_id = fact.metric_id
    where
        (fact.metric_name, fact.currency, fact.events, fact.profiles, fact.value)
        is distinct from (source.metric_name, source.currency, source.events, source.profiles, source.value)
)

insert into core_warehouse.fct_klaviyo_event_daily as fact (
    connection_id, date, metric_id, metric_name, currency, events, profiles, value, run_id
)
select
    %(connection_id)s::uuid, date, metric_id, metric_name, currency, events, profiles, value, %(run_id)s::uuid
from changed
on conflict (connection_id, date, metric_id) do update set
    metric_name = excluded.metric_name,
    currency = excluded.currency,
    events = excluded.events,
    profiles = excluded.profiles,
    value = excluded.value,
    run_id = excluded.run_id,
    loaded_at = now()
