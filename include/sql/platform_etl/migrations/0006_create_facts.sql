-- Facts, one row per grain named in the primary key. Days are the vendor's own, in the account's zone; money is in
-- the account's currency. The keys begin with what a partition is replaced by (account, level or report, day), so
-- that an account's daily totals lie together, away from its ads. No foreign keys: history outlives its account.

create table core_warehouse.fct_meta_daily (
    connection_id uuid not null,
    level text not null check (level in ('ACCOUNT', 'CAMPAIGN', 'ADSET', 'AD')),
    date date not null,
    entity_id text not null,              -- the id at this level
    attribution_setting text not null default 'account',  -- what the report asked for; never summed over
    campaign_id text,
    ad_group_id text,
    vendor_attribution text,              -- the setting that the vendor says it used
    currency char(3) not null,
    spend numeric(18, 6) not null,
    impressions bigint not null,
    reach bigint,                         -- not additive over days or entities
    clicks bigint not null,               -- every click
    inline_link_clicks bigint not null,   -- clicks that lead somewhere; what reporting calls clicks
    outbound_clicks bigint not null,
    landing_page_views bigint not null,
    video_views_3s bigint not null,
    purchases numeric(18, 6) not null,    -- attributed, hence fractions
    purchase_value numeric(18, 6) not null,
    add_to_carts numeric(18, 6) not null,
    initiate_checkouts numeric(18, 6) not null,
    leads numeric(18, 6) not null,
    run_id uuid not null,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, level, date, entity_id, attribution_setting)
);

create table core_warehouse.fct_meta_action_daily (
    connection_id uuid not null,
    level text not null check (level in ('ACCOUNT', 'CAMPAIGN', 'ADSET', 'AD')),
    date date not null,
    entity_id text not null,
    action_type text not null,            -- types overlap (purchase, omni_purchase, ...): never sum over them
    attribution_window text not null,     -- 'account': by the account's own setting; else 7d_click and the like
    actions numeric(18, 6) not null,
    value numeric(18, 6) not null,
    run_id uuid not null,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, level, date, entity_id, action_type, attribution_window)
);

create table core_warehouse.fct_meta_breakdown_daily (
    connection_id uuid not null,
    level text not null check (level in ('ACCOUNT', 'CAMPAIGN', 'ADSET', 'AD')),
    breakdown_set text not null,          -- 'age,gender', 'country', 'publisher_platform,platform_position'
    date date not null,
    entity_id text not null,
    breakdown_key text not null,          -- the values in the set's order, joined by U+001F; a missing one is 'unknown'
    breakdowns jsonb not null,
    currency char(3) not null,
    spend numeric(18, 6) not null,
    impressions bigint not null,
    clicks bigint not null,
    inline_link_clicks bigint not null,
    purchases numeric(18, 6) not null,
    purchase_value numeric(18, 6) not null,
    run_id uuid not null,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, level, breakdown_set, date, entity_id, breakdown_key)
);

create table core_warehouse.fct_ga4_daily (
    connection_id uuid not null,
    report text not null,                 -- property, traffic, landing, device, geo, events
    date date not null,
    dim_key text not null,                -- the dimensions' values, joined by U+001F; '' for property
    dims jsonb not null,
    currency char(3) not null,
    sessions bigint,
    engaged_sessions bigint,
    users bigint,                         -- not additive over days or dimensions
    new_users bigint,
    active_users bigint,
    page_views bigint,
    key_events numeric(18, 6),
    transactions numeric(18, 6),
    purchase_revenue numeric(18, 6),
    total_revenue numeric(18, 6),
    add_to_carts bigint,
    checkouts bigint,
    event_count bigint,
    event_value numeric(18, 6),
    ad_cost numeric(18, 6),
    ad_clicks bigint,
    sampling_rate numeric(9, 6),          -- null: not sampled
    is_other_row boolean not null,        -- GA4 put the rest of the values into '(other)'
    is_thresholded boolean not null,      -- GA4 withheld rows to protect persons
    is_final boolean not null,            -- read when GA4 had stopped correcting the day
    run_id uuid not null,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, report, date, dim_key)
);

create table core_warehouse.fct_klaviyo_message_daily (
    connection_id uuid not null,
    date date not null,
    message_id text not null,
    conversion_metric_id text not null,
    channel text not null,
    currency char(3) not null,
    recipients bigint not null,           -- delivered and bounced
    delivered bigint not null,
    opens bigint not null,
    opens_unique bigint not null,         -- within the day; not additive over days
    clicks bigint not null,
    clicks_unique bigint not null,
    bounced bigint not null,
    unsubscribes bigint not null,
    conversions bigint not null,          -- attributed to the message by Klaviyo
    conversion_value numeric(18, 6) not null,
    run_id uuid not null,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, date, message_id, conversion_metric_id)
);

-- Klaviyo's reporting endpoints count otherwise than its aggregates (they match its own screens), so their numbers
-- have tables of their own and are never mixed with those above.
create table core_warehouse.fct_klaviyo_campaign_total (
    connection_id uuid not null,
    as_of date not null,                  -- totals since the campaign was sent, as the vendor told them on this day
    message_id text not null,
    conversion_metric_id text not null,
    campaign_id text not null,
    channel text,
    currency char(3) not null,
    recipients bigint not null,
    delivered bigint not null,
    bounced bigint not null,
    failed bigint not null,
    opens bigint not null,
    opens_unique bigint not null,
    clicks bigint not null,
    clicks_unique bigint not null,
    unsubscribes bigint not null,
    unsubscribe_uniques bigint not null,
    spam_complaints bigint not null,
    conversions bigint not null,
    conversion_uniques bigint not null,
    conversion_value numeric(18, 6) not null,
    run_id uuid not null,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, as_of, message_id, conversion_metric_id)
);

create table core_warehouse.fct_klaviyo_flow_daily (
    connection_id uuid not null,
    date date not null,
    message_id text not null,
    conversion_metric_id text not null,
    flow_id text not null,
    channel text,
    currency char(3) not null,
    recipients bigint not null,
    delivered bigint not null,
    bounced bigint not null,
    failed bigint not null,
    opens bigint not null,
    opens_unique bigint not null,
    clicks bigint not null,
    clicks_unique bigint not null,
    unsubscribes bigint not null,
    unsubscribe_uniques bigint not null,
    spam_complaints bigint not null,
    conversions bigint not null,
    conversion_uniques bigint not null,
    conversion_value numeric(18, 6) not null,
    run_id uuid not null,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, date, message_id, conversion_metric_id)
);

create table core_warehouse.fct_klaviyo_event_daily (
    connection_id uuid not null,
    date date not null,                   -- of the event, in the account's zone
    metric_id text not null,
    metric_name text,
    currency char(3) not null,
    events bigint not null,
    profiles bigint not null,
    value numeric(18, 6) not null,
    run_id uuid not null,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, date, metric_id)
);

-- What the vendor itself says the account did in a day, asked for in another way than the facts, to check them.
create table core_warehouse.fct_account_totals (
    connection_id uuid not null,
    date date not null,
    metric text not null,
    value numeric(18, 6) not null,
    currency char(3),                     -- of money; null for counts
    run_id uuid not null,
    loaded_at timestamptz not null default now(),
    primary key (connection_id, date, metric)
);
