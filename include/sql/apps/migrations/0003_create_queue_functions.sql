-- Which apps are due, in which order. The rule stands once, in penstock.due_apps and penstock.due_reviews; the
-- worker's claim and the old workers' functions both read it.

-- When the source was last answered for the app, by us or by an old worker on the same database.
create function penstock.last_app_sync(p_status public.sync_status, p_state penstock.app_sync_states, p_source text)
returns timestamptz language sql immutable as $$
    select greatest(
        p_state.last_synced_at,
        case p_source
            when 'steamspy' then p_status.last_steamspy_sync
            when 'storefront' then p_status.last_storefront_sync
            when 'reviews' then p_status.last_reviews_sync
            when 'histogram' then p_status.last_histogram_sync
            when 'scraper' then p_status.last_page_creation_scrape
            when 'pics' then p_status.last_pics_sync
        end
    )
$$;

-- Not given up, not backing off, in nobody's hands.
create function penstock.is_app_free(p_status public.sync_status, p_state penstock.app_sync_states)
returns boolean language sql stable as $$
    select coalesce(p_status.is_syncable, true)
        and coalesce(p_state.not_before <= now(), true)
        and coalesce(p_state.leased_until < now(), true)
$$;

create function penstock.due_apps(p_source text)
returns table (appid integer, priority_score integer, lease_epoch bigint, place bigint) language sql stable as $$
    select
        s.appid,
        coalesce(s.priority_score, 0),
        coalesce(l.lease_epoch, 0),
        row_number() over (
            order by
                (
                    p_source = 'storefront' and a.type::text = 'game' and a.is_released and a.release_date is null
                    and a.is_delisted is not true
                ) is true desc,
                (seen.last_at is null) desc,
                coalesce(s.priority_score, 0) desc,
                s.appid
        )
    from public.sync_status as s
    inner join public.apps as a on a.appid = s.appid
    left join penstock.app_sync_states as l on l.source = p_source and l.appid = s.appid
    left join penstock.app_sources as known on known.source = p_source
    cross join lateral (select penstock.last_app_sync(s, l, p_source) as last_at) as seen
    where penstock.is_app_free(s, l)
        and (p_source <> 'storefront' or s.storefront_accessible is not false)
        and (
            seen.last_at is null
            or seen.last_at < now() - coalesce(
                known.fixed_interval, make_interval(hours => coalesce(s.sync_interval_hours, 24))
            )
        )
$$;

-- Reviews have an interval of their own, and go by how fast an app collects them. An old worker's claim is respected.
create function penstock.due_reviews()
returns table (appid integer, priority_score integer, lease_epoch bigint, place bigint) language sql stable as $$
    select
        s.appid,
        coalesce(s.priority_score, 0),
        coalesce(l.lease_epoch, 0),
        row_number() over (
            order by
                (seen.last_at is null) desc,
                case s.review_velocity_tier
                    when 'high' then 1 when 'medium' then 2 when 'low' then 3 when 'dormant' then 4 else 5
                end,
                s.next_reviews_sync nulls first,
                coalesce(s.priority_score, 0) desc,
                s.appid
        )
    from public.sync_status as s
    left join penstock.app_sync_states as l on l.source = 'reviews' and l.appid = s.appid
    cross join lateral (select penstock.last_app_sync(s, l, 'reviews') as last_at) as seen
    where penstock.is_app_free(s, l)
        and coalesce(s.reviews_claim_expires_at < now(), true)
        and (
            seen.last_at is null
            or coalesce(
                s.next_reviews_sync, seen.last_at + make_interval(hours => coalesce(s.reviews_interval_hours, 24))
            ) <= now()
        )
$$;

-- What the worker takes from.
create function penstock.app_sync_queue(p_source text)
returns table (appid integer, priority_score integer, lease_epoch bigint, place bigint) language sql stable as $$
    select appid, priority_score, lease_epoch, place from penstock.due_apps(p_source) where p_source <> 'reviews'
    union all
    select appid, priority_score, lease_epoch, place from penstock.due_reviews() where p_source = 'reviews'
$$;

-- min(24 h, 2^errors x 15 min); from the fifth error on the app cools down for a day.
create function penstock.app_sync_delay(p_errors integer) returns interval language sql immutable as $$
    select case
        when p_errors >= 5 then interval '24 hours'
        else least(interval '24 hours', interval '15 minutes' * power(2, greatest(p_errors, 0)))
    end
