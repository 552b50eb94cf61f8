-- What the old queue lacked: order, states that end, lanes with leases, look-up of what may have been sent, pauses.

alter table public.notification_config
    add column if not exists allow_broadcast boolean not null default false,  -- @channel written in the template pings
    add column if not exists on_ambiguous text not null default 'resend'      -- when nobody can tell whether it arrived
    check (on_ambiguous in ('resend', 'hold')),
    add column if not exists time_to_live interval not null default '24 hours';  -- from when it was due

alter table public.notification_queue
    add column if not exists seq bigint,                 -- order within a lane
    add column if not exists state text not null default 'queued'
    check (state in ('queued', 'sending', 'sent', 'dead', 'cancelled')),
    add column if not exists lane_key text,              -- null until the sweep has found where it goes
    add column if not exists tenant text,                -- the client it is about; can be paused
    add column if not exists dedupe_key text,            -- from the producer: the same wish twice is one row
    add column if not exists expires_at timestamptz,
    add column if not exists error_class text,           -- why it is dead or cancelled: a code of the error catalogue
    add column if not exists sending_at timestamptz,     -- of the first post that may have arrived
    add column if not exists slack_ts text,
    add column if not exists finished_at timestamptz,
    add column if not exists replays integer not null default 0,
    add column if not exists leased_until timestamptz,   -- of old clients; ours lease the lane
    add column if not exists leased_by text,
    add column if not exists lease_epoch bigint not null default 0;

update public.notification_queue as q
set
    seq = o.seq,
    attempts = coalesce(q.attempts, 0),
    max_attempts = coalesce(q.max_attempts, 5),
    next_attempt_at = coalesce(q.next_attempt_at, q.created_at, now()),
    created_at = coalesce(q.created_at, now()),
    is_processed = coalesce(q.is_processed, false),
    state = case
        when q.is_processed then 'sent'
        -- the old worker had given up on it: it tried no more, and retention never took it away
        when q.attempts >= coalesce(q.max_attempts, 5) then 'dead'
        else 'queued'
    end,
    error_class = case
        when not coalesce(q.is_processed, false) and q.attempts >= coalesce(q.max_attempts, 5)
            then 'NOTIFICATION_ATTEMPTS_EXHAUSTED'
    end,
    finished_at = case
        when q.is_processed then coalesce(q.processed_at, q.created_at, now())
        when q.attempts >= coalesce(q.max_attempts, 5) then now()
    end,
    tenant = q.event_data ->> 'client_id'
from (
    select id, row_number() over (order by created_at, id) as seq from public.notification_queue
) as o
where q.id = o.id;

alter table public.notification_queue
    alter column seq set not null,
    alter column seq add generated always as identity,
    alter column is_processed set default false,
    alter column is_processed set not null,
    alter column attempts set default 0,
    alter column attempts set not null,
    alter column max_attempts set default 5,
    alter column max_attempts set not null,
    alter column next_attempt_at set default now(),
    alter column next_attempt_at set not null;
select setval(
    pg_get_serial_sequence('public.notification_queue', 'seq'),
    (select coalesce(max(seq), 0) + 1 from public.notification_queue), false
);

-- Partial only: history must not slow the claim down.
create index notification_queue_unresolved_idx on public.notification_queue (seq)
where lane_key is null and state in ('queued', 'sending');
create index notification_queue_lane_idx on public.notification_queue (lane_key, seq)
where state in ('queued', 'sending');
create index notification_queue_expiry_idx on public.notification_queue (expires_at) where state = 'queued';
create index notification_queue_finished_idx on public.notification_queue (finished_at)
where state in ('sent', 'cancelled');
create index notification_queue_dead_idx on public.notification_queue (error_class, finished_at) where state = 'dead';
create unique index notification_queue_dedupe_key on public.notification_queue (dedupe_key)
where dedupe_key is not null and state <> 'cancelled';
alter table public.notification_queue set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

-- One row per channel or direct message: who sends to it, when it may be sent to again, what is wrong with it.
create table penstock.notification_lanes (
    lane_key text primary key,               -- '<workspace>/<destination>'
    workspace text not null,
    destination text not null,               -- channel id or name, or the user id whose direct message it is
    channel_id text,                         -- what Slack calls it; read from its first answer
    next_send_at timestamptz not null default 'infinity',  -- infinity: asleep. Pace, Retry-After and back-off alike
    leased_until timestamptz,
    leased_by text,
    lease_epoch bigint not null default 0,
    failures integer not null default 0,
    parked_reason text,                      -- Slack refuses the channel: tried again at long intervals
    parked_message text,
    parked_at timestamptz,
    last_sent_at timestamptz
) with (fillfactor = 70);
create index notification_lanes_ready_idx on penstock.notification_lanes (next_send_at, lane_key);

-- What nobody sends: by a person, or by Penstock when Slack refuses the token.
create table penstock.notification_pauses (
    scope text not null check (scope in ('queue', 'workspace', 'channel', 'tenant')),
    scope_key text not null,                 -- workspace; lane key, channel id or name; tenant; '' for the queue
    reason text not null,
    paused_until timestamptz not null default 'infinity',
    paused_by text not null,
    paused_at timestamptz not null default now(),
    primary key (scope, scope_key)
);

