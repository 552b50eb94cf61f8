"""Doors of the sandbox's own into its Steam store: limits, and what is true."""

from __future__ import annotations

import datetime as dt
import json

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.state import State
from sandbox.steam import MODULE, SteamSettings, settings
from sandbox.steam_apps import catalogue


def routes(state: State) -> list[Route]:
    """PUT /sandbox/steam changes settings until the next reset; GET /sandbox/steam/truth tells every app."""

    async def change(request: Request) -> Response:
        """{"details_limit": 600, "details_period": 60, ...}"""
        stored = state.remembered(MODULE).setdefault("settings", {})
        try:
            merged = {**stored, **json.loads(await request.body())}
            SteamSettings(**merged)
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, 400)
        stored.update(merged)
        known = settings(state)
        return JSONResponse({name: getattr(known, name) for name in SteamSettings.__slots__})

    async def truth(request: Request) -> Response:
        """Today's, or ?day= of another one."""
        asked = request.query_params.get("day")
        try:
            day = dt.date.fromisoformat(asked) if asked else state.clock.now().date()
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        apps = [dict(app.truth(day)) for app in catalogue(state.seed).values()]
        return JSONResponse({"day": day.isoformat(), "apps": apps})

    return [
        Route("/sandbox/steam", change, methods=["PUT"]),
        Route("/sandbox/steam/truth", truth, methods=["GET"]),
    ]
