-- Ads as they are now. Rows that did not change are not written.
with
listing as (
    select bool_or(run_windows.is_complete) as is_complete
    from run_windows
    where run_windows.stream = 'ads'
    having count(*) > 0
),

source as materialized (
    select
        staged.payload ->> 'id' as ad_id,
        staged.payload ->> 'adset_id' as ad_group_id,
        staged.payload ->> 'campaign_id' as campaign_id,
        staged.payload ->> 'name' as name,
        staged.payload ->> 'status' as status,
        staged.payload ->> 'effective_status' as effective_status,
        staged.payload #>> '{creative,id}' as creative_id,
        nullif(staged.payload ->> 'updated_time', '')::timestamptz as source_updated_at
    from listing
    cross join staging_ingest.meta_ads_ads as staged
    where staged.connection_id = %(connection_id)s and staged.report_key = 'ads'
),

stored as (
    select dim.ctid as place, listing.is_complete, dim.*
    from core_warehouse.dim_ad as dim
    cross join listing
    where dim.connection_id = %(connection_id)s
),

-- A full join is hashed or merged. Any other may be looped while the planner believes the tables to be empty, and then
-- every row meets every other.
compared as (
    select stored.place, source.*, stored.is_complete and not stored.is_deleted as is_gone
    from stored
    full join source on stored.ad_id = source.ad_id
    where
        source.ad_id is null
        or stored.place is null
        or stored.is_deleted
        or (
            stored.ad_group_id, stored.campaign_id, stored.name, stored.status, stored.effective_status,
            stored.creative_id, stored.source_updated_at
        ) is distinct from (
            source.ad_group_id, source.campaign_id, source.name, source.status, source.effective_status,
            source.creative_id, source.source_updated_at
        )
),

gone as (
    update core_warehouse.dim_ad as dim
    set is_deleted = true, loaded_at = now()
    where dim.ctid = any(array(select place from compared where ad_id is null and is_gone))
)

insert into core_warehouse.dim_ad as dim (
    connection_id, ad_id, ad_group_id, campaign_id, name, status, effective_status, creative_id, source_updated_at
)
select
    %(connection_id)s::uuid, ad_id, ad_group_id, campaign_id, name, status, effective_status, creative_id,
    source_updated_at
from compared
where ad_id is not null
on conflict (connection_id, ad_id) do update set
    ad_group_id = excluded.ad_group_id,
    campaign_id = excluded.campaign_id,
    name = excluded.name,
    status = excluded.status,
    effective_status = excluded.effective_status,
    creative_id = excluded.creative_id,
    source_updated_at = excluded.source_updated_at,
    is_deleted = false,
    loaded_at = now()
