-- reserve_limits, for a clock that goes back: a server that was ahead is set right, or a standby behind takes over.
--
-- What a limit holds was told by the clock that had run ahead, and the limit was closed until the clock had caught up,
-- for a day if need be. A limit that was written later than now gives that away, and by how much at least. Its stamps
-- are moved back by so much, as if no time had passed since, so that the vendor never sees more calls than it allows.
-- Those that are over even so stay: they may be from before the clock ran ahead. This is written although no place may
-- be taken: one beyond p_max_wait would stay as far off as it is. What closes the key (blocked_until) stays, too.
--
-- The rest is as 0003_reserve_limits.sql has it.

create or replace function penstock.reserve_limits(
    p_key text, p_limit_keys text [], p_counts integer [], p_spacings double precision [],
    p_tolerances double precision [], p_windows double precision [], p_cost integer, p_max_wait double precision
)
returns double precision language plpgsql as $$
declare
    closing record;
    states timestamptz[] := '{}';
    grants timestamptz[];
    free_at timestamptz;
    written_at timestamptz;
    v_now timestamptz;
    v_at timestamptz;
    v_wait double precision;
    i integer;
begin
    loop
        select r.blocked_until into closing
        from penstock.rate_limits as r where r.limit_key = p_key for update;
        exit when found;
        insert into penstock.rate_limits (limit_key, next_free_at) values (p_key, '-infinity')
        on conflict (limit_key) do nothing;
    end loop;

    -- Read after the lock was had: the wait for it is over and does not count twice.
    v_now := clock_timestamp();
    v_at := greatest(v_now, closing.blocked_until);
    for i in 1 .. cardinality(p_limit_keys) loop
        select r.next_free_at, r.grants, r.updated_at into free_at, grants, written_at
        from penstock.rate_limits as r where r.limit_key = p_limit_keys[i];
        if written_at > v_now then
            update penstock.rate_limits as r
            set
                next_free_at = r.next_free_at - (written_at - v_now),
                grants = array(
                    select case when g.at > v_now then g.at - (written_at - v_now) else g.at end as at
                    from unnest(r.grants) as g (at)
                    order by at
                ),
                updated_at = v_now
            where r.limit_key = p_limit_keys[i]
            returning r.next_free_at, r.grants into free_at, grants;
        end if;
        free_at := coalesce(free_at, '-infinity');
        states := states || free_at;
        if p_windows[i] is null then
            v_at := greatest(
                v_at, free_at + make_interval(secs => (p_cost - 1) * p_spacings[i] - p_tolerances[i])
            );
        elsif cardinality(grants) > p_counts[i] - p_cost then
            v_at := greatest(
                v_at,
                grants[cardinality(grants) - (p_counts[i] - p_cost)] + make_interval(secs => p_windows[i])
            );
        end if;
    end loop;

    v_wait := extract(epoch from v_at - v_now);
    if v_wait > p_max_wait then
        return v_wait;
    end if;

    for i in 1 .. cardinality(p_limit_keys) loop
        insert into penstock.rate_limits as r (limit_key, next_free_at, grants)
        values (
            p_limit_keys[i],
            greatest(states[i], v_at) + make_interval(secs => p_cost * p_spacings[i]),
            case when p_windows[i] is null then '{}' else array_fill(v_at, array[p_cost]) end
        )
        on conflict (limit_key) do update set
            next_free_at = excluded.next_free_at,
            grants = case
                when p_windows[i] is null then '{}'
                else (r.grants || excluded.grants)[
                    greatest(1, cardinality(r.grants) + p_cost - p_counts[i] + 1) :
                ]
            end,
            updated_at = v_now;
    end loop;
    return v_wait;
end $$;
