-- Campaigns as they are now. Rows that did not change are not written.
with
listing as (
    select bool_or(run_windows.is_complete) as is_complete
    from run_windows
    where run_windows.stream = 'campaigns'
    having count(*) > 0
),

source as materialized (
    select
        staged.payload ->> 'id' as campaign_id,
        staged.payload ->> 'name' as name,
        staged.payload ->> 'status' as status,
        staged.payload ->> 'effective_status' as effective_status,
        staged.payload ->> 'objective' as objective,
        staged.payload ->> 'buying_type' as buying_type,
        staged.payload ->> 'bid_strategy' as bidding_strategy,
        %(currency)s::char(3) as currency,
        core_warehouse.meta_budget(
            nullif(staged.payload ->> 'daily_budget', '')::numeric, %(currency)s
        )::numeric(18, 6) as daily_budget,
        core_warehouse.meta_budget(
            nullif(staged.payload ->> 'lifetime_budget', '')::numeric, %(currency)s
        )::numeric(18, 6) as lifetime_budget,
        nullif(staged.payload ->> 'start_time', '')::timestamptz as start_at,
        nullif(staged.payload ->> 'stop_time', '')::timestamptz as end_at,
        nullif(staged.payload ->> 'updated_time', '')::timestamptz as source_updated_at
    from listing
    cross join staging_ingest.meta_ads_campaigns as staged
    where staged.connection_id = %(connection_id)s and staged.report_key = 'campaigns'
),

gone as (
    update core_warehouse.dim_campaign as dim
    set is_deleted = true, loaded_at = now()
    from listing
    where
        dim.connection_id = %(connection_id)s
        and listing.is_complete
        and not dim.is_deleted
        and not exists (select from source where source.campaign_id = dim.campaign_id)
),

changed as (
    select source.*
    from source
    left join core_warehouse.dim_campaign as dim
        on dim.connection_id = %(connection_id)s and source.campaign_id = dim.campaign_id
    where
        dim.campaign_id is null
        or dim.is_deleted
        or (
            dim.name, dim.status, dim.effective_status, dim.objective, dim.buying_type, dim.bidding_strategy,
            dim.currency, dim.daily_budget, dim.lifetime_budget, dim.start_at, dim.end_at, dim.source_updated_at
        ) is distinct from (
            source.name, source.status, source.effective_status, source.objective, source.buying_type,
            source.bidding_strategy, source.currency, source.daily_budget, source.lifetime_budget,
            source.start_at, source.end_at, source.source_updated_at
        )
)

insert into core_warehouse.dim_campaign as dim (
    connection_id, campaign_id, name, status, effective_status, objective, buying_type, bidding_strategy,
    currency, daily_budget, lifetime_budget, start_at, end_at, source_updated_at
)
select
    %(connection_id)s::uuid, campaign_id, name, status, effective_status, objective, buying_type, bidding_strategy,
    currency, daily_budget, lifetime_budget, start_at, end_at, source_updated_at
from changed
on conflict (connection_id, campaign_id) do update set
    name = excluded.name,
    status = excluded.status,
    effective_status = excluded.effective_status,
    objective = excluded.objective,
    buying_type = excluded.buying_type,
    bidding_strategy = excluded.bidding_strategy,
    currency = excluded.currency,
    daily_budget = excluded.daily_budget,
    lifetime_budget = excluded.lifetime_budget,
    start_at = excluded.start_at,
    end_at = excluded.end_at,
    source_updated_at = excluded.source_updated_at,
    is_deleted = false,
    loaded_at = now()
