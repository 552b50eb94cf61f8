"""Campaigns, ad sets and ads of a Meta account, and what they deliver day by day."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from sandbox.shops import (
    ATTRIBUTION_DAYS,
    EARLY_SHARE,
    FIRST_DAY,
    HORIZON,
    Shop,
    VendorAccount,
    count,
    digest,
    draw,
    numeric_id,
    season,
    shown,
)

META_SHARE = 0.35
"""Share of a shop's orders that its ads bring."""

ROTATION_DAYS = 45
"""An evergreen ad runs this long; then the next one takes its place."""

ZERO_DAY_EVERY = 5
"""On every fifth day nothing of the account with zero days is delivered."""

_LAGS = tuple(
    itertools.accumulate([0.62, 0.14, 0.07] + [0.025] * 4 + [0.07 / (ATTRIBUTION_DAYS - 7)] * (ATTRIBUTION_DAYS - 7))
)


@dataclass(frozen=True, slots=True)
class AdObject:
    """A campaign, ad set or ad.

    last_day: its last day of delivery, None while it goes on. fate: its status afterwards.
    """

    object_id: str
    name: str
    first_day: dt.date
    last_day: dt.date | None
    fate: str
    campaign_id: str
    adset_id: str | None = None
    objective: str = "OUTCOME_SALES"

    def status(self, as_of: dt.date) -> str:
        """ACTIVE, PAUSED, ARCHIVED or DELETED on the day `as_of`."""
        return self.fate if self.last_day is not None and as_of > self.last_day else "ACTIVE"

    def changed_on(self, as_of: dt.date) -> dt.date:
        """The day of the last change known on `as_of`."""
        if self.last_day is not None and as_of > self.last_day:
            return self.last_day + dt.timedelta(days=1)
        return self.first_day

    def runs_on(self, day: dt.date) -> bool:
        return self.first_day <= day and (self.last_day is None or day <= self.last_day)


@dataclass(frozen=True, slots=True)
class Conversion:
    """A purchase that an ad brought: `lag` days after the click, which was on the ad's day."""

    lag: int
    cents: int
    is_new: bool
    moment: float  # part of the day, 0 to 1; below EARLY_SHARE: in its first minutes


@dataclass(frozen=True, slots=True)
class Delivery:
    """One ad's final numbers of one day. `ad` is None for delivery that no ad is left to show."""

    campaign: AdObject
    adset: AdObject
    ad: AdObject | None
    impressions: int
    reach: int
    clicks: int
    link_clicks: int
    spend_cents: int
    conversions: tuple[Conversion, ...]


