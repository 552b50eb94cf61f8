"""`calendar_outbox`: rows as an old worker left them, dead letters back by a param, a rebuild, secrets nowhere."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
import requests

from stack.parts.calendar_outbox import ITEMS, CalendarOutbox, Tenant, tenants
from stack.parts.part import Ground
from tests.e2e.conftest import VAULT_KEYS, Deployment

pytestmark = [
    pytest.mark.dags,
    pytest.mark.db,
    pytest.mark.e2e,
    # Here Airflow itself runs, and it and its libraries warn about each other.
    pytest.mark.filterwarnings("default"),
]

DAG = "calendar_outbox"
PLAIN = {"replay": None, "workspace": None, "rebuild": False, "dry_run": False}
"""`dag.test` leaves the params of the run before in the DAG."""


@pytest.fixture
def ground(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """The demo's workspaces, and the OAuth client that they have given access to."""
    url = deployment.sandbox.url
    client = deployment.sandbox.get("calendar/accounts")
    connection = {
        "conn_type": "google_calendar",
        "host": f"{url}/google",
        "login": client["client_id"],
        "password": client["client_secret"],
        "extra": {"token_uri": f"{url}/google/token"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_GOOGLE_CALENDAR", json.dumps(connection))
    return Ground(deployment.dsn, url, VAULT_KEYS, dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1))


def test_the_demo_s_rows_become_events_and_no_token_is_written_anywhere(
    deployment: Deployment, ground: Ground, metrics: dict[str, float], caplog: Any
) -> None:
    part = CalendarOutbox()
    part.prepare(ground)
    ended = deployment.run(DAG)
    assert (ended.state, ended.tasks) == ("success", {"drain": ["success"]})
    assert metrics["penstock.calendar.done"] > 0
    assert metrics["penstock.calendar.depth"] == 0
    assert part.is_over(ground)
    result = part.result(ground)
    assert result.problems == []
    assert result.data["calls_to_google"] < 40
    (told,) = [ti.xcom_pull(task_ids="drain") for ti in ended.instances]
    for tenant in tenants(ground):
        assert tenant.refresh_token not in caplog.text
        assert tenant.refresh_token not in json.dumps(told)
    assert "ya29." not in caplog.text


def test_a_revoked_grant_is_one_alert_and_its_items_can_be_listed_and_come_back(
    deployment: Deployment, ground: Ground, caplog: Any
) -> None:
    CalendarOutbox().prepare(ground)
    first = tenants(ground)[0]
    revoke(ground, first)
    ended = deployment.run(DAG)
    assert ended.state == "success"
    alerts = [alert["text"] for alert in deployment.alerts if "OAUTH_INVALID" in alert["text"]]
    assert len(alerts) == 1
    assert first.workspace_id in alerts[0]
    listed = deployment.run(DAG, run_conf={"replay": "OAUTH_INVALID", "dry_run": True})
    (told,) = [ti.xcom_pull(task_ids="drain") for ti in listed.instances]
    assert told["would_replay"] == ITEMS
    rebuilt = tenants(ground)[-1].workspace_id
    assert deployment.run(DAG, run_conf={**PLAIN, "workspace": rebuilt, "rebuild": True}).state == "success"
    answer = requests.post(f"{ground.sandbox_url}/sandbox/calendar/connect", json={"email": first.email}, timeout=10)
    deployment.execute(
        "update google_connections set refresh_token_encrypted = %s, is_valid = true where id = %s::uuid",
        answer.json()["refresh_token"],
        first.connection_id,
    )
    deployment.run(DAG, run_conf=PLAIN)
    assert CalendarOutbox().result(ground).problems == []


def revoke(ground: Ground, tenant: Tenant) -> None:
    answer = requests.post(f"{ground.sandbox_url}/sandbox/calendar/revoke", json={"email": tenant.email}, timeout=10)
    answer.raise_for_status()
