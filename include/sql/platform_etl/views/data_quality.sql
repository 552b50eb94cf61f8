-- What the checks of the runs found, and the records that could not be read and wait to be replayed.
create or replace view reporting.data_quality as
with
findings as (
    select
        run.connection_id,
        result.run_id,
        result.check_code,
        result.scope,
        result.severity,
        result.observed,
        result.expected,
        result.detail,
        result.created_at
    from penstock.quality_results as result
    inner join core_warehouse.etl_runs as run on result.run_id = run.id

    union all

    -- The run is the last one that read such a record.
    select
        rejected.connection_id,
        (array_agg(rejected.run_id order by rejected.last_seen_at desc))[1],
        rejected.reason_code,
        rejected.stream,
        'WARN',
        count(*),
        0,
        jsonb_build_object('example', min(rejected.reason)),
        max(rejected.last_seen_at)
    from staging_ingest.rejected_records as rejected
    where rejected.replayed_at is null
    group by rejected.connection_id, rejected.stream, rejected.reason_code
)

select
    account.shop_id,
    account.platform,
    findings.connection_id,
    account.account_id,
    account.account_name,
    findings.run_id,
    findings.check_code,
    findings.scope,
    findings.severity,
    findings.observed,
    findings.expected,
    findings.detail,
    findings.created_at
from findings
left join public.platform_connections as account on findings.connection_id = account.id;
