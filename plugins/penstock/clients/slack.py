"""Slack's Web API: alerts and notifications.

Nothing here sends a message twice of its own accord. What a failure says about the message (surely not delivered, or
perhaps delivered) is told by `scope`; callers decide.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.clients.credentials import Credentials
from penstock.clients.redaction import Redactor
from penstock.clients.sessions import BodyTooLarge, BodyTooSlow, network_error, new_session
from penstock.core.errors import PenstockError, RateLimited, error
from penstock.core.pacing import RETRY_BUDGET_S, RetryBudget, longest_wait
from penstock.core.slack_errors import CODES, Scope, scope_of
from penstock.core.slack_messages import SlackMessage, carries
from penstock.core.templates import clean

if TYPE_CHECKING:
    import requests

TIMEOUT_S = 10.0
"""Of one call, from the first byte sent to the last one read."""

DEFAULT_RETRY_AFTER_S = 1.0
MAX_MESSAGE = 500
CONNECTIONS = 32

HISTORY_PAGE = 200
HISTORY_PAGES = 20
"""Of one look-up: 4,000 messages in a channel since the first try are not a notification channel."""

# https://docs.slack.dev/apis/web-api/: reading methods take a form, writing ones JSON.
_FORM_METHODS = frozenset({"conversations.history", "users.lookupByEmail"})


@dataclass(frozen=True, slots=True)
class Posted:
    """Where a message is: its channel's id, and its time stamp, which is its id there."""

    channel_id: str
    ts: str


