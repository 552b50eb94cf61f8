-- What GA4 says the property did in a day, asked for without any dimension. A day that was asked for and not
-- answered had no traffic: its totals are zero, so that figures of ours that should not be there show.
with
windows as (
    select run_windows.first_day, run_windows.last_day
    from run_windows
    where run_windows.stream = 'totals'
),

-- The bounds of all windows, by which an index finds the days: a join with windows is planned as a ninth of all rows.
span as (
    select min(windows.first_day) as first_day, max(windows.last_day) as last_day
    from windows
),

days as (
    select day.value::date as date
    from windows
    cross join lateral generate_series(windows.first_day, windows.last_day, interval '1 day') as day (value)
),

source as materialized (
    select
        days.date, total.metric,
        coalesce(total.value::numeric(18, 6), 0) as value,
        case when total.is_money then %(currency)s::char(3) end as currency
    from days
    left join staging_ingest.ga4_totals as staged
        on
            staged.connection_id = %(connection_id)s
            and staged.report_key = 'totals'
            and days.date = staged.record_date
    cross join lateral (
        values
        ('sessions', staged.payload ->> 'sessions', false),
        ('users', staged.payload ->> 'totalUsers', false),
        ('key_events', staged.payload ->> 'keyEvents', false),
        ('transactions', staged.payload ->> 'ecommercePurchases', false),
        ('revenue', staged.payload ->> 'purchaseRevenue', true),
        ('total_revenue', staged.payload ->> 'totalRevenue', true)
    ) as total (metric, value, is_money)
),

stored as (
    select fact.ctid as place, fact.*
    from core_warehouse.fct_account_totals as fact
    inner join windows on fact.date between windows.first_day and windows.last_day
    where
        fact.connection_id = %(connection_id)s
        and fact.date >= (select span.first_day from span)
        and fact.date <= (select span.last_day from span)
),

-- A full join is hashed or merged. Any other may be looped while the planner believes the tables to be empty, and then
-- every row meets every other.
compared as (
    select stored.place, source.*
    from stored
    full join source
        on
            stored.date = source.date
            and stored.metric = source.metric
    where
        source.date is null
        or (stored.value, stored.currency) is distinct from (source.value, source.currency)
),

withdrawn as (
    delete from core_warehouse.fct_account_totals as fact
    where fact.ctid = any(array(select place from compared where date is null))
)

insert into core_warehouse.fct_account_totals as fact (connection_id, date, metric, value, currency, run_id)
select %(connection_id)s::uuid, date, metric, value, currency, %(run_id)s::uuid
from compared
where date is not null
on conflict (connection_id, date, metric) do update set
    value = excluded.value,
    currency = excluded.currency,
    run_id = excluded.run_id,
    loaded_at = now()
