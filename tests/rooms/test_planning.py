from __future__ import annotations

import datetime as dt

import pytest

from penstock.jobs.platform_etl.planning import Wish, plan
from penstock.sources import klaviyo, meta_ads
from penstock.sources.stream import Account

NOW = dt.datetime(2026, 11, 18, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("learned", "asked"),
    [(None, None), (50, 100), (125, 250), (499, 998), (500, 1000), (1000, 1000)],
)
def test_a_run_asks_for_twice_the_pages_that_the_last_one_came_down_to(learned: int | None, asked: int | None) -> None:
    """And never for more than the vendor's largest: a bad hour of the vendor must not slow the account for ever."""
    facts = {"metrics": {"Placed Order": "PO"}, "page_sizes": {"events": learned} if learned else {}}
    account = Account("c0", "shop", "1", time_zone="UTC", currency="EUR", facts=facts)
    planned = plan(klaviyo.SOURCE, account, Wish("INCREMENTAL", None, None, ("events",), {}), NOW)
    assert {each.page_size for each in planned.slices} == {asked}


@pytest.mark.parametrize(
    ("zone", "last"), [("Pacific/Auckland", "2026-11-19"), ("UTC", "2026-11-18"), ("Pacific/Honolulu", "2026-11-18")]
)
def test_a_window_without_an_end_reaches_to_the_accounts_own_today(zone: str, last: str) -> None:
    account = Account("c0", "shop", "1", time_zone=zone, currency="EUR")
    wish = Wish("BACKFILL", dt.date(2026, 11, 17), None, ("insights_account",), {})
    planned = plan(meta_ads.SOURCE, account, wish, NOW)
    assert max(each.last_day(account.zone) for each in planned.slices) == dt.date.fromisoformat(last)
