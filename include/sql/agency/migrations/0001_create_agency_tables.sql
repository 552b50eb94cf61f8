-- What several agency workers share: people, clients, requests, assets. The old application made these tables; on
-- its own database every statement here finds what it would make.

do $$
begin
    if to_regtype('public.request_status') is null then
        create type public.request_status as enum (
            'new_request', 'in_progress', 'needs_review', 'needs_edit', 'completed'
        );
    end if;
    if to_regtype('public.request_priority') is null then
        create type public.request_priority as enum ('low', 'medium', 'high', 'urgent');
    end if;
end $$;

create table if not exists public.profiles (
    id uuid primary key default gen_random_uuid(),
    first_name varchar(100),
    last_name varchar(100),
    avatar_url text,
    role varchar(50) default 'user',
    slack_id varchar(255),
    slack_access_token text,
    slack_notification_preferences jsonb,
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);

create table if not exists public.clients (
    id uuid primary key default gen_random_uuid(),
    name varchar(255) not null,
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);

create table if not exists public.requests (
    id uuid primary key default gen_random_uuid(),
    title varchar(255) not null,
    description text,
    client_id uuid references public.clients (id),
    request_type varchar(50) not null check (request_type in ('creative', 'performance', 'project')),
    status public.request_status not null default 'new_request',
    priority public.request_priority not null default 'medium',
    due_date timestamptz,
    created_by uuid,
    assigned_to uuid,
    metadata jsonb default '{}',               -- {"meta_ad_id": ..., "google_ad_id": ...}
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);

create table if not exists public.assets (
    id uuid primary key default gen_random_uuid(),
    request_id uuid references public.requests (id) on delete cascade,
    name varchar(255),
    url text,
    metadata jsonb default '{}',
    created_by uuid,
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);

alter table public.profiles add column if not exists slack_id varchar(255);
alter table public.requests add column if not exists metadata jsonb default '{}';

create unique index if not exists profiles_slack_id_key on public.profiles (slack_id) where slack_id is not null;
create index if not exists requests_metadata_idx on public.requests using gin (metadata jsonb_path_ops);

-- new_request -> in_progress | completed, and so on: the application's own state machine.
create or replace function public.is_request_transition(p_old text, p_new text) returns boolean
language sql immutable as $$
    select p_old = p_new or (p_old, p_new) in (
        ('new_request', 'in_progress'), ('new_request', 'completed'),
        ('in_progress', 'needs_review'), ('in_progress', 'completed'),
        ('needs_review', 'in_progress'), ('needs_review', 'needs_edit'), ('needs_review', 'completed'),
        ('needs_edit', 'in_progress'), ('needs_edit', 'needs_review'), ('needs_edit', 'completed'),
        ('completed', 'in_progress'), ('completed', 'needs_edit')
    )
$$;

create or replace function public.penstock_check_request_status() returns trigger language plpgsql as $$
begin
    if not public.is_request_transition(old.status::text, new.status::text) then
        raise exception 'Invalid status transition from % to %', old.status, new.status using errcode = 'check_violation';
    end if;
    return new;
end $$;

create or replace trigger penstock_check_request_status
before update of status on public.requests
for each row execute function public.penstock_check_request_status();
