"""Retention killed at random: every row is in exactly one of the two tables, and the run's counts agree with them."""

from __future__ import annotations

import multiprocessing
import random
import time

import pytest

from penstock.core.retention import Policy
from penstock.jobs import retention
from penstock.jobs.retention import Order
from penstock.warehouse.session import Warehouse
from tests.db.test_retention import counts, fetch, fill_activity

pytestmark = pytest.mark.db

ROWS, NEW = 12_000, 200
KILLS = 6


def work(dsn: str) -> None:
    with Warehouse(dsn, application_name="retention-worker") as warehouse:
        order = Order("test", "trigger:test", is_dry_run=False)
        retention.enforce(warehouse, order, Policy("activity_log", 90, 365), sleep=lambda _: time.sleep(0.1))


def await_backends(warehouse: Warehouse) -> None:
    """A killed client's last statement may still run: the server ends it, one way or the other."""
    at_work = "select count(*) from pg_stat_activity where application_name = 'retention-worker'"
    while fetch(warehouse, at_work) != [(0,)]:
        time.sleep(0.005)


def test_killed_again_and_again_it_loses_no_row_and_doubles_none(warehouse: Warehouse) -> None:
    fill_activity(warehouse, {100: ROWS, 5: NEW})
    context, rng = multiprocessing.get_context("fork"), random.Random(5)
    seen = [0]
    for kill in range(KILLS + 1):
        worker = context.Process(target=work, args=(warehouse.dsn,))
        worker.start()
        if kill < KILLS:
            while worker.is_alive() and counts(warehouse)[1] == seen[-1]:
                worker.join(0.002)
            worker.join(rng.uniform(0.0, 0.03))
            worker.kill()
        worker.join(60)
        await_backends(warehouse)
        live, archived = counts(warehouse)
        assert live + archived == ROWS + NEW
        both = "select count(*) from activity_log inner join archived_activity_log using (id)"
        assert fetch(warehouse, both) == [(0,)]
        booked = fetch(warehouse, "select coalesce(sum(rows_archived), 0) from penstock.retention_runs")
        assert booked == [(archived,)], "the count is written with the move"
        stamped = "select last_archived_at is not null from retention_policies where entity_type = 'activity_log'"
        assert fetch(warehouse, stamped) == [(archived > 0,)], "and so is the policy's stamp"
        seen.append(archived)
    assert worker.exitcode == 0
    assert counts(warehouse) == (NEW, ROWS)
    assert len({count for count in seen if 0 < count < ROWS}) >= 3, "they died in the middle"
