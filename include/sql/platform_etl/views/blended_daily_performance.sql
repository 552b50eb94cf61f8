-- after: account_twins, fct_ad_spend_daily, fct_shop_sales_daily
-- One row per shop and day, in the shop's currency. Every fact brings its own rows and its own columns, and one
-- `group by` adds them up: nothing is joined to anything finer than itself, so nothing can be counted twice.
--
-- roas = revenue that the ad platforms credit themselves with / their spend
-- mer  = the shop's sales / spend of ALL platforms
-- cac  = spend of all platforms / new customers        aov = sales / orders with a price
--
-- A ratio whose divisor is zero, or whose parts no source provides, is null. So is an amount of which a part lacks
-- a rate: a partial sum would look like a figure; fx_missing says so. `*_final`: the day was read when the vendor
-- corrected it no more; spend_final: and so was every active ad account of the shop, one without rows of that day too.
create or replace view reporting.blended_daily_performance as
with
accounts as not materialized (
    select
        account.id as connection_id,
        account.shop_id,
        account.platform in ('META', 'GOOGLE_ADS') and coalesce(account.is_active, true) as is_spending,
        core_warehouse.known_time_zone(account.time_zone) as time_zone,
        core_warehouse.final_before(account.platform, account.time_zone, account.last_synced_at) as final_before,
        coalesce(shop.currency, 'USD') as currency
    from public.platform_connections as account
    left join core_warehouse.shops as shop on account.shop_id = shop.shop_id
    where account.shop_id is not null
),

-- Null: an account of the shop was never read.
spending as (
    select
        accounts.shop_id,
        case when count(*) = count(accounts.final_before) then min(accounts.final_before) end as final_before
    from accounts
    where accounts.is_spending
    group by accounts.shop_id
),

measures as (
    select
        accounts.shop_id,
        spend.date,
        spend.platform as measured,
        accounts.time_zone,
        core_warehouse.to_currency(spend.spend, spend.currency, accounts.currency, spend.date) as spend,
        spend.impressions,
        spend.clicks,
        spend.conversions,
        core_warehouse.to_currency(spend.conversion_value, spend.currency, accounts.currency, spend.date) as revenue,
        null::bigint as sessions,
        null::bigint as users,
        null::numeric as ga4_transactions,
        null::numeric as ga4_revenue,
        null::numeric as email_revenue,
        null::numeric as message_revenue,
        null::bigint as orders,
        null::bigint as priced_orders,
        null::numeric as sales,
        coalesce(spend.date < accounts.final_before, false) as is_final
    from core_warehouse.fct_ad_spend_daily as spend
    inner join accounts on spend.connection_id = accounts.connection_id

    union all

    select
        accounts.shop_id,
        web.date,
        'GA4',
        accounts.time_zone,
        null, null, null, null, null,
        web.sessions,
        web.users,
        web.transactions,
        core_warehouse.to_currency(web.purchase_revenue, web.currency, accounts.currency, web.date),
        null, null, null, null, null,
        web.is_final
    from core_warehouse.fct_ga4_daily as web
    inner join accounts on web.connection_id = accounts.connection_id
    where
        web.report = 'property'
        -- Whether there are twins at all is asked once, not for every row.
        and not (
            web.connection_id = any(array(select twin.connection_id from core_warehouse.account_twins as twin))
            and exists (
                select
                from core_warehouse.account_twins as twin
                inner join core_warehouse.fct_ga4_daily as said on twin.better_id = said.connection_id
                where twin.connection_id = web.connection_id and said.report = 'property' and said.date = web.date
            )
        )

    union all

    select
        accounts.shop_id,
        message.date,
        'KLAVIYO',
        accounts.time_zone,
        null, null, null, null, null, null, null, null, null,
        case
            when message.channel in ('email', 'unknown')
                then core_warehouse.to_currency(
                    message.conversion_value, message.currency, accounts.currency, message.date
                )
            else 0
        end,
        core_warehouse.to_currency(message.conversion_value, message.currency, accounts.currency, message.date),
        null, null, null,
        coalesce(message.date < accounts.final_before, false)
    from core_warehouse.fct_klaviyo_message_daily as message
    inner join accounts on message.connection_id = accounts.connection_id

    union all

    select
        sold.shop_id,
        sold.date,
        'ORDERS',
        null,
        null, null, null, null, null, null, null, null, null, null, null,
        sold.orders,
        sold.priced_orders,
        core_warehouse.to_currency(sold.sales, sold.currency, coalesce(shop.currency, 'USD'), sold.date),
        null
    from core_warehouse.fct_shop_sales_daily as sold
    left join core_warehouse.shops as shop on sold.shop_id = shop.shop_id
),

