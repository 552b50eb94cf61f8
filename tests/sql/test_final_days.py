"""A day that is called final was read at an age at which its vendor corrects nothing any more."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from penstock import sources
from penstock.core import windows
from penstock.core.windows import Window
from penstock.jobs.platform_etl.planning import Wish, cursor_after, plan
from penstock.sources.stream import Account
from tests.sql.model import Model

pytestmark = pytest.mark.db

STREAMS = {"META": "insights_account", "GA4": "property", "KLAVIYO": "message_aggregates"}
"""The stream whose days each source's `*_final` speaks of."""

RESTATED = {"META": 28, "GA4": 3, "KLAVIYO": 5}
"""Days that the vendors correct after a day ended: Meta's longest attribution window, GA4's 72 hours, Klaviyo's 120."""

FIRST = dt.datetime(2026, 1, 7, 2, 15, tzinfo=dt.UTC)


def daily() -> Iterator[dt.datetime]:
    """As the timetable starts them: over a year, both changes of the clock included."""
    return (FIRST + dt.timedelta(days=number) for number in range(400))


def haphazard() -> Iterator[dt.datetime]:
    """Several a day, none for days, at any time of the day, and once none for three weeks."""
    rng, now = random.Random(4), FIRST
    while now < FIRST + dt.timedelta(days=400):
        yield now
        now += dt.timedelta(hours=rng.choice([2, 9, 23, 25, 47, 80, 200]) + rng.random())
        if now.date() == dt.date(2026, 6, 10):
            now += dt.timedelta(days=21)


def ages_read(platform: str, zone: str, moments: list[dt.datetime]) -> Iterator[dict[dt.date, int]]:
    """After each run: the age at which each day was read last."""
    source = sources.by_platform(platform)
    stream = source.stream(STREAMS[platform])
    facts = {"metrics": {"Placed Order": "PO"}}
    account = Account("c0", "shop", "1", time_zone=zone, currency="EUR", facts=facts)
    cursors: dict[str, dt.datetime] = {}
    read: dict[dt.date, int] = {}
    for now in moments:
        slices = plan(source, account, Wish("INCREMENTAL", None, None, (stream.name,), cursors), now).slices
        for each in slices:
            assert each.start is not None
            assert each.end is not None
            for day in windows.days_of(Window(each.start, each.end), account.zone):
                read[day] = (account.today(now) - day).days
        cursors[stream.name] = cursor_after(stream, account, slices, now)
        yield dict(read)


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Europe/Zurich", "Australia/Lord_Howe", "Pacific/Kiritimati"])
@pytest.mark.parametrize("runs", [daily, haphazard])
@pytest.mark.parametrize("platform", STREAMS)
def test_a_day_that_is_called_final_was_read_after_its_last_correction(
    connect: Callable[[], psycopg.Connection[Any]],
    platform: str,
    runs: Callable[[], Iterator[dt.datetime]],
    zone: str,
) -> None:
    moments = list(runs())
    rows = Model(connect()).rows(
        "select core_warehouse.final_before(%(platform)s, %(zone)s, moment) as day "
        "from unnest(%(moments)s::timestamptz []) with ordinality as run (moment, number) order by number",
        platform=platform,
        zone=zone,
        moments=moments,
    )
    for now, row, ages in zip(moments, rows, ages_read(platform, zone, moments), strict=True):
        too_early = {day: age for day, age in ages.items() if day < row["day"] and age <= RESTATED[platform]}
        assert not too_early, now
        waits = (now.astimezone(ZoneInfo(zone)).date() - row["day"]).days
        assert RESTATED[platform] <= waits <= RESTATED[platform] + 6, "final days come a week late at most"
