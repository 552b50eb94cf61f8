-- name: register_source
-- A source that the migrations do not know is registered by its first job.
insert into penstock.app_sources as k (source, fixed_interval) values (%(source)s, %(fixed_interval)s)
on conflict (source) do update set fixed_interval = excluded.fixed_interval
where k.fixed_interval is distinct from excluded.fixed_interval;

-- name: claim
-- The epoch seen in the queue must be the row's own: what somebody claimed meanwhile is not claimed again, even when
-- it is free again by now.
with picked as (
    select q.appid, q.lease_epoch, q.place
    from penstock.app_sync_queue(%(source)s) as q
    inner join public.sync_status as s on q.appid = s.appid
    order by q.place
    limit %(limit)s
    for no key update of s skip locked
),

claimed as (
    insert into penstock.app_sync_states as l (source, appid, lease_epoch, leased_until, leased_by)
    select %(source)s, p.appid, p.lease_epoch + 1, clock_timestamp() + %(lease)s, %(holder)s from picked as p
    on conflict (source, appid) do update set
        lease_epoch = excluded.lease_epoch,
        leased_until = excluded.leased_until,
        leased_by = excluded.leased_by,
        updated_at = now()
    where l.lease_epoch = excluded.lease_epoch - 1
    returning l.appid, l.lease_epoch
)

select c.appid, c.lease_epoch
from claimed as c
inner join picked as p on c.appid = p.appid
order by p.place;

-- name: due
-- What a claim would take, without taking it.
select q.appid from penstock.app_sync_queue(%(source)s) as q order by q.place limit %(limit)s;

-- name: count_due
select count(*) from penstock.app_sync_queue(%(source)s);

-- name: renew
update penstock.app_sync_states as l
set leased_until = clock_timestamp() + %(lease)s
from unnest(%(appids)s::integer [], %(epochs)s::bigint []) as held (appid, lease_epoch)
where l.source = %(source)s and l.appid = held.appid and l.lease_epoch = held.lease_epoch;

-- name: lock_apps
-- In the order of their ids, as every writer of several apps does: so nobody waits in a circle.
select s.appid from public.sync_status as s
where s.appid = any(%(appids)s)
order by s.appid
for no key update;

-- name: held
select l.appid
from penstock.app_sync_states as l
inner join unnest(%(appids)s::integer [], %(epochs)s::bigint []) as held (appid, lease_epoch) on l.appid = held.appid
where l.source = %(source)s and l.lease_epoch = held.lease_epoch
for no key update of l;

-- name: acknowledge
-- One outcome per app. 'released' gives the app back as if nobody had touched it.
with outcomes as (
    select o.appid, o.outcome, o.error_code, o.error_message
    from unnest(
        %(appids)s::integer [], %(outcomes)s::text [], %(error_codes)s::text [], %(error_messages)s::text []
    ) as o (appid, outcome, error_code, error_message)
),

states as (
    update penstock.app_sync_states as l set
        leased_until = null,
        leased_by = null,
        last_synced_at = case when o.outcome in ('synced', 'skipped') then now() else l.last_synced_at end,
        last_outcome = case o.outcome when 'released' then l.last_outcome else o.outcome end,
        last_error_code = case o.outcome when 'released' then l.last_error_code else o.error_code end,
        failures = case o.outcome when 'released' then l.failures when 'failed' then l.failures + 1 else 0 end,
        not_before = case o.outcome
            when 'released' then l.not_before
            when 'failed'
                then now() + penstock.app_sync_delay(
                    greatest(l.failures, coalesce(s.consecutive_errors, 0)) + 1
                )
        end,
        updated_at = now()
    from outcomes as o
    inner join public.sync_status as s on o.appid = s.appid
    where l.source = %(source)s and l.appid = o.appid
)

