-- Named queries of the platform ETL: the run queue, slices, cursors.

-- name: active_accounts
-- The active accounts of a platform, one shop's or everybody's, all or the named ones.
select id::text as connection_id, shop_id, account_id, account_name
from public.platform_connections
where
    platform = %(platform)s and is_active is not false and state <> 'PAUSED'
    -- the metrics worker's accounts have no shop: they are not ours to read
    and shop_id is not null and account_id is not null
    and (%(shop_id)s::text is null or shop_id = %(shop_id)s)
    and (%(accounts)s::text [] is null or account_id = any(%(accounts)s) or id::text = any(%(accounts)s))
order by shop_id, account_id;

-- name: enqueue_run
-- One run; nothing when the account has one in flight already.
insert into core_warehouse.etl_runs (
    shop_id, status, job_type, platform, connection_id, window_start, window_end, streams, is_dry_run,
    not_before, requested_by, dag_id, dag_run_id
) values (
    %(shop_id)s, 'QUEUED', %(job_type)s, %(platform)s, %(connection_id)s, %(window_start)s, %(window_end)s,
    %(streams)s, %(is_dry_run)s, now() + %(reserved_for)s, %(requested_by)s, %(dag_id)s, %(dag_run_id)s
)
on conflict do nothing
returning id::text as run_id;

-- name: enqueued_by
-- The runs that this DAG run wrote already and that are still to be worked: its task was tried before. Where all
-- have ended, a person cleared the DAG run and wants it read again.
select id::text as run_id, connection_id::text as connection_id
from core_warehouse.etl_runs
where
    dag_id = %(dag_id)s and dag_run_id = %(dag_run_id)s and platform = %(platform)s and connection_id is not null
    and status in ('QUEUED', 'IN_PROGRESS');

-- name: run_in_flight
select id::text as run_id
from core_warehouse.etl_runs
where
    connection_id = %(connection_id)s and status in ('QUEUED', 'IN_PROGRESS') and job_type <> 'BACKFILL';

-- name: enqueue_due
-- Accounts whose sync_frequency is due. The in-flight key keeps a slow account from piling up.
insert into core_warehouse.etl_runs (
    shop_id, status, job_type, platform, connection_id, not_before, requested_by, dag_id, dag_run_id
)
select
    c.shop_id, 'QUEUED', 'INCREMENTAL', c.platform, c.id, now() + %(reserved_for)s, 'sync_frequency',
    %(dag_id)s, %(dag_run_id)s
from public.platform_connections as c
where
    c.is_active is not false and c.state <> 'PAUSED' and c.shop_id is not null and c.account_id is not null
    and c.next_sync_at <= now() and c.platform = any(%(platforms)s)
    -- a dashboard's wish that waits for the account to be free comes first
    and not exists (
        select 1
        from core_warehouse.etl_runs as parent
        where
            parent.shop_id = c.shop_id and parent.platform = c.platform and parent.connection_id is null
            and parent.status = 'QUEUED' and coalesce(parent.not_before, '-infinity') <= now()
    )
on conflict do nothing
returning id::text as run_id;

-- name: refuse_unsupported
-- Rows of a platform that no source of the registry serves: said, not left waiting for ever.
update core_warehouse.etl_runs
set status = 'FAILED', completed_at = now(), error = %(error)s
where status = 'QUEUED' and not platform = any(%(platforms)s)
returning id::text as run_id;

-- name: lock_parents
-- Rows that a dashboard inserted without an account. Each becomes the parent of one run per account. So does a row
-- that an old worker had taken when its process died: it has no members, and nobody else would ever end it.
select r.id::text as run_id, r.shop_id, r.platform, r.job_type, r.window_start, r.window_end, r.streams, r.is_dry_run
from core_warehouse.etl_runs as r
where
    r.connection_id is null and r.platform = any(%(platforms)s)
    and (
        (r.status = 'QUEUED' and coalesce(r.not_before, '-infinity') <= now())
        or (
            r.status = 'IN_PROGRESS'
            and coalesce(
                r.leased_until, coalesce(r.heartbeat_at, r.started_at, r.created_at) + %(unleased_after)s
            ) < now()
            and not exists (select 1 from penstock.run_members as m where m.parent_run_id = r.id)
        )
    )
