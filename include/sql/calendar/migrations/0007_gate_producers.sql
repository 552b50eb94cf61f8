-- A rebuild never overtakes a producer. It reads the sources and writes an item for each of them; a producer whose
-- transaction was still open then had changed its source unseen, its item came before the rebuild's, and what it had
-- cancelled or moved came back. Now producers pass a gate, and a rebuild shuts it while it reads and writes: who passed
-- before is waited for and seen, who comes later comes behind.

-- One of 256, so that a transaction with items of very many workspaces does not fill the server's table of locks. Of a
-- UUID the last byte is the most random one.
create function penstock.calendar_gate(workspace_id uuid) returns integer
language sql immutable parallel safe as $$ select get_byte(uuid_send(workspace_id), 15) $$;

-- With its owner's rights: producers may insert, but need no right to the sequence.
create function penstock.pass_calendar_gate() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_advisory_xact_lock_shared(7813862, penstock.calendar_gate(new.workspace_id));
    -- The place that the row came with was taken before the gate, and a rebuild may have taken later ones since.
    new.seq := nextval(pg_get_serial_sequence('public.sync_outbox', 'seq'));
    return new;
end $$;

create trigger sync_outbox_pass_gate before insert on public.sync_outbox
for each row when (new.operation <> 'REBUILD_ALL') execute function penstock.pass_calendar_gate();