-- A sum is null when one of its parts is.
by_day as (
    select
        shop_id,
        date,
        case
            when bool_and(spend is not null) filter (where measured in ('META', 'GOOGLE_ADS'))
                then sum(spend)
        end as spend,
        case
            when bool_and(spend is not null) filter (where measured = 'META')
                then sum(spend) filter (where measured = 'META')
        end as meta_spend,
        case
            when bool_and(spend is not null) filter (where measured = 'GOOGLE_ADS')
                then sum(spend) filter (where measured = 'GOOGLE_ADS')
        end as google_ads_spend,
        sum(impressions) as impressions,
        sum(clicks) as clicks,
        sum(conversions) as conversions,
        case
            when bool_and(revenue is not null) filter (where measured in ('META', 'GOOGLE_ADS'))
                then sum(revenue)
        end as revenue,
        sum(sessions) as sessions,
        sum(users) as users,
        sum(ga4_transactions) as ga4_transactions,
        case when bool_and(ga4_revenue is not null) filter (where measured = 'GA4') then sum(ga4_revenue) end
            as ga4_revenue,
        case when bool_and(email_revenue is not null) filter (where measured = 'KLAVIYO') then sum(email_revenue) end
            as email_revenue,
        case
            when bool_and(message_revenue is not null) filter (where measured = 'KLAVIYO')
                then sum(message_revenue)
        end as message_revenue,
        sum(orders) as orders,
        sum(priced_orders) as priced_orders,
        case when bool_and(sales is not null) filter (where priced_orders > 0) then sum(sales) end as sales,
        bool_or(
            case measured
                when 'GA4' then ga4_revenue is null
                when 'KLAVIYO' then message_revenue is null
                when 'ORDERS' then sales is null and priced_orders > 0
                else spend is null or revenue is null
            end
        ) as fx_missing,
        bool_and(is_final) filter (where measured in ('META', 'GOOGLE_ADS')) as spend_final,
        bool_and(is_final) filter (where measured = 'GA4') as ga4_final,
        bool_and(is_final) filter (where measured = 'KLAVIYO') as email_final,
        string_agg(distinct time_zone, ', ') as account_time_zones
    from measures
    group by shop_id, date
)

select
    by_day.shop_id,
    shop.shop_name,
    by_day.date,
    coalesce(shop.currency, 'USD') as currency,
    by_day.spend,
    by_day.meta_spend,
    by_day.google_ads_spend,
    by_day.impressions,
    by_day.clicks,
    by_day.conversions,
    by_day.revenue,
    by_day.revenue / nullif(by_day.spend, 0) as roas,
    by_day.sessions,
    by_day.users,
    by_day.ga4_transactions,
    by_day.ga4_revenue,
    by_day.email_revenue,
    by_day.message_revenue,
    by_day.orders,
    null::bigint as new_customers,
    by_day.sales,
    by_day.sales / nullif(by_day.spend, 0) as mer,
    null::numeric as cac,
    by_day.sales / nullif(by_day.priced_orders, 0) as aov,
    by_day.fx_missing,
    case
        when by_day.spend_final and spending.shop_id is not null
            then coalesce(by_day.date < spending.final_before, false)
        else by_day.spend_final
    end as spend_final,
    by_day.ga4_final,
    by_day.email_final,
    core_warehouse.known_time_zone(shop.timezone) as shop_time_zone,
    by_day.account_time_zones
from by_day
left join core_warehouse.shops as shop on by_day.shop_id = shop.shop_id
left join spending on by_day.shop_id = spending.shop_id;
