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

stored as (
    select dim.ctid as place, listing.is_complete, dim.*
    from core_warehouse.dim_klaviyo_flow as dim
    cross join listing
    where dim.connection_id = %(connection_id)s
),

-- A full join is hashed or merged. Any other may be looped while the planner believes the tables to be empty, and then
-- every row meets every other.
compared as (
    select stored.place, source.*, stored.is_complete and not stored.is_deleted as is_gone
    from stored
    full join source on stored.flow_id = source.flow_id
    where
        source.flow_id is null
        or stored.place is null
        or stored.is_deleted
        or (
            stored.name, stored.status, stored.trigger_type, stored.is_archived, stored.source_created_at,
            stored.source_updated_at
        ) is distinct from (
            source.name, source.status, source.trigger_type, source.is_archived, source.source_created_at,
            source.source_updated_at
        )
),

gone as (
    update core_warehouse.dim_klaviyo_flow as dim
    set is_deleted = true, loaded_at = now()
    where dim.ctid = any(array(select place from compared where flow_id is null and is_gone))
)

insert into core_warehouse.dim_klaviyo_flow as dim (
    connection_id, flow_id, name, status, trigger_type, is_archived, source_created_at, source_updated_at
)
select
    %(connection_id)s::uuid, flow_id, name, status, trigger_type, is_archived, source_created_at, source_updated_at
from compared
where flow_id is not null
on conflict (connection_id, flow_id) do update set
    name = excluded.name,
    status = excluded.status,
    trigger_type = excluded.trigger_type,
    is_archived = excluded.is_archived,
    source_created_at = excluded.source_created_at,
    source_updated_at = excluded.source_updated_at,
    is_deleted = false,
    loaded_at = now()
