-- Claims, acknowledgements and look-ups of the calendar outbox. Leases follow core/lease.py: every write of a worker
-- compares the epoch that it was given.

-- name: wake_lanes
-- Makes lanes for new workspaces and wakes those that have something due. Parked and paused ones stay as they are.
insert into penstock.calendar_lanes as l (workspace_id)
select distinct k.workspace_id
from penstock.calendar_keys as k
where k.dirty_seq > k.done_seq and k.dead_reason is null and k.next_attempt_at <= now()
    and (k.leased_until is null or k.leased_until < now())
    and (%(workspace_id)s::uuid is null or k.workspace_id = %(workspace_id)s)
order by k.workspace_id
on conflict (workspace_id) do update set next_turn_at = now(), reason = null
where l.next_turn_at = 'infinity';

-- name: claim_keys
-- The lane whose turn it is, and its keys that have waited longest. A lane without keys comes back alone, once, and
-- falls asleep. The turn goes to the others next.
with lane as (
    select l.workspace_id
    from penstock.calendar_lanes as l
    where l.next_turn_at <= now()
        and (l.held_until is null or l.held_until < now())
        and (l.paused_until is null or l.paused_until < now())
        and (%(workspace_id)s::uuid is null or l.workspace_id = %(workspace_id)s)
    order by l.next_turn_at, l.workspace_id
    limit 1
    for no key update skip locked
),

-- A binding where we know of no event is an old worker's: it made the event under an id of Google's. Not to know it
-- would make a second event, and remove the binding.
picked as (
    select k.event_key, b.google_event_id as bound_event_id, b.calendar_id as bound_calendar_id
    from penstock.calendar_keys as k
    inner join lane as n on k.workspace_id = n.workspace_id
    left join public.calendar_event_bindings as b
        on not k.is_created and k.workspace_id = b.workspace_id and k.source_type = b.source_type
        and k.source_id = b.source_id and coalesce(k.calendar_id, b.calendar_id) = b.calendar_id
    where k.dirty_seq > k.done_seq and k.dead_reason is null and k.next_attempt_at <= now()
        and (k.leased_until is null or k.leased_until < now())
    order by k.next_attempt_at, k.dirty_seq
    limit %(limit)s
    for no key update of k skip locked
),

turned as (
    update penstock.calendar_lanes as l set
        next_turn_at = case
            when (select count(*) from picked) < %(limit)s then 'infinity'::timestamptz else clock_timestamp()
        end,
        reason = null
    from lane as n
    where l.workspace_id = n.workspace_id
),

leased as (
    update penstock.calendar_keys as k set
        leased_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s),
        leased_by = %(holder)s,
        lease_epoch = k.lease_epoch + 1,
        -- Where an event is about to be made is written down first: should this worker die, its successor knows
        -- where to look.
        calendar_id = coalesce(k.calendar_id, p.bound_calendar_id, (
            select o.payload ->> 'calendarId' from public.sync_outbox as o where o.seq = k.dirty_seq
        )),
        google_event_id = coalesce(p.bound_event_id, k.google_event_id),
        is_created = k.is_created or p.bound_event_id is not null
    from picked as p
    where k.event_key = p.event_key
    returning k.*
)

select
    n.workspace_id::text as workspace_id,
    k.event_key,
    k.source_type,
    k.source_id::text,
    k.dirty_seq,
    k.calendar_id,
    k.google_event_id,
    k.generation,
    k.is_created,
    k.etag,
    k.body_hash,
    k.attempts,
    k.lease_epoch,
    extract(epoch from now() - coalesce(k.first_failed_at, now()))::float8 as failing_seconds,
    o.operation::text,
    o.payload,
    case when o.status in ('PENDING', 'PROCESSING', 'FAILED') then o.id::text end as item_id
from lane as n
left join leased as k on n.workspace_id = k.workspace_id
left join public.sync_outbox as o on k.dirty_seq = o.seq
order by k.dirty_seq;

-- name: connection
-- The account of a workspace, its time zone, and whether it may be called.
select
    c.id::text,
    w.timezone,
    c.refresh_token_encrypted,
    coalesce(c.is_valid, false) as is_valid,
    coalesce(c.status::text, 'MISSING') as status
from public.workspaces as w
left join public.google_connections as c on w.id = c.workspace_id
where w.id = %(workspace_id)s;