order by r.priority, r.created_at
limit 100
for update skip locked;

-- name: read_less_now
-- The accounts with a run in flight that would read less than this wish: to join it would end the wish unread.
select connection_id::text as connection_id
from core_warehouse.etl_runs
where
    connection_id = any(%(connections)s::uuid []) and status in ('QUEUED', 'IN_PROGRESS') and job_type <> 'BACKFILL'
    and not (
        is_dry_run = %(is_dry_run)s
        and (streams is null or streams is not distinct from %(streams)s::text [])
        and (
            (job_type, window_start, window_end)
            is not distinct from (%(job_type)s::text, %(window_start)s::date, %(window_end)s::date)
            or (job_type = 'HISTORICAL' and window_start is null)
        )
    );

-- name: start_parent
update core_warehouse.etl_runs
set status = 'IN_PROGRESS', started_at = now(), heartbeat_at = now(), leased_until = null, leased_by = null
where id = %(run_id)s;

-- name: fail_parent
update core_warehouse.etl_runs
set status = 'FAILED', started_at = now(), completed_at = now(), error = %(error)s
where id = %(run_id)s;

-- name: add_member
insert into penstock.run_members (parent_run_id, run_id) values (%(parent_run_id)s, %(run_id)s)
on conflict do nothing;

-- name: close_parents
-- A parent ends with the worst state of its members, once all have ended.
update core_warehouse.etl_runs as parent
set
    status = ended.status, completed_at = now(), records_synced = ended.records_synced,
    records_staged = ended.records_staged, records_rejected = ended.records_rejected,
    api_calls = ended.api_calls, error = ended.error
from (
    select
        m.parent_run_id,
        case
            when bool_or(r.status = 'FAILED') then 'FAILED'
            when bool_or(r.status = 'PARTIAL') then 'PARTIAL'
            else 'SUCCEEDED'
        end as status,
        sum(r.records_synced) as records_synced,
        sum(r.records_staged) as records_staged,
        sum(r.records_rejected) as records_rejected,
        sum(r.api_calls) as api_calls,
        (
            array_agg(r.error order by r.status = 'FAILED' desc, r.completed_at) filter (
                where r.status in ('FAILED', 'PARTIAL')
            )
        )[1] as error
    from penstock.run_members as m
    inner join core_warehouse.etl_runs as r on m.run_id = r.id
    group by m.parent_run_id
    having bool_and(r.status in ('SUCCEEDED', 'PARTIAL', 'FAILED'))
) as ended
where parent.id = ended.parent_run_id and parent.status = 'IN_PROGRESS' and parent.connection_id is null
returning parent.id::text as run_id;

-- name: fail_exhausted
-- A run that killed its worker again and again stops here.
update core_warehouse.etl_runs
set status = 'FAILED', completed_at = now(), error = %(error)s, leased_until = null
where
    status = 'IN_PROGRESS' and connection_id is not null and attempts >= %(max_attempts)s
    and coalesce(leased_until, heartbeat_at + %(unleased_after)s, started_at + %(unleased_after)s) < now()
returning id::text as run_id, connection_id::text as connection_id, job_type, is_dry_run;

-- name: end_switched_off
-- Nobody reads for an account that is switched off, paused or gone: a run that waited for it would hold up every later
-- one of its shop.
update core_warehouse.etl_runs as r
set status = 'FAILED', completed_at = now(), error = %(error)s, leased_until = null
where
    r.connection_id is not null
    and (
        r.status = 'QUEUED'
        or (
            r.status = 'IN_PROGRESS'
            and coalesce(
                r.leased_until, r.heartbeat_at + %(unleased_after)s, r.started_at + %(unleased_after)s
            ) < now()
        )
    )
    and not exists (
        select 1
        from public.platform_connections as c
        where c.id = r.connection_id and c.is_active is not false and c.state <> 'PAUSED'
    )
returning r.id::text as run_id;

