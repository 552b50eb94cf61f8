-- What GA4 says the property did in a day, asked for without any dimension. A day that was asked for and not
-- answered had no traffic: its totals are zero, so that figures of ours that should not be there show.
with
windows as (
    select run_windows.first_day, run_windows.last_day
    from run_windows
    where run_windows.stream = 'totals'
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

withdrawn as (
    delete from core_warehouse.fct_account_totals as fact
    using windows
    where
        fact.connection_id = %(connection_id)s
        and fact.date between windows.first_day and windows.last_day
        and not exists (select from source where source.date = fact.date and source.metric = fact.metric)
),

changed as (
    select source.*
    from source
    left join core_warehouse.fct_account_totals as fact
        on
            fact.connection_id = %(connection_id)s
            and source.date = fact.date
            and source.metric = fact.metric
    where (fact.value, fact.currency) is distinct from (source.value, source.currency)
)

insert into core_warehouse.fct_account_totals as fact (connection_id, date, metric, value, currency, run_id)
select %(connection_id)s::uuid, date, metric, value, currency, %(run_id)s::uuid
from changed
on conflict (connection_id, date, metric) do update set
    value = excluded.value,
    currency = excluded.currency,
    run_id = excluded.run_id,
    loaded_at = now()
