-- The tables of the old notification worker, as it made them. On its own database every statement here finds what it
-- would make.

create table if not exists public.notification_config (
    id uuid primary key default gen_random_uuid(),
    entity_type varchar(50) not null,
    event_type varchar(50) not null,
    channel_id varchar(255),
    user_id uuid references public.profiles (id),    -- whose direct message it is
    is_active boolean default true,
    template text,
    created_at timestamptz default now()
);

create table if not exists public.notification_queue (
    id uuid primary key default gen_random_uuid(),
    config_id uuid references public.notification_config (id),
    entity_id uuid not null,
    entity_type varchar(50) not null,
    event_data jsonb,
    is_processed boolean default false,
    attempts integer default 0,
    max_attempts integer default 5,
    next_attempt_at timestamptz default now(),
    last_error text,
    created_at timestamptz default now(),
    processed_at timestamptz
);
