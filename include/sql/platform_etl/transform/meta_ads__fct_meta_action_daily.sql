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
        and (
            figure.key = 'value'
            or (figure.key ~ '^[0-9]+d_(click|view|ev)$' and figure.value ~ '^-?[0-9]{1,12}([.][0-9]+)?$')
        )
    group by
        windows.level, staged.record_date, staged.payload ->> windows.entity, element.value ->> 'action_type',
        figure.key
),

withdrawn as (
    delete from core_warehouse.fct_meta_action_daily as fact
    using windows
    where
        fact.connection_id = %(connection_id)s
        and fact.level = windows.level
        and fact.date between windows.first_day and windows.last_day
        and not exists (
            select
            from source
            where
                source.level = fact.level
                and source.date = fact.date
                and source.entity_id = fact.entity_id
                and source.action_type = fact.action_type
                and source.attribution_window = fact.attribution_window
        )
),

changed as (
    select source.*
    from source
    left join core_warehouse.fct_meta_action_daily as fact
        on
            fact.connection_id = %(connection_id)s
            and source.level = fact.level
            and source.date = fact.date
            and source.entity_id = fact.entity_id
            and source.action_type = fact.action_type
            and source.attribution_window = fact.attribution_window
    where (fact.actions, fact.value) is distinct from (source.actions, source.value)
)

insert into core_warehouse.fct_meta_action_daily as fact (
    connection_id, level, date, entity_id, action_type, attribution_window, actions, value, run_id
)
select
    %(connection_id)s::uuid, level, date, entity_id, action_type, attribution_window, actions, value,
    %(run_id)s::uuid
from changed
on conflict (connection_id, level, date, entity_id, action_type, attribution_window) do update set
    actions = excluded.actions,
    value = excluded.value,
    run_id = excluded.run_id,
    loaded_at = now()
