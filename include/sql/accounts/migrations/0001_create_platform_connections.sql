-- The one registry of vendor accounts. The old workers made this table; whatever they made stays.

create table if not exists public.platform_connections (
    id uuid primary key default gen_random_uuid(),
    platform varchar(50) not null,
    -- {"access_token": "v1:<key id>:<nonce>:<ciphertext>"}; null: those of the Airflow connection
    credentials jsonb,
    account_id varchar(255),
    account_name varchar(255),
    is_active boolean default true,
    last_synced_at timestamptz,
    sync_frequency integer default 1440,  -- minutes
    created_at timestamptz default now(),
    created_by uuid
);

alter table public.platform_connections
    add column if not exists shop_id text,
    add column if not exists time_zone text,          -- read from the vendor, never guessed
    add column if not exists currency char(3),
    add column if not exists settings jsonb not null default '{}',
    add column if not exists facts jsonb not null default '{}',  -- what the vendor says: metric ids, names
    add column if not exists state text not null default 'OK',   -- OK, NEEDS_RECONNECT, NEEDS_PERMISSION, PAUSED
    add column if not exists last_error_code text,
    add column if not exists next_sync_at timestamptz not null default now(),
    add column if not exists consecutive_failures integer not null default 0,
    add column if not exists updated_at timestamptz not null default now();

alter table public.platform_connections alter column credentials drop not null;

-- The old worker wrote platform names in either case, and by several names.
update public.platform_connections as c
set platform = n.new_name
from (
    select
        id,
        case
            when lower(platform) in ('meta', 'meta_ads', 'facebook', 'facebook_ads') then 'META'
            when lower(platform) in ('ga4', 'google_analytics', 'google-analytics') then 'GA4'
            else upper(platform)
        end as new_name
    from public.platform_connections
) as n
where c.id = n.id and c.platform <> n.new_name;

-- The old worker did not mind an account registered twice. One row stays: the active one that synced last. The
-- others move here whole, and what referred to them refers to the one that stays.
create table penstock.merged_connections (
    id uuid primary key,
    kept_id uuid not null references public.platform_connections (id) on delete cascade,
    connection jsonb not null,
    merged_at timestamptz not null default now()
);

do $$
declare
    reference record;
begin
    insert into penstock.merged_connections (id, kept_id, connection)
    select r.id, r.kept_id, r.connection
    from (
        select
            c.id,
            first_value(c.id) over account as kept_id,
            to_jsonb(c) as connection,
            row_number() over account as place
        from public.platform_connections as c
        where c.account_id is not null
        window account as (
            partition by c.platform, c.account_id
            order by c.is_active desc nulls last, c.last_synced_at desc nulls last, c.created_at desc nulls last, c.id
        )
    ) as r
    where r.place > 1;

    for reference in
        select k.conrelid::regclass as table_name, a.attname as column_name
        from pg_constraint as k
        inner join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
        where k.contype = 'f' and k.confrelid = 'public.platform_connections'::regclass
            and array_length(k.conkey, 1) = 1 and k.conrelid <> 'penstock.merged_connections'::regclass
    loop
        execute format(
            'update %s as t set %I = m.kept_id from penstock.merged_connections as m where t.%I = m.id',
            reference.table_name, reference.column_name, reference.column_name
        );
    end loop;

    delete from public.platform_connections as c using penstock.merged_connections as m where c.id = m.id;
end $$;

create unique index if not exists platform_connections_platform_account_id_key
on public.platform_connections (platform, account_id);
create index if not exists platform_connections_due_idx
on public.platform_connections (next_sync_at) where is_active;
