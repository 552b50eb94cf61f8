-- What Penstock keeps beside the old tables: the plan of a run, the accounting of its partitions, the watermark and
-- what is owed to it, and who was seen when.

create schema if not exists reporting;

-- The old key held a stone to one feed for ever; a feed's stones are its own.
alter table raw_diamonds_nivoda add column if not exists feed text;
update raw_diamonds_nivoda as r
set feed = coalesce((select m.feed from run_metadata as m where m.run_id = r.run_id), 'nivoda-natural')
where r.feed is null;
alter table raw_diamonds_nivoda alter column feed set not null;
do $$
declare
    found record;
begin
    for found in
        select i.indexrelid::regclass as index_name, c.conname
        from pg_index as i
        left join pg_constraint as c on c.conindid = i.indexrelid
        where i.indrelid = 'raw_diamonds_nivoda'::regclass and i.indisunique and not i.indisprimary
            and (
                select array_agg(a.attname::text order by a.attname)
                from pg_attribute as a
                where a.attrelid = i.indrelid and a.attnum = any(i.indkey)
            ) = array['supplier_stone_id']
    loop
        if found.conname is null then
            execute format('drop index %s', found.index_name);
        else
            execute format('alter table raw_diamonds_nivoda drop constraint %I', found.conname);
        end if;
    end loop;
end $$;
create unique index if not exists raw_diamonds_nivoda_stone_key on raw_diamonds_nivoda (feed, supplier_stone_id);
create index if not exists raw_diamonds_nivoda_pending_idx on raw_diamonds_nivoda (feed, created_at)
where consolidated = false and consolidation_status = 'pending';

alter table diamonds add column if not exists deleted_at timestamptz;
alter table diamonds add column if not exists row_hash text;
create unique index if not exists diamonds_stone_key on diamonds (feed, supplier_stone_id);
create index if not exists diamonds_active_idx on diamonds (feed) where status = 'active';

-- One row per run of ours: the question that was asked, and how the run was decided.
create table penstock.nivoda_plans (
    run_id uuid primary key references run_metadata (run_id) on delete cascade,
    dag_id text,
    dag_run_id text,
    is_whole boolean not null default true,      -- false: only a price range, which neither deletes nor moves anything
    price_from integer,
    price_to integer,
    key_field text not null,                     -- dollar_value, dollar_per_carat
    is_touching boolean not null default true,   -- ranges share their border dollar: bounds are real numbers
    updated_from timestamptz,
    updated_to timestamptz not null,
    total bigint not null,                       -- stones without a price filter
    covered bigint not null,                     -- stones that the price filter finds
    count_calls integer not null default 0,
    count_rounds integer not null default 0,
    requests integer not null default 0,         -- HTTP requests outside of the partitions
    settings jsonb not null default '{}',
    decision text,                               -- consolidate, consolidate_partial, approved, blocked, nothing
    vanished jsonb,                              -- what the reconciliation found and did
    watermark text,                              -- moved, or why not
    summary jsonb,
    chart_svg text,
    error jsonb,
    planned_at timestamptz not null default clock_timestamp()
);
create index nivoda_plans_dag_run_idx on penstock.nivoda_plans (dag_run_id);

create table penstock.nivoda_partitions (
    run_id uuid not null references penstock.nivoda_plans (run_id) on delete cascade,
    partition_id text not null,                  -- partition-1, ... as the old worker named them
    position integer not null,
    price_from integer,                          -- both bounds included; null: no price filter
    price_to integer,
    carats_from numeric(8, 3),
    carats_to numeric(8, 3),
    expected integer not null,                   -- by the plan
    -- PENDING -> RUNNING -> COMPLETED | INCOMPLETE (loss is certain after the last pass) | FAILED -> RUNNING ...
    status text not null default 'PENDING'
    check (status in ('PENDING', 'RUNNING', 'COMPLETED', 'INCOMPLETE', 'FAILED')),
    epoch integer not null default 0,            -- raised by every start; fences whoever was thought dead
    attempts integer not null default 0,
    pass integer not null default 1,
    is_climbing boolean not null default true,   -- still looking for the end of the list
    next_offset integer,                         -- the page to read next; null: the pass has not begun, -1: it is over
    c0 integer,                                  -- stones that the frozen filter found when the partition began
    c1 integer,                                  -- and when its last page was read
    distinct_read integer not null default 0,    -- d
    rows_read bigint not null default 0,         -- over all passes, repeats included
    rows_written bigint not null default 0,      -- new or changed
    unreadable integer not null default 0,       -- items of the last pass that were rejected
    nameless integer not null default 0,         -- those of them that told no id, which the keys cannot hold
    requests integer not null default 0,
    seconds numeric(12, 3) not null default 0,
    error jsonb,
    started_at timestamptz,
    completed_at timestamptz,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (run_id, partition_id)
) with (fillfactor = 50);

