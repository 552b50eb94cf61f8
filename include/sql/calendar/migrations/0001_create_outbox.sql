-- The tables of the old calendar worker and of the application it served, as they made them. On their own database
-- every statement here finds what it would make.

do $$
begin
    if to_regtype('public.outbox_operation') is null then
        create type public.outbox_operation as enum ('UPSERT_EVENT', 'CANCEL_EVENT', 'REBUILD_ALL');
    end if;
    if to_regtype('public.outbox_status') is null then
        create type public.outbox_status as enum ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED', 'DEAD_LETTER');
    end if;
    if to_regtype('public.calendar_event_type') is null then
        create type public.calendar_event_type as enum (
            'GATE_REVIEW', 'BLOCKER_DEADLINE', 'MILESTONE', 'PROJECT_REVIEW'
        );
    end if;
end $$;

-- A newer intent for the same source object made this one needless.
alter type public.outbox_status add value if not exists 'SUPERSEDED';

create table if not exists public.workspaces (
    id uuid primary key default gen_random_uuid(),
    name text not null,
    slug text unique,
    timezone text not null default 'Europe/Zurich',
    calendar_id text,
    weekly_review_rrule text default 'RRULE:FREQ=WEEKLY;BYDAY=MO;BYHOUR=9;BYMINUTE=0',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists public.sync_outbox (
    id uuid primary key default gen_random_uuid(),
    workspace_id uuid not null references public.workspaces (id) on delete cascade,
    operation public.outbox_operation not null,
    payload jsonb not null,
    status public.outbox_status not null default 'PENDING',
    attempts integer not null default 0,
    max_attempts integer not null default 5,
    next_attempt_at timestamptz not null default now(),
    last_error text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    processed_at timestamptz,
    constraint sync_outbox_attempts_check check (attempts >= 0 and attempts <= max_attempts)
);

create table if not exists public.calendar_event_bindings (
    id uuid primary key default gen_random_uuid(),
    workspace_id uuid not null references public.workspaces (id) on delete cascade,
    google_event_id text not null,
    calendar_id text not null,
    source_type text not null,              -- task, milestone, gate_run, project_review
    source_id uuid not null,
    event_type public.calendar_event_type not null,
    event_title text,
    event_start timestamptz,
    event_end timestamptz,
    last_synced_at timestamptz not null default now(),
    sync_version integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists public.google_connections (
    id uuid primary key default gen_random_uuid(),
    workspace_id uuid not null references public.workspaces (id) on delete cascade,
    google_account_email text,
    calendar_id text,
    refresh_token_encrypted text not null,  -- v1:<key id>:<nonce>:<ciphertext>, bound to the row
    scopes text [] not null default '{https://www.googleapis.com/auth/calendar.events}',
    is_valid boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- What a rebuild reads.
create table if not exists public.tasks (
    id uuid primary key default gen_random_uuid(),
    workspace_id uuid not null references public.workspaces (id) on delete cascade,
    idea_id uuid,
    title text not null,
    description text,
    priority text not null default 'P2',    -- P0 .. P3
    is_blocking boolean not null default false,
    due_at timestamptz,
    status text not null default 'TODO',    -- TODO, IN_PROGRESS, BLOCKED, DONE, CANCELLED
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists public.milestones (
    id uuid primary key default gen_random_uuid(),
    workspace_id uuid not null references public.workspaces (id) on delete cascade,
    idea_id uuid,
    title text not null,
    due_date date,
    status text not null default 'PLANNED', -- PLANNED, IN_PROGRESS, COMPLETED, MISSED, CANCELLED
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists public.gate_runs (
    id uuid primary key default gen_random_uuid(),
    idea_id uuid,
    workspace_id uuid not null references public.workspaces (id) on delete cascade,
    gate text not null,                     -- G0_INTAKE .. G5_HANDOFF
    run_number integer not null default 1,
    status text not null default 'PENDING', -- PENDING, RUNNING, COMPLETED, FAILED_RETRY, FAILED_PERMANENT
    started_at timestamptz,
    completed_at timestamptz,
    decision text,                          -- GO, REVISE, KILL, OVERRIDE_*
    created_at timestamptz not null default now()
);

create table if not exists public.project_reviews (
    id uuid primary key default gen_random_uuid(),
    workspace_id uuid not null references public.workspaces (id) on delete cascade,
    title text not null default 'Project review',
    first_review_at timestamptz not null,
    duration_minutes integer not null default 60,
    recurrence text,                        -- null: the workspace's weekly_review_rrule
    status text not null default 'ACTIVE',  -- ACTIVE, DONE, CANCELLED
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
