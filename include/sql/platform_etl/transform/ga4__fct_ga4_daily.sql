-- Reports, a row per day and combination of dimensions. What GA4 says of the quality of its answer (sampling, rows
-- withheld) is kept beside the figures, for it is the only trace of numbers that are estimates.
with
reports (report) as (
    values ('property'), ('traffic'), ('landing'), ('device'), ('geo'), ('events')
),

windows as (
    select reports.report, run_windows.first_day, run_windows.last_day
    from run_windows
    inner join reports on run_windows.stream = reports.report
),

-- The bounds of all windows, by which an index finds the days: a join with windows is planned as a ninth of all rows.
span as (
    select min(windows.first_day) as first_day, max(windows.last_day) as last_day
    from windows
),

-- Each answer's flags, for the days that were asked for together.
flags as (
    select
        slices.stream as report,
        (slices.window_start at time zone %(time_zone)s)::date as first_day,
        (slices.window_end at time zone %(time_zone)s)::date as end_day,
        slices.flags ->> 'subjectToThresholding' = 'true' as is_thresholded,
        (
            select
                min(
                    (sample.value ->> 'samplesReadCount')::numeric
                    / nullif((sample.value ->> 'samplingSpaceSize')::numeric, 0)
                )
            from jsonb_array_elements(
                case jsonb_typeof(slices.flags -> 'samplingMetadatas')
                    when 'array' then slices.flags -> 'samplingMetadatas'
                    else '[]'
                end
            ) as sample
            where
                sample.value ->> 'samplesReadCount' ~ '^[0-9]{1,15}$'
                and sample.value ->> 'samplingSpaceSize' ~ '^[0-9]{1,15}$'
        ) as sampling_rate
    from penstock.slices
    where
        slices.run_id = %(run_id)s
        and slices.status = 'DONE'
        and slices.flags ?| array['subjectToThresholding', 'samplingMetadatas']
),

source as materialized (
    select
        windows.report,
        staged.record_date as date,
        case
            when strpos(staged.record_key, chr(31)) > 0
                then substr(staged.record_key, strpos(staged.record_key, chr(31)) + 1)
            else ''
        end as dim_key,
        staged.payload - array[
            'date', 'sessions', 'engagedSessions', 'totalUsers', 'newUsers', 'activeUsers', 'screenPageViews',
            'keyEvents', 'ecommercePurchases', 'purchaseRevenue', 'totalRevenue', 'addToCarts', 'checkouts',
            'eventCount', 'eventValue', 'advertiserAdCost', 'advertiserAdClicks'
        ] as dims,
        %(currency)s::char(3) as currency,
        (staged.payload ->> 'sessions')::bigint as sessions,
        (staged.payload ->> 'engagedSessions')::bigint as engaged_sessions,
        (staged.payload ->> 'totalUsers')::bigint as users,
        (staged.payload ->> 'newUsers')::bigint as new_users,
        (staged.payload ->> 'activeUsers')::bigint as active_users,
        (staged.payload ->> 'screenPageViews')::bigint as page_views,
        (staged.payload ->> 'keyEvents')::numeric(18, 6) as key_events,
        (staged.payload ->> 'ecommercePurchases')::numeric(18, 6) as transactions,
        (staged.payload ->> 'purchaseRevenue')::numeric(18, 6) as purchase_revenue,
        (staged.payload ->> 'totalRevenue')::numeric(18, 6) as total_revenue,
        (staged.payload ->> 'addToCarts')::bigint as add_to_carts,
        (staged.payload ->> 'checkouts')::bigint as checkouts,
        (staged.payload ->> 'eventCount')::bigint as event_count,
        (staged.payload ->> 'eventValue')::numeric(18, 6) as event_value,
        (staged.payload ->> 'advertiserAdCost')::numeric(18, 6) as ad_cost,
        (staged.payload ->> 'advertiserAdClicks')::bigint as ad_clicks,
        quality.sampling_rate::numeric(9, 6) as sampling_rate,
        staged.payload @? '$.* ? (@ == "(other)")' as is_other_row,
        coalesce(quality.is_thresholded, false) as is_thresholded,
        staged.record_date + core_warehouse.restatement_days('GA4')
        < (%(read_at)s::timestamptz at time zone %(time_zone)s)::date as is_final
    from windows
    inner join staging_ingest.ga4_reports as staged
        on
            windows.report = staged.report_key
            and staged.record_date between windows.first_day and windows.last_day
    left join lateral (
        select
            bool_or(flags.is_thresholded) as is_thresholded,
            min(flags.sampling_rate) as sampling_rate
        from flags
        where
            flags.report = windows.report
            and staged.record_date >= flags.first_day
            and staged.record_date < flags.end_day
    ) as quality on true
    where
        staged.connection_id = %(connection_id)s
        and staged.record_date >= (select span.first_day from span)
        and staged.record_date <= (select span.last_day from span)
),