@dataclass(frozen=True, slots=True)
class AdDay:
    """One ad's numbers of one day, as Meta knows them on the as-of day.

    `ad_id` is None for delivery without an ad: it counts in ad set, campaign and account, and in no ad.
    clicks: all clicks; link_clicks: those that lead to the shop (`inline_link_clicks`).
    """

    day: dt.date
    campaign_id: str
    campaign_name: str
    adset_id: str
    adset_name: str
    ad_id: str | None
    ad_name: str | None
    impressions: int
    reach: int
    clicks: int
    link_clicks: int
    landing_page_views: int
    add_to_carts: int
    checkouts: int
    purchases: int
    purchase_cents: int
    spend_cents: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All campaigns, ad sets and ads that an account ever has, in the order of their first day."""

    campaigns: tuple[AdObject, ...]
    adsets: tuple[AdObject, ...]
    ads: tuple[AdObject, ...]


def _fate(*key: object) -> str:
    return ("PAUSED", "PAUSED", "PAUSED", "ARCHIVED", "ARCHIVED", "DELETED")[digest("fate", *key) % 6]


class AdModel:
    """The ads of all Meta accounts. A pure function of the seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.catalogue = functools.lru_cache(maxsize=64)(self._catalogue)
        self._of_month = functools.lru_cache(maxsize=512)(self._running_in_month)
        self.delivery = functools.lru_cache(maxsize=8192)(self._delivery)

    def _catalogue(self, account_id: str) -> Catalogue:
        campaigns: list[AdObject] = []
        adsets: list[AdObject] = []
        ads: list[AdObject] = []
        for campaign, slots in itertools.chain(self._evergreen(account_id), self._seasonal(account_id)):
            campaigns.append(campaign)
            for number, name in enumerate(("Broad", "Lookalike 1%")):
                adset = self._child(campaign, f"{campaign.name} | {name}", "adset", number)
                adsets.append(adset)
                for slot in range(slots):
                    ads.extend(self._slot(adset, slot))

        def by_age(item: AdObject) -> tuple[dt.date, str]:
            return item.first_day, item.object_id

        return Catalogue(
            tuple(sorted(campaigns, key=by_age)), tuple(sorted(adsets, key=by_age)), tuple(sorted(ads, key=by_age))
        )

    def _evergreen(self, account_id: str) -> Iterator[tuple[AdObject, int]]:
        for name in ("Prospecting", "Retargeting"):
            object_id = numeric_id(self._seed, account_id, name)
            yield AdObject(object_id, f"{name} evergreen", FIRST_DAY, None, "PAUSED", object_id), 3

    def _seasonal(self, account_id: str) -> Iterator[tuple[AdObject, int]]:
        year, quarter = FIRST_DAY.year, 0
        while dt.date(year, 1 + 3 * quarter, 1) <= HORIZON:
            start = dt.date(year, 1 + 3 * quarter, 1) + dt.timedelta(days=14)
            end = start + dt.timedelta(days=59)
            object_id = numeric_id(self._seed, account_id, year, quarter)
            fate = ("PAUSED", "ARCHIVED", "ARCHIVED", "DELETED")[digest(object_id) % 4]
            yield AdObject(object_id, f"Season {year} Q{quarter + 1} ☀", start, end, fate, object_id), 2
            year, quarter = (year, quarter + 1) if quarter < 3 else (year + 1, 0)

    def _child(self, parent: AdObject, name: str, kind: str, number: int) -> AdObject:
        object_id = numeric_id(self._seed, parent.object_id, kind, number)
        return AdObject(object_id, name, parent.first_day, parent.last_day, parent.fate, parent.campaign_id, object_id)

    def _slot(self, adset: AdObject, slot: int) -> Iterator[AdObject]:
        """The ads that follow each other in one place of an ad set."""
        first = adset.first_day + dt.timedelta(days=5 * slot)
        last = adset.last_day or HORIZON
        for turn in itertools.count():
            start = first + dt.timedelta(days=ROTATION_DAYS * turn)
            if start > last:
                return
            end = start + dt.timedelta(days=ROTATION_DAYS - 1)
            object_id = numeric_id(self._seed, adset.object_id, slot, turn)
            fate = _fate(object_id) if adset.fate != "DELETED" else "DELETED"
            yield AdObject(
                object_id,
                f"{adset.name} | Creative {slot + 1}.{turn + 1}",
                start,
                min(end, adset.last_day) if adset.last_day else end,
                fate,
                adset.campaign_id,
                adset.object_id,
            )

    def running(self, account_id: str, day: dt.date) -> tuple[AdObject, ...]:
        """The ads that may deliver on that day."""
        return tuple(ad for ad in self._of_month(account_id, day.year, day.month) if ad.runs_on(day))

    def _running_in_month(self, account_id: str, year: int, month: int) -> tuple[AdObject, ...]:
        first = dt.date(year, month, 1)
        last = first + dt.timedelta(days=31)
        ads = self.catalogue(account_id).ads
        return tuple(ad for ad in ads if ad.first_day <= last and (ad.last_day is None or ad.last_day >= first))

    def _delivery(self, account: VendorAccount, day: dt.date) -> tuple[Delivery, ...]:
        shop = account.shop
        if day < FIRST_DAY or (shop.has_zero_days and day.toordinal() % ZERO_DAY_EVERY == 2):
            return ()
        catalogue = self.catalogue(account.account_id)
        campaigns = {item.object_id: item for item in catalogue.campaigns}
        adsets = {item.object_id: item for item in catalogue.adsets}
        ads = self.running(account.account_id, day)
        rng = draw(self._seed, "delivery", account.account_id, day)
        weights = [0.4 + rng.random() for _ in ads]
        purchases = shop.orders_per_day * META_SHARE * season(shop, day)
        rows = [
            self._ad_row(rng, shop, campaigns[ad.campaign_id], adsets[ad.adset_id or ""], ad, purchases * share)
            for ad, share in zip(ads, _shares(weights), strict=True)
        ]
        if shop.has_adless_delivery and rows:
            rows.append(self._adless(rng, rows[0]))
        return tuple(rows)

    def _ad_row(
        self, rng: random.Random, shop: Shop, campaign: AdObject, adset: AdObject, ad: AdObject, purchases: float
    ) -> Delivery:
        spend_cents = int(purchases * shop.cost_per_order_cents * rng.uniform(0.85, 1.15))
        link_clicks = max(1, count(rng, purchases * 38))
        impressions = int(link_clicks * rng.uniform(55, 90))
        conversions = tuple(self._conversion(rng, shop) for _ in range(count(rng, purchases)))
        return Delivery(
            campaign,
            adset,
            ad,
            impressions,
            int(impressions / rng.uniform(1.1, 1.5)),
            int(link_clicks * rng.uniform(1.15, 1.4)),
            link_clicks,
            spend_cents,
            conversions,
        )

    @staticmethod
    def _conversion(rng: random.Random, shop: Shop) -> Conversion:
        point = rng.random() * _LAGS[-1]
        lag = next(number for number, limit in enumerate(_LAGS) if point <= limit)
        cents = max(500, int(shop.order_cents * rng.lognormvariate(-0.08, 0.4)))
        return Conversion(lag, cents, rng.random() < 0.7, rng.random())

    @staticmethod
    def _adless(rng: random.Random, sample: Delivery) -> Delivery:
        """What deleted ads still deliver: known to ad set, campaign and account alone."""
        link_clicks = rng.randint(3, 12)
        impressions = link_clicks * rng.randint(60, 80)
        return Delivery(
            sample.campaign,
            sample.adset,
            None,
            impressions,
            int(impressions / 1.2),
            link_clicks + 2,
            link_clicks,
            rng.randint(400, 1_900),
            (),
        )

    def ad_days(self, account: VendorAccount, day: dt.date, as_of: dt.date) -> tuple[AdDay, ...]:
        """All rows of one day as Meta knows them on `as_of`; rows without any impression are left out."""
        if day > as_of:
            return ()
        rows = (_as_known(each, day, as_of) for each in self.delivery(account, day))
        return tuple(row for row in rows if row.impressions)


