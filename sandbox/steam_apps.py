"""The apps of the sandbox's store: a pure function of the seed, their reviews of the day as well."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.shops import draw

FIRST_APPID = 440
APPS = 300
POISON_APPID, BROKEN_APPID = FIRST_APPID + 10 * 77, FIRST_APPID + 10 * 154
"""One app whose answers have the wrong types, one that the store cannot serve."""

MISSING_SHARE = 0.06
EPOCH = dt.date(2024, 1, 1)

_ADJECTIVES = ("Silent", "Golden", "Broken", "Hidden", "Crimson", "Last", "Distant", "Frozen", "Little", "Endless")
_NOUNS = ("Harbor", "Empire", "Garden", "Signal", "Frontier", "Workshop", "Orchard", "Citadel", "Voyage", "Machine")
_SCORES = ((95, 9, "Overwhelmingly Positive"), (80, 8, "Very Positive"), (70, 6, "Mostly Positive"), (40, 5, "Mixed"))


@dataclass(frozen=True, slots=True)
class App:
    """One app. state: ok, missing (the store does not have it), poison, broken."""

    appid: int
    state: str
    name: str
    type: str
    is_free: bool
    is_released: bool
    release_date: dt.date | None
    release_text: str
    has_workshop: bool
    developer: str | None
    initial_cents: int | None
    discount_percent: int | None
    reviews_at_epoch: int
    reviews_per_day: float
    positive_share: float

    @property
    def price_cents(self) -> int | None:
        if self.initial_cents is None or self.discount_percent is None:
            return None
        return self.initial_cents * (100 - self.discount_percent) // 100

    def total_reviews(self, day: dt.date) -> int:
        return self.reviews_at_epoch + int(self.reviews_per_day * max(0, (day - EPOCH).days))

    def review_summary(self, day: dt.date) -> dict[str, Any]:
        """The totals as the store words them."""
        total = self.total_reviews(day)
        positive = int(total * self.positive_share)
        score, words = _score(total, positive)
        return {
            "review_score": score,
            "review_score_desc": words,
            "total_positive": positive,
            "total_negative": total - positive,
            "total_reviews": total,
        }

    def truth(self, day: dt.date) -> Mapping[str, Any]:
        """What a good client ends up with."""
        summary = self.review_summary(day)
        return {
            "appid": self.appid,
            "state": self.state,
            "name": self.name,
            "type": self.type,
            "is_free": self.is_free,
            "is_released": self.is_released,
            "release_date": self.release_date.isoformat() if self.release_date else None,
            "has_workshop": self.has_workshop,
            "has_developer_info": self.developer is not None,
            "price_cents": self.price_cents,
            "discount_percent": self.discount_percent,
            "total_reviews": summary["total_reviews"],
            "positive_reviews": summary["total_positive"],
            "negative_reviews": summary["total_negative"],
        }


@functools.lru_cache(maxsize=4)
def catalogue(seed: int) -> Mapping[int, App]:
    """Every app by its id."""
    return {app.appid: app for app in (_app(seed, FIRST_APPID + 10 * number) for number in range(APPS))}


def find(seed: int, appid: int) -> App | None:
    return catalogue(seed).get(appid)


def _app(seed: int, appid: int) -> App:
    rng = draw(seed, "steam", appid)
    is_released = appid == FIRST_APPID or rng.random() < 0.9
    released_on = dt.date(2005, 1, 1) + dt.timedelta(days=rng.randrange(7300))
    has_date = is_released and rng.random() < 0.95
    is_free = rng.random() < 0.2
    is_priced = is_released and not is_free
    return App(
        appid=appid,
        state=_state(appid, rng.random()),
        name=f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)} {appid}",
        type=rng.choices(("game", "dlc", "demo", "music"), (80, 12, 5, 3))[0],
        is_free=is_free,
        is_released=is_released,
        release_date=released_on if has_date else None,
        release_text=f"{released_on:%b} {released_on.day}, {released_on.year}" if has_date else "To be announced",
        has_workshop=rng.random() < 0.15,
        developer=f"Studio {rng.randrange(80)}" if rng.random() < 0.9 else None,
        initial_cents=rng.choice((499, 999, 1499, 1999, 2999, 5999)) if is_priced else None,
        discount_percent=rng.choice((0, 0, 0, 10, 25, 50, 75)) if is_priced else None,
        reviews_at_epoch=int(10 ** rng.uniform(0, 5)) if is_released else 0,
        reviews_per_day=round(10 ** rng.uniform(-2, 1.5), 3) if is_released else 0.0,
        positive_share=rng.uniform(0.3, 0.99),
    )


def _state(appid: int, chance: float) -> str:
    if appid in (POISON_APPID, BROKEN_APPID):
        return "poison" if appid == POISON_APPID else "broken"
    return "missing" if chance < MISSING_SHARE and appid != FIRST_APPID else "ok"


def _score(total: int, positive: int) -> tuple[int, str]:
    if total < 10:
        return 0, f"{total} user reviews" if total else "No user reviews"
    percent = 100 * positive // total
    found = next(((score, words) for least, score, words in _SCORES if percent >= least), None)
    return found or (2, "Mostly Negative")


def reviews_page(app: App, day: dt.date, cursor: str, count: int) -> tuple[Sequence[Mapping[str, Any]], str]:
    """Reviews from the cursor on, newest first, and the cursor behind them. A cursor that is none begins anew."""
    start = _position(cursor)
    total = app.total_reviews(day)
    last = min(start + count, total)
    reviews = [
        {
            "recommendationid": str(app.appid * 1_000_000 + total - number),
            "language": "english",
            "review": f"Review {total - number} of {app.name}",
            "voted_up": (total - number) % 100 < app.positive_share * 100,
        }
        for number in range(start, last)
    ]
    return reviews, base64.b64encode(f"at {last}".encode()).decode()


def _position(cursor: str) -> int:
    try:
        word, _, number = base64.b64decode(cursor, validate=True).decode().partition(" ")
    except (binascii.Error, UnicodeDecodeError):
        return 0
    return int(number) if word == "at" and number.isdecimal() else 0
