-- What reporting shows of an account and day against the vendor's own total, which was asked for in another way.
-- Days that only one side has are compared as well: a missing figure counts as zero. Without a vendor total there is
-- nothing to say, so the difference is null.
--
-- Klaviyo's totals are compared with what was counted by the same conversion metric, and with the events of days whose
-- events were read.
--
-- known_gap is the part of the total that the vendor itself leaves without an owner; it is named and not counted:
--   META     delivery that belongs to no ad: the account's own figure less the sum of its ads
--   KLAVIYO  orders that no message is credited with: all orders less the attributed ones
create or replace view reporting.reconciliation as
with
totals as not materialized (
    select
        total.*,
        -- Any one of the day's messages tells: a day is replaced whole.
        coalesce(
            (
                select message.conversion_metric_id = total.conversion_metric_id
                from core_warehouse.fct_klaviyo_message_daily as message
                where message.connection_id = total.connection_id and message.date = total.date
                limit 1
            ),
            true
        ) as is_of_messages,
        total.conversion_metric_id is null or exists (
            select
            from core_warehouse.fct_klaviyo_event_daily as event
            where
                event.connection_id = total.connection_id and event.date = total.date
                and event.metric_id = total.conversion_metric_id
        ) as is_of_events
    from core_warehouse.fct_account_totals as total
),

sides as (
    select
        fact.connection_id,
        fact.date,
        figure.metric,
        figure.currency,
        figure.value as reported,
        null::numeric as vendor_total,
        case when figure.metric in ('spend', 'impressions', 'clicks') then figure.value end as gap_whole,
        null::numeric as gap_part
    from core_warehouse.fct_meta_daily as fact
    cross join lateral (
        values
        ('spend', fact.spend, fact.currency),
        ('impressions', fact.impressions, null),
        ('clicks', fact.clicks, null),
        ('purchases', fact.purchases, null),
        ('revenue', fact.purchase_value, fact.currency)
    ) as figure (metric, value, currency)
    where fact.level = 'ACCOUNT' and fact.attribution_setting = 'account'

    union all

    select
        ads.connection_id,
        ads.date,
        figure.metric,
        null,
        null,
        null,
        null,
        figure.value as of_ads
    from (
        select
            connection_id,
            date,
            sum(spend) as spend,
            sum(impressions) as impressions,
            sum(clicks) as clicks
        from core_warehouse.fct_meta_daily
        where level = 'AD' and attribution_setting = 'account'
        group by connection_id, date
    ) as ads
    cross join lateral (
        values
        ('spend', ads.spend),
        ('impressions', ads.impressions),
        ('clicks', ads.clicks)
    ) as figure (metric, value)

    union all

    select
        fact.connection_id,
        fact.date,
        figure.metric,
        figure.currency,
        figure.value,
        null,
        null,
        null
    from core_warehouse.fct_ga4_daily as fact
    cross join lateral (
        values
        ('sessions', fact.sessions, null),
        ('users', fact.users, null),
        ('key_events', fact.key_events, null),
        ('transactions', fact.transactions, null),
        ('revenue', fact.purchase_revenue, fact.currency),
        ('total_revenue', fact.total_revenue, fact.currency)
    ) as figure (metric, value, currency)
    where fact.report = 'property'

    union all

    select
        fact.connection_id,
        fact.date,
        figure.metric,
        figure.currency,
        figure.value as reported,
        null,
        null,
        figure.value as of_messages
    from core_warehouse.fct_klaviyo_message_daily as fact
    cross join lateral (
        values
        ('conversions', fact.conversions, null),
        ('revenue', fact.conversion_value, fact.currency)
    ) as figure (metric, value, currency)

    union all

    select
        fact.connection_id,
        fact.date,
        figure.metric,
        figure.currency,
        figure.value,
        null,
        null,
        null
    from core_warehouse.fct_klaviyo_event_daily as fact
    inner join public.platform_connections as account on fact.connection_id = account.id
    left join core_warehouse.fct_account_totals as total
        on fact.connection_id = total.connection_id and fact.date = total.date and total.metric = 'placed_orders'
    cross join lateral (
        values
        ('placed_orders', fact.events, null),
        ('placed_order_value', fact.value, fact.currency)
    ) as figure (metric, value, currency)
    where
        fact.metric_id = coalesce(
            total.conversion_metric_id, core_warehouse.klaviyo_conversion_metric(account.settings, account.facts)
        )

    union all

    select
        total.connection_id,
        total.date,
        total.metric,
        total.currency,
        null,
        total.value,
        null,
        null
    from totals as total
    where
        case
            when total.metric in ('placed_orders', 'placed_order_value') then total.is_of_events
            else total.is_of_messages
        end

    union all

    -- All orders, beside the attributed ones that the metric is about.
    select
        total.connection_id,
        total.date,
        case total.metric when 'placed_orders' then 'conversions' else 'revenue' end,
        null,
        null,
        null,
        total.value,
        null
    from totals as total
    where total.metric in ('placed_orders', 'placed_order_value') and total.is_of_messages
),

compared as (
    select
        connection_id,
        date,
        metric,
        max(currency) as currency,
        sum(reported) as reported,
        sum(vendor_total) as vendor_total,
        sum(gap_whole) - coalesce(sum(gap_part), 0) as known_gap
    from sides
    group by connection_id, date, metric
)

select
    account.shop_id,
    account.platform,
    compared.connection_id,
    account.account_id,
    account.account_name,
    compared.date,
    compared.metric,
    compared.currency,
    compared.reported,
    compared.vendor_total,
    coalesce(compared.reported, 0) - compared.vendor_total as difference,
    compared.known_gap,
    case
        when compared.known_gap is null then null
        when account.platform = 'META' then 'delivery without an ad'
        when account.platform = 'KLAVIYO' then 'orders credited to no message'
    end as known_gap_name,
    -- The two questions were asked minutes apart, and the day goes on.
    compared.date >= (now() at time zone core_warehouse.known_time_zone(account.time_zone))::date as is_provisional
from compared
inner join public.platform_connections as account on compared.connection_id = account.id;
