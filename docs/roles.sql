-- Roles with the least rights for the two queues. Not a migration: whoever runs the database decides about roles. Run
-- it as the tables' owner, where both queues are in one database, after the migrations and again after each (it may be
-- repeated), give the roles a password (`alter role ... login password ...`), and use them in the Airflow connections
-- `agency_db` and `calendar_db`.
-- `warehouse` may be a connection of either role: limits and breakers are granted to both.

do $$
declare
    wanted text;
begin
    foreach wanted in array array['penstock_notify', 'penstock_calendar'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            execute format('create role %I nologin noinherit connection limit 40', wanted);
        end if;
        execute format('alter role %I set search_path = public, pg_temp', wanted);
        execute format('alter role %I set timezone = ''UTC''', wanted);
        execute format('alter role %I set statement_timeout = ''15min''', wanted);
        execute format('alter role %I set lock_timeout = ''60s''', wanted);
        execute format('alter role %I set idle_in_transaction_session_timeout = ''2min''', wanted);
        execute format('grant usage on schema public, penstock to %I', wanted);
        execute format(
            'grant select, insert, update on penstock.rate_limits, penstock.circuit_breakers to %I', wanted
        );
        execute format('grant select, insert, delete on penstock.held_alerts to %I', wanted);
    end loop;
end $$;

-- Notifications: no row is made or deleted, and of people nothing but their Slack id is read.
grant select on public.notification_config, public.notification_queue to penstock_notify;
grant select (id, slack_id) on public.profiles to penstock_notify;
grant update (
    state, lane_key, attempts, next_attempt_at, expires_at, error_class, last_error, sending_at, slack_ts, finished_at,
    replays, leased_until, leased_by, lease_epoch
) on public.notification_queue to penstock_notify;
grant select, insert, update on penstock.notification_lanes, penstock.alerts_sent to penstock_notify;
grant select, insert, update, delete on penstock.notification_pauses, penstock.drain_residents to penstock_notify;
grant select on penstock.queue_health_notifications to penstock_notify;

-- The calendar: of the outbox nothing is deleted, of a connection the address of the account is not read.
grant select on public.workspaces, public.tasks, public.milestones, public.gate_runs, public.project_reviews
to penstock_calendar;
grant select, insert, update on public.sync_outbox to penstock_calendar;
grant select, insert, update, delete on public.calendar_event_bindings to penstock_calendar;
grant select (
    id, workspace_id, refresh_token_encrypted, is_valid, status, last_error_code, last_error, invalidated_at,
    last_refreshed_at, consecutive_failures, circuit_open_until
) on public.google_connections to penstock_calendar;
grant update (
    refresh_token_encrypted, is_valid, status, last_error_code, last_error, invalidated_at, last_refreshed_at,
    consecutive_failures
) on public.google_connections to penstock_calendar;
grant select, insert, update on penstock.calendar_keys, penstock.calendar_lanes, penstock.calendar_notices
to penstock_calendar;
grant select on penstock.queue_health_calendar to penstock_calendar;
