-- archive_old_activities, as the old worker and people's own jobs call it. It moves up to 50,000 rows in one
-- statement, by the names of the columns, and returns how many: call it again until it returns 0.

do $do$
begin
    create or replace function public.archive_old_activities(days_to_keep integer default 90) returns integer
    language sql as 'select 0';
exception when invalid_function_definition then
    -- Another parameter name or return type: only a new function can have ours.
    drop function public.archive_old_activities(integer);
end $do$;

create or replace function public.archive_old_activities(days_to_keep integer default 90) returns integer
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
    v_columns text;
    v_missing text;
    v_held boolean;
    v_moved integer;
begin
    if days_to_keep is null or days_to_keep < 1 then
        raise exception 'days_to_keep must be 1 or more, not %', coalesce(days_to_keep::text, 'null')
        using errcode = 'invalid_parameter_value';
    end if;
    select
        string_agg(quote_ident(a.attname), ', ' order by a.attnum),
        string_agg(quote_ident(a.attname), ', ' order by a.attnum) filter (where b.attname is null),
        bool_or(a.attname = 'legal_hold')
    into v_columns, v_missing, v_held
    from pg_attribute as a
    left join pg_attribute as b
        on b.attrelid = 'public.archived_activity_log'::regclass and b.attname = a.attname and not b.attisdropped
    where a.attrelid = 'public.activity_log'::regclass and a.attnum > 0 and not a.attisdropped
        and a.attgenerated = '';
    if v_missing is not null then
        raise exception 'archived_activity_log lacks %: nothing is moved, or their values would be lost', v_missing
        using errcode = 'undefined_column';
    end if;
    execute format(
        $move$
        with moved as (
            delete from public.activity_log
            where id = any(array(
                select id from public.activity_log
                where created_at < now() - make_interval(days => %s) %s
                order by created_at
                limit 50000
                for update skip locked
            ))
            returning %s
        ),
        kept as (
            insert into public.archived_activity_log (%s) select %s from moved on conflict do nothing
        )
        select count(*) from moved
        $move$, days_to_keep, case when v_held then 'and legal_hold is not true' else '' end, v_columns, v_columns, v_columns
    ) into v_moved;
    return v_moved;
end $$;
