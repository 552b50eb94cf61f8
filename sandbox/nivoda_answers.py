"""What a checked query is answered with: data, and the errors that stand beside it."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from graphql import GraphQLError
from graphql.execution.values import VariableValues

from sandbox import nivoda_stock as stock
from sandbox import nivoda_tokens
from sandbox.nivoda_filters import SearchError
from sandbox.nivoda_identity import is_known, place_of
from sandbox.nivoda_items import Item, items
from sandbox.nivoda_market import Feed, Market
from sandbox.nivoda_query import TYPE_NAME, Field, arguments, shaped
from sandbox.nivoda_search import Search

LIMIT = 50
"""Most items of a page, and how many come when nothing is said."""

Path = tuple[str | int, ...]
Resolver = Callable[[Field, Mapping[str, Any], Path], Any]


class Refusal(Exception):
    """A root field that is not answered; the request's whole data are null."""

    def __init__(self, message: str, code: str, path: Path) -> None:
        super().__init__(message)
        self.code = code
        self.path = path


class Answering:
    """Works one request."""

    def __init__(self, market: Market, search: Search, variables: VariableValues, bearer: str | None) -> None:
        self._market = market
        self._search = search
        self._variables = variables
        self._bearer = bearer
        self._errors: list[dict[str, Any]] = []
        self._resolvers: Mapping[str, Resolver] = {
            "authenticate": self._authenticate,
            "as": self._as,
            "diamonds_by_query": self._page,
            "diamonds_by_query_count": self._count,
            "get_diamond_by_id": self._diamond,
        }

    def answer(self, fields: Sequence[Field]) -> dict[str, Any]:
        """The body of the answer."""
        try:
            data = self._root(fields, ())
        except Refusal as refusal:
            self._error(str(refusal), refusal.code, refusal.path)
            data = None
        return {"errors": self._errors, "data": data} if self._errors else {"data": data}

    def _error(self, message: str, code: str, path: Path) -> None:
        self._errors.append({"message": message, "path": list(path), "extensions": {"code": code}})

    def _root(self, fields: Sequence[Field], path: Path) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for field in fields:
            if field.name == TYPE_NAME:
                answer[field.key] = "Query"
                continue
            here = (*path, field.key)
            try:
                given = arguments(field, "Query", self._variables)
                answer[field.key] = self._resolvers[field.name](field, given, here)
            except (GraphQLError, SearchError) as refused:
                raise Refusal(str(refused), "BAD_USER_INPUT", here) from refused
        return answer

    def _verify(self, token: str | None, path: Path) -> None:
        try:
            nivoda_tokens.verify(self._market, token)
        except nivoda_tokens.TokenError as refused:
            raise Refusal(str(refused), "UNAUTHENTICATED", path) from refused

    # -- root fields

    def _as(self, field: Field, given: Mapping[str, Any], path: Path) -> Any:
        before, self._bearer = self._bearer, given.get("token")
        try:
            self._verify(self._bearer, path)
            return self._root(field.fields, path)
        finally:
            self._bearer = before

    def _authenticate(self, field: Field, given: Mapping[str, Any], path: Path) -> Any:
        answer: dict[str, Any] = {}
        for way in field.fields:
            if way.name == TYPE_NAME:
                answer[way.key] = field.type_name
                continue
            here = (*path, way.key)
            if self._is_user(way.name, arguments(way, "Authenticate", self._variables)):
                answer[way.key] = shaped(nivoda_tokens.session(self._market), way.fields, way.type_name)
            elif way.name == "refresh_token":
                raise Refusal("Invalid refresh token", "UNAUTHENTICATED", here)
            else:
                self._error("Invalid username or password", "UNAUTHENTICATED", here)
                answer[way.key] = None
        return answer

    def _is_user(self, way: str, given: Mapping[str, Any]) -> bool:
        state = self._market.state
        if way == "refresh_token":
            return hmac.compare_digest(given["refresh_token"], nivoda_tokens.refresh_token(state))
        return hmac.compare_digest(given["username"], nivoda_tokens.username(state)) and hmac.compare_digest(
            given["password"], nivoda_tokens.password(state)
        )

    def _count(self, field: Field, given: Mapping[str, Any], path: Path) -> int:
        self._verify(self._bearer, path)
        query = given.get("query") or {}
        numbers = query.get("certificate_numbers")
        if numbers is not None:
            return sum(len(places) for _, places in self._search.by_certificates(numbers))
        return self._search.count(query)

    def _diamond(self, field: Field, given: Mapping[str, Any], path: Path) -> Any:
        self._verify(self._bearer, path)
        found = place_of(given["diamond_id"])
        feed = self._market.feeds.get(found[0]) if found else None
        if found is None or feed is None or found[1] >= len(feed.stock) or not is_known(feed, np.array([found[1]]))[0]:
            raise Refusal("Diamond not found", "NOT_FOUND", path)
        [item] = items(self._market, feed, np.array([found[1]]))
        return shaped(item, field.fields, field.type_name)

    def _page(self, field: Field, given: Mapping[str, Any], path: Path) -> Any:
        self._verify(self._bearer, path)
        offset, limit = given.get("offset") or 0, given.get("limit")
        limit = LIMIT if limit is None else limit
        self._check_window(offset, limit, path)
        query, order = given.get("query") or {}, given.get("order") or {}
        found, total = self._found(query, order, offset, limit)
        made = [item for feed, places in found for item in items(self._market, feed, places)]
        answer: dict[str, Any] = {}
        for part in field.fields:
            if part.name == TYPE_NAME:
                answer[part.key] = field.type_name
            elif part.name == "total_count":
                answer[part.key] = self._total(len(made), total, offset)
            else:
                here = (*path, part.key)
                answer[part.key] = [self._item(part, item, number, (*here, number)) for number, item in enumerate(made)]
        return answer

    def _check_window(self, offset: int, limit: int, path: Path) -> None:
        highest = self._market.switches.offset_limit
        if limit > LIMIT or limit < 0:
            raise Refusal(f"The limit argument cannot be greater than {LIMIT}", "BAD_USER_INPUT", path)
        if offset < 0 or (highest is not None and offset > highest):
            raise Refusal(f"The offset argument cannot be greater than {highest}", "BAD_USER_INPUT", path)

    def _found(
        self, query: Mapping[str, Any], order: Mapping[str, Any], offset: int, limit: int
    ) -> tuple[list[tuple[Feed, stock.Array]], int | None]:
        """The stones of the page by feed, and how many there are in all where that is known already."""
        numbers = query.get("certificate_numbers")
        if numbers is None:
            feed, places = self._search.page(
                query, order.get("type", "none"), order.get("direction", "ASC"), offset, limit
            )
            if self._is_short(offset, limit, len(places)):
                places = places[: -(-2 * limit // 3)]
            if self._market.switches.total_count == "page":
                return [(feed, places)], None
            return [(feed, places)], self._search.count(query)
        every = self._search.by_certificates(numbers)
        window, total = [], 0
        for feed, places in every:
            window.append((feed, places[max(0, offset - total) : max(0, offset + limit - total)]))
            total += len(places)
        return window, total

    def _is_short(self, offset: int, limit: int, length: int) -> bool:
        every = self._market.switches.short_pages
        is_full = length == limit == LIMIT and offset % LIMIT == 0
        return bool(every) and is_full and (offset // LIMIT) % every == every - 1

    def _total(self, length: int, total: int | None, offset: int) -> int:
        match self._market.switches.total_count:
            case "remaining" if total is not None:
                return max(0, total - offset)
            case "total" if total is not None:
                return total
            case _:
                return length

    # -- values outside the schema's enumerations

    def _item(self, part: Field, item: Item, number: int, path: Path) -> Any:
        bad_color, bad_enum = self._market.switches.bad_colors, self._market.switches.bad_enums
        if bad_color or bad_enum:
            chance = _chance(item["diamond"]["id"])
            certificate = item["diamond"]["certificate"]
            if chance < bad_color:
                place = _path_to(part, ("diamond", "certificate", "color"))
                if place is not None:
                    self._error(_unknown("DiamondColor", "D-"), "INTERNAL_SERVER_ERROR", (*path, *place))
                    return None
            elif chance < bad_color + bad_enum:
                self._spoil(part, certificate, path)
        return shaped(item, part.fields, part.type_name)

    def _spoil(self, part: Field, certificate: Item, path: Path) -> None:
        for name, kind, value in (
            ("clarity", "DiamondClarity", "I1-"),
            ("floInt", "DiamondFluorescenseIntensity", "FAINT"),
            ("labgrown_type", "LabgrownType", "UNKNOWN"),
        ):
            place = _path_to(part, ("diamond", "certificate", name))
            if place is not None:
                self._error(_unknown(kind, value), "INTERNAL_SERVER_ERROR", (*path, *place))
                certificate[name] = None


def _unknown(kind: str, value: str) -> str:
    return f'Enum "{kind}" cannot represent value: "{value}"'


def _chance(identity: str) -> float:
    """Of a stone, always the same."""
    return int(identity[:8], 16) / 2**32


def _path_to(part: Field, names: Sequence[str]) -> tuple[str, ...] | None:
    """The answer's keys that lead to a field; None when it is not selected."""
    keys: list[str] = []
    fields = part.fields
    for name in names:
        field = next((each for each in fields if each.name == name), None)
        if field is None:
            return None
        keys.append(field.key)
        fields = field.fields
    return tuple(keys)
