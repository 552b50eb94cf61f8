-- Limits and circuit breakers that all workers on all machines share. Schema `penstock` itself is made by the
-- migration runner, which keeps its ledger there.

create table if not exists penstock.rate_limits (
    limit_key text primary key,          -- '<key>' (what closes it), '<key>:<count>/<period>' (each of its limits)
    next_free_at timestamptz not null,   -- GCRA: the theoretical arrival time of the next unit
    grants timestamptz [] not null default '{}',  -- hard windows: the last `count` grant times
    blocked_until timestamptz,           -- the vendor's Retry-After closes the bucket for everybody
    usage_percent numeric(6, 2),         -- what the vendor's headers said last, and when
    usage_at timestamptz,
    reason text,
    updated_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

create table if not exists penstock.circuit_breakers (
    breaker_key text primary key,        -- '<source>:<account>'
    state text not null default 'closed' check (state in ('closed', 'open', 'half_open')),
    failures integer not null default 0,
    threshold integer not null default 5,
    cooldown interval not null default '30 seconds',
    open_until timestamptz,
    probe_owner text,
    probe_until timestamptz,
    last_error text,
    updated_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);
