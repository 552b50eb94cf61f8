-- Rows of one shop that are the same account of a vendor, as an account that was connected anew may be: beside each one
-- those that are believed before it, the active one and then the one that was read last. What a better one says of a
-- day counts alone; days of which it says nothing are the other one's.
create or replace view core_warehouse.account_twins as
select
    worse.id as connection_id,
    better.id as better_id
from public.platform_connections as worse
inner join public.platform_connections as better
    on
        worse.platform = better.platform
        and worse.shop_id = better.shop_id
        and core_warehouse.vendor_account(worse.platform, worse.account_id)
        = core_warehouse.vendor_account(better.platform, better.account_id)
        and worse.id <> better.id
where
    (coalesce(worse.is_active, true), coalesce(worse.last_synced_at, '-infinity'), worse.id)
    < (coalesce(better.is_active, true), coalesce(better.last_synced_at, '-infinity'), better.id);
