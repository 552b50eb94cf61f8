from __future__ import annotations

import datetime as dt
import itertools
from zoneinfo import ZoneInfo

import pytest

from penstock.core import windows
from penstock.core.windows import DayRange, Window

ZURICH = ZoneInfo("Europe/Zurich")
KIRITIMATI = ZoneInfo("Pacific/Kiritimati")
HONOLULU = ZoneInfo("Pacific/Honolulu")
SUNDAY, MONDAY, WEDNESDAY = dt.date(2026, 11, 15), dt.date(2026, 11, 16), dt.date(2026, 11, 18)


def day(text: str) -> dt.date:
    return dt.date.fromisoformat(text)


@pytest.mark.parametrize(
    ("today", "last_success", "expected"),
    [
        (WEDNESDAY, None, 3),
        (WEDNESDAY, WEDNESDAY, 3),
        (WEDNESDAY, WEDNESDAY - dt.timedelta(days=1), 7),
        (SUNDAY, SUNDAY - dt.timedelta(days=1), 36),
        (SUNDAY, SUNDAY, 3),
        (MONDAY, SUNDAY, 7),
        (WEDNESDAY, MONDAY, 8),
        (WEDNESDAY, SUNDAY - dt.timedelta(days=1), 39),
        (SUNDAY, SUNDAY - dt.timedelta(days=8), 43),
        (SUNDAY, SUNDAY - dt.timedelta(days=7), 36),
        (SUNDAY + dt.timedelta(days=6), SUNDAY, 12),
    ],
    ids=[
        "no run yet",
        "second of the day",
        "first of the day",
        "first of Sunday",
        "second of Sunday",
        "Monday after a run on Sunday",
        "Tuesday was missed",
        "Sunday was missed",
        "two Sundays came",
        "a week after a run on Sunday",
        "the Saturday after a run on Sunday",
    ],
)
def test_tier_days(today: dt.date, last_success: dt.date | None, expected: int) -> None:
    assert windows.tier_days(today, last_success) == expected


def test_incremental_without_cursor_reads_thirty_days() -> None:
    days = windows.incremental_days(today=WEDNESDAY, cursor_day=None, tier=3, includes_today=True)
    assert days == DayRange(day("2026-10-20"), WEDNESDAY)


def test_incremental_reads_again_what_the_vendor_restates() -> None:
    days = windows.incremental_days(today=WEDNESDAY, cursor_day=WEDNESDAY, tier=7, includes_today=True)
    assert days == DayRange(day("2026-11-12"), WEDNESDAY)


def test_incremental_after_a_pause_starts_before_its_cursor() -> None:
    days = windows.incremental_days(today=WEDNESDAY, cursor_day=day("2026-11-01"), tier=3, includes_today=True)
    assert days.first_day == day("2026-10-30")


def test_a_source_without_today_ends_yesterday() -> None:
    days = windows.incremental_days(today=WEDNESDAY, cursor_day=WEDNESDAY, tier=3, includes_today=False)
    assert days == DayRange(day("2026-11-15"), day("2026-11-17"))


def test_a_cursor_in_the_future_still_reads_the_last_days() -> None:
    days = windows.incremental_days(today=WEDNESDAY, cursor_day=day("2027-01-01"), tier=3, includes_today=True)
    assert days == DayRange(day("2026-11-16"), WEDNESDAY)


@pytest.mark.parametrize("change", ["2026-03-29", "2026-10-25"])
def test_days_of_23_and_25_hours_are_single_days(change: str) -> None:
    window = windows.day_window(day(change), day(change), ZURICH)
    assert window.end - window.start != dt.timedelta(0)
    assert (window.end.astimezone(dt.UTC) - window.start.astimezone(dt.UTC)) != dt.timedelta(hours=24)
    assert list(windows.days_of(window, ZURICH)) == [day(change)]


ZONES = pytest.mark.parametrize("zone", [ZURICH, KIRITIMATI, HONOLULU], ids=str)


@ZONES
def test_cut_covers_the_window_without_overlap_across_dst(zone: ZoneInfo) -> None:
    window = windows.day_window(day("2026-10-20"), day("2026-11-02"), zone)
    parts = list(windows.cut(window, 3, zone))
    assert parts[0].start == window.start
    assert parts[-1].end == window.end
    assert all(left.end == right.start for left, right in itertools.pairwise(parts))
    assert [len(list(windows.days_of(part, zone))) for part in parts] == [3, 3, 3, 3, 2]
    seen = [each for part in parts for each in windows.days_of(part, zone)]
    assert seen == [day("2026-10-20") + dt.timedelta(days=number) for number in range(14)]


