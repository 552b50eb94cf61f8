"""How a DAG run's origin and params become the request for runs."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from penstock.core.errors import ConfigurationError
from penstock.operators.run_request import RunOrigin, run_request

pytestmark = pytest.mark.dags

NOW = dt.datetime(2026, 11, 22, 9, 30, tzinfo=dt.UTC)


def at(text: str | None) -> dt.datetime | None:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC) if text else None


def origin(run_type: str, start: str | None, end: str | None, logical: str | None = None) -> RunOrigin:
    return RunOrigin(
        run_type, at(start) if start else None, at(end) if end else None, at(logical) if logical else None, NOW
    )


SCHEDULED = origin("scheduled", "2026-11-21T02:15", "2026-11-22T02:15", "2026-11-21T02:15")
LATE = origin("scheduled", "2026-11-10T02:15", "2026-11-11T02:15", "2026-11-10T02:15")
BACKFILL = origin("backfill", "2026-11-01T02:15", "2026-11-02T02:15", "2026-11-01T02:15")
NOW_BY_HAND = origin("manual", "2026-11-21T02:15", "2026-11-22T02:15", "2026-11-22T09:30")
PAST_BY_HAND = origin("manual", "2026-01-13T02:15", "2026-01-14T02:15", "2026-01-15T00:00")
NO_DATE = origin("manual", None, None)
BY_ASSET = origin("asset_triggered", None, None)


@pytest.mark.parametrize(
    ("how", "params", "job_type", "window"),
    [
        (SCHEDULED, {}, "INCREMENTAL", None),
        (LATE, {}, "INCREMENTAL", None),
        (BACKFILL, {}, "BACKFILL", ("2026-11-01", "2026-11-02")),
        (BACKFILL, {"job_type": "HISTORICAL"}, "BACKFILL", ("2026-11-01", "2026-11-02")),
        (NOW_BY_HAND, {}, "INCREMENTAL", None),
        (NOW_BY_HAND, {"job_type": "HISTORICAL"}, "HISTORICAL", None),
        (NO_DATE, {}, "INCREMENTAL", None),
        (BY_ASSET, {}, "INCREMENTAL", None),
        (PAST_BY_HAND, {}, "BACKFILL", ("2026-01-13", "2026-01-16")),
        (PAST_BY_HAND, {"job_type": "INCREMENTAL"}, "INCREMENTAL", None),
        (NOW_BY_HAND, {"from": "2026-10-01", "to": "2026-10-07"}, "BACKFILL", ("2026-10-01", "2026-10-08")),
        (NOW_BY_HAND, {"from": "2026-10-01", "to": "2026-10-01"}, "BACKFILL", ("2026-10-01", "2026-10-02")),
        (NOW_BY_HAND, {"from": "2026-11-20"}, "BACKFILL", ("2026-11-20", None)),
        (NOW_BY_HAND, {"from": "2025-01-01", "job_type": "HISTORICAL"}, "HISTORICAL", ("2025-01-01", None)),
        (BACKFILL, {"from": "2026-10-01", "to": "2026-10-02"}, "BACKFILL", ("2026-10-01", "2026-10-03")),
    ],
)
def test_origin_and_params_decide_job_type_and_window(
    how: RunOrigin, params: dict[str, Any], job_type: str, window: tuple[str, str | None] | None
) -> None:
    request = run_request(params, how)
    found = (request.window_start, request.window_end)
    assert request.job_type == job_type
    assert found == tuple(day and dt.date.fromisoformat(day) for day in window or (None, None))


def test_the_days_of_consecutive_intervals_tile() -> None:
    days: list[dt.date] = []
    for day in range(1, 8):
        each = origin("backfill", f"2026-11-0{day}T02:15", f"2026-11-0{day + 1}T02:15", f"2026-11-0{day}T02:15")
        request = run_request({}, each)
        assert request.window_start is not None
        assert request.window_end is not None
        length = (request.window_end - request.window_start).days
        days += [request.window_start + dt.timedelta(offset) for offset in range(length)]
    assert days == [dt.date(2026, 11, day) for day in range(1, 8)]


@pytest.mark.parametrize(
    "params",
    [
        {"to": "2026-10-07"},
        {"from": "2026-10-07", "to": "2026-10-01"},
        {"from": "2026-11-24"},
        {"from": "yesterday"},
        {"job_type": "INCREMENTAL", "from": "2026-10-01"},
        {"job_type": "BACKFILL"},
        {"job_type": "FULL"},
    ],
)
def test_params_that_contradict_each_other_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        run_request(params, NOW_BY_HAND)
    assert refused.value.code == "CONFIG_INVALID"


def test_a_backfill_without_an_interval_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        run_request({}, origin("backfill", None, None))


def test_accounts_streams_and_dry_run_are_handed_on_without_blanks() -> None:
    request = run_request({"accounts": [" 1 ", ""], "streams": [], "dry_run": True}, NOW_BY_HAND)
    assert (request.accounts, request.streams, request.is_dry_run) == (["1"], None, True)


@pytest.mark.parametrize(
    ("how", "who"), [(SCHEDULED, "schedule"), (BACKFILL, "backfill"), (NOW_BY_HAND, "trigger"), (BY_ASSET, "trigger")]
)
def test_the_run_says_who_asked_for_it(how: RunOrigin, who: str) -> None:
    assert run_request({}, how).requested_by == who