-- name: acknowledge
-- What became of claimed keys, in one statement. verdict: done, dead, retry (counts as an attempt), again (the key's
-- state moved on, there is more to do), release (nothing happened).
with told as (
    select t.*
    from jsonb_to_recordset(%(outcomes)s::jsonb) as t (
        event_key text, seq bigint, epoch bigint, verdict text, is_created boolean, calendar_id text,
        google_event_id text, generation integer, etag text, body_hash text, delay_seconds double precision,
        reason text, message text, binding jsonb
    )
),

-- In the order in which producers lock them.
locked as (
    select k.event_key
    from penstock.calendar_keys as k
    inner join told as t on k.event_key = t.event_key and k.lease_epoch = t.epoch
    order by k.event_key
    for no key update of k
),

settled as (
    update penstock.calendar_keys as k set
        done_seq = case when t.verdict = 'done' then greatest(k.done_seq, t.seq) else k.done_seq end,
        is_created = t.is_created,
        calendar_id = t.calendar_id,
        google_event_id = t.google_event_id,
        generation = t.generation,
        etag = t.etag,
        body_hash = t.body_hash,
        attempts = case t.verdict when 'done' then 0 when 'retry' then k.attempts + 1 else k.attempts end,
        first_failed_at = case t.verdict
            when 'done' then null
            when 'retry' then coalesce(k.first_failed_at, clock_timestamp())
            else k.first_failed_at
        end,
        next_attempt_at = case
            when t.verdict = 'done' then k.next_attempt_at
            else clock_timestamp() + make_interval(secs => t.delay_seconds)
        end,
        -- A newer intent that came meanwhile is not dead.
        dead_reason = case when t.verdict = 'dead' and k.dirty_seq = t.seq then t.reason end,
        last_error = case when t.verdict = 'done' then null else coalesce(t.message, k.last_error) end,
        leased_until = null,
        leased_by = null
    from told as t
    inner join locked as x on t.event_key = x.event_key
    where k.event_key = t.event_key and k.lease_epoch = t.epoch
    returning
        k.event_key, k.workspace_id, k.source_type, k.source_id, t.seq, t.verdict, t.reason, t.message,
        t.delay_seconds, t.binding, k.calendar_id
),

closed as (
    update public.sync_outbox as o set
        status = case
            when o.seq < s.seq then 'SUPERSEDED'
            when s.verdict = 'done' then 'COMPLETED'
            when s.verdict = 'dead' then 'DEAD_LETTER'
            else 'FAILED'
        end::public.outbox_status,
        processed_at = case when s.verdict = 'retry' then o.processed_at else clock_timestamp() end,
        attempts = case
            when o.seq = s.seq and s.verdict in ('dead', 'retry') then least(o.attempts + 1, o.max_attempts)
            else o.attempts
        end,
        next_attempt_at = case
            when s.verdict = 'retry' then clock_timestamp() + make_interval(secs => s.delay_seconds)
            else o.next_attempt_at
        end,
        last_error = case when o.seq = s.seq then coalesce(s.message, o.last_error) else o.last_error end,
        dead_reason = case when o.seq = s.seq and s.verdict = 'dead' then s.reason end
    from settled as s
    where o.event_key = s.event_key and o.seq <= s.seq
        and o.status in ('PENDING', 'PROCESSING', 'FAILED', 'DEAD_LETTER')
        and (s.verdict in ('done', 'dead') or (s.verdict = 'retry' and o.seq = s.seq))
    returning o.seq
),

bound as (
    insert into public.calendar_event_bindings as b (
        workspace_id, google_event_id, calendar_id, source_type, source_id, event_type, event_title, event_start,
        event_end
    )
    select
        s.workspace_id, r.google_event_id, s.calendar_id, s.source_type, s.source_id, r.event_type, r.event_title,
        r.event_start, r.event_end
    from settled as s
    cross join lateral jsonb_populate_record(null::public.calendar_event_bindings, s.binding) as r
    where s.verdict = 'done' and s.binding is not null
    on conflict (workspace_id, source_type, source_id) do update set
        google_event_id = excluded.google_event_id,
        calendar_id = excluded.calendar_id,
        event_type = excluded.event_type,
        event_title = excluded.event_title,
        event_start = excluded.event_start,
        event_end = excluded.event_end
),

