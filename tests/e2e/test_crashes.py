"""Workers and databases that die in the middle of a run: afterwards the warehouse is what it would have been."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from penstock.warehouse.migrations import migrate
from penstock.warehouse.session import Warehouse
from sandbox import settings
from stack.postgres import EmbeddedPostgres, free_port
from tests.crash_scenes import ASYNC_REPORTS, GA4, KLAVIYO, META, Scene, Stage, raise_curtain
from tests.crash_worker import EXTRACT, FINISH, TRANSFORM, Worker
from tests.pipeline import Pipeline, snapshot
from tests.sandbox_fixture import Sandbox

REPORTS = 2
"""Of ad sets and ads; thirty days of campaigns are read at once."""


@pytest.fixture
def workers() -> Iterator[list[Stage]]:
    """Stages whose workers end with the test, frozen ones included."""
    stages: list[Stage] = []
    yield stages
    for stage in stages:
        for worker in stage.workers:
            worker.kill()


@pytest.fixture
def play(warehouse: Warehouse, sandbox: Sandbox, workers: list[Stage]) -> Callable[[Scene], Stage]:
    def begin(scene: Scene) -> Stage:
        workers.append(raise_curtain(Pipeline(warehouse, sandbox.url), sandbox.state, scene))
        return workers[-1]

    return begin


@pytest.mark.parametrize("scene", [META, GA4, KLAVIYO], ids=lambda scene: scene.source)
def test_a_killed_extract_goes_on_at_the_last_saved_page(play: Callable[[Scene], Stage], scene: Scene) -> None:
    """Two workers of the same lane die; the third ends the run."""
    stage = play(scene)
    rng = random.Random(scene.source)
    lane = stage.claim()
    kills = 2
    for _ in range(kills):
        assert stage.kill_after(lane, rng.randint(8, 8 + stage.expected_calls // 4))
        row = stage.pipeline.fetch("select status from core_warehouse.etl_runs")
        assert row == [("IN_PROGRESS",)]
    saved, finished = stage.saved_pages(), stage.finished_slices()
    assert saved >= 3
    stage.complete(lane)
    stage.assert_as_if_undisturbed()
    kept = dict(stage.finished_slices())
    assert {number: kept[number] for number, _ in finished} == dict(finished), "finished slices are not read again"
    assert stage.calls() <= stage.expected_calls + kills * scene.calls_lost_per_kill


@pytest.mark.parametrize("scene", [META, KLAVIYO], ids=lambda scene: scene.source)
def test_another_worker_takes_a_dead_ones_run_over_after_its_lease(
    play: Callable[[Scene], Stage], scene: Scene
) -> None:
    stage = play(scene)
    assert stage.kill_after(stage.claim(), stage.expected_calls // 2)
    finished = stage.finished_slices()
    assert stage.sweep() == [], "its lease holds"
    stage.expire_lease()
    lanes = stage.sweep()
    assert len(lanes) == 1
    assert stage.sweep() == [], "claimed once"
    stage.complete(lanes[0])
    stage.assert_as_if_undisturbed()
    kept = dict(stage.finished_slices())
    assert {number: kept[number] for number, _ in finished} == dict(finished)


@pytest.mark.parametrize("fact", ["fct_meta_daily", "sync_cursors"])
def test_of_a_killed_transform_nothing_has_happened(play: Callable[[Scene], Stage], fact: str) -> None:
    """The transform is held at one of its tables and killed there."""
    stage = play(META)
    lane = stage.claim()
    assert stage.start(lane, EXTRACT).result().code is None
    before = snapshot(stage.pipeline), stage.pipeline.fetch("select * from penstock.stream_cursors")
    with locked(stage, fact):
        worker = stage.start(lane, TRANSFORM)
        assert worker.wait_until(lambda: is_waiting_for_a_lock(stage, worker))
        assert worker.kill()
    after = snapshot(stage.pipeline), stage.pipeline.fetch("select * from penstock.stream_cursors")
    assert after == before
    assert stage.pipeline.fetch("select status from core_warehouse.etl_runs") == [("IN_PROGRESS",)]
    result = stage.start(lane, TRANSFORM, FINISH).result()
    assert result.code is None, result.message
    stage.assert_as_if_undisturbed()


@contextmanager
def locked(stage: Stage, table: str) -> Iterator[None]:
    """Nobody else writes to the table meanwhile."""
    with psycopg.connect(stage.pipeline.warehouse.dsn) as conn:
        conn.execute(f"lock table core_warehouse.{table} in share mode")
        yield


def is_waiting_for_a_lock(stage: Stage, worker: Worker) -> bool:
    waiting = "select 1 from pg_stat_activity where application_name = %(name)s and wait_event_type = 'Lock'"
    return bool(stage.pipeline.fetch(waiting, name=f"penstock-{worker.pid}"))


def comes_true(is_so: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_so()


def test_a_transform_that_is_retried_while_the_dead_ones_session_lives_completes(
    play: Callable[[Scene], Stage],
) -> None:
    """A server notices late that its client is gone: the retry must not wait for the dead worker's statement."""
    stage = play(META)
    lane = stage.claim()
    assert stage.start(lane, EXTRACT).result().code is None
    with locked(stage, "dim_ad"):
        worker = stage.start(lane, TRANSFORM)
        assert worker.wait_until(lambda: is_waiting_for_a_lock(stage, worker))
        assert worker.kill()
        assert comes_true(lambda: not is_waiting_for_a_lock(stage, worker), seconds=20)
    result = stage.start(lane, TRANSFORM, FINISH).result()
    assert result.code is None, result.message
    stage.assert_as_if_undisturbed()


