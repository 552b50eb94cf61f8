"""Klaviyo's door: revision, key, limits, parameters and error bodies.

Limits, parameters and filters are those of the contract of revision 2026-07-15
(https://github.com/klaviyo/openapi/blob/main/openapi/stable.json).
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.responses import Response

from sandbox import klaviyo_filters as filters
from sandbox.business import Business
from sandbox.faults import Rule
from sandbox.ledger import Decision, Window
from sandbox.service import Call
from sandbox.shops import VendorAccount, digest
from sandbox.state import State

MEDIA_TYPE = "application/vnd.api+json"
REVISIONS = ("2026-07-15", "2026-10-15")
"""The contract's revision and the one that klaviyo-api 25 sends."""

SUPPORT_DAYS = 2 * 365
"""A revision lives about two years (https://developers.klaviyo.com/en/docs/api_versioning_and_deprecation_policy)."""

MAX_YEAR_DAYS = 366
"""Longest time range of aggregates and reports."""

_SECOND, _MINUTE, _DAY = 1.0, 60.0, 86_400.0


def windows(burst: int, steady: int, daily: int | None = None) -> tuple[Window, ...]:
    """`x-klaviyo-ratelimit` of the contract as windows."""
    found = [Window(burst, _SECOND, "burst"), Window(steady, _MINUTE, "steady")]
    if daily is not None:
        found.append(Window(daily, _DAY, "daily"))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What one endpoint allows. `scope` is the one a key needs; `fields` the resource types of `fields[...]`."""

    name: str
    scope: str
    limits: tuple[Window, ...]
    parameters: tuple[str, ...] = ()
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sorts: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()
    page_size: int = 0
    max_page_size: int = 0

    def allows(self, parameter: str) -> bool:
        return parameter in self.parameters or parameter.startswith(("fields[", "additional-fields["))


class Refusal(Exception):
    """An answer that is an error, in Klaviyo's words."""

    def __init__(
        self, status: int, code: str, title: str, detail: str, source: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.source = source or {"pointer": "/data/"}
        self.headers: dict[str, str] = {}


def invalid(detail: str, source: Mapping[str, str] | None = None) -> Refusal:
    """400 for input that Klaviyo does not accept."""
    return Refusal(400, "invalid", "Invalid input.", detail, source)


def missing(what: str, identity: str) -> Refusal:
    """404 for an object that is not there."""
    return Refusal(404, "not_found", "Not found.", f"A {what} with id {identity} does not exist.")


def unauthenticated() -> Refusal:
    return Refusal(
        401,
        "authentication_failed",
        "Incorrect authentication credentials.",
        "Incorrect authentication credentials.",
    )


def throttled(retry_after: float) -> Refusal:
    seconds = max(1, math.ceil(retry_after))
    unit = "second" if seconds == 1 else "seconds"
    refusal = Refusal(
        429,
        "throttled",
        "Request was throttled.",
        f"Request was throttled. Expected available in {seconds} {unit}.",
    )
    refusal.headers["retry-after"] = str(seconds)
    return refusal


_BY_STATUS = {
    400: ("invalid", "Invalid input.", "The request was not understood."),
    401: ("authentication_failed", "Incorrect authentication credentials.", "Incorrect authentication credentials."),
    403: (
        "permission_denied",
        "You do not have permission to perform this action.",
        "The API key does not have the scope that this endpoint requires.",
    ),
    404: ("not_found", "Not found.", "The requested resource does not exist."),
    409: ("conflict", "Conflict.", "The request conflicts with the state of the resource."),
    410: ("gone", "Gone.", "The requested API revision is no longer available."),
    429: ("throttled", "Request was throttled.", "Request was throttled. Expected available in 1 second."),
    500: ("error", "Something went wrong.", "An unexpected error occurred."),
    503: ("service_unavailable", "Service unavailable.", "The service is temporarily unavailable."),
}


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON:API; text that is not ASCII is escaped, so that even a broken one can be sent."""
    body = content if isinstance(content, bytes) else json.dumps(content, separators=(",", ":")).encode("ascii")
    return Response(body, status, dict(headers or {}), MEDIA_TYPE)


def error_answer(call: Call, refusal: Refusal) -> Response:
    """An error body. Its id is what support asks for."""
    identity = f"{digest(call.request.url, refusal.code):016x}"
    error = {
        "id": f"{identity[:8]}-{identity[8:12]}-4000-8000-{identity[12:]}00000000",
        "status": refusal.status,
        "code": refusal.code,
        "title": refusal.title,
        "detail": refusal.detail,
        "source": dict(refusal.source),
        "links": {},
        "meta": {},
    }
    return answer({"errors": [error]}, refusal.status, refusal.headers)


class Klaviyo:
    """The vendor: keys, and its own words for faults."""

    name = "klaviyo"

    def __init__(self, business: Business, more: Sequence[VendorAccount] = ()) -> None:
        accounts = [*business.accounts("KLAVIYO"), *more]
        self._by_key = {account.credentials["api_key"]: account for account in accounts}

    def account(self, call: Call) -> VendorAccount | None:
        """The account of the call's key."""
        scheme, _, key = call.request.headers.get("authorization", "").partition(" ")
        return self._by_key.get(key.strip()) if scheme == "Klaviyo-API-Key" else None

    def account_of(self, call: Call) -> str:
        account = self.account(call)
        return account.account_id if account is not None else ""

    def failure(self, rule: Rule, call: Call) -> Response | None:
        if rule.action == "too_much_data":
            return None
        status = 401 if rule.action == "expired_token" else int(rule.params.get("status", 500))
        code, title, detail = _BY_STATUS.get(status, _BY_STATUS[500])
        refusal = Refusal(status, code, title, detail)
        if "retry_after" in rule.params:
            refusal.headers["retry-after"] = str(rule.params["retry_after"])
        return error_answer(call, refusal)


@dataclass(slots=True)
class Ask:
    """A call that came through the door."""

    call: Call
    account: VendorAccount
    endpoint: Endpoint
    query: dict[str, str]
    decision: Decision

    @property
    def state(self) -> State:
        return self.call.state

    @property
    def as_of(self) -> dt.date:
        return self.state.as_of(self.account)

    @property
    def base_url(self) -> str:
        """The vendor's base URL, to which `/api/...` is added."""
        return self.call.mount_url

    def conditions(self) -> tuple[filters.Condition, ...]:
        """The conditions of `filter`. Raises Refusal."""
        text = self.query.get("filter", "")
        if not text:
            return ()
        try:
            return filters.parse(text, self.endpoint.filters)
        except filters.FilterError as error:
            raise invalid(str(error), {"parameter": "filter"}) from error

    def includes(self) -> frozenset[str]:
        """The names in `include`. Raises Refusal."""
        names = frozenset(name for name in self.query.get("include", "").split(",") if name)
        unknown = names - set(self.endpoint.includes)
        if unknown:
            raise invalid(f"'{min(unknown)}' is not a valid value for 'include'.", {"parameter": "include"})
        return names

    def sort(self, default: str) -> str:
        """The sort key, with `-` for descending. Raises Refusal."""
        key = self.query.get("sort", default)
        if key.lstrip("-") not in self.endpoint.sorts:
            raise invalid(f"'{key}' is not a valid sort key.", {"parameter": "sort"})
        return key

    def page_size(self) -> int:
        """`page[size]`, or the endpoint's default. Raises Refusal."""
        text = self.query.get("page[size]")
        if text is None:
            return self.endpoint.page_size
        if not text.isdecimal() or not 1 <= int(text) <= self.endpoint.max_page_size:
            raise invalid(
                f"Page size must be an integer between 1 and {self.endpoint.max_page_size}.",
                {"parameter": "page[size]"},
            )
        return int(text)

    def cursor(self) -> dict[str, Any]:
        """What `page[cursor]` holds; empty on the first page. Raises Refusal."""
        text = self.query.get("page[cursor]", "")
        return decode_cursor(text) if text else {}

    def url(self, cursor: Mapping[str, Any] | None = None) -> str:
        """This call's URL, with another cursor."""
        query = [(name, value) for name, value in self.query.items() if cursor is None or name != "page[cursor]"]
        if cursor is not None:
            query.append(("page[cursor]", encode_cursor(cursor)))
        base = f"{self.base_url}/api/{self.endpoint.name}"
        return f"{base}?{urlencode(query)}" if query else base

    def links(self, following: Mapping[str, Any] | None) -> dict[str, str | None]:
        """`links` of a page; faults may let the next page be this one."""
        here = self.cursor()
        if self.call.fault("repeat_cursor") is not None:
            return {"self": self.url(), "next": self.url({**here, "start": 1}), "prev": None}
        if following is not None and self.call.fault("duplicate_page") is not None and not here.get("again"):
            following = {**here, "again": 1}
        return {"self": self.url(), "next": self.url(following) if following is not None else None, "prev": None}


def encode_cursor(cursor: Mapping[str, Any]) -> str:
    """An opaque text."""
    return base64.urlsafe_b64encode(json.dumps(cursor, separators=(",", ":")).encode()).decode().rstrip("=")


def decode_cursor(text: str) -> dict[str, Any]:
    """What `encode_cursor` made. Raises Refusal."""
    try:
        cursor = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error) as error:
        raise invalid("The page cursor is not valid.", {"parameter": "page[cursor]"}) from error
    if not isinstance(cursor, dict):
        raise invalid("The page cursor is not valid.", {"parameter": "page[cursor]"})
    return cursor


