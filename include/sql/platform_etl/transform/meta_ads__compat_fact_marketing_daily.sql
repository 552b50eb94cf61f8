-- The old dashboard's table for the days that this run touched: the delivery of all of the shop's accounts, in their
-- own currency, or in the shop's where they differ. A day that the old columns cannot hold, or that lacks a rate,
-- is left out and becomes a finding, because a wrong figure is worse than none.

-- Two accounts of a shop that load at the same time would each overlook the other's new rows.
select pg_advisory_xact_lock(hashtextextended('fact_marketing_daily ' || %(shop_id)s::text, 0));

with
days as (
    select distinct day.value::date as date
    from run_windows
    cross join lateral generate_series(
        run_windows.first_day, run_windows.last_day, interval '1 day'
    ) as day (value)
    where run_windows.stream = 'insights_account'
),

by_account as (
    select
        fact.date, fact.currency, fact.spend, fact.impressions, fact.clicks, fact.purchases as conversions,
        fact.purchase_value as revenue
    from public.platform_connections as account
    cross join days
    inner join core_warehouse.fct_meta_daily as fact
        on
            account.id = fact.connection_id
            and days.date = fact.date
            and fact.level = 'ACCOUNT'
            and fact.attribution_setting = 'account'
    where
        account.shop_id = %(shop_id)s
        and account.platform = 'META'
        -- Whether there are twins at all is asked once, not for every row.
        and not (
            fact.connection_id = any(array(select twin.connection_id from core_warehouse.account_twins as twin))
            and exists (
                select
                from core_warehouse.account_twins as twin
                inner join core_warehouse.fct_meta_daily as said on twin.better_id = said.connection_id
                where
                    twin.connection_id = fact.connection_id
                    and said.level = 'ACCOUNT'
                    and said.date = fact.date
                    and said.attribution_setting = 'account'
            )
        )
),

currencies as (
    select
        by_account.date,
        case
            when count(distinct by_account.currency) = 1 then min(by_account.currency)
            else coalesce(max(shop.currency), 'USD')
        end as currency
    from by_account
    left join core_warehouse.shops as shop on shop.shop_id = %(shop_id)s
    group by by_account.date
),

converted as (
    select
        by_account.date, currencies.currency,
        by_account.impressions,
        by_account.clicks,
        by_account.conversions,
        core_warehouse.to_currency(
            by_account.spend, by_account.currency, currencies.currency, by_account.date
        ) as spend,
        core_warehouse.to_currency(
            by_account.revenue, by_account.currency, currencies.currency, by_account.date
        ) as revenue
    from by_account
    inner join currencies on by_account.date = currencies.date
),

by_day as (
    select
        date, currency,
        sum(impressions) as impressions,
        sum(clicks) as clicks,
        sum(conversions) as conversions,
        case when count(*) = count(spend) then sum(spend) end as spend,
        case when count(*) = count(revenue) then sum(revenue) end as revenue
    from converted
    group by date, currency
),

judged as (
    select
        by_day.*,
        coalesce(
            abs(spend) < 99999999.995
            and abs(revenue) < 99999999.995
            and impressions < 2147483647.5
            and clicks < 2147483647.5
            and conversions < 2147483647.5,
            false
        ) as is_exact
    from by_day
),

source as materialized (
    select
        date, currency,
        round(impressions)::integer as impressions,
        round(clicks)::integer as clicks,
        round(conversions)::integer as conversions,
        round(spend, 2)::numeric(10, 2) as spend,
        round(revenue, 2)::numeric(10, 2) as revenue
    from judged
    where is_exact
),

findings as (
    insert into penstock.quality_results (run_id, check_code, scope, severity, detail)
    select
        %(run_id)s::uuid, 'COMPAT_LEFT_OUT', 'fact_marketing_daily ' || judged.date, 'WARN',
        jsonb_build_object('reason', 'out of the old columns'' range, or a currency rate is missing')
    from judged
    where not judged.is_exact
    on conflict (run_id, check_code, scope) do nothing
),

stored as (
    select fact.ctid as place, fact.*
    from core_warehouse.fact_marketing_daily as fact
    inner join days on fact.date = days.date
    where
        fact.shop_id = %(shop_id)s
        and fact.platform = 'META'
),

-- A full join is hashed or merged. Any other may be looped while the planner believes the tables to be empty, and then
-- every row meets every other.
compared as (
    select stored.place, source.*
    from stored
    full join source on stored.date = source.date
    where
        source.date is null
        or (
            stored.impressions, stored.clicks, stored.conversions, stored.spend, stored.revenue, stored.currency
        ) is distinct from (
            source.impressions, source.clicks, source.conversions, source.spend, source.revenue, source.currency
        )
),

withdrawn as (
    delete from core_warehouse.fact_marketing_daily as fact
    where fact.ctid = any(array(select place from compared where date is null))
)

insert into core_warehouse.fact_marketing_daily as fact (
    shop_id, date, platform, impressions, clicks, conversions, spend, revenue, currency
)
select
    %(shop_id)s::text, date, 'META', impressions, clicks, conversions, spend, revenue, currency
from compared
where date is not null
on conflict (shop_id, date, platform) do update set
    impressions = excluded.impressions,
    clicks = excluded.clicks,
    conversions = excluded.conversions,
    spend = excluded.spend,
    revenue = excluded.revenue,
    currency = excluded.currency,
    updated_at = now()
