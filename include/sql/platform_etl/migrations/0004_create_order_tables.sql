-- The order tables of the old dashboard worker, as it made them. They stay empty until Shopify is a source; the
-- reporting views that need orders read them, so that their columns fill by themselves.

create table if not exists core_warehouse.orders (
    shop_id text not null,
    shopify_gid text not null,
    order_number integer,
    order_name text,
    total_price numeric(10, 2),
    subtotal_price numeric(10, 2),
    total_tax numeric(10, 2),
    currency text,
    financial_status text,
    fulfillment_status text,
    order_date timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (shop_id, shopify_gid)
);

create table if not exists core_warehouse.order_line_items (
    shop_id text not null,
    shopify_gid text not null,
    order_id text not null,
    product_id text,
    variant_id text,
    title text,
    variant_title text,
    quantity integer,
    price numeric(10, 2),
    total_discount numeric(10, 2),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (shop_id, shopify_gid),
    foreign key (shop_id, order_id) references core_warehouse.orders (shop_id, shopify_gid)
);

create table if not exists core_warehouse.transactions (
    shop_id text not null,
    shopify_gid text not null,
    order_id text not null,
    kind text,                            -- sale, capture, refund, ...
    amount numeric(10, 2),
    currency text,
    status text,
    processed_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (shop_id, shopify_gid),
    foreign key (shop_id, order_id) references core_warehouse.orders (shop_id, shopify_gid)
);

create table if not exists core_warehouse.payouts (
    shop_id text not null,
    shopify_gid text not null,
    payout_date date,
    amount numeric(10, 2),
    currency text,
    status text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (shop_id, shopify_gid)
);

-- A day of a shop is cut in the shop's own zone, so its orders are found by a range of instants.
create index if not exists orders_shop_order_date_idx on core_warehouse.orders (shop_id, order_date);

-- reporting.sync_status lists runs newest first.
create index if not exists etl_runs_created_at_idx on core_warehouse.etl_runs (created_at desc);
