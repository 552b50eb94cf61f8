-- The calendar outbox's row of reporting.queue_health. An item is a source object with an intent that is not done.
create or replace view penstock.queue_health_calendar as
with waiting as (
    select
        count(*) as depth,
        count(*) filter (where k.next_attempt_at <= now()) as ready,
        count(*) filter (where k.leased_until >= now()) as in_flight,
        count(*) filter (where k.leased_until < now()) as expired_leases,
        extract(epoch from now() - min(o.created_at)) as oldest_seconds
    from penstock.calendar_keys as k
    left join public.sync_outbox as o on k.dirty_seq = o.seq
    where k.dirty_seq > k.done_seq and k.dead_reason is null
),

unkeyed as (
    select
        count(*) as depth,
        extract(epoch from now() - min(created_at)) as oldest_seconds
    from public.sync_outbox
    where event_key is null and status in ('PENDING', 'PROCESSING', 'FAILED')
),

dead as (
    select coalesce(sum(letters), 0)::bigint as letters, coalesce(jsonb_object_agg(reason, letters), '{}') as reasons
    from (
        select coalesce(dead_reason, 'UNKNOWN') as reason, count(*) as letters
        from public.sync_outbox
        where status = 'DEAD_LETTER'
        group by 1
    ) as d
),

done as (
    select count(*) as last_hour
    from public.sync_outbox
    where status in ('COMPLETED', 'SUPERSEDED') and processed_at > now() - interval '1 hour'
),

lanes as (
    select
        coalesce(jsonb_object_agg(workspace_id, reason) filter (
            where reason is not null and next_turn_at > now()
        ), '{}') as put_off,
        coalesce(jsonb_object_agg(workspace_id, pause_reason) filter (where paused_until > now()), '{}') as paused
    from penstock.calendar_lanes
),

connections as (
    select count(*) filter (where not is_valid) as invalid, count(*) filter (where status = 'ERROR') as unreadable
    from public.google_connections
)

select
    'calendar' as queue,
    w.depth + u.depth as depth,
    w.ready + u.depth as ready,
    w.in_flight,
    round(greatest(w.oldest_seconds, u.oldest_seconds), 1) as oldest_seconds,
    n.last_hour as done_last_hour,
    d.letters as dead,
    d.reasons as dead_by_reason,
    w.expired_leases,
    jsonb_build_object(
        'put_off', l.put_off, 'paused', l.paused, 'invalid_connections', c.invalid,
        'unreadable_connections', c.unreadable
    ) as detail
from waiting as w
cross join unkeyed as u
cross join dead as d
cross join done as n
cross join lanes as l
cross join connections as c;
