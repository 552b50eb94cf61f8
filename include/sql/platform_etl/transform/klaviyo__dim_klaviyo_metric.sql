-- The account's event types as they are now. Rows that did not change are not written.
with
listing as (
    select bool_or(run_windows.is_complete) as is_complete
    from run_windows
    where run_windows.stream = 'metrics'
    having count(*) > 0
),

source as materialized (
    select
        staged.payload ->> 'id' as metric_id,
        staged.payload #>> '{attributes,name}' as name,
        staged.payload #>> '{attributes,integration,name}' as integration,
        (staged.payload #>> '{attributes,created}')::timestamptz as source_created_at,
        (staged.payload #>> '{attributes,updated}')::timestamptz as source_updated_at
    from listing
    cross join staging_ingest.klaviyo_metrics as staged
    where staged.connection_id = %(connection_id)s and staged.report_key = 'metrics'
),

stored as (
    select dim.ctid as place, listing.is_complete, dim.*
    from core_warehouse.dim_klaviyo_metric as dim
    cross join listing
    where dim.connection_id = %(connection_id)s
),

-- A full join is hashed or merged. Any other may be looped while the planner believes the tables to be empty, and then
-- every row meets every other.
compared as (
    select stored.place, source.*, stored.is_complete and not stored.is_deleted as is_gone
    from stored
    full join source on stored.metric_id = source.metric_id
    where
        source.metric_id is null
        or stored.place is null
        or stored.is_deleted
        or (stored.name, stored.integration, stored.source_created_at, stored.source_updated_at)
        is distinct from (source.name, source.integration, source.source_created_at, source.source_updated_at)
),

gone as (
    update core_warehouse.dim_klaviyo_metric as dim
    set is_deleted = true, loaded_at = now()
    where dim.ctid = any(array(select place from compared where metric_id is null and is_gone))
)

insert into core_warehouse.dim_klaviyo_metric as dim (
    connection_id, metric_id, name, integration, source_created_at, source_updated_at
)
select %(connection_id)s::uuid, metric_id, name, integration, source_created_at, source_updated_at
from compared
where metric_id is not null
on conflict (connection_id, metric_id) do update set
    name = excluded.name,
    integration = excluded.integration,
    source_created_at = excluded.source_created_at,
    source_updated_at = excluded.source_updated_at,
    is_deleted = false,
    loaded_at = now()
