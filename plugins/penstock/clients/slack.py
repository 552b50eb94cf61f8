"""Slack's Web API for alerts: one call, its own short retry, errors in our words."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.clients.credentials import Credentials
from penstock.clients.redaction import Redactor
from penstock.core.errors import PenstockError, RateLimited, error
from penstock.core.pacing import RETRY_BUDGET_S, RetryBudget

if TYPE_CHECKING:
    from slack_sdk import WebClient

TIMEOUT_S = 15
DEFAULT_RETRY_AFTER_S = 1.0

NOT_JSON = "Received a response in a non-JSON format"  # how the SDK begins an error of its own making

# Slack's error strings. https://docs.slack.dev/reference/methods/chat.postMessage#errors
CODES: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "invalid_auth",
            "not_authed",
            "token_revoked",
            "token_expired",
            "account_inactive",
            "missing_scope",
            "no_permission",
            "not_allowed_token_type",
            "org_login_required",
        ),
        "SLACK_AUTH_ERROR",
    ),
    **dict.fromkeys(
        (
            "channel_not_found",
            "not_in_channel",
            "is_archived",
            "restricted_action",
            "restricted_action_read_only_channel",
            "messages_tab_disabled",
        ),
        "SLACK_CHANNEL_ERROR",
    ),
    **dict.fromkeys(("ratelimited", "rate_limited", "message_limit_exceeded"), "SLACK_RATE_LIMIT"),
}


class SlackClient:
    """Posts messages as one bot. Threads may share it.

    A message is tried again only when Slack refused it for its rate; after a time-out it may have arrived.
    """

    def __init__(self, credentials: Credentials, sleep: Callable[[float], None] = time.sleep) -> None:
        self._credentials = credentials
        self._sleep = sleep
        self._redact = Redactor(credentials.secrets())
        self._client: WebClient | None = None
        self._lock = threading.Lock()

    def post_message(self, channel: str, text: str, blocks: Sequence[Mapping[str, Any]] | None = None) -> str:
        """Post to a channel (id or name); the message's time stamp, which is its id. Raises PenstockError."""
        body = self._send("chat.postMessage", {"channel": channel, "text": text, "blocks": list(blocks or ())})
        return str(body.get("ts", ""))

    def auth_test(self) -> str:
        """Whose token it is: a sentence for people. Raises PenstockError."""
        body = self._send("auth.test", {})
        return f"Slack workspace {body.get('team')}, bot {body.get('user')}"

    def check(self) -> str:
        return self.auth_test()

    def _send(self, method: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        budget = RetryBudget(RETRY_BUDGET_S)
        while True:
            outcome = self._call(method, {key: value for key, value in arguments.items() if value})
            if not isinstance(outcome, PenstockError):
                return outcome
            wait = outcome.retry_after or DEFAULT_RETRY_AFTER_S
            if not isinstance(outcome, RateLimited) or not budget.take(wait):
                raise outcome
            self._sleep(wait)

    def _call(self, method: str, arguments: Mapping[str, Any]) -> Mapping[str, Any] | PenstockError:
        """The answer, or the error; returned, because a raised one would chain the request with its token."""
        from slack_sdk.errors import SlackApiError, SlackClientError

        try:
            return self._web().api_call(method, json=dict(arguments)).data  # type: ignore[return-value]
        except SlackApiError as refused:
            return self._refusal(refused.response)
        except TimeoutError:
            return self._failure("NETWORK_TIMEOUT", f"Slack did not answer within {TIMEOUT_S} s")
        except (OSError, http.client.HTTPException) as failure:
            return self._failure("NETWORK_UNREACHABLE", f"{type(failure).__name__}: {failure}")
        except (SlackClientError, ValueError) as failure:
            return self._failure("RESPONSE_NOT_JSON", f"{type(failure).__name__}: {failure}")

    def _refusal(self, response: Any) -> PenstockError:
        body = response.data if isinstance(response.data, dict) else {}
        reason = str(body.get("error") or f"HTTP {response.status_code}")
        code = CODES.get(reason, "SLACK_ERROR")
        if response.status_code == 429:
            code = "SLACK_RATE_LIMIT"
        elif reason.startswith(NOT_JSON):
            code = "RESPONSE_NOT_JSON"
        failure = self._failure(code, " ".join(filter(None, (reason, str(body.get("needed") or "")))))
        failure.http_status = response.status_code
        failure.provider_code = reason if code != "RESPONSE_NOT_JSON" else None
        failure.retry_after = retry_after_of(response.headers)
        return failure

    def _failure(self, code: str, message: str) -> PenstockError:
        return error(code, self._redact(message), service="clients.slack")

    def _web(self) -> WebClient:
        from slack_sdk import WebClient

        with self._lock:
            if self._client is None:
                base_url = self._credentials.base_url.rstrip("/") + "/"
                # No retry handlers: retries have one owner, here.
                self._client = WebClient(
                    self._credentials.token, base_url=base_url, timeout=TIMEOUT_S, retry_handlers=[]
                )
            return self._client


def retry_after_of(headers: Mapping[str, Any]) -> float | None:
    """Slack's Retry-After in seconds; its SDK hands headers over as they came, or as lists."""
    for name, value in headers.items():
        if name.lower() == "retry-after":
            text = value[0] if isinstance(value, list) else value
            return float(text) if str(text).isdigit() else None
    return None
