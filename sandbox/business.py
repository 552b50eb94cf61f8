"""One consistent business behind all platforms. What the vendors' modules read:

    business.shops                                  the three shops (`shops.SHOPS`)
    business.accounts(platform=None)                all VendorAccounts; platform META, GA4 or KLAVIYO
    business.account(platform, account_id)          one of them, or None
    account.shop.today(state.clock.now())           the as-of day of an account; `state.as_of(account)` says the same

    Meta
    business.ads.catalogue(account_id)              Catalogue(campaigns, adsets, ads) of AdObjects, whole
    business.ad_objects(account, kind, as_of)       campaigns | adsets | ads that exist on that day
    business.ad_days(account, day, as_of)           tuple[AdDay]: every row of the account on one day; `ad_id` None is
                                                    delivery without an ad (counts in ad set, campaign and account)

    GA4
    business.visit_cells(account, day, as_of)       tuple[VisitCell]: finest cells; every report is a sum over them

    Klaviyo
    business.mail.flows(shop), business.mail.campaigns(shop, as_of)
    business.message_days(account, day, as_of)      tuple[MessageDay], with attributed orders and revenue
    business.told_orders(shop, day, as_of)          orders that Klaviyo has

    Truth
    business.orders(shop, day, as_of)               orders that the shop knows
    business.shop_day(shop, day, as_of)             ShopDay: all of it in sums

Everything is a pure function of (seed, day, as-of day), for every day since 2024-01-01. As-of day and day are the
shop's own calendar days. The last days grow as the as-of day moves on: counts for 3 days, purchases attributed to
Meta ads for 28. Within one as-of day nothing changes: today shows the orders of its first minutes only.

Money is in cents (int); `shops.money` writes it as the vendors do, "12.30".
"""

from __future__ import annotations

import datetime as dt
import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sandbox.ads import AdDay, AdModel, AdObject
from sandbox.mailings import MailModel, MessageDay
from sandbox.orders import Order, OrderModel
from sandbox.shops import SHOPS, Shop, VendorAccount, digest, money, short_id
from sandbox.visits import VisitCell, VisitModel


@dataclass(frozen=True, slots=True)
class ShopDay:
    """One day of one shop in sums, as known on the as-of day.

    orders, order_cents, new_customers: what the shop knows; told_*: what Klaviyo has of it.
    """

    day: dt.date
    orders: int
    order_cents: int
    new_customers: int
    orders_by_channel: Mapping[str, int]
    told_orders: int
    told_cents: int
    sessions: int
    transactions: int
    transaction_cents: int
    spend_cents: int
    adless_spend_cents: int
    impressions: int
    clicks: int
    purchases: int
    purchase_cents: int
    emails_received: int
    emails_opened: int
    emails_clicked: int
    attributed_orders: int
    attributed_cents: int


