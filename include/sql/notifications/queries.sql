-- Named queries of the notification queue: sweep, claim, settle, dead letters, pauses.

-- name: follow
-- Rows that wait in another lane than their configuration names today lose it, and `resolve` finds the right one. All
-- at once, so that none is overtaken by a later row of its configuration. What was begun stays: it is looked up where
-- it was posted. Runs at every sweep, so it asks once per configuration and lane that have waiting rows, not per row.
with recursive waiting as (
    (
        select q.config_id, q.lane_key
        from public.notification_queue as q
        where q.state = 'queued' and q.lane_key is not null
        order by q.config_id, q.lane_key
        limit 1
    )
    union all
    select n.config_id, n.lane_key
    from waiting as w
    cross join lateral (
        select q.config_id, q.lane_key
        from public.notification_queue as q
        where
            q.state = 'queued' and q.lane_key is not null
            and (q.config_id, q.lane_key) > (w.config_id, w.lane_key)
        order by q.config_id, q.lane_key
        limit 1
    ) as n
),

wanted as (
    select
        w.config_id, w.lane_key,
        coalesce(nullif(btrim(c.channel_id), ''), nullif(btrim(p.slack_id), '')) as destination
    from waiting as w
    inner join public.notification_config as c on w.config_id = c.id
    left join public.profiles as p on c.user_id = p.id
),

-- Not where no destination is named: an edit may take two steps.
misplaced as (
    select w.config_id, w.lane_key from wanted as w where w.lane_key <> %(workspace)s || '/' || w.destination
),

chosen as (
    select r.id
    from misplaced as m
    cross join lateral (
        select q.id
        from public.notification_queue as q
        where q.config_id = m.config_id and q.lane_key = m.lane_key and q.state = 'queued'
        for no key update skip locked
    ) as r
)

-- An array, and locks inside the lateral: joined, the planner would read every waiting row to find that nothing moves.
update public.notification_queue as q
set lane_key = null
where q.id = any(array(select c.id from chosen as c)) and q.state = 'queued';

-- name: resolve
-- Finds where new rows go, wakes those lanes, and ends the rows that can go nowhere. A lane takes at most
-- `max_open` waiting rows: a loop upstream must not become a thousand pings. One at a time: two that shared the rows
-- would let later ones overtake. Rows that an old client holds get their lane too, so that nothing overtakes them.
with gate as materialized (
    select pg_try_advisory_xact_lock(7813861) as is_open
),

fresh as (
    select
        q.id, q.seq, q.attempts, q.max_attempts, q.event_data, c.id as known_config_id, c.is_active, c.template,
        q.created_at, q.next_attempt_at, c.time_to_live,
        coalesce(nullif(btrim(c.channel_id), ''), nullif(btrim(p.slack_id), '')) as destination
    from public.notification_queue as q
    left join public.notification_config as c on q.config_id = c.id
    left join public.profiles as p on c.user_id = p.id
    where
        q.lane_key is null and q.state in ('queued', 'sending') and (select g.is_open from gate as g)
    order by q.seq
    limit %(limit)s
    for no key update of q skip locked
),

placed as (
    select
        f.*, %(workspace)s || '/' || f.destination as lane,
        row_number() over (partition by f.destination order by f.seq) as place
    from fresh as f
),

-- Counted once per lane. Joined to the rows, it would be counted again for each of them, as the planner expects one.
counted as (
    select
        p.*,
        case
            when p.place = 1 and p.lane is not null then (
                select count(*)
                from (
                    select 1
                    from public.notification_queue as q
                    where q.lane_key = p.lane and q.state in ('queued', 'sending')
                    limit %(max_open)s
                ) as o
            )
        end as own_waiting
    from placed as p
),

judged as (
    select
        p.id, p.lane, p.destination,
        -- Bounded: one row of the year 290000 would otherwise be an overflow, and end every sweep.
        least(p.time_to_live, interval '100 years') as time_to_live,
        least(greatest(p.created_at, p.next_attempt_at), now() + interval '100 years') as due_at,
        case
            when p.known_config_id is null then 'NOTIFICATION_NO_CONFIG'
            when p.is_active is false then 'NOTIFICATION_CONFIG_INACTIVE'
            when coalesce(btrim(p.template), '') = '' then 'NOTIFICATION_NO_TEMPLATE'
            when p.destination is null then 'NOTIFICATION_NO_DESTINATION'
            when jsonb_typeof(p.event_data) not in ('object', 'null') then 'NOTIFICATION_BAD_DATA'
            when pg_column_size(p.event_data) > %(max_bytes)s then 'NOTIFICATION_BAD_DATA'
            when p.attempts >= p.max_attempts then 'NOTIFICATION_ATTEMPTS_EXHAUSTED'
            when max(p.own_waiting) over (partition by p.lane) + p.place > %(max_open)s then 'NOTIFICATION_FLOOD'
        end as problem
    from counted as p
),

