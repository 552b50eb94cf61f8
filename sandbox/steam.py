"""Steam's public store: /api/appdetails and /appreviews/<appid>, with a limit per address.

Mounted under /steam; the paths are the vendor's own. Shapes:
https://wiki.teamfortress.com/wiki/User:RJackson/StorefrontAPI, https://partner.steamgames.com/doc/store/getreviews
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from sandbox.faults import Rule
from sandbox.ledger import Window
from sandbox.service import JSON, Call, json_response, vendor_route
from sandbox.state import State
from sandbox.steam_apps import App, find, reviews_page

MODULE = "steam"
MAX_REVIEWS = 100  # num_per_page


@dataclass(frozen=True, slots=True)
class SteamSettings:
    """The limits of one address: about 200 details in five minutes; of reviews nobody has found the end."""

    details_limit: int = 200
    details_period: float = 300.0
    reviews_limit: int = 100
    reviews_period: float = 60.0


class Steam:
    """The vendor. What it knows as an account is the app that is asked for, so that faults can name one."""

    name = "steam"

    def account_of(self, call: Call) -> str:
        return str(call.request.path_params.get("appid") or call.request.query_params.get("appids", ""))

    def failure(self, rule: Rule, call: Call) -> Response | None:
        if rule.action != "status":
            return None
        status = int(rule.params.get("status", 500))
        headers = {"retry-after": str(rule.params["retry_after"])} if "retry_after" in rule.params else None
        return refusal(status, headers)


def routes(state: State) -> list[Route]:
    """The two paths, to be mounted under /steam."""
    vendor = Steam()
    return [
        vendor_route(state, vendor, "/api/appdetails", "appdetails", app_details),
        vendor_route(state, vendor, "/appreviews/{appid}", "appreviews", app_reviews),
    ]


def settings(state: State) -> SteamSettings:
    return SteamSettings(**state.remembered(MODULE).get("settings", {}))


def refusal(status: int, headers: Mapping[str, str] | None = None) -> Response:
    """All that the store ever says of an error."""
    return Response(b"null", status, dict(headers or {}), JSON)


def _is_limited(call: Call, family: str, window: Window) -> bool:
    address = call.request.client.host if call.request.client else ""
    state = call.state
    return not state.ledger.take(Steam.name, address, family, (window,), state.clock.monotonic()).is_granted


async def app_details(call: Call) -> Response:
    """Details of one app; several ids at once are refused, as they have been since 2014."""
    known = settings(call.state)
    if _is_limited(call, "appdetails", Window(known.details_limit, known.details_period, "per address")):
        return refusal(429)
    wanted = call.request.query_params.get("appids", "")
    if not wanted.isdecimal():
        return refusal(400)
    app = find(call.state.seed, int(wanted))
    if app is not None and app.state == "broken":
        return refusal(500)
    if app is None or app.state == "missing":
        return json_response({wanted: {"success": False}})
    return json_response({wanted: {"success": True, "data": _details(app)}})


def _details(app: App) -> dict[str, Any]:
    data: dict[str, Any] = {
        "type": app.type,
        "name": app.name,
        "steam_appid": app.appid,
        "required_age": 0,
        "is_free": app.is_free,
        "short_description": f"{app.name}, a game of the sandbox.",
        "developers": [app.developer] if app.developer else [],
        "publishers": [app.developer or "Sandbox Publishing"],
        "categories": [{"id": 2, "description": "Single-player"}],
        "release_date": {"coming_soon": not app.is_released, "date": app.release_text},
    }
    if app.has_workshop:
        data["categories"].append({"id": 30, "description": "Steam Workshop"})
    if app.price_cents is not None:
        data["price_overview"] = {
            "currency": "USD",
            "initial": app.initial_cents,
            "final": app.price_cents,
            "discount_percent": app.discount_percent,
            "final_formatted": f"${app.price_cents / 100:.2f}",
        }
    if app.state == "poison":
        data["price_overview"] = {"currency": "USD", "initial": "free for now", "final": None}
    return data


async def app_reviews(call: Call) -> Response:
    """A page of reviews; the summary has its totals on the first page alone."""
    known = settings(call.state)
    if _is_limited(call, "appreviews", Window(known.reviews_limit, known.reviews_period, "per address")):
        return refusal(429)
    appid = str(call.request.path_params["appid"])
    app = find(call.state.seed, int(appid)) if appid.isdecimal() else None
    if app is not None and app.state == "broken":
        return refusal(500)
    if app is None or app.state == "missing":
        return json_response({"success": 2})
    query = call.request.query_params
    size = query.get("num_per_page", "20")
    count = min(int(size), MAX_REVIEWS) if size.isdecimal() else 20
    cursor = query.get("cursor", "*")
    today = call.state.clock.now().date()
    reviews, following = reviews_page(app, today, cursor, count)
    summary: dict[str, Any] = {"num_reviews": len(reviews)}
    if cursor == "*":
        summary |= app.review_summary(today)
    if app.state == "poison":
        summary["total_reviews"] = "many"
    return json_response({"success": 1, "query_summary": summary, "reviews": reviews, "cursor": following})
