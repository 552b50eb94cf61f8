-- Raw event counts per day and message, with the orders that Klaviyo attributes to it. Orders that it attributes to
-- no message (an empty dimension) belong to none and are left to the account's totals.
with
windows as (
    select run_windows.first_day, run_windows.last_day
    from run_windows
    where run_windows.stream = 'message_aggregates'
),

-- The bounds of all windows, by which an index finds the days: a join with windows is planned as a ninth of all rows.
span as (
    select min(windows.first_day) as first_day, max(windows.last_day) as last_day
    from windows
),

-- The metric by which this account counts revenue.
conversion as (
    select coalesce(core_warehouse.klaviyo_conversion_metric(account.settings, account.facts), '') as metric_id
    from public.platform_connections as account
    where account.id = %(connection_id)s
),

counted as (
    select
        staged.record_date as date,
        staged.payload ->> 'dimension' as message_id,
        staged.payload ->> 'metric_name' as metric_name,
        (staged.payload ->> 'count')::bigint as events,
        (staged.payload ->> 'unique')::bigint as profiles,
        (staged.payload ->> 'sum_value')::numeric(18, 6) as value
    from windows
    inner join staging_ingest.klaviyo_metric_aggregates as staged
        on staged.record_date between windows.first_day and windows.last_day
    where
        staged.connection_id = %(connection_id)s
        and staged.report_key = 'message_aggregates'
        and staged.payload ->> 'dimension' <> ''
        and staged.record_date >= (select span.first_day from span)
        and staged.record_date <= (select span.last_day from span)
),

by_message as (
    select
        date, message_id,
        coalesce(sum(events) filter (where metric_name = 'Received Email'), 0)::bigint as delivered,
        coalesce(sum(events) filter (where metric_name = 'Bounced Email'), 0)::bigint as bounced,
        coalesce(sum(events) filter (where metric_name = 'Opened Email'), 0)::bigint as opens,
        coalesce(sum(profiles) filter (where metric_name = 'Opened Email'), 0)::bigint as opens_unique,
        coalesce(sum(events) filter (where metric_name = 'Clicked Email'), 0)::bigint as clicks,
        coalesce(sum(profiles) filter (where metric_name = 'Clicked Email'), 0)::bigint as clicks_unique,
        coalesce(
            sum(events) filter (where metric_name = 'Unsubscribed from Email Marketing'), 0
        )::bigint as unsubscribes,
        coalesce(sum(events) filter (where metric_name = 'Placed Order'), 0)::bigint as conversions,
        coalesce(sum(value) filter (where metric_name = 'Placed Order'), 0)::numeric(18, 6) as conversion_value,
        bool_or(metric_name <> 'Placed Order') as is_email
    from counted
    group by date, message_id
),

source as materialized (
    select
        by_message.date, by_message.message_id, conversion.metric_id as conversion_metric_id,
        coalesce(message.channel, case when by_message.is_email then 'email' else 'unknown' end) as channel,
        %(currency)s::char(3) as currency,
        by_message.delivered + by_message.bounced as recipients,
        by_message.delivered, by_message.opens, by_message.opens_unique, by_message.clicks,
        by_message.clicks_unique, by_message.bounced, by_message.unsubscribes, by_message.conversions,
        by_message.conversion_value
    from by_message
    cross join conversion
    left join core_warehouse.dim_klaviyo_message as message
        on message.connection_id = %(connection_id)s and by_message.message_id = message.message_id
),

stored as (
    select fact.ctid as place, fact.*
    from core_warehouse.fct_klaviyo_message_daily as fact
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
            stored.channel, stored.currency, stored.recipients, stored.delivered, stored.opens, stored.opens_unique,
            stored.clicks, stored.clicks_unique, stored.bounced, stored.unsubscribes, stored.conversions,
            stored.conversion_value
        ) is distinct from (
            source.channel, source.currency, source.recipients, source.delivered, source.opens, source.opens_unique,
            source.clicks, source.clicks_unique, source.bounced, source.unsubscribes, source.conversions,
            source.conversion_value
        )
),

withdrawn as (
    delete from core_warehouse.fct_klaviyo_message_daily as fact
    where fact.ctid = any(array(select place from compared where date is null))
)

insert into core_warehouse.fct_klaviyo_message_daily as fact (
    connection_id, date, message_id, conversion_metric_id, channel, currency, recipients, delivered, opens,
    opens_unique, clicks, clicks_unique, bounced, unsubscribes, conversions, conversion_value, run_id
)
select
    %(connection_id)s::uuid, date, message_id, conversion_metric_id, channel, currency, recipients, delivered, opens,
    opens_unique, clicks, clicks_unique, bounced, unsubscribes, conversions, conversion_value, %(run_id)s::uuid
from compared
where date is not null
on conflict (connection_id, date, message_id, conversion_metric_id) do update set
    channel = excluded.channel,
    currency = excluded.currency,
    recipients = excluded.recipients,
    delivered = excluded.delivered,
    opens = excluded.opens,
    opens_unique = excluded.opens_unique,
    clicks = excluded.clicks,
    clicks_unique = excluded.clicks_unique,
    bounced = excluded.bounced,
    unsubscribes = excluded.unsubscribes,
    conversions = excluded.conversions,
    conversion_value = excluded.conversion_value,
    run_id = excluded.run_id,
    loaded_at = now()
