-- Every action type of the insights, counted and valued, a row per day, entity, type and attribution window.
-- `value` is the figure by the account's own attribution setting; the other keys name a window each.
with
levels (stream, level, entity) as (
    values
    ('insights_account', 'ACCOUNT', 'account_id'),
    ('insights_campaign', 'CAMPAIGN', 'campaign_id'),
    ('insights_adset', 'ADSET', 'adset_id'),
    ('insights_ad', 'AD', 'ad_id')
),

windows as (
    select levels.stream, levels.level, levels.entity, run_windows.first_day, run_windows.last_day
    from run_windows
    inner join levels on run_windows.stream = levels.stream
),

-- The bounds of all windows, by which an index finds the days: a join with windows is planned as a ninth of all rows.
span as (
    select min(windows.first_day) as first_day, max(windows.last_day) as last_day
    from windows
),

source as materialized (
    select
        windows.level,
        staged.record_date as date,
        staged.payload ->> windows.entity as entity_id,
        element.value ->> 'action_type' as action_type,
        case figure.key when 'value' then 'account' else figure.key end as attribution_window,
        coalesce(sum(figure.value::numeric) filter (where list.is_count), 0)::numeric(18, 6) as actions,
        coalesce(sum(figure.value::numeric) filter (where not list.is_count), 0)::numeric(18, 6) as value
    from windows
    inner join staging_ingest.meta_ads_insights as staged
        on
            windows.stream = staged.report_key
            and staged.record_date between windows.first_day and windows.last_day
    cross join lateral (
        values
        (true, staged.payload -> 'actions'), (false, staged.payload -> 'action_values')
    ) as list (is_count, entries)
    cross join lateral jsonb_array_elements(
        case jsonb_typeof(list.entries) when 'array' then list.entries else '[]' end
    ) as element
    cross join lateral jsonb_each_text(element.value) as figure
    where
        staged.connection_id = %(connection_id)s
        and staged.record_date >= (select span.first_day from span)
        and staged.record_date <= (select span.last_day from span)
        and (
            figure.key = 'value'
            or (figure.key ~ '^[0-9]+d_(click|view|ev)$' and figure.value ~ '^-?[0-9]{1,12}([.][0-9]+)?$')
        )
    group by
        windows.level, staged.record_date, staged.payload ->> windows.entity, element.value ->> 'action_type',
        figure.key
),

stored as (
    select fact.ctid as place, fact.*
    from core_warehouse.fct_meta_action_daily as fact
    inner join windows
        on
            fact.level = windows.level
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
            stored.level = source.level
            and stored.date = source.date
            and stored.entity_id = source.entity_id
            and stored.action_type = source.action_type
            and stored.attribution_window = source.attribution_window
    where
        source.level is null
        or (stored.actions, stored.value) is distinct from (source.actions, source.value)
),

withdrawn as (
    delete from core_warehouse.fct_meta_action_daily as fact
    where fact.ctid = any(array(select place from compared where level is null))
)

insert into core_warehouse.fct_meta_action_daily as fact (
    connection_id, level, date, entity_id, action_type, attribution_window, actions, value, run_id
)
select
    %(connection_id)s::uuid, level, date, entity_id, action_type, attribution_window, actions, value,
    %(run_id)s::uuid
from compared
where level is not null
on conflict (connection_id, level, date, entity_id, action_type, attribution_window) do update set
    actions = excluded.actions,
    value = excluded.value,
    run_id = excluded.run_id,
    loaded_at = now()
