-- The tables of the old retention worker, as it made them. On its own database every statement here finds what it
-- would make.

create table if not exists public.activity_log (
    id uuid primary key default gen_random_uuid(),
    user_id uuid,
    entity_type varchar(50) not null,
    entity_id uuid not null,
    action text not null,
    details jsonb,
    created_at timestamptz not null default now()
);

create table if not exists public.archived_activity_log (
    id uuid not null,
    user_id uuid,
    entity_type varchar(50) not null,
    entity_id uuid not null,
    action text not null,
    details jsonb,
    created_at timestamptz not null,
    archived_at timestamptz not null default now()
);

create table if not exists public.retention_policies (
    id uuid primary key default gen_random_uuid(),
    entity_type varchar(50) not null,
    active_retention_days integer not null,
    archive_retention_days integer not null,
    last_archived_at timestamptz,
    last_purged_at timestamptz,
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);

create index if not exists idx_activity_log_entity on public.activity_log (entity_type, entity_id);

-- What a batch walks along: the old databases have an index on created_at under a name that is not known.
do $$
declare
    aged regclass;
begin
    foreach aged in array array['public.activity_log', 'public.archived_activity_log']::regclass [] loop
        if not exists (
            select 1
            from pg_index as i
            inner join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
            where i.indrelid = aged and i.indisvalid and i.indpred is null and a.attname = 'created_at'
        ) then
            execute format('create index on %s (created_at)', aged);
        end if;
    end loop;
end $$;
