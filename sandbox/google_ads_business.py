"""The shops' Google Ads: one customer each, all under one manager account, and what their ads deliver day by day.

Clicks lead to the sessions that GA4 shows as Paid Search, so both tell one story: restated as the last days grow, and
once more when clicks turn out to be invalid.
"""

from __future__ import annotations

import datetime as dt
import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sandbox.business import Business
from sandbox.shops import FIRST_DAY, Shop, VendorAccount, digest, draw

PLATFORM = "GOOGLE_ADS"

INVALID_AFTER_DAYS = 4
"""Clicks that were no people's are taken back so many days later; what a click farm alone delivered vanishes whole."""

CLICKS_PER_SESSION = 1.07
"""Not every click arrives: the visitor leaves before the page has loaded."""

ROTATION_DAYS = 60


@dataclass(frozen=True, slots=True)
class SearchAd:
    """One ad in one ad group. The same ad may stand in several."""

    campaign_id: int
    campaign_name: str
    ad_group_id: int
    ad_group_name: str
    ad_id: int
    ad_name: str
    first_day: dt.date
    last_day: dt.date | None

    def runs_on(self, day: dt.date) -> bool:
        return self.first_day <= day and (self.last_day is None or day <= self.last_day)

    def status(self, as_of: dt.date) -> str:
        return "REMOVED" if self.last_day is not None and as_of > self.last_day else "ENABLED"


@dataclass(frozen=True, slots=True)
class SearchDay:
    """One ad's numbers of one day in one ad group, as Google knows them on the as-of day."""

    day: dt.date
    ad: SearchAd
    impressions: int
    clicks: int
    cost_micros: int
    conversions: float
    conversions_value: float


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer of the manager account. `is_direct`: its user may enter it without the manager as well."""

    account: VendorAccount
    is_direct: bool


class SearchModel:
    """All customers and their ads. A pure function of the seed."""

    def __init__(self, business: Business) -> None:
        self._business = business
        self._seed = business.seed
        self.manager_id = str(number(self._seed, "manager", digits=10))
        self.customers = tuple(self._customers())
        self.ads = functools.lru_cache(maxsize=16)(self._ads)
        self.days = functools.lru_cache(maxsize=4096)(self._days)

    def customer(self, customer_id: str) -> Customer | None:
        return next((each for each in self.customers if each.account.account_id == customer_id), None)

    def _customers(self) -> Iterator[Customer]:
        for place, shop in enumerate(self._business.shops):
            customer_id = str(number(self._seed, shop.key, "customer", digits=10))
            yield Customer(VendorAccount(PLATFORM, shop, customer_id, f"{shop.name} search"), is_direct=place == 0)

    def _ads(self, customer_id: str) -> tuple[SearchAd, ...]:
        """Two campaigns of two ad groups with three places each; evergreen in the first place, rotating in the others,
        and one ad that stands in both ad groups of its campaign."""
        found: list[SearchAd] = []
        for campaign in ("Brand", "Generic"):
            campaign_id = number(self._seed, customer_id, campaign)
            for group in ("Exact", "Phrase"):
                group_id = number(self._seed, campaign_id, group)
                shared_id = number(self._seed, campaign_id, "shared ad", digits=12)
                common = (campaign_id, f"{campaign} | search", group_id, f"{campaign} {group}")
                found.append(SearchAd(*common, shared_id, f"{campaign} headline", FIRST_DAY, None))
                for place in (1, 2):
                    found += self._rotation(common, place)
        return tuple(found)

    def _rotation(self, common: tuple[int, str, int, str], place: int) -> Iterator[SearchAd]:
        first = FIRST_DAY + dt.timedelta(days=11 * place)
        for turn in range(60):
            start = first + dt.timedelta(days=ROTATION_DAYS * turn)
            ad_id = number(self._seed, common[2], place, turn, digits=12)
            name = f"{common[3]} text {place}.{turn + 1}"
            yield SearchAd(*common, ad_id, name, start, start + dt.timedelta(days=ROTATION_DAYS - 1))

    def _days(self, customer_id: str, day: dt.date, as_of: dt.date) -> tuple[SearchDay, ...]:
        """All rows of one day as known on `as_of`; rows without any impression are left out."""
        customer = self.customer(customer_id)
        if customer is None or day > as_of or day < FIRST_DAY:
            return ()
        shop = customer.account.shop
        clicks = int(self._sessions(shop, day, as_of) * CLICKS_PER_SESSION)
        running = [ad for ad in self.ads(customer_id) if ad.runs_on(day)]
        rng = draw(self._seed, "search", customer_id, day)
        rows = list(self._shared_out(rng, shop, day, running, clicks))
        if (as_of - day).days >= INVALID_AFTER_DAYS:
            rows = list(without_invalid(self._seed, rows))
        return tuple(row for row in rows if row.impressions)

    def _sessions(self, shop: Shop, day: dt.date, as_of: dt.date) -> int:
        property_ = next(each for each in self._business.accounts("GA4") if each.shop == shop)
        cells = self._business.visit_cells(property_, day, as_of)
        return sum(cell.sessions for cell in cells if cell.source.channel_group == "Paid Search")

    @staticmethod
    def _shared_out(
        rng: random.Random, shop: Shop, day: dt.date, ads: list[SearchAd], clicks: int
    ) -> Iterator[SearchDay]:
        weights = [rng.uniform(0.2, 1.0) for _ in ads]
        for ad, weight in zip(ads, weights, strict=True):
            part = int(clicks * weight / sum(weights))
            price = int(shop.cost_per_order_cents * 10_000 / 32 * rng.uniform(0.8, 1.2))
            impressions = int(part * rng.uniform(9, 16))
            conversions = round(part * rng.uniform(0.02, 0.05), 2)
            value = round(conversions * shop.order_cents / 100, 2)
            yield SearchDay(day, ad, impressions, part, part * price, conversions, value)


def without_invalid(seed: int, rows: list[SearchDay]) -> Iterator[SearchDay]:
    """The rows after the vendor has taken invalid clicks back: one ad in nine loses all of them, another a tenth."""
    for row in rows:
        match digest(seed, "invalid", row.ad.ad_id, row.ad.ad_group_id, row.day) % 9:
            case 0:
                continue
            case 1:
                yield replace(row, clicks=row.clicks - row.clicks // 10, cost_micros=row.cost_micros * 9 // 10)
            case _:
                yield row


def number(*key: object, digits: int = 11) -> int:
    """An id as Google writes them: digits only."""
    lowest: int = 10 ** (digits - 1)
    return lowest + digest("google ads", *key) % (9 * lowest)
