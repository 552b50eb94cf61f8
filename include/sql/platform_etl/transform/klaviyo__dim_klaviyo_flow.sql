-- Flows as they are now. Rows that did not change are not written.
with
listing as (
    select bool_or(run_windows.is_complete) as is_complete
    from run_windows
    where run_windows.stream = 'flows'
    having count(*) > 0
),

source as materialized (
    select
        staged.payload ->> 'id' as flow_id,
        staged.payload #>> '{attributes,name}' as name,
        staged.payload #>> '{attributes,status}' as status,
        staged.payload #>> '{attributes,trigger_type}' as trigger_type,
        coalesce((staged.payload #>> '{attributes,archived}')::boolean, false) as is_archived,
        (staged.payload #>> '{attributes,created}')::timestamptz as source_created_at,
        (staged.payload #>> '{attributes,updated}')::timestamptz as source_updated_at
    from listing
    cross join staging_ingest.klaviyo_flows as staged
    where staged.connection_id = %(connection_id)s and staged.report_key = 'flows'
),

gone as (
    update core_warehouse.dim_klaviyo_flow as dim
    set is_deleted = true, loaded_at = now()
    from listing
    where
        dim.connection_id = %(connection_id)s
        and listing.is_complete
        and not dim.is_deleted
        and not exists (select from source where source.flow_id = dim.flow_id)
),

changed as (
    select source.*
    from source
    left join core_warehouse.dim_klaviyo_flow as dim
        on dim.connection_id = %(connection_id)s and source.flow_id = dim.flow_id
    where
        dim.flow_id is null
        or dim.is_deleted
        or (
            dim.name, dim.status, dim.trigger_type, dim.is_archived, dim.source_created_at, dim.source_updated_at
        ) is distinct from (
            source.name, source.status, source.trigger_type, source.is_archived, source.source_created_at,
            source.source_updated_at
        )
)

insert into core_warehouse.dim_klaviyo_flow as dim (
    connection_id, flow_id, name, status, trigger_type, is_archived, source_created_at, source_updated_at
)
select
    %(connection_id)s::uuid, flow_id, name, status, trigger_type, is_archived, source_created_at, source_updated_at
from changed
on conflict (connection_id, flow_id) do update set
    name = excluded.name,
    status = excluded.status,
    trigger_type = excluded.trigger_type,
    is_archived = excluded.is_archived,
    source_created_at = excluded.source_created_at,
    source_updated_at = excluded.source_updated_at,
    is_deleted = false,
    loaded_at = now()
