"""Google Calendar API v3: events, the batch endpoint, quotas. Mounted under /google.

An account's own calendars are `primary` (its e-mail address) and every id `c_<name>_...`, name being what its address
has before the @; calendars `r_<name>_...` it may only read. Deleted events keep their id, as Google's do.
Quotas: https://developers.google.com/workspace/calendar/api/guides/quota
"""

from __future__ import annotations

import email
import email.policy
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from starlette.responses import Response
from starlette.routing import Route

from sandbox import google_calendar_events as events
from sandbox import google_fields, google_token
from sandbox.faults import Rule
from sandbox.google_calendar_events import MODULE, Refusal
from sandbox.ledger import Window
from sandbox.service import Call, json_response, vendor_route
from sandbox.state import State

NAME = "google_calendar"
SCOPES = frozenset(
    {
        "https://www.googleapis.com/auth/calendar",
        "https://www.googleapis.com/auth/calendar.events",
        "https://www.googleapis.com/auth/calendar.events.owned",
    }
)
MAX_PARTS = 1000
"""Calls in one batch: https://developers.google.com/workspace/calendar/api/guides/batch"""

LIMITS: Mapping[str, Window] = {
    "user": Window(600, 60.0, "per user and project"),
    "project": Window(10_000, 60.0, "per project"),
    # Not documented by number: five changes a second, averaged over ten.
    "calendar": Window(50, 10.0, "changes of one calendar"),
}
_PATH = re.compile(r"/calendar/v3/calendars/(?P<calendar>[^/]+)/events(?:/(?P<event>[^/]+))?/?")
_OPERATIONS = {
    ("GET", False): "list",
    ("POST", False): "insert",
    ("GET", True): "get",
    ("PUT", True): "update",
    ("PATCH", True): "patch",
    ("DELETE", True): "delete",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One call, sent alone or in a batch. Headers have small letters."""

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None


class GoogleCalendar:
    """The vendor. A `status` fault takes `status`, `reason`, `retry_after`, and `stored`: the work is done all the
    same, which only parts of a batch know."""

    name = NAME

    def account_of(self, call: Call) -> str:
        return user_of(call.state, call.request.headers.get("authorization", ""))[0] or ""

    def failure(self, rule: Rule, call: Call) -> Response | None:
        answer = fault_answer(rule)
        return json_response(answer.body, answer.status, dict(answer.headers or {}))


def routes(state: State) -> list[Route]:
    """/calendar/v3/calendars/{calendarId}/events[/{eventId}] and /batch/calendar/v3."""
    vendor = GoogleCalendar()
    base = "/calendar/v3/calendars/{calendar}/events"
    return [
        vendor_route(state, vendor, "/batch/calendar/v3", "batch", _batch, ("POST",)),
        vendor_route(state, vendor, base, "events", _single, ("GET", "POST")),
        vendor_route(state, vendor, base + "/{event}", "event", _single, ("GET", "PUT", "PATCH", "DELETE")),
    ]


def user_of(state: State, authorization: str) -> tuple[str | None, bool]:
    """Whose access token it is, and whether it covers calendars. None: it is no good."""
    token = authorization.removeprefix("Bearer ").strip()
    known = state.tokens.valid(token)
    if known is None or google_token.is_revoked(state, token):
        return None, False
    return known.subject, bool(known.scopes & SCOPES)


def fault_answer(rule: Rule) -> Answer:
    """What a `status` or `expired_token` fault answers."""
    if rule.action == "expired_token":
        return _refused(Refusal(401, "authError", "Invalid Credentials"))
    status = int(rule.params.get("status", 500))
    reason = str(
        rule.params.get("reason") or {429: "rateLimitExceeded", 403: "rateLimitExceeded"}.get(status, "backendError")
    )
    return _refused(Refusal(status, reason, f"sandbox fault {reason}", rule.params.get("retry_after")))


async def _single(call: Call) -> Response:
    request = call.request
    path = unquote_mount(request.scope.get("raw_path", request.url.path.encode()).decode())
    headers = {name.lower(): value for name, value in request.headers.items()}
    part = Part(request.method, path, parse_qsl(request.url.query, keep_blank_values=True), headers, call.body)
    answer = work(call.state, part, headers.get("authorization", ""), in_batch=0)
    if answer.body is None:
        return Response(status_code=answer.status, headers=dict(answer.headers or {}))
    return json_response(answer.body, answer.status, dict(answer.headers or {}))


def unquote_mount(raw_path: str) -> str:
    """The path below the mount, still quoted."""
    return raw_path[raw_path.index("/calendar/v3/") :]


async def _batch(call: Call) -> Response:
    """Each part is answered by itself; the whole is always 200."""
    content_type = call.request.headers.get("content-type", "")
    message = email.message_from_bytes(
        f"Content-Type: {content_type}\r\n\r\n".encode() + call.body, policy=email.policy.HTTP
    )
    if message.get_content_type() != "multipart/mixed" or not message.is_multipart():
        return json_response(_refused(Refusal(400, "badRequest", "Failed to parse batch request")).body, 400)
    parts = [
        (str(piece.get("Content-ID", "")), bytes(piece.get_payload(decode=True))) for piece in message.iter_parts()
    ]
    if not 0 < len(parts) <= MAX_PARTS:
        return json_response(_refused(Refusal(400, "badRequest", f"{len(parts)} calls in a batch")).body, 400)
    outer = call.request.headers.get("authorization", "")
    boundary = f"batch_{uuid.uuid4().hex}"
    pieces = [
        _answer_part(boundary, content_id, work(call.state, part, outer, in_batch=len(parts)))
        for content_id, part in ((content_id, parse_part(payload)) for content_id, payload in parts)
    ]
    body = b"".join(pieces) + f"--{boundary}--\r\n".encode()
    return Response(body, 200, media_type=f"multipart/mixed; boundary={boundary}")


def parse_part(payload: bytes) -> Part:
    """An HTTP request in a part of type application/http."""
    head, _, body = payload.replace(b"\r\n", b"\n").partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    method, _, rest = first.partition(" ")
    target = urlsplit(rest.rpartition(" HTTP/")[0] or rest)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    path = target.path[max(0, target.path.find("/calendar/v3/")) :]
    return Part(method, path, parse_qsl(target.query, keep_blank_values=True), headers, body)


def _answer_part(boundary: str, content_id: str, answer: Answer) -> bytes:
    head = [
        f"--{boundary}",
        "Content-Type: application/http",
        f"Content-ID: <response-{content_id.strip('<>')}>",
        "",
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        *(f"{name}: {value}" for name, value in (answer.headers or {}).items()),
    ]
    content = b""
    if answer.body is not None:
        content = json.dumps(answer.body).encode()
        head += ["Content-Type: application/json; charset=UTF-8", f"Content-Length: {len(content)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content + b"\r\n"


def work(state: State, part: Part, authorization: str, *, in_batch: int) -> Answer:
    """One call: who asks, quota, faults, the work; remembered whatever comes of it."""
    match = _PATH.fullmatch(part.path)
    operation = _OPERATIONS.get((part.method, match is not None and match["event"] is not None))
    if match is None or operation is None:
        return _refused(Refusal(404, "notFound", "Not Found"))
    user, has_scope = user_of(state, part.headers.get("authorization") or authorization)
    calendar_id = _full_id(unquote(match["calendar"]), user or "")
    event_id = unquote(match["event"] or "")
    rules = state.faults.pick(NAME, part.method, part.path, user or "") if in_batch else ()
    rule = next((rule for rule in rules if rule.action in ("status", "expired_token")), None)
    try:
        if rule is not None and not rule.params.get("stored"):
            answer = fault_answer(rule)
        else:
            answer = _permitted(state, part, operation, user, has_scope, calendar_id, event_id)
            answer = _partial(answer, part) if operation in ("get", "list") else answer
            answer = fault_answer(rule) if rule is not None else answer
    except Refusal as refusal:
        answer = _refused(refusal)
    remember(state, operation, user or "", calendar_id, event_id, answer, dict(part.query), in_batch)
    return answer


def _permitted(
    state: State, part: Part, operation: str, user: str | None, has_scope: bool, calendar_id: str, event_id: str
) -> Answer:
    if user is None:
        raise Refusal(401, "authError", "Invalid Credentials")
    if not has_scope:
        raise Refusal(403, "insufficientPermissions", "Request had insufficient authentication scopes.")
    is_write = operation not in ("get", "list")
    _take_quota(state, user, calendar_id if is_write else None)
    _check_access(user, calendar_id, is_write)
    calendar = events.calendar_of(state, calendar_id)
    etag = part.headers.get("if-match")
    match operation:
        case "list":
            return Answer(200, events.listing(calendar, part.query))
        case "get":
            return _with_etag(events.get(calendar, event_id))
        case "delete":
            events.delete(state, calendar, event_id, etag)
            return Answer(204)
        case "insert":
            return _with_etag(events.insert(state, calendar, _body(part)))
        case _:
            changed = events.change(state, calendar, event_id, _body(part), etag, is_patch=operation == "patch")
            return _with_etag(changed)


def _with_etag(event: Mapping[str, Any]) -> Answer:
    return Answer(200, event, {"ETag": event["etag"]})


def _partial(answer: Answer, part: Part) -> Answer:
    fields = dict(part.query).get("fields")
    return replace(answer, body=google_fields.selected(answer.body, fields)) if fields else answer


def _body(part: Part) -> Mapping[str, Any]:
    try:
        body = json.loads(part.body)
    except ValueError as error:
        raise Refusal(400, "parseError", "Parse Error") from error
    if not isinstance(body, Mapping):
        raise Refusal(400, "parseError", "Parse Error")
    return body


def _full_id(calendar_id: str, user: str) -> str:
    return user if calendar_id == "primary" else calendar_id


def _check_access(user: str, calendar_id: str, is_write: bool) -> None:
    name = user.partition("@")[0]
    if calendar_id == user or calendar_id.startswith(f"c_{name}_"):
        return
    if not calendar_id.startswith(f"r_{name}_"):
        raise Refusal(404, "notFound", "Not Found")
    if is_write:
        raise Refusal(403, "requiredAccessLevel", "You need to have writer access to this calendar.")


def limits(state: State) -> Mapping[str, Window]:
    changed: Mapping[str, Window] = state.remembered(MODULE).get("limits", {})
    return {**LIMITS, **changed}


def _take_quota(state: State, user: str, changed_calendar: str | None) -> None:
    windows, now = limits(state), state.clock.monotonic()
    asked = [("project", "", "rateLimitExceeded"), ("user", user, "userRateLimitExceeded")]
    if changed_calendar is not None:
        asked.append(("calendar", changed_calendar, "rateLimitExceeded"))
    for family, account, reason in asked:
        decision = state.ledger.take(NAME, account, family, (windows[family],), now)
        if not decision.is_granted:
            raise Refusal(403, reason, "Rate Limit Exceeded")


def _refused(refusal: Refusal) -> Answer:
    error = {"domain": "usageLimits" if "imit" in refusal.reason else "global", "reason": refusal.reason}
    body = {
        "error": {
            "errors": [{**error, "message": refusal.message}],
            "code": refusal.status,
            "message": refusal.message,
        }
    }
    headers = {} if refusal.retry_after is None else {"Retry-After": f"{refusal.retry_after:g}"}
    return Answer(refusal.status, body, headers)


def remember(
    state: State,
    operation: str,
    user: str,
    calendar_id: str,
    event_id: str,
    answer: Answer,
    query: Mapping[str, str],
    in_batch: int,
) -> None:
    """Keep the call for people and tests. in_batch: calls of the same batch, 0 for one that came alone."""
    if in_batch:
        state.ledger.record(NAME, user, f"batched {operation}", answer.status)
    made = str((answer.body or {}).get("id", "")) if operation == "insert" else ""
    state.remembered(MODULE).setdefault("calls", []).append(
        {
            "operation": operation,
            "user": user,
            "calendar_id": calendar_id,
            "event_id": event_id or made,
            "status": answer.status,
            "in_batch": in_batch,
            "send_updates": query.get("sendUpdates"),
        }
    )
