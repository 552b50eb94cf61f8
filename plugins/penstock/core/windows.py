"""Which days a run reads, and how they are cut. Pure: the clock and the account's zone are passed in.

A window is half-open and made of aware instants. Daily reports are cut at midnights of the account's own zone, so
a day of 23 or 25 hours is one day like any other.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

EVERY_RUN_DAYS, FIRST_OF_DAY_DAYS, FIRST_OF_SUNDAY_DAYS = 3, 7, 36
"""How many days a run reads again. Meta restates 28 days, GA4 3, Klaviyo 5: the first run of the day reads each day
once more when it is 6 days old, the first of Sunday when it is 29 to 35 days old, whatever day of the week it is."""

FIRST_RUN_DAYS = 30
"""An account without a cursor reads its last 30 days, as the old worker did; older days are HISTORICAL or BACKFILL."""

HISTORICAL_DAYS = 730

EVENT_OVERLAP = dt.timedelta(hours=1)
"""Clocks differ: an event stream starts at least this much before its cursor."""


@dataclass(frozen=True, slots=True)
class Window:
    """[start, end), aware."""

    start: dt.datetime
    end: dt.datetime

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ValueError(f"empty window: {self.start} .. {self.end}")


@dataclass(frozen=True, slots=True)
class DayRange:
    """Whole days of an account, both ends included."""

    first_day: dt.date
    last_day: dt.date


def midnight(day: dt.date, zone: ZoneInfo) -> dt.datetime:
    """The instant at which `day` begins in `zone`."""
    return dt.datetime.combine(day, dt.time(), tzinfo=zone)


def day_window(first_day: dt.date, last_day: dt.date, zone: ZoneInfo) -> Window:
    """The window from the start of `first_day` to the end of `last_day`."""
    return Window(midnight(first_day, zone), midnight(last_day + dt.timedelta(days=1), zone))


def tier_days(today: dt.date, last_success_day: dt.date | None) -> int:
    """Days that an incremental run reads again: more in the first run of a day, most in the first after a Sunday began.

    Days and Sundays without a run are made up for by the next run, whenever it comes: it goes back as far as the first
    of them would have. Otherwise their oldest days would be too old for every later run, and never be read late.
    """
    if last_success_day is None or last_success_day >= today:
        return EVERY_RUN_DAYS
    first_missed_sunday = last_success_day + dt.timedelta(days=6 - last_success_day.weekday() or 7)
    if first_missed_sunday <= today:
        return FIRST_OF_SUNDAY_DAYS + (today - first_missed_sunday).days
    return FIRST_OF_DAY_DAYS + (today - last_success_day).days - 1


def incremental_days(*, today: dt.date, cursor_day: dt.date | None, tier: int, includes_today: bool) -> DayRange:
    """The days of a daily stream in an incremental run.

    Parameters
    ----------
    today: in the account's zone.
    cursor_day: first day that is not loaded for good; None when nothing is.
    tier: days to read again, from `tier_days`.
    includes_today: whether the vendor serves the unfinished day.
    """
    last_day = today if includes_today else today - dt.timedelta(days=1)
    if cursor_day is None:
        return DayRange(last_day - dt.timedelta(days=FIRST_RUN_DAYS - 1), last_day)
    by_tier = last_day - dt.timedelta(days=tier - 1)
    by_cursor = cursor_day - dt.timedelta(days=EVERY_RUN_DAYS - 1)
    return DayRange(min(by_tier, by_cursor, last_day), last_day)


def incremental_events(*, now: dt.datetime, cursor_at: dt.datetime | None, tier: int, zone: ZoneInfo) -> Window:
    """The window of an event stream: as many days as daily streams read again, because events are sent late too
    (an order that a shop reports two days after it was placed), and never later than a little before the cursor."""
    today = now.astimezone(zone).date()
    days = FIRST_RUN_DAYS if cursor_at is None else tier
    start = midnight(today - dt.timedelta(days=days - 1), zone)
    if cursor_at is not None:
        start = min(start, cursor_at - EVENT_OVERLAP)
    return Window(start, now)


def clamp_start(days: DayRange, oldest: dt.date | None) -> DayRange | None:
    """The days that the vendor still has; None when it has none of them."""
    if oldest is None or days.first_day >= oldest:
        return days
    return DayRange(oldest, days.last_day) if oldest <= days.last_day else None


def cut(window: Window, days: int | None, zone: ZoneInfo) -> Iterator[Window]:
    """Consecutive windows of at most `days` calendar days, cut at midnights of `zone`; they never share an instant."""
    start = window.start
    while start < window.end:
        if days is None:
            yield Window(start, window.end)
            return
        edge = midnight(start.astimezone(zone).date() + dt.timedelta(days=days), zone)
        end = min(edge, window.end)
        yield Window(start, end)
        start = end


def halve(window: Window, zone: ZoneInfo) -> tuple[Window, Window] | None:
    """Two windows cut at a midnight near the middle; None when the window lies within one day."""
    first = window.start.astimezone(zone).date()
    last = (window.end - dt.timedelta(microseconds=1)).astimezone(zone).date()
    if first == last:
        return None
    middle = midnight(first + (last - first) // 2 + dt.timedelta(days=1), zone)
    return Window(window.start, middle), Window(middle, window.end)


def merge_days(days: Iterable[dt.date]) -> list[DayRange]:
    """Ranges of consecutive days, in order."""
    ranges: list[DayRange] = []
    for day in sorted(set(days)):
        if ranges and day - ranges[-1].last_day == dt.timedelta(days=1):
            ranges[-1] = DayRange(ranges[-1].first_day, day)
        else:
            ranges.append(DayRange(day, day))
    return ranges


def days_of(window: Window, zone: ZoneInfo) -> Iterator[dt.date]:
    """Every day that the window touches."""
    day = window.start.astimezone(zone).date()
    last = (window.end - dt.timedelta(microseconds=1)).astimezone(zone).date()
    while day <= last:
        yield day
        day += dt.timedelta(days=1)
