-- What Klaviyo's own screens show of a flow's messages, day by day.
with
windows as (
    select run_windows.first_day, run_windows.last_day
    from run_windows
    where run_windows.stream = 'flow_series'
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
    where staged.connection_id = %(connection_id)s and staged.report_key = 'flow_series'
    group by
        staged.record_date, staged.payload ->> 'flow_message_id', staged.payload ->> 'conversion_metric_id'
),

withdrawn as (
    delete from core_warehouse.fct_klaviyo_flow_daily as fact
    using windows
    where
        fact.connection_id = %(connection_id)s
        and fact.date between windows.first_day and windows.last_day
        and not exists (
            select
            from source
            where
                source.date = fact.date
                and source.message_id = fact.message_id
                and source.conversion_metric_id = fact.conversion_metric_id
        )
),

changed as (
    select source.*
    from source
    left join core_warehouse.fct_klaviyo_flow_daily as fact
        on
            fact.connection_id = %(connection_id)s
            and source.date = fact.date
            and source.message_id = fact.message_id
            and source.conversion_metric_id = fact.conversion_metric_id
    where
        (
            fact.flow_id, fact.channel, fact.currency, fact.recipients, fact.delivered, fact.bounced, fact.failed,
            fact.opens, fact.opens_unique, fact.clicks, fact.clicks_unique, fact.unsubscribes,
            fact.unsubscribe_uniques, fact.spam_complaints, fact.conversions, fact.conversion_uniques,
            fact.conversion_value
        ) is distinct from (
            source.flow_id, source.channel, source.currency, source.recipients, source.delivered,
            source.bounced, source.failed, source.opens, source.opens_unique, source.clicks, source.clicks_unique,
            source.unsubscribes, source.unsubscribe_uniques, source.spam_complaints, source.conversions,
            source.conversion_uniques, source.conversion_value
        )
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
from changed
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
