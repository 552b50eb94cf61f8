"""A page of the vendor -> the arrays of one statement, with what could not be read set aside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from penstock.core.errors import PenstockError, SkippableError, error
from penstock.sources.fields import find
from penstock.sources.nivoda import Page, Stone, stone
from penstock.sources.stream import Record

NUL = b"\\u0000"


@dataclass(frozen=True, slots=True)
class RejectedItem:
    """An item that holds no readable stone. stone_id: where it tells one."""

    stone_id: str | None
    code: str
    reason: str
    payload: str

    @property
    def digest(self) -> str:
        return hashlib.blake2b(
            f"{self.stone_id}:{self.code}:{self.stone_id or self.reason}:{self.payload}".encode(), digest_size=16
        ).hexdigest()


@dataclass(slots=True)
class Rows:
    """A page, column by column, each stone once."""

    stone_ids: list[str] = field(default_factory=list)
    offer_ids: list[str] = field(default_factory=list)
    payloads: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    dollars: list[int] = field(default_factory=list)
    rejected: list[RejectedItem] = field(default_factory=list)
    read: int = 0

    @property
    def columns(self) -> dict[str, Any]:
        """Parameters of the query `save_page`."""
        return {
            "stone_ids": self.stone_ids,
            "offer_ids": self.offer_ids,
            "payloads": f"[{','.join(self.payloads)}]",
            "hashes": self.hashes,
            "dollars": self.dollars,
            "keys": [*self.stone_ids, *(item.stone_id for item in self.rejected if item.stone_id)],
        }

    @property
    def nameless(self) -> int:
        """Rejected items that tell no id."""
        return sum(1 for item in self.rejected if not item.stone_id)


def rows_of(page: Page) -> Rows:
    """The rows of a page. What cannot be stored is rejected with its reason."""
    rows = Rows(read=page.length)
    stones: dict[str, tuple[Stone, bytes]] = {}
    for item in page.items:
        try:
            found = stone(item)
            stones[found.supplier_stone_id] = (found, _written(item))
        except SkippableError as failure:
            rows.rejected.append(_rejected(item, failure))
    for place, reason in page.bad:
        rows.rejected.append(_rejected(page.partial.get(place), error("WRONG_TYPE", f"item {place}: {reason}")))
    for stone_id, (found, payload) in stones.items():
        rows.stone_ids.append(stone_id)
        rows.offer_ids.append(found.offer_id)
        rows.payloads.append(payload.decode())
        rows.hashes.append(hashlib.blake2b(payload, digest_size=16).hexdigest())
        rows.dollars.append(min(found.price_cents // 100, 2**31 - 1))
    return rows


def ids_of(page: Page) -> list[str]:
    """The stones of a page in its order, as far as its items tell them."""
    return [str(stone_id) for stone_id in (find(item, "diamond", "id") for item in page.items) if stone_id]


def is_unsteady(above: Sequence[str], below: Sequence[str]) -> bool:
    """Whether stones that were read came again on the page below in a way that shows that the order does not stand.

    Stones that left have moved the first ones of those above to the end of the page below, in their order. Nothing else
    brings a stone back while the list only shrinks.
    """
    places = {stone_id: place for place, stone_id in enumerate(above)}
    again = [places[stone_id] for stone_id in below if stone_id in places]
    return bool(again) and (again != sorted(again) or any(each not in places for each in below[-len(again) :]))


def joined(above: Sequence[str], below: Sequence[str]) -> list[str]:
    """The stones above and those of the page below them, in the list's order: what came again keeps its place."""
    known = set(above)
    return [*(stone_id for stone_id in below if stone_id not in known), *above]


def _written(item: Record) -> bytes:
    """The item with its keys in order, so that equal items have equal hashes. Raises UnreadableRecord."""
    try:
        payload = orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
    except TypeError as refused:
        raise error("FORBIDDEN_CHARACTER", f"the item cannot be written as JSON: {refused}") from refused
    if NUL in payload:
        raise error("FORBIDDEN_CHARACTER", "the item holds a NUL character")
    return payload


def _rejected(item: Any, failure: PenstockError) -> RejectedItem:
    stone_id = find(item, "diamond", "id")
    payload = json.dumps(item, default=repr, sort_keys=True)
    return RejectedItem(str(stone_id) if stone_id else None, failure.code, failure.message, payload)
