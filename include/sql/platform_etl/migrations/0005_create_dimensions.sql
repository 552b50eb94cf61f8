-- What the vendors' objects are called now. Keys are the vendor's own ids within an account. An object that a
-- complete listing no longer has is marked is_deleted and kept, because facts still point at it.

create table core_warehouse.dim_campaign (
    connection_id uuid not null,
    campaign_id text not null,
    name text,
    status text,
    effective_status text,
    objective text,
    buying_type text,
    bidding_strategy text,
    currency char(3),                     -- of the budgets
    daily_budget numeric(18, 6),
    lifetime_budget numeric(18, 6),
    start_at timestamptz,
    end_at timestamptz,
    source_updated_at timestamptz,
    is_deleted boolean not null default false,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, campaign_id)
);

create table core_warehouse.dim_ad_group (
    connection_id uuid not null,
    ad_group_id text not null,            -- Meta's ad set
    campaign_id text not null,
    name text,
    status text,
    effective_status text,
    optimization_goal text,
    attribution_spec jsonb,
    currency char(3),
    daily_budget numeric(18, 6),
    lifetime_budget numeric(18, 6),
    start_at timestamptz,
    end_at timestamptz,
    source_updated_at timestamptz,
    is_deleted boolean not null default false,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, ad_group_id)
);

create table core_warehouse.dim_ad (
    connection_id uuid not null,
    ad_id text not null,
    ad_group_id text not null,
    campaign_id text not null,
    name text,
    status text,
    effective_status text,
    creative_id text,
    source_updated_at timestamptz,
    is_deleted boolean not null default false,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, ad_id)
);

create table core_warehouse.dim_klaviyo_message (
    connection_id uuid not null,
    message_id text not null,
    kind text not null check (kind in ('CAMPAIGN', 'FLOW')),
    parent_id text not null,              -- the campaign or the flow
    parent_name text,
    channel text,                         -- email, sms, mobile_push
    label text,
    subject text,
    status text,
    send_at timestamptz,
    is_archived boolean not null default false,
    is_deleted boolean not null default false,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, message_id)
);

create table core_warehouse.dim_klaviyo_flow (
    connection_id uuid not null,
    flow_id text not null,
    name text,
    status text,
    trigger_type text,
    is_archived boolean not null default false,
    source_created_at timestamptz,
    source_updated_at timestamptz,
    is_deleted boolean not null default false,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, flow_id)
);

create table core_warehouse.dim_klaviyo_audience (
    connection_id uuid not null,
    audience_id text not null,
    kind text not null check (kind in ('LIST', 'SEGMENT')),
    name text,
    opt_in_process text,
    is_active boolean,
    source_created_at timestamptz,
    source_updated_at timestamptz,
    is_deleted boolean not null default false,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, audience_id)
);

create table core_warehouse.dim_klaviyo_metric (
    connection_id uuid not null,
    metric_id text not null,
    name text,
    integration text,
    source_created_at timestamptz,
    source_updated_at timestamptz,
    is_deleted boolean not null default false,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, metric_id)
);

-- No vendor supplies rates: whoever runs the warehouse loads them. One unit of base costs `rate` units of quote.
create table core_warehouse.dim_fx_rate (
    base char(3) not null,
    quote char(3) not null,
    rate_date date not null,
    rate numeric(20, 10) not null check (rate > 0),
    source text not null,
    loaded_at timestamptz not null default now(),
    primary key (base, quote, rate_date)
);
