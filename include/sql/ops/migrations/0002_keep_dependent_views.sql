-- Postgres changes no column's type while a view reads it. A migration that must do so says
--     select penstock.set_aside_views('core_warehouse.some_table');
--     alter table ...;
--     select penstock.restore_views();
-- and the views come back with their owner, grants, comments, indexes and triggers. A view that the change made
-- impossible stays in the table with the reason: nobody's work is lost, and no migration stops at it.

create table penstock.views_set_aside (
    id bigint generated always as identity primary key,
    view_name text not null,
    statements text [] not null,          -- what makes it again
    problem text,                         -- why it could not be made again
    set_aside_at timestamptz not null default clock_timestamp()
);

-- The statements that make a view again as it is.
create function penstock.view_statements(p_view regclass) returns text [] language sql stable as $$
    with target as (
        select
            c.oid, c.relkind, c.relowner, c.relacl, c.reloptions,
            format('%I.%I', n.nspname, c.relname) as full_name,
            case c.relkind when 'm' then 'materialized view' else 'view' end as kind
        from pg_class as c
        inner join pg_namespace as n on n.oid = c.relnamespace
        where c.oid = p_view
    ),
    parts as (
        select 1 as position, format(
            'create %s %s%s as %s', kind, full_name,
            case when reloptions is null then '' else format(' with (%s)', array_to_string(reloptions, ', ')) end,
            pg_get_viewdef(oid)
        ) as statement
        from target
        union all
        select 2, format('alter %s %s owner to %I', kind, full_name, pg_get_userbyid(relowner)) from target
        union all
        select 3, pg_get_indexdef(i.indexrelid) from pg_index as i inner join target on i.indrelid = target.oid
        union all
        select 4, pg_get_triggerdef(t.oid) from pg_trigger as t inner join target on t.tgrelid = target.oid
        where not t.tgisinternal
        union all
        select 5, format(
            'grant %s on %s to %s%s', acl.privilege_type, full_name,
            case acl.grantee when 0 then 'public' else format('%I', pg_get_userbyid(acl.grantee)) end,
            case when acl.is_grantable then ' with grant option' else '' end
        )
        from target cross join lateral aclexplode(target.relacl) as acl
        where acl.grantee <> target.relowner
        union all
        select 6, format('comment on %s %s is %L', kind, full_name, d.description)
        from pg_description as d inner join target on d.objoid = target.oid
        where d.classoid = 'pg_class'::regclass and d.objsubid = 0
        union all
        select 7, format('comment on column %s.%I is %L', full_name, a.attname, d.description)
        from pg_description as d
        inner join target on d.objoid = target.oid
        inner join pg_attribute as a on a.attrelid = target.oid and a.attnum = d.objsubid
        where d.classoid = 'pg_class'::regclass and d.objsubid > 0
    )
    select array_agg(statement order by position, statement) from parts
$$;

-- Drop every view that reads the relation, directly or through others; the relation itself too when it is a view
-- and p_itself is true, but that one is not kept. Returns how many were set aside.
create function penstock.set_aside_views(p_relation text, p_itself boolean default false)
returns integer language plpgsql as $$
declare
    dependent record;
    target regclass := to_regclass(p_relation);
    kept integer := 0;
begin
    if target is null then
        return 0;
    end if;
    for dependent in
        with recursive readers as (
            select distinct r.ev_class as oid, 1 as depth
            from pg_depend as d
            inner join pg_rewrite as r on r.oid = d.objid
            where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass
                and d.refobjid = target and r.ev_class <> target
            union
            select r.ev_class, readers.depth + 1
            from readers
            inner join pg_depend as d on d.refobjid = readers.oid
            inner join pg_rewrite as r on r.oid = d.objid
            where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass
                and r.ev_class <> readers.oid
        )
        select c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) as full_name, max(readers.depth) as depth
        from readers
        inner join pg_class as c on c.oid = readers.oid
        inner join pg_namespace as n on n.oid = c.relnamespace
        where c.relkind in ('v', 'm')
        group by c.oid, c.relkind, n.nspname, c.relname
        order by depth desc, c.oid
    loop
        insert into penstock.views_set_aside (view_name, statements)
        values (dependent.full_name, penstock.view_statements(dependent.oid));
        execute format(
            'drop %s %s', case dependent.relkind when 'm' then 'materialized view' else 'view' end, dependent.full_name
        );
        kept := kept + 1;
    end loop;
    if p_itself then
        execute format(
            'drop %s %s',
            (select case c.relkind when 'm' then 'materialized view' else 'view' end from pg_class as c where c.oid = target),
            target
        );
    end if;
    return kept;
end $$;

-- Make the views again that were set aside, the last dropped first. Returns how many could not be made.
create function penstock.restore_views() returns integer language plpgsql as $$
declare
    kept record;
    statement text;
    failed integer := 0;
begin
    for kept in select id, view_name, statements from penstock.views_set_aside order by id desc loop
        begin
            foreach statement in array kept.statements loop
                execute statement;
            end loop;
            delete from penstock.views_set_aside where id = kept.id;
        exception when others then
            update penstock.views_set_aside set problem = sqlerrm where id = kept.id;
            raise warning 'view % could not be made again: %', kept.view_name, sqlerrm;
            failed := failed + 1;
        end;
    end loop;
    return failed;
end $$;
