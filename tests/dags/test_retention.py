"""What the DAG run asks for: who starts it decides whether rows go."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.core.retention import DEFAULT_CONFIRM_ABOVE
from penstock.operators.retention import as_text, not_done, order_of

pytestmark = pytest.mark.dags


SUNDAY = dt.datetime(2026, 11, 29, 2, tzinfo=dt.UTC)


def context(run_type: str, late: dt.timedelta = dt.timedelta(minutes=5), cleared: int = 0, **params: Any) -> Any:
    dag_run = SimpleNamespace(
        run_type=run_type,
        triggering_user_name="anna" if run_type == "manual" else None,
        run_after=SUNDAY,
        start_date=SUNDAY + late,
        clear_number=cleared,
    )
    defaults = {"dry_run": True, "entity_types": None, "confirm_above": DEFAULT_CONFIRM_ABOVE}
    return {"dag_run": dag_run, "params": defaults | params, "run_id": "r"}


def test_the_timetables_runs_are_real() -> None:
    order = order_of(context("scheduled"))
    assert (order.is_dry_run, order.requested_by, order.confirm_above) == (False, "schedule", DEFAULT_CONFIRM_ABOVE)


def test_a_run_that_makes_up_for_last_sunday_only_counts_until_somebody_clears_it() -> None:
    monday = dt.timedelta(hours=20)
    assert order_of(context("scheduled", monday)).is_dry_run
    assert not order_of(context("scheduled", monday, cleared=1)).is_dry_run


@pytest.mark.parametrize("run_type", ["manual", "backfill", "asset_triggered"])
def test_every_other_run_is_dry_unless_somebody_says_otherwise(run_type: str) -> None:
    assert order_of(context(run_type)).is_dry_run
    assert not order_of(context(run_type, dry_run=False)).is_dry_run


def test_the_order_says_who_gave_it() -> None:
    assert order_of(context("manual", confirm_above=7)).requested_by == "trigger:anna"


def test_the_form_is_a_dry_run_by_default(dag_bag: Any) -> None:
    dag = dag_bag.dags["retention"]
    assert dag.params["dry_run"] is True
    assert dag.timetable.expression == "0 2 * * 0"


def test_a_planned_policy_without_a_good_end_is_not_done() -> None:
    lanes = [{"entity_type": name} for name in ("activity_log", "staging", "sync_jobs", "sync_outbox")]
    ends = {"activity_log": "SUCCEEDED", "staging": "REFUSED", "sync_jobs": "RUNNING", "user_sessions": "UNKNOWN"}
    rows = [{"entity_type": name, "status": status} for name, status in ends.items()]
    assert not_done(lanes, rows) == ["staging (REFUSED)", "sync_jobs (RUNNING)", "sync_outbox (never begun)"]
    assert not_done([], rows) == []


def test_the_report_is_a_table_of_rows_and_bytes() -> None:
    row = {
        "entity_type": "activity_log",
        "status": "SUCCEEDED",
        "is_dry_run": True,
        "rows_found": 12_345,
        "bytes_found": 2_500_000,
        "rows_archived": 12_000,
        "bytes_archived": 2_000_000,
        "rows_purged": 345,
        "bytes_purged": 500_000,
        "rows_left": 1,
        "batches": 7,
        "longest_batch_ms": 48,
    }
    head, line = as_text([row]).splitlines()
    assert head.split()[:5] == ["entity", "type", "status", "found", "MB"]
    assert line.split() == (
        ["activity_log", "SUCCEEDED", "(dry", "run)", "12,345", "2.5", "12,000", "2.0", "345", "0.5", "1", "7", "48"]
    )
