"""Nivoda's GraphQL endpoint: POST /api/diamonds, mounted under /nivoda.

Errors come inside HTTP 200, as the vendor sends them, but for queries that break the schema (switch
`validation_status`) and for the request limit. The whole public knowledge of the API is its introspection of March
2024 and its clients; see `nivoda_market.Switches` for what is uncertain and can be switched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from graphql import GraphQLError, execute_sync
from starlette.responses import Response
from starlette.routing import Route

from sandbox import nivoda_tokens
from sandbox.faults import Rule
from sandbox.ledger import Window
from sandbox.nivoda_answers import Answering
from sandbox.nivoda_market import Market, market_of
from sandbox.nivoda_query import INTROSPECTION, InvalidQuery, Operation, checked, schema
from sandbox.nivoda_search import Search
from sandbox.service import JSON, Call, json_response, vendor_route
from sandbox.state import State

ENDPOINT = "diamonds"


class Nivoda:
    """The vendor. The account is the one user."""

    name = "nivoda"

    def account_of(self, call: Call) -> str:
        return nivoda_tokens.username(call.state)

    def failure(self, rule: Rule, call: Call) -> Response | None:
        match rule.action:
            case "expired_token":
                return refused(nivoda_tokens.EXPIRED, "UNAUTHENTICATED", ["as"])
            case "status":
                status = int(rule.params.get("status", 500))
                headers = {"retry-after": str(rule.params["retry_after"])} if "retry_after" in rule.params else None
                message = "Too many requests" if status == 429 else str(rule.params.get("message", "Server error"))
                if status == 200:
                    return refused(message, "INTERNAL_SERVER_ERROR", [])
                return json_response({"errors": [{"message": message}]}, status, headers)
            case _:
                return None


def routes(state: State) -> list[Route]:
    """The endpoint."""
    return [vendor_route(state, Nivoda(), "/api/diamonds", ENDPOINT, serve, ("POST",))]


def refused(message: str, code: str, path: Sequence[str | int]) -> Response:
    """An error of the whole request, as Nivoda tells it: HTTP 200, no data."""
    return json_response({"errors": [{"message": message, "path": path, "extensions": {"code": code}}], "data": None})


async def serve(call: Call) -> Response:
    """One request. It is worked without giving way, so that the market stands still meanwhile."""
    market = market_of(call.state)
    limited = _over_limit(call.state, market)
    if limited is not None:
        return limited
    try:
        text, variables, name = _request(call)
        operation = checked(text, variables, name)
        batch_limit = market.switches.batch_limit
        if batch_limit is not None and _width(operation) > batch_limit:
            raise InvalidQuery([GraphQLError(f"Query is too complex: {_width(operation)} fields at its root")])
    except InvalidQuery as invalid:
        return _invalid(invalid, market.switches.validation_status)
    if any(field.name in INTROSPECTION for field in operation.fields):
        result = execute_sync(schema(), operation.document, variable_values=dict(variables), operation_name=name)
        return json_response(result.formatted)
    market.catch_up(requests=1)
    body = Answering(market, _search(call.state, market), operation.variables, _bearer(call)).answer(operation.fields)
    return Response(orjson.dumps(body), media_type=JSON)


def _request(call: Call) -> tuple[str, Mapping[str, Any], str | None]:
    try:
        body = orjson.loads(call.body)
    except orjson.JSONDecodeError as broken:
        raise InvalidQuery([GraphQLError(f"POST body sent invalid JSON: {broken}")]) from broken
    text = body.get("query") if isinstance(body, dict) else None
    if not isinstance(text, str) or not text:
        raise InvalidQuery([GraphQLError("Must provide query string.")])
    variables, name = body.get("variables") or {}, body.get("operationName")
    if not isinstance(variables, dict):
        raise InvalidQuery([GraphQLError("Variables must be an object.")])
    return text, variables, name


def _width(operation: Operation) -> int:
    """Root fields, those inside `as` counted one by one."""
    return sum(len(field.fields) if field.name == "as" else 1 for field in operation.fields)


def _bearer(call: Call) -> str | None:
    scheme, _, token = call.request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _search(state: State, market: Market) -> Search:
    memory = state.remembered("nivoda")
    search: Search | None = memory.get("search")
    if search is None or search.market is not market:
        search = memory["search"] = Search(market)
    return search


def _over_limit(state: State, market: Market) -> Response | None:
    switches = market.switches
    if switches.request_limit is None:
        return None
    windows = (Window(switches.request_limit, switches.request_period, "requests"),)
    account = nivoda_tokens.username(state)
    decision = state.ledger.take("nivoda", account, "requests", windows, state.clock.monotonic())
    if decision.is_granted:
        return None
    wait = str(max(1, math.ceil(decision.retry_after)))
    headers = {"retry-after": wait} if switches.has_retry_after else None
    return json_response({"errors": [{"message": "Too many requests, please try again later."}]}, 429, headers)


def _invalid(invalid: InvalidQuery, status: int) -> Response:
    errors = [{**error.formatted, "extensions": {"code": "GRAPHQL_VALIDATION_FAILED"}} for error in invalid.errors]
    return json_response({"errors": errors}, status)
