-- One row per queue, for people and alerts. A concern with a queue owns a view penstock.queue_health_<queue> with
-- exactly these columns; the union takes whatever views of that name its database has.

create schema if not exists reporting;

create type penstock.queue_health_row as (
    queue text,
    depth bigint,                -- items that wait or are being worked
    ready bigint,                -- of them, those that are due
    in_flight bigint,            -- of them, those that somebody works on
    oldest_seconds numeric,      -- age of the oldest item that is due; null: none
    done_last_hour bigint,
    dead bigint,                 -- dead letters
    dead_by_reason jsonb,        -- {"<code>": count}
    expired_leases bigint,       -- items whose worker is gone and that nobody has taken up yet
    detail jsonb                 -- what only this queue has
);

create function penstock.queue_health() returns setof penstock.queue_health_row language plpgsql stable as $$
declare
    found text;
begin
    for found in
        select c.relname
        from pg_class as c
        where c.relnamespace = 'penstock'::regnamespace and c.relkind = 'v' and c.relname like 'queue\_health\_%'
        order by c.relname
    loop
        return query execute format(
            'select queue, depth, ready, in_flight, oldest_seconds, done_last_hour, dead, dead_by_reason, '
            'expired_leases, detail from penstock.%I', found
        );
    end loop;
end $$;

create view reporting.queue_health as
select * from penstock.queue_health();
