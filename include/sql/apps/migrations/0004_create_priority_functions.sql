-- How important an app is, how often it is read, and the nightly refresh of both.

-- p_was_synced: by any source, ever. p_ccu: most players at once on the latest day, null when nobody counted.
-- p_reviews_per_day: over seven days, null when unknown. p_trend_percent: change of the share of positive reviews in
-- thirty days. p_is_fresh: released within the last thirty days.
create function penstock.app_priority_score(
    p_was_synced boolean, p_ccu integer, p_reviews_per_day numeric, p_trend_percent numeric, p_total_reviews integer,
    p_is_fresh boolean
)
returns integer language sql immutable as $$
    select greatest(
        0,
        case when p_is_fresh then 50 else 0 end,
        case when p_was_synced then 0 else 25 end
        + case when p_ccu > 10000 then 100 when p_ccu > 1000 then 50 when p_ccu > 100 then 25 else 0 end
        + case
            when p_reviews_per_day > 10 then 40 when p_reviews_per_day > 5 then 20 when p_reviews_per_day > 1 then 10
            else 0
        end
        + case when abs(p_trend_percent) > 10 then 25 when abs(p_trend_percent) > 5 then 15 else 0 end
        + case
            when p_total_reviews > 10000 then 20 when p_total_reviews > 1000 then 10 when p_total_reviews > 100 then 5
            else 0
        end
        - case when p_was_synced and p_ccu = 0 and p_reviews_per_day < 0.1 then 50 else 0 end
    )
$$;

create function penstock.app_sync_interval_hours(p_score integer) returns integer language sql immutable as $$
    select case
        when p_score >= 150 then 6 when p_score >= 100 then 12 when p_score >= 50 then 24 when p_score >= 25 then 48
        else 168
    end
$$;

create function penstock.app_refresh_tier(p_score integer) returns text language sql immutable as $$
    select case when p_score >= 100 then 'active' when p_score >= 25 then 'moderate' when p_score > 0 then 'dormant'
        else 'dead' end
$$;

create function penstock.review_velocity_tier(p_reviews_per_day numeric) returns text language sql immutable as $$
    select case
        when p_reviews_per_day is null then 'unknown' when p_reviews_per_day > 10 then 'high'
        when p_reviews_per_day > 1 then 'medium' when p_reviews_per_day >= 0.1 then 'low' else 'dormant'
    end
$$;

-- The next p_batch apps after p_after. Returns how many they were, and the last one's id to go on from; null at the
-- end. Apps are locked in the order of their ids, as by every writer of several of them.
create function penstock.refresh_app_priorities(p_after integer, p_batch integer default 1000)
returns table (refreshed bigint, last_appid integer) language sql as $$
    with batch as materialized (
        select s.appid from public.sync_status as s
        where s.appid > p_after
        order by s.appid
        limit p_batch
        for no key update
    ),
    features as (
        select
            b.appid,
            coalesce(
                s.last_steamspy_sync, s.last_storefront_sync, s.last_reviews_sync, s.last_histogram_sync,
                s.last_pics_sync, state.last_synced_at
            ) is not null as was_synced,
            players.ccu_peak as ccu,
            latest.total_reviews,
            (latest.total_reviews - earlier.total_reviews)::numeric
            / nullif(latest.metric_date - earlier.metric_date, 0) as reviews_per_day,
            (latest.share - former.share) / nullif(former.share, 0) * 100 as trend_percent,
            coalesce(a.release_date between current_date - 30 and current_date, false) as is_fresh
        from batch as b
        inner join public.sync_status as s on s.appid = b.appid
        inner join public.apps as a on a.appid = b.appid
        left join lateral (
            select max(each.last_synced_at) as last_synced_at from penstock.app_sync_states as each
            where each.appid = b.appid
        ) as state on true
        left join lateral (
            select d.ccu_peak from public.daily_metrics as d
            where d.appid = b.appid and d.ccu_peak is not null
            order by d.metric_date desc limit 1
        ) as players on true
        left join lateral (
            select d.metric_date, d.total_reviews, d.positive_reviews::numeric / nullif(d.total_reviews, 0) as share
            from public.daily_metrics as d
            where d.appid = b.appid and d.total_reviews is not null
            order by d.metric_date desc limit 1
        ) as latest on true
        left join lateral (
            -- A week back; where the history is shorter, as far as it goes.
            select d.metric_date, d.total_reviews
            from public.daily_metrics as d
            where d.appid = b.appid and d.total_reviews is not null and d.metric_date < latest.metric_date
            order by d.metric_date > latest.metric_date - 7, abs(d.metric_date - (latest.metric_date - 7)) limit 1
        ) as earlier on true
        left join lateral (
            select d.positive_reviews::numeric / nullif(d.total_reviews, 0) as share
            from public.daily_metrics as d
            where d.appid = b.appid and d.total_reviews is not null and d.metric_date <= latest.metric_date - 30
            order by d.metric_date desc limit 1
        ) as former on true
    ),
    scored as (
        select
            f.appid,
            penstock.app_priority_score(
                f.was_synced, f.ccu, f.reviews_per_day, f.trend_percent, f.total_reviews, f.is_fresh
            ) as score,
            penstock.review_velocity_tier(f.reviews_per_day) as velocity
        from features as f
    ),
    written as (
        update public.sync_status as s set
            priority_score = scored.score,
            priority_calculated_at = now(),
            sync_interval_hours = penstock.app_sync_interval_hours(scored.score),
            refresh_tier = penstock.app_refresh_tier(scored.score)::public.refresh_tier,
            review_velocity_tier = scored.velocity
        from scored
        where s.appid = scored.appid
        returning s.appid
    )
    select count(*), max(appid) from written
$$;