def admit(vendor: Klaviyo, call: Call, endpoint: Endpoint) -> Ask:
    """Let a call in. Raises Refusal: wrong revision, no key, wrong key, too fast, unknown parameter."""
    _check_revision(call.request.headers.get("revision"))
    account = _authenticate(vendor, call)
    query = _query(call)
    family, limits = _family(endpoint, query)
    now = call.state.clock.monotonic()
    decision = call.state.ledger.take(vendor.name, account.account_id, family, limits, now)
    if not decision.is_granted:
        raise throttled(decision.retry_after)
    _check_parameters(endpoint, query)
    return Ask(call, account, endpoint, query, decision)


def rate_headers(decision: Decision) -> dict[str, str]:
    """`RateLimit-*` of the steady window, which answers other than 429 carry."""
    return {
        "ratelimit-limit": str(decision.window.count),
        "ratelimit-remaining": str(decision.remaining),
        "ratelimit-reset": str(math.ceil(decision.reset)),
    }


def _check_revision(revision: str | None) -> None:
    if not revision:
        raise invalid("The 'revision' header is required.", {"parameter": "revision"})
    base = revision.removesuffix(".pre")
    if base in REVISIONS:
        return
    try:
        day = dt.date.fromisoformat(base)
    except ValueError as error:
        raise invalid(f"'{revision}' is not a valid API revision.", {"parameter": "revision"}) from error
    if (dt.date.fromisoformat(REVISIONS[0]) - day).days > SUPPORT_DAYS:
        raise Refusal(410, "gone", "Gone.", f"The API revision {revision} is no longer available.")
    raise invalid(f"'{revision}' is not a valid API revision.", {"parameter": "revision"})


