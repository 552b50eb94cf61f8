"""Retention on a real Postgres: what goes, what stays, and that nothing is ever in neither table or counted twice."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from penstock.core import retention as retention_rules
from penstock.core.errors import PenstockError
from penstock.core.retention import Policy
from penstock.jobs import retention
from penstock.jobs.retention import Order, walk
from penstock.warehouse.session import Warehouse

pytestmark = pytest.mark.db

ACTIVITY = Policy("activity_log", 90, 365)
QUEUE = Policy("notification_queue", 30, 90)
Connect = Callable[[], psycopg.Connection[tuple[Any, ...]]]


def no_sleep(_: float) -> None:
    pass


def enforce(warehouse: Warehouse, policy: Policy, **changes: Any) -> dict[str, Any]:
    order = {"dag_run_id": "test", "requested_by": "trigger:test", "is_dry_run": False, **changes}
    return retention.enforce(warehouse, Order(**order), policy, sleep=no_sleep)


def fetch(warehouse: Warehouse, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with warehouse.connection() as connection:
        cursor = connection.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []


def fill_activity(warehouse: Warehouse, ages: dict[int, int], table: str = "activity_log") -> None:
    """So many rows of each age in days."""
    for days, rows in ages.items():
        fetch(
            warehouse,
            f"insert into {table} (id, entity_type, entity_id, action, details, created_at) "
            "select gen_random_uuid(), 'request', gen_random_uuid(), 'edited', jsonb_build_object('n', n), "
            "now() - make_interval(days => %s, secs => n) from generate_series(1, %s) as n",
            days,
            rows,
        )


def counts(warehouse: Warehouse) -> tuple[int, int]:
    """Rows of the live table and of the archive."""
    return fetch(warehouse, "select (select count(*) from activity_log), (select count(*) from archived_activity_log)")[
        0
    ]


def test_old_rows_move_to_the_archive_whole_and_new_ones_stay(warehouse: Warehouse) -> None:
    fill_activity(warehouse, {100: 1200, 10: 300})
    before = fetch(warehouse, "select id, details, created_at from activity_log order by 1")
    result = enforce(warehouse, ACTIVITY)
    assert counts(warehouse) == (300, 1200)
    assert before == fetch(
        warehouse,
        "select id, details, created_at from activity_log union all "
        "select id, details, created_at from archived_activity_log order by 1",
    )
    assert (result["status"], result["rows_found"], result["rows_archived"], result["rows_left"]) == (
        "SUCCEEDED",
        1200,
        1200,
        0,
    )
    assert result["bytes_archived"] == result["bytes_found"] > 1200 * 80
    assert result["batches"] >= 2, "the first batch takes 500"


def test_the_archive_is_purged_by_the_time_of_the_event_not_of_the_archiving(warehouse: Warehouse) -> None:
    fill_activity(warehouse, {400: 40, 100: 20})
    fill_activity(warehouse, {400: 7, 300: 5}, table="archived_activity_log")
    result = enforce(warehouse, ACTIVITY)
    assert (result["rows_archived"], result["rows_purged"]) == (60, 47)
    assert counts(warehouse) == (0, 25)


def test_the_stamps_say_what_was_done(warehouse: Warehouse) -> None:
    enforce(warehouse, QUEUE)
    enforce(warehouse, ACTIVITY)
    stamps = fetch(
        warehouse,
        "select entity_type, last_archived_at is not null, last_purged_at is not null from retention_policies "
        "where last_archived_at is not null or last_purged_at is not null order by 1",
    )
    assert stamps == [("activity_log", True, True), ("notification_queue", False, True)]


def test_a_run_that_fails_leaves_no_stamp_and_says_why(warehouse: Warehouse) -> None:
    fill_activity(warehouse, {400: 5})
    fetch(warehouse, "alter table archived_activity_log add constraint no_more check (created_at > now())")
    with pytest.raises(psycopg.errors.CheckViolation):
        enforce(warehouse, ACTIVITY)
    assert counts(warehouse) == (5, 0), "what was not archived was not deleted"
    assert fetch(
        warehouse,
        "select last_archived_at, last_purged_at from retention_policies where entity_type = %s",
        "activity_log",
    ) == [(None, None)]
    assert fetch(warehouse, "select status, error ->> 'code', rows_archived from penstock.retention_runs") == [
        ("FAILED", "DB_WRITE_ERROR", 0)
    ]


def test_a_purge_that_fails_is_not_stamped_and_the_archiving_before_it_is(warehouse: Warehouse) -> None:
    """The old worker stamped both, whatever became of them."""
    fill_activity(warehouse, {400: 5})
    fetch(
        warehouse,
        "create function refuse() returns trigger language plpgsql as "
        "$$ begin raise 'no' using errcode = 'check_violation'; end $$",
    )
    fetch(
        warehouse,
        "create trigger refuse before delete on archived_activity_log for each row execute function refuse()",
    )
    with pytest.raises(psycopg.errors.CheckViolation):
        enforce(warehouse, ACTIVITY)
    assert counts(warehouse) == (0, 5)
    stamps = "select last_archived_at is not null, last_purged_at from retention_policies where entity_type = %s"
    assert fetch(warehouse, stamps, "activity_log") == [(True, None)]


def test_somebody_who_edits_a_policy_holds_up_no_batch(warehouse: Warehouse, connect: Connect) -> None:
    """A batch that waited for the policy would hold its rows locked for as long."""
    fill_activity(warehouse, {100: 30})
    with connect() as person, person.transaction():
        person.execute("update retention_policies set updated_at = now() where entity_type = 'activity_log'")
        order = Order("test", "trigger:test", is_dry_run=False)
        run = threading.Thread(target=lambda: retention.enforce(warehouse, order, ACTIVITY, sleep=no_sleep))
        run.start()
        deadline = time.monotonic() + 30
        while counts(warehouse) != (0, 30):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    run.join(30)
    stamp = "select last_archived_at is not null from retention_policies where entity_type = 'activity_log'"
    assert fetch(warehouse, stamp) == [(True,)]


def test_a_dry_run_counts_and_changes_nothing(warehouse: Warehouse) -> None:
    fill_activity(warehouse, {400: 30, 100: 20, 5: 10})
    fill_activity(warehouse, {500: 4}, table="archived_activity_log")
    policies = fetch(warehouse, "select * from retention_policies order by id")
    result = enforce(warehouse, ACTIVITY, is_dry_run=True)
    assert (result["rows_found"], result["rows_archived"], result["rows_purged"]) == (54, 0, 0)
    assert result["bytes_found"] > 0
    assert counts(warehouse) == (60, 4)
    assert fetch(warehouse, "select * from retention_policies order by id") == policies


def test_the_old_function_is_still_there_bounded_and_by_the_names_of_the_columns(warehouse: Warehouse) -> None:
    fill_activity(warehouse, {100: 30, 5: 10})
    fetch(warehouse, "alter table archived_activity_log add column note text, add column region text")
    fetch(warehouse, "alter table activity_log add column region text")
    fetch(warehouse, "update activity_log set region = 'eu'")
    assert fetch(warehouse, "select archive_old_activities(90)") == [(30,)]
    assert fetch(warehouse, "select archive_old_activities(days_to_keep => 90)") == [(0,)]
    assert counts(warehouse) == (10, 30)
    assert fetch(warehouse, "select distinct region, note from archived_activity_log") == [("eu", None)]


@pytest.mark.parametrize("days", [0, -1, None])
def test_the_old_function_refuses_to_archive_what_is_new(warehouse: Warehouse, days: int | None) -> None:
    fill_activity(warehouse, {5: 1})
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        fetch(warehouse, "select archive_old_activities(%s)", days)
    assert counts(warehouse) == (1, 0)


def test_a_column_without_a_place_in_the_archive_stops_both_ways(warehouse: Warehouse) -> None:
    fill_activity(warehouse, {100: 3})
    fetch(warehouse, "alter table activity_log add column region text default 'eu'")
    with pytest.raises(PenstockError, match=r"RETENTION_ARCHIVE_MISMATCH.*lacks region"):
        enforce(warehouse, ACTIVITY)
    with pytest.raises(psycopg.errors.UndefinedColumn, match="region"):
        fetch(warehouse, "select archive_old_activities(90)")
    assert counts(warehouse) == (3, 0)


def test_the_archives_columns_may_stand_in_any_order(warehouse: Warehouse) -> None:
    fetch(
        warehouse,
        "drop table public.archived_activity_log; create table public.archived_activity_log ("
        "archived_at timestamptz default now(), created_at timestamptz, details jsonb, "
        "action text, entity_id uuid, user_id uuid, entity_type text, id uuid)",
    )
    fill_activity(warehouse, {100: 3})
    assert enforce(warehouse, ACTIVITY)["rows_archived"] == 3
    assert fetch(warehouse, "select distinct action, entity_type from archived_activity_log") == [("edited", "request")]


def test_a_row_that_the_old_worker_had_copied_before_it_died_is_kept_once(warehouse: Warehouse) -> None:
    fill_activity(warehouse, {100: 3})
    fetch(warehouse, "insert into archived_activity_log select *, now() from activity_log limit 2")
    enforce(warehouse, ACTIVITY)
    assert counts(warehouse) == (0, 3)


def test_copies_of_the_old_worker_in_the_midst_of_many_rows_are_kept_once(warehouse: Warehouse) -> None:
    """The batches before and after that with copies go the quick way, and none of the rows is counted twice."""
    fill_activity(warehouse, {100: 3000})
    copied = (
        "insert into archived_activity_log select *, now() from activity_log order by created_at offset 1400 limit 90"
    )
    fetch(warehouse, copied)
    result = enforce(warehouse, ACTIVITY)
    assert counts(warehouse) == (0, 3000)
    assert (result["rows_archived"], result["rows_left"]) == (3000, 0)
    assert fetch(warehouse, "select count(distinct id) from archived_activity_log") == [(3000,)]


def test_batches_are_fitted_to_the_time_that_the_server_took(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to the time that passed here: where the way to the server is most of it, no batch was ever small enough."""
    fill_activity(warehouse, {100: 2000})
    monkeypatch.setattr(walk, "_SECONDS_AT_WORK", f"select {retention_rules.AIM_SECONDS}::float8")
    assert enforce(warehouse, ACTIVITY)["batches"] == 2000 / retention_rules.FIRST_BATCH