-- The stones of each page, 8 bytes each, so that distinct ones can be counted after any number of deaths. Gone when
-- the partition is complete.
create table penstock.nivoda_page_keys (
    run_id uuid not null,
    partition_id text not null,
    page_no bigint generated always as identity,
    key_hashes bigint [] not null,               -- hashtextextended(supplier_stone_id, 0)
    primary key (run_id, partition_id, page_no)
);

create table penstock.feed_watermarks (
    feed text primary key,
    updated_to timestamptz not null,             -- everything the vendor changed before is here
    run_id uuid not null,
    run_type text not null,
    updated_at timestamptz not null default clock_timestamp()
);

-- Ranges of a full run that were not read. While there are any, nothing is deleted and no watermark moves.
create table penstock.ingest_debt (
    run_id uuid not null,
    partition_id text not null,
    feed text not null,
    key_field text not null,
    price_from integer,
    price_to integer,
    updated_from timestamptz,
    updated_to timestamptz not null,
    owed_since timestamptz not null default clock_timestamp(),
    primary key (run_id, partition_id)
);
create index ingest_debt_feed_idx on penstock.ingest_debt (feed);

-- Written for every row that is read, so it is narrow and its updates stay on their page: no index but the key.
create table penstock.stone_sightings (
    feed text not null,
    supplier_stone_id text not null,
    last_seen_run uuid not null,
    last_seen_at timestamptz not null,
    last_dollar integer,
    primary key (feed, supplier_stone_id)
) with (fillfactor = 70);

create table penstock.nivoda_rejected_stones (
    id bigint generated always as identity primary key,
    feed text not null,
    run_id uuid not null,
    supplier_stone_id text,                      -- null when the item has none
    reason_code text not null,                   -- MISSING_KEY, WRONG_TYPE, FORBIDDEN_CHARACTER
    reason text not null,
    payload text,
    payload_hash text not null,
    first_seen_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    seen integer not null default 1,
    unique (feed, payload_hash)
);

-- Numbers as the vendor sends them: '7.200000', '0', 'null', ''. Null when it is none, or none that the column holds.
create function penstock.nivoda_number(p_text text, p_below numeric) returns numeric
language sql immutable parallel safe as $$
    select case
        when p_text ~ '^\s*[+-]?\d{1,12}(\.\d{1,12})?\s*$' and abs(p_text::numeric) < p_below then p_text::numeric
    end
$$;

-- The same for measures, where nought means not measured.
create function penstock.nivoda_measure(p_text text, p_below numeric) returns numeric
language sql immutable parallel safe as $$
    select nullif(penstock.nivoda_number(p_text, p_below), 0)
$$;

-- By exact value: NOT_AVAILABLE holds the word available and is not. An unknown value is not for sale either.
create function penstock.nivoda_availability(p_raw text) returns text
language sql immutable parallel safe as $$
    select case upper(trim(p_raw))
        when 'AVAILABLE' then 'available'
        when 'HOLD' then 'on_hold'
        when 'ON_HOLD' then 'on_hold'
        when 'MEMO' then 'on_hold'
        when 'ON_MEMO' then 'on_hold'
        when 'CONSIGNMENT' then 'on_hold'
        when 'SOLD' then 'sold'
        when 'SOLD_OUT' then 'sold'
        else 'unavailable'
    end
$$;

-- Of a stone that was looked up and is not for sale: whatever the vendor says, it is not available.
create function penstock.nivoda_gone(p_raw text) returns text
language sql immutable parallel safe as $$
    select case penstock.nivoda_availability(p_raw)
        when 'available' then 'unavailable' else penstock.nivoda_availability(p_raw)
    end
$$;

-- The old worker kept its watermark outside of the database and moved it past failed partitions. The newest run whose
-- partitions all succeeded says from where on nothing is sure.
insert into penstock.feed_watermarks (feed, updated_to, run_id, run_type)
select distinct on (m.feed) m.feed, m.watermark_after, m.run_id, m.run_type
from run_metadata as m
where
    m.watermark_after is not null and m.completed_at is not null
    and not exists (
        select from partition_progress as p where p.run_id = m.run_id and (p.failed or not p.completed)
    )
    and (select count(*) from partition_progress as p where p.run_id = m.run_id) >= m.expected_workers
order by m.feed asc, m.watermark_after desc;

-- Claims of consolidators that are no more.
update raw_diamonds_nivoda
set consolidation_status = 'pending', claimed_at = null, claimed_by = null
where consolidation_status = 'processing';