-- name: claim_runs
-- Claims runs that wait, and runs whose worker is gone (an old worker's rows have no lease: they count as gone
-- after `unleased_after`). A DAG run may claim the rows reserved for it before their time, and gets the rows again
-- that it claimed before its task was tried again.
with candidates as (
    select r.id
    from core_warehouse.etl_runs as r
    where
        r.connection_id is not null
        and r.platform = any(%(platforms)s)
        and (r.job_type = 'HISTORICAL') = any(%(histories)s)
        and (%(only_reserved)s is false or r.id = any(%(run_ids)s::uuid []))
        and (
            (
                r.status = 'QUEUED'
                and (
                    coalesce(r.not_before, '-infinity') <= now()
                    -- reserved for this DAG run; a run that waits for a quota has been tried before
                    or (r.dag_id = %(dag_id)s and r.dag_run_id = %(dag_run_id)s and r.attempts = 0)
                )
            )
            or (
                r.status = 'IN_PROGRESS'
                and coalesce(
                    r.leased_until, r.heartbeat_at + %(unleased_after)s, r.started_at + %(unleased_after)s
                ) < now()
            )
            or (r.status = 'IN_PROGRESS' and r.leased_by = %(holder)s || '/' || r.id)
        )
        and exists (
            select 1
            from public.platform_connections as c
            where c.id = r.connection_id and c.is_active is not false and c.state <> 'PAUSED'
        )
    -- what this DAG run has claimed already comes first
    order by
        (r.status = 'IN_PROGRESS' and r.leased_by is not distinct from %(holder)s || '/' || r.id) desc,
        r.priority asc, r.created_at asc
    limit %(limit)s
    for update skip locked
),

claimed as (
    update core_warehouse.etl_runs as r
    set
        status = 'IN_PROGRESS', started_at = coalesce(r.started_at, now()), heartbeat_at = now(),
        leased_until = now() + %(lease)s, leased_by = %(holder)s || '/' || r.id, lease_epoch = r.lease_epoch + 1,
        not_before = null,
        dag_id = %(dag_id)s, dag_run_id = %(dag_run_id)s
    from candidates as c
    where r.id = c.id
    returning r.*
)

select
    r.id::text as run_id, r.leased_by as holder, r.platform, r.shop_id, r.job_type,
    c.account_id, c.account_name
from claimed as r
inner join public.platform_connections as c on r.connection_id = c.id
order by r.priority, r.created_at;

-- name: histories_under_way
-- Histories that other lanes are reading.
select count(*) as lanes
from core_warehouse.etl_runs
where
    status = 'IN_PROGRESS' and job_type = 'HISTORICAL' and connection_id is not null and leased_until > now()
    and leased_by <> %(holder)s || '/' || id;

-- name: begin_stage
-- A task takes its run: the lane's own lease at once, somebody else's only when it has expired.
update core_warehouse.etl_runs
set
    lease_epoch = lease_epoch + 1, leased_by = %(holder)s, leased_until = now() + %(lease)s,
    heartbeat_at = now(), status = 'IN_PROGRESS', completed_at = null, error = null,
    attempts = attempts + %(counted)s,
    reopened_at = case when status = 'IN_PROGRESS' then reopened_at else now() end
where
    id = %(run_id)s
    and (
        (status = 'IN_PROGRESS' and (leased_by = %(holder)s or leased_until < now()))
        or (status in ('SUCCEEDED', 'PARTIAL', 'FAILED') and leased_by = %(holder)s)
    )
returning
    lease_epoch, shop_id, platform, job_type, connection_id::text as connection_id, window_start, window_end,
    streams, is_dry_run, created_at, started_at, warnings,
    -- as this statement found the row
    (select before.status from core_warehouse.etl_runs as before where before.id = %(run_id)s) = 'SUCCEEDED'
        as had_succeeded;

-- name: run_status
select
    status, error, not_before, records_synced, records_staged, records_rejected, api_calls, leased_by, lease_epoch,
    job_type, is_dry_run, connection_id::text as connection_id
from core_warehouse.etl_runs
where id = %(run_id)s;

-- name: close_orphan
-- The epoch: between the look and this write somebody may have begun a stage.
update core_warehouse.etl_runs
set status = 'FAILED', completed_at = now(), leased_until = null, error = %(error)s
where id = %(run_id)s and status = 'IN_PROGRESS' and lease_epoch = %(epoch)s;

