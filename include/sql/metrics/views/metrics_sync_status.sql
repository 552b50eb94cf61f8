-- Every connection that metrics are read from, how it is, and its last sync.
create or replace view reporting.metrics_sync_status as
select
    c.id as connection_id,
    penstock.metrics_platform(c.platform) as platform,
    c.account_id,
    c.account_name,
    c.shop_id,
    case
        when c.is_active is false then 'DISABLED'
        when c.state = 'PAUSED' then 'PAUSED'
        when c.metrics_leased_until >= now() then 'RUNNING'
        when c.metrics_error_code is not null then 'FAILING'
        when c.metrics_synced_at is null then 'NEVER_RUN'
        when c.metrics_synced_at < now() - 2 * make_interval(mins => greatest(coalesce(c.sync_frequency, 1440), 60))
            then 'STALE'
        else 'OK'
    end as health,
    c.metrics_error_code as error_code,
    case when c.metrics_error_code is not null then l.error_message end as error_message,
    c.metrics_failures as consecutive_failures,
    c.metrics_synced_at as last_success_at,
    c.metrics_next_sync_at as next_attempt_at,
    l.id as sync_id,
    l.status as last_status,
    l.start_time as last_started_at,
    l.end_time as last_ended_at,
    l.metrics_created,
    l.metrics_updated,
    (l.details ->> 'metrics_removed')::bigint as metrics_removed,
    (l.details ->> 'ads_unknown')::bigint as ads_without_request,
    (l.details ->> 'records_rejected')::bigint as records_rejected
from public.platform_connections as c
left join lateral (
    select m.*
    from public.metric_sync_logs as m
    where m.platform_connection_id = c.id
    order by m.start_time desc
    limit 1
) as l on true
where
    penstock.metrics_platform(c.platform) is not null
    -- a shop's account is the platform ETL's until a request names ads of its platform
    and (c.shop_id is null or c.metrics_synced_at is not null or c.metrics_error_code is not null);
