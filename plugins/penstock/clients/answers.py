"""An answer of a vendor, and the tables that say what its errors mean."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgspec
import orjson

from penstock.core.errors import error

EXCERPT_LENGTH = 300

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (names in lower case) and body of one HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, unread: str | None = None) -> Any:
        """The body as JSON. Raises RESPONSE_TRUNCATED or RESPONSE_NOT_JSON, which may be tried again.

        unread: a list of the body whose items stay text (`sources.stream.UnreadRecord`). A body without it, or in which
        text cannot be told apart (half a surrogate pair), is read whole.
        """
        try:
            if unread is not None and (partly := self._partly_read(unread)) is not None:
                return partly
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return self._lenient_json()

    def _partly_read(self, unread: str) -> dict[str, Any] | None:
        try:
            members = _members(self.body)
            items = _items(members.pop(unread))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
            return None
        read = {name: orjson.loads(memoryview(text)) for name, text in members.items()}
        return read | {unread: [memoryview(item) for item in items]}

    def _lenient_json(self) -> Any:
        """Half surrogate pairs are JSON to the standard library alone; the record that has one is refused later."""
        try:
            return json.loads(self.body, parse_constant=refuse_constant)
        except (ValueError, RecursionError):
            broken = self.body.lstrip()[:1] in (b"{", b"[")
        code = "RESPONSE_TRUNCATED" if broken else "RESPONSE_NOT_JSON"
        raise error(code, f"HTTP {self.status}, {len(self.body)} bytes: {self.excerpt()!r}", http_status=self.status)

    def excerpt(self) -> str:
        return self.body[:EXCERPT_LENGTH].decode("utf-8", "replace")


def refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity are no JSON, and no column could hold them."""
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, slots=True)
class Fault:
    """What a vendor's error answer says, in the same words for all vendors.

    code, subcode: the vendor's own (Meta's numbers, Google's status and reason, Klaviyo's code).
    family: the rate-limit family of the request that got it.
    retry_after: seconds the vendor asked for.
    """

    status: int
    message: str
    code: str = ""
    subcode: str = ""
    request_id: str | None = None
    family: str = "default"
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a vendor's error table: all that is given must fit. An empty set fits everything.

    code: of `core.errors.CATALOGUE`.
    statuses, codes, subcodes: what the fault has.
    text: a pattern somewhere in the message, letter case ignored.
    families: rate-limit families it is meant for.
    beyond: fits only when the vendor asked to wait longer than these seconds.
    """

    code: str
    statuses: frozenset[int] = frozenset()
    codes: frozenset[str] = frozenset()
    subcodes: frozenset[str] = frozenset()
    text: re.Pattern[str] | None = None
    families: frozenset[str] = frozenset()
    beyond: float | None = None

    def fits(self, fault: Fault) -> bool:
        return (
            (not self.statuses or fault.status in self.statuses)
            and (not self.codes or fault.code in self.codes)
            and (not self.subcodes or fault.subcode in self.subcodes)
            and (not self.families or fault.family in self.families)
            and (self.text is None or self.text.search(fault.message) is not None)
            and (self.beyond is None or (fault.retry_after is not None and fault.retry_after > self.beyond))
        )


def rule(
    code: str,
    *,
    statuses: Sequence[int] = (),
    codes: Sequence[int | str] = (),
    subcodes: Sequence[int | str] = (),
    text: str | None = None,
    families: Sequence[str] = (),
    beyond: float | None = None,
) -> Rule:
    """A `Rule` as it is written in a table."""
    return Rule(
        code,
        frozenset(statuses),
        frozenset(map(str, codes)),
        frozenset(map(str, subcodes)),
        re.compile(text, re.IGNORECASE) if text else None,
        frozenset(families),
        beyond,
    )


def classify(rules: Sequence[Rule], fault: Fault, otherwise: str = "UNKNOWN") -> str:
    """The code of the first rule that fits."""
    return next((rule.code for rule in rules if rule.fits(fault)), otherwise)


@dataclass(slots=True)
class Usage:
    """What an answer's headers say about a limit of the vendor's.

    percent: how much of it is used up.
    regain_seconds: until it opens again, where the vendor tells.
    """

    percent: float = 0.0
    regain_seconds: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
