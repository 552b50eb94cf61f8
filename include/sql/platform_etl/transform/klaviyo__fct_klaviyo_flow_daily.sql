-- What Klaviyo's own screens show of a flow's messages, day by day.
with
windows as (
    select run_windows.first_day, run_windows.last_day
    from run_windows
    where run_windows.stream = 'flow_series'
),

-- The bounds of all windows, by which an index finds the days: a join with windows is planned as a ninth of all rows.
span as (
    select min(windows.first_day) as first_day, max(windows.last_day) as last_day
    from windows
),

source as materialized (
    select
        staged.record_date as date,
        staged.payload ->> 'flow_message_id' as message_id,
        staged.payload ->> 'conversion_metric_id' as conversion_metric_id,
        max(staged.payload ->> 'flow_id') as flow_id,
        max(staged.payload ->> 'send_channel') as channel,
        %(currency)s::char(3) as currency,
        sum((staged.payload ->> 'recipients')::bigint)::bigint as recipients,
        sum((staged.payload ->> 'delivered')::bigint)::bigint as delivered,
        sum((staged.payload ->> 'bounced')::bigint)::bigint as bounced,
        sum((staged.payload ->> 'failed')::bigint)::bigint as failed,
        sum((staged.payload ->> 'opens')::bigint)::bigint as opens,
        sum((staged.payload ->> 'opens_unique')::bigint)::bigint as opens_unique,
        sum((staged.payload ->> 'clicks')::bigint)::bigint as clicks,
        sum((staged.payload ->> 'clicks_unique')::bigint)::bigint as clicks_unique,
        sum((staged.payload ->> 'unsubscribes')::bigint)::bigint as unsubscribes,
        sum((staged.payload ->> 'unsubscribe_uniques')::bigint)::bigint as unsubscribe_uniques,
        sum((staged.payload ->> 'spam_complaints')::bigint)::bigint as spam_complaints,
        sum((staged.payload ->> 'conversions')::bigint)::bigint as conversions,
        sum((staged.payload ->> 'conversion_uniques')::bigint)::bigint as conversion_uniques,
        sum((staged.payload ->> 'conversion_value')::numeric)::numeric(18, 6) as conversion_value
    from windows
    inner join staging_ingest.klaviyo_flow_series as staged
        on staged.record_date between windows.first_day and windows.last_day
    where
        staged.connection_id = %(connection_id)s
        and staged.report_key = 'flow_series'
        and staged.record_date >= (select span.first_day from span)
        and staged.record_date <= (select span.last_day from span)
    group by
        staged.record_date, staged.payload ->> 'flow_message_id', staged.payload ->> 'conversion_metric_id'
),

stored as (
    select fact.ctid as place, fact.*
    from core_warehouse.fct_klaviyo_flow_daily as fact
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
            and stored.message_id = source.message_id
            and stored.conversion_metric_id = source.conversion_metric_id
    where
        source.date is null
        or (
            stored.flow_id, stored.channel, stored.currency, stored.recipients, stored.delivered, stored.bounced,
            stored.failed, stored.opens, stored.opens_unique, stored.clicks, stored.clicks_unique, stored.unsubscribes,
            stored.unsubscribe_uniques, stored.spam_complaints, stored.conversions, stored.conversion_uniques,
            stored.conversion_value
        ) is distinct from (
            source.flow_id, source.channel, source.currency, source.recipients, source.delivered,
            source.bounced, source.failed, source.opens, source.opens_unique, source.clicks, source.clicks_unique,
            source.unsubscribes, source.unsubscribe_uniques, source.spam_complaints, source.conversions,
            source.conversion_uniques, source.conversion_value
        )
),

withdrawn as (
    delete from core_warehouse.fct_klaviyo_flow_daily as fact
    where fact.ctid = any(array(select place from compared where date is null))
)

insert into core_warehouse.fct_klaviyo_flow_daily as fact (
    connection_id, date, message_id, conversion_metric_id, flow_id, channel, currency, recipients, delivered,
    bounced, failed, opens, opens_unique, clicks, clicks_unique, unsubscribes, unsubscribe_uniques, spam_complaints,
    conversions, conversion_uniques, conversion_value, run_id
)
select
    %(connection_id)s::uuid, date, message_id, conversion_metric_id, flow_id, channel, currency, recipients,
    delivered, bounced, failed, opens, opens_unique, clicks, clicks_unique, unsubscribes, unsubscribe_uniques,
    spam_complaints, conversions, conversion_uniques, conversion_value, %(run_id)s::uuid
from compared
where date is not null
on conflict (connection_id, date, message_id, conversion_metric_id) do update set
    flow_id = excluded.flow_id,
    channel = excluded.channel,
    currency = excluded.currency,
    recipients = excluded.recipients,
    delivered = excluded.delivered,
    bounced = excluded.bounced,
    failed = excluded.failed,
    opens = excluded.opens,
    opens_unique = excluded.opens_unique,
    clicks = excluded.clicks,
    clicks_unique = excluded.clicks_unique,
    unsubscribes = excluded.unsubscribes,
    unsubscribe_uniques = excluded.unsubscribe_uniques,
    spam_complaints = excluded.spam_complaints,
    conversions = excluded.conversions,
    conversion_uniques = excluded.conversion_uniques,
    conversion_value = excluded.conversion_value,
    run_id = excluded.run_id,
    loaded_at = now()
