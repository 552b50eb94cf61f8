-- Orders of the account as Klaviyo counts them: all of them, and those it attributes to some channel. A day that was
-- asked for and not answered had none, so that figures of ours that should not be there show. Each total names the
-- metric that it was counted by.
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

-- The metric by which this account counts orders.
conversion as (
    select core_warehouse.klaviyo_conversion_metric(account.settings, account.facts) as metric_id
    from public.platform_connections as account
    where account.id = %(connection_id)s
),

answered as (
    select
        days.date,
        max(staged.payload ->> 'metric_id') as metric_id,
        sum((staged.payload ->> 'count')::numeric) filter (where kind.is_total) as orders,
        sum((staged.payload ->> 'sum_value')::numeric) filter (where kind.is_total) as order_value,
        sum((staged.payload ->> 'count')::numeric) filter (where kind.is_attributed) as attributed_orders,
        sum((staged.payload ->> 'sum_value')::numeric) filter (where kind.is_attributed) as attributed_value
    from days
    left join staging_ingest.klaviyo_totals as staged
        on
            staged.connection_id = %(connection_id)s
            and staged.report_key = 'totals'
            and days.date = staged.record_date
    cross join lateral (
        select
            staged.payload ->> 'by' = '' as is_total,
            staged.payload ->> 'by' <> '' and staged.payload ->> 'dimension' <> '' as is_attributed
    ) as kind
    group by days.date
),

source as materialized (
    select
        answered.date, total.metric,
        coalesce(total.value, 0)::numeric(18, 6) as value,
        case when total.is_money then %(currency)s::char(3) end as currency,
        coalesce(answered.metric_id, conversion.metric_id) as conversion_metric_id
    from answered
    cross join conversion
    cross join lateral (
        values
        ('placed_orders', answered.orders, false),
        ('placed_order_value', answered.order_value, true),
        ('conversions', answered.attributed_orders, false),
        ('revenue', answered.attributed_value, true)
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
        or (stored.value, stored.currency, stored.conversion_metric_id)
        is distinct from (source.value, source.currency, source.conversion_metric_id)
),

withdrawn as (
    delete from core_warehouse.fct_account_totals as fact
    where fact.ctid = any(array(select place from compared where date is null))
)

insert into core_warehouse.fct_account_totals as fact (
    connection_id, date, metric, value, currency, conversion_metric_id, run_id
)
select
    %(connection_id)s::uuid, date, metric, value, currency, conversion_metric_id, %(run_id)s::uuid
from compared
where date is not null
on conflict (connection_id, date, metric) do update set
    value = excluded.value,
    currency = excluded.currency,
    conversion_metric_id = excluded.conversion_metric_id,
    run_id = excluded.run_id,
    loaded_at = now()
