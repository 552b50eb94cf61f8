"""The demo's part: what it seeds is what retention takes, and what is not done becomes a problem."""

from __future__ import annotations

import datetime as dt

import pytest

from penstock.core.retention import Policy
from penstock.jobs import retention
from penstock.jobs.retention import Order
from penstock.warehouse.session import Warehouse
from stack.parts import Ground
from stack.parts.retention import Retention

pytestmark = pytest.mark.db


def enforce_all(warehouse: Warehouse, dag_run_id: str) -> None:
    order = Order(dag_run_id, "trigger:demo", is_dry_run=False)
    for lane in retention.plan(warehouse, order, None):
        retention.enforce(warehouse, order, Policy(**lane), sleep=lambda _: None)


def test_a_second_demo_on_the_same_database_finds_it_as_the_first_did(warehouse: Warehouse) -> None:
    part = Retention()
    for number in range(2):
        ground = Ground(warehouse.dsn, "", "", since=dt.datetime.now(dt.UTC))
        part.prepare(ground)
        enforce_all(warehouse, f"run {number}")
        result = part.result(ground)
        assert result.problems == []
        assert result.data["activity_log"] == {"kept": 500, "archived": 2000, "purged": 300, "doubled": 0}


def test_nothing_having_happened_is_a_problem(warehouse: Warehouse) -> None:
    part, ground = Retention(), Ground(warehouse.dsn, "", "", since=dt.datetime.now(dt.UTC))
    part.prepare(ground)
    problems = part.result(ground).problems
    assert "staging: no old row was deleted" in problems
    assert any(problem.startswith("activity_log: ") for problem in problems)
