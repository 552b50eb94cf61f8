-- Keys follow the outbox by trigger, in the producer's transaction: an item is never in one and not in the other.

-- Keys are locked in their own order, so that two producers cannot lock each other out.
create function penstock.mark_calendar_keys() returns trigger language plpgsql as $$
begin
    insert into penstock.calendar_keys as k (
        event_key, workspace_id, source_type, source_id, dirty_seq, next_attempt_at, calendar_id, google_event_id,
        is_created
    )
    select
        n.event_key, n.workspace_id, n.payload ->> 'sourceType', (n.payload ->> 'sourceId')::uuid, n.seq,
        greatest(n.next_attempt_at, now()), b.calendar_id, b.google_event_id, b.id is not null
    from (
        select distinct on (r.event_key) r.*
        from new_rows as r
        where r.event_key is not null and r.status in ('PENDING', 'PROCESSING', 'FAILED')
        order by r.event_key asc, r.seq desc
    ) as n
    left join public.calendar_event_bindings as b
        on b.workspace_id = n.workspace_id and b.source_type = n.payload ->> 'sourceType'
        and b.source_id = (n.payload ->> 'sourceId')::uuid
    order by n.event_key
    on conflict (event_key) do update set
        dirty_seq = greatest(k.dirty_seq, excluded.dirty_seq),
        attempts = case when k.dead_reason is null then k.attempts else 0 end,
        first_failed_at = case when k.dead_reason is null then k.first_failed_at end,
        next_attempt_at = case
            -- What waits for its next try goes on waiting: a newer intent meets the same vendor.
            when k.dirty_seq > k.done_seq and k.dead_reason is null
                then greatest(k.next_attempt_at, excluded.next_attempt_at)
            else excluded.next_attempt_at
        end,
        dead_reason = null;
    if exists (select from new_rows where status in ('PENDING', 'PROCESSING', 'FAILED')) then
        perform pg_notify('penstock_sync_outbox', '');
    end if;
    return null;
end $$;

create trigger sync_outbox_mark_keys after insert on public.sync_outbox
referencing new table as new_rows for each statement execute function penstock.mark_calendar_keys();

-- Whoever puts a row back to PENDING (a replay, the old way by hand) makes its key due again. Where a newer intent has
-- been carried out meanwhile, the next claim finds that out and closes the row as SUPERSEDED.
create function penstock.revive_calendar_key() returns trigger language plpgsql as $$
begin
    update penstock.calendar_keys as k set
        dirty_seq = greatest(k.dirty_seq, new.seq),
        done_seq = least(k.done_seq, greatest(k.dirty_seq, new.seq) - 1),
        attempts = 0,
        first_failed_at = null,
        next_attempt_at = now(),
        dead_reason = null
    where k.event_key = new.event_key;
    perform pg_notify('penstock_sync_outbox', '');
    return null;
end $$;

create trigger sync_outbox_revive_key after update of status on public.sync_outbox
for each row when (new.status = 'PENDING' and old.status in ('DEAD_LETTER', 'COMPLETED', 'SUPERSEDED'))
execute function penstock.revive_calendar_key();

-- A connection that works again gets back what died of its absence.
create function penstock.return_dead_letters() returns trigger language plpgsql as $$
begin
    update public.sync_outbox set
        status = 'PENDING',
        attempts = 0,
        next_attempt_at = now(),
        dead_reason = null
    where workspace_id = new.workspace_id and status = 'DEAD_LETTER'
        and dead_reason in ('OAUTH_INVALID', 'CALENDAR_NOT_CONNECTED', 'CREDENTIAL_UNDECRYPTABLE');
    update penstock.calendar_lanes set next_turn_at = now(), reason = null where workspace_id = new.workspace_id;
    return null;
end $$;

-- A new token is a new chance, whatever the columns say: the old application set is_valid alone.
create function penstock.renew_google_connection() returns trigger language plpgsql as $$
begin
    if new.refresh_token_encrypted is distinct from old.refresh_token_encrypted and old.status = 'ERROR'
        and new.status = 'ERROR' then
        new.status := 'ACTIVE';
    end if;
    if new.is_valid and not old.is_valid then
        new.status := 'ACTIVE';
    end if;
    if new.status = 'ACTIVE' and (old.status <> 'ACTIVE' or not old.is_valid) then
        new.last_error_code := null;
        new.last_error := null;
        new.invalidated_at := null;
        new.consecutive_failures := 0;
        new.circuit_open_until := null;
    end if;
    return new;
end $$;

create trigger google_connections_renew before update on public.google_connections
for each row execute function penstock.renew_google_connection();
create trigger google_connections_made after insert on public.google_connections
for each row when (new.is_valid) execute function penstock.return_dead_letters();
create trigger google_connections_valid_again after update on public.google_connections
for each row when (
    new.is_valid and new.status = 'ACTIVE' and (not old.is_valid or old.status <> 'ACTIVE')
) execute function penstock.return_dead_letters();