stored as (
    select fact.ctid as place, fact.*
    from core_warehouse.fct_ga4_daily as fact
    inner join windows
        on
            fact.report = windows.report
            and fact.date between windows.first_day and windows.last_day
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
            stored.report = source.report
            and stored.date = source.date
            and stored.dim_key = source.dim_key
    where
        source.report is null
        or (
            stored.dims, stored.currency, stored.sessions, stored.engaged_sessions, stored.users, stored.new_users,
            stored.active_users, stored.page_views, stored.key_events, stored.transactions, stored.purchase_revenue,
            stored.total_revenue, stored.add_to_carts, stored.checkouts, stored.event_count, stored.event_value,
            stored.ad_cost, stored.ad_clicks, stored.sampling_rate, stored.is_other_row, stored.is_thresholded,
            stored.is_final
        ) is distinct from (
            source.dims, source.currency, source.sessions, source.engaged_sessions, source.users, source.new_users,
            source.active_users, source.page_views, source.key_events, source.transactions, source.purchase_revenue,
            source.total_revenue, source.add_to_carts, source.checkouts, source.event_count, source.event_value,
            source.ad_cost, source.ad_clicks, source.sampling_rate, source.is_other_row, source.is_thresholded,
            source.is_final
        )
),

withdrawn as (
    delete from core_warehouse.fct_ga4_daily as fact
    where fact.ctid = any(array(select place from compared where report is null))
)

insert into core_warehouse.fct_ga4_daily as fact (
    connection_id, report, date, dim_key, dims, currency, sessions, engaged_sessions, users, new_users, active_users,
    page_views, key_events, transactions, purchase_revenue, total_revenue, add_to_carts, checkouts, event_count,
    event_value, ad_cost, ad_clicks, sampling_rate, is_other_row, is_thresholded, is_final, run_id
)
select
    %(connection_id)s::uuid, report, date, dim_key, dims, currency, sessions, engaged_sessions, users, new_users,
    active_users, page_views, key_events, transactions, purchase_revenue, total_revenue, add_to_carts, checkouts,
    event_count, event_value, ad_cost, ad_clicks, sampling_rate, is_other_row, is_thresholded, is_final,
    %(run_id)s::uuid
from compared
where report is not null
on conflict (connection_id, report, date, dim_key) do update set
    dims = excluded.dims,
    currency = excluded.currency,
    sessions = excluded.sessions,
    engaged_sessions = excluded.engaged_sessions,
    users = excluded.users,
    new_users = excluded.new_users,
    active_users = excluded.active_users,
    page_views = excluded.page_views,
    key_events = excluded.key_events,
    transactions = excluded.transactions,
    purchase_revenue = excluded.purchase_revenue,
    total_revenue = excluded.total_revenue,
    add_to_carts = excluded.add_to_carts,
    checkouts = excluded.checkouts,
    event_count = excluded.event_count,
    event_value = excluded.event_value,
    ad_cost = excluded.ad_cost,
    ad_clicks = excluded.ad_clicks,
    sampling_rate = excluded.sampling_rate,
    is_other_row = excluded.is_other_row,
    is_thresholded = excluded.is_thresholded,
    is_final = excluded.is_final,
    run_id = excluded.run_id,
    loaded_at = now()
