"""What failed, for which account, what happened, what to do, where the log is: to Slack, and never through a queue.

A DAG gets one message a minute. An alert is written into the warehouse first and goes out with what else is held of its
DAG; what comes within the minute, or what Slack did not take, goes out with the DAG's next alert, or by `send_held`,
which `notification_drain` calls every minute. When the warehouse is away an alert goes out at once: it may be about it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from penstock.core.errors import CATALOGUE, PenstockError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from penstock.clients.slack import SlackClient
    from penstock.warehouse.held_alerts import HeldAlerts

log = logging.getLogger(__name__)

CHANNEL = "PENSTOCK_ALERT_CHANNEL"
"""Airflow variable, or else environment variable, that names the channel (`#data-alerts` or its id)."""

MESSAGE_LIMIT = 1500
"""Characters of an error's message that are shown. Slack cuts a message at 40,000; the log has the rest."""

TOLD_AT_ONCE = 10
"""Alerts in one message; of more, only the number is told."""

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Alert:
    """What an alert says."""

    dag_id: str
    task_id: str
    code: str
    message: str
    remedy: str
    account: str = ""
    run_id: str = ""
    log_url: str = ""

    @property
    def text(self) -> str:
        """The message in Slack's mrkdwn, every value escaped."""
        account = f" · {escape(self.account)}" if self.account else ""
        lines = [
            f":red_circle: *{escape(self.code)}* in `{escape(self.dag_id)}` · `{escape(self.task_id)}`{account}",
            f"*What happened:* {escape(self.message[:MESSAGE_LIMIT])}",
            f"*What to do:* {escape(self.remedy)}",
        ]
        if self.run_id:
            lines.append(f"*Run:* `{escape(self.run_id)}`")
        if self.log_url:
            lines.append(f"<{escape(self.log_url)}|Open the log>")
        return "\n".join(lines)


def alert_failure(context: Context) -> None:
    """`on_failure_callback` of every task. Without Slack, or when Slack refuses, the alert stays in the log."""
    values: Mapping[str, Any] = context
    exception = values.get("exception")
    if getattr(exception, "is_reported", False):
        log.info("No alert: the task that failed first has sent it.")
        return
    alert = alert_of(values)
    log.error("%s", safe_text(alert))
    send(alert)


def alert_of(context: Mapping[str, Any]) -> Alert:
    """The alert for a failed task's context, which lacks what a killed worker could not say."""
    ti = context.get("ti") or context.get("task_instance")
    claimed = _claimed(context.get("task"))
    code, message, remedy = _cause(context.get("exception"), context.get("reason"))
    return Alert(
        dag_id=str(getattr(ti, "dag_id", "") or getattr(context.get("dag"), "dag_id", "?")),
        task_id=str(getattr(ti, "task_id", "?")),
        code=code,
        message=message,
        remedy=remedy,
        account=_account(claimed),
        run_id=str(claimed.get("run_id", "")),
        log_url=str(getattr(ti, "log_url", "") or ""),
    )


def send(*alerts: Alert) -> bool:
    """Whether Slack took the alerts now. Never raises for Slack's, the network's or the warehouse's sake: a failed
    alert must not hide the failure that it tells of.

    alerts: of one DAG, told in one message.
    """
    import psycopg

    slack = _slack()
    if slack is None or not alerts:
        return False
    dag_id, bodies = alerts[0].dag_id, [safe_text(alert) for alert in alerts]
    try:
        with _held_alerts() as held:
            held.hold(dag_id, bodies)
            return _send_due(held, dag_id, slack)
    except (psycopg.Error, PenstockError) as away:
        log.warning("The warehouse holds no alerts now (%s): sent at once.", type(away).__name__)
        return slack.take(bodies)


def send_held() -> None:
    """Send what is held of every DAG whose minute is over. Does not raise, like `send`."""
    import psycopg

    slack = _slack()
    if slack is None:
        return
    try:
        with _held_alerts() as held:
            for dag_id in held.waiting():
                _send_due(held, dag_id, slack)
    except (psycopg.Error, PenstockError) as away:
        log.warning("Held alerts cannot be read now (%s).", type(away).__name__)