def _shares(weights: list[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]


def is_known(conversion: Conversion, day: dt.date, as_of: dt.date) -> bool:
    """Whether the purchase has happened by the as-of day; of that day itself only the first minutes are known."""
    ordered = day + dt.timedelta(days=conversion.lag)
    return ordered < as_of or (ordered == as_of and conversion.moment < EARLY_SHARE)


def _as_known(each: Delivery, day: dt.date, as_of: dt.date) -> AdDay:
    known = [conversion for conversion in each.conversions if is_known(conversion, day, as_of)]
    link_clicks = shown(each.link_clicks, day, as_of)
    carts = max(link_clicks // 9, len(known))
    return AdDay(
        day=day,
        campaign_id=each.campaign.object_id,
        campaign_name=each.campaign.name,
        adset_id=each.adset.object_id,
        adset_name=each.adset.name,
        ad_id=each.ad.object_id if each.ad else None,
        ad_name=each.ad.name if each.ad else None,
        impressions=shown(each.impressions, day, as_of),
        reach=shown(each.reach, day, as_of),
        clicks=shown(each.clicks, day, as_of),
        link_clicks=link_clicks,
        landing_page_views=link_clicks * 9 // 10,
        add_to_carts=carts,
        checkouts=max(carts * 2 // 5, len(known)),
        purchases=len(known),
        purchase_cents=sum(conversion.cents for conversion in known),
        spend_cents=shown(each.spend_cents, day, as_of),
    )
