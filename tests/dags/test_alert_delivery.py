"""From a failed task's callback to Slack."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.alerts import alert_failure
from penstock.core.errors import error
from penstock.operators.platform_etl import RunFailed, TransformRunOperator
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.dags

SECRET = "EAAsecretTokenOfTheAccount"


@pytest.fixture
def slack(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    from sandbox.slack import token

    fields = {"conn_type": "slack", "password": token(sandbox.state), "extra": {"base_url": sandbox.slack_url}}
    monkeypatch.setenv("AIRFLOW_CONN_SLACK", json.dumps(fields))
    monkeypatch.setenv("PENSTOCK_ALERT_CHANNEL", "#alerts")
    return sandbox


def failed(exception: BaseException) -> Any:
    ti = SimpleNamespace(dag_id="platform_etl__meta_ads", task_id="sync_account.extract", log_url="http://log.example")
    return {"ti": ti, "task": SimpleNamespace(), "exception": exception}


def sent(sandbox: Sandbox) -> list[str]:
    return [message["text"] for message in sandbox.get("slack/messages")]


def test_a_failure_is_sent_to_the_channel(slack: Sandbox) -> None:
    alert_failure(failed(error("META_AUTH_ERROR", "the token has expired")))
    (text,) = sent(slack)
    assert text.startswith(":red_circle: *META_AUTH_ERROR*")


def test_the_airflow_variable_names_the_channel_before_the_environment(
    slack: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_PENSTOCK_ALERT_CHANNEL", "#reports")
    alert_failure(failed(error("META_AUTH_ERROR", "the token has expired")))
    (message,) = slack.get("slack/messages")
    assert message["channel"] in ("C0REPORTS", "#reports", "reports")


def test_secrets_that_airflow_knows_are_masked(slack: Sandbox) -> None:
    from airflow.sdk.log import mask_secret

    mask_secret(SECRET)
    alert_failure(failed(RuntimeError(f"GET /me?access_token={SECRET} failed")))
    (text,) = sent(slack)
    assert SECRET not in text
    assert "***" in text


def test_a_run_whose_first_failure_was_sent_is_not_sent_again(slack: Sandbox) -> None:
    alert_failure(failed(RunFailed("FAILED", {"code": "META_AUTH_ERROR"}, is_reported=True)))
    assert sent(slack) == []
    alert_failure(failed(RunFailed("PARTIAL", {"code": "SLICES_FAILED", "message": "2 of 9"}, is_reported=False)))
    assert len(sent(slack)) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        {"AIRFLOW_CONN_SLACK": '{"conn_type": "slack", "password": "xoxb-wrong-token", "extra": %s}'},
        {"PENSTOCK_ALERT_CHANNEL": "#no-such-channel"},
        {
            "AIRFLOW_CONN_SLACK": '{"conn_type": "slack", "password": "xoxb-x", "extra": {"base_url": "http://127.0.0.1:9/"}}'
        },
    ],
)
def test_a_slack_that_refuses_is_logged_and_nothing_is_raised(
    spoil: dict[str, str], slack: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in spoil.items():
        monkeypatch.setenv(name, value.replace("%s", json.dumps({"base_url": slack.slack_url})))
    with caplog.at_level(logging.WARNING):
        alert_failure(failed(error("GA4_QUOTA_DAY", "used up")))
    assert sent(slack) == []
    assert "GA4_QUOTA_DAY" in caplog.text
    assert "Slack did not take the alert" in caplog.text


def test_without_slack_the_alert_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        alert_failure(failed(error("GA4_QUOTA_DAY", "used up")))
    assert "GA4_QUOTA_DAY" in caplog.text
    assert "Slack is not configured" in caplog.text


@pytest.mark.parametrize(("differing", "alerts"), [(0, 0), (3, 1)])
def test_totals_that_differ_from_the_vendors_own_are_told_once(
    differing: int, alerts: int, slack: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"run_id": "r", "status": "SUCCEEDED", "totals_differing": differing}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgres://warehouse.example/dwh")
    monkeypatch.setattr("penstock.hooks.registry.run_context", lambda *args, **kwargs: None)
    monkeypatch.setattr("penstock.jobs.platform_etl.transform", lambda run: counts)
    claimed = {"run_id": "r", "source": "meta_ads", "account_id": "1", "account_name": "Aurora", "label": "Aurora"}
    operator = TransformRunOperator(task_id="transform", claimed=claimed)
    ti = SimpleNamespace(
        dag_id="platform_etl__meta_ads", task_id="transform", log_url="http://log.example", try_number=1, max_tries=0
    )
    context: Any = {"ti": ti, "task": operator}

    assert operator.execute(context) == counts

    texts = sent(slack)
    assert len(texts) == alerts
    assert all(
        "TOTALS_MISMATCH" in text and "meta_ads Aurora (1)" in text and "3 daily totals" in text for text in texts
    )
