-- The tables of the old diamond worker, with its names and columns, so that its readers keep working. Where they
-- exist they are kept as they are; what Penstock needs beside them comes in the next migrations.

create table if not exists run_metadata (
    run_id uuid primary key default gen_random_uuid(),
    feed text not null,
    run_type text not null check (run_type in ('full', 'incremental')),
    expected_workers integer not null,
    completed_workers integer not null default 0,
    failed_workers integer not null default 0,
    watermark_before timestamptz,
    watermark_after timestamptz,
    started_at timestamptz not null default now(),
    completed_at timestamptz,
    consolidation_started_at timestamptz,
    consolidation_completed_at timestamptz,
    consolidation_processed integer not null default 0,
    consolidation_errors integer not null default 0,
    consolidation_total integer not null default 0
);

create table if not exists worker_runs (
    id uuid primary key default gen_random_uuid(),
    run_id uuid not null references run_metadata (run_id) on delete cascade,
    partition_id text not null,
    worker_id uuid not null,
    status text not null check (status in ('running', 'completed', 'failed')),
    records_processed integer not null default 0,
    error_message text,
    work_item_payload jsonb,
    started_at timestamptz not null default now(),
    completed_at timestamptz,
    unique (run_id, partition_id)
);
create index if not exists idx_worker_runs_run_status on worker_runs (run_id, status);

create table if not exists partition_progress (
    run_id uuid not null,
    partition_id text not null,
    next_offset integer not null default 0,
    completed boolean not null default false,
    failed boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (run_id, partition_id)
);

create table if not exists raw_diamonds_nivoda (
    id uuid primary key default gen_random_uuid(),
    run_id uuid not null,
    feed text,
    supplier_stone_id text not null unique,
    offer_id text not null,
    source_updated_at timestamptz,
    payload jsonb,
    payload_hash text not null,
    consolidated boolean not null default false,
    consolidation_status text not null default 'pending'
    check (consolidation_status in ('pending', 'processing', 'done', 'failed')),
    claimed_at timestamptz,
    claimed_by text,
    consolidated_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index if not exists idx_raw_nivoda_status on raw_diamonds_nivoda (consolidation_status, created_at)
where consolidated = false;
create index if not exists idx_raw_nivoda_run on raw_diamonds_nivoda (run_id);

create table if not exists diamonds (
    id uuid primary key default gen_random_uuid(),
    feed text not null,
    supplier_stone_id text not null,
    offer_id text not null,
    shape text not null,
    carats numeric(6, 2),
    color text,
    clarity text,
    cut text,
    polish text,
    symmetry text,
    fluorescence text,
    fluorescence_intensity text,
    fancy_color text,
    fancy_intensity text,
    fancy_overtone text,
    lab_grown boolean,
    treated boolean,
    ratio numeric(5, 3),
    feed_price numeric(12, 2) not null,
    diamond_price numeric(12, 2),
    price_per_carat numeric(12, 2) not null,
    price_model_price numeric(12, 2) not null,
    markup_ratio numeric(5, 4),
    rating integer check (rating between 1 and 10),
    availability text not null check (availability in ('available', 'on_hold', 'sold', 'unavailable')),
    raw_availability text,
    hold_id text,
    image_url text,
    video_url text,
    meta_images jsonb,
    certificate_lab text,
    certificate_number text,
    certificate_pdf_url text,
    table_pct numeric(5, 2),
    depth_pct numeric(5, 2),
    length_mm numeric(6, 2),
    width_mm numeric(6, 2),
    depth_mm numeric(6, 2),
    crown_angle numeric(5, 2),
    crown_height numeric(5, 2),
    pavilion_angle numeric(5, 2),
    pavilion_depth numeric(5, 2),
    girdle text,
    culet_size text,
    eye_clean boolean,
    brown text,
    green text,
    milky text,
    supplier_name text,
    supplier_legal_name text,
    status text not null default 'active' check (status in ('active', 'deleted')),
    source_updated_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    unique (feed, supplier_stone_id)
);

create table if not exists dataset_versions (
    feed text primary key,
    version bigint not null default 0,
    updated_at timestamptz not null default now()
);

-- Unused since limits are shared in penstock.rate_limits; kept for those who read them.
create table if not exists rate_limit (
    key text primary key,
    window_start timestamptz not null default now(),
    request_count integer not null default 0,
    last_request_at timestamptz
);

create table if not exists error_logs (
    id uuid primary key default gen_random_uuid(),
    service text not null,
    error_message text not null,
    stack_trace text,
    context jsonb,
    created_at timestamptz not null default now()
);