-- name: renew_lease
update core_warehouse.etl_runs
set leased_until = now() + %(lease)s, heartbeat_at = now(), api_calls = api_calls + %(api_calls)s
where id = %(run_id)s and lease_epoch = %(epoch)s and status = 'IN_PROGRESS'
returning 1 as held;

-- name: share_lease
-- Inside a transaction: nobody takes the run over before it commits.
select 1 as held
from core_warehouse.etl_runs
where id = %(run_id)s and lease_epoch = %(epoch)s and status = 'IN_PROGRESS'
for share;

-- name: lock_lease
select 1 as held
from core_warehouse.etl_runs
where id = %(run_id)s and lease_epoch = %(epoch)s and status = 'IN_PROGRESS'
for no key update;

-- name: put_back
-- A quota stops the run: it waits in the queue until the vendor's reset, and that is no failure.
update core_warehouse.etl_runs
set
    status = 'QUEUED', not_before = now() + %(delay)s, leased_until = null, error = %(error)s,
    attempts = greatest(attempts - 1, 1), api_calls = api_calls + %(api_calls)s
where id = %(run_id)s and lease_epoch = %(epoch)s and status = 'IN_PROGRESS'
returning 1 as held;

-- name: waits_too_long
-- Whether the run has saved no page for so long. While it was over it did not wait.
select 1 as is_stalled
from core_warehouse.etl_runs as r
where
    r.id = %(run_id)s
    and now() - %(patience)s > greatest(
        r.started_at,
        r.reopened_at,
        (select max(s.updated_at) from penstock.slices as s where s.run_id = r.id and s.pages > 0)
    );

-- name: end_run
update core_warehouse.etl_runs as r
set
    status = %(status)s, completed_at = now(), leased_until = null, error = %(error)s,
    warnings = %(warnings)s, api_calls = r.api_calls + %(api_calls)s,
    records_synced = s.rows_read, records_staged = s.rows_written, records_rejected = s.rows_rejected
from (
    select
        coalesce(sum(rows_read), 0) as rows_read,
        coalesce(sum(rows_written), 0) as rows_written,
        coalesce(sum(rows_rejected), 0) as rows_rejected
    from penstock.slices
    where run_id = %(run_id)s
) as s
where r.id = %(run_id)s and r.lease_epoch = %(epoch)s and r.status = 'IN_PROGRESS'
returning 1 as held;

-- name: account_succeeded
-- A run of some streams or of chosen days proves that the account works; it is synced, and its days can be final, when
-- everything that was due has been read: as of the run's beginning. A pause, which a person may have begun while the
-- run was on its way, is ended by a person alone.
update public.platform_connections
set
    consecutive_failures = 0, last_error_code = %(code)s, updated_at = now(),
    state = case when state = 'PAUSED' then state else coalesce(%(state)s, 'OK') end,
    last_synced_at = case when %(is_whole)s then greatest(last_synced_at, %(read_at)s) else last_synced_at end,
    next_sync_at = case
        when %(is_whole)s then now() + make_interval(mins => coalesce(sync_frequency, 1440)) else next_sync_at
    end
where id = %(connection_id)s;

-- name: remember_forbidden
-- The streams that the account's key may not read.
update public.platform_connections
set facts = jsonb_set(facts, '{forbidden_streams}', %(streams)s)
where
    id = %(connection_id)s and coalesce(facts -> 'forbidden_streams', '[]') <> %(streams)s::jsonb;

-- name: account_failed
update public.platform_connections
set
    consecutive_failures = consecutive_failures + 1, last_error_code = %(code)s,
    state = case when state = 'PAUSED' then state else coalesce(%(state)s, state) end, updated_at = now(),
    next_sync_at = now() + greatest(%(delay)s, make_interval(mins => coalesce(sync_frequency, 1440)))
where id = %(connection_id)s;

-- name: account_failures
select consecutive_failures from public.platform_connections where id = %(connection_id)s;

-- name: store_profile
update public.platform_connections
set
    account_name = coalesce(nullif(%(name)s, ''), account_name), time_zone = %(time_zone)s,
    currency = %(currency)s, facts = facts || %(facts)s, updated_at = now()
where
    id = %(connection_id)s
    and (account_name, time_zone, currency, facts) is distinct from (
        coalesce(nullif(%(name)s, ''), account_name), %(time_zone)s, %(currency)s::char(3), facts || %(facts)s
    );

