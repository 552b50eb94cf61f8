-- The old dashboard's view: what was paid out on a day beside what was taken and given back on it. Payouts and
-- transactions are each added up per shop, day and currency before they meet, so several payouts of one day cannot
-- count its sales several times. Days are the shop's own.
create or replace view reporting.cash_to_bank as
with
paid_out as (
    select
        payout.shop_id,
        payout.payout_date,
        payout.currency,
        sum(payout.amount) as payout_amount,
        string_agg(distinct payout.status, ', ' order by payout.status) as payout_status
    from core_warehouse.payouts as payout
    group by payout.shop_id, payout.payout_date, payout.currency
),

moved as (
    select
        entry.shop_id,
        (entry.processed_at at time zone coalesce(shop.time_zone, 'UTC'))::date as date,
        entry.currency,
        sum(entry.amount) filter (where lower(entry.kind) in ('sale', 'capture')) as total_sales,
        sum(entry.amount) filter (where lower(entry.kind) = 'refund') as total_refunds
    from core_warehouse.transactions as entry
    left join (
        select
            shop_id,
            core_warehouse.known_time_zone(timezone) as time_zone
        from core_warehouse.shops
    ) as shop on entry.shop_id = shop.shop_id
    where lower(coalesce(entry.status, 'success')) = 'success'
    group by
        entry.shop_id,
        (entry.processed_at at time zone coalesce(shop.time_zone, 'UTC'))::date,
        entry.currency
)

select
    paid_out.shop_id,
    paid_out.payout_date,
    paid_out.payout_amount,
    paid_out.currency,
    paid_out.payout_status,
    coalesce(moved.total_sales, 0) as total_sales,
    coalesce(moved.total_refunds, 0) as total_refunds
from paid_out
left join moved
    on
        paid_out.shop_id = moved.shop_id
        and paid_out.payout_date = moved.date
        and paid_out.currency = moved.currency;