unbound as (
    delete from public.calendar_event_bindings as b
    using settled as s, told as t
    where s.verdict = 'done' and t.event_key = s.event_key and not t.is_created
        and b.workspace_id = s.workspace_id and b.source_type = s.source_type and b.source_id = s.source_id
)

select event_key from settled;

-- name: renew_keys
update penstock.calendar_keys as k
set leased_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
from jsonb_to_recordset(%(keys)s::jsonb) as t (event_key text, epoch bigint)
where k.event_key = t.event_key and k.lease_epoch = t.epoch
returning k.event_key;

-- name: put_off_lane
update penstock.calendar_lanes
set
    next_turn_at = greatest(
        nullif(next_turn_at, 'infinity'), clock_timestamp() + make_interval(secs => %(seconds)s)
    ),
    reason = %(reason)s
where workspace_id = %(workspace_id)s;

-- name: bury_workspace
-- Everything that waits for a connection which cannot be used, without a call. Keys that another worker holds are left
-- to it. Answers the number of dead letters.
with locked as (
    select k.event_key
    from penstock.calendar_keys as k
    where k.workspace_id = %(workspace_id)s and k.dirty_seq > k.done_seq and k.dead_reason is null
        and (k.leased_until is null or k.leased_until < now() or k.leased_by = %(holder)s)
    order by k.event_key
    for no key update
),

buried as (
    update penstock.calendar_keys as k
    set
        dead_reason = %(reason)s, last_error = %(message)s, leased_until = null, leased_by = null,
        lease_epoch = k.lease_epoch + 1
    from locked as x
    where k.event_key = x.event_key
    returning k.event_key, k.dirty_seq
),

closed as (
    update public.sync_outbox as o set
        status = case when o.seq < b.dirty_seq then 'SUPERSEDED' else 'DEAD_LETTER' end::public.outbox_status,
        processed_at = clock_timestamp(),
        dead_reason = case when o.seq = b.dirty_seq then %(reason)s end,
        last_error = case when o.seq = b.dirty_seq then %(message)s else o.last_error end
    from buried as b
    where o.event_key = b.event_key and o.seq <= b.dirty_seq
        and o.status in ('PENDING', 'PROCESSING', 'FAILED')
    returning o.seq, b.dirty_seq
)

select count(*) filter (where seq = dirty_seq) from closed;

-- name: invalidate_connection
-- At once and for this connection alone. No row: somebody else has said so already.
update public.google_connections
set
    is_valid = false, status = 'INVALID', last_error_code = %(code)s, last_error = %(message)s,
    invalidated_at = clock_timestamp()
where id = %(connection_id)s and is_valid
returning id::text;

-- name: connection_unreadable
-- The key of its token is missing: nothing is wrong with Google, so it stays valid.
update public.google_connections
set status = 'ERROR', last_error_code = %(code)s, last_error = %(message)s
where id = %(connection_id)s and status = 'ACTIVE'
returning id::text;

-- name: unreadable_connections
select id::text, workspace_id::text, refresh_token_encrypted
from public.google_connections
where status = 'ERROR' and is_valid;

-- name: connection_readable
update public.google_connections set status = 'ACTIVE' where id = %(connection_id)s and status = 'ERROR';

-- name: store_token
-- Compare and set: whoever reconnects or rotates at the same time wins.
update public.google_connections
set refresh_token_encrypted = %(fresh)s
where id = %(connection_id)s and refresh_token_encrypted = %(stored)s;

-- name: connection_used
update public.google_connections
set last_refreshed_at = clock_timestamp(), consecutive_failures = 0
where id = %(connection_id)s;

-- name: open_unkeyed
-- Rebuilds, and items whose payload names no source. Of each workspace's rebuilds the oldest alone, so that a hundred
-- requests of a busy or paused one hold up nobody else's.
select t.*
from (
    select distinct on (o.workspace_id, case when o.operation <> 'REBUILD_ALL' then o.id end)
        o.id::text, o.seq, o.workspace_id::text, o.operation::text, o.payload, o.attempts,
        extract(epoch from now() - coalesce(o.created_at, now()))::float8 as age_seconds,
        o.attempts < o.max_attempts as has_tries
    from public.sync_outbox as o
    left join penstock.calendar_lanes as l on o.workspace_id = l.workspace_id
    where o.event_key is null and o.status in ('PENDING', 'PROCESSING', 'FAILED') and o.next_attempt_at <= now()
        and (%(workspace_id)s::uuid is null or o.workspace_id = %(workspace_id)s)
        and (o.operation <> 'REBUILD_ALL' or l.paused_until is null or l.paused_until < now())
    order by o.workspace_id, case when o.operation <> 'REBUILD_ALL' then o.id end, o.seq
) as t
order by t.seq
limit 100;

