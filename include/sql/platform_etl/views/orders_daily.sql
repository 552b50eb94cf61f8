-- after: fct_shop_sales_daily
-- The old dashboard's view: orders per shop and day of the shop, whatever their currency.
create or replace view reporting.orders_daily as
select
    sold.shop_id,
    sold.date,
    sum(sold.orders)::bigint as order_count
from core_warehouse.fct_shop_sales_daily as sold
group by sold.shop_id, sold.date;
