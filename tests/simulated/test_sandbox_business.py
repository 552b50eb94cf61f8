"""The business behind the sandbox: the same for ever, restated as days go by, and one for all platforms."""

from __future__ import annotations

import datetime as dt

import pytest

from sandbox.business import Business
from sandbox.shops import FIRST_DAY, SHOPS, Shop, VendorAccount, day_seconds, instant_of, moment_of, money

DAY = dt.timedelta(days=1)
AS_OF = dt.date(2026, 3, 18)
AURORA, BOREALIS, KIRITIMATI = SHOPS


@pytest.fixture(scope="module")
def business() -> Business:
    return Business(7)


def account(business: Business, platform: str, shop: Shop) -> VendorAccount:
    return next(each for each in business.accounts(platform) if each.shop == shop)


def test_every_shop_has_an_account_on_every_platform_in_its_own_zone_and_currency(business: Business) -> None:
    accounts = business.accounts()
    assert len(accounts) == len({each.account_id for each in accounts}) == 9
    assert {(each.platform, each.shop.key) for each in accounts} == {
        (platform, shop.key) for platform in ("META", "GA4", "KLAVIYO") for shop in SHOPS
    }
    assert len({shop.time_zone for shop in SHOPS}) == len({shop.currency for shop in SHOPS}) == 3


def test_the_same_seed_tells_the_same_whatever_was_asked_before(business: Business) -> None:
    again = Business(7)
    day = AS_OF - DAY
    again.shop_day(KIRITIMATI, AS_OF - 9 * DAY, AS_OF)
    assert again.shop_day(KIRITIMATI, day, AS_OF) == business.shop_day(KIRITIMATI, day, AS_OF)
    assert Business(8).shop_day(KIRITIMATI, day, AS_OF) != business.shop_day(KIRITIMATI, day, AS_OF)


def test_nothing_is_known_of_days_to_come_or_before_the_first(business: Business) -> None:
    for day in (AS_OF + DAY, FIRST_DAY - DAY):
        known = business.shop_day(AURORA, day, AS_OF)
        assert (known.orders, known.sessions, known.impressions, known.emails_received) == (0, 0, 0, 0)


def test_the_first_day_is_a_day_like_any_other(business: Business) -> None:
    known = business.shop_day(AURORA, FIRST_DAY, AS_OF)
    assert known.orders > 20
    assert known.spend_cents > 0


def test_counts_of_the_last_three_days_grow_and_then_stand_still(business: Business) -> None:
    day = AS_OF - DAY
    seen = [business.shop_day(KIRITIMATI, day, day + age * DAY) for age in range(5)]
    for name in ("sessions", "emails_received", "told_orders", "transactions"):
        values = [getattr(each, name) for each in seen]
        assert values == sorted(values), name
        assert values[0] < values[1]
        assert values[3] == values[4]


def test_purchases_of_ads_are_restated_for_weeks(business: Business) -> None:
    day = AS_OF - 30 * DAY
    purchases = [
        business.ad_days(account(business, "META", AURORA), day, day + age * DAY) for age in (0, 3, 14, 27, 30)
    ]
    counts = [sum(row.purchases for row in rows) for rows in purchases]
    assert counts[0] < counts[1] < counts[2] <= counts[3] == counts[4]
    spend = [sum(row.spend_cents for row in rows) for rows in purchases]
    assert spend[1] == spend[4]


def test_platforms_tell_parts_of_the_same_orders(business: Business) -> None:
    for age in range(8):
        known = business.shop_day(AURORA, AS_OF - age * DAY, AS_OF)
        assert known.told_orders <= known.orders
        assert known.transactions <= known.orders
        assert known.attributed_orders <= known.told_orders
        assert sum(known.orders_by_channel.values()) == known.orders
    settled = business.shop_day(AURORA, AS_OF - 5 * DAY, AS_OF)
    assert settled.told_orders == settled.orders
    assert settled.told_cents == settled.order_cents
    assert settled.transactions >= settled.orders * 0.8


