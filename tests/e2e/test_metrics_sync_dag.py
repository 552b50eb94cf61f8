"""`metrics_sync` with Airflow's own runner: due connections, one revoked token, one alert."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.warehouse.session import Warehouse
from tests.e2e.conftest import Deployment
from tests.metrics_stage import MetricsStage

pytestmark = [
    pytest.mark.dags,
    pytest.mark.db,
    pytest.mark.e2e,
    # Here Airflow itself runs, and it and its libraries warn about each other.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture
def stage(deployment: Deployment) -> Iterator[MetricsStage]:
    with Warehouse(deployment.dsn) as warehouse:
        yield MetricsStage(warehouse, deployment.sandbox.url, deployment.sandbox.state.clock.now)


def test_due_connections_fill_the_metrics_and_a_revoked_token_is_told_once(
    deployment: Deployment, stage: MetricsStage
) -> None:
    meta, revoked = stage.accounts("META")[:2]
    google = stage.accounts("GOOGLE_ADS")[1]
    for account in (meta, google):
        stage.connect(account)
    stage.connect({**revoked, "credentials": {"access_token": "EAArevoked-long-ago"}})
    ads, search = stage.ads("META", meta["account_id"])[:2], stage.ads("GOOGLE_ADS", google["account_id"])[:1]
    request = stage.request(meta_ad_id=ads, google_ad_id=search[0])
    ended = deployment.run("metrics_sync")
    assert sorted(ended.tasks["sync_connection.sync"]) == ["failed", "success", "success"]
    assert sorted(label or "" for label in ended.labels["sync_connection.sync"]) == sorted(
        f"{account['platform'].lower()} {account['account_name']} ({account['account_id']})"
        for account in (meta, revoked, google)
    )
    expected = stage.expected("meta", ads, meta["account_id"])
    expected |= stage.expected("google_ads", search, google["account_id"])
    assert stage.metrics(request) == expected
    (alert,) = deployment.alerts
    assert "META_AUTH_ERROR" in alert["text"]
    assert revoked["account_name"] in alert["text"]
    assert "EAArevoked" not in alert["text"]
    quiet = deployment.run("metrics_sync")
    assert quiet.tasks["sync_connection.sync"] == ["skipped"]
    named = deployment.run("metrics_sync", run_conf={"connections": [f"act_{revoked['account_id']}"], "days": 7})
    assert named.tasks["sync_connection.sync"] == ["failed"]
    assert len(deployment.alerts) == 1