@ZONES
def test_a_window_in_utc_is_cut_at_the_accounts_midnights(zone: ZoneInfo) -> None:
    """Instants come back from the database in UTC."""
    whole = windows.day_window(day("2026-10-20"), day("2026-10-23"), zone)
    window = Window(whole.start.astimezone(dt.UTC), whole.end.astimezone(dt.UTC))
    edges = [windows.midnight(day("2026-10-20") + dt.timedelta(days=number), zone) for number in range(5)]
    assert list(windows.cut(window, 1, zone)) == [Window(*pair) for pair in itertools.pairwise(edges)]
    assert windows.halve(window, zone) == (Window(edges[0], edges[2]), Window(edges[2], edges[4]))


def test_cut_without_limit_is_one_part() -> None:
    window = windows.day_window(day("2026-10-20"), day("2026-11-02"), ZURICH)
    assert list(windows.cut(window, None, ZURICH)) == [window]


@ZONES
def test_halves_meet_at_a_midnight_and_a_single_day_has_none(zone: ZoneInfo) -> None:
    window = windows.day_window(day("2026-11-01"), day("2026-11-05"), zone)
    halves = windows.halve(window, zone)
    assert halves is not None
    first, second = halves
    assert (first.start, second.end) == (window.start, window.end)
    assert first.end == second.start == windows.midnight(day("2026-11-04"), zone)
    assert windows.halve(windows.day_window(day("2026-11-01"), day("2026-11-01"), zone), zone) is None


def test_the_vendors_retention_clamps_the_start() -> None:
    days = DayRange(day("2026-01-01"), day("2026-01-31"))
    assert windows.clamp_start(days, day("2026-01-10")) == DayRange(day("2026-01-10"), day("2026-01-31"))
    assert windows.clamp_start(days, day("2026-01-31")) == DayRange(day("2026-01-31"), day("2026-01-31"))
    assert windows.clamp_start(days, day("2026-02-01")) is None
    assert windows.clamp_start(days, None) == days


NOON = dt.datetime(2026, 11, 18, 12, tzinfo=dt.UTC)


def test_events_are_read_again_for_as_many_days_as_reports() -> None:
    window = windows.incremental_events(now=NOON, cursor_at=NOON - dt.timedelta(minutes=10), tier=3, zone=ZURICH)
    assert window == Window(windows.midnight(day("2026-11-16"), ZURICH), NOON)


@pytest.mark.parametrize(("zone", "first"), [(KIRITIMATI, "2026-11-17"), (HONOLULU, "2026-11-16")], ids=str)
def test_events_go_back_by_days_of_the_account(zone: ZoneInfo, first: str) -> None:
    """At noon in London it is tomorrow on Kiritimati."""
    window = windows.incremental_events(now=NOON, cursor_at=NOON, tier=3, zone=zone)
    assert window.start == windows.midnight(day(first), zone)


def test_events_after_a_pause_start_before_their_cursor() -> None:
    cursor_at = NOON - dt.timedelta(days=12)
    window = windows.incremental_events(now=NOON, cursor_at=cursor_at, tier=3, zone=ZURICH)
    assert window == Window(cursor_at - windows.EVENT_OVERLAP, NOON)


def test_an_event_cursor_ahead_of_the_clock_never_makes_an_empty_window() -> None:
    window = windows.incremental_events(now=NOON, cursor_at=NOON + dt.timedelta(days=2), tier=3, zone=ZURICH)
    assert window.start < window.end == NOON


def test_events_without_cursor_go_back_thirty_days() -> None:
    window = windows.incremental_events(now=NOON, cursor_at=None, tier=3, zone=ZURICH)
    assert window.start == windows.midnight(day("2026-10-20"), ZURICH)


def test_merged_days_are_ranges() -> None:
    days = [day("2026-11-03"), day("2026-11-01"), day("2026-11-02"), day("2026-11-05")]
    assert windows.merge_days(days) == [
        DayRange(day("2026-11-01"), day("2026-11-03")),
        DayRange(day("2026-11-05"), day("2026-11-05")),
    ]


def test_an_empty_window_is_refused() -> None:
    now = dt.datetime(2026, 11, 18, tzinfo=dt.UTC)
    with pytest.raises(ValueError, match="empty window"):
        Window(now, now)
