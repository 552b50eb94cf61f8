-- A look-up by key must never go through the index of dates. While a table is new, both indexes cost the same to the
-- planner; when several workers filled it for the first time, now and then one read all of a report's entries for each
-- of its keys. An index of the dated rows alone cannot be taken for a question that names no date.

do $$
declare
    old record;
begin
    for old in
        select i.tablename as staging_table, i.indexname as index_name
        from pg_indexes as i
        where i.schemaname = 'staging_ingest' and i.indexdef like '%(connection_id, record_date, report_key)'
    loop
        execute format('drop index staging_ingest.%I', old.index_name);
        execute format(
            'create index %I on staging_ingest.%I (connection_id, record_date, report_key)'
            ' where record_date is not null',
            old.index_name, old.staging_table
        );
    end loop;
end $$;