$$;

-- A person says that an app given up is worth another try.
create function penstock.revive_app(p_appid integer) returns boolean language sql as $$
    with states as (
        update penstock.app_sync_states set failures = 0, not_before = null, updated_at = now() where appid = p_appid
    ),
    revived as (
        update public.sync_status
        set is_syncable = true, consecutive_errors = 0, disabled_at = null, disabled_alert_at = null
        where appid = p_appid
        returning appid
    )
    select exists (select 1 from revived)
$$;

-- The functions that the old workers call, under their names.
do $$
declare
    found record;
begin
    for found in
        select p.oid::regprocedure as signature
        from pg_proc as p
        where p.pronamespace = 'public'::regnamespace and p.proname in (
            'get_apps_for_sync', 'get_apps_for_sync_partitioned', 'get_queue_status', 'get_apps_for_reviews_sync',
            'acquire_api_rate_token'
        )
    loop
        execute format('drop function %s', found.signature);
    end loop;
end $$;

create function public.get_apps_for_sync(p_source text, p_limit integer default 100)
returns table (appid integer, priority_score integer) language sql stable as $$
    select appid, priority_score from penstock.due_apps(p_source) order by place limit p_limit
$$;

-- By place in the queue, because app ids are spread unevenly.
create function public.get_apps_for_sync_partitioned(
    p_source text, p_limit integer default 100, p_partition_count integer default 1, p_partition_id integer default 0
)
returns table (appid integer, priority_score integer) language sql stable as $$
    select appid, priority_score from penstock.due_apps(p_source)
    where (place - 1) % greatest(p_partition_count, 1) = p_partition_id
    order by place limit p_limit
$$;

create function public.get_apps_for_reviews_sync(p_limit integer default 100)
returns table (appid integer, priority_score integer) language sql stable as $$
    select appid, priority_score from penstock.due_reviews() order by place limit p_limit
$$;

create function public.get_queue_status()
returns table (overdue bigint, due_in_1_hour bigint, due_in_6_hours bigint, due_in_24_hours bigint)
language sql stable as $$
    select
        count(*) filter (where next_sync_after is null or next_sync_after <= now()),
        count(*) filter (where next_sync_after > now() and next_sync_after <= now() + interval '1 hour'),
        count(*) filter (where next_sync_after > now() and next_sync_after <= now() + interval '6 hours'),
        count(*) filter (where next_sync_after > now() and next_sync_after <= now() + interval '24 hours')
    from public.sync_status
    where coalesce(is_syncable, true)
$$;

-- One token of the source's bucket, or how long to wait for the next one. Buckets are full at the start.
insert into public.api_rate_limit_state (source, available_tokens, max_tokens, refill_rate_per_second) values
('storefront', 3, 3, 0.33), ('reviews', 10, 10, 1), ('histogram', 5, 5, 1), ('ccu', 5, 5, 1), ('steamspy', 1, 1, 1)
on conflict (source) do nothing;

create function public.acquire_api_rate_token(p_source text, p_worker_id text default null)
returns table (granted boolean, wait_ms integer) language plpgsql as $$
declare
    bucket public.api_rate_limit_state;
    v_now timestamptz;
    v_tokens double precision;
begin
    loop
        select * into bucket from public.api_rate_limit_state as b where b.source = p_source for update;
        exit when found;
        -- The guide's example: 10 tokens in 30 seconds.
        insert into public.api_rate_limit_state (source, available_tokens, max_tokens, refill_rate_per_second)
        values (p_source, 10, 10, 10.0 / 30) on conflict (source) do nothing;
    end loop;
    -- Read after the lock was had: the wait for it refills the bucket too.
    v_now := clock_timestamp();
    v_tokens := least(
        bucket.max_tokens,
        bucket.available_tokens
        + greatest(0, extract(epoch from v_now - bucket.last_refill_at)) * bucket.refill_rate_per_second
    );
    granted := v_tokens >= 1;
    wait_ms := case
        when granted then 0 else ceil((1 - v_tokens) / bucket.refill_rate_per_second * 1000)
    end;
    update public.api_rate_limit_state as b set
        available_tokens = v_tokens - case when granted then 1 else 0 end,
        last_refill_at = v_now,
        updated_at = v_now,
        last_worker_id = p_worker_id
    where b.source = p_source;
    return next;
end $$;