def _authenticate(vendor: Klaviyo, call: Call) -> VendorAccount:
    header = call.request.headers.get("authorization", "")
    if not header.startswith("Klaviyo-API-Key "):
        raise Refusal(
            401,
            "not_authenticated",
            "Authentication credentials were not provided.",
            "Missing or invalid authorization scheme. Please use Klaviyo-API-Key.",
        )
    account = vendor.account(call)
    if account is None:
        raise unauthenticated()
    return account


def _query(call: Call) -> dict[str, str]:
    return dict(parse_qsl(call.request.url.query, keep_blank_values=True))


_PREDICTIVE = windows(10, 150)


def _family(endpoint: Endpoint, query: Mapping[str, str]) -> tuple[str, tuple[Window, ...]]:
    """Profiles with predictive analytics have tighter limits of their own."""
    if "predictive_analytics" in query.get("additional-fields[profile]", "").split(","):
        return f"{endpoint.name}:predictive_analytics", _PREDICTIVE
    return endpoint.name, endpoint.limits


def _check_parameters(endpoint: Endpoint, query: Mapping[str, str]) -> None:
    for name in query:
        if not endpoint.allows(name):
            raise invalid(f"'{name}' is not a valid query parameter for this endpoint.", {"parameter": name})


def body_attributes(ask: Ask, kind: str) -> Mapping[str, Any]:
    """The attributes of the body's one object. Raises Refusal."""
    try:
        body = ask.call.json()
    except ValueError as error:
        raise invalid("The request's body is not valid JSON.") from error
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, dict) or data.get("type") != kind or not isinstance(data.get("attributes"), dict):
        raise invalid(
            f"The body must be {{'data': {{'type': '{kind}', 'attributes': {{...}}}}}}.", {"pointer": "/data"}
        )
    attributes: Mapping[str, Any] = data["attributes"]
    return attributes


def field_of(name: str) -> dict[str, str]:
    return {"pointer": f"/data/attributes/{name}"}


def refuse_unknown(body: Mapping[str, Any], known: frozenset[str]) -> None:
    unknown = set(body) - known
    if unknown:
        raise invalid(f"'{min(unknown)}' is not a valid field.", field_of(min(unknown)))
