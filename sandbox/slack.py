"""Slack's Web API: auth.test, chat.postMessage, conversations.open and conversations.history.

Mounted under /slack; the SDK's base URL is <server>/slack/api/. Methods, errors and limits:
https://docs.slack.dev/reference/methods/chat.postMessage
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.responses import Response
from starlette.routing import Route

from sandbox.faults import Rule
from sandbox.ledger import Window
from sandbox.service import Call, Handler, json_response, vendor_route
from sandbox.shops import digest
from sandbox.state import State

TEAM_ID, TEAM, BOT, BOT_USER = "T0SANDBOX", "Sandbox", "B0SANDBOX", "U0SANDBOX"
MAX_TEXT = 40_000
"""Longer texts are refused (msg_too_long)."""

MAX_BLOCKS = 50
PER_CHANNEL = (Window(1, 1.0, "per channel"),)
"""One message a second and channel (https://docs.slack.dev/apis/web-api/rate-limits); bursts are not forgiven here."""

PER_METHOD = (Window(100, 60.0, "tier 4"),)

CHANNELS: Mapping[str, str] = {
    "C00ALERTS": "alerts",
    "C0REPORTS": "reports",
    "C0ARCHIVED": "old-alerts",
    "C0PRIVATE": "not-invited",
}
ARCHIVED, NOT_INVITED = "C0ARCHIVED", "C0PRIVATE"
USERS = ("U0ANNA", "U0OMAR")

Method = Callable[[Call, Mapping[str, Any]], Response]


def token(state: State) -> str:
    """The one bot token that is good."""
    return f"xoxb-{digest(state.seed, 'slack')}-sandbox"


def revoked_token(state: State) -> str:
    """A token that was good once."""
    return f"xoxb-{digest(state.seed, 'slack revoked')}-revoked"


class Slack:
    """The vendor. A fault's `params.error` is the error that Slack names in a 200."""

    name = "slack"

    def account_of(self, call: Call) -> str:
        return TEAM_ID

    def failure(self, rule: Rule, call: Call) -> Response | None:
        match rule.action:
            case "expired_token":
                return refusal("token_expired")
            case "status":
                status = int(rule.params.get("status", 500))
                headers = {"retry-after": str(rule.params["retry_after"])} if "retry_after" in rule.params else None
                error = rule.params.get("error", "ratelimited" if status == 429 else "internal_error")
                return json_response({"ok": False, "error": error}, status, headers)
            case _:
                return None


def routes(state: State) -> list[Route]:
    """POST (and GET, as Slack takes it) /api/<method>."""
    methods: dict[str, Method] = {
        "auth.test": _auth_test,
        "chat.postMessage": _post_message,
        "conversations.open": _open,
        "conversations.history": _history,
    }
    vendor = Slack()
    return [
        vendor_route(state, vendor, f"/api/{name}", name, _handler(vendor, name, method), ("GET", "POST"))
        for name, method in methods.items()
    ]


def refusal(error: str, **more: Any) -> Response:
    """An error as Slack tells it: HTTP 200, `ok` false."""
    return json_response({"ok": False, "error": error, **more})


def _limited(retry_after: float) -> Response:
    headers = {"retry-after": str(max(1, math.ceil(retry_after)))}
    return json_response({"ok": False, "error": "ratelimited"}, 429, headers)


def _handler(vendor: Slack, name: str, method: Method) -> Handler:
    async def handle(call: Call) -> Response:
        try:
            arguments = _arguments(call)
        except ValueError:
            return refusal("invalid_json")
        error = _token_error(call, arguments)
        if error is not None:
            return refusal(error)
        state = call.state
        decision = state.ledger.take(vendor.name, TEAM_ID, name, PER_METHOD, state.clock.monotonic())
        return method(call, arguments) if decision.is_granted else _limited(decision.retry_after)

    return handle


def _arguments(call: Call) -> Mapping[str, Any]:
    """Arguments from a JSON body, a form or the query. Raises ValueError."""
    query = dict(call.request.query_params)
    if call.request.headers.get("content-type", "").startswith("application/json"):
        body = call.json() if call.body else {}
        if not isinstance(body, dict):
            raise ValueError("the body must be an object")
        return query | body
    form = dict(parse_qsl(call.body.decode("utf-8", "replace"), keep_blank_values=True))
    for name in ("blocks", "attachments", "metadata"):
        if name in form:
            form[name] = json.loads(form[name])
    return query | form


def _token_error(call: Call, arguments: Mapping[str, Any]) -> str | None:
    scheme, _, given = call.request.headers.get("authorization", "").partition(" ")
    if scheme != "Bearer":
        given = str(arguments.get("token", ""))
    if not given:
        return "not_authed"
    if given == revoked_token(call.state):
        return "token_revoked"
    return None if given == token(call.state) else "invalid_auth"


def _auth_test(call: Call, arguments: Mapping[str, Any]) -> Response:
    return json_response(
        {
            "ok": True,
            "url": "https://sandbox.slack.com/",
            "team": TEAM,
            "user": "sandbox",
            "team_id": TEAM_ID,
            "user_id": BOT_USER,
            "bot_id": BOT,
            "is_enterprise_install": False,
        }
    )


def _channel_of(arguments: Mapping[str, Any]) -> str | None:
    """The id of a channel that is named by id or by name; a user's id is the direct message with them."""
    wanted = str(arguments.get("channel", ""))
    if wanted in USERS:
        return _direct(wanted)
    if wanted in CHANNELS or wanted in {_direct(user) for user in USERS}:
        return wanted
    return next((identity for identity, name in CHANNELS.items() if name == wanted.removeprefix("#")), None)


def _direct(user: str) -> str:
    return f"D00000{user[2:]}"


def _post_message(call: Call, arguments: Mapping[str, Any]) -> Response:
    channel = _channel_of(arguments)
    error = _message_error(channel, arguments)
    if channel is None or error is not None:
        return refusal(error or "channel_not_found")
    state = call.state
    decision = state.ledger.take("slack", channel, "chat.postMessage per channel", PER_CHANNEL, state.clock.monotonic())
    if not decision.is_granted:
        return _limited(decision.retry_after)
    messages: list[dict[str, Any]] = state.remembered("slack").setdefault("messages", [])
    ts = f"{state.clock.now().timestamp():.6f}"
    message = {
        "type": "message",
        "subtype": "bot_message",
        "text": str(arguments.get("text", "")),
        "ts": ts,
        "bot_id": BOT,
        "username": str(arguments.get("username", "sandbox")),
        "team": TEAM_ID,
    }
    for name in ("blocks", "attachments", "metadata", "thread_ts"):
        if name in arguments:
            message[name] = arguments[name]
    messages.append({"channel": channel, **message})
    return json_response({"ok": True, "channel": channel, "ts": ts, "message": message})


def _message_error(channel: str | None, arguments: Mapping[str, Any]) -> str | None:
    blocks = arguments.get("blocks") or []
    match channel:
        case None:
            return "channel_not_found"
        case identity if identity == ARCHIVED:
            return "is_archived"
        case identity if identity == NOT_INVITED:
            return "not_in_channel"
    if not arguments.get("text") and not blocks and not arguments.get("attachments"):
        return "no_text"
    if len(str(arguments.get("text", ""))) > MAX_TEXT:
        return "msg_too_long"
    if not isinstance(blocks, list) or any(not isinstance(block, dict) or "type" not in block for block in blocks):
        return "invalid_blocks_format"
    return "invalid_blocks" if len(blocks) > MAX_BLOCKS or any(_is_bad(block) for block in blocks) else None


def _is_bad(block: Mapping[str, Any]) -> bool:
    """A section whose text is empty or over 3,000 characters; a header over 150."""
    limit = {"section": 3000, "header": 150}.get(str(block["type"]))
    text = block.get("text")
    if limit is None or not isinstance(text, Mapping):
        return False
    return not 0 < len(str(text.get("text", ""))) <= limit


def _open(call: Call, arguments: Mapping[str, Any]) -> Response:
    user = str(arguments.get("users", ""))
    if user not in USERS:
        return refusal("user_not_found")
    return json_response({"ok": True, "channel": {"id": _direct(user)}})


def _history(call: Call, arguments: Mapping[str, Any]) -> Response:
    """Messages of a channel, newest first, a page at a time."""
    channel = _channel_of(arguments)
    if channel is None:
        return refusal("channel_not_found")
    limit = int(arguments.get("limit", 100))
    cursor = str(arguments.get("cursor", ""))
    start = int(cursor) if cursor.isdecimal() else 0
    oldest, latest = float(arguments.get("oldest", 0)), float(arguments.get("latest", math.inf))
    found = [
        {name: value for name, value in each.items() if name != "channel"}
        for each in reversed(call.state.remembered("slack").get("messages", []))
        if each["channel"] == channel and oldest < float(each["ts"]) < latest
    ]
    has_more = start + limit < len(found)
    return json_response(
        {
            "ok": True,
            "messages": found[start : start + limit],
            "has_more": has_more,
            "response_metadata": {"next_cursor": str(start + limit) if has_more else ""},
        }
    )
