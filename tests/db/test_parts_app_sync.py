"""The demo's part on apps: rows to begin with, and a comparison that notices what is wrong."""

from __future__ import annotations

import datetime as dt

import pytest

from penstock.sources.stream import Limit
from penstock.warehouse.session import Warehouse
from stack.parts import Ground
from stack.parts.app_sync import AppSync
from tests.app_store import Store
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db


@pytest.fixture
def ground(warehouse: Warehouse, sandbox: Sandbox) -> Ground:
    return Ground(warehouse.dsn, sandbox.url, "", dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1))


def test_a_demo_reads_everything_twice_over_and_finds_nothing_wrong(
    ground: Ground, warehouse: Warehouse, sandbox: Sandbox
) -> None:
    part, store = AppSync(), Store(warehouse, sandbox.url, limit=Limit(1000, 1.0))
    part.prepare(ground)
    sandbox.state.remembered("steam")["settings"] = {"details_limit": 100_000, "reviews_limit": 100_000}
    assert not part.is_over(ground)
    for source in ("storefront", "reviews"):
        store.sync(source)
    assert part.is_over(ground)
    result = part.result(ground)
    assert result.problems == []
    assert result.data["apps"] == 300
    assert [job["processed"] for job in result.data["jobs"]] == [300, 300]
    part.prepare(ground)
    assert not part.is_over(ground)


def test_what_is_wrong_is_a_problem(ground: Ground, warehouse: Warehouse) -> None:
    part = AppSync()
    part.prepare(ground)
    problems = part.result(ground).problems
    assert any("of app 440 ended None" in problem for problem in problems)
    assert any("storefront: counted None" in problem for problem in problems)
