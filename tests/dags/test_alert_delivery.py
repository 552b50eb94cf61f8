"""From a failed task's callback to Slack."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from penstock.alerts import MESSAGE_LIMIT, TOLD_AT_ONCE, Alert, alert_failure, send, send_held
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
    counts = {"run_id": "r", "status": "SUCCEEDED", "totals_differing": differing, "account_findings": []}
    texts = sent_after_transform(counts, slack, monkeypatch)
    assert len(texts) == alerts
    assert all(
        "TOTALS_MISMATCH" in text and "meta_ads Aurora (1)" in text and "3 daily totals" in text for text in texts
    )


def test_what_was_found_of_the_account_is_told_with_its_remedy(slack: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [{"code": "ACCOUNT_CHANGED", "message": "time_zone: UTC -> Asia/Tokyo"}]
    counts = {"run_id": "r", "status": "SUCCEEDED", "totals_differing": 3, "account_findings": findings}
    texts = sent_after_transform(counts, slack, monkeypatch)
    assert len(texts) == 1
    assert all(word in texts[0] for word in ("ACCOUNT_CHANGED", "Asia/Tokyo", "HISTORICAL", "TOTALS_MISMATCH"))


def sent_after_transform(counts: dict[str, Any], slack: Sandbox, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Slack got of a transform that has counted this."""
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

    return sent(slack)


# -- one message a minute and DAG


@pytest.fixture
def held(slack: Sandbox, fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The warehouse in which alerts are held."""
    monkeypatch.setenv("WAREHOUSE_URL", fresh_database)
    return fresh_database


def an_alert(message: str, dag_id: str = "notification_drain") -> Alert:
    return Alert(dag_id, "drain", "SLACK_CHANNEL_ERROR", message, "Invite the bot.")


def bodies(dsn: str) -> list[str]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return [row[0] for row in connection.execute("select body from penstock.held_alerts order by alert_id")]


def a_minute_passes(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update penstock.rate_limits set next_free_at = next_free_at - interval '1 minute'")


def test_what_fails_within_a_minute_of_an_alert_is_held_and_told_with_the_next_one(slack: Sandbox, held: str) -> None:
    assert send(an_alert("first")) is True
    assert send(an_alert("second")) is False
    assert send(an_alert("third")) is False
    assert send(an_alert("of another DAG", "calendar_outbox")) is True
    assert [("first" in text, "of another DAG" in text) for text in sent(slack)] == [(True, False), (False, True)]
    a_minute_passes(held)
    assert send(an_alert("fourth")) is True
    assert [line for line in sent(slack)[-1].splitlines() if "What happened" in line] == [
        f"*What happened:* {number}" for number in ("second", "third", "fourth")
    ]
    assert bodies(held) == []


def test_what_is_held_goes_out_without_another_failure(slack: Sandbox, held: str) -> None:
    send(an_alert("first"))
    send(an_alert("second"))
    send_held()
    assert len(sent(slack)) == 1
    a_minute_passes(held)
    send_held()
    send_held()
    assert len(sent(slack)) == 2
    assert "second" in sent(slack)[-1]
    assert bodies(held) == []


def test_alerts_that_belong_together_are_one_message_and_a_flood_is_counted(slack: Sandbox, held: str) -> None:
    assert send(*(an_alert(f"number {number}") for number in range(TOLD_AT_ONCE + 7))) is True
    (text,) = sent(slack)
    assert text.count("What happened") == TOLD_AT_ONCE
    assert text.endswith("and 7 more: read the tasks' logs")


def test_what_slack_did_not_take_is_told_later(slack: Sandbox, held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setenv("PENSTOCK_ALERT_CHANNEL", "#no-such-channel")
        assert send(an_alert("the token is refused")) is False
    assert len(bodies(held)) == 1
    a_minute_passes(held)
    send_held()
    assert "the token is refused" in sent(slack)[0]


def test_a_secret_is_masked_before_an_alert_is_held(slack: Sandbox, held: str) -> None:
    from airflow.sdk.log import mask_secret

    mask_secret(SECRET)
    send(an_alert("first"))
    send(an_alert(f"token {SECRET}"))
    assert SECRET not in str(bodies(held))


@pytest.mark.parametrize(
    ("secret", "before"), [("pa<ss&word-99", ""), ("supersecretpassword1234", "x" * (MESSAGE_LIMIT - 18))]
)
def test_a_secret_is_masked_before_its_text_is_escaped_or_cut(
    secret: str, before: str, slack: Sandbox, held: str
) -> None:
    from airflow.sdk.log import mask_secret

    mask_secret(secret)
    send(an_alert("first"))
    send(an_alert(f"{before}{secret} was refused"))
    (body,) = bodies(held)
    assert "***" in str(body)
    assert secret[:4] not in str(body)


def test_when_the_warehouse_is_away_an_alert_goes_out_at_once(
    slack: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WAREHOUSE_URL", "postgresql://nobody:x@127.0.0.1:9/none")
    assert send(an_alert("first"), an_alert("second")) is True
    assert send(an_alert("third")) is True
    send_held()
    assert ["third" in text for text in sent(slack)] == [False, True]
    assert "127.0.0.1" not in caplog.text