-- One drain at a time stays for its minute; the others leave when nothing is ready.
create table if not exists penstock.drain_residents (
    queue text primary key,
    leased_by text not null,
    leased_until timestamptz not null
);

-- An alert once, and again only after the time that its sender names.
create table if not exists penstock.alerts_sent (
    alert_key text primary key,
    sent_at timestamptz not null default now()
);

create or replace function penstock.keep_notification_state() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        new.attempts := coalesce(new.attempts, 0);
        new.max_attempts := coalesce(new.max_attempts, 5);
        new.next_attempt_at := coalesce(new.next_attempt_at, now());
        new.created_at := coalesce(new.created_at, now());
        new.tenant := coalesce(new.tenant, new.event_data ->> 'client_id');
        if new.is_processed then
            new.state := 'sent';
            new.finished_at := coalesce(new.processed_at, now());
        end if;
        new.is_processed := new.state = 'sent';
    elsif new.state is distinct from old.state then
        new.is_processed := new.state = 'sent';
    elsif new.is_processed is distinct from old.is_processed then
        -- an old client, which knows nothing of states
        new.is_processed := coalesce(new.is_processed, false);
        new.state := case when new.is_processed then 'sent' else 'queued' end;
        new.finished_at := case when new.is_processed then coalesce(new.processed_at, now()) end;
        new.leased_until := null;
        new.leased_by := null;
    elsif
        new.attempts is distinct from old.attempts
        and old.leased_by = 'lock_and_get_notifications' and new.leased_by = old.leased_by
    then
        -- an old client's failure: it gives the row back
        new.leased_until := null;
        new.leased_by := null;
        new.state := case when new.attempts >= new.max_attempts then 'dead' else 'queued' end;
        if new.state = 'dead' then
            new.error_class := 'NOTIFICATION_ATTEMPTS_EXHAUSTED';
            new.finished_at := now();
        end if;
    end if;
    if new.state = 'sent' then
        new.processed_at := coalesce(new.processed_at, now());
    end if;
    return new;
end $$;
create trigger penstock_keep_notification_state
before insert or update on public.notification_queue
for each row execute function penstock.keep_notification_state();

create or replace function penstock.notify_notification_queued() returns trigger language plpgsql as $$
begin
    perform pg_notify('penstock_notifications', '');
    return null;
end $$;
create trigger penstock_notification_queued
after insert on public.notification_queue
for each statement execute function penstock.notify_notification_queued();

-- The old function, under its old name: other clients may still call it. The rows it returns are leased for five
-- minutes, so that neither another caller nor a drain of ours sends them meanwhile.
drop function if exists public.lock_and_get_notifications(integer);
create function public.lock_and_get_notifications(batch_size integer default 50)
returns table (
    id uuid, config_id uuid, entity_id uuid, entity_type varchar, event_data jsonb, attempts integer
) language sql as $$
    with candidates as (
        select q.id
        from public.notification_queue as q
        where
            q.state in ('queued', 'sending') and q.attempts < q.max_attempts and q.next_attempt_at <= now()
            and (q.leased_until is null or q.leased_until < now())
            and (q.state = 'queued' or q.leased_by is not null)
            and not exists (
                select 1
                from penstock.notification_lanes as l
                where l.lane_key = q.lane_key and (l.leased_until >= now() or l.parked_reason is not null)
            )
        order by q.created_at, q.seq
        limit batch_size
        for no key update skip locked
    ),

    locked as (
        update public.notification_queue as q
        set
            state = 'sending', leased_until = now() + interval '5 minutes', leased_by = 'lock_and_get_notifications',
            lease_epoch = q.lease_epoch + 1, sending_at = coalesce(q.sending_at, now())
        from candidates as c
        where q.id = c.id
        returning q.id, q.config_id, q.entity_id, q.entity_type, q.event_data, q.attempts, q.seq
    )

    select l.id, l.config_id, l.entity_id, l.entity_type, l.event_data, l.attempts from locked as l order by l.seq
$$;

-- A request's new status, for every active configuration of it. An old database has the function, and a trigger of
-- some name that calls it: both stay as they are.
do $do$
begin
    if to_regprocedure('public.queue_status_notification()') is null then
        create function public.queue_status_notification() returns trigger language plpgsql as $$
        begin
            if new.status is distinct from old.status then
                insert into public.notification_queue (config_id, entity_id, entity_type, event_data)
                select
                    c.id, new.id, 'request',
                    jsonb_build_object(
                        'old_status', old.status, 'new_status', new.status, 'request_id', new.id,
                        'request_title', new.title, 'changed_by', new.assigned_to, 'client_id', new.client_id
                    )
                from public.notification_config as c
                where c.entity_type = 'request' and c.event_type = 'status_change' and c.is_active;
            end if;
            return new;
        end $$;
    end if;
end $do$;
do $$
begin
    if not exists (
        select 1
        from pg_trigger as t
        where t.tgrelid = 'public.requests'::regclass
            and t.tgfoid = 'public.queue_status_notification()'::regprocedure
    ) then
        create trigger queue_status_notification
        after update of status on public.requests
        for each row execute function public.queue_status_notification();
    end if;
end $$;
