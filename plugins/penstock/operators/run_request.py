"""What a DAG run asks the platform ETL for: account, window and job type. Pure arithmetic on its arguments."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.core.errors import error

AUTO = "AUTO"
JOB_TYPES = (AUTO, "INCREMENTAL", "BACKFILL", "HISTORICAL")

PAST_AFTER = dt.timedelta(days=2)
"""A manual run whose data interval ended longer ago than this was started for a date in the past: it reads
that date and leaves the cursor alone. The last complete interval of a daily timetable is at most one day old."""

ONE_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The arguments of `enqueue_scheduled` that depend on how the DAG run came about.

    `window_end` is the day after the last day read; None: the account's own today, or with
    `window_start` None too, what the cursor decides.
    """

    job_type: str
    window_start: dt.date | None
    window_end: dt.date | None
    accounts: list[str] | None
    streams: list[str] | None
    is_dry_run: bool
    requested_by: str


@dataclass(frozen=True, slots=True)
class RunOrigin:
    """How a DAG run came about: its type, its dates, and the present instant (all aware)."""

    run_type: str
    interval_start: dt.datetime | None
    interval_end: dt.datetime | None
    logical_date: dt.datetime | None
    now: dt.datetime


def run_request(params: Mapping[str, Any], origin: RunOrigin) -> RunRequest:
    """The request of this DAG run.

    `from` and `to` win, then the data interval of a backfill or of a manual run for a past date; anything
    else reads from the cursor. Raises CONFIG_INVALID when the params contradict each other.
    """
    window_start, window_end = _window(params, origin)
    return RunRequest(
        job_type="BACKFILL" if origin.run_type == "backfill" else _job_type(_asked(params), window_start),
        window_start=window_start,
        window_end=window_end,
        accounts=_names(params.get("accounts")),
        streams=_names(params.get("streams")),
        is_dry_run=bool(params.get("dry_run")),
        requested_by={"backfill": "backfill", "scheduled": "schedule"}.get(origin.run_type, "trigger"),
    )


def _window(params: Mapping[str, Any], origin: RunOrigin) -> tuple[dt.date | None, dt.date | None]:
    first, last = _day(params, "from"), _day(params, "to")
    if last and not first:
        raise error("CONFIG_INVALID", "`to` was given without `from`")
    if first and last:
        if last < first:
            raise error("CONFIG_INVALID", f"`to` ({last}) lies before `from` ({first})")
        return first, last + ONE_DAY
    if first:
        if first > origin.now.date() + ONE_DAY:  # east of Greenwich it may be tomorrow already
            raise error("CONFIG_INVALID", f"`from` ({first}) lies in the future")
        return first, None  # to the account's own today
    if _reads_its_interval(params, origin):
        return _interval_days(origin)
    return None, None


def _reads_its_interval(params: Mapping[str, Any], origin: RunOrigin) -> bool:
    if origin.run_type == "backfill":
        return True
    if origin.run_type != "manual" or _asked(params) in ("INCREMENTAL", "HISTORICAL"):
        return False
    return origin.interval_end is not None and origin.now - origin.interval_end > PAST_AFTER


def _interval_days(origin: RunOrigin) -> tuple[dt.date, dt.date]:
    """The days of the data interval. Consecutive intervals tile: each day belongs to exactly one.

    A manual run's interval is the last complete one before its logical date; the day of that date is read as
    well, because it is the day that the person named.
    """
    if origin.interval_start is None or origin.interval_end is None:
        raise error("CONFIG_INVALID", "this DAG run has no data interval: give `from` and `to`")
    start = origin.interval_start.astimezone(dt.UTC).date()
    end = origin.interval_end.astimezone(dt.UTC).date()
    if origin.logical_date is not None:
        end = max(end, origin.logical_date.astimezone(dt.UTC).date() + ONE_DAY)
    return start, max(end, start + ONE_DAY)


def _asked(params: Mapping[str, Any]) -> str:
    return str(params.get("job_type") or AUTO)


def _job_type(asked: str, window_start: dt.date | None) -> str:
    if asked not in JOB_TYPES:
        raise error("CONFIG_INVALID", f"job_type {asked!r} is none of {', '.join(JOB_TYPES)}")
    if asked == AUTO:
        return "BACKFILL" if window_start else "INCREMENTAL"
    if asked == "INCREMENTAL" and window_start:
        raise error("CONFIG_INVALID", "an INCREMENTAL run reads from the cursor: leave `from` and `to` empty")
    if asked == "BACKFILL" and not window_start:
        raise error("CONFIG_INVALID", "a BACKFILL needs `from`")
    return asked


def _day(params: Mapping[str, Any], name: str) -> dt.date | None:
    value = params.get(name)
    if not value:
        return None
    try:
        return dt.date.fromisoformat(str(value)[:10])
    except ValueError as exc:
        raise error("CONFIG_INVALID", f"`{name}` is not a date: {value!r}") from exc


def _names(value: Any) -> list[str] | None:
    names = [str(name).strip() for name in value or [] if str(name).strip()]
    return names or None
