"""Doors of the sandbox that Google does not have: accounts, what a person sees, revoking, editing by hand, limits."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox import google_calendar_events as events
from sandbox import google_token
from sandbox.google_calendar_events import MODULE, Refusal
from sandbox.ledger import Window
from sandbox.state import State

MAX_ACCOUNTS = 500


def routes(state: State) -> list[Route]:
    """The doors under /sandbox/calendar."""
    door = _Door(state)
    table: tuple[tuple[str, str, Callable[[Request], Awaitable[Response]]], ...] = (
        ("GET", "accounts", door.accounts),
        ("GET", "events", door.events),
        ("GET", "calls", door.calls),
        ("POST", "revoke", door.revoke),
        ("POST", "connect", door.connect),
        ("POST", "edit", door.edit),
        ("PUT", "limits", door.set_limits),
        ("PUT", "settings", door.set_settings),
    )
    return [Route(f"/sandbox/calendar/{path}", handler, methods=[method]) for method, path, handler in table]


class _Door:
    def __init__(self, state: State) -> None:
        self._state = state

    async def accounts(self, request: Request) -> Response:
        """?count=: so many accounts, each with the refresh token of its last grant."""
        count = min(int(request.query_params.get("count", "1")), MAX_ACCOUNTS)
        tokens = self._state.tokens
        return JSONResponse(
            {
                "client_id": tokens.client_id,
                "client_secret": tokens.client_secret,
                "accounts": [self._account(f"user{number:03d}@example.com") for number in range(count)],
            }
        )

    async def events(self, request: Request) -> Response:
        """?calendar=: what a person sees there; without it, all calendars that were ever used."""
        calendar_id = request.query_params.get("calendar")
        calendars: Mapping[str, events.Calendar] = self._state.remembered(MODULE).get("calendars", {})
        chosen = [calendar_id] if calendar_id else sorted(calendars)
        return JSONResponse({name: events.calendar_of(self._state, name).visible() for name in chosen})

    async def calls(self, request: Request) -> Response:
        return JSONResponse(self._state.remembered(MODULE).get("calls", []))

    async def revoke(self, request: Request) -> Response:
        """{"email": ...}: its owner takes the grant back."""
        google_token.revoke_user(self._state, str((await _json(request))["email"]))
        return JSONResponse({"ok": True})

    async def connect(self, request: Request) -> Response:
        """{"email": ...}: a new grant."""
        address = str((await _json(request))["email"])
        google_token.grant_again(self._state, address)
        return JSONResponse(self._account(address))

    async def edit(self, request: Request) -> Response:
        """{"calendar", "event", "change": {...} or null}: what a person does by hand; null deletes."""
        asked = await _json(request)
        calendar = events.calendar_of(self._state, str(asked["calendar"]))
        try:
            if asked.get("change") is None:
                events.delete(self._state, calendar, str(asked["event"]), None)
                return JSONResponse({"ok": True})
            changed = events.change(self._state, calendar, str(asked["event"]), asked["change"], None, is_patch=True)
        except Refusal as refusal:
            return JSONResponse({"error": str(refusal)}, refusal.status)
        return JSONResponse(changed)

    async def set_limits(self, request: Request) -> Response:
        """{"user": [600, 60], "project": [...], "calendar": [...]}: units in seconds."""
        wanted = {
            family: Window(int(count), float(period), family)
            for family, (count, period) in (await _json(request)).items()
        }
        self._state.remembered(MODULE)["limits"] = wanted
        return JSONResponse({"ok": True})

    async def set_settings(self, request: Request) -> Response:
        """{"refuses_revival": bool}: deleted ids cannot be brought back; {"expire_sync_tokens": true}."""
        asked = await _json(request)
        memory = self._state.remembered(MODULE)
        memory["refuses_revival"] = bool(asked.get("refuses_revival", False))
        if asked.get("expire_sync_tokens"):
            for calendar in memory.get("calendars", {}).values():
                calendar.oldest_sync = calendar.version + 1
        return JSONResponse({"ok": True})

    def _account(self, address: str) -> dict[str, Any]:
        name = address.partition("@")[0]
        return {
            "email": address,
            "refresh_token": google_token.refresh_token_of(self._state, address),
            "calendars": [address, f"c_{name}_1", f"c_{name}_2"],
            "read_only_calendars": [f"r_{name}_1"],
        }


async def _json(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(await request.body())
    return body
