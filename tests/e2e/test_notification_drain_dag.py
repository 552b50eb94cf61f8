"""`notification_drain`: rows of strangers to Slack, dead letters back by a param, secrets nowhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.conftest import Deployment

pytestmark = [
    pytest.mark.dags,
    pytest.mark.db,
    pytest.mark.e2e,
    # Here Airflow itself runs, and it and its libraries warn about each other.
    pytest.mark.filterwarnings("default"),
]

DAG = "notification_drain"


def config(deployment: Deployment, channel: str | None, template: str = "*{{request_title}}* {{unknown}}") -> str:
    (row,) = deployment.rows(
        "insert into notification_config (entity_type, event_type, channel_id, template) "
        "values ('request', 'status_change', %s, %s) returning id::text",
        channel,
        template,
    )
    return str(row["id"])


def insert(deployment: Deployment, config_id: str, title: str) -> str:
    (row,) = deployment.rows(
        "insert into notification_queue (config_id, entity_id, entity_type, event_data) "
        "values (%s::uuid, gen_random_uuid(), 'request', %s::jsonb) returning id::text",
        config_id,
        json.dumps({"request_title": title}),
    )
    return str(row["id"])


def texts(deployment: Deployment, channel: str) -> list[str]:
    return [message["text"] for message in deployment.alerts if message["channel"] == channel]


def test_rows_reach_their_channels_and_what_cannot_is_a_dead_letter_that_can_be_replayed(
    deployment: Deployment, metrics: dict[str, float], caplog: Any
) -> None:
    fine, nowhere = config(deployment, "C10001"), config(deployment, None)
    insert(deployment, fine, "<!channel> Spring")
    dead = insert(deployment, nowhere, "Summer")
    ended = deployment.run(DAG)
    assert (ended.state, ended.tasks) == ("success", {"drain": ["success"]})
    counted = {name: metrics.get(f"penstock.notifications.{name}") for name in ("sent", "dead", "depth", "ready")}
    assert counted == {"sent": 1, "dead": 1, "depth": 0, "ready": 0}
    assert texts(deployment, "C10001") == ["*&lt;!channel&gt; Spring* {{unknown}}"]
    (row,) = deployment.rows("select error_class from notification_queue where id = %s::uuid", dead)
    assert row == {"error_class": "NOTIFICATION_NO_DESTINATION"}

    deployment.execute("update notification_config set channel_id = 'C10002' where id = %s::uuid", nowhere)
    replay = {"replay_reason": "NOTIFICATION_NO_DESTINATION"}
    deployment.run(DAG, run_conf={**replay, "dry_run": True})
    assert texts(deployment, "C10002") == []
    deployment.run(DAG, run_conf={**replay, "dry_run": False})
    assert texts(deployment, "C10002") == ["*Summer* {{unknown}}"]
    assert {row["state"] for row in deployment.rows("select state from notification_queue")} == {"sent"}


def test_a_revoked_token_turns_the_task_red_touches_no_row_and_is_written_nowhere(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    canary = "xoxb-canary-7f3a9c2e51d84b60"
    extra = {"base_url": deployment.sandbox.slack_url}
    connection = json.dumps({"conn_type": "slack", "password": canary, "extra": extra})
    monkeypatch.setenv("AIRFLOW_CONN_SLACK", connection)
    insert(deployment, config(deployment, "C10001"), "Spring")
    ended = deployment.run(DAG)
    assert ended.state == "failed"
    (row,) = deployment.rows("select state, attempts, last_error from notification_queue")
    assert row == {"state": "queued", "attempts": 0, "last_error": "invalid_auth"}
    assert canary not in caplog.text
    stored = deployment.rows("select * from notification_queue") + deployment.rows(
        "select * from penstock.notification_pauses"
    )
    assert canary not in str(stored)
