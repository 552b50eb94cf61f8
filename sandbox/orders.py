"""The orders of the shops: the one truth that every platform tells its own part of."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import random
from dataclasses import dataclass, replace

from sandbox.ads import AdModel
from sandbox.mailings import SEND_HOUR, MailModel, Message
from sandbox.shops import (
    ATTRIBUTION_DAYS,
    EARLY_SHARE,
    FIRST_DAY,
    Shop,
    VendorAccount,
    count,
    day_start,
    draw,
    instant_of,
    season,
)

CHANNELS = {
    "email": 0.20,
    "paid_search": 0.12,
    "organic": 0.15,
    "direct": 0.13,
    "referral": 0.05,
}
"""Shares of the orders that ads on Meta do not bring (`meta` brings the rest)."""

_NEW_SHARE = {"email": 0.1, "paid_search": 0.55, "organic": 0.5, "direct": 0.3, "referral": 0.6}

PRODUCTS = ("Classic", "Solar", "Diver", "Pilot", "Strap", "Gift card", "Étui", "Repair set")

CUSTOMERS_PER_DAY = 1000
"""Numbers kept for the new customers of one day."""

ATTRIBUTION_MAIL_DAYS = 5
"""Klaviyo attributes an order to a message opened or clicked in the last five days (its default for e-mail)."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order.

    at: the instant, UTC. day: the shop's day. customer: number of the customer in the shop; a new customer has
    never ordered before. channel: meta, email, paid_search, organic, direct or referral. campaign_id and ad_id:
    of Meta. late: days until the shop's system has told Klaviyo. ga4_late: days until GA4 has it, None when the
    visitor refused to be measured.
    """

    order_id: str
    day: dt.date
    at: dt.datetime
    cents: int
    items: tuple[str, ...]
    customer: int
    is_new: bool
    channel: str
    is_early: bool
    late: int
    ga4_late: int | None
    campaign_id: str | None = None
    campaign_name: str | None = None
    ad_id: str | None = None
    message: Message | None = None

    def is_known(self, as_of: dt.date) -> bool:
        """Whether the shop itself knows it on `as_of`."""
        return self.day < as_of or (self.day == as_of and self.is_early)

    def is_told(self, as_of: dt.date) -> bool:
        """Whether Klaviyo has it on `as_of`."""
        return self.is_known(as_of) and (as_of - self.day).days >= self.late

    def is_measured(self, as_of: dt.date) -> bool:
        """Whether GA4 has it on `as_of`."""
        return self.ga4_late is not None and self.is_known(as_of) and (as_of - self.day).days >= self.ga4_late


class OrderModel:
    """The orders of all shops. A pure function of the seed."""

    def __init__(self, seed: int, ads: AdModel, mail: MailModel, meta_account: dict[str, VendorAccount]) -> None:
        self._seed = seed
        self._ads = ads
        self._mail = mail
        self._meta_account = meta_account
        self.final = functools.lru_cache(maxsize=4096)(self._final)

    def _final(self, shop: Shop, day: dt.date) -> tuple[Order, ...]:
        """All orders of a day, in the order of time."""
        if day < FIRST_DAY:
            return ()
        rng = draw(self._seed, "orders", shop.key, day)
        drafts = [*self._from_ads(rng, shop, day), *self._others(rng, shop, day)]
        drafts.sort(key=lambda order: (order.at, order.cents))
        number = day.toordinal() - FIRST_DAY.toordinal()
        prefix = shop.key[:2].upper()
        newcomers = itertools.count(number * CUSTOMERS_PER_DAY)
        return tuple(
            replace(
                order,
                order_id=f"{prefix}-{number:05d}-{index:04d}",
                customer=next(newcomers) if order.is_new else order.customer,
            )
            for index, order in enumerate(drafts)
        )

    def _from_ads(self, rng: random.Random, shop: Shop, day: dt.date) -> list[Order]:
        account = self._meta_account[shop.key]
        orders = []
        for lag in range(ATTRIBUTION_DAYS):
            for delivery in self._ads.delivery(account, day - dt.timedelta(days=lag)):
                for conversion in delivery.conversions:
                    if conversion.lag != lag or delivery.ad is None:
                        continue
                    draft = self._draft(rng, shop, day, "meta", conversion.cents, conversion.is_new, conversion.moment)
                    orders.append(
                        replace(
                            draft,
                            campaign_id=delivery.campaign.object_id,
                            campaign_name=delivery.campaign.name,
                            ad_id=delivery.ad.object_id,
                        )
                    )
        return orders

    def _others(self, rng: random.Random, shop: Shop, day: dt.date) -> list[Order]:
        orders = []
        total = shop.orders_per_day * season(shop, day)
        for channel, share in CHANNELS.items():
            for _ in range(count(rng, total * share)):
                cents = max(500, int(shop.order_cents * rng.lognormvariate(-0.05, 0.45)))
                is_new = rng.random() < _NEW_SHARE[channel]
                order = self._draft(rng, shop, day, channel, cents, is_new, rng.random())
                orders.append(replace(order, message=self._message(rng, shop, order)) if channel == "email" else order)
        return orders

    def _draft(
        self, rng: random.Random, shop: Shop, day: dt.date, channel: str, cents: int, is_new: bool, moment: float
    ) -> Order:
        # Customers are numbered by the day of their first order; who comes back is one of an earlier day's first ten.
        customer = rng.randrange(max(1, (day - FIRST_DAY).days)) * CUSTOMERS_PER_DAY + rng.randrange(10)
        return Order(
            order_id="",
            day=day,
            at=instant_of(shop, day, moment),
            cents=cents,
            items=tuple(rng.choice(PRODUCTS) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))),
            customer=customer,
            is_new=is_new,
            channel=channel,
            is_early=moment < EARLY_SHARE,
            late=rng.choices((0, 1, 2), (95, 4, 1))[0],
            ga4_late=rng.choices((0, 1, 2, None), (88, 4, 1, 7))[0],
        )

    def _message(self, rng: random.Random, shop: Shop, order: Order) -> Message:
        """The message that an order by e-mail is attributed to: a recent campaign's, or a flow's."""
        messages = [message for flow in self._mail.flows(shop) if flow.daily_share for message in flow.messages]
        weights = [1.0] * len(messages)
        sent = [
            each
            for each in self._mail.sent_before(shop, order.day, ATTRIBUTION_MAIL_DAYS)
            if day_start(shop.time_zone, each.sent_on) + dt.timedelta(hours=SEND_HOUR) < order.at
        ]
        messages += [each.message for each in sent]
        weights += [8.0 / (1 + (order.day - each.sent_on).days) for each in sent]
        return rng.choices(messages, weights)[0]
