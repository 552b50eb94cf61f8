-- One row per source: what is due, in work, backing off; apps that were given up stand in every source's row.
create or replace view reporting.app_sync_status as
select
    k.source,
    due.apps as due,
    coalesce(states.in_work, 0) as in_work,
    coalesce(states.backing_off, 0) as backing_off,
    coalesce(states.skipped, 0) as skipped,
    given_up.apps as given_up,
    states.last_synced_at,
    j.started_at as last_job_started_at,
    j.status as last_job_status,
    j.items_processed as last_job_items,
    j.error_message as last_job_error
from penstock.app_sources as k
cross join lateral (select count(*) as apps from penstock.app_sync_queue(k.source)) as due
cross join (
    select count(*) as apps from public.sync_status as s where not coalesce(s.is_syncable, true)
) as given_up
left join (
    select
        l.source,
        count(*) filter (where l.leased_until > now()) as in_work,
        count(*) filter (where l.not_before > now()) as backing_off,
        count(*) filter (where l.last_outcome = 'skipped') as skipped,
        max(l.last_synced_at) as last_synced_at
    from penstock.app_sync_states as l
    group by l.source
) as states on k.source = states.source
left join lateral (
    select * from public.sync_jobs as each
    where each.job_type = k.source
    order by each.started_at desc
    limit 1
) as j on true;
