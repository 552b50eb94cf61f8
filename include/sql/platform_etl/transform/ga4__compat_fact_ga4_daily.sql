-- The old dashboard's table for the days that this run touched: the traffic of all of the shop's accounts, in their
-- own currency, or in the shop's where they differ. A day that the old columns cannot hold, or that lacks a rate,
-- is left out and becomes a finding, because a wrong figure is worse than none.

-- Two accounts of a shop that load at the same time would each overlook the other's new rows.
select pg_advisory_xact_lock(hashtextextended('fact_ga4_daily ' || %(shop_id)s::text, 0));

with
days as (
    select distinct day.value::date as date
    from run_windows
    cross join lateral generate_series(
        run_windows.first_day, run_windows.last_day, interval '1 day'
    ) as day (value)
    where run_windows.stream in ('property', 'device')
),

by_account as (
    select
        fact.date, fact.currency, fact.sessions, fact.users, device.page_views as pageviews,
        fact.key_events as conversions, fact.total_revenue as revenue
    from public.platform_connections as account
    cross join days
    inner join core_warehouse.fct_ga4_daily as fact
        on account.id = fact.connection_id and days.date = fact.date and fact.report = 'property'
    -- The property report has no room for page views (ten metrics are the limit); devices add up to them.
    cross join lateral (
        select coalesce(sum(by_device.page_views), 0) as page_views
        from core_warehouse.fct_ga4_daily as by_device
        where
            by_device.connection_id = fact.connection_id
            and by_device.report = 'device'
            and by_device.date = fact.date
    ) as device
    where
        account.shop_id = %(shop_id)s
        and account.platform = 'GA4'
        -- Whether there are twins at all is asked once, not for every row.
        and not (
            fact.connection_id = any(array(select twin.connection_id from core_warehouse.account_twins as twin))
            and exists (
                select
                from core_warehouse.account_twins as twin
                inner join core_warehouse.fct_ga4_daily as said on twin.better_id = said.connection_id
                where twin.connection_id = fact.connection_id and said.report = 'property' and said.date = fact.date
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
        by_account.sessions,
        by_account.users,
        by_account.pageviews,
        by_account.conversions,
        core_warehouse.to_currency(
            by_account.revenue, by_account.currency, currencies.currency, by_account.date
        ) as revenue
    from by_account
    inner join currencies on by_account.date = currencies.date
),

by_day as (
    select
        date, currency,
        sum(sessions) as sessions,
        sum(users) as users,
        sum(pageviews) as pageviews,
        sum(conversions) as conversions,
        case when count(*) = count(revenue) then sum(revenue) end as revenue
    from converted
    group by date, currency
),

judged as (
    select
        by_day.*,
        coalesce(
            abs(revenue) < 99999999.995
            and sessions < 2147483647.5
            and users < 2147483647.5
            and pageviews < 2147483647.5
            and conversions < 2147483647.5,
            false
        ) as is_exact
    from by_day
),

source as materialized (
    select
        date, currency,
        round(sessions)::integer as sessions,
        round(users)::integer as users,
        round(pageviews)::integer as pageviews,
        round(conversions)::integer as conversions,
        round(revenue, 2)::numeric(10, 2) as revenue
    from judged
    where is_exact
),

findings as (
    insert into penstock.quality_results (run_id, check_code, scope, severity, detail)
    select
        %(run_id)s::uuid, 'COMPAT_LEFT_OUT', 'fact_ga4_daily ' || judged.date, 'WARN',
        jsonb_build_object('reason', 'out of the old columns'' range, or a currency rate is missing')
    from judged
    where not judged.is_exact
    on conflict (run_id, check_code, scope) do nothing
),

stored as (
    select fact.ctid as place, fact.*
    from core_warehouse.fact_ga4_daily as fact
    inner join days on fact.date = days.date
    where fact.shop_id = %(shop_id)s
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
            stored.sessions, stored.users, stored.pageviews, stored.conversions, stored.revenue, stored.currency
        ) is distinct from (
            source.sessions, source.users, source.pageviews, source.conversions, source.revenue, source.currency
        )
),

withdrawn as (
    delete from core_warehouse.fact_ga4_daily as fact
    where fact.ctid = any(array(select place from compared where date is null))
)

insert into core_warehouse.fact_ga4_daily as fact (
    shop_id, date, sessions, users, pageviews, conversions, revenue, currency
)
select
    %(shop_id)s::text, date, sessions, users, pageviews, conversions, revenue, currency
from compared
where date is not null
on conflict (shop_id, date) do update set
    sessions = excluded.sessions,
    users = excluded.users,
    pageviews = excluded.pageviews,
    conversions = excluded.conversions,
    revenue = excluded.revenue,
    currency = excluded.currency,
    updated_at = now()