resolved as (
    update public.notification_queue as q
    set
        lane_key = j.lane,
        state = case
            when j.problem = 'NOTIFICATION_CONFIG_INACTIVE' then 'cancelled'
            when j.problem is not null then 'dead'
            else q.state
        end,
        error_class = j.problem,
        last_error = case
            when j.problem is null then q.last_error
            when q.last_error is null then j.problem
            else left(j.problem || '; before: ' || q.last_error, 500)
        end,
        expires_at = coalesce(q.expires_at, j.due_at + j.time_to_live),
        finished_at = case when j.problem is not null then now() end
    from judged as j
    where q.id = j.id
    returning j.lane, j.destination, j.problem
),

woken as (
    insert into penstock.notification_lanes as l (lane_key, workspace, destination, next_send_at)
    select distinct r.lane, %(workspace)s, r.destination, now()
    from resolved as r
    where r.problem is null
    order by r.lane
    on conflict (lane_key) do update set next_send_at = now() where l.next_send_at = 'infinity'
    returning 1
)

select
    (select count(*) from resolved) as resolved,
    (select count(*) from resolved where problem is not null and problem <> 'NOTIFICATION_CONFIG_INACTIVE') as dead,
    (select count(*) from resolved where problem = 'NOTIFICATION_CONFIG_INACTIVE') as skipped;

-- name: wake
-- Lanes that sleep although a row is due: the wake-up was lost, or the row's time has come.
update penstock.notification_lanes as l
set next_send_at = now()
where
    l.next_send_at = 'infinity'
    and l.lane_key in (
        select q.lane_key
        from public.notification_queue as q
        where q.state in ('queued', 'sending') and q.next_attempt_at <= now() and q.lane_key is not null
    );

-- name: expire
-- What waited longer than its time to live is noise; what may have been sent already is looked up first.
update public.notification_queue as q
set
    state = 'dead', error_class = 'NOTIFICATION_EXPIRED', finished_at = now(),
    last_error = left(concat_ws('; ', 'not delivered within its time to live', l.parked_reason, q.last_error), 500)
from (
    select x.id, n.parked_reason
    from public.notification_queue as x
    left join penstock.notification_lanes as n on x.lane_key = n.lane_key
    where x.state = 'queued' and x.expires_at < now()
    order by x.expires_at
    limit %(limit)s
    for no key update of x skip locked
) as l
where q.id = l.id and q.state = 'queued'
returning q.id;

-- name: claim
-- Takes up to `limit` lanes that may be sent to, and the first row of each. The row is `sending` from here on,
-- whatever happens to us: whoever finds it so must look whether it arrived.
with ready as materialized (
    select l.lane_key, coalesce(w.paused_until <= now(), false) as is_probe
    from penstock.notification_lanes as l
    left join penstock.notification_pauses as w on l.workspace = w.scope_key and w.scope = 'workspace'
    where
        l.next_send_at <= now() and (l.leased_until is null or l.leased_until < now())
        and coalesce(w.paused_until <= now(), true)
        and not exists (
            select 1
            from penstock.notification_pauses as p
            where
                p.paused_until > now()
                and (
                    p.scope = 'queue'
                    or (p.scope = 'channel' and p.scope_key in (l.lane_key, l.destination, l.channel_id))
                )
        )
    order by l.next_send_at, l.lane_key
    limit %(limit)s
    for no key update of l skip locked
),

heads as (
    select r.lane_key, r.is_probe, h.id, h.state, h.leased_until
    from ready as r
    left join lateral (
        select q.id, q.state, q.leased_until
        from public.notification_queue as q
        where
            q.lane_key = r.lane_key and q.state in ('queued', 'sending') and q.next_attempt_at <= now()
            and not exists (
                select 1
                from penstock.notification_pauses as p
                where p.scope = 'tenant' and p.scope_key = q.tenant and p.paused_until > now()
            )
        order by q.seq
        limit 1
    ) as h on true
),

taken as (
    update public.notification_queue as q
    set
        state = 'sending', sending_at = coalesce(q.sending_at, clock_timestamp()), attempts = q.attempts + 1,
        lease_epoch = q.lease_epoch + 1, leased_until = null, leased_by = null
    from heads as h
    where
        q.id = h.id and q.state = h.state and q.lane_key = h.lane_key
        and (q.leased_until is null or q.leased_until < now())
    returning
        q.id, q.lane_key, q.config_id, q.event_data, q.attempts, q.max_attempts, q.sending_at, q.expires_at,
        q.lease_epoch, q.tenant, h.state as previous_state, h.is_probe
),

