-- Runs of the diamond ingestion and their partitions, newest run first, its totals before its partitions: what was
-- listed, read, read twice, missed (between `surely_missed` and `possibly_missed`), rejected, and what it cost. Runs of
-- the old worker have their states alone.
create or replace view reporting.nivoda_runs as
with
partitions as (
    select
        progress.run_id,
        progress.partition_id,
        coalesce(
            lower(part.status),
            case when progress.completed then 'completed' when progress.failed then 'failed' else 'running' end
        ) as status,
        part.position,
        part.price_from,
        part.price_to,
        part.carats_from,
        part.carats_to,
        part.expected,
        part.c0,
        part.c1,
        -- Counted when a partition ends, well or not.
        case when part.status not in ('PENDING', 'RUNNING') then part.distinct_read end as distinct_read,
        part.rows_read,
        part.rows_written,
        part.unreadable,
        part.nameless,
        part.pass,
        part.attempts,
        part.requests,
        part.seconds,
        part.started_at,
        part.completed_at,
        part.error,
        case
            when part.status not in ('PENDING', 'RUNNING')
                then greatest(part.c1 - part.distinct_read - part.nameless, 0)
        end as surely_missed,
        case
            when part.status not in ('PENDING', 'RUNNING')
                then greatest(part.c0 - part.distinct_read - part.nameless, 0)
        end as possibly_missed,
        greatest(progress.updated_at, part.updated_at) as seen_at
    from public.partition_progress as progress
    left join penstock.nivoda_partitions as part
        on progress.run_id = part.run_id and progress.partition_id = part.partition_id
),

totals as (
    select
        partitions.run_id,
        count(*) as partitions,
        count(*) filter (where partitions.status in ('completed', 'incomplete')) as completed,
        count(*) filter (where partitions.status = 'failed') as failed,
        count(*) filter (where partitions.status = 'incomplete') as incomplete,
        sum(partitions.expected) as expected,
        sum(partitions.c0) as c0,
        sum(partitions.c1) as c1,
        sum(partitions.distinct_read) as distinct_read,
        sum(partitions.rows_read - partitions.distinct_read) as duplicates,
        sum(partitions.rows_written) as rows_written,
        sum(partitions.unreadable) as unreadable,
        sum(partitions.surely_missed) as surely_missed,
        sum(partitions.possibly_missed) as possibly_missed,
        sum(partitions.requests) as requests,
        max(partitions.pass) as passes,
        max(partitions.seen_at) as seen_at
    from partitions
    group by partitions.run_id
),

listed as (
    select
        run.run_id,
        run.feed,
        run.run_type,
        'run' as level,
        null as partition_id,
        case
            when totals.completed = run.expected_workers and run.completed_at is not null then 'completed'
            when run.completed_at is not null and totals.completed > 0 then 'partial'
            when run.completed_at is not null then 'failed'
            when coalesce(totals.seen_at, run.started_at) < now() - interval '30 minutes' then 'stalled'
            else 'running'
        end as status,
        plan.price_from,
        plan.price_to,
        null::numeric as carats_from,
        null::numeric as carats_to,
        totals.expected,
        totals.c0 as listed_at_start,
        totals.c1 as listed_at_end,
        totals.distinct_read,
        totals.duplicates,
        totals.surely_missed,
        totals.possibly_missed,
        totals.rows_written,
        totals.unreadable as rejected,
        totals.passes,
        null::integer as attempts,
        totals.requests + coalesce(plan.requests, 0) as requests,
        extract(epoch from coalesce(run.completed_at, now()) - run.started_at)::numeric(12, 3) as seconds,
        totals.partitions,
        totals.completed,
        totals.failed,
        totals.incomplete,
        run.started_at,
        run.completed_at,
        plan.updated_from,
        plan.updated_to,
        plan.covered::numeric / nullif(plan.total, 0) as coverage,
        plan.decision,
        plan.watermark,
        plan.vanished,
        run.consolidation_processed,
        run.consolidation_errors,
        plan.error,
        plan.chart_svg,
        0 as position
    from public.run_metadata as run
    left join penstock.nivoda_plans as plan on run.run_id = plan.run_id
    left join totals on run.run_id = totals.run_id

    union all

    select
        run.run_id,
        run.feed,
        run.run_type,
        'partition',
        partitions.partition_id,
        partitions.status,
        partitions.price_from,
        partitions.price_to,
        partitions.carats_from,
        partitions.carats_to,
        partitions.expected,
        partitions.c0,
        partitions.c1,
        partitions.distinct_read,
        partitions.rows_read - partitions.distinct_read,
        partitions.surely_missed,
        partitions.possibly_missed,
        partitions.rows_written,
        partitions.unreadable,
        partitions.pass,
        partitions.attempts,
        partitions.requests,
        partitions.seconds,
        null,
        null,
        null,
        null,
        partitions.started_at,
        partitions.completed_at,
        plan.updated_from,
        plan.updated_to,
        null,
        null,
        null,
        null,
        null,
        null,
        partitions.error,
        null,
        coalesce(partitions.position, 1)
    from partitions
    inner join public.run_metadata as run on partitions.run_id = run.run_id
    left join penstock.nivoda_plans as plan on run.run_id = plan.run_id
)

select
    listed.run_id,
    listed.feed,
    listed.run_type,
    listed.level,
    listed.partition_id,
    listed.status,
    listed.price_from,
    listed.price_to,
    listed.carats_from,
    listed.carats_to,
    listed.expected,
    listed.listed_at_start,
    listed.listed_at_end,
    listed.distinct_read,
    listed.duplicates,
    listed.surely_missed,
    listed.possibly_missed,
    listed.rows_written,
    listed.rejected,
    listed.passes,
    listed.attempts,
    listed.requests,
    listed.seconds,
    listed.partitions,
    listed.completed,
    listed.failed,
    listed.incomplete,
    listed.started_at,
    listed.completed_at,
    listed.updated_from,
    listed.updated_to,
    listed.coverage,
    listed.decision,
    listed.watermark,
    listed.vanished,
    listed.consolidation_processed,
    listed.consolidation_errors,
    listed.error,
    listed.error ->> 'code' as error_code,
    listed.chart_svg
from listed
order by max(listed.started_at) over (partition by listed.run_id) desc, listed.run_id asc, listed.position asc;