def test_a_killed_postgres_stops_the_try_and_the_retry_completes(
    sandbox: Sandbox, open_folder: Path, workers: list[Stage]
) -> None:
    server = EmbeddedPostgres(open_folder / "postgres", free_port(), durable=True)
    with ExitStack() as cleanup:
        cleanup.callback(server.stop, immediate=True)
        dsn = server.start().create_database("warehouse")
        migrate(dsn)
        warehouse = cleanup.enter_context(Warehouse(dsn, patience=5))
        stage = raise_curtain(Pipeline(warehouse, sandbox.url), sandbox.state, META)
        workers.append(stage)
        lane = stage.claim()

        first = stage.start(lane, patience=0.5)
        assert first.wait_until(lambda: stage.calls() >= stage.expected_calls // 2)
        server.kill()
        told = first.result()
        assert told.code == "DB_UNAVAILABLE", told
        server.start()
        assert stage.saved_pages() >= 2
        assert stage.pipeline.fetch("select status from core_warehouse.etl_runs") == [("IN_PROGRESS",)]

        before = stage.calls()
        second = stage.start(lane, patience=20)
        assert second.wait_until(lambda: stage.calls() - before >= 6)
        server.kill()
        server.start()
        survived = second.result().code
        assert survived in (None, "DB_UNAVAILABLE")
        if survived is not None:
            stage.expire_lease()
            lanes = stage.sweep()
            assert len(lanes) == 1, "nothing stays in progress after the lease"
            stage.complete(lanes[0])
        stage.assert_as_if_undisturbed()


def test_a_frozen_worker_writes_nothing_after_another_took_its_run_over(play: Callable[[Scene], Stage]) -> None:
    stage = play(META)
    frozen = stage.start(stage.claim())
    assert frozen.wait_until(lambda: stage.calls() >= stage.expected_calls // 2)
    frozen.freeze()
    stage.end_idle_transactions(frozen)
    stage.expire_lease()
    stage.complete(stage.sweep()[0])
    stage.assert_as_if_undisturbed()
    fingerprint = (
        "select 's', slice_no::text, xmin::text, ctid::text from penstock.slices union all "
        "select 'r', id::text, xmin::text, ctid::text from core_warehouse.etl_runs union all "
        "select 'j', remote_id, xmin::text, ctid::text from penstock.remote_jobs order by 1, 2"
    )
    before = stage.pipeline.fetch(fingerprint)
    frozen.thaw()
    assert frozen.result().code in ("LEASE_LOST", "DB_UNAVAILABLE", "DB_WRITE_ERROR")
    stage.assert_as_if_undisturbed()
    assert stage.pipeline.fetch(fingerprint) == before


def test_a_report_outlives_the_worker_that_asked_for_it(play: Callable[[Scene], Stage]) -> None:
    """Killed while the vendor works the reports out: the retry waits for the same ones."""
    stage = play(ASYNC_REPORTS)
    account = stage.pipeline.accounts("META")[0]["account_id"]
    settings.change(stage.sandbox, "meta", account, {"report_polls": 8})
    lane = stage.claim()
    worker = stage.start(lane)
    running = "select remote_id from penstock.remote_jobs where status = 'RUNNING' order by 1"
    assert worker.wait_until(lambda: len(stage.pipeline.fetch(running)) == REPORTS)
    assert worker.kill()
    asked = stage.pipeline.fetch(running)
    assert len(asked) == REPORTS
    stage.complete(lane)
    stage.assert_as_if_undisturbed()
    assert stage.pipeline.fetch("select remote_id from penstock.remote_jobs order by 1") == asked
    assert len(stage.sandbox.remembered("meta_reports")) == REPORTS, "one POST per report"


def test_a_finished_report_is_read_on_where_its_reader_died(play: Callable[[Scene], Stage]) -> None:
    stage = play(ASYNC_REPORTS)
    lane = stage.claim()
    worker = stage.start(lane)
    assert worker.wait_until(lambda: stage.saved_pages() >= 2)
    assert worker.kill()
    stage.complete(lane)
    stage.assert_as_if_undisturbed()
    assert len(stage.sandbox.remembered("meta_reports")) == REPORTS


def test_of_two_extracts_of_one_run_exactly_one_survives(play: Callable[[Scene], Stage]) -> None:
    """Airflow thought that the first had died and started the same task again."""
    stage = play(META)
    lane = stage.claim()
    first = stage.start(lane, EXTRACT)
    assert first.wait_until(lambda: stage.saved_pages() >= 2)
    second = stage.start(lane, EXTRACT)
    assert (first.result().code, second.result().code) == ("LEASE_LOST", None)
    result = stage.start(lane, TRANSFORM, FINISH).result()
    assert result.code is None, result.message
    stage.assert_as_if_undisturbed()
