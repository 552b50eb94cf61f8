-- The row of the run queue in reporting.queue_health.
create or replace view penstock.queue_health_etl_runs as
with waiting as (
    select
        count(*) as depth,
        count(*) filter (where status = 'QUEUED' and coalesce(not_before, '-infinity') <= now()) as ready,
        count(*) filter (where status = 'IN_PROGRESS') as in_flight,
        count(*) filter (
            where status = 'IN_PROGRESS' and connection_id is not null and coalesce(leased_until, '-infinity') < now()
        ) as expired_leases,
        extract(epoch from now() - min(greatest(created_at, not_before)) filter (
            where status = 'QUEUED' and coalesce(not_before, '-infinity') <= now()
        )) as oldest_seconds
    from core_warehouse.etl_runs
    where status in ('QUEUED', 'IN_PROGRESS')
),

dead as (
    select coalesce(sum(letters), 0)::bigint as letters, coalesce(jsonb_object_agg(reason, letters), '{}') as reasons
    from (
        select coalesce(error ->> 'code', 'UNKNOWN') as reason, count(*) as letters
        from core_warehouse.etl_runs
        where status = 'FAILED' and completed_at > now() - interval '30 days'
        group by 1
    ) as d
),

done as (
    select count(*) as last_hour
    from core_warehouse.etl_runs
    where status in ('SUCCEEDED', 'PARTIAL') and completed_at > now() - interval '1 hour'
),

stopped as (
    select count(*) as runs
    from core_warehouse.etl_runs
    where status = 'QUEUED' and not_before > now() and error is not null
)

select
    'etl_runs' as queue,
    w.depth,
    w.ready,
    w.in_flight,
    round(w.oldest_seconds, 1) as oldest_seconds,
    done.last_hour as done_last_hour,
    d.letters as dead,
    d.reasons as dead_by_reason,
    w.expired_leases,
    jsonb_build_object('waiting_for_a_quota', s.runs) as detail
from waiting as w
cross join dead as d
cross join done
cross join stopped as s;
