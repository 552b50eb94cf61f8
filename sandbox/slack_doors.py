"""Doors to what only the Slack sandbox knows: switches, and what people would see of the messages."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.slack_store import keys, store_of
from sandbox.state import State


def routes(state: State) -> list[Route]:
    """PUT /sandbox/slack changes switches; GET /sandbox/slack/seen tells every message's key by channel."""

    async def change(request: Request) -> Response:
        try:
            store_of(state).switches.change(json.loads(await request.body()))
        except (ValueError, TypeError, AttributeError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"ok": True})

    async def seen(request: Request) -> Response:
        by_channel: dict[str, list[Any]] = {}
        for each in store_of(state).messages():
            by_channel.setdefault(each["channel"], []).append(each)
        told = {channel: keys(messages) for channel, messages in by_channel.items()}
        counted = Counter(key for held in told.values() for key in held if key)
        repeated = {key: count for key, count in counted.items() if count > 1}
        return JSONResponse({"messages": sum(map(len, told.values())), "channels": told, "repeated": repeated})

    return [
        Route("/sandbox/slack", change, methods=["PUT"]),
        Route("/sandbox/slack/seen", seen, methods=["GET"]),
    ]
