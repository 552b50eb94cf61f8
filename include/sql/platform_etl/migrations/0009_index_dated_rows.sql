-- A look-up by key must never go through the index of dates. While a table is new, both indexes cost the same to the
-- planner; when several workers filled it for the first time, now and then one read all of a report's entries for each
-- of its keys. An index of the dated rows alone cannot be taken for a question that names no date.

do $$
declare
    old record;
begin
    -- All are built before the first of the old ones goes: until then workers only wait to write.
    create temporary table dated_indexes on commit drop as
    select
        x.indexrelid::regclass as old_index,
        x.indrelid::regclass as staging_table,
        'dated_' || x.indexrelid as new_name,
        c.relname as name
    from pg_index as x
    inner join pg_class as c on x.indexrelid = c.oid
    where
        c.relnamespace = 'staging_ingest'::regnamespace and x.indpred is null
        and pg_get_indexdef(x.indexrelid) like '%(connection_id, record_date, report_key)%';

    for old in select d.* from dated_indexes as d order by d.staging_table loop
        execute format(
            'create index %I on %s (connection_id, record_date, report_key) where record_date is not null',
            old.new_name, old.staging_table
        );
    end loop;
    for old in select d.* from dated_indexes as d order by d.staging_table loop
        execute format('drop index %s', old.old_index);
        execute format('alter index staging_ingest.%I rename to %I', old.new_name, old.name);
    end loop;
end $$;
