"""From a run's wish to its slices: which streams, which windows, how they are cut."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.core import windows
from penstock.core.errors import error
from penstock.core.windows import DayRange, Window
from penstock.jobs.platform_etl.context import SERVICE
from penstock.sources.stream import Account, Kind, Slice, Source, Stream


@dataclass(frozen=True, slots=True)
class Wish:
    """What a run is asked to read.

    window_start, window_end: half-open days, or None for "what is due".
    streams: names, or None for the default ones.
    cursors: stream -> instant before which everything is loaded.
    """

    job_type: str
    window_start: dt.date | None
    window_end: dt.date | None
    streams: tuple[str, ...] | None
    cursors: Mapping[str, dt.datetime]


@dataclass(frozen=True, slots=True)
class Plan:
    """The slices of a run, and what was left out of the wish and why."""

    slices: tuple[Slice, ...]
    warnings: tuple[str, ...]


def check_streams(source: Source, streams: Sequence[str] | None) -> None:
    """Raises CONFIG_INVALID for names that are none of the source's streams."""
    known = [stream.name for stream in source.streams]
    unknown = sorted(set(streams or ()) - set(known))
    if unknown:
        message = f"{source.name} has no stream {', '.join(unknown)}; it has {', '.join(known)}"
        raise error("CONFIG_INVALID", message, service=SERVICE)


def plan(source: Source, account: Account, wish: Wish, now: dt.datetime) -> Plan:
    """The slices that fulfil the wish, numbered from 0 in the order of the source's streams. Raises CONFIG_INVALID when
    it names a stream that the source does not have."""
    slices: list[Slice] = []
    warnings: list[str] = []
    for stream in _streams(source, wish):
        if stream.kind is Kind.ENTITY:
            window = None
        else:
            window, warning = _window(stream, account, wish, now)
            if warning:
                warnings.append(f"{stream.name}: {warning}")
            if window is None:
                continue
        for params in stream.variants(account):
            for part in _parts(stream, window, account, now):
                slices.append(
                    Slice(
                        slice_no=len(slices),
                        stream=stream.name,
                        start=part.start if part else None,
                        end=part.end if part else None,
                        params=dict(params),
                        page_size=_learned(account, stream),
                    )
                )
    return Plan(tuple(slices), tuple(warnings))


def cursor_after(stream: Stream, account: Account, slices: Sequence[Slice], now: dt.datetime) -> dt.datetime:
    """The instant before which the stream is loaded once all its slices are done: never past the last complete day
    for daily reports."""
    ends = [each.end for each in slices if each.end is not None]
    if not ends:
        return now
    if stream.kind is Kind.EVENT:
        return max(ends)
    return min(max(ends), windows.midnight(account.today(now), account.zone))


def carries_on(
    stream: Stream, account: Account, slices: Sequence[Slice], cursor_at: dt.datetime | None, now: dt.datetime
) -> bool:
    """Whether a window that somebody chose has read all that was due from the cursor on, the Sunday's late look at old
    days included: a cursor is not carried over days that nobody has read, or read late. Where there is none, the
    account's first run is still to come, and reads a month."""
    starts = [each.start for each in slices if each.start is not None]
    if not starts or stream.is_as_of:
        return True
    if cursor_at is None:
        return min(starts) <= windows.midnight(account.today(now) - dt.timedelta(windows.FIRST_RUN_DAYS), account.zone)
    return min(starts) + dt.timedelta(days=windows.FIRST_OF_SUNDAY_DAYS) <= cursor_at


def _streams(source: Source, wish: Wish) -> list[Stream]:
    if wish.streams is not None:
        check_streams(source, wish.streams)
        return [source.stream(name) for name in wish.streams]
    chosen = [stream for stream in source.streams if stream.is_default]
    if wish.job_type != "BACKFILL":
        return chosen
    # A backfill repeats days; objects have only a present state, which the incremental runs keep up.
    return [stream for stream in chosen if stream.kind is not Kind.ENTITY or stream.name not in wish.cursors]


def _window(stream: Stream, account: Account, wish: Wish, now: dt.datetime) -> tuple[Window | None, str | None]:
    """The stream's window, and a warning when it is not the one that was wished."""
    today = account.today(now)
    last_day = today if stream.includes_today else today - dt.timedelta(days=1)
    if stream.kind is Kind.EVENT and wish.job_type == "INCREMENTAL" and wish.window_start is None:
        cursor = wish.cursors.get(stream.name)
        tier = windows.tier_days(today, _local_day(cursor, account))
        return windows.incremental_events(now=now, cursor_at=cursor, tier=tier, zone=account.zone), None
    days = _wished_days(stream, account, wish, today, last_day)
    if days is None:
        return None, "no whole day of the window is over yet"
    oldest = today - dt.timedelta(days=stream.retention_days) if stream.retention_days else None
    kept = windows.clamp_start(days, oldest)
    warning = None if kept == days else f"the vendor keeps nothing before {oldest}"
    return (windows.day_window(kept.first_day, kept.last_day, account.zone) if kept else None), warning


def _wished_days(stream: Stream, account: Account, wish: Wish, today: dt.date, last_day: dt.date) -> DayRange | None:
    if wish.window_start is not None:
        end = wish.window_end or last_day + dt.timedelta(days=1)
        last = min(end - dt.timedelta(days=1), last_day)
        return DayRange(wish.window_start, last) if wish.window_start <= last else None
    if wish.job_type == "HISTORICAL":
        return DayRange(last_day - dt.timedelta(days=windows.HISTORICAL_DAYS - 1), last_day)
    # The stream's own cursor stands at the day of its last success: a run of other streams, or one that ended after
    # midnight, does not count as this stream's first of the day.
    cursor_day = _local_day(wish.cursors.get(stream.name), account)
    return windows.incremental_days(
        today=today,
        cursor_day=cursor_day,
        tier=windows.tier_days(today, cursor_day),
        includes_today=stream.includes_today,
    )


def _local_day(instant: dt.datetime | None, account: Account) -> dt.date | None:
    return instant.astimezone(account.zone).date() if instant else None


def _parts(stream: Stream, window: Window | None, account: Account, now: dt.datetime) -> list[Window | None]:
    if window is None:
        return [None]
    if stream.is_as_of:
        # The vendor tells the values of this moment, whatever day is asked: earlier days keep what they were told.
        today = account.today(now)
        is_wanted = window.start <= windows.midnight(today, account.zone) < window.end
        return [windows.day_window(today, today, account.zone)] if is_wanted else []
    return list(windows.cut(window, stream.slice_days, account.zone))


def _learned(account: Account, stream: Stream) -> int | None:
    """Twice the page size that the account's last run came down to: the vendor's bad hour must not slow it for ever."""
    learned = account.facts.get("page_sizes", {}).get(stream.name)
    return min(int(learned) * 2, stream.page_size) if learned else None
