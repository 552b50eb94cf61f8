-- One staging table per kind of record, all with the same envelope. Several streams share a table and are told
-- apart by report_key.

do $$
declare
    staging_table text;
begin
    foreach staging_table in array array[
        'meta_ads_campaigns', 'meta_ads_adsets', 'meta_ads_ads', 'meta_ads_insights', 'meta_ads_totals',
        'ga4_reports', 'ga4_totals',
        'klaviyo_campaigns', 'klaviyo_flows', 'klaviyo_lists', 'klaviyo_segments', 'klaviyo_metrics',
        'klaviyo_profiles', 'klaviyo_events', 'klaviyo_metric_aggregates', 'klaviyo_campaign_values',
        'klaviyo_flow_series', 'klaviyo_totals'
    ]
    loop
        execute format($ddl$
            create table staging_ingest.%I (
                run_id uuid not null,
                slice_no integer not null,
                connection_id uuid not null,
                report_key text not null,
                record_key text not null,
                record_date date,
                cursor_value text,
                payload jsonb not null,
                payload_hash bytea not null,
                ingested_at timestamptz not null default now(),
                primary key (connection_id, report_key, record_key)
            ) with (fillfactor = 90)$ddl$, staging_table);
        -- The date before the report: an index that began like the primary key would be taken in its stead while the
        -- statistics are old, and a look-up by key would read a whole report. Nothing that an update changes is
        -- indexed, so that a restated row stays on its page.
        execute format(
            'create index on staging_ingest.%I (connection_id, record_date, report_key)', staging_table
        );
    end loop;
end $$;
