"""The lease of a run: who may work on it, and what one who lost it can still write."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from penstock.core.errors import PenstockError, error
from penstock.jobs import platform_etl
from penstock.jobs.platform_etl import RunNotComplete
from penstock.jobs.platform_etl.context import SQL, HeldRun, begin_stage, end_run, fail_run
from penstock.warehouse.session import Warehouse
from tests.pipeline import Pipeline

LANE = {"source": "meta_ads", "label": "", "account_id": "1"}


@pytest.fixture
def pipeline(warehouse: Warehouse) -> Pipeline:
    with warehouse.connection() as conn:
        conn.execute(
            "insert into platform_connections (platform, account_id, shop_id, account_name) "
            "values ('META', '1', 'aurora', 'one')"
        )
    return Pipeline(warehouse, "http://127.0.0.1:9")


@pytest.fixture
def lane(pipeline: Pipeline) -> dict[str, Any]:
    return pipeline.claim("meta_ads", pipeline.enqueue("meta_ads"))[0]


def begin(pipeline: Pipeline, lane: dict[str, Any], **changes: Any) -> HeldRun:
    return begin_stage(pipeline.context({**lane, **changes}), is_first=True)


def expire(pipeline: Pipeline) -> None:
    with pipeline.warehouse.connection() as conn:
        conn.execute("update core_warehouse.etl_runs set leased_until = now() - interval '1 second'")


def run_row(pipeline: Pipeline) -> tuple[Any, ...]:
    return pipeline.fetch("select status, leased_by, lease_epoch, completed_at, error from core_warehouse.etl_runs")[0]


def test_every_stage_begins_a_new_epoch(pipeline: Pipeline, lane: dict[str, Any]) -> None:
    epochs = [begin(pipeline, lane).lease.epoch for _ in range(3)]
    assert epochs == [2, 3, 4], "the claim was the first"


def test_the_lane_takes_its_own_run_at_once_and_nobody_else_does(pipeline: Pipeline, lane: dict[str, Any]) -> None:
    begin(pipeline, lane)
    begin(pipeline, lane)
    with pytest.raises(PenstockError, match="LEASE_LOST"):
        begin(pipeline, lane, holder="another")
    assert run_row(pipeline)[1] == lane["holder"]


def test_after_its_lease_anybody_takes_the_run(pipeline: Pipeline, lane: dict[str, Any]) -> None:
    begin(pipeline, lane)
    expire(pipeline)
    begin(pipeline, lane, holder="another")
    with pytest.raises(PenstockError, match="LEASE_LOST"):
        begin(pipeline, lane)


def test_a_run_that_was_put_back_is_nobodys(pipeline: Pipeline, lane: dict[str, Any]) -> None:
    with pipeline.warehouse.connection() as conn:
        conn.execute("update core_warehouse.etl_runs set status = 'QUEUED', leased_until = null")
    with pytest.raises(PenstockError, match="LEASE_LOST"):
        begin(pipeline, lane)


WRITES = ["renew_lease", "share_lease", "lock_lease", "put_back"]


@pytest.mark.parametrize("name", WRITES)
def test_no_statement_of_an_old_epoch_finds_the_run(pipeline: Pipeline, lane: dict[str, Any], name: str) -> None:
    old = begin(pipeline, lane)
    new = begin(pipeline, lane)
    values = {"lease": "5 minutes", "delay": "1 minute", "api_calls": 0, "error": None}
    before = run_row(pipeline)
    with pipeline.warehouse.connection() as conn:
        assert conn.execute(SQL[name], old.key | values).fetchone() is None
        assert run_row(pipeline) == before
        assert conn.execute(SQL[name], new.key | values).fetchone() == (1,)


def end_succeeded(pipeline: Pipeline, lane: dict[str, Any], held: HeldRun) -> None:
    with pipeline.warehouse.transaction() as conn:
        end_run(conn, held, "SUCCEEDED", failure=None, warnings=[], api_calls=0)


def end_failed(pipeline: Pipeline, lane: dict[str, Any], held: HeldRun) -> None:
    fail_run(pipeline.context(lane), held, error("META_AUTH_ERROR", "m"), task="extract")


@pytest.mark.parametrize("end", [end_succeeded, end_failed])
def test_who_lost_the_run_cannot_end_it_nor_mark_the_account(
    pipeline: Pipeline, lane: dict[str, Any], end: Callable[[Pipeline, dict[str, Any], HeldRun], None]
) -> None:
    old = begin(pipeline, lane)
    begin(pipeline, lane)
    with pytest.raises(PenstockError, match="LEASE_LOST"):
        end(pipeline, lane, old)
    assert run_row(pipeline)[0] == "IN_PROGRESS"
    assert pipeline.fetch("select consecutive_failures, state from platform_connections") == [(0, "OK")]


def test_finish_closes_the_run_that_its_own_lane_left_open(pipeline: Pipeline, lane: dict[str, Any]) -> None:
    begin(pipeline, lane)
    with pytest.raises(RunNotComplete, match="ATTEMPTS_EXHAUSTED") as ended:
        platform_etl.finish(pipeline.context(lane))
    assert not ended.value.is_reported
    assert run_row(pipeline)[0] == "FAILED"


def test_finish_leaves_a_run_alone_that_another_took_over(pipeline: Pipeline, lane: dict[str, Any]) -> None:
    begin(pipeline, lane)
    expire(pipeline)
    begin(pipeline, lane, holder="another")
    assert platform_etl.finish(pipeline.context(lane))["status"] == "IN_PROGRESS"
    assert run_row(pipeline)[:2] == ("IN_PROGRESS", "another")


def test_finish_leaves_a_run_alone_that_its_own_lane_has_begun_again(pipeline: Pipeline, lane: dict[str, Any]) -> None:
    """A lane's tasks were started twice: the second extract reopens what the first worker has just ended."""
    first = pipeline.context(lane)
    end_succeeded(pipeline, lane, begin_stage(first, is_first=True))
    second = begin(pipeline, lane)
    assert platform_etl.finish(first)["status"] == "IN_PROGRESS"
    end_succeeded(pipeline, lane, second)
    assert platform_etl.finish(first)["status"] == "SUCCEEDED"
    assert pipeline.fetch("select consecutive_failures from platform_connections") == [(0,)]


