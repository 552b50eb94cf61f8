"""One Slack message per failure: what failed, for which account, what happened, what to do, where the log is."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.core.errors import CATALOGUE, PenstockError

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

CHANNEL = "PENSTOCK_ALERT_CHANNEL"
"""Airflow variable, or else environment variable, that names the channel (`#data-alerts` or its id)."""

MESSAGE_LIMIT = 1500
"""Characters of an error's message that are shown. Slack cuts a message at 40,000; the log has the rest."""


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
    log.error("%s", redacted(alert.text))
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


def send(alert: Alert) -> bool:
    """Whether Slack took the alert. Never raises for Slack's or the network's sake: a failed alert must not hide
    the failure that it tells of."""
    from penstock.hooks.slack import SlackAlertHook

    channel = alert_channel()
    client = SlackAlertHook().client
    if client is None or not channel:
        log.warning("Slack is not configured (connection `slack`, variable %s): the alert is only logged.", CHANNEL)
        return False
    try:
        client.post_message(channel, redacted(alert.text))
    except PenstockError as exc:
        log.warning("Slack did not take the alert: %s What to do: %s", redacted(str(exc)), exc.remedy)
        return False
    return True


def alert_channel() -> str | None:
    """The channel of the Airflow variable, else of the environment."""
    from airflow.sdk import Variable

    return Variable.get(CHANNEL, default=None) or os.environ.get(CHANNEL)


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