def test_a_time_before_all_others_is_old(warehouse: Warehouse) -> None:
    """Python has no instant for it."""
    fill_activity(warehouse, {100: 3})
    fetch(
        warehouse,
        "update activity_log set created_at = '-infinity' where ctid in (select ctid from activity_log limit 1)",
    )
    assert enforce(warehouse, Policy("activity_log", 90, 36_500))["rows_archived"] == 3
    assert counts(warehouse) == (0, 2), "nothing is kept for ever, so that the one is purged at once"


def test_a_legal_hold_keeps_rows_in_either_table(warehouse: Warehouse) -> None:
    for table in ("activity_log", "archived_activity_log"):
        fetch(warehouse, f"alter table {table} add column legal_hold boolean")
        fill_activity(warehouse, {400: 3}, table=table)
        fetch(warehouse, f"update {table} set legal_hold = true where ctid in (select ctid from {table} limit 1)")
    enforce(warehouse, ACTIVITY)
    assert counts(warehouse) == (1, 1)
    fetch(warehouse, "select archive_old_activities(90)")
    assert counts(warehouse) == (1, 1)


def queue_notification(warehouse: Warehouse, days: int, **columns: Any) -> None:
    names = ["created_at", *columns]
    values = ", ".join(["now() - make_interval(days => %s)", *["%s"] * len(columns)])
    fetch(
        warehouse,
        f"insert into notification_queue (entity_id, entity_type, {', '.join(names)}) "
        f"values (gen_random_uuid(), 'request', {values})",
        days,
        *columns.values(),
    )


