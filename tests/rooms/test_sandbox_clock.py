"""The sandbox's shifted clock."""

from __future__ import annotations

import datetime as dt

import pytest

from sandbox.clock import Clock, parse_instant

START = dt.datetime(2025, 2, 3, 4, 5, tzinfo=dt.UTC)


def test_the_clock_moves_on_from_where_it_was_set() -> None:
    real = [1_000.0]
    clock = Clock(START, source=lambda: real[0])
    assert clock.now() == START
    real[0] += 90
    assert clock.now() == START + dt.timedelta(seconds=90)
    assert clock.real() == 1_090.0
    clock.reset()
    assert clock.now() == dt.datetime.fromtimestamp(1_090, tz=dt.UTC)


def test_a_time_without_a_zone_is_refused_by_the_clock_and_utc_on_the_command_line() -> None:
    with pytest.raises(ValueError, match="zone"):
        Clock().set(dt.datetime(2025, 1, 1))  # noqa: DTZ001
    assert parse_instant("2025-02-03T04:05") == START
    assert parse_instant("2025-02-03T05:05+01:00") == START
