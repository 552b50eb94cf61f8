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

gone as (
    update core_warehouse.dim_ad as dim
    set is_deleted = true, loaded_at = now()
    from listing
    where
        dim.connection_id = %(connection_id)s
        and listing.is_complete
        and not dim.is_deleted
        and not exists (select from source where source.ad_id = dim.ad_id)
),

changed as (
    select source.*
    from source
    left join core_warehouse.dim_ad as dim
        on dim.connection_id = %(connection_id)s and source.ad_id = dim.ad_id
    where
        dim.ad_id is null
        or dim.is_deleted
        or (
            dim.ad_group_id, dim.campaign_id, dim.name, dim.status, dim.effective_status, dim.creative_id,
            dim.source_updated_at
        ) is distinct from (
            source.ad_group_id, source.campaign_id, source.name, source.status, source.effective_status,
            source.creative_id, source.source_updated_at
        )
)

insert into core_warehouse.dim_ad as dim (
    connection_id, ad_id, ad_group_id, campaign_id, name, status, effective_status, creative_id, source_updated_at
)
select
    %(connection_id)s::uuid, ad_id, ad_group_id, campaign_id, name, status, effective_status, creative_id,
    source_updated_at
from changed
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
