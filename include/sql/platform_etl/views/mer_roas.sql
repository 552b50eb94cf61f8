-- after: fct_shop_sales_daily
-- The old dashboard's view, one row per shop, day and platform. The old one divided the shop's revenue by one
-- platform's spend and called it both ROAS and MER. Now roas = what the platform credits itself with / its spend,
-- mer = the shop's sales / the spend of all platforms (in the shop's currency; null without orders or without a rate).
-- It reads the old table, so that days loaded by the old worker stay in it.
create or replace view reporting.mer_roas as
with
spent as (
    select
        marketing.shop_id,
        marketing.date,
        marketing.platform,
        marketing.spend,
        marketing.currency as marketing_currency,
        marketing.revenue as platform_revenue,
        coalesce(shop.currency, 'USD') as shop_currency,
        core_warehouse.to_currency(
            marketing.spend, coalesce(marketing.currency, shop.currency, 'USD'), coalesce(shop.currency, 'USD'),
            marketing.date
        ) as spend_converted
    from core_warehouse.fact_marketing_daily as marketing
    left join core_warehouse.shops as shop on marketing.shop_id = shop.shop_id
),

totalled as (
    select
        spent.*,
        case
            when count(*) over same_day = count(spent.spend_converted) over same_day
                then sum(spent.spend_converted) over same_day
        end as total_spend
    from spent
    window same_day as (partition by spent.shop_id, spent.date)
),

sold as (
    select
        sales.shop_id,
        sales.date,
        case when count(*) = count(sales.converted) then sum(sales.converted) end as revenue
    from (
        select
            daily.shop_id,
            daily.date,
            core_warehouse.to_currency(
                daily.sales, daily.currency, coalesce(shop.currency, 'USD'), daily.date
            ) as converted
        from core_warehouse.fct_shop_sales_daily as daily
        left join core_warehouse.shops as shop on daily.shop_id = shop.shop_id
        where daily.priced_orders > 0
    ) as sales
    group by sales.shop_id, sales.date
)

select
    totalled.shop_id,
    totalled.date,
    totalled.platform,
    totalled.spend,
    totalled.marketing_currency,
    sold.revenue,
    totalled.shop_currency as revenue_currency,
    totalled.platform_revenue / nullif(totalled.spend, 0) as roas,
    sold.revenue / nullif(totalled.total_spend, 0) as mer,
    totalled.platform_revenue,
    totalled.total_spend
from totalled
left join sold on totalled.shop_id = sold.shop_id and totalled.date = sold.date;
