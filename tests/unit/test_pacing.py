from __future__ import annotations

import datetime as dt

import pytest

from penstock.core.pacing import (
    LONGEST_WAIT_S,
    PACIFIC,
    RetryBudget,
    backoff,
    next_full_hour,
    next_midnight,
    retry_after,
)

NOW = dt.datetime(2026, 11, 1, 12, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(("attempt", "expected"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0), (2000, 10.0)])
def test_backoff_doubles_up_to_its_cap(attempt: int, expected: float) -> None:
    assert backoff(attempt, base=1.0, cap=10.0, rng=lambda: 1.0) == expected


def test_backoff_jitters_over_the_whole_range() -> None:
    assert backoff(3, base=1.0, cap=10.0, rng=lambda: 0.0) == 0.0
    assert backoff(3, base=1.0, cap=10.0, rng=lambda: 0.25) == 1.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("-3", 0.0),
        ("Sun, 01 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 01 Nov 2026 11:59:00 GMT", 0.0),
        ("Sun, 01 Nov 2026 14:00:30 +0200", 30.0),
        ("Sun, 01 Nov 2026 12:00:30", 30.0),  # without a zone, as asctime's form has it
        ("soon", None),
        ("inf", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_reads_seconds_and_dates(value: str | None, expected: float | None) -> None:
    assert retry_after(value, NOW) == expected


@pytest.mark.parametrize(
    "value", ["604801", "1e12", "1e300", "Fri, 31 Dec 9999 23:59:59 GMT", "Sun, 08 Nov 2026 12:00:01 GMT"]
)
def test_a_wait_of_more_than_a_week_is_a_week(value: str) -> None:
    """No instant is 1e12 seconds away: the error came in the place of the vendor's own."""
    assert retry_after(value, NOW) == LONGEST_WAIT_S
    assert NOW + dt.timedelta(seconds=LONGEST_WAIT_S) == dt.datetime(2026, 11, 8, 12, 0, tzinfo=dt.UTC)


def test_a_date_that_no_clock_can_show_is_unreadable() -> None:
    assert retry_after("Mon, 02 Nov 2026 99999999999999999999:00:00 GMT", NOW) is None


def test_a_date_in_retry_after_counts_from_the_vendors_clock() -> None:
    sent_at = "Sun, 01 Nov 2026 12:10:00 GMT"
    assert retry_after("Sun, 01 Nov 2026 12:10:20 GMT", NOW, sent_at) == 20.0


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-11-01T06:59:00+00:00", "2026-11-01T07:00:00+00:00"),  # still the day before in the Pacific zone
        ("2026-11-01T07:00:00+00:00", "2026-11-02T08:00:00+00:00"),  # a day of 25 hours
        ("2026-03-08T08:00:00+00:00", "2026-03-09T07:00:00+00:00"),  # a day of 23 hours
        ("2026-07-04T19:00:00+00:00", "2026-07-05T07:00:00+00:00"),
    ],
)
def test_the_pacific_midnight_follows_changes_of_the_clock(now: str, expected: str) -> None:
    assert next_midnight(dt.datetime.fromisoformat(now), PACIFIC) == dt.datetime.fromisoformat(expected)


def test_an_hours_quota_is_whole_at_the_full_hour() -> None:
    assert next_full_hour(NOW + dt.timedelta(minutes=1)) == NOW + dt.timedelta(hours=1)
    assert next_full_hour(NOW) == NOW + dt.timedelta(hours=1)
    assert next_full_hour(NOW.replace(minute=59, second=59, microsecond=999_999)) == NOW + dt.timedelta(hours=1)


def test_the_retry_budget_refuses_what_it_does_not_have() -> None:
    budget = RetryBudget(60.0)
    assert budget.take(50.0)
    assert not budget.take(11.0)
    assert budget.left == 10.0
    assert budget.take(10.0)