def test_dead_notifications_do_not_stay_for_ever(warehouse: Warehouse) -> None:
    old = dt.datetime.now(dt.UTC) - dt.timedelta(days=31)
    queue_notification(warehouse, 40, state="dead", error_class="SLACK_CHANNEL_ERROR", finished_at=old)
    queue_notification(warehouse, 40, state="cancelled", finished_at=old)
    queue_notification(warehouse, 40, is_processed=True, processed_at=old)
    queue_notification(warehouse, 200, attempts=5, max_attempts=5)  # given up by the old worker, marked by nobody
    queue_notification(warehouse, 200)  # still to be sent
    queue_notification(warehouse, 40, is_processed=True, processed_at=dt.datetime.now(dt.UTC))
    queue_notification(warehouse, 3, state="dead", finished_at=dt.datetime.now(dt.UTC))
    assert enforce(warehouse, QUEUE)["rows_purged"] == 4
    left = fetch(warehouse, "select state, attempts from notification_queue order by created_at")
    assert left == [("queued", 0), ("sent", 0), ("dead", 0)]


@pytest.mark.parametrize("days", [(0, 30), (-5, 30), (30, 29)])
def test_a_policy_that_makes_no_sense_is_refused_before_any_row_is_touched(
    warehouse: Warehouse, days: tuple[int, int]
) -> None:
    fill_activity(warehouse, {100: 3})
    with pytest.raises(PenstockError, match="RETENTION_POLICY_INVALID"):
        enforce(warehouse, Policy("activity_log", *days))
    assert counts(warehouse) == (3, 0)
    assert fetch(warehouse, "select status, error ->> 'code' from penstock.retention_runs") == [
        ("REFUSED", "RETENTION_POLICY_INVALID")
    ]


def test_more_rows_than_anybody_confirmed_are_refused(warehouse: Warehouse) -> None:
    fill_activity(warehouse, {100: 11})
    with pytest.raises(PenstockError, match="11 rows would go, 10 are confirmed"):
        enforce(warehouse, ACTIVITY, confirm_above=10)
    assert counts(warehouse) == (11, 0)
    assert enforce(warehouse, ACTIVITY, confirm_above=11)["rows_archived"] == 11


