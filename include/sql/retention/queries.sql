-- Named queries of retention: policies, runs, what the catalogue knows of a table. What moves the rows is put
-- together in jobs/retention/statements.py, because it names tables.

-- name: policies
select entity_type, active_retention_days, archive_retention_days
from public.retention_policies
where %(entity_types)s::text [] is null or entity_type = any(%(entity_types)s)
order by entity_type;

-- name: begin_run
-- A task that is tried again goes on with its row and its cut-offs.
insert into penstock.retention_runs as r (
    dag_run_id, entity_type, status, is_dry_run, requested_by, active_retention_days, archive_retention_days
) values (
    %(dag_run_id)s, %(entity_type)s, 'RUNNING', %(is_dry_run)s, %(requested_by)s, %(active_days)s, %(archive_days)s
)
on conflict (dag_run_id, entity_type) do update
set status = 'RUNNING', is_dry_run = excluded.is_dry_run, findings = '[]', error = null, completed_at = null
returning r.id, r.started_at;

-- name: set_plan
update penstock.retention_runs
set
    archive_before = %(archive_before)s, purge_before = %(purge_before)s,
    rows_found = greatest(rows_found, %(rows_found)s), bytes_found = greatest(bytes_found, %(bytes_found)s),
    oldest_at = least(oldest_at, %(oldest_at)s), newest_at = greatest(newest_at, %(newest_at)s)
where id = %(id)s;

-- name: add_progress
-- The policy's stamp is written with the move itself, so that it says what happened however the run ends. A policy
-- that somebody is just editing, or another run stamping, is not waited for: the batch has its rows locked meanwhile.
with policy as (
    select p.id
    from public.retention_policies as p
    inner join penstock.retention_runs as r on p.entity_type = r.entity_type
    where r.id = %(run_id)s
    for no key update of p skip locked
),

stamped as (
    update public.retention_policies as p
    set
        last_archived_at = case when %(is_archived)s then now() else p.last_archived_at end,
        last_purged_at = case when %(is_archived)s then p.last_purged_at else now() end,
        updated_at = now()
    from policy
    where p.id = policy.id
)

update penstock.retention_runs
set
    rows_archived = rows_archived + %(rows_archived)s, bytes_archived = bytes_archived + %(bytes_archived)s,
    rows_purged = rows_purged + %(rows_purged)s, bytes_purged = bytes_purged + %(bytes_purged)s,
    oldest_at = least(oldest_at, %(oldest_at)s), newest_at = greatest(newest_at, %(newest_at)s),
    batches = batches + 1, longest_batch_ms = greatest(longest_batch_ms, %(milliseconds)s),
    partitions = case when %(partition)s::text is null then partitions else partitions || %(partition)s::text end
where id = %(run_id)s;

-- name: stamp_archived
update public.retention_policies set last_archived_at = now(), updated_at = now() where entity_type = %(entity_type)s;

-- name: stamp_purged
update public.retention_policies set last_purged_at = now(), updated_at = now() where entity_type = %(entity_type)s;

-- name: end_run
update penstock.retention_runs
set
    status = %(status)s, rows_left = %(rows_left)s, findings = findings || %(findings)s::jsonb, error = %(error)s,
    completed_at = now()
where id = %(id)s
returning
    entity_type, status, is_dry_run, rows_found, bytes_found, rows_archived, bytes_archived, rows_purged, bytes_purged,
    rows_left, batches, longest_batch_ms, cardinality(partitions) as partitions;

-- name: report
select
    entity_type, status, is_dry_run, rows_found, bytes_found, rows_archived, bytes_archived, rows_purged, bytes_purged,
    rows_left, batches, longest_batch_ms, cardinality(partitions) as partitions, findings, error
from penstock.retention_runs
where dag_run_id = %(dag_run_id)s
order by entity_type;

-- name: relation
select
    c.relkind::text as kind,
    pg_relation_size(c.oid) / current_setting('block_size')::bigint as blocks,
    case when c.relkind = 'p' then pg_get_partkeydef(c.oid) end as partition_key
from pg_class as c
where c.oid = to_regclass(%(relation)s);

-- name: columns
-- In their order, those of which a value can be given.
select a.attname as name
from pg_attribute as a
where a.attrelid = to_regclass(%(relation)s) and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
order by a.attnum;

-- name: is_indexed
-- Whether a batch can walk along the column instead of through the pages.
select exists(
    select 1
    from pg_index as i
    inner join pg_class as c on i.indexrelid = c.oid
    inner join pg_am as m on c.relam = m.oid
    inner join pg_attribute as a on i.indrelid = a.attrelid and i.indkey[0] = a.attnum
    where
        i.indrelid = to_regclass(%(relation)s) and a.attname = %(time_column)s and m.amname = 'btree' and i.indisvalid
        and i.indpred is null
);

-- name: leaves
-- The partitions that hold rows, oldest first; with their range where the table is split by the time alone.
select
    n.nspname as schema_name,
    c.relname as table_name,
    b.parts[1] as lower_text,
    b.parts[2] as upper_text,
    b.parts[2]::timestamptz as upper_at
from pg_partition_tree(to_regclass(%(relation)s)) as tree
inner join pg_class as c on tree.relid = c.oid
inner join pg_namespace as n on c.relnamespace = n.oid
inner join pg_inherits as i on c.oid = i.inhrelid
cross join lateral (
    select
        case
            when %(is_by_time)s and i.inhparent = to_regclass(%(relation)s) then
                regexp_match(
                    pg_get_expr(c.relpartbound, c.oid),
                    $$^FOR VALUES FROM \('?(MINVALUE|[^']*)'?\) TO \('([^']*)'\)$$
                )
        end as parts
) as b
where tree.isleaf
order by b.parts[2]::timestamptz nulls last, c.relname;

-- name: default_partition
select n.nspname as schema_name, c.relname as table_name
from pg_partitioned_table as p
inner join pg_class as c on p.partdefid = c.oid
inner join pg_namespace as n on c.relnamespace = n.oid
where p.partrelid = to_regclass(%(relation)s);

-- name: indexes
-- What an index is made of, without its name, to compare two tables by.
select
    i.indisunique as is_unique,
    exists(select 1 from pg_constraint as k where k.conindid = i.indexrelid) as is_constraint,
    substring(pg_get_indexdef(i.indexrelid) from ' USING .*$') as definition
from pg_index as i
where i.indrelid = to_regclass(%(relation)s);
