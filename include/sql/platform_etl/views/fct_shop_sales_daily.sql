-- What the shop sold, one row per shop, day and currency of the order. The day is cut in the shop's own zone; the
-- old views cut it in UTC. Voided orders were never paid and do not count. Sales are the orders' totals, with taxes
-- and shipping, before refunds; priced_orders are those that have a total.
create or replace view core_warehouse.fct_shop_sales_daily as
select
    ordered.shop_id,
    (ordered.order_date at time zone coalesce(shop.time_zone, 'UTC'))::date as date,
    coalesce(ordered.currency, shop.currency, 'USD') as currency,
    count(*) as orders,
    sum(ordered.total_price) as sales,
    count(ordered.total_price) as priced_orders
from core_warehouse.orders as ordered
left join (
    select
        shop_id,
        currency,
        core_warehouse.known_time_zone(timezone) as time_zone
    from core_warehouse.shops
) as shop on ordered.shop_id = shop.shop_id
where ordered.order_date is not null and upper(coalesce(ordered.financial_status, '')) <> 'VOIDED'
group by
    ordered.shop_id,
    (ordered.order_date at time zone coalesce(shop.time_zone, 'UTC'))::date,
    coalesce(ordered.currency, shop.currency, 'USD');