def test_the_plan_reports_unknown_types_and_absent_tables_instead_of_ignoring_them(warehouse: Warehouse) -> None:
    fetch(
        warehouse,
        "insert into retention_policies (entity_type, active_retention_days, archive_retention_days) "
        "values ('user_sessions', 10, 20), ('activity_log; drop table x', 1, 1)",
    )
    fetch(warehouse, "alter table activity_log rename to activity_log_elsewhere")
    order = Order("test", "schedule", is_dry_run=False)
    lanes = [lane["entity_type"] for lane in retention.plan(warehouse, order, None)]
    assert {"notification_queue", "staging", "run_slices", "rejected_records", "metric_sync_logs"} <= set(lanes)
    assert not {"activity_log", "user_sessions"} & set(lanes)
    noted = {row["entity_type"]: row for row in retention.report(warehouse, "test")}
    assert noted["activity_log"]["status"] == "ABSENT"
    for unknown in ("user_sessions", "activity_log; drop table x"):
        assert noted[unknown]["status"] == "UNKNOWN"
        assert [(found["check_code"], found["severity"]) for found in noted[unknown]["findings"]] == [
            ("RETENTION_ENTITY_UNKNOWN", "WARN")
        ]


def test_only_the_named_types_are_planned(warehouse: Warehouse) -> None:
    lanes = retention.plan(warehouse, Order("test", "schedule", is_dry_run=True), ["activity_log"])
    assert lanes == [{"entity_type": "activity_log", "active_days": 90, "archive_days": 365}]


def test_rows_that_others_hold_locked_wait_for_the_next_run(warehouse: Warehouse, connect: Connect) -> None:
    fill_activity(warehouse, {100: 30})
    with connect() as other, other.transaction():
        other.execute("select 1 from activity_log order by created_at limit 4 for update")
        result = enforce(warehouse, ACTIVITY)
        assert (result["rows_archived"], result["rows_left"], result["status"]) == (26, 4, "SUCCEEDED")
        noted = retention.report(warehouse, "test")[0]
        assert noted["findings"][0]["check_code"] == "RETENTION_ROWS_LOCKED"
        stamp = "select last_archived_at is not null from retention_policies where entity_type = 'activity_log'"
        assert fetch(warehouse, stamp) == [(True,)], "rows were archived, though not all"
    assert enforce(warehouse, ACTIVITY)["rows_left"] == 0
    assert counts(warehouse) == (0, 30)


def test_rows_that_are_free_again_at_the_end_go_at_the_end(warehouse: Warehouse, connect: Connect) -> None:
    fill_activity(warehouse, {100: 30})
    with connect() as other:
        other.execute("begin")
        other.execute("select 1 from activity_log order by created_at limit 4 for update")

        def release(seconds: float) -> None:
            if seconds == walk.SECONDS_BETWEEN_PASSES:
                other.execute("rollback")

        order = Order("test", "trigger:test", is_dry_run=False)
        result = retention.enforce(warehouse, order, ACTIVITY, sleep=release)
    assert (result["rows_archived"], result["rows_left"]) == (30, 0)


def test_two_runs_at_once_share_the_work_and_count_each_row_once(warehouse: Warehouse, connect: Connect) -> None:
    fill_activity(warehouse, {100: 6000, 5: 50})
    start = threading.Barrier(2)

    def run(number: int) -> dict[str, Any]:
        start.wait()
        return enforce(warehouse, ACTIVITY, dag_run_id=f"run {number}")

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, range(2)))
    assert sum(result["rows_archived"] for result in results) == 6000
    assert counts(warehouse) == (50, 6000)


def test_a_run_goes_on_with_its_own_row_after_a_crash(warehouse: Warehouse) -> None:
    """The second batch fails with a fault that does not pass, as a crash there would."""
    fill_activity(warehouse, {100: 1500})
    fetch(
        warehouse,
        "create function stop() returns trigger language plpgsql as $$ begin "
        "if (select count(*) from archived_activity_log) >= 500 then raise 'stop'; end if; return new; end $$",
    )
    fetch(
        warehouse,
        "create trigger stop before insert on archived_activity_log for each statement execute function stop()",
    )
    with pytest.raises(psycopg.errors.RaiseException):
        enforce(warehouse, ACTIVITY)
    assert counts(warehouse) == (1000, 500)
    assert fetch(warehouse, "select rows_archived from penstock.retention_runs") == [(500,)]
    fetch(warehouse, "drop trigger stop on archived_activity_log")
    assert enforce(warehouse, ACTIVITY)["rows_archived"] == 1500
    assert counts(warehouse) == (0, 1500)
    assert fetch(warehouse, "select count(*), max(status) from penstock.retention_runs") == [(1, "SUCCEEDED")]