-- name: complete_shop
-- A shop that was registered before any vendor had told its zone and currency.
update core_warehouse.shops
set currency = coalesce(currency, %(currency)s), timezone = coalesce(timezone, %(time_zone)s), updated_at = now()
where shop_id = %(shop_id)s and (currency is null or timezone is null);

-- name: stream_cursors
select stream, cursor_at from penstock.stream_cursors where connection_id = %(connection_id)s;

-- name: old_cursor
-- What the old worker left: one cursor per shop and platform, a day or a time stamp. Once a run of ours has read
-- everything that was due the row is only a mirror, and says nothing of an account that came later. Other runs do not
-- count: dry runs, backfills, those of chosen days or streams. They write no mirror.
select c.cursor_value
from core_warehouse.sync_cursors as c
where
    c.shop_id = %(shop_id)s and c.platform = %(platform)s
    and not exists (
        select 1
        from core_warehouse.etl_runs as r
        where
            r.shop_id = c.shop_id and r.platform = c.platform and r.connection_id is not null
            and r.status = 'SUCCEEDED' and r.job_type <> 'BACKFILL' and not r.is_dry_run
            and r.window_start is null and r.streams is null
    );

-- name: move_cursor
insert into penstock.stream_cursors as c (connection_id, stream, cursor_at, run_id)
values (%(connection_id)s, %(stream)s, %(cursor_at)s, %(run_id)s)
on conflict (connection_id, stream) do update
set cursor_at = excluded.cursor_at, run_id = excluded.run_id, updated_at = now()
where c.cursor_at < excluded.cursor_at;

-- name: mirror_cursor
-- The old worker's cursor, kept up for readers of the old table and for its return: the last complete day of a run
-- that read everything.
insert into core_warehouse.sync_cursors as c (shop_id, platform, cursor_value, last_success_at, updated_at)
values (%(shop_id)s, %(platform)s, %(cursor_value)s, now(), now())
on conflict (shop_id, platform) do update
set
    cursor_value = greatest(c.cursor_value, excluded.cursor_value), last_success_at = now(), updated_at = now();

-- name: add_slice
insert into penstock.slices (
    run_id, slice_no, parent_slice_no, stream, params, window_start, window_end, page_size
) values (
    %(run_id)s, %(slice_no)s, %(parent_slice_no)s, %(stream)s, %(params)s, %(window_start)s, %(window_end)s,
    %(page_size)s
);

-- name: slices
select
    slice_no, stream, params, window_start, window_end, page_size, status, next_token, pages, requests,
    rows_read, rows_written, rows_rejected, rows_expected, flags, error, updated_at
from penstock.slices
where run_id = %(run_id)s
order by slice_no;

-- name: next_slice_no
select coalesce(max(slice_no), -1) + 1 as slice_no from penstock.slices where run_id = %(run_id)s;

-- name: save_page
-- Where the slice stopped, in the transaction that saves what it read.
update penstock.slices
set
    next_token = %(next_token)s, status = %(status)s, pages = pages + %(pages)s,
    requests = requests + %(pages)s,
    rows_read = rows_read + %(rows_read)s, rows_written = rows_written + %(rows_written)s,
    rows_rejected = rows_rejected + %(rows_rejected)s,
    rows_expected = coalesce(%(rows_expected)s, rows_expected),
    flags = flags || %(flags)s, page_size = %(page_size)s, error = null, updated_at = now()
where run_id = %(run_id)s and slice_no = %(slice_no)s;

-- name: restart_slice
update penstock.slices
set
    next_token = null, pages = 0, rows_read = 0, rows_written = 0, rows_rejected = 0, rows_expected = null,
    page_size = %(page_size)s, updated_at = now()
where run_id = %(run_id)s and slice_no = %(slice_no)s;

-- name: forget_slice_keys
delete from penstock.slice_keys where run_id = %(run_id)s and slice_no = %(slice_no)s;

-- name: end_slice
update penstock.slices
set status = %(status)s, error = %(error)s, updated_at = now()
where run_id = %(run_id)s and slice_no = %(slice_no)s;

-- name: fail_open_slices
update penstock.slices set status = 'FAILED', error = %(error)s, updated_at = now()
where run_id = %(run_id)s and status = 'PENDING';

