"""One Graph call: its parameters, who makes it, and how a list is cut into pages."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from sandbox import meta_errors as errors
from sandbox.faults import Rule
from sandbox.meta_errors import GraphError
from sandbox.service import Call
from sandbox.settings import meta_settings
from sandbox.shops import VendorAccount
from sandbox.state import State

DEFAULT_LIMIT = 25
"""https://developers.facebook.com/docs/graph-api/results : 25 when a call names no limit."""


@dataclass(slots=True)
class GraphRequest:
    """One call, alone or inside a batch, with its parameters from query and body together.

    path: without version and leading slash. base_url: where the API is mounted, without the version.
    faults: the rules that hit this call.
    """

    state: State
    base_url: str
    method: str
    version: str
    path: str
    params: dict[str, str]
    faults: tuple[Rule, ...] = ()

    @property
    def parts(self) -> list[str]:
        return [part for part in self.path.split("/") if part]

    @property
    def account_id(self) -> str:
        """The ad account named by the path, without `act_`; "" for none."""
        match = re.match(r"act_(\d+)(/|$)", self.path)
        return match[1] if match else ""

    def fault(self, *actions: str) -> Rule | None:
        """The rule of one of these actions that hit this call, if any."""
        return next((rule for rule in self.faults if rule.action in actions), None)

    def limit(self, most: int) -> int:
        """The `limit` parameter, cut to `most`. Raises GraphError."""
        value = self.params.get("limit", str(DEFAULT_LIMIT))
        if not value.isdigit() or int(value) < 1:
            raise errors.invalid_parameter("Param limit must be an integer greater than or equal to 1")
        return min(int(value), most)


@dataclass(frozen=True, slots=True)
class GraphAnswer:
    """Status, body and headers of one answer."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    def with_headers(self, headers: Mapping[str, str]) -> GraphAnswer:
        return replace(self, headers={**self.headers, **headers})


def read(call: Call) -> GraphRequest:
    """The Graph call that an HTTP request makes; a `method` parameter overrules a POST's method."""
    root = str(call.request.scope.get("root_path", ""))
    path = call.request.url.path.removeprefix(root).strip("/")
    version, _, rest = path.partition("/")
    params = dict(call.request.query_params)
    params.update(_body_params(call))
    header = call.request.headers.get("authorization", "")
    kind, _, token = header.partition(" ")
    if kind.lower() in ("bearer", "oauth") and token:
        params.setdefault("access_token", token.strip())
    method = call.request.method
    if method == "POST":
        method = params.pop("method", method).upper()
    return GraphRequest(call.state, f"{call.base_url}{root}", method, version, rest, params, call.faults)


def _body_params(call: Call) -> dict[str, str]:
    if not call.body:
        return {}
    if "json" in call.request.headers.get("content-type", ""):
        try:
            decoded = call.json()
        except ValueError:
            return {}
        values = decoded.items() if isinstance(decoded, dict) else ()
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values}
    return form_params(call.body.decode("utf-8", "replace"))


def form_params(text: str) -> dict[str, str]:
    """Parameters of a query string or of a form."""
    return dict(parse_qsl(text, keep_blank_values=True))


def check_version(request: GraphRequest) -> None:
    """Raises GraphError unless the version is one that still answers."""
    match = re.fullmatch(r"v(\d+)\.(\d+)", request.version)
    if match is None:
        raise errors.unknown_path("/".join((request.version, *request.parts)))
    if request.version in errors.LIVE_VERSIONS:
        return
    oldest = int(errors.LIVE_VERSIONS[0].partition(".")[0][1:])
    raise errors.version_over() if int(match[1]) < oldest else errors.unknown_path(request.version)


def authenticate(request: GraphRequest) -> VendorAccount:
    """The account whose system user's token came with the call. Raises GraphError.

    A proof that is sent must fit; one that the app requires must be sent.
    """
    token = request.params.get("access_token", "")
    if not token:
        raise errors.no_token(request.path)
    owner = owner_of(request.state, token)
    if owner is None:
        raise errors.malformed_token()
    proof = request.params.get("appsecret_proof")
    if proof is None and meta_settings(request.state, owner.account_id).requires_proof:
        raise errors.missing_proof()
    secret = owner.credentials["app_secret"]
    if proof is not None and secret:
        expected = hmac.new(secret.encode(), token.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(proof, expected):
            raise errors.invalid_proof()
    return owner


def owner_of(state: State, token: str) -> VendorAccount | None:
    """The account that a token is for."""
    return next(
        (account for account in state.business.accounts("META") if account.credentials["access_token"] == token), None
    )


# Paging: https://developers.facebook.com/docs/graph-api/results


def cursor(offset: int, mark: str = "") -> str:
    """An opaque cursor. `mark` tells cursors of one place apart."""
    return base64.urlsafe_b64encode(f"{offset}:{mark}".encode()).decode().rstrip("=")


def offset_of(after: str) -> int:
    """Where the page of this cursor begins. Raises GraphError for one that the server never gave."""
    try:
        text = base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)).decode("ascii")
        return int(text.partition(":")[0])
    except (binascii.Error, ValueError):
        raise errors.invalid_cursor() from None


def page(request: GraphRequest, items: Sequence[Any], limit: int) -> dict[str, Any]:
    """`data` and `paging` of one page. `paging.next` is a whole URL, token included, while more follows."""
    after = request.params.get("after", "")
    start = offset_of(after) if after else 0
    chosen = list(items[start : start + limit])
    body: dict[str, Any] = {"data": chosen}
    if not chosen:
        return body
    end = start + len(chosen)
    following = _following(request, after, start, end)
    paging: dict[str, Any] = {"cursors": {"before": cursor(start), "after": following}}
    if end < len(items) or request.fault("repeat_cursor", "duplicate_page"):
        paging["next"] = _next_url(request, following)
    return {**body, "paging": paging}


def _following(request: GraphRequest, after: str, start: int, end: int) -> str:
    if request.fault("repeat_cursor"):
        return after or cursor(start)
    if request.fault("duplicate_page"):
        return cursor(start, "again")
    return cursor(end)


def _next_url(request: GraphRequest, after: str) -> str:
    params = {**request.params, "after": after}
    return f"{request.base_url}/{request.version}/{request.path}?{urlencode(params)}"


def refused(error: GraphError, request: GraphRequest) -> GraphAnswer:
    """A refusal as an answer."""
    trace = errors.trace_id(request.path, request.state.clock.monotonic())
    headers = {"www-authenticate": error.challenge(), "cache-control": "no-store", "x-fb-trace-id": trace}
    return GraphAnswer(error.status, error.body(trace), headers)