lanes as (
    update penstock.notification_lanes as l
    set
        lease_epoch = l.lease_epoch + 1,
        leased_until = case when t.id is not null then clock_timestamp() + %(lease)s end,
        leased_by = case when t.id is not null then %(holder)s end,
        next_send_at = case
            when t.id is not null then l.next_send_at
            -- an old client has the first row
            when h.leased_until >= now() then least(h.leased_until, now() + interval '2 seconds')
            when h.id is not null then now()
            else coalesce(
                (
                    select
                        case
                            when count(*) > 0 then greatest(min(q.next_attempt_at), now() + interval '5 seconds')
                        end
                    from public.notification_queue as q
                    where q.lane_key = l.lane_key and q.state in ('queued', 'sending')
                ),
                'infinity'
            )
        end
    from heads as h
    left join taken as t on h.id = t.id
    where l.lane_key = h.lane_key
    returning
        l.lane_key, l.workspace, l.destination, l.channel_id, l.lease_epoch as lane_epoch, l.failures, l.parked_reason
)

select
    t.id::text as id, l.lane_key, l.workspace, l.destination, l.channel_id, l.lane_epoch, t.lease_epoch as row_epoch,
    l.failures, l.parked_reason is not null as is_parked, t.is_probe, t.previous_state = 'sending' as is_ambiguous,
    t.attempts, t.max_attempts, t.event_data::text as event_data, t.sending_at,
    coalesce(t.expires_at < now(), false) as is_expired,
    coalesce(c.template, '') as template, coalesce(c.is_active, true) as is_active,
    coalesce(c.allow_broadcast, false) as allow_broadcast, coalesce(c.on_ambiguous, 'resend') as on_ambiguous
from taken as t
inner join lanes as l on t.lane_key = l.lane_key
left join public.notification_config as c on t.config_id = c.id;

-- name: settle
-- How one claimed row ended, and when its lane may be used again. A message that is in Slack is in Slack, whoever
-- holds the lane; everything else needs the epoch of the claim.
with message as (
    update public.notification_queue as q
    set
        state = %(state)s, attempts = greatest(q.attempts - %(given_back)s, 0),
        sending_at = case
            when %(state)s in ('sending', 'sent') then q.sending_at
            -- only where the message may be there, because a replay looks it up then
            when
                %(state)s = 'dead' and (
                    %(is_ambiguous)s
                    or %(error_class)s in ('NOTIFICATION_AMBIGUOUS', 'NOTIFICATION_ATTEMPTS_EXHAUSTED')
                )
                then q.sending_at
        end,
        last_error = case when %(state)s = 'sent' then q.last_error else coalesce(%(error)s, q.last_error) end,
        error_class = %(error_class)s, slack_ts = coalesce(%(slack_ts)s, q.slack_ts),
        finished_at = case when %(state)s in ('sent', 'dead', 'cancelled') then now() end
    where
        q.id = %(id)s
        and (
            (%(state)s = 'sent' and q.state <> 'sent')
            or (q.state = 'sending' and q.lease_epoch = %(row_epoch)s)
        )
    returning 1
),

cleared as (
    delete from penstock.notification_pauses as p
    where %(clears_workspace)s and p.scope = 'workspace' and p.scope_key = %(workspace)s and p.paused_by = 'penstock'
),

lane as (
    update penstock.notification_lanes as l
    set
        leased_until = null, leased_by = null, next_send_at = clock_timestamp() + %(delay)s,
        failures = case when %(failed)s then l.failures + 1 else 0 end,
        -- Forgotten when Slack refuses it: a channel's name may be that of another one by now.
        channel_id = case when %(parked_reason)s::text is null then coalesce(%(channel_id)s, l.channel_id) end,
        last_sent_at = case when %(state)s = 'sent' then clock_timestamp() else l.last_sent_at end,
        parked_at = case when %(parked_reason)s::text is not null then coalesce(l.parked_at, now()) end,
        parked_reason = %(parked_reason)s::text, parked_message = %(parked_message)s::text
    where l.lane_key = %(lane_key)s and l.lease_epoch = %(lane_epoch)s
    returning 1
)

select (select count(*) from message) as settled, (select count(*) from lane) as lanes;

-- name: next_ready
-- Seconds until the next lane may be sent to; no row: none is waiting. What is paused does not wait.
select greatest(extract(epoch from min(greatest(l.next_send_at, l.leased_until)) - now())::float8, 0) as seconds
from penstock.notification_lanes as l
where
    l.next_send_at < 'infinity'
    and not exists (
        select 1
        from penstock.notification_pauses as p
        where
            p.paused_until > now()
            and (
                p.scope = 'queue'
                or (p.scope = 'workspace' and p.scope_key = l.workspace)
                or (p.scope = 'channel' and p.scope_key in (l.lane_key, l.destination, l.channel_id))
            )
    )
having count(*) > 0;

