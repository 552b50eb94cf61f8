-- cleanup_old_outbox_items, as people's own jobs call it. It deletes up to 50,000 items in one statement, the oldest
-- first and never one under legal hold, and returns how many: call it again until it returns 0. A dead letter that
-- still waits for a person is finished too: that is what the old function did.
create or replace function public.cleanup_old_outbox_items(days integer default 30) returns integer
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
    v_held boolean;
    v_deleted integer;
begin
    if days is null or days < 1 then
        raise exception 'cleanup_old_outbox_items: days must be at least 1, got %', coalesce(days::text, 'null');
    end if;
    select exists (
        select
        from pg_attribute as a
        where a.attrelid = 'public.sync_outbox'::regclass and a.attname = 'legal_hold' and not a.attisdropped
    ) into v_held;
    execute format(
        $delete$
        with deleted as (
            delete from public.sync_outbox
            where id = any(array(
                select id from public.sync_outbox
                where status in ('COMPLETED', 'SUPERSEDED', 'DEAD_LETTER')
                    and updated_at < now() - make_interval(days => %s) %s
                order by updated_at
                limit 50000
                for update skip locked
            ))
            returning id
        )
        select count(*) from deleted
        $delete$, days, case when v_held then 'and legal_hold is not true' else '' end
    ) into v_deleted;
    return v_deleted;
end $$;
