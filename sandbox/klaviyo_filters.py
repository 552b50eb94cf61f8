"""Klaviyo's filter language: `equals(messages.channel,'email'),greater-than(updated_at,2026-01-01T00:00:00Z)`.

https://developers.klaviyo.com/en/docs/filtering_
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Value = str | float | bool | dt.datetime | None | tuple["Value", ...]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<open>\()|(?P<close>\))|(?P<start>\[)|(?P<end>\])|(?P<comma>,)
        |'(?P<single>(?:[^'\\]|\\.)*)'|"(?P<double>(?:[^"\\]|\\.)*)"
        |(?P<bare>[^\s(),\[\]'"]+)
    )""",
    re.VERBOSE,
)
_LONGEST = 10_000


class FilterError(ValueError):
    """A filter that cannot be read or is not allowed."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison: operator, field, value (a tuple for lists)."""

    operator: str
    field: str
    value: Value


def parse(text: str, allowed: Mapping[str, Sequence[str]]) -> tuple[Condition, ...]:
    """The conditions of a filter, all of which must hold. Raises FilterError.

    allowed: field -> operators, as the contract lists them for the endpoint.
    """
    if len(text) > _LONGEST:
        raise FilterError("the filter is too long")
    conditions = tuple(_Reader(text).conditions())
    for condition in conditions:
        if condition.field not in allowed:
            raise FilterError(f"'{condition.field}' is not a valid filter field. Valid fields: {', '.join(allowed)}")
        if condition.operator not in allowed[condition.field]:
            raise FilterError(f"'{condition.operator}' is not a valid operator for the field '{condition.field}'")
    return conditions


def instant(condition: Condition, default: dt.tzinfo = dt.UTC) -> dt.datetime:
    """The condition's value as an aware instant; one without a zone is in `default`. Raises FilterError."""
    if not isinstance(condition.value, str):
        raise FilterError(f"'{condition.field}' needs a datetime")
    try:
        value = dt.datetime.fromisoformat(condition.value)
    except ValueError as error:
        raise FilterError(f"'{condition.value}' is not a valid datetime for '{condition.field}'") from error
    return value if value.tzinfo is not None else value.replace(tzinfo=default)


class _Reader:
    """A recursive reader of one filter text."""

    def __init__(self, text: str) -> None:
        self._tokens = self._split(text)
        self._at = 0

    @staticmethod
    def _split(text: str) -> list[tuple[str, str]]:
        tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                if not text[position:].strip():
                    break
                raise FilterError(f"invalid filter at character {position + 1}")
            kind = match.lastgroup or ""
            tokens.append((kind, match.group(kind)))
            position = match.end()
        return tokens

    def conditions(self) -> list[Condition]:
        found = self._terms()
        if self._at != len(self._tokens):
            raise FilterError("invalid filter: unexpected text after the last condition")
        return found

    def _terms(self) -> list[Condition]:
        found = self._term()
        while self._peek() == "comma":
            self._take("comma")
            found += self._term()
        return found

    def _term(self) -> list[Condition]:
        operator = self._take("bare")
        self._take("open")
        if operator == "and":
            found = self._terms()
            self._take("close")
            return found
        field = self._take("bare")
        value: Value = None
        if self._peek() == "comma":
            self._take("comma")
            value = self._value()
        self._take("close")
        return [Condition(operator, field, value)]

    def _value(self) -> Value:
        kind = self._peek()
        if kind == "start":
            self._take("start")
            values = [self._value()]
            while self._peek() == "comma":
                self._take("comma")
                values.append(self._value())
            self._take("end")
            return tuple(values)
        if kind in ("single", "double"):
            return re.sub(r"\\(.)", r"\1", self._take(kind))
        text = self._take("bare")
        return {"true": True, "false": False, "null": None}.get(text, text)

    def _peek(self) -> str | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def _take(self, kind: str) -> str:
        if self._peek() != kind:
            raise FilterError("invalid filter: it must look like operator(field,value)")
        text = self._tokens[self._at][1]
        self._at += 1
        return text
