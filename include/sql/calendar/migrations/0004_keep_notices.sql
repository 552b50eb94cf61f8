-- For "done in the last hour"; history does not slow it.
create index if not exists sync_outbox_done_idx on public.sync_outbox (processed_at)
where status in ('COMPLETED', 'SUPERSEDED');

-- What people were told, so that nobody hears of the same thing every minute.
create table penstock.calendar_notices (
    notice_key text primary key,
    said_at timestamptz not null default now()
);
