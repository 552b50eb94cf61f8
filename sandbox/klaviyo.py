"""Klaviyo's API, revision 2026-07-15 (the contract) and 2026-10-15 (what the vendor's SDK sends).

Mounted under /klaviyo; the paths are the vendor's own. Contract:
https://github.com/klaviyo/openapi/blob/main/openapi/stable.json
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from sandbox import klaviyo_aggregates, klaviyo_bench, klaviyo_events, klaviyo_objects, klaviyo_reports
from sandbox.klaviyo_door import Ask, Endpoint, Klaviyo, Refusal, admit, answer, error_answer, rate_headers, windows
from sandbox.service import Call, Handler, vendor_route
from sandbox.state import State

Worker = Callable[[Ask], Any]

_PAGE = ("page[cursor]", "page[size]")
_TIMES = ("greater-or-equal", "greater-than", "less-or-equal", "less-than")
_AUDIENCE_FILTERS = {
    "name": ("any", "equals"),
    "id": ("any", "equals"),
    "created": ("greater-than",),
    "updated": ("greater-than",),
}
_REPORT = windows(1, 2, 225)

ENDPOINTS: tuple[tuple[str, Endpoint, Worker], ...] = (
    ("GET", Endpoint("accounts", "accounts:read", windows(1, 15)), klaviyo_objects.accounts),
    (
        "GET",
        Endpoint(
            "campaigns",
            "campaigns:read",
            windows(10, 150),
            ("filter", "include", "sort", *_PAGE),
            {
                "id": ("any",),
                "messages.channel": ("equals",),
                "name": ("contains",),
                "status": ("any", "equals"),
                "archived": ("equals",),
                "created_at": _TIMES,
                "scheduled_at": _TIMES,
                "updated_at": _TIMES,
            },
            ("created_at", "id", "name", "scheduled_at", "updated_at"),
            ("campaign-messages", "tags"),
            100,
            100,
        ),
        klaviyo_objects.campaigns,
    ),
    (
        "GET",
        Endpoint(
            "flows",
            "flows:read",
            windows(3, 60),
            ("filter", "include", "sort", *_PAGE),
            {
                "id": ("any",),
                "name": ("contains", "ends-with", "equals", "starts-with"),
                "status": ("equals",),
                "archived": ("equals",),
                "created": ("equals", *_TIMES),
                "updated": ("equals", *_TIMES),
                "trigger_type": ("equals",),
            },
            ("created", "id", "name", "status", "trigger_type", "updated"),
            ("flow-actions", "tags"),
            50,
            50,
        ),
        klaviyo_objects.flows,
    ),
    (
        "GET",
        Endpoint(
            "lists",
            "lists:read",
            windows(75, 750),
            ("filter", "include", "sort", *_PAGE),
            _AUDIENCE_FILTERS,
            ("created", "id", "name", "updated"),
            ("flow-triggers", "tags"),
            10,
            10,
        ),
        klaviyo_objects.lists,
    ),
    (
        "GET",
        Endpoint(
            "segments",
            "segments:read",
            windows(75, 750),
            ("filter", "include", "sort", *_PAGE),
            {**_AUDIENCE_FILTERS, "is_active": ("any", "equals"), "is_starred": ("equals",)},
            ("created", "id", "name", "updated"),
            ("flow-triggers", "tags"),
            10,
            10,
        ),
        klaviyo_objects.segments,
    ),
    (
        "GET",
        Endpoint(
            "profiles",
            "profiles:read",
            windows(75, 750),
            ("filter", "include", "sort", *_PAGE),
            {
                "id": ("any", "equals"),
                "email": ("any", "equals"),
                "external_id": ("any", "equals"),
                "created": ("greater-than", "less-than"),
                "updated": ("greater-than", "less-than"),
            },
            ("created", "email", "id", "updated"),
            ("conversations", "push-tokens"),
            20,
            100,
        ),
        klaviyo_events.profiles,
    ),
    (
        "GET",
        Endpoint(
            "metrics",
            "metrics:read",
            windows(10, 150),
            ("filter", "include", "page[cursor]"),
            {"integration.name": ("equals",), "integration.category": ("equals",)},
            (),
            ("flow-triggers",),
            200,
            200,
        ),
        klaviyo_objects.metrics,
    ),
    (
        "GET",
        Endpoint(
            "events",
            "events:read",
            windows(350, 3500),
            ("filter", "include", "sort", *_PAGE),
            {"metric_id": ("equals",), "profile_id": ("equals",), "datetime": _TIMES, "timestamp": _TIMES},
            ("datetime", "timestamp"),
            ("attributions", "metric", "profile"),
            200,
            1000,
        ),
        klaviyo_events.events,
    ),
    (
        "POST",
        Endpoint("metric-aggregates", "metrics:read", windows(3, 60), ("page_cursor",)),
        klaviyo_aggregates.metric_aggregates,
    ),
    (
        "POST",
        Endpoint("campaign-values-reports", "campaigns:read", _REPORT, ("page_cursor",)),
        klaviyo_reports.campaign_values,
    ),
    ("POST", Endpoint("flow-series-reports", "flows:read", _REPORT, ("page_cursor",)), klaviyo_reports.flow_series),
    ("POST", Endpoint("flow-values-reports", "flows:read", _REPORT, ("page_cursor",)), klaviyo_reports.flow_values),
)
"""Every endpoint with what it allows, as the contract says, and what answers it."""


def routes(state: State) -> list[Route]:
    """The routes under /api, with and without a slash at the end as the vendor takes both."""
    bench = (klaviyo_bench.account(state),) if state.bench_events else ()
    vendor = Klaviyo(state.business, bench)
    found = []
    for method, endpoint, worker in ENDPOINTS:
        handler = _handler(vendor, endpoint, worker)
        for path in (f"/api/{endpoint.name}", f"/api/{endpoint.name}/"):
            found.append(vendor_route(state, vendor, path, endpoint.name, handler, (method,)))
    return found


def _handler(vendor: Klaviyo, endpoint: Endpoint, worker: Worker) -> Handler:
    async def handle(call: Call) -> Response:
        try:
            ask = admit(vendor, call, endpoint)
        except Refusal as refusal:
            return error_answer(call, refusal)
        try:
            response = answer(_worked(ask, worker))
        except Refusal as refusal:
            response = error_answer(call, refusal)
        response.headers.update(rate_headers(ask.decision))
        return response

    return handle


def _worked(ask: Ask, worker: Worker) -> Any:
    if ask.account.account_id == klaviyo_bench.ACCOUNT_ID and ask.endpoint.name == "events":
        return klaviyo_bench.events(ask)
    return worker(ask)