def _send_due(held: HeldAlerts, dag_id: str, slack: _Slack) -> bool:
    due = held.due(dag_id)
    is_taken = bool(due) and slack.take([alert.body for alert in due])
    if is_taken:
        held.forget(due)
    return is_taken


@contextlib.contextmanager
def _held_alerts() -> Iterator[HeldAlerts]:
    """Raises psycopg.Error when the warehouse is away, CREDENTIAL_NOT_FOUND when there is none."""
    from penstock.hooks.connections import find_connection, required
    from penstock.hooks.warehouse import WarehouseHook, dsn_of
    from penstock.warehouse.held_alerts import HeldAlerts
    from penstock.warehouse.session import Warehouse

    conn_id = WarehouseHook.default_conn_name
    dsn = dsn_of(required(conn_id, find_connection(conn_id)))
    with Warehouse(dsn, application_name="penstock alerts", statement_timeout=TIMEOUT_S, patience=0.0) as warehouse:
        yield HeldAlerts(warehouse)


@dataclass(frozen=True, slots=True)
class _Slack:
    """Where alerts go."""

    client: SlackClient
    channel: str

    def take(self, bodies: Sequence[str]) -> bool:
        """Whether Slack took them, as one message."""
        told = list(bodies[:TOLD_AT_ONCE])
        if len(bodies) > TOLD_AT_ONCE:
            told.append(f"and {len(bodies) - TOLD_AT_ONCE} more: read the tasks' logs")
        try:
            self.client.post_message(self.channel, "\n\n".join(told), patience=TIMEOUT_S)
        except PenstockError as exc:
            log.warning("Slack did not take the alert: %s What to do: %s", redacted(str(exc)), exc.remedy)
            return False
        return True


def _slack() -> _Slack | None:
    from penstock.hooks.slack import SlackAlertHook

    channel = alert_channel()
    client = SlackAlertHook(timeout=TIMEOUT_S).client
    if client is None or not channel:
        log.warning("Slack is not configured (connection `slack`, variable %s): the alert is only logged.", CHANNEL)
        return None
    return _Slack(client, channel)


def alert_channel() -> str | None:
    """The channel of the Airflow variable, else of the environment."""
    from airflow.sdk import Variable

    return Variable.get(CHANNEL, default=None) or os.environ.get(CHANNEL)


def safe_text(alert: Alert) -> str:
    """The alert's text without any secret. They are looked for before a value is escaped or cut: half a secret, or one
    with `&amp;` in it, is not recognised."""
    values = {field.name: redacted(getattr(alert, field.name)) for field in fields(alert)}
    return Alert(**values).text


def escape(text: str) -> str:
    """The three characters that Slack reads as markup (https://docs.slack.dev/messaging/formatting-message-text)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def redacted(text: str) -> str:
    """The text without any secret that Airflow has seen in this process."""
    from airflow.sdk.log import redact

    return str(redact(text))


def _cause(exception: Any, reason: Any) -> tuple[str, str, str]:
    """Code, message and remedy of what was raised, or of the stored error that it stands for."""
    if isinstance(exception, PenstockError):
        return exception.code, exception.message, exception.remedy
    stored = getattr(exception, "error", None)
    if isinstance(stored, Mapping) and "code" in stored:
        code = str(stored["code"])
        return code, str(stored.get("message", "")), str(stored.get("operator_action") or _remedy(code))
    if isinstance(exception, BaseException):
        return "UNKNOWN", f"{type(exception).__name__}: {exception}", _remedy("UNKNOWN")
    message = str(exception or reason or "the worker ended without saying why")
    return "UNKNOWN", message, "Read the log: the worker was probably killed (memory, time-out, restart)."


def _remedy(code: str) -> str:
    return CATALOGUE.get(code, CATALOGUE["UNKNOWN"]).remedy


def _claimed(task: Any) -> Mapping[str, Any]:
    """The run that the task works on. A context built outside the worker has the unrendered template instead."""
    claimed = getattr(task, "claimed", None)
    return claimed if isinstance(claimed, Mapping) else {}


def _account(claimed: Mapping[str, Any]) -> str:
    if not claimed:
        return ""
    name, account_id = claimed.get("account_name"), claimed.get("account_id")
    shown = f"{name} ({account_id})" if name else str(account_id or "")
    return f"{claimed.get('source', '')} {shown}".strip()