def test_purchases_reported_by_ads_are_orders_that_ads_brought(business: Business) -> None:
    first = AS_OF - 3 * DAY
    meta = account(business, "META", KIRITIMATI)
    reported = sum(row.purchases for number in range(31) for row in business.ad_days(meta, first - number * DAY, first))
    brought = sum(
        order.channel == "meta"
        for number in range(31)
        for order in business.orders(KIRITIMATI, first - number * DAY, first)
    )
    # Clicks of the window's first weeks lead to orders in it, and orders of its first weeks come from clicks before it.
    assert 0 < reported <= brought


def test_an_order_lies_within_its_day_and_today_holds_its_first_minutes_only(business: Business) -> None:
    for day in (AS_OF - 2 * DAY, AS_OF):
        orders = business.orders(BOREALIS, day, AS_OF)
        assert orders
        assert {order.at.astimezone(BOREALIS.zone).date() for order in orders} == {day}
        assert [order.at for order in orders] == sorted(order.at for order in orders)
    latest = business.orders(BOREALIS, AS_OF, AS_OF)[-1].at.astimezone(BOREALIS.zone)
    assert (latest.hour, latest.minute < 5) == (0, True)


def test_new_customers_are_new_once(business: Business) -> None:
    orders = [order for number in range(4) for order in business.orders(AURORA, AS_OF - number * DAY, AS_OF)]
    newcomers = [order.customer for order in orders if order.is_new]
    assert len(newcomers) == len(set(newcomers)) > 0
    assert len({order.order_id for order in orders}) == len(orders)


def test_one_account_has_days_without_any_delivery(business: Business) -> None:
    meta = account(business, "META", KIRITIMATI)
    empty = [number for number in range(10) if not business.ad_days(meta, AS_OF - number * DAY, AS_OF)]
    assert len(empty) == 2


def test_one_account_has_delivery_without_an_ad_which_its_ad_sets_contain(business: Business) -> None:
    rows = business.ad_days(account(business, "META", BOREALIS), AS_OF - DAY, AS_OF)
    [adless] = [row for row in rows if row.ad_id is None]
    assert adless.spend_cents > 0
    assert adless.adset_id in {row.adset_id for row in rows if row.ad_id is not None}
    assert business.shop_day(AURORA, AS_OF - DAY, AS_OF).adless_spend_cents == 0


def test_ads_come_and_go_and_keep_their_parents(business: Business) -> None:
    meta = account(business, "META", AURORA)
    campaigns = {each.object_id for each in business.ad_objects(meta, "campaigns", AS_OF)}
    adsets = {each.object_id: each.campaign_id for each in business.ad_objects(meta, "adsets", AS_OF)}
    ads = business.ad_objects(meta, "ads", AS_OF)
    assert set(adsets.values()) == campaigns
    assert {ad.adset_id for ad in ads} == set(adsets)
    assert {ad.status(AS_OF) for ad in ads} == {"ACTIVE", "PAUSED", "ARCHIVED", "DELETED"}
    assert len(business.ad_objects(meta, "ads", AS_OF + 60 * DAY)) > len(ads)


def test_campaigns_leave_on_their_day_and_are_archived_half_a_year_later(business: Business) -> None:
    campaigns = {each.campaign_id: each for each in business.mail.campaigns(AURORA, AS_OF)}
    planned = [each for each in campaigns.values() if each.status(AS_OF) == "Scheduled"]
    assert planned
    assert all(each.sent_on >= AS_OF for each in planned)
    later = planned[0].sent_on + DAY
    assert planned[0].status(later) in ("Sent", "Cancelled")
    assert planned[0].is_archived(later + 180 * DAY)


def test_a_clock_change_makes_a_day_of_23_or_25_hours() -> None:
    assert day_seconds("Europe/Zurich", dt.date(2026, 3, 29)) == 23 * 3600
    assert day_seconds("America/Los_Angeles", dt.date(2026, 11, 1)) == 25 * 3600


@pytest.mark.parametrize("day", [dt.date(2026, 3, 29), dt.date(2026, 3, 30)])
@pytest.mark.parametrize("moment", [0.0, 0.05, 0.1, 0.5, 0.999])
def test_moments_and_instants_are_each_others_reverse(day: dt.date, moment: float) -> None:
    assert moment_of(AURORA, day, instant_of(AURORA, day, moment)) == pytest.approx(moment, abs=1e-3)


def test_money_has_two_places() -> None:
    assert [money(cents) for cents in (0, 5, 1230, -5)] == ["0.00", "0.05", "12.30", "-0.05"]
