"""What an alert says. Whether Slack gets it is shown in tests/dags."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from penstock.alerts import MESSAGE_LIMIT, Alert, alert_of, escape
from penstock.core.errors import CATALOGUE, error

LOG_URL = "http://airflow.example/dags/platform_etl__meta_ads/runs/manual/tasks/sync_account.extract/mapped/0?a=1&b=2"


def context_of(exception: Any, *, claimed: Any = None, **more: Any) -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="platform_etl__meta_ads", task_id="sync_account.extract", log_url=LOG_URL)
    return {"ti": ti, "task": SimpleNamespace(claimed=claimed), "exception": exception, **more}


CLAIMED = {"run_id": "11111111-2222", "source": "meta_ads", "account_id": "act_1", "account_name": "Aurora <Uhren>"}


def test_it_names_dag_task_account_code_cause_remedy_run_and_log() -> None:
    alert = alert_of(context_of(error("META_AUTH_ERROR", "the token has expired"), claimed=CLAIMED))
    assert alert == Alert(
        dag_id="platform_etl__meta_ads",
        task_id="sync_account.extract",
        code="META_AUTH_ERROR",
        message="the token has expired",
        remedy=CATALOGUE["META_AUTH_ERROR"].remedy,
        account="meta_ads Aurora <Uhren> (act_1)",
        run_id="11111111-2222",
        log_url=LOG_URL,
    )
    assert alert.text.splitlines() == [
        ":red_circle: *META_AUTH_ERROR* in `platform_etl__meta_ads` · `sync_account.extract`"
        " · meta_ads Aurora &lt;Uhren&gt; (act_1)",
        "*What happened:* the token has expired",
        f"*What to do:* {CATALOGUE['META_AUTH_ERROR'].remedy}",
        "*Run:* `11111111-2222`",
        f"<{LOG_URL.replace('&', '&amp;')}|Open the log>",
    ]


def test_what_slack_would_read_as_markup_is_escaped() -> None:
    assert (
        escape("<!channel> & <https://evil.example|here>") == "&lt;!channel&gt; &amp; &lt;https://evil.example|here&gt;"
    )
    assert "<!channel>" not in alert_of(context_of(error("GA4_ERROR", "<!channel>"))).text


def test_a_run_that_ended_partial_is_told_with_its_stored_error() -> None:
    stored = {"code": "SLICES_FAILED", "message": "3 of 40 slices failed", "operator_action": "Run it again."}
    failure = RuntimeError("PARTIAL")
    failure.error = stored  # type: ignore[attr-defined]
    alert = alert_of(context_of(failure, claimed=CLAIMED))
    assert (alert.code, alert.message, alert.remedy) == ("SLICES_FAILED", "3 of 40 slices failed", "Run it again.")


def test_an_unexpected_exception_is_named_with_its_type() -> None:
    alert = alert_of(context_of(ZeroDivisionError("division by zero")))
    assert (alert.code, alert.message) == ("UNKNOWN", "ZeroDivisionError: division by zero")


def test_a_killed_worker_leaves_an_alert_without_account() -> None:
    # The DAG processor makes the callback then: no exception object, and the task's fields are not rendered.
    unrendered = object()
    alert = alert_of(context_of(None, claimed=unrendered, reason="heartbeat timed out"))
    assert (alert.code, alert.message, alert.account, alert.run_id) == ("UNKNOWN", "heartbeat timed out", "", "")
    assert "killed" in alert.remedy


def test_an_empty_context_still_gives_an_alert() -> None:
    alert = alert_of({})
    assert alert.dag_id == "?"
    assert alert.text.startswith(":red_circle: *UNKNOWN*")


def test_a_long_message_is_cut() -> None:
    alert = alert_of(context_of(error("DB_WRITE_ERROR", "x" * 10_000)))
    assert f"{'x' * MESSAGE_LIMIT}\n" in alert.text
    assert "x" * (MESSAGE_LIMIT + 1) not in alert.text
