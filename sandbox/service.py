"""One call to a vendor, from arrival to the ledger: latency, faults, the handler, the answer.

A vendor's module makes its routes with `vendor_route`; its handlers get a `Call` and return a Starlette response.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sandbox.faults import Rule
from sandbox.state import State

JSON = "application/json"
DEFAULT_TIMEOUT_SECONDS = 600.0

HTML_PAGE = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"


@dataclass(slots=True)
class Call:
    """One call on its way.

    endpoint: name of the route, as the ledger counts it. account: the vendor's account id, "" when unknown.
    faults: the rules that hit it. body: the request's, whole.
    """

    request: Request
    state: State
    vendor: Vendor
    endpoint: str
    body: bytes = b""
    account: str = ""
    faults: tuple[Rule, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    def fault(self, action: str) -> Rule | None:
        """The rule of that action that hit this call, if any."""
        return next((rule for rule in self.faults if rule.action == action), None)

    def json(self) -> Any:
        """The request's body. Raises ValueError when it is not JSON."""
        return json.loads(self.body)

    @property
    def base_url(self) -> str:
        """Scheme, host and port of the server as the client sees them, without a slash at the end."""
        return str(self.request.base_url).rstrip("/")

    @property
    def mount_url(self) -> str:
        """Where the vendor's API is mounted: what a client has as the vendor's base URL."""
        return f"{self.base_url}{self.request.scope.get('root_path', '')}"


Handler = Callable[[Call], Awaitable[Response]]


class Vendor(Protocol):
    """What a vendor's module tells about itself."""

    @property
    def name(self) -> str: ...

    def account_of(self, call: Call) -> str:
        """The account that the call is for, as faults and ledger name it; "" when it cannot be told."""
        ...

    def failure(self, rule: Rule, call: Call) -> Response | None:
        """The vendor's own answer to a `status`, `expired_token` or `too_much_data` fault; None: the rule does not
        concern this call."""
        ...


def json_response(
    content: Any, status: int = 200, headers: dict[str, str] | None = None, media_type: str = JSON
) -> Response:
    """JSON as vendors send it: compact, non-ASCII escaped (so that any text, even a broken one, can be sent)."""
    body = json.dumps(content, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    return Response(body, status, headers, media_type)


def vendor_route(
    state: State, vendor: Vendor, path: str, endpoint: str, handler: Handler, methods: Sequence[str] = ("GET",)
) -> Route:
    """A route whose calls are delayed, spoiled and counted as the state says."""

    async def serve(request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is left to read it
        call = Call(request, state, vendor, endpoint, body)
        call.account = vendor.account_of(call)
        call.faults = state.faults.pick(vendor.name, request.method, request.url.path, call.account)
        if state.latency:
            await asyncio.sleep(state.latency)
        response = await _answer(call, handler)
        status = 0 if isinstance(response, Hangup) else response.status_code
        state.ledger.record(vendor.name, call.account, endpoint, status)
        return response

    return Route(path, serve, methods=list(methods), name=f"{vendor.name}:{endpoint}")


async def _answer(call: Call, handler: Handler) -> Response:
    """The handler's answer, or what a transport fault makes of it. A call that fails at the door is not worked."""
    for rule in call.faults:
        match rule.action:
            case "status" | "expired_token" | "too_much_data":
                failure = call.vendor.failure(rule, call)
                if failure is not None:
                    return failure
            case "html":
                return Response(HTML_PAGE, int(rule.params.get("status", 200)), media_type="text/html")
            case "drop":
                return Hangup()
            case "timeout":
                await asyncio.sleep(float(rule.params.get("seconds", DEFAULT_TIMEOUT_SECONDS)))
                return Hangup()
            case "slow":
                await asyncio.sleep(float(rule.params.get("seconds", 1)))
    response = await handler(call)
    cut = call.fault("truncate")
    return response if cut is None else _truncated(response, bool(cut.params.get("wrong_length", False)))


def _truncated(response: Response, has_wrong_length: bool) -> Response:
    half = bytes(response.body)[: len(response.body) // 2]
    if has_wrong_length:
        return Hangup(response, half)
    return Response(half, response.status_code, media_type=response.media_type)


class Hangup(Response):
    """Closes the connection: at once, or after the head of a response and a part of its body."""

    def __init__(self, response: Response | None = None, part: bytes = b"") -> None:
        super().__init__()
        self._response = response
        self._part = part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._response is not None:
            start = {"type": "http.response.start", "status": self._response.status_code}
            await send({**start, "headers": self._response.raw_headers})
            await send({"type": "http.response.body", "body": self._part, "more_body": True})
        transport: asyncio.Transport = scope["state"]["transport"]
        if self._response is None:
            transport.abort()
        else:
            transport.close()
        # The server must see the connection gone before this returns, or it would answer 500 in our place.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_disconnected(receive), 1)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class HangupProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which hands its connection to the application so that a fault can close it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}
