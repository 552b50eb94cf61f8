"""The Starlette application: all vendors' routes and the control routes."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount

from sandbox import (
    control,
    ga4,
    google_ads,
    google_ads_doors,
    google_calendar,
    google_calendar_doors,
    google_token,
    klaviyo,
    meta,
    nivoda,
    nivoda_doors,
    slack,
    slack_doors,
    steam,
    steam_doors,
)
from sandbox.state import State


def build(state: State) -> Starlette:
    """The application of one state."""
    routes: list[BaseRoute] = [
        Mount("/meta", routes=meta.routes(state)),
        Mount("/ga4", routes=ga4.routes(state)),
        Mount("/klaviyo", routes=klaviyo.routes(state)),
        Mount("/slack", routes=slack.routes(state)),
        Mount("/google", routes=[*google_token.routes(state), *google_calendar.routes(state)]),
        Mount("/google_ads", routes=google_ads.routes(state)),
        Mount("/nivoda", routes=nivoda.routes(state)),
        Mount("/steam", routes=steam.routes(state)),
        *control.routes(state),
        *google_ads_doors.routes(state),
        *google_calendar_doors.routes(state),
        *slack_doors.routes(state),
        *steam_doors.routes(state),
        *nivoda_doors.routes(state),
    ]
    return Starlette(routes=routes, exception_handlers={404: _not_found})


async def _not_found(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"the sandbox serves no {request.method} {request.url.path}"}, 404)