-- name: close_item
update public.sync_outbox
set
    status = %(status)s::public.outbox_status,
    dead_reason = %(reason)s,
    last_error = %(message)s,
    attempts = least(attempts + 1, max_attempts),
    next_attempt_at = clock_timestamp() + make_interval(secs => %(delay_seconds)s),
    processed_at = case when %(status)s = 'FAILED' then processed_at else clock_timestamp() end
where id = %(item_id)s and status in ('PENDING', 'PROCESSING', 'FAILED');

-- name: make_lane
insert into penstock.calendar_lanes (workspace_id, next_turn_at) values (%(workspace_id)s, 'infinity')
on conflict (workspace_id) do nothing;

-- name: hold_lane
-- For a rebuild: from now on no key of the workspace is handed out, and none is out already.
update penstock.calendar_lanes as l
set
    held_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s),
    held_by = %(holder)s,
    hold_epoch = l.hold_epoch + 1
where l.workspace_id = %(workspace_id)s
    and (l.held_until is null or l.held_until < now())
    and (l.paused_until is null or l.paused_until < now())
returning l.hold_epoch;

-- name: keys_in_hand
select count(*)
from penstock.calendar_keys
where workspace_id = %(workspace_id)s and leased_until >= now();

-- name: renew_hold
update penstock.calendar_lanes
set held_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
where workspace_id = %(workspace_id)s and hold_epoch = %(epoch)s and held_until is not null
returning hold_epoch;

-- name: release_hold
update penstock.calendar_lanes
set held_until = null, held_by = null, next_turn_at = now()
where workspace_id = %(workspace_id)s and hold_epoch = %(epoch)s;

-- name: workspace
select name, timezone, calendar_id, weekly_review_rrule from public.workspaces where id = %(workspace_id)s;

-- name: workspace_keys
select
    event_key, source_type, source_id::text, calendar_id, google_event_id, generation, is_created, etag, body_hash,
    dirty_seq, done_seq
from penstock.calendar_keys
where workspace_id = %(workspace_id)s;

-- name: be_brief
-- For the rest of the transaction. The lock time-out is below `deadlock_timeout` (1 s): where a rebuild and producers
-- wait for each other, it is the rebuild that steps back, and no transaction of the application is ended. The other
-- one frees the producers from a rebuild that froze.
select
    set_config('lock_timeout', '250ms', true),
    set_config('idle_in_transaction_session_timeout', '30s', true);

-- name: shut_gate
-- Until the end of the transaction no producer writes an item of the workspace, and those that have written one have
-- ended: whatever is read from now on is what their items speak of. The other side is `penstock.pass_calendar_gate`.
select pg_advisory_xact_lock(7813862, penstock.calendar_gate(%(workspace_id)s::uuid));

-- name: source_tasks
-- Here and below: a time that no calendar has ('infinity' among them) is as good as none.
select id::text, title, description, priority, is_blocking, due_at, status::text
from public.tasks
where workspace_id = %(workspace_id)s and due_at >= '1970-01-02' and due_at < '9000-01-01';

-- name: source_milestones
select id::text, title, due_date, status::text
from public.milestones
where workspace_id = %(workspace_id)s and due_date >= '1970-01-02' and due_date < '9000-01-01';

-- name: source_gate_runs
select id::text, gate::text, run_number, status::text, completed_at, decision::text
from public.gate_runs
where workspace_id = %(workspace_id)s and completed_at >= '1970-01-02' and completed_at < '9000-01-01';

-- name: source_project_reviews
select id::text, title, first_review_at, duration_minutes, recurrence, status
from public.project_reviews
where workspace_id = %(workspace_id)s and first_review_at >= '1970-01-02' and first_review_at < '9000-01-01';

