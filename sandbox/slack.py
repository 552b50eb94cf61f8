"""Slack's Web API: auth.test, chat.postMessage, conversations.open, .history and .join, users.lookupByEmail.

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
from sandbox.service import Call, Handler, Hangup, json_response, vendor_route
from sandbox.shops import digest
from sandbox.slack_store import (
    ARCHIVED,
    CHANNELS,
    JOINABLE,
    NOT_INVITED,
    channel_of,
    direct,
    is_user,
    message_error,
    store_of,
    user_by_email,
)
from sandbox.state import State

TEAM_ID, TEAM, BOT, BOT_USER = "T0SANDBOX", "Sandbox", "B0SANDBOX", "U0SANDBOX"
TIER_3, TIER_4 = (Window(50, 60.0, "tier 3"),), (Window(100, 60.0, "tier 4"),)
PER_METHOD: Mapping[str, tuple[Window, ...]] = {
    "auth.test": TIER_4,
    "conversations.open": TIER_3,
    "conversations.join": TIER_3,
    "users.lookupByEmail": TIER_3,
}
"""chat.postMessage is not among them: it has a limit per channel, and one per workspace that Slack does not tell."""

__all__ = ["CHANNELS", "revoked_token", "routes", "token"]

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
        "conversations.join": _join,
        "users.lookupByEmail": _lookup,
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
        windows = _windows(state, name)
        if windows:
            decision = state.ledger.take(vendor.name, TEAM_ID, name, windows, state.clock.monotonic())
            if not decision.is_granted:
                return _limited(decision.retry_after)
        return method(call, arguments)

    return handle


def _windows(state: State, method: str) -> tuple[Window, ...]:
    switches = store_of(state).switches
    match method:
        case "conversations.history":
            return (Window(switches.history_per_minute, 60.0, "tier 3"),)
        case "chat.postMessage" if switches.workspace_per_minute:
            return (Window(switches.workspace_per_minute, 60.0, "workspace"),)
    return PER_METHOD.get(method, ())


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


def _post_message(call: Call, arguments: Mapping[str, Any]) -> Response:
    state = call.state
    store = store_of(state)
    channel = channel_of(str(arguments.get("channel", "")))
    error = _channel_error(state, channel) or message_error(arguments)
    if channel is None or error is not None:
        return refusal(error or "channel_not_found")
    # https://docs.slack.dev/apis/web-api/rate-limits; bursts are not forgiven here.
    windows = (Window(1, store.switches.channel_seconds, "per channel"),)
    decision = state.ledger.take("slack", channel, "chat.postMessage per channel", windows, state.clock.monotonic())
    if not decision.is_granted:
        return _limited(decision.retry_after)
    message: dict[str, Any] = {
        "type": "message",
        "subtype": "bot_message",
        "text": str(arguments.get("text", "")),
        "bot_id": BOT,
        "username": str(arguments.get("username", "sandbox")),
        "team": TEAM_ID,
    }
    for name in ("blocks", "attachments", "metadata", "thread_ts"):
        if name in arguments:
            message[name] = arguments[name]
    # Slack's own clock, not the shifted one of the data: senders compare its time stamps with theirs.
    stored = store.add(channel, message, state.clock.real())
    return _spoiled(call) or json_response({"ok": True, "channel": channel, "ts": stored["ts"], "message": stored})


def _spoiled(call: Call) -> Response | None:
    """The answer to a message that was stored, and whose sender is not to know it."""
    if call.fault("stored_then_drop"):
        return Hangup()
    rule = call.fault("stored_then_status")
    if rule is None:
        return None
    return json_response({"ok": False, "error": "internal_error"}, int(rule.params.get("status", 500)))


def _channel_error(state: State, channel: str | None) -> str | None:
    store = store_of(state)
    match channel:
        case None:
            return "channel_not_found"
        case identity if identity in store.switches.errors:
            return store.switches.errors[identity]
        case identity if identity == ARCHIVED:
            return "is_archived"
        case identity if identity == NOT_INVITED or (identity == JOINABLE and identity not in store.joined):
            return "not_in_channel"
    return None


def _join(call: Call, arguments: Mapping[str, Any]) -> Response:
    channel = str(arguments.get("channel", ""))
    if channel_of(channel) is None:
        return refusal("channel_not_found")
    if channel == NOT_INVITED:
        return refusal("method_not_supported_for_channel_type")
    store_of(call.state).joined.add(channel)
    return json_response({"ok": True, "channel": {"id": channel}})


def _open(call: Call, arguments: Mapping[str, Any]) -> Response:
    user = str(arguments.get("users", ""))
    if not is_user(user):
        return refusal("user_not_found")
    return json_response({"ok": True, "channel": {"id": direct(user)}})


def _lookup(call: Call, arguments: Mapping[str, Any]) -> Response:
    user = user_by_email(str(arguments.get("email", "")))
    if user is None:
        return refusal("users_not_found")
    return json_response({"ok": True, "user": {"id": user, "team_id": TEAM_ID, "is_bot": False}})


def _history(call: Call, arguments: Mapping[str, Any]) -> Response:
    """Messages of a channel, newest first, a page at a time. It takes ids only, and shows metadata when asked."""
    store = store_of(call.state)
    channel = str(arguments.get("channel", ""))
    if store.switches.history_error:
        return refusal(store.switches.history_error)
    if channel_of(channel) != channel:
        return refusal("channel_not_found")
    limit = int(arguments.get("limit", 100))
    cursor = str(arguments.get("cursor", ""))
    start = int(cursor) if cursor.isdecimal() else 0
    shown_until = call.state.clock.real() - store.switches.history_lag
    oldest, latest = float(arguments.get("oldest", 0)), float(arguments.get("latest", math.inf))
    found = store.history(channel, oldest, min(latest, shown_until))
    has_more = start + limit < len(found)
    hidden = set() if str(arguments.get("include_all_metadata", "")).lower() in ("true", "1") else {"metadata"}
    page = [{name: value for name, value in each.items() if name not in hidden} for each in found]
    return json_response(
        {
            "ok": True,
            "messages": page[start : start + limit],
            "has_more": has_more,
            "response_metadata": {"next_cursor": str(start + limit) if has_more else ""},
        }
    )