-- The columns that the old database kept by triggers of its own.
create function penstock.touch_updated_at() returns trigger language plpgsql as $$
begin
    new.updated_at := now();
    return new;
end $$;

create function penstock.count_binding_version() returns trigger language plpgsql as $$
begin
    new.sync_version := old.sync_version + 1;
    new.last_synced_at := now();
    new.updated_at := now();
    return new;
end $$;

do $$
declare
    wanted record;
begin
    for wanted in
        select * from (
            values ('sync_outbox', 'touch_updated_at'), ('google_connections', 'touch_updated_at'),
            ('calendar_event_bindings', 'count_binding_version')
        ) as w (table_name, function_name)
    loop
        if not exists (
            select from pg_trigger as t
            where t.tgrelid = to_regclass('public.' || wanted.table_name) and not t.tgisinternal
                and t.tgtype & 2 = 2 and t.tgtype & 16 = 16 and t.tgname not like '%renew'  -- before, update
        ) then
            execute format(
                'create trigger %I before update on public.%I for each row execute function penstock.%I()',
                wanted.table_name || '_touch', wanted.table_name, wanted.function_name
            );
        end if;
    end loop;
end $$;

-- What the old worker left: every source object gets its key, whatever state its rows are in. PROCESSING was for
-- ever; now it is as good as PENDING.
insert into penstock.calendar_keys (
    event_key, workspace_id, source_type, source_id, dirty_seq, done_seq, next_attempt_at, dead_reason, calendar_id,
    google_event_id, is_created
)
select
    o.event_key,
    o.workspace_id,
    o.payload ->> 'sourceType',
    (o.payload ->> 'sourceId')::uuid,
    o.seq,
    case when o.status in ('COMPLETED', 'SUPERSEDED') then o.seq else 0 end,
    least(o.next_attempt_at, now() + interval '1 hour'),
    case when o.status = 'DEAD_LETTER' then o.dead_reason end,
    b.calendar_id,
    b.google_event_id,
    b.id is not null
from (
    select distinct on (r.event_key) r.*
    from public.sync_outbox as r
    where r.event_key is not null
    order by r.event_key asc, r.seq desc
) as o
left join public.calendar_event_bindings as b
    on o.workspace_id = b.workspace_id and o.payload ->> 'sourceType' = b.source_type
    and (o.payload ->> 'sourceId')::uuid = b.source_id
on conflict (event_key) do nothing;

insert into penstock.calendar_keys (
    event_key, workspace_id, source_type, source_id, dirty_seq, calendar_id, google_event_id, is_created
)
select
    b.workspace_id || ':' || b.source_type || ':' || b.source_id,
    b.workspace_id,
    b.source_type,
    b.source_id,
    0,
    b.calendar_id,
    b.google_event_id,
    true
from public.calendar_event_bindings as b
on conflict (event_key) do nothing;

-- The old names, callable as before. A lock of the session was lost in the pool and kept nobody out; now the item's key
-- is leased for a minute, which keeps ours from sending meanwhile, and a second caller is told so.
drop function if exists public.try_lock_outbox_item(uuid);
drop function if exists public.unlock_outbox_item(uuid);
drop function if exists public.cleanup_old_outbox_items(integer);

create function public.try_lock_outbox_item(item_id uuid)
returns boolean language sql as $$
    with locked as (
        update penstock.calendar_keys as k set
            leased_until = clock_timestamp() + interval '1 minute',
            leased_by = 'try_lock_outbox_item ' || item_id,
            lease_epoch = k.lease_epoch + 1
        from public.sync_outbox as o
        where o.id = item_id and k.event_key = o.event_key
            and (k.leased_until is null or k.leased_until < clock_timestamp())
        returning 1
    )

    select exists (select from locked)
$$;

create function public.unlock_outbox_item(item_id uuid)
returns boolean language sql as $$
    with unlocked as (
        update penstock.calendar_keys as k set leased_until = null, leased_by = null
        from public.sync_outbox as o
        where o.id = item_id and k.event_key = o.event_key and k.leased_by = 'try_lock_outbox_item ' || item_id
        returning 1
    )

    select exists (select from unlocked)
$$;

-- Deletes what is finished and older than `days`. A dead letter that still waits for a person is finished too: that is
-- what the old function did, and its callers count on the table not growing.
create function public.cleanup_old_outbox_items(days integer default 30)
returns integer language plpgsql as $$
declare
    deleted integer;
begin
    if days is null or days < 1 then
        raise exception 'cleanup_old_outbox_items: days must be at least 1, got %', days;
    end if;
    delete from public.sync_outbox
    where status in ('COMPLETED', 'SUPERSEDED', 'DEAD_LETTER') and updated_at < now() - make_interval(days => days);
    get diagnostics deleted = row_count;
    return deleted;
end $$;
