-- after: fct_shop_sales_daily
-- The old dashboard's view. Its days were cut in UTC; these are the shop's own.
create or replace view reporting.daily_revenue as
select
    sold.shop_id,
    sold.date,
    sold.orders as order_count,
    sold.sales as revenue,
    sold.sales / nullif(sold.priced_orders, 0) as aov,
    sold.currency,
    shop.timezone
from core_warehouse.fct_shop_sales_daily as sold
left join core_warehouse.shops as shop on sold.shop_id = shop.shop_id;
