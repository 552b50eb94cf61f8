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

gone as (
    update core_warehouse.dim_klaviyo_metric as dim
    set is_deleted = true, loaded_at = now()
    from listing
    where
        dim.connection_id = %(connection_id)s
        and listing.is_complete
        and not dim.is_deleted
        and not exists (select from source where source.metric_id = dim.metric_id)
),

changed as (
    select source.*
    from source
    left join core_warehouse.dim_klaviyo_metric as dim
        on dim.connection_id = %(connection_id)s and source.metric_id = dim.metric_id
    where
        dim.metric_id is null
        or dim.is_deleted
        or (dim.name, dim.integration, dim.source_created_at, dim.source_updated_at)
        is distinct from (source.name, source.integration, source.source_created_at, source.source_updated_at)
)

insert into core_warehouse.dim_klaviyo_metric as dim (
    connection_id, metric_id, name, integration, source_created_at, source_updated_at
)
select %(connection_id)s::uuid, metric_id, name, integration, source_created_at, source_updated_at
from changed
on conflict (connection_id, metric_id) do update set
    name = excluded.name,
    integration = excluded.integration,
    source_created_at = excluded.source_created_at,
    source_updated_at = excluded.source_updated_at,
    is_deleted = false,
    loaded_at = now()
