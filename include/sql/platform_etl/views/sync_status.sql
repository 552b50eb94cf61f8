-- The run queue, newest first, in the old dashboard's columns, with the state of the run's account beside it. An
-- account that never ran has one row without a run. The account's health is judged by its daily runs: dry runs
-- and backfills are listed but do not count. Accounts without a run come first.
create or replace view reporting.sync_status as
with
-- `transform` is one transaction that locks its run, so nobody renews the lease meanwhile: its own lock tells that it
-- is at work.
transforming as materialized (
    select distinct (held.classid::bigint << 32) | held.objid::bigint as lock_key
    from pg_locks as held
    where held.locktype = 'advisory' and held.objsubid = 1
),

accounts as materialized (
    select
        account.*,
        open_run.not_before,
        case when last_run.status <> 'SUCCEEDED' then last_run.error end as last_error,
        last_success.completed_at as last_success_at,
        progress.cursor_at,
        case
            when not coalesce(account.is_active, true) then 'DISABLED'
            when account.state <> 'OK' then account.state
            when open_run.status = 'IN_PROGRESS' and open_run.is_abandoned then 'STUCK'
            when open_run.status = 'IN_PROGRESS' then 'RUNNING'
            when open_run.not_before > now() and open_run.is_limited then 'WAITING_FOR_QUOTA'
            when last_run.status in ('FAILED', 'PARTIAL') then 'FAILING'
            when last_success.completed_at is null then 'NEVER_RUN'
            when
                last_success.completed_at < now() - case
                    when jsonb_typeof(account.settings -> 'stale_after_hours') = 'number'
                        then make_interval(hours => (account.settings ->> 'stale_after_hours')::numeric::integer)
                    else greatest(
                        interval '26 hours', make_interval(mins => 2 * coalesce(account.sync_frequency, 1440))
                    )
                end
                then 'STALE'
            else 'OK'
        end as health
    from public.platform_connections as account
    left join lateral (
        select
            run.status,
            run.not_before,
            run.error is not null as is_limited,
            coalesce(run.leased_until, run.heartbeat_at + interval '10 minutes', run.started_at + interval '30 minutes')
            < now()
            and hashtextextended('penstock transform ' || account.id::text, 0) not in (
                select transforming.lock_key from transforming
            ) as is_abandoned
        from core_warehouse.etl_runs as run
        where
            run.connection_id = account.id
            and run.status in ('QUEUED', 'IN_PROGRESS')
            and run.job_type <> 'BACKFILL'
            and not run.is_dry_run
        order by run.status = 'IN_PROGRESS' desc, run.created_at desc
        limit 1
    ) as open_run on true
    left join lateral (
        select
            run.status,
            run.error
        from core_warehouse.etl_runs as run
        where
            run.connection_id = account.id
            and run.status in ('SUCCEEDED', 'PARTIAL', 'FAILED')
            and run.job_type <> 'BACKFILL'
            and not run.is_dry_run
        order by run.created_at desc
        limit 1
    ) as last_run on true
    left join lateral (
        select run.completed_at
        from core_warehouse.etl_runs as run
        where
            run.connection_id = account.id
            and run.status = 'SUCCEEDED'
            and run.job_type <> 'BACKFILL'
            and not run.is_dry_run
        order by run.created_at desc
        limit 1
    ) as last_success on true
    left join lateral (
        select min(stream_cursor.cursor_at) as cursor_at
        from penstock.stream_cursors as stream_cursor
        where stream_cursor.connection_id = account.id
    ) as progress on true
),

listed as (
    select
        run.id as run_id,
        run.shop_id,
        run.status,
        run.job_type,
        run.platform,
        run.records_synced,
        run.created_at,
        run.started_at,
        run.completed_at,
        run.error,
        run.connection_id,
        run.not_before,
        run.window_start,
        run.window_end,
        run.is_dry_run,
        run.attempts,
        run.api_calls,
        run.records_staged,
        run.records_rejected,
        run.requested_by,
        run.dag_id,
        run.dag_run_id
    from core_warehouse.etl_runs as run

    union all

    select
        null, account.shop_id, null, null, account.platform, null, null, null, null, null, account.id,
        null, null, null, null, null, null, null, null, null, null, null
    from public.platform_connections as account
    where
        not exists (select from core_warehouse.etl_runs as run where run.connection_id = account.id)
        -- the metrics sync's alone: reporting.metrics_sync_status tells of them
        and account.shop_id is not null and account.platform <> 'GOOGLE_ADS'
)

select
    listed.run_id,
    listed.shop_id,
    shop.shop_name,
    listed.status,
    listed.job_type,
    listed.platform,
    listed.records_synced,
    listed.created_at,
    listed.started_at,
    listed.completed_at,
    listed.error,
    listed.connection_id,
    accounts.account_id,
    accounts.account_name,
    coalesce(
        accounts.health,
        -- A run that stands for all accounts of its shop has no account of its own.
        case listed.status
            when 'IN_PROGRESS' then 'RUNNING'
            when 'FAILED' then 'FAILING'
            when 'PARTIAL' then 'FAILING'
            when 'SUCCEEDED' then 'OK'
            else 'NEVER_RUN'
        end
    ) as health,
    accounts.cursor_at as cursor,
    accounts.last_success_at,
    now() - accounts.last_success_at as age,
    accounts.consecutive_failures,
    case
        when listed.status = 'QUEUED' then coalesce(listed.not_before, listed.created_at)
        when accounts.is_active is not false then accounts.next_sync_at
    end as next_attempt_at,
    listed.error ->> 'code' as error_code,
    listed.error ->> 'message' as error_message,
    listed.error ->> 'operator_action' as remedy,
    accounts.last_error_code,
    accounts.last_error ->> 'operator_action' as last_remedy,
    listed.window_start,
    listed.window_end,
    listed.is_dry_run,
    listed.attempts,
    listed.api_calls,
    listed.records_staged,
    listed.records_rejected,
    listed.requested_by,
    listed.dag_id,
    listed.dag_run_id
from listed
left join accounts on listed.connection_id = accounts.id
left join core_warehouse.shops as shop on listed.shop_id = shop.shop_id
order by listed.created_at desc;
