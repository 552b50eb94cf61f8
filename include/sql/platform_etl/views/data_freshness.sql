-- How far each account's facts reach, stream by stream: the last day with figures, the cursor before which everything
-- is loaded, and how many complete days the cursor is behind. Every last day is the end of an index, not a scan.
create or replace view reporting.data_freshness as
with
reach as (
    select
        account.id as connection_id,
        part.stream,
        (
            select max(fact.date)
            from core_warehouse.fct_meta_daily as fact
            where fact.connection_id = account.id and fact.level = part.level
        ) as last_day
    from public.platform_connections as account
    cross join (
        values
        ('insights_account', 'ACCOUNT'),
        ('insights_campaign', 'CAMPAIGN'),
        ('insights_adset', 'ADSET'),
        ('insights_ad', 'AD')
    ) as part (stream, level)
    where account.platform = 'META'

    union all

    select
        account.id,
        part.stream,
        (
            select max(fact.date)
            from core_warehouse.fct_meta_breakdown_daily as fact
            where
                fact.connection_id = account.id
                and fact.level = 'ACCOUNT'
                and fact.breakdown_set = part.breakdown_set
        )
    from public.platform_connections as account
    cross join (
        values
        ('insights_age_gender', 'age,gender'),
        ('insights_country', 'country'),
        ('insights_platform', 'publisher_platform,platform_position')
    ) as part (stream, breakdown_set)
    where account.platform = 'META'

    union all

    select
        account.id,
        part.report,
        (
            select max(fact.date)
            from core_warehouse.fct_ga4_daily as fact
            where fact.connection_id = account.id and fact.report = part.report
        )
    from public.platform_connections as account
    cross join (
        values ('property'), ('traffic'), ('landing'), ('device'), ('geo'), ('events')
    ) as part (report)
    where account.platform = 'GA4'

    union all

    select
        account.id,
        part.stream,
        case part.stream
            when 'message_aggregates' then (
                select max(fact.date)
                from core_warehouse.fct_klaviyo_message_daily as fact
                where fact.connection_id = account.id
            )
            when 'events' then (
                select max(fact.date)
                from core_warehouse.fct_klaviyo_event_daily as fact
                where fact.connection_id = account.id
            )
            when 'flow_series' then (
                select max(fact.date)
                from core_warehouse.fct_klaviyo_flow_daily as fact
                where fact.connection_id = account.id
            )
            when 'campaign_values' then (
                select max(fact.as_of)
                from core_warehouse.fct_klaviyo_campaign_total as fact
                where fact.connection_id = account.id
            )
        end
    from public.platform_connections as account
    cross join (
        values ('message_aggregates'), ('events'), ('flow_series'), ('campaign_values')
    ) as part (stream)
    where account.platform = 'KLAVIYO'

    union all

    select
        account.id,
        'totals',
        (
            select max(fact.date)
            from core_warehouse.fct_account_totals as fact
            where fact.connection_id = account.id
        )
    from public.platform_connections as account
    where account.platform in ('META', 'GA4', 'KLAVIYO')
),

zoned as (
    select
        account.id,
        core_warehouse.known_time_zone(account.time_zone) as time_zone
    from public.platform_connections as account
)

select
    account.shop_id,
    account.platform,
    reach.connection_id,
    account.account_id,
    account.account_name,
    zoned.time_zone,
    reach.stream,
    reach.last_day,
    stream_cursor.cursor_at,
    (now() at time zone zoned.time_zone)::date - (stream_cursor.cursor_at at time zone zoned.time_zone)::date
        as days_behind,
    account.last_synced_at,
    now() - account.last_synced_at as age,
    core_warehouse.final_before(account.platform, account.time_zone, account.last_synced_at) - 1 as final_through
from reach
inner join public.platform_connections as account on reach.connection_id = account.id
inner join zoned on account.id = zoned.id
left join penstock.stream_cursors as stream_cursor
    on reach.connection_id = stream_cursor.connection_id and reach.stream = stream_cursor.stream;
