"""Steam's public store over HTTP: no credentials, one limit per address, errors that say little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from penstock.clients.answers import Answer, Fault, classify, rule
from penstock.clients.sessions import BodyTooLarge, BodyTooSlow, ThreadLocal, network_error, new_session
from penstock.clients.transport import Attempt, Outcome, VendorClient
from penstock.core.errors import PenstockError, error
from penstock.sources.steam import VENDOR, details, details_request
from penstock.sources.stream import Request

if TYPE_CHECKING:
    import requests

PUBLIC = "public"
"""In place of an account: all callers of one address share one limit."""

PAUSE_S = 30.0
"""How long everybody stays silent after a refusal: the store names no time. `pause_seconds` in the connection's extra
changes it."""

CHECK_APPID = 440
"""An app that has been in the store since 2007."""

# The first rule that fits decides. https://wiki.teamfortress.com/wiki/User:RJackson/StorefrontAPI#Known_methods
RULES = (
    rule("STEAM_RATE_LIMIT", statuses=(200, 403, 429)),
    rule("STEAM_NOT_FOUND", statuses=(404, 410)),
    rule("STEAM_INVALID_QUERY", statuses=(400, 401, 405, 406)),
    rule("STEAM_TRANSIENT", statuses=(500, 502, 503, 504, 408)),
)


class SteamClient(VendorClient):
    """The store, as seen from this machine's address."""

    source = VENDOR
    attempts: ClassVar[Mapping[str, int]] = {
        # Three retries, as the old worker had. An app that always fails must not hold a place for long.
        "STEAM_TRANSIENT": 4,
        "NETWORK_TIMEOUT": 4,
        "NETWORK_UNREACHABLE": 4,
        # A refusal closes the limit for everybody; the item goes back to the queue, and the worker waits.
        "STEAM_RATE_LIMIT": 1,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._base_url = self._credentials.base_url.rstrip("/")
        self._pause = float(self._credentials.extra.get("pause_seconds") or PAUSE_S)
        self._sessions: ThreadLocal[requests.Session] = ThreadLocal(new_session, lambda session: session.close())

    def check(self) -> str:
        found = details(CHECK_APPID, self.send(details_request(CHECK_APPID)))
        return f"Steam's store answers; app {CHECK_APPID} is {found['name'] if found else 'not in this country'}"

    def close(self) -> None:
        self._sessions.close()

    def _ready(self) -> None:
        self._sessions.get()

    def _call(self, request: Request) -> Answer:
        from requests import RequestException

        try:
            reply = self._sessions.get().request(
                request.method, f"{self._base_url}/{request.path}", params=dict(request.params)
            )
        except (RequestException, BodyTooLarge, BodyTooSlow) as failure:
            broken = network_error(failure, self._redact)
        else:
            headers = {name.lower(): value for name, value in reply.headers.items()}
            return Answer(reply.status_code, headers, reply.content)
        raise broken

    def _error(self, attempt: Attempt, answer: Answer) -> PenstockError | None:
        if answer.status < 300 and answer.body.strip() != b"null":
            return None
        if 300 <= answer.status < 400:
            return self._redirect_error(answer)
        code = classify(RULES, Fault(answer.status, answer.excerpt(), family=attempt.request.limit))
        is_refusal = code == "STEAM_RATE_LIMIT"
        return error(
            code,
            f"HTTP {answer.status}: {answer.excerpt()}",
            http_status=answer.status,
            retry_after=(self._retry_after(answer) or self._pause) if is_refusal else self._retry_after(answer),
        )

    def _learn(self, outcome: Outcome) -> None:
        """The store says nothing of its limits."""