-- name: reopen_slices
update penstock.slices set status = 'PENDING', error = null, updated_at = now()
where run_id = %(run_id)s and status = 'FAILED';

-- name: begin_anew
-- The run is read a second time, whole: what it says of its days is as of now.
update core_warehouse.etl_runs set started_at = now() where id = %(run_id)s and lease_epoch = %(epoch)s;

-- name: remove_slices
with gone_keys as (delete from penstock.slice_keys where run_id = %(run_id)s),

gone_reports as (delete from penstock.remote_jobs where run_id = %(run_id)s)

delete from penstock.slices where run_id = %(run_id)s;

-- name: remote_job
-- A report that answers this question: this run's own, or one that another run started a moment ago. An old one
-- tells old numbers.
select remote_id
from penstock.remote_jobs
where
    connection_id = %(connection_id)s and request_hash = %(request_hash)s and status <> 'FAILED'
    and submitted_at > now() - case when run_id = %(run_id)s then interval '6 hours' else interval '30 minutes' end
    and (run_id = %(run_id)s or status = 'RUNNING');

-- name: save_remote_job
insert into penstock.remote_jobs as j (connection_id, request_hash, remote_id, run_id, slice_no, status)
values (%(connection_id)s, %(request_hash)s, %(remote_id)s, %(run_id)s, %(slice_no)s, 'RUNNING')
on conflict (connection_id, request_hash) do update
set
    remote_id = excluded.remote_id, run_id = excluded.run_id, slice_no = excluded.slice_no, status = 'RUNNING',
    percent = 0, submitted_at = now(), progressed_at = now(), error = null;

-- name: update_remote_job
update penstock.remote_jobs
set
    status = %(status)s, error = %(error)s,
    progressed_at = case when percent <> %(percent)s then now() else progressed_at end, percent = %(percent)s
where connection_id = %(connection_id)s and request_hash = %(request_hash)s
returning now() - submitted_at as age, now() - progressed_at as stalled_for;

-- name: forget_remote_job
delete from penstock.remote_jobs where connection_id = %(connection_id)s and request_hash = %(request_hash)s;

-- name: watch_client
-- Statements of this transaction end within seconds of their client's death (Postgres 14 and later).
select set_config('client_connection_check_interval', '2s', true)
from pg_settings
where name = 'client_connection_check_interval';

-- name: create_run_windows
create temporary table run_windows (
    stream text not null, first_day date, last_day date, is_complete boolean not null
) on commit drop;

-- name: add_run_window
insert into run_windows (stream, first_day, last_day, is_complete)
values (%(stream)s, %(first_day)s, %(last_day)s, %(is_complete)s);

-- name: keys_are_missing
select 1 as is_missing
from penstock.slices as s
where
    s.run_id = %(run_id)s and s.stream = %(stream)s and s.status = 'DONE' and s.rows_read > 0
    and not exists (select 1 from penstock.slice_keys as k where k.run_id = s.run_id and k.slice_no = s.slice_no)
limit 1;

-- name: create_run_keys
-- What the finished slices of one stream have seen.
create temporary table run_keys on commit drop as
select distinct key_hash
from penstock.slice_keys as k
inner join penstock.slices as s on k.run_id = s.run_id and k.slice_no = s.slice_no
cross join lateral unnest(k.key_hashes) as key_hash
where k.run_id = %(run_id)s and s.stream = %(stream)s and s.status = 'DONE';

-- name: learn_page_sizes
update public.platform_connections
set
    facts = jsonb_set(
        facts, '{page_sizes}', coalesce(facts -> 'page_sizes', '{}') || %(page_sizes)s::jsonb, true
    )
where
    id = %(connection_id)s
    and facts -> 'page_sizes' is distinct from coalesce(facts -> 'page_sizes', '{}') || %(page_sizes)s::jsonb;

-- name: forget_old_keys
-- Keys serve one transform; those of the account's earlier runs have served.
delete from penstock.slice_keys as k
using core_warehouse.etl_runs as r
where
    k.run_id = r.id and r.connection_id = %(connection_id)s and r.id <> %(run_id)s
    and r.status in ('SUCCEEDED', 'PARTIAL', 'FAILED');