-- name: learn_from_calendar
-- What a listing of the calendar showed: keys whose event is gone, or is not as we left it, are written again.
update penstock.calendar_keys as k
set
    etag = t.etag,
    body_hash = case when k.etag = t.etag then k.body_hash end,
    is_created = k.is_created or t.etag is not null,
    google_event_id = coalesce(t.google_event_id, k.google_event_id),
    calendar_id = coalesce(t.calendar_id, k.calendar_id)
from jsonb_to_recordset(%(found)s::jsonb) as t (
    event_key text, etag text, google_event_id text, calendar_id text
)
where k.event_key = t.event_key and k.workspace_id = %(workspace_id)s;

-- name: enqueue_intents
insert into public.sync_outbox (workspace_id, operation, payload, requested_by)
select %(workspace_id)s, t.operation::public.outbox_operation, t.payload, %(requested_by)s
from jsonb_to_recordset(%(intents)s::jsonb) as t (operation text, payload jsonb);

-- name: request_rebuild
insert into public.sync_outbox (workspace_id, operation, payload, requested_by)
values (
    %(workspace_id)s::uuid, 'REBUILD_ALL', jsonb_build_object('workspaceId', %(workspace_id)s::uuid), %(requested_by)s
)
returning id::text;

-- name: next_due
-- Seconds until something may be claimed; null: nothing waits.
select extract(epoch from min(t.due_at) - clock_timestamp())::float8
from (
    select
        greatest(
            k.next_attempt_at, k.leased_until, nullif(l.next_turn_at, 'infinity'), l.paused_until, l.held_until
        ) as due_at
    from penstock.calendar_keys as k
    left join penstock.calendar_lanes as l on k.workspace_id = l.workspace_id
    where k.dirty_seq > k.done_seq and k.dead_reason is null
        and (%(workspace_id)s::uuid is null or k.workspace_id = %(workspace_id)s)
) as t
where t.due_at < 'infinity';

-- name: dead_letters
select
    o.id::text,
    o.seq,
    o.workspace_id::text,
    o.operation::text,
    o.event_key,
    coalesce(o.dead_reason, 'UNKNOWN') as dead_reason,
    o.last_error,
    o.attempts,
    o.created_at,
    o.processed_at
from public.sync_outbox as o
where o.status = 'DEAD_LETTER'
    and (%(reason)s::text is null or coalesce(o.dead_reason, 'UNKNOWN') = %(reason)s)
    and (%(workspace_id)s::uuid is null or o.workspace_id = %(workspace_id)s)
    and (%(item_ids)s::uuid[] is null or o.id = any(%(item_ids)s))
order by o.seq
limit %(limit)s;

-- name: replay_dead_letters
update public.sync_outbox as o
set status = 'PENDING', attempts = 0, next_attempt_at = now(), dead_reason = null, processed_at = null
where o.status = 'DEAD_LETTER'
    and (%(reason)s::text is null or coalesce(o.dead_reason, 'UNKNOWN') = %(reason)s)
    and (%(workspace_id)s::uuid is null or o.workspace_id = %(workspace_id)s)
    and (%(item_ids)s::uuid[] is null or o.id = any(%(item_ids)s))
returning o.id::text;

-- name: pause_lane
insert into penstock.calendar_lanes (workspace_id, next_turn_at, paused_until, paused_by, pause_reason)
values (%(workspace_id)s, 'infinity', %(until)s, %(by)s, %(reason)s)
on conflict (workspace_id) do update set
    paused_until = excluded.paused_until, paused_by = excluded.paused_by, pause_reason = excluded.pause_reason;

-- name: oldest_item
select oldest_seconds::float8, depth from penstock.queue_health_calendar;

-- name: say_once
-- A row when nobody has been told within so many seconds.
insert into penstock.calendar_notices as n (notice_key) values (%(key)s)
on conflict (notice_key) do update set said_at = now()
where n.said_at < now() - make_interval(secs => %(quiet_seconds)s)
returning n.notice_key;

-- name: repair_keys
-- A worker that was frozen beyond its lease may have written over its successor: what these keys should be is written
-- once more.
with suspect as (
    update penstock.calendar_keys as k set body_hash = null, etag = null
    from jsonb_to_recordset(%(keys)s::jsonb) as t (event_key text)
    where k.event_key = t.event_key
    returning k.event_key, k.dirty_seq
)

update public.sync_outbox as o set status = 'PENDING', processed_at = null
from suspect as s
where o.event_key = s.event_key and o.seq = s.dirty_seq and o.status = 'COMPLETED';
