-- Ad sets as they are now. Rows that did not change are not written.
with
listing as (
    select bool_or(run_windows.is_complete) as is_complete
    from run_windows
    where run_windows.stream = 'adsets'
    having count(*) > 0
),

source as materialized (
    select
        staged.payload ->> 'id' as ad_group_id,
        staged.payload ->> 'campaign_id' as campaign_id,
        staged.payload ->> 'name' as name,
        staged.payload ->> 'status' as status,
        staged.payload ->> 'effective_status' as effective_status,
        staged.payload ->> 'optimization_goal' as optimization_goal,
        staged.payload -> 'attribution_spec' as attribution_spec,
        %(currency)s::char(3) as currency,
        core_warehouse.meta_budget(
            nullif(staged.payload ->> 'daily_budget', '')::numeric, %(currency)s
        )::numeric(18, 6) as daily_budget,
        core_warehouse.meta_budget(
            nullif(staged.payload ->> 'lifetime_budget', '')::numeric, %(currency)s
        )::numeric(18, 6) as lifetime_budget,
        nullif(staged.payload ->> 'start_time', '')::timestamptz as start_at,
        nullif(staged.payload ->> 'end_time', '')::timestamptz as end_at,
        nullif(staged.payload ->> 'updated_time', '')::timestamptz as source_updated_at
    from listing
    cross join staging_ingest.meta_ads_adsets as staged
    where staged.connection_id = %(connection_id)s and staged.report_key = 'adsets'
),

stored as (
    select dim.ctid as place, listing.is_complete, dim.*
    from core_warehouse.dim_ad_group as dim
    cross join listing
    where dim.connection_id = %(connection_id)s
),

-- A full join is hashed or merged. Any other may be looped while the planner believes the tables to be empty, and then
-- every row meets every other.
compared as (
    select stored.place, source.*, stored.is_complete and not stored.is_deleted as is_gone
    from stored
    full join source on stored.ad_group_id = source.ad_group_id
    where
        source.ad_group_id is null
        or stored.place is null
        or stored.is_deleted
        or (
            stored.campaign_id, stored.name, stored.status, stored.effective_status, stored.optimization_goal,
            stored.attribution_spec, stored.currency, stored.daily_budget, stored.lifetime_budget, stored.start_at,
            stored.end_at, stored.source_updated_at
        ) is distinct from (
            source.campaign_id, source.name, source.status, source.effective_status, source.optimization_goal,
            source.attribution_spec, source.currency, source.daily_budget, source.lifetime_budget,
            source.start_at, source.end_at, source.source_updated_at
        )
),

gone as (
    update core_warehouse.dim_ad_group as dim
    set is_deleted = true, loaded_at = now()
    where dim.ctid = any(array(select place from compared where ad_group_id is null and is_gone))
)

insert into core_warehouse.dim_ad_group as dim (
    connection_id, ad_group_id, campaign_id, name, status, effective_status, optimization_goal, attribution_spec,
    currency, daily_budget, lifetime_budget, start_at, end_at, source_updated_at
)
select
    %(connection_id)s::uuid, ad_group_id, campaign_id, name, status, effective_status, optimization_goal,
    attribution_spec, currency, daily_budget, lifetime_budget, start_at, end_at, source_updated_at
from compared
where ad_group_id is not null
on conflict (connection_id, ad_group_id) do update set
    campaign_id = excluded.campaign_id,
    name = excluded.name,
    status = excluded.status,
    effective_status = excluded.effective_status,
    optimization_goal = excluded.optimization_goal,
    attribution_spec = excluded.attribution_spec,
    currency = excluded.currency,
    daily_budget = excluded.daily_budget,
    lifetime_budget = excluded.lifetime_budget,
    start_at = excluded.start_at,
    end_at = excluded.end_at,
    source_updated_at = excluded.source_updated_at,
    is_deleted = false,
    loaded_at = now()