def test_finish_and_a_takeover_at_the_same_moment_leave_the_run_to_its_new_holder(
    pipeline: Pipeline, lane: dict[str, Any]
) -> None:
    """The takeover commits between finish's look at the run and its write."""
    begin(pipeline, lane)
    waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with (
        Warehouse(pipeline.warehouse.dsn) as theirs,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        psycopg.connect(pipeline.warehouse.dsn) as taker,
    ):
        taker.execute("update core_warehouse.etl_runs set leased_by = 'another', lease_epoch = lease_epoch + 1")
        finishing = pool.submit(platform_etl.finish, pipeline.context(lane, warehouse=theirs))
        while not pipeline.fetch(waiting):
            assert not finishing.done()
        taker.commit()
        assert finishing.result()["status"] == "IN_PROGRESS"
    assert run_row(pipeline)[:2] == ("IN_PROGRESS", "another")
    assert pipeline.fetch("select consecutive_failures from platform_connections") == [(0,)]


def test_a_run_at_work_inside_its_transaction_is_not_claimed(pipeline: Pipeline, lane: dict[str, Any]) -> None:
    """A long transform cannot renew its lease; the lock that it holds stands for it."""
    held = begin(pipeline, lane)
    with psycopg.connect(pipeline.warehouse.dsn) as working:
        working.execute(SQL["lock_lease"], held.key)
        with pipeline.warehouse.connection() as conn:
            conn.execute("set lock_timeout = '200ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                expire(pipeline)
            conn.execute("set lock_timeout = '60s'")
        working.execute("update core_warehouse.etl_runs set leased_until = now() - interval '1 hour'")
        lanes = platform_etl.claim(
            pipeline.warehouse, source=None, dag_id="queue", dag_run_id="1", limit=5, run_ids=None
        )
        assert lanes == []
