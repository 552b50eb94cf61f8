"""Sessions of the shops' sites, cell by cell: what GA4 reports are summed from."""

from __future__ import annotations

import datetime as dt
import functools
import random
from collections import defaultdict
from dataclasses import dataclass

from sandbox.ads import AdModel
from sandbox.mailings import MailModel
from sandbox.orders import Order, OrderModel
from sandbox.shops import FIRST_DAY, Shop, VendorAccount, count, draw, season, shown

LANDING_PAGES = ("/", "/collections/new", "/collections/sale", "/products/classic", "/products/solar", "/blog/care")
DEVICES = (
    ("mobile", "Chrome", "Android"),
    ("mobile", "Safari", "iOS"),
    ("desktop", "Chrome", "Windows"),
    ("desktop", "Safari", "Macintosh"),
    ("tablet", "Safari", "iOS"),
)
CELLS_PER_SOURCE = 6
"""Combinations of landing page, device and region that one source is spread over on one day."""

# channel of an order -> (GA4 default channel group, source, medium, campaign, sessions per order)
_SOURCES = {
    "paid_search": ("Paid Search", "google", "cpc", "Brand", 32.0),
    "organic": ("Organic Search", "google", "organic", "(organic)", 45.0),
    "direct": ("Direct", "(direct)", "(none)", "(direct)", 38.0),
    "referral": ("Referral", "magazine.example", "referral", "(referral)", 40.0),
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where visitors came from, in GA4's words."""

    channel_group: str
    source: str
    medium: str
    campaign: str


@dataclass(frozen=True, slots=True)
class VisitCell:
    """The sessions of one day that share all dimensions. Every count is additive over cells, except that people
    (`users`) may be in several."""

    day: dt.date
    source: Source
    landing_page: str
    device: str
    browser: str
    operating_system: str
    country: str
    region: str
    sessions: int
    engaged_sessions: int
    users: int
    new_users: int
    page_views: int
    add_to_carts: int
    checkouts: int
    purchases: int
    purchase_cents: int


@dataclass(slots=True)
class _Draft:
    source: Source
    landing_page: str
    device: tuple[str, str, str]
    region: str
    sessions: int
    engagement: float
    newness: float


def source_of(order: Order) -> Source:
    """The source that GA4 sees behind an order."""
    if order.channel == "meta":
        return Source("Paid Social", "facebook", "paid_social", order.campaign_name or "(not set)")
    if order.channel == "email" and order.message is not None:
        return _mail_source(order.message.name)
    group, source, medium, campaign, _ = _SOURCES[order.channel]
    return Source(group, source, medium, campaign)


def _mail_source(name: str) -> Source:
    return Source("Email", "klaviyo", "email", name)


class VisitModel:
    """The sessions of all shops. A pure function of the seed."""

    def __init__(
        self, seed: int, ads: AdModel, mail: MailModel, orders: OrderModel, meta_account: dict[str, VendorAccount]
    ) -> None:
        self._seed = seed
        self._ads = ads
        self._mail = mail
        self._orders = orders
        self._meta_account = meta_account
        self._final = functools.lru_cache(maxsize=4096)(self._drafts)
        self.cells = functools.lru_cache(maxsize=2048)(self._cells)

    def _sessions(self, rng: random.Random, shop: Shop, day: dt.date) -> dict[Source, int]:
        """Final sessions of a day by source."""
        sessions: defaultdict[Source, int] = defaultdict(int)
        total = shop.orders_per_day * season(shop, day)
        for name, (group, source, medium, campaign, per_order) in _SOURCES.items():
            share = {"paid_search": 0.12, "organic": 0.15, "direct": 0.13, "referral": 0.05}[name]
            sessions[Source(group, source, medium, campaign)] += count(rng, total * share * per_order)
        for delivery in self._ads.delivery(self._meta_account[shop.key], day):
            source_key = Source("Paid Social", "facebook", "paid_social", delivery.campaign.name)
            sessions[source_key] += int(delivery.link_clicks * 0.85)
        for message in self._mail.final(shop, day):
            sessions[_mail_source(message.message.name)] += int(message.unique_clicked * 0.9)
        for order in self._orders.final(shop, day):
            sessions[source_of(order)] += 1
        sessions[Source("Unassigned", "(not set)", "(not set)", "(not set)")] += count(rng, total * 0.4)
        return dict(sessions)

    def _drafts(self, shop: Shop, day: dt.date) -> tuple[_Draft, ...]:
        if day < FIRST_DAY:
            return ()
        rng = draw(self._seed, "visits", shop.key, day)
        drafts = []
        for source, sessions in self._sessions(rng, shop, day).items():
            for share in _split(rng, sessions, CELLS_PER_SOURCE):
                drafts.append(
                    _Draft(
                        source,
                        rng.choice(LANDING_PAGES),
                        rng.choice(DEVICES),
                        rng.choice(shop.regions),
                        share,
                        rng.uniform(0.45, 0.75),
                        rng.uniform(0.3, 0.7),
                    )
                )
        return tuple(drafts)

    def _cells(self, shop: Shop, day: dt.date, as_of: dt.date) -> tuple[VisitCell, ...]:
        """The cells of a day as GA4 knows them on `as_of`; empty ones are left out, equal ones are one."""
        if day > as_of:
            return ()
        bought = self._bought(shop, day, as_of)
        merged: dict[tuple[object, ...], VisitCell] = {}
        for number, draft in enumerate(self._final(shop, day)):
            purchases, cents = bought.get(number, (0, 0))
            cell = _cell(shop, day, as_of, draft, purchases, cents)
            if cell.sessions:
                key = (draft.source, draft.landing_page, draft.device, draft.region)
                merged[key] = _add(merged[key], cell) if key in merged else cell
        return tuple(merged.values())

    def _bought(self, shop: Shop, day: dt.date, as_of: dt.date) -> dict[int, tuple[int, int]]:
        """Measured orders by the number of the draft in which they fall: count and cents."""
        by_source: defaultdict[Source, list[int]] = defaultdict(list)
        for number, draft in enumerate(self._final(shop, day)):
            by_source[draft.source].append(number)
        bought: dict[int, tuple[int, int]] = {}
        for index, order in enumerate(self._orders.final(shop, day)):
            if order.is_measured(as_of):
                places = by_source[source_of(order)]
                place = places[index % len(places)]
                orders, cents = bought.get(place, (0, 0))
                bought[place] = (orders + 1, cents + order.cents)
        return bought


def _split(rng: random.Random, total: int, parts: int) -> list[int]:
    """`total` cut into up to `parts` parts that are not empty."""
    parts = min(parts, total)
    if parts <= 1:
        return [total] if total else []
    weights = [rng.random() + 0.2 for _ in range(parts)]
    scale = (total - parts) / sum(weights)
    shares = [1 + int(weight * scale) for weight in weights]
    shares[0] += total - sum(shares)
    return shares


def _cell(shop: Shop, day: dt.date, as_of: dt.date, draft: _Draft, purchases: int, cents: int) -> VisitCell:
    sessions = max(shown(draft.sessions, day, as_of), purchases)
    users = max(1, int(sessions * 0.88)) if sessions else 0
    device, browser, operating_system = draft.device
    carts = max(sessions // 12, purchases)
    return VisitCell(
        day=day,
        source=draft.source,
        landing_page=draft.landing_page,
        device=device,
        browser=browser,
        operating_system=operating_system,
        country=shop.country,
        region=draft.region,
        sessions=sessions,
        engaged_sessions=max(int(sessions * draft.engagement), purchases),
        users=users,
        new_users=int(users * draft.newness),
        page_views=int(sessions * (2.2 + draft.engagement * 2)),
        add_to_carts=carts,
        checkouts=max(carts // 2, purchases),
        purchases=purchases,
        purchase_cents=cents,
    )


_COUNTS = (
    "sessions",
    "engaged_sessions",
    "users",
    "new_users",
    "page_views",
    "add_to_carts",
    "checkouts",
    "purchases",
    "purchase_cents",
)


def _add(one: VisitCell, other: VisitCell) -> VisitCell:
    sums = {name: getattr(one, name) + getattr(other, name) for name in _COUNTS}
    return VisitCell(
        one.day,
        one.source,
        one.landing_page,
        one.device,
        one.browser,
        one.operating_system,
        one.country,
        one.region,
        **sums,
    )
