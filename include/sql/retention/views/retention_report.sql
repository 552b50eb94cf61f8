-- What retention did and what it would have done, the latest run first; one row per run and policy.
create or replace view reporting.retention_report as
select
    run.entity_type,
    run.status,
    run.is_dry_run,
    run.requested_by,
    run.rows_found,
    run.bytes_found,
    run.rows_archived,
    run.bytes_archived,
    run.rows_purged,
    run.bytes_purged,
    run.rows_left,
    run.oldest_at,
    run.newest_at,
    run.batches,
    run.longest_batch_ms,
    run.partitions,
    run.findings,
    run.error ->> 'code' as error_code,
    run.error ->> 'message' as error_message,
    policy.active_retention_days,
    policy.archive_retention_days,
    policy.last_archived_at,
    policy.last_purged_at,
    run.started_at,
    run.completed_at,
    run.dag_run_id
from penstock.retention_runs as run
left join public.retention_policies as policy on run.entity_type = policy.entity_type
order by run.started_at desc, run.entity_type asc;