class SlackClient:
    """One bot of one workspace. Threads may share it. timeout: seconds of one call."""

    source = "slack"

    def __init__(
        self, credentials: Credentials, sleep: Callable[[float], None] = time.sleep, *, timeout: float = TIMEOUT_S
    ) -> None:
        self._credentials = credentials
        self._timeout = timeout
        self._sleep = sleep
        self._redact = Redactor(credentials.secrets())
        self._lock = threading.Lock()
        self._session: requests.Session | None = None
        self._direct: dict[str, str] = {}
        self._calls = 0

    @property
    def calls(self) -> int:
        """HTTP calls so far."""
        with self._lock:
            return self._calls

    def post_message(
        self,
        channel: str,
        text: str,
        blocks: Sequence[Mapping[str, Any]] | None = None,
        *,
        patience: float = RETRY_BUDGET_S,
    ) -> str:
        """Post an alert to a channel (id or name); the message's time stamp. Raises PenstockError.

        Tried again only when Slack refused it for its rate, for `patience` seconds: after a time-out it may have
        arrived.
        """
        arguments = {"channel": channel, "text": text, "blocks": list(blocks or ())}
        budget = RetryBudget(patience)
        while True:
            try:
                return str(self._send("chat.postMessage", arguments).get("ts", ""))
            except RateLimited as refused:
                wait = refused.retry_after or DEFAULT_RETRY_AFTER_S
                if not budget.take(wait):
                    raise
            self._sleep(wait)

    def post(self, channel: str, message: SlackMessage) -> Posted:
        """Post a notification, once. Raises PenstockError, of which `scope` tells what it means for the message."""
        body = self._send(
            "chat.postMessage",
            {
                "channel": channel,
                "text": message.text,
                "blocks": list(message.blocks),
                "metadata": dict(message.metadata),
                # Slack is to make no mention of plain words, and to fetch nothing that a link points at.
                "parse": "none",
                "link_names": False,
                "unfurl_links": False,
                "unfurl_media": False,
            },
        )
        return Posted(str(body.get("channel", channel)), str(body.get("ts", "")))

    def find(self, channel_id: str, key: str, oldest: float) -> Posted | None:
        """The message that carries `key` and is younger than `oldest` (seconds since 1970). Raises PenstockError."""
        cursor = ""
        for _ in range(HISTORY_PAGES):
            body = self._send(
                "conversations.history",
                {
                    "channel": channel_id,
                    "oldest": f"{oldest:.6f}",
                    "limit": HISTORY_PAGE,
                    "include_all_metadata": True,
                    "cursor": cursor,
                },
            )
            for stored in body.get("messages") or ():
                if carries(stored, key):
                    return Posted(channel_id, str(stored.get("ts", "")))
            cursor = str((body.get("response_metadata") or {}).get("next_cursor") or "")
            if not cursor:
                return None
        raise self._failure("SLACK_ERROR", f"more than {HISTORY_PAGE * HISTORY_PAGES} messages since", Scope.UNKNOWN)

    def direct_channel(self, user: str) -> str:
        """The id of the direct message with a person, named by user id or e-mail address. Raises PenstockError."""
        with self._lock:
            known = self._direct.get(user)
        if known:
            return known
        identity = self._user_by_email(user) if "@" in user else user
        body = self._send("conversations.open", {"users": identity})
        channel = str((body.get("channel") or {}).get("id", ""))
        with self._lock:
            self._direct[user] = channel
        return channel

    def join(self, channel: str) -> None:
        """Enter a public channel; needs the scope channels:join. Raises PenstockError."""
        self._send("conversations.join", {"channel": channel})

    def auth_test(self) -> str:
        """Whose token it is: a sentence for people. Raises PenstockError."""
        body = self._send("auth.test", {})
        return f"Slack workspace {body.get('team')}, bot {body.get('user')}"

    def check(self) -> str:
        return self.auth_test()

    def close(self) -> None:
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def _user_by_email(self, email: str) -> str:
        body = self._send("users.lookupByEmail", {"email": email})
        return str((body.get("user") or {}).get("id", ""))

    def _send(self, method: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        outcome = self._call(method, {name: value for name, value in arguments.items() if value not in ("", [], {})})
        if isinstance(outcome, PenstockError):
            raise outcome
        return outcome

    def _call(self, method: str, arguments: Mapping[str, Any]) -> Mapping[str, Any] | PenstockError:
        """The answer, or the error; returned, because a raised one would chain the request with its token."""
        import requests

        with self._lock:
            self._calls += 1
        url = f"{self._credentials.base_url.rstrip('/')}/{method}"
        headers = {"Authorization": f"Bearer {self._credentials.token}"}
        body: dict[str, Any] = {"data": arguments} if method in _FORM_METHODS else {"json": arguments}
        try:
            response = self._web().post(url, headers=headers, **body)
        except (requests.RequestException, BodyTooLarge, BodyTooSlow) as failure:
            return self._network_failure(failure)
        except PenstockError as unsendable:
            return self._failure(unsendable.code, unsendable.message, Scope.WORKSPACE)
        return self._read(response)

    def _network_failure(self, failure: Exception) -> PenstockError:
        told = network_error(failure, self._redact)
        return self._failure(told.code, told.message, Scope.PASSING if never_sent(failure) else Scope.AMBIGUOUS)

    def _read(self, response: requests.Response) -> Mapping[str, Any] | PenstockError:
        try:
            body = json.loads(response.content)
        except ValueError:
            body = None
        if isinstance(body, dict) and body.get("ok") is True and response.status_code < 400:
            return body
        told = body if isinstance(body, dict) else {}
        reason = str(told.get("error") or "")
        scope = scope_of(reason, response.status_code)
        if not reason and scope is Scope.UNKNOWN:
            # A page of a proxy: it may stand before or behind Slack.
            scope = Scope.AMBIGUOUS
        code = CODES[scope] if reason or response.status_code != 200 else "RESPONSE_NOT_JSON"
        message = " ".join(filter(None, (reason or f"HTTP {response.status_code}", str(told.get("needed") or ""))))
        failure = self._failure(code, message, scope)
        failure.http_status = response.status_code
        failure.provider_code = reason or None
        failure.retry_after = retry_after_of(response.headers)
        return failure

    def _failure(self, code: str, message: str, scope: Scope) -> PenstockError:
        # Cleaned: it is stored as last_error, and Postgres refuses some characters.
        told = clean(self._redact(message))[:MAX_MESSAGE]
        return error(code, told, service="clients.slack", context={"scope": scope.value})

    def _web(self) -> requests.Session:
        with self._lock:
            if self._session is None:
                self._session = new_session(
                    read_timeout=self._timeout, total_timeout=self._timeout, connections=CONNECTIONS
                )
            return self._session


def scope(failure: PenstockError) -> Scope:
    """What a failed call means for the message."""
    return Scope(failure.context.get("scope", Scope.UNKNOWN))


def never_sent(failure: Exception) -> bool:
    """Whether a network failure came before any byte of the request was on its way."""
    from requests import exceptions
    from urllib3.exceptions import MaxRetryError, NewConnectionError

    if isinstance(failure, exceptions.ConnectTimeout | exceptions.SSLError | exceptions.ProxyError):
        return True
    if isinstance(failure, exceptions.ConnectionError | exceptions.Timeout | exceptions.ChunkedEncodingError):
        cause = failure.args[0] if failure.args else None
        reason = cause.reason if isinstance(cause, MaxRetryError) else cause
        return isinstance(reason, NewConnectionError)
    # The request was not well formed (an invalid URL): it was never begun.
    return isinstance(failure, exceptions.RequestException) and not isinstance(failure, exceptions.ContentDecodingError)


def retry_after_of(headers: Mapping[str, Any]) -> float | None:
    """Slack's Retry-After in seconds."""
    value = str(headers.get("retry-after", headers.get("Retry-After", "")))
    return longest_wait(float(value)) if value.isdecimal() else None
