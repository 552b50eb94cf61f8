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

stored as (
    select dim.ctid as place, listing.is_complete, dim.*
    from core_warehouse.dim_klaviyo_audience as dim
    inner join listing on dim.kind = listing.kind
    where dim.connection_id = %(connection_id)s
),

-- A full join is hashed or merged. Any other may be looped while the planner believes the tables to be empty, and then
-- every row meets every other.
compared as (
    select stored.place, source.*, stored.is_complete and not stored.is_deleted as is_gone
    from stored
    full join source on stored.audience_id = source.audience_id
    where
        source.audience_id is null
        or stored.place is null
        or stored.is_deleted
        or (
            stored.kind, stored.name, stored.opt_in_process, stored.is_active, stored.source_created_at,
            stored.source_updated_at
        ) is distinct from (
            source.kind, source.name, source.opt_in_process, source.is_active, source.source_created_at,
            source.source_updated_at
        )
),

gone as (
    update core_warehouse.dim_klaviyo_audience as dim
    set is_deleted = true, loaded_at = now()
    where dim.ctid = any(array(select place from compared where audience_id is null and is_gone))
)

insert into core_warehouse.dim_klaviyo_audience as dim (
    connection_id, audience_id, kind, name, opt_in_process, is_active, source_created_at, source_updated_at
)
select
    %(connection_id)s::uuid, audience_id, kind, name, opt_in_process, is_active, source_created_at,
    source_updated_at
from compared
where audience_id is not null
on conflict (connection_id, audience_id) do update set
    kind = excluded.kind,
    name = excluded.name,
    opt_in_process = excluded.opt_in_process,
    is_active = excluded.is_active,
    source_created_at = excluded.source_created_at,
    source_updated_at = excluded.source_updated_at,
    is_deleted = false,
    loaded_at = now()
