-- Lists and segments as they are now. The two listings are read apart, so each marks only its own as deleted.
with
kinds (stream, kind) as (
    values ('lists', 'LIST'), ('segments', 'SEGMENT')
),

listing as (
    select kinds.stream, kinds.kind, bool_or(run_windows.is_complete) as is_complete
    from run_windows
    inner join kinds on run_windows.stream = kinds.stream
    group by kinds.stream, kinds.kind
),

staged as (
    select report_key, payload
    from staging_ingest.klaviyo_lists
    where connection_id = %(connection_id)s and report_key = 'lists'
    union all
    select report_key, payload
    from staging_ingest.klaviyo_segments
    where connection_id = %(connection_id)s and report_key = 'segments'
),

source as materialized (
    select
        staged.payload ->> 'id' as audience_id,
        listing.kind,
        staged.payload #>> '{attributes,name}' as name,
        staged.payload #>> '{attributes,opt_in_process}' as opt_in_process,
        staged.payload #> '{attributes,is_active}' = 'true'::jsonb as is_active,
        (staged.payload #>> '{attributes,created}')::timestamptz as source_created_at,
        (staged.payload #>> '{attributes,updated}')::timestamptz as source_updated_at
    from listing
    inner join staged on listing.stream = staged.report_key
),

gone as (
    update core_warehouse.dim_klaviyo_audience as dim
    set is_deleted = true, loaded_at = now()
    from listing
    where
        dim.connection_id = %(connection_id)s
        and dim.kind = listing.kind
        and listing.is_complete
        and not dim.is_deleted
        and not exists (select from source where source.audience_id = dim.audience_id)
),

changed as (
    select source.*
    from source
    left join core_warehouse.dim_klaviyo_audience as dim
        on dim.connection_id = %(connection_id)s and source.audience_id = dim.audience_id
    where
        dim.audience_id is null
        or dim.is_deleted
        or (
            dim.kind, dim.name, dim.opt_in_process, dim.is_active, dim.source_created_at, dim.source_updated_at
        ) is distinct from (
            source.kind, source.name, source.opt_in_process, source.is_active, source.source_created_at,
            source.source_updated_at
        )
)

insert into core_warehouse.dim_klaviyo_audience as dim (
    connection_id, audience_id, kind, name, opt_in_process, is_active, source_created_at, source_updated_at
)
select
    %(connection_id)s::uuid, audience_id, kind, name, opt_in_process, is_active, source_created_at,
    source_updated_at
from changed
on conflict (connection_id, audience_id) do update set
    kind = excluded.kind,
    name = excluded.name,
    opt_in_process = excluded.opt_in_process,
    is_active = excluded.is_active,
    source_created_at = excluded.source_created_at,
    source_updated_at = excluded.source_updated_at,
    is_deleted = false,
    loaded_at = now()