class Business:
    """The business of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.shops: Sequence[Shop] = SHOPS
        self._accounts = tuple(_accounts(seed))
        self._by_id = {(account.platform, account.account_id): account for account in self._accounts}
        meta = {account.shop.key: account for account in self._accounts if account.platform == "META"}
        self.ads = AdModel(seed)
        self.mail = MailModel(seed)
        self._orders = OrderModel(seed, self.ads, self.mail, meta)
        self._visits = VisitModel(seed, self.ads, self.mail, self._orders, meta)
        self.message_days = functools.lru_cache(maxsize=4096)(self._message_days)
        self.ad_days = functools.lru_cache(maxsize=4096)(self.ads.ad_days)

    def accounts(self, platform: str | None = None) -> tuple[VendorAccount, ...]:
        """All accounts, or those of one platform."""
        return tuple(account for account in self._accounts if platform in (None, account.platform))

    def account(self, platform: str, account_id: str) -> VendorAccount | None:
        return self._by_id.get((platform, account_id))

    def ad_objects(self, account: VendorAccount, kind: str, as_of: dt.date) -> tuple[AdObject, ...]:
        """The account's objects of one kind (campaigns, adsets, ads) that exist on `as_of`, oldest first."""
        catalogue = self.ads.catalogue(account.account_id)
        objects = {"campaigns": catalogue.campaigns, "adsets": catalogue.adsets, "ads": catalogue.ads}[kind]
        return tuple(item for item in objects if item.first_day <= as_of)

    def visit_cells(self, account: VendorAccount, day: dt.date, as_of: dt.date) -> tuple[VisitCell, ...]:
        """The sessions of one day as GA4 knows them."""
        return self._visits.cells(account.shop, day, as_of)

    def orders(self, shop: Shop, day: dt.date, as_of: dt.date) -> tuple[Order, ...]:
        """The orders of a day that the shop itself knows on `as_of`, in the order of time."""
        return tuple(order for order in self._orders.final(shop, day) if order.is_known(as_of))

    def told_orders(self, shop: Shop, day: dt.date, as_of: dt.date) -> tuple[Order, ...]:
        """The orders of a day that Klaviyo has on `as_of`, in the order of time."""
        return tuple(order for order in self._orders.final(shop, day) if order.is_told(as_of))

    def _message_days(self, account: VendorAccount, day: dt.date, as_of: dt.date) -> tuple[MessageDay, ...]:
        """What messages did on a day, and the orders attributed to them on that day."""
        shop = account.shop
        rows = {each.message.message_id: each for each in self.mail.known(shop, day, as_of)}
        sums: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        for order in self.told_orders(shop, day, as_of):
            if order.message is not None:
                entry = sums[order.message.message_id]
                entry[0] += 1
                entry[1] += order.cents
                rows.setdefault(order.message.message_id, MessageDay(day, order.message, 0, 0, 0, 0, 0, 0, 0))
        return tuple(
            replace(each, orders=sums[message_id][0], order_cents=sums[message_id][1]) if message_id in sums else each
            for message_id, each in rows.items()
        )

    def shop_day(self, shop: Shop, day: dt.date, as_of: dt.date) -> ShopDay:
        """One day of one shop in sums."""
        by_platform = {account.platform: account for account in self._accounts if account.shop == shop}
        orders = self.orders(shop, day, as_of)
        told = self.told_orders(shop, day, as_of)
        cells = self.visit_cells(by_platform["GA4"], day, as_of)
        ads = self.ad_days(by_platform["META"], day, as_of)
        messages = self.message_days(by_platform["KLAVIYO"], day, as_of)
        channels: defaultdict[str, int] = defaultdict(int)
        for order in orders:
            channels[order.channel] += 1
        return ShopDay(
            day=day,
            orders=len(orders),
            order_cents=sum(order.cents for order in orders),
            new_customers=sum(order.is_new for order in orders),
            orders_by_channel=dict(channels),
            told_orders=len(told),
            told_cents=sum(order.cents for order in told),
            sessions=sum(cell.sessions for cell in cells),
            transactions=sum(cell.purchases for cell in cells),
            transaction_cents=sum(cell.purchase_cents for cell in cells),
            spend_cents=sum(row.spend_cents for row in ads),
            adless_spend_cents=sum(row.spend_cents for row in ads if row.ad_id is None),
            impressions=sum(row.impressions for row in ads),
            clicks=sum(row.clicks for row in ads),
            purchases=sum(row.purchases for row in ads),
            purchase_cents=sum(row.purchase_cents for row in ads),
            emails_received=sum(each.received for each in messages),
            emails_opened=sum(each.opened for each in messages),
            emails_clicked=sum(each.clicked for each in messages),
            attributed_orders=sum(each.orders for each in messages),
            attributed_cents=sum(each.order_cents for each in messages),
        )


def _accounts(seed: int) -> list[VendorAccount]:
    accounts = []
    for number, shop in enumerate(SHOPS):
        accounts += [
            VendorAccount(
                "META",
                shop,
                str(710_000_000_000_000 + digest(seed, shop.key, "meta") % 10**12),
                f"{shop.name} {shop.currency}",
                {
                    "access_token": f"EAASandbox{digest(seed, shop.key, 'token'):020d}",
                    "app_id": str(900_000_000_000_000 + seed % 1000),
                    "app_secret": f"{digest(seed, 'app secret'):016x}{digest(seed, 'more'):016x}",
                },
            ),
            VendorAccount(
                "GA4",
                shop,
                str(310_000_000 + digest(seed, shop.key, "ga4") % 10**6 * 10 + number),
                f"{shop.name} web",
            ),
            VendorAccount(
                "KLAVIYO",
                shop,
                short_id(seed, shop.key, "klaviyo"),
                shop.name,
                {"api_key": f"pk_{digest(seed, shop.key, 'key'):016x}{digest(seed, shop.key, 'key2'):016x}"},
            ),
        ]
    return accounts


__all__ = ["AdDay", "Business", "MessageDay", "Order", "ShopDay", "VisitCell", "money"]
