-- The notification queue's row of reporting.queue_health.
create or replace view penstock.queue_health_notifications as
with waiting as (
    select
        count(*) as depth,
        count(*) filter (where q.next_attempt_at <= now()) as ready,
        count(*) filter (where q.state = 'sending') as in_flight,
        count(*) filter (
            where q.state = 'sending' and coalesce(l.leased_until, '-infinity') < now()
            and coalesce(q.leased_until, '-infinity') < now()
        ) as expired_leases,
        extract(epoch from now() - min(greatest(q.created_at, q.next_attempt_at)) filter (
            where q.next_attempt_at <= now()
        )) as oldest_seconds
    from public.notification_queue as q
    left join penstock.notification_lanes as l on q.lane_key = l.lane_key
    where q.state in ('queued', 'sending')
),

dead as (
    select coalesce(sum(letters), 0)::bigint as letters, coalesce(jsonb_object_agg(reason, letters), '{}') as reasons
    from (
        select coalesce(error_class, 'UNKNOWN') as reason, count(*) as letters
        from public.notification_queue
        where state = 'dead'
        group by 1
    ) as d
),

sent as (
    select
        count(*) as last_hour,
        count(*) filter (where finished_at > now() - interval '5 minutes') as last_five_minutes
    from public.notification_queue
    where state = 'sent' and finished_at > now() - interval '1 hour'
),

lanes as (
    select
        count(*) as lanes,
        count(*) filter (where leased_until >= now()) as leased,
        -- A lane that sleeps has no rows: they expired, or follow a corrected configuration.
        coalesce(
            jsonb_object_agg(lane_key, parked_reason) filter (
                where parked_reason is not null and next_send_at < 'infinity'
            ), '{}'
        ) as parked
    from penstock.notification_lanes
),

pauses as (
    select coalesce(jsonb_agg(scope || ' ' || scope_key || ': ' || reason), '[]') as paused
    from penstock.notification_pauses
    where paused_until > now()
)

select
    'notifications' as queue,
    w.depth,
    w.ready,
    w.in_flight,
    round(w.oldest_seconds, 1) as oldest_seconds,
    s.last_hour as done_last_hour,
    d.letters as dead,
    d.reasons as dead_by_reason,
    w.expired_leases,
    jsonb_build_object(
        'lanes', l.lanes, 'leased_lanes', l.leased, 'parked_lanes', l.parked, 'paused', p.paused,
        'sent_per_minute', round(s.last_five_minutes / 5.0, 1)
    ) as detail
from waiting as w
cross join dead as d
cross join sent as s
cross join lanes as l
cross join pauses as p;
