"""Steam's public store: details and review counts of an app, by its id. No key is needed.

Details: https://wiki.teamfortress.com/wiki/User:RJackson/StorefrontAPI (the vendor has no page of its own for them).
Reviews: https://partner.steamgames.com/doc/store/getreviews
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from penstock.core.errors import error
from penstock.sources.keyed import HEADROOM, KeyedSource, Record, Send
from penstock.sources.stream import Limit, Request

VENDOR = "steam"

STOREFRONT_FAMILY = "storefront"
STOREFRONT_LIMITS = (Limit(200, 300.0 / HEADROOM, burst=3),)
"""About 200 calls in five minutes and address; what is over is answered 429 with the body `null`. Measured by
everybody who reads it, promised by nobody."""

REVIEWS_FAMILY = "reviews"
REVIEWS_LIMITS = (Limit(60, 60.0 / HEADROOM, burst=3),)
"""One a second: the old worker's pace, under which nobody was refused. A burst of ten, as it had, would cost a sixth of
the steady pace: what may go ahead is missing from it."""

LIMITS: Mapping[str, tuple[Limit, ...]] = {
    STOREFRONT_FAMILY: STOREFRONT_LIMITS,
    REVIEWS_FAMILY: REVIEWS_LIMITS,
}

COUNTRY, LANGUAGE = "us", "english"
"""Prices in US dollars, dates in English: what the old tables hold."""

STEAM_WORKSHOP = 30
"""The category's id: https://partner.steamgames.com/doc/features/workshop"""

MAX_INTEGER = 2**31 - 1
"""What the tables' integer columns hold."""

_DATES = ("%b %d, %Y", "%d %b, %Y", "%B %d, %Y", "%d %B, %Y")


def details_request(appid: int) -> Request:
    return Request(
        "GET",
        "api/appdetails",
        {"appids": str(appid), "cc": COUNTRY, "l": LANGUAGE},
        limit=STOREFRONT_FAMILY,
    )


def reviews_request(appid: int) -> Request:
    """The summary alone: no review is asked for with it."""
    params = {"json": "1", "language": "all", "purchase_type": "all", "num_per_page": "0", "cursor": "*"}
    return Request("GET", f"appreviews/{appid}", params, limit=REVIEWS_FAMILY)


def fetch_details(send: Send, appid: int) -> Record | None:
    """Details of an app; None when the store has none. Raises UnreadableRecord."""
    return details(appid, send(details_request(appid)))


def fetch_reviews(send: Send, appid: int) -> Record | None:
    """Counts of an app's reviews; None when the store knows no such app. Raises UnreadableRecord."""
    return review_summary(appid, send(reviews_request(appid)))


def details(appid: int, body: Any) -> Record | None:
    """What is kept of `{"<appid>": {"success": true, "data": {...}}}`."""
    entry = _mapping(body, appid, "the answer").get(str(appid))
    found = _mapping(entry, appid, "the app's entry")
    if found.get("success") is False:
        return None
    data = _mapping(found.get("data"), appid, "data")
    released = _mapping(data.get("release_date") or {}, appid, "release_date")
    price = _mapping(data.get("price_overview") or {}, appid, "price_overview")
    return {
        "appid": appid,
        "name": _text(data, "name", appid),
        "type": _text(data, "type", appid).lower(),
        "is_free": bool(data.get("is_free")),
        "release_date": release_date(released.get("date")),
        "is_released": not released.get("coming_soon", False),
        "has_workshop": STEAM_WORKSHOP in _ids(data.get("categories")),
        "has_developer_info": bool(data.get("developers")),
        "currency": price.get("currency"),
        "price_cents": _count(price, "final", appid) if price else None,
        "initial_price_cents": _count(price, "initial", appid) if price else None,
        "discount_percent": _count(price, "discount_percent", appid) if price else None,
    }


def review_summary(appid: int, body: Any) -> Record | None:
    """What is kept of `{"success": 1, "query_summary": {...}}`; any other `success` means: no such app."""
    answer = _mapping(body, appid, "the answer")
    if answer.get("success") != 1:
        return None
    summary = _mapping(answer.get("query_summary"), appid, "query_summary")
    return {
        "appid": appid,
        "total_reviews": _count(summary, "total_reviews", appid),
        "positive_reviews": _count(summary, "total_positive", appid),
        "negative_reviews": _count(summary, "total_negative", appid),
        "review_score": _count(summary, "review_score", appid),
        "review_score_desc": _text(summary, "review_score_desc", appid),
    }


def release_date(text: Any) -> str | None:
    """The day as ISO 8601; None for "Coming soon", "Q4 2026", "2027" and whatever else is no day."""
    for pattern in _DATES:
        try:
            return dt.datetime.strptime(str(text), pattern).replace(tzinfo=dt.UTC).date().isoformat()
        except ValueError:
            continue
    return None


def _mapping(value: Any, appid: int, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise error("SCHEMA_MISMATCH", f"app {appid}: {what} is {type(value).__name__}, not an object")
    return value


def _text(record: Mapping[str, Any], name: str, appid: int) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value:
        raise error("WRONG_TYPE", f"app {appid}: {name} is {value!r}, not a text"[:300])
    if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise error("FORBIDDEN_CHARACTER", f"app {appid}: {name} holds a character that Postgres cannot store")
    return value


def _count(record: Mapping[str, Any], name: str, appid: int) -> int:
    value = record.get(name)
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise error("WRONG_TYPE", f"app {appid}: {name} is {value!r}, not a count"[:300])
    return value


def _ids(categories: Any) -> set[Any]:
    if not isinstance(categories, list):
        return set()
    return {category.get("id") for category in categories if isinstance(category, Mapping)}


STOREFRONT = KeyedSource(
    name="storefront", vendor=VENDOR, fetch=fetch_details, limits={STOREFRONT_FAMILY: STOREFRONT_LIMITS}, batch_size=800
)
REVIEWS = KeyedSource(
    name="reviews", vendor=VENDOR, fetch=fetch_reviews, limits={REVIEWS_FAMILY: REVIEWS_LIMITS}, batch_size=2500
)
