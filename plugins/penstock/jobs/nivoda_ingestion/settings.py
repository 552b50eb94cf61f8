"""What a deployment may choose of the diamond ingestion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from penstock.core.errors import error
from penstock.sources.nivoda import KEY_FIELDS, OLD_BASE_FILTER

STORED_FEEDS: Mapping[str, str] = {"natural": "nivoda-natural", "labgrown": "nivoda-labgrown"}
"""Feed -> how the tables call it; the old worker's names."""

SHOP, NONE = "shop", "none"
MARKUP_LIMIT = 10
COVERAGE = 0.995
"""Below this share of stones that the price filter finds, the other key field is tried and nothing is deleted."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Choices with their defaults.

    base_filter: fields of `DiamondQuery` that every query carries. key_field: what partitions are cut by; the other one
    is taken when it finds more stones. concurrency: partitions that are read at the same time. largest_mean: stones of
    a mean partition at most. markup: selling price by vendor's price. keep_payload: keep the vendor's JSON after
    consolidation. brake_minimum, brake_share: so many vanished stones, or this share of the active ones, may be deleted
    by one run. look_ups: vanished stones that one run looks up by certificate.
    """

    base_filter: Mapping[str, Any] = field(default_factory=lambda: dict(OLD_BASE_FILTER))
    key_field: str = KEY_FIELDS[0]
    concurrency: int = 8
    largest_mean: int = 25_000
    markup: Decimal = Decimal(1)
    keep_payload: bool = False
    brake_minimum: int = 1_000
    brake_share: float = 0.05
    look_ups: int = 1_000

    @property
    def key_fields(self) -> tuple[str, ...]:
        """The chosen key field, then the others."""
        return (self.key_field, *(name for name in KEY_FIELDS if name != self.key_field))

    def as_json(self) -> dict[str, Any]:
        return {
            "base_filter": dict(self.base_filter),
            "key_field": self.key_field,
            "markup": str(self.markup),
            "keep_payload": self.keep_payload,
        }

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any]) -> Settings:
        """The settings in a connection's extra; what is missing or empty has its default. Raises CONFIG_INVALID."""
        given = {name: value for name, value in extra.items() if value not in (None, "")}
        default = cls()
        key_field = str(given.get("key_field", default.key_field))
        if key_field not in KEY_FIELDS:
            raise error("CONFIG_INVALID", f"key_field is one of {', '.join(KEY_FIELDS)}, got {key_field!r}")
        try:
            return cls(
                base_filter=_base_filter(given.get("base_filter", SHOP)),
                key_field=key_field,
                concurrency=int(given.get("concurrency", default.concurrency)),
                largest_mean=int(given.get("largest_mean", default.largest_mean)),
                markup=_markup(given.get("markup", default.markup)),
                keep_payload=str(given.get("keep_payload", "")).lower() in ("1", "true", "yes"),
                brake_minimum=int(given.get("brake_minimum", default.brake_minimum)),
                brake_share=float(given.get("brake_share", default.brake_share)),
                look_ups=int(given.get("look_ups", default.look_ups)),
            )
        except (ValueError, InvalidOperation) as unreadable:
            raise error("CONFIG_INVALID", f"the extra of connection `nivoda`: {unreadable}") from unreadable


def _markup(value: Any) -> Decimal:
    """Raises CONFIG_INVALID for one that `diamonds.markup_ratio`, a numeric(5, 4), cannot hold."""
    markup = Decimal(str(value))
    if not 0 < markup < MARKUP_LIMIT:
        raise error("CONFIG_INVALID", f"markup is above 0 and below {MARKUP_LIMIT}, got {value!r}")
    return markup


def stored_feed(feed: str) -> str:
    """The feed as the tables call it. Raises CONFIG_INVALID."""
    if feed not in STORED_FEEDS:
        raise error("CONFIG_INVALID", f"feed is one of {', '.join(STORED_FEEDS)}, got {feed!r}")
    return STORED_FEEDS[feed]


def vendor_feed(stored: str) -> str:
    """The vendor's feed of a stored name. Raises CONFIG_INVALID."""
    for feed, name in STORED_FEEDS.items():
        if name == stored:
            return feed
    raise error("CONFIG_INVALID", f"no feed is stored as {stored!r}")


def _base_filter(value: Any) -> Mapping[str, Any]:
    """`shop` (the old worker's filter), `none`, or fields of `DiamondQuery` as an object or as JSON."""
    if value == SHOP:
        return dict(OLD_BASE_FILTER)
    if value == NONE:
        return {}
    decoded = value
    if isinstance(value, str):
        decoded = json.loads(value)
    if not isinstance(decoded, Mapping):
        raise error("CONFIG_INVALID", f"base_filter is {SHOP}, {NONE} or a JSON object, got {value!r}")
    return dict(decoded)
