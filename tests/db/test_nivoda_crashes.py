"""Workers of the diamond ingestion that die, are thought dead, or meet each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest

from penstock.core.errors import PenstockError
from penstock.jobs import nivoda_ingestion as jobs
from penstock.jobs.nivoda_ingestion import Ingestion, consolidation
from penstock.warehouse.session import Connection, Warehouse
from tests.airflow_home import PROJECT
from tests.diamonds import Diamonds
from tests.nivoda_bench import credentials, switch
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db

STATEMENTS_OF_A_PARTITION = 30


@pytest.fixture
def diamonds(warehouse: Warehouse, sandbox: Sandbox) -> Diamonds:
    switch(sandbox, natural=400, labgrown=100)
    return Diamonds(warehouse, sandbox)


class Killed(BaseException):
    """As if the process had ended here."""


@dataclass(frozen=True)
class Mortal(Ingestion):
    """Dies before or after its n-th statement."""

    allowed: int = 0
    dies_before: bool = True
    done: list[str] = field(default_factory=list)

    def rows(self, name: str, connection: Connection | None = None, **parameters: Any) -> list[dict[str, Any]]:
        if connection is None:  # the one inside opens it and comes here again
            return super().rows(name, connection, **parameters)
        if self.dies_before and len(self.done) == self.allowed:
            raise Killed
        found = super().rows(name, connection, **parameters)
        self.done.append(name)
        if len(self.done) == self.allowed:
            raise Killed
        return found


def mortal(diamonds: Diamonds, allowed: int, *, dies_before: bool) -> Mortal:
    healthy = diamonds.context
    return Mortal(healthy.warehouse, healthy.open_client, healthy.settings, healthy.now, True, allowed, dies_before, [])


def test_a_death_at_any_statement_loses_and_doubles_nothing(diamonds: Diamonds) -> None:
    planned = diamonds.plan(partitions=2)
    run_id = str(planned.run_id)
    deaths = 0
    for allowed in range(1, STATEMENTS_OF_A_PARTITION):
        for dies_before in (True, False):
            try:
                jobs.ingest_partition(mortal(diamonds, allowed, dies_before=dies_before), run_id, "partition-1")
            except Killed:
                deaths += 1
    diamonds.ingest(planned)
    summary = diamonds.finish(run_id)
    assert deaths > 10
    assert (summary["status"], summary["surely_missed"], summary["passes"]) == ("completed", 0, 1)
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])
    assert diamonds.value("select sum(distinct_read) from penstock.nivoda_partitions") == summary["listed"]
    assert diamonds.value("select count(*) from penstock.nivoda_page_keys") == 0


@pytest.mark.parametrize("stage", [jobs.consolidate, jobs.reconcile_vanished, jobs.move_watermark, jobs.summarise])
def test_a_later_stage_may_die_anywhere_and_be_called_again(
    diamonds: Diamonds, stage: Callable[[Ingestion, str], Any]
) -> None:
    planned = diamonds.plan(partitions=2)
    run_id = str(planned.run_id)
    diamonds.ingest(planned)
    jobs.judge_partitions(diamonds.context, run_id)
    for allowed in range(1, 10):
        try:
            stage(mortal(diamonds, allowed, dies_before=False), run_id)
        except Killed:
            continue
    summary = diamonds.finish(run_id)
    assert summary["status"] == "completed"
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])
    assert diamonds.watermark is not None


MARKUPS = "select markup_ratio::text, count(*) from diamonds where status = 'active' group by 1"


def marked_up(diamonds: Diamonds, monkeypatch: pytest.MonkeyPatch) -> tuple[Diamonds, str]:
    """400 stones at another markup than the configured one, and a run that has nothing else to do."""
    monkeypatch.setattr(consolidation, "BATCH", 60)
    diamonds.run(partitions=1)
    return diamonds.with_settings(markup=Decimal("1.5")), str(diamonds.plan(run_type="full", partitions=1).run_id)


def test_a_new_markup_is_carried_on_after_a_death_between_its_batches(
    diamonds: Diamonds, monkeypatch: pytest.MonkeyPatch
) -> None:
    dearer, run_id = marked_up(diamonds, monkeypatch)
    worker = mortal(dearer, 100, dies_before=True)
    monkeypatch.setattr(Mortal, "rows", dies_at_the_fourth_batch(Mortal.rows))
    with pytest.raises(Killed):
        jobs.consolidate(worker, run_id)
    assert dict(diamonds.fetch(MARKUPS)) == {"1.5000": 180, "1.0000": 220}
    assert jobs.consolidate(dearer.context, run_id)["repriced"] == 220
    assert dict(diamonds.fetch(MARKUPS)) == {"1.5000": 400}
    assert jobs.consolidate(dearer.context, run_id)["repriced"] == 0


def dies_at_the_fourth_batch(rows: Callable[..., Any]) -> Callable[..., Any]:
    def mortal_rows(self: Mortal, name: str, connection: Connection | None = None, **parameters: Any) -> Any:
        if self.done.count("mark_up_batch") == 3:
            raise Killed
        return rows(self, name, connection, **parameters)

    return mortal_rows


def test_two_workers_with_a_new_markup_write_each_stone_once(
    diamonds: Diamonds, monkeypatch: pytest.MonkeyPatch
) -> None:
    dearer, run_id = marked_up(diamonds, monkeypatch)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: jobs.consolidate(dearer.context, run_id), range(2)))
    assert sum(each["repriced"] for each in found) == 400
    assert dict(diamonds.fetch(MARKUPS)) == {"1.5000": 400}


def test_a_killed_process_resumes_at_its_checkpoint(diamonds: Diamonds, fresh_database: str) -> None:
    planned = diamonds.plan(partitions=1)
    run_id = str(planned.run_id)
    given = credentials(diamonds.sandbox)
    job = {
        "dsn": fresh_database,
        "url": given.base_url,
        "username": given.extra["username"],
        "password": given.secret,
        "run_id": run_id,
        "partition_id": "partition-1",
    }
    command = [sys.executable, "-m", "tests.diamond_worker", json.dumps(job)]
    with subprocess.Popen(command, cwd=PROJECT, env={"PYTHONPATH": "plugins:."}) as worker:
        saved = "select coalesce(sum(rows_read), 0) from penstock.nivoda_partitions"
        deadline = time.monotonic() + 30
        while diamonds.value(saved) < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        worker.kill()
    before = diamonds.value(saved)
    assert 100 <= before < 400
    offset = diamonds.value("select next_offset from partition_progress")
    diamonds.ingest(planned)
    summary = diamonds.finish(run_id)
    assert (summary["status"], summary["surely_missed"]) == ("completed", 0)
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])
    assert summary["rows_read"] == before + offset + 50  # what was saved, and the pages from the checkpoint down
    assert diamonds.value("select attempts from penstock.nivoda_partitions") == 2


def test_of_two_workers_on_a_partition_the_older_one_stops(diamonds: Diamonds) -> None:
    planned = diamonds.plan(partitions=1)
    run_id = str(planned.run_id)
    pages = 0

    def overtaken(client: Any) -> Any:
        page = client.page

        def slow(*arguments: Any) -> Any:
            nonlocal pages
            pages += 1
            if pages == 4:
                diamonds.ingest(planned)
            return page(*arguments)

        client.page = slow
        return client

    first = Diamonds(diamonds.warehouse, diamonds.sandbox, wrap=overtaken)
    with pytest.raises(PenstockError, match="taken over"):
        jobs.ingest_partition(first.context, run_id, "partition-1")
    summary = diamonds.finish(run_id)
    assert (summary["status"], summary["surely_missed"]) == ("completed", 0)
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])


def test_a_worker_killed_without_a_word_counts_as_failed_and_cannot_write_any_more(diamonds: Diamonds) -> None:
    planned = diamonds.plan(partitions=2)
    run_id = str(planned.run_id)
    with pytest.raises(Killed):
        jobs.ingest_partition(mortal(diamonds, 3, dies_before=True), run_id, "partition-1")
    gate = jobs.judge_partitions(diamonds.context, run_id)
    assert (gate.failed, gate.decision) == (2, "blocked")
    codes = diamonds.fetch("select error ->> 'code' from penstock.nivoda_partitions")
    assert {row[0] for row in codes} == {"NIVODA_PARTITION_KILLED"}
    assert diamonds.fetch("select failed, completed from partition_progress") == [(True, False)] * 2


def test_a_plan_that_was_stored_is_handed_on_by_the_next_try(diamonds: Diamonds) -> None:
    wish: dict[str, Any] = {"partitions": 2, "dag_id": "nivoda_ingestion", "dag_run_id": "manual"}
    first, second = diamonds.plan(**wish), diamonds.plan(**wish)
    assert first.run_id == second.run_id
    assert first.lanes == second.lanes
    diamonds.ingest(first)
    diamonds.finish(str(first.run_id))
    assert diamonds.plan(**wish).run_id != first.run_id


def test_a_database_that_crashes_in_mid_partition_loses_and_doubles_nothing(diamonds: Diamonds) -> None:
    planned = diamonds.plan(partitions=1)
    pages = 0

    def crashing(client: Any) -> Any:
        page = client.page

        def crash_at_the_fourth(*arguments: Any) -> Any:
            nonlocal pages
            pages += 1
            if pages == 4:
                # The tests' server does not wait for its log at a commit: here it has to, as a real one does.
                with diamonds.warehouse.connection() as connection:
                    connection.execute("checkpoint")
                # A backend that is killed takes the whole server down, which recovers from its log.
                os.kill(diamonds.value("select pg_backend_pid()"), signal.SIGKILL)
            return page(*arguments)

        client.page = crash_at_the_fourth
        return client

    unlucky = replace(diamonds, wrap=crashing, is_last_try=False)
    unlucky.ingest(planned)
    diamonds.ingest(planned)  # where the worker gave up: Airflow's next try
    summary = diamonds.finish(str(planned.run_id))
    assert pages >= 4
    assert (summary["status"], summary["surely_missed"], summary["duplicates"]) == ("completed", 0, 0)
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])
