-- Access tokens that vendors hand out for a time, one per user, shared by all workers. The lease lets one worker at a
-- time log in while the others wait for what it brings.

create table if not exists penstock.vendor_tokens (
    token_key text primary key,          -- '<source>:<endpoint>:<user>'
    token text,                          -- encrypted, bound to 'vendor_tokens:<token_key>'
    renew_at timestamptz,                -- from here on it is not used any more
    leased_until timestamptz,
    leased_by text,
    lease_epoch bigint not null default 0,
    failure_code text,                   -- how the last login failed, and when
    failure text,
    failed_at timestamptz,
    updated_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);
