"""The sandbox's doors for Nivoda: switches, the truth, and the hands that move the market.

PUT  /sandbox/nivoda           switches of `nivoda_market.Switches`; GET shows them
GET  /sandbox/nivoda/truth     per feed what is listed now; ?feed= one of them, ?ids=1 with ids, ?since=ISO time with
                               the ids of the stones that were touched since
POST /sandbox/nivoda/advance   {"seconds": n}: let so many market seconds pass at once
POST /sandbox/nivoda/take_away {"feed": "natural", "share": 0.5, "in_lookups": true}; share 0 brings all back
POST /sandbox/nivoda/revoke    no token that was issued so far is good any more
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox import nivoda_stock as stock
from sandbox import nivoda_tokens
from sandbox.clock import parse_instant
from sandbox.nivoda_identity import stone_id
from sandbox.nivoda_market import MICROSECONDS, Feed, Market, change, market_of
from sandbox.state import State

PERCENTILES = (0, 1, 10, 25, 50, 75, 90, 99, 100)


def routes(state: State) -> list[Route]:
    """All doors."""
    door = _Door(state)
    return [
        Route("/sandbox/nivoda", door.switches, methods=["GET"]),
        Route("/sandbox/nivoda", door.change, methods=["PUT"]),
        Route("/sandbox/nivoda/truth", door.truth, methods=["GET"]),
        Route("/sandbox/nivoda/advance", door.advance, methods=["POST"]),
        Route("/sandbox/nivoda/take_away", door.take_away, methods=["POST"]),
        Route("/sandbox/nivoda/revoke", door.revoke, methods=["POST"]),
    ]


class _Door:
    def __init__(self, state: State) -> None:
        self._state = state

    async def switches(self, request: Request) -> Response:
        return JSONResponse(dataclasses.asdict(market_of(self._state).switches))

    async def change(self, request: Request) -> Response:
        try:
            switches = change(self._state, json.loads(await request.body()))
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(dataclasses.asdict(switches))

    async def truth(self, request: Request) -> Response:
        market = market_of(self._state)
        market.catch_up()
        query = request.query_params
        wanted = [query["feed"]] if "feed" in query else list(market.feeds)
        if any(name not in market.feeds for name in wanted):
            return JSONResponse({"error": f"feed is one of {', '.join(market.feeds)}"}, 400)
        try:
            since = round(parse_instant(query["since"]).timestamp() * MICROSECONDS) if "since" in query else None
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        feeds = {name: feed_truth(market, name, has_ids="ids" in query, since=since) for name in wanted}
        logins = self._state.remembered("nivoda").get("logins", 0)
        return JSONResponse({"now": self._state.clock.now().isoformat(), "logins": logins, "feeds": feeds})

    async def advance(self, request: Request) -> Response:
        market = market_of(self._state)
        try:
            seconds = float(json.loads(await request.body())["seconds"])
        except (ValueError, TypeError, KeyError) as error:
            return JSONResponse({"error": f'expected {{"seconds": n}}: {error}'}, 400)
        market.catch_up()
        market.move(seconds)
        return JSONResponse({name: dict(feed.events) for name, feed in market.feeds.items()})

    async def take_away(self, request: Request) -> Response:
        market = market_of(self._state)
        try:
            asked = json.loads(await request.body())
            feed, share = asked["feed"], float(asked["share"])
            market.take_away(feed, share, bool(asked.get("in_lookups", True)))
        except (ValueError, TypeError, KeyError) as error:
            return JSONResponse({"error": f'expected {{"feed", "share"}}: {error}'}, 400)
        return JSONResponse({"feed": feed, "listed": int(np.count_nonzero(market.feeds[feed].listed()))})

    async def revoke(self, request: Request) -> Response:
        nivoda_tokens.revoke(self._state)
        return JSONResponse({"ok": True})


def feed_truth(market: Market, name: str, *, has_ids: bool = False, since: int | None = None) -> dict[str, Any]:
    """What is true of a feed at this moment: stones that a search without filters finds."""
    feed = market.feeds[name]
    places = np.flatnonzero(feed.listed())
    prices = feed.stock["price"][places].astype(np.int64)
    held = np.bincount(feed.stock["availability"][places], minlength=len(stock.AVAILABILITIES))
    truth: dict[str, Any] = {
        "active": len(places),
        "price_cents": int(prices.sum()),
        "percentiles": {
            str(each): int(value) for each, value in zip(PERCENTILES, np.percentile(prices, PERCENTILES), strict=True)
        }
        if len(prices)
        else {},
        "availability": {code: int(number) for code, number in zip(stock.AVAILABILITIES, held, strict=True) if number},
        "events": dict(feed.events),
    }
    if has_ids:
        truth["ids"] = stone_ids(market, feed, places)
    if since is not None:
        truth["touched_ids"] = stone_ids(market, feed, feed.touched_since(since))
    return truth


def stone_ids(market: Market, feed: Feed, places: stock.Array) -> list[str]:
    """The ids of the stones at these places."""
    chance = stock.mixed(places, market.state.seed).tolist()
    return [stone_id(feed.stock.feed, place, each) for place, each in zip(places.tolist(), chance, strict=True)]
