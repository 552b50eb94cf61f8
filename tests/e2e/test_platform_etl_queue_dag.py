"""`platform_etl_queue`: rows that others write, and accounts that are due."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Deployment

pytestmark = [
    pytest.mark.dags,
    pytest.mark.db,
    pytest.mark.e2e,
    # Here Airflow itself runs, and it and its libraries warn about each other.
    pytest.mark.filterwarnings("default"),
]


def test_a_bare_insert_by_a_dashboard_is_worked(deployment: Deployment) -> None:
    accounts = deployment.register("META")
    shop_id = accounts[0]["shop_id"]
    (parent,) = deployment.rows(
        "select core_warehouse.insert_etl_run(%s, 'QUEUED', 'INCREMENTAL', 'META')::text as id", shop_id
    )
    ended = deployment.run("platform_etl_queue")
    assert ended.state == "success"
    assert ended.tasks["sync_account.finish"] == ["success"]
    assert ended.labels["sync_account.extract"] == [
        f"meta_ads {accounts[0]['account_name']} ({accounts[0]['account_id']}) incremental"
    ]
    (row,) = deployment.rows(
        "select status, records_synced > 0 as has_rows, completed_at is not null as is_complete "
        "from core_warehouse.etl_runs where id = %s::uuid",
        parent["id"],
    )
    assert row == {"status": "SUCCEEDED", "has_rows": True, "is_complete": True}


def test_accounts_that_are_due_are_enqueued_and_worked_whatever_their_platform(deployment: Deployment) -> None:
    accounts = deployment.register("META", "GA4")
    due = [account for account in accounts if account["shop_id"] == "kiritimati"]
    deployment.execute(
        "update public.platform_connections set next_sync_at = now() - interval '1 minute' where id::text = any(%s)",
        [account["connection_id"] for account in due],
    )
    ended = deployment.run("platform_etl_queue")
    assert ended.state == "success"
    runs = deployment.rows("select connection_id::text, status, requested_by from core_warehouse.etl_runs")
    assert {(run["connection_id"], run["status"]) for run in runs} == {
        (account["connection_id"], "SUCCEEDED") for account in due
    }
    assert deployment.rows("select 1 from public.platform_connections where next_sync_at <= now()") == []


def test_an_unknown_account_s_row_fails_with_what_to_do_and_the_dag_run_goes_on(deployment: Deployment) -> None:
    deployment.register("GA4")
    deployment.rows("select core_warehouse.insert_etl_run('nobody', 'QUEUED', 'INCREMENTAL', 'GA4')")
    ended = deployment.run("platform_etl_queue")
    assert ended.state == "success"
    (run,) = deployment.rows("select status, error from core_warehouse.etl_runs")
    assert run["status"] == "FAILED"
    assert run["error"]["code"] == "CONFIG_NO_ACCOUNT"


def test_an_empty_queue_is_green_and_quiet(deployment: Deployment) -> None:
    ended = deployment.run("platform_etl_queue")
    assert ended.state == "success"
    assert ended.tasks["claim_runs"] == ["success"]
    assert ended.tasks["sync_account.extract"] == ["skipped"]


def test_the_limit_leaves_the_rest_to_the_next_dag_run(deployment: Deployment) -> None:
    accounts = deployment.register("KLAVIYO")
    for account in accounts:
        deployment.execute(
            "insert into core_warehouse.etl_runs (shop_id, status, job_type, platform, connection_id, is_dry_run) "
            "values (%s, 'QUEUED', 'INCREMENTAL', 'KLAVIYO', %s::uuid, true)",
            account["shop_id"],
            account["connection_id"],
        )
    ended = deployment.run("platform_etl_queue", run_conf={"limit": 1})
    assert ended.tasks["sync_account.extract"] == ["success"]
    left = deployment.rows("select 1 from core_warehouse.etl_runs where status = 'QUEUED'")
    assert len(left) == len(accounts) - 1