-- name: park_workspace
-- Slack refuses the token: nobody sends for a while. Whether this was news. A person's pause stays until it is over.
insert into penstock.notification_pauses as p (scope, scope_key, reason, paused_until, paused_by)
values ('workspace', %(workspace)s, %(reason)s, now() + %(pause)s, 'penstock')
on conflict (scope, scope_key) do update
set
    paused_until = excluded.paused_until, reason = excluded.reason, paused_by = excluded.paused_by,
    paused_at = case when p.paused_by = 'penstock' then p.paused_at else excluded.paused_at end
where p.paused_by = 'penstock' or p.paused_until <= now()
returning p.paused_at = now() as is_news;

-- name: pause
insert into penstock.notification_pauses as p (scope, scope_key, reason, paused_until, paused_by)
values (%(scope)s, %(scope_key)s, %(reason)s, coalesce(now() + %(pause)s::interval, 'infinity'), %(paused_by)s)
on conflict (scope, scope_key) do update
set
    reason = excluded.reason, paused_until = excluded.paused_until, paused_by = excluded.paused_by,
    paused_at = excluded.paused_at;

-- name: resume
-- Ends a pause, and lets parked lanes of that name try again at once.
with ended as (
    delete from penstock.notification_pauses where scope = %(scope)s and scope_key = %(scope_key)s
    returning 1
),

unparked as (
    update penstock.notification_lanes
    set next_send_at = now()
    where
        parked_reason is not null and next_send_at < 'infinity'
        and (
            %(scope)s = 'queue'
            or (%(scope)s = 'workspace' and workspace = %(scope_key)s)
            or (%(scope)s = 'channel' and %(scope_key)s in (lane_key, destination, channel_id))
        )
    returning 1
)

select (select count(*) from ended) + (select count(*) from unparked) as resumed;

-- name: dead_letters
select
    q.id::text as id, q.error_class as reason, q.last_error, q.lane_key, q.tenant, q.attempts, q.entity_type,
    q.entity_id::text as entity_id, q.created_at, q.finished_at
from public.notification_queue as q
where
    q.state = 'dead'
    and (%(ids)s::uuid [] is null or q.id = any(%(ids)s))
    and (%(reason)s::text is null or q.error_class = %(reason)s)
    and (%(since)s::timestamptz is null or q.finished_at >= %(since)s)
order by q.finished_at desc, q.seq asc
limit %(limit)s;

-- name: replay
-- Dead letters back into the queue, under their old place in the order. What may have arrived is looked up again.
with chosen as (
    select q.id
    from public.notification_queue as q
    where
        q.state = 'dead'
        and (%(ids)s::uuid [] is null or q.id = any(%(ids)s))
        and (%(reason)s::text is null or q.error_class = %(reason)s)
        and (%(since)s::timestamptz is null or q.finished_at >= %(since)s)
    order by q.seq
    limit %(limit)s
    for no key update skip locked
),

replayed as (
    update public.notification_queue as q
    set
        state = case when q.sending_at is not null then 'sending' else 'queued' end,
        attempts = 0, next_attempt_at = now(), lane_key = null, error_class = null, finished_at = null,
        expires_at = now() + coalesce(
            (select c.time_to_live from public.notification_config as c where c.id = q.config_id), interval '24 hours'
        ),
        replays = q.replays + 1
    from chosen as c
    where q.id = c.id and q.state = 'dead'
    returning q.id
)

select id::text as id, pg_notify('penstock_notifications', '') as notified from replayed;

-- name: cancel
-- Only what nobody has begun to send.
update public.notification_queue
set state = 'cancelled', finished_at = now(), error_class = 'NOTIFICATION_CANCELLED', last_error = %(reason)s
where id = any(%(ids)s::uuid []) and state = 'queued'
returning id::text as id;

-- name: become_resident
-- Whether this drain is the one that stays for its minute.
insert into penstock.drain_residents as r (queue, leased_by, leased_until)
values (%(queue)s, %(holder)s, clock_timestamp() + %(lease)s)
on conflict (queue) do update
set leased_by = excluded.leased_by, leased_until = excluded.leased_until
where %(by_force)s or r.leased_by = excluded.leased_by or r.leased_until < clock_timestamp()
returning 1;

-- name: leave
delete from penstock.drain_residents where queue = %(queue)s and leased_by = %(holder)s;

-- name: say_once
-- Whether this alert is due: it was not sent within `quiet`.
insert into penstock.alerts_sent as a (alert_key, sent_at) values (%(alert_key)s, now())
on conflict (alert_key) do update set sent_at = excluded.sent_at
where a.sent_at < now() - %(quiet)s::interval
returning 1;

-- name: health
select depth, ready, in_flight, oldest_seconds, done_last_hour, dead, dead_by_reason, expired_leases, detail
from penstock.queue_health_notifications;
