-- What Meta says the account did in a day, asked for without ads and without a time increment. A day that was asked
-- for and not answered had no delivery: its totals are zero, so that figures of ours that should not be there show.
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

answered as (
    select
        days.date,
        coalesce(min(staged.payload ->> 'account_currency'), %(currency)s)::char(3) as currency,
        coalesce(sum((staged.payload ->> 'spend')::numeric), 0) as spend,
        coalesce(sum((staged.payload ->> 'impressions')::numeric), 0) as impressions,
        coalesce(sum((staged.payload ->> 'clicks')::numeric), 0) as clicks,
        coalesce(sum(counted.purchases), 0) as purchases,
        coalesce(sum(valued.purchases), 0) as purchase_value
    from days
    left join staging_ingest.meta_ads_totals as staged
        on
            staged.connection_id = %(connection_id)s
            and staged.report_key = 'totals'
            and days.date = staged.record_date
    left join lateral core_warehouse.meta_action_totals(staged.payload -> 'actions') as counted on true
    left join lateral core_warehouse.meta_action_totals(staged.payload -> 'action_values') as valued on true
    group by days.date
),

source as materialized (
    select answered.date, total.metric, total.value::numeric(18, 6) as value, total.currency
    from answered
    cross join lateral (
        values
        ('spend', answered.spend, answered.currency),
        ('impressions', answered.impressions, null),
        ('clicks', answered.clicks, null),
        ('purchases', answered.purchases, null),
        ('revenue', answered.purchase_value, answered.currency)
    ) as total (metric, value, currency)
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