update public.sync_status as s set
    last_steamspy_sync = case
        when %(source)s = 'steamspy' and o.outcome <> 'failed' then now() else s.last_steamspy_sync
    end,
    last_storefront_sync = case
        when %(source)s = 'storefront' and o.outcome <> 'failed' then now() else s.last_storefront_sync
    end,
    last_reviews_sync = case
        when %(source)s = 'reviews' and o.outcome <> 'failed' then now() else s.last_reviews_sync
    end,
    last_histogram_sync = case
        when %(source)s = 'histogram' and o.outcome <> 'failed' then now() else s.last_histogram_sync
    end,
    last_page_creation_scrape = case
        when %(source)s = 'scraper' and o.outcome <> 'failed' then now() else s.last_page_creation_scrape
    end,
    last_pics_sync = case when %(source)s = 'pics' and o.outcome <> 'failed' then now() else s.last_pics_sync end,
    next_sync_after = case
        when o.outcome = 'failed' then s.next_sync_after
        else now() + make_interval(hours => coalesce(s.sync_interval_hours, 24))
    end,
    next_reviews_sync = case
        when %(source)s = 'reviews' and o.outcome <> 'failed'
            then now() + make_interval(hours => coalesce(s.reviews_interval_hours, 24))
        else s.next_reviews_sync
    end,
    consecutive_errors = case o.outcome when 'failed' then coalesce(s.consecutive_errors, 0) + 1 else 0 end,
    is_syncable = case
        when o.outcome = 'failed' and coalesce(s.consecutive_errors, 0) + 1 >= %(give_up_after)s then false
        else s.is_syncable
    end,
    disabled_at = case
        when o.outcome = 'failed' and coalesce(s.consecutive_errors, 0) + 1 >= %(give_up_after)s
            then coalesce(s.disabled_at, now())
        else s.disabled_at
    end,
    last_error_source = case o.outcome when 'failed' then %(source)s else s.last_error_source end,
    last_error_message = case o.outcome when 'failed' then o.error_message else s.last_error_message end,
    last_error_at = case o.outcome when 'failed' then now() else s.last_error_at end
from outcomes as o
where s.appid = o.appid and o.outcome <> 'released';

-- name: close_stale_jobs
-- No job of ours runs for so long. A job of the same lane of the same run is one whose worker died before this try.
update public.sync_jobs
set
    status = 'failed',
    completed_at = now(),
    updated_at = now(),
    error_message = format('abandoned_as_stale_by_new_%%s_run', %(source)s::text)
where job_type = %(source)s and status = 'running' and (
    started_at < now() - %(stale_after)s
    or (github_run_id = %(run_id)s and lane is not distinct from %(lane)s)
);

-- name: start_job
insert into public.sync_jobs (job_type, started_at, status, batch_size, github_run_id, lane)
values (%(source)s, now(), 'running', %(batch_size)s, %(run_id)s, %(lane)s)
returning id::text;

-- name: save_progress
update public.sync_jobs set
    items_processed = %(processed)s,
    items_succeeded = %(succeeded)s,
    items_failed = %(failed)s,
    items_skipped = %(skipped)s,
    items_created = %(created)s,
    items_updated = %(updated)s,
    items_released = %(released)s,
    updated_at = now()
where id = %(job_id)s::uuid and status = 'running';

-- name: end_job
update public.sync_jobs
set status = %(status)s, completed_at = now(), updated_at = now(), error_message = %(error_message)s
where id = %(job_id)s::uuid and status = 'running';

-- name: is_refresh_due
-- Apps without a score do not make it due: new ones come every hour, and go first in any case.
select coalesce(min(priority_calculated_at), '-infinity') < now() - %(every)s from public.sync_status;

-- name: refresh_priorities
select refreshed, last_appid from penstock.refresh_app_priorities(%(after)s, %(batch)s);

-- name: try_to_report
select pg_try_advisory_xact_lock(hashtext('penstock.report_disabled'));

-- name: unreported_disabled
select s.appid, a.name, s.last_error_source, s.last_error_message, s.consecutive_errors
from public.sync_status as s
inner join public.apps as a on s.appid = a.appid
where s.disabled_at is not null and s.disabled_alert_at is null
order by s.appid;

-- name: mark_disabled_reported
update public.sync_status set disabled_alert_at = now()
where appid = any(%(appids)s) and disabled_at is not null and disabled_alert_at is null;
