-- The account's insights by age and gender, by country and by placement. A value that the vendor leaves out becomes
-- 'unknown', so that every breakdown still adds up to the account's day.
with
breakdown_sets (stream, breakdown_set, names) as (
    values
    ('insights_age_gender', 'age,gender', array['age', 'gender']),
    ('insights_country', 'country', array['country']),
    (
        'insights_platform', 'publisher_platform,platform_position',
        array['publisher_platform', 'platform_position']
    )
),

windows as (
    select
        breakdown_sets.stream, breakdown_sets.breakdown_set, breakdown_sets.names,
        run_windows.first_day, run_windows.last_day
    from run_windows
    inner join breakdown_sets on run_windows.stream = breakdown_sets.stream
),

-- The bounds of all windows, by which an index finds the days: a join with windows is planned as a ninth of all rows.
span as (
    select min(windows.first_day) as first_day, max(windows.last_day) as last_day
    from windows
),

rows_read as (
    select
        windows.breakdown_set,
        staged.record_date as date,
        staged.payload ->> 'account_id' as entity_id,
        (
            select string_agg(coalesce(staged.payload ->> part.name, 'unknown'), chr(31) order by part.position)
            from unnest(windows.names) with ordinality as part (name, position)
        ) as breakdown_key,
        (
            select jsonb_object_agg(part.name, coalesce(staged.payload ->> part.name, 'unknown'))
            from unnest(windows.names) as part (name)
        ) as breakdowns,
        coalesce(staged.payload ->> 'account_currency', %(currency)s)::char(3) as currency,
        coalesce((staged.payload ->> 'spend')::numeric(18, 6), 0) as spend,
        coalesce((staged.payload ->> 'impressions')::bigint, 0) as impressions,
        coalesce((staged.payload ->> 'clicks')::bigint, 0) as clicks,
        coalesce((staged.payload ->> 'inline_link_clicks')::bigint, 0) as inline_link_clicks,
        counted.purchases,
        valued.purchases as purchase_value
    from windows
    inner join staging_ingest.meta_ads_insights as staged
        on
            windows.stream = staged.report_key
            and staged.record_date between windows.first_day and windows.last_day
    cross join lateral core_warehouse.meta_action_totals(staged.payload -> 'actions') as counted
    cross join lateral core_warehouse.meta_action_totals(staged.payload -> 'action_values') as valued
    where
        staged.connection_id = %(connection_id)s
        and staged.record_date >= (select span.first_day from span)
        and staged.record_date <= (select span.last_day from span)
),

-- A row without the value and one that says 'unknown' are the same row to us.
source as materialized (
    select
        breakdown_set, date, entity_id, breakdown_key, breakdowns, currency,
        sum(spend)::numeric(18, 6) as spend,
        sum(impressions)::bigint as impressions,
        sum(clicks)::bigint as clicks,
        sum(inline_link_clicks)::bigint as inline_link_clicks,
        sum(purchases)::numeric(18, 6) as purchases,
        sum(purchase_value)::numeric(18, 6) as purchase_value
    from rows_read
    group by breakdown_set, date, entity_id, breakdown_key, breakdowns, currency
),

stored as (
    select fact.ctid as place, fact.*
    from core_warehouse.fct_meta_breakdown_daily as fact
    inner join windows
        on
            fact.breakdown_set = windows.breakdown_set
            and fact.date between windows.first_day and windows.last_day
    where
        fact.connection_id = %(connection_id)s
        and fact.level = 'ACCOUNT'
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
            stored.breakdown_set = source.breakdown_set
            and stored.date = source.date
            and stored.entity_id = source.entity_id
            and stored.breakdown_key = source.breakdown_key
    where
        source.breakdown_set is null
        or (
            stored.currency, stored.spend, stored.impressions, stored.clicks, stored.inline_link_clicks,
            stored.purchases, stored.purchase_value
        ) is distinct from (
            source.currency, source.spend, source.impressions, source.clicks, source.inline_link_clicks,
            source.purchases, source.purchase_value
        )
),

withdrawn as (
    delete from core_warehouse.fct_meta_breakdown_daily as fact
    where fact.ctid = any(array(select place from compared where breakdown_set is null))
)

insert into core_warehouse.fct_meta_breakdown_daily as fact (
    connection_id, level, breakdown_set, date, entity_id, breakdown_key, breakdowns, currency, spend, impressions,
    clicks, inline_link_clicks, purchases, purchase_value, run_id
)
select
    %(connection_id)s::uuid, 'ACCOUNT', breakdown_set, date, entity_id, breakdown_key, breakdowns, currency, spend,
    impressions, clicks, inline_link_clicks, purchases, purchase_value, %(run_id)s::uuid
from compared
where breakdown_set is not null
on conflict (connection_id, level, breakdown_set, date, entity_id, breakdown_key) do update set
    currency = excluded.currency,
    spend = excluded.spend,
    impressions = excluded.impressions,
    clicks = excluded.clicks,
    inline_link_clicks = excluded.inline_link_clicks,
    purchases = excluded.purchases,
    purchase_value = excluded.purchase_value,
    run_id = excluded.run_id,
    loaded_at = now()
