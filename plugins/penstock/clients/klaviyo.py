"""Klaviyo over HTTP: JSON:API, one private key, a fixed revision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from penstock.clients.answers import Answer, Fault, classify, rule
from penstock.clients.sessions import BodyTooLarge, BodyTooSlow, ThreadLocal, network_error, new_session
from penstock.clients.transport import Attempt, Outcome, VendorClient
from penstock.core.errors import PenstockError, error
from penstock.sources.fields import find
from penstock.sources.klaviyo import KLAVIYO_REVISION
from penstock.sources.stream import Request

if TYPE_CHECKING:
    import requests

KLAVIYO_HOST = "a.klaviyo.com"
JSON_API = "application/vnd.api+json"

REPORTS = "reports"
LONGEST_RATE_LIMIT_S = 120.0  # a report endpoint that asks for more has used up its day

# One table for all of Klaviyo's errors; the first rule that fits decides.
# https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling
RULES = (
    rule("KLAVIYO_AUTH_ERROR", statuses=(401,)),
    rule("KLAVIYO_AUTH_ERROR", codes=("not_authenticated", "authentication_failed")),
    rule("KLAVIYO_REVISION_RETIRED", statuses=(410,)),
    rule("KLAVIYO_REVISION_RETIRED", statuses=(400,), text=r"\brevision\b"),
    rule("KLAVIYO_PERMISSION_DENIED", statuses=(403,)),
    rule("KLAVIYO_DAILY_REPORT_LIMIT", statuses=(429,), families=(REPORTS,), beyond=LONGEST_RATE_LIMIT_S),
    rule("KLAVIYO_RATE_LIMIT", statuses=(429,)),
    rule("KLAVIYO_INVALID_QUERY", statuses=(400, 404, 405, 409, 415, 422)),
    rule("KLAVIYO_TRANSIENT", statuses=(500, 502, 503, 504, 520, 521, 522, 523, 524)),
)


class KlaviyoClient(VendorClient):
    """One Klaviyo account."""

    source = "klaviyo"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._base_url = self._credentials.base_url.rstrip("/")
        self._sessions: ThreadLocal[requests.Session] = ThreadLocal(self._connect, lambda session: session.close())

    def send(self, request: Request) -> Any:
        body = super().send(request)
        self._refuse_foreign_link(body)
        return body

    def check(self) -> str:
        account = self._own_account()
        name = find(account, "attributes", "contact_information", "organization_name")
        return f"Klaviyo account {name} ({find(account, 'id')}), {find(account, 'attributes', 'timezone')}"

    def own_account_id(self) -> str:
        """The one account that the private key belongs to. Raises PenstockError."""
        account_id = find(self._own_account(), "id")
        if not account_id:
            raise self._stamp(error("SCHEMA_MISMATCH", "the key belongs to no account: the list of accounts is empty"))
        return str(account_id)

    def _own_account(self) -> Any:
        body = self.send(Request("GET", "api/accounts", limit="accounts"))
        return (find(body, "data") or [{}])[0]

    def close(self) -> None:
        self._sessions.close()

    def _connect(self) -> requests.Session:
        session = new_session()
        session.headers.update(
            {
                "Authorization": f"Klaviyo-API-Key {self._credentials.token}",
                "revision": str(self._credentials.extra.get("revision") or KLAVIYO_REVISION),
                "accept": JSON_API,
                "content-type": JSON_API,
            }
        )
        return session

    def _ready(self) -> None:
        self._sessions.get()

    def _call(self, request: Request) -> Answer:
        from requests import RequestException

        try:
            reply = self._sessions.get().request(
                request.method,
                f"{self._base_url}/{request.path}",
                params=dict(request.params),
                json=request.body,
            )
        except (RequestException, BodyTooLarge, BodyTooSlow) as failure:
            broken = network_error(failure, self._redact)
        else:
            headers = {name.lower(): value for name, value in reply.headers.items()}
            return Answer(reply.status_code, headers, reply.content)
        raise broken

    def _error(self, attempt: Attempt, answer: Answer) -> PenstockError | None:
        if answer.status < 300:
            return None
        if answer.status < 400:
            return self._redirect_error(answer)
        fault = read_fault(attempt.request, answer, self._retry_after(answer))
        return error(
            classify(RULES, fault),
            self._redact(fault.message),
            http_status=fault.status,
            provider_code=fault.code or None,
            request_id=fault.request_id,
            retry_after=fault.retry_after,
            resets_at=self._after(fault.retry_after),
        )

    def _learn(self, outcome: Outcome) -> None:
        """Nothing left of the steady window: everybody waits for its end."""
        headers = outcome.answer.headers
        remaining, reset = headers.get("ratelimit-remaining"), headers.get("ratelimit-reset")
        if outcome.body is None or remaining is None or reset is None:
            return
        try:
            left, seconds = float(remaining), float(reset)
        except ValueError:
            return
        if left < 1 and seconds > 0:
            key = self._key(outcome.request)
            self._limiter.observe(key, 100.0)
            self._limiter.block(key, seconds, "RateLimit-Remaining is 0")

    def _refuse_foreign_link(self, body: Any) -> None:
        """A next page on another host is refused, though only its cursor would be taken."""
        link = find(body, "links", "next")
        host = urlsplit(str(link)).netloc if link else ""
        if host and host not in (urlsplit(self._base_url).netloc, KLAVIYO_HOST):
            raise self._stamp(error("RESPONSE_FOREIGN_LINK", f"links.next leads to {self._redact(host)}"))

    def _pace_error(self, request: Request, wait: float) -> PenstockError:
        if request.limit != REPORTS or wait <= LONGEST_RATE_LIMIT_S:
            return super()._pace_error(request, wait)
        return error(
            "KLAVIYO_DAILY_REPORT_LIMIT",
            f"the day's report calls are used up; the next is free in {wait:.0f} s",
            retry_after=wait,
            resets_at=self._after(wait),
        )


def read_fault(request: Request, answer: Answer, wait: float | None) -> Fault:
    try:
        body = answer.json()
    except PenstockError:
        body = None
    errors = find(body, "errors")
    first: Mapping[str, Any] = errors[0] if isinstance(errors, list) and errors and type(errors[0]) is dict else {}
    texts = [first.get("title"), first.get("detail"), source_of(first)]
    return Fault(
        status=answer.status,
        message=" | ".join(str(text) for text in texts if text) or f"HTTP {answer.status}: {answer.excerpt()}",
        code=str(first.get("code") or ""),
        request_id=str(first["id"]) if first.get("id") else None,
        family=request.limit,
        retry_after=wait,
    )


def source_of(details: Mapping[str, Any]) -> str | None:
    """Which part of the request was refused."""
    source = details.get("source")
    return str(source.get("pointer") or source.get("parameter") or "") if isinstance(source, dict) else None
