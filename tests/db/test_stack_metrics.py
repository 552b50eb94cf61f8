"""The demo's part of the metrics sync: it finds what is wrong, and nothing when all is well."""

from __future__ import annotations

import datetime as dt

import pytest

from penstock.jobs.accounts import register_account
from penstock.warehouse.session import Warehouse
from stack.parts import Ground
from stack.parts.metrics_sync import MetricsSync, sandbox_accounts
from tests.metrics_stage import MetricsStage
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db


@pytest.fixture
def stage(warehouse: Warehouse, sandbox: Sandbox) -> MetricsStage:
    sandbox.state.clock.reset()  # the part asks for the days up to the real today
    stage = MetricsStage(warehouse, sandbox.url, sandbox.state.clock.now)
    for platform in ("META", "GOOGLE_ADS"):
        account = stage.accounts(platform)[0]
        register_account(
            warehouse,
            stage.vault,
            platform=platform,
            shop_id=account["shop_id"],
            account_id=account["account_id"],
            account_name=account["account_name"],
            credentials=account["credentials"],
            time_zone=None,
            currency=None,
            settings={"registered_by": "sandbox"},
        )
    return stage


def test_the_part_compares_every_number_on_a_first_and_a_second_demo(stage: MetricsStage) -> None:
    for demo in (1, 2):
        ground = Ground(stage.warehouse.dsn, stage.sandbox_url, "11" * 32, dt.datetime.now(dt.UTC))
        part = MetricsSync()
        part.prepare(ground)
        assert not part.is_over(ground)
        assert part.result(ground).problems
        assert [outcome.status for outcome in stage.sync()] == ["success", "success"]
        assert part.is_over(ground)
        result = part.result(ground)
        assert list(result.problems) == []
        assert result.data["compared"] > 400
        assert (result.data["created"] > 400) == (demo == 1)
    stage.execute("update performance_metrics set value = value + 1 where metric_type = 'spend'")
    assert any("spend" in problem for problem in part.result(ground).problems)
    stage.execute("update platform_connections set credentials = jsonb_build_object('access_token', 'plain')")
    assert any("plain" in problem for problem in part.result(ground).problems)


def test_an_account_of_which_nobody_says_whether_it_is_active_is_compared_as_it_is_read(stage: MetricsStage) -> None:
    stage.execute("update platform_connections set is_active = case platform when 'META' then null else false end")
    ground = Ground(stage.warehouse.dsn, stage.sandbox_url, "11" * 32, dt.datetime.now(dt.UTC))
    assert [account.platform for account in sandbox_accounts(ground)] == ["META"]