-- name: totals_differ
-- The vendor's own totals against what reporting shows, for the days this run loaded.
-- is_lasting: the vendor corrects the day no more, or an earlier run saw the figure differ as well. Until then the
-- vendor may have corrected the day between the two questions, and a later run is sure to look again.
select
    r.date, r.metric, r.reported, r.vendor_total, r.difference,
    r.date < %(today)s - core_warehouse.restatement_days(r.platform) or exists (
        select 1
        from penstock.quality_results as seen
        inner join core_warehouse.etl_runs as earlier on seen.run_id = earlier.id
        where
            earlier.connection_id = r.connection_id and earlier.id <> %(run_id)s
            and seen.check_code = 'TOTALS_MISMATCH' and seen.scope = r.metric || ' ' || r.date
    ) as is_lasting
from reporting.reconciliation as r
where
    r.connection_id = %(connection_id)s and r.difference <> 0 and not r.is_provisional
    and r.date >= (select min(w.first_day) from run_windows as w)
    and r.date <= (select max(w.last_day) from run_windows as w);

-- name: add_finding
insert into penstock.quality_results (run_id, check_code, scope, severity, observed, expected, detail)
values (%(run_id)s, %(check_code)s, %(scope)s, %(severity)s, %(observed)s, %(expected)s, %(detail)s)
on conflict (run_id, check_code, scope) do update
set
    severity = excluded.severity, observed = excluded.observed, expected = excluded.expected,
    detail = excluded.detail, created_at = now();

-- name: tell_account_findings
-- Findings of `extract`, which a run that failed has not told. What lasts is told again after a month.
with untold as (
    select result.run_id, result.check_code, result.scope
    from penstock.quality_results as result
    inner join core_warehouse.etl_runs as run on result.run_id = run.id
    where
        run.connection_id = %(connection_id)s and result.detail ? 'message' and not result.detail ? 'told_at'
        and not exists (
            select 1
            from penstock.quality_results as told
            inner join core_warehouse.etl_runs as earlier on told.run_id = earlier.id
            where
                earlier.connection_id = run.connection_id
                and (told.check_code, told.scope) = (result.check_code, result.scope)
                and (told.detail ->> 'told_at')::timestamptz > now() - interval '30 days'
        )
)

update penstock.quality_results as result
set detail = result.detail || jsonb_build_object('told_at', now())
from untold
where (result.run_id, result.check_code, result.scope) = (untold.run_id, untold.check_code, untold.scope)
returning result.detail ->> 'message', result.check_code;

-- name: account
select
    id::text as connection_id, shop_id, platform, account_id, account_name, time_zone, currency, settings, facts,
    credentials, is_active, state
from public.platform_connections
where id = %(connection_id)s;

-- name: register_account
insert into public.platform_connections as c (
    id, platform, shop_id, account_id, account_name, credentials, time_zone, currency, settings, next_sync_at
) values (
    %(connection_id)s, %(platform)s, %(shop_id)s, %(account_id)s, %(account_name)s, %(credentials)s, %(time_zone)s,
    %(currency)s, %(settings)s, now() + %(first_sync_in)s
)
on conflict (platform, account_id) do update
set
    shop_id = coalesce(c.shop_id, excluded.shop_id),
    account_name = coalesce(c.account_name, excluded.account_name),
    credentials = coalesce(excluded.credentials, c.credentials),
    settings = c.settings || excluded.settings,
    time_zone = coalesce(c.time_zone, excluded.time_zone), currency = coalesce(c.currency, excluded.currency),
    state = case when excluded.credentials is null or c.state = 'PAUSED' then c.state else 'OK' end,
    updated_at = now();

-- name: account_row_id
select id::text as connection_id from public.platform_connections
where platform = %(platform)s and account_id = %(account_id)s;

-- name: register_shop
insert into core_warehouse.shops as s (shop_id, shop_domain, shop_name, currency, timezone)
values (%(shop_id)s, %(shop_domain)s, %(shop_name)s, %(currency)s, %(time_zone)s)
on conflict (shop_id) do nothing;

-- name: store_credentials
update public.platform_connections set credentials = %(credentials)s, updated_at = now()
where id = %(connection_id)s;
