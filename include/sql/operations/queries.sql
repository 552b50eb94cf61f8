-- What the operations page shows. Read only.

-- name: accounts
-- One row per account: its health and what to do about it.
select latest.*
from (
    select distinct on (status.connection_id)
        status.platform,
        status.account_id,
        status.account_name,
        status.health,
        status.cursor,
        status.last_success_at,
        status.next_attempt_at,
        status.consecutive_failures,
        status.error_code,
        status.remedy,
        status.run_id::text as last_run_id
    from reporting.sync_status as status
    where status.connection_id is not null
    order by status.connection_id asc, status.created_at desc nulls last
) as latest
order by latest.platform, latest.account_name, latest.account_id;

-- name: queue
-- Runs that wait or are worked on, oldest first.
select
    run.id::text as run_id,
    run.platform,
    account.account_id,
    account.account_name,
    run.status,
    run.job_type,
    run.created_at,
    run.started_at,
    run.not_before,
    run.leased_until,
    run.attempts,
    run.requested_by
from core_warehouse.etl_runs as run
left join public.platform_connections as account on run.connection_id = account.id
where run.status in ('QUEUED', 'IN_PROGRESS')
order by run.priority, run.created_at
limit %(limit)s;

-- name: rejected
-- Records that could not be stored, by reason; those replayed since are left out.
select
    rejected.source,
    rejected.stream,
    rejected.reason_code,
    count(*) as records,
    min(rejected.first_seen_at) as first_seen_at,
    max(rejected.last_seen_at) as last_seen_at,
    (array_agg(rejected.reason order by rejected.last_seen_at desc))[1] as latest_reason
from staging_ingest.rejected_records as rejected
where rejected.replayed_at is null
group by rejected.source, rejected.stream, rejected.reason_code
order by max(rejected.last_seen_at) desc;

-- name: run
select
    run.id::text as run_id,
    run.platform,
    account.account_id,
    account.account_name,
    run.status,
    run.job_type,
    run.window_start,
    run.window_end,
    run.is_dry_run,
    run.requested_by,
    run.created_at,
    run.started_at,
    run.completed_at,
    run.not_before,
    run.attempts,
    run.api_calls,
    run.records_staged,
    run.records_rejected,
    run.records_synced,
    run.error,
    run.warnings,
    run.dag_id,
    run.dag_run_id
from core_warehouse.etl_runs as run
left join public.platform_connections as account on run.connection_id = account.id
where run.id = %(run_id)s::uuid;

-- name: run_streams
-- How far each stream of a run has come.
select
    slice.stream,
    count(*) filter (where slice.status <> 'SPLIT') as slices,
    count(*) filter (where slice.status = 'DONE') as done,
    count(*) filter (where slice.status = 'FAILED') as failed,
    sum(slice.pages) as pages,
    sum(slice.requests) as requests,
    sum(slice.rows_read) as rows_read,
    sum(slice.rows_written) as rows_written,
    sum(slice.rows_rejected) as rows_rejected,
    min(slice.error ->> 'message') filter (where slice.status = 'FAILED') as error
from penstock.slices as slice
where slice.run_id = %(run_id)s::uuid
group by slice.stream
order by slice.stream;

-- name: run_findings
select
    finding.check_code,
    finding.scope,
    finding.severity,
    finding.observed,
    finding.expected
from penstock.quality_results as finding
where finding.run_id = %(run_id)s::uuid
order by finding.severity desc, finding.check_code asc, finding.scope asc;
