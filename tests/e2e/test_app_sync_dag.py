"""`app_sync` by Airflow's own runner: every app of the store, in lanes, an alert for what was given up."""

from __future__ import annotations

import json
import threading
import time

import pytest

from sandbox.steam_apps import POISON_APPID, catalogue
from tests.app_store import seed_apps
from tests.e2e.conftest import Deployment

pytestmark = [
    pytest.mark.dags,
    pytest.mark.db,
    pytest.mark.e2e,
    # Here Airflow itself runs, and it and its libraries warn about each other.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(autouse=True)
def _store(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that allows a test's pace, and some apps that nobody has read."""
    deployment.sandbox.state.remembered("steam")["settings"] = {"details_limit": 10_000, "reviews_limit": 10_000}
    connection = {
        "conn_type": "steam",
        "host": deployment.sandbox.base_url("steam"),
        "extra": {"storefront_limit": "200/1", "reviews_limit": "200/1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_STEAM", json.dumps(connection))
    apps = [appid for appid in catalogue(deployment.sandbox.state.seed) if appid <= POISON_APPID]
    seed_apps(deployment.dsn, apps[-40:])


def test_lanes_read_every_app_of_every_source_and_the_given_up_one_is_told(deployment: Deployment) -> None:
    deployment.execute("update public.sync_status set consecutive_errors = 9 where appid = %s", POISON_APPID)
    ended = deployment.run("app_sync", run_conf={"partitions": 2})
    assert ended.state == "success"
    assert ended.tasks["sync_lane.sync_items"] == ["success"] * 4
    assert ended.labels["sync_lane.sync_items"] == [
        "storefront 1/2: 20", "storefront 2/2: 20", "reviews 1/2: 20", "reviews 2/2: 20",
    ]  # fmt: skip
    jobs = deployment.rows(
        "select count(distinct job_type) as sources, sum(items_processed)::integer as processed, "
        "sum(items_failed)::integer as failed, "
        "bool_and(status = 'completed' and github_run_id is not null) as is_closed from public.sync_jobs"
    )
    # Given up by the source that came first, it is not read for the other one.
    assert jobs == [{"sources": 2, "processed": 79, "failed": 1, "is_closed": True}]
    assert deployment.rows("select 1 from public.sync_status where priority_calculated_at is null") == []
    (alert,) = deployment.alerts
    assert "*APPS_GIVEN_UP*" in alert["text"]
    assert f"{POISON_APPID} " in alert["text"]


def test_one_source_dry_touches_nothing_and_nothing_due_is_green(deployment: Deployment) -> None:
    ended = deployment.run("app_sync", run_conf={"source": "reviews", "dry_run": True})
    assert (ended.state, ended.tasks["sync_lane.sync_items"]) == ("success", ["skipped"])
    assert deployment.sandbox.answered("steam") == 0
    assert deployment.rows("select 1 from public.sync_jobs") == []


def test_sigterm_reaches_the_job_which_ends_cleanly(deployment: Deployment) -> None:
    from penstock.operators.app_sync import SyncItemsOperator

    deployment.sandbox.state.latency = 0.05
    lane = {"source": "storefront", "lane": 0, "share": 40, "label": "storefront"}
    operator = SyncItemsOperator(task_id="sync_items", lane=lane)
    operator.on_kill()  # nothing runs yet: nothing happens

    def terminate() -> None:
        while deployment.sandbox.answered("steam") < 5:
            time.sleep(0.005)
        operator.on_kill()

    killer = threading.Thread(target=terminate)
    killer.start()
    counts = operator.execute({"run_id": "manual"})  # type: ignore[typeddict-item]
    killer.join()
    deployment.sandbox.state.latency = 0.0
    assert 5 <= counts["processed"] < 40
    assert counts["released"] == 40 - counts["processed"]
    assert deployment.rows("select status from public.sync_jobs") == [{"status": "completed"}]
