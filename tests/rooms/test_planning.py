from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from penstock.core import windows
from penstock.core.errors import PenstockError
from penstock.jobs.platform_etl.planning import Plan, Wish, carries_on, cursor_after, plan
from penstock.sources import ga4, klaviyo, meta_ads
from penstock.sources.stream import Account, Kind, Slice, Source

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


HONOLULU = Account(
    "c0", "shop", "1", time_zone="Pacific/Honolulu", currency="USD", facts={"metrics": {"Placed Order": "P"}}
)
TODAY = dt.date(2026, 11, 18)  # there as well, at two in the morning


def planned(source: Source, stream: str | None, job_type: str = "INCREMENTAL", **wish: Any) -> Plan:
    found = {"window_start": None, "window_end": None, "cursors": {}} | wish
    return plan(source, HONOLULU, Wish(job_type, streams=(stream,) if stream else None, **found), NOW)


def days(slices: tuple[Slice, ...]) -> tuple[dt.date, dt.date]:
    """The first and the last day that these slices read."""
    spans = [windows.Window(each.start, each.end) for each in slices if each.start and each.end]
    assert len(spans) == len(slices) > 0
    touched = [day for each in spans for day in windows.days_of(each, HONOLULU.zone)]
    return min(touched), max(touched)


def ago(number: int) -> dt.date:
    return TODAY - dt.timedelta(days=number)


def cursor_on(day: dt.date) -> dict[str, dt.datetime]:
    """Cursors as the database gives them back: in UTC."""
    instant = windows.midnight(day, HONOLULU.zone).astimezone(dt.UTC)
    return dict.fromkeys(("insights_account", "events", "daily"), instant)


@pytest.mark.parametrize(
    ("job_type", "cursor", "first"),
    [
        ("INCREMENTAL", None, ago(29)),
        ("INCREMENTAL", ago(0), ago(2)),
        ("INCREMENTAL", ago(1), ago(6)),
        ("INCREMENTAL", ago(60), ago(windows.FIRST_OF_SUNDAY_DAYS + 58)),  # its first missed Sunday was 59 days ago
        ("HISTORICAL", None, ago(windows.HISTORICAL_DAYS - 1)),
        ("HISTORICAL", ago(0), ago(windows.HISTORICAL_DAYS - 1)),
    ],
)
def test_what_is_due_of_a_daily_stream(job_type: str, cursor: dt.date | None, first: dt.date) -> None:
    made = planned(meta_ads.SOURCE, "insights_account", job_type, cursors=cursor_on(cursor) if cursor else {})
    assert days(made.slices) == (first, TODAY)
    assert made.warnings == ()


def test_what_is_due_of_an_event_stream_ends_now() -> None:
    made = planned(klaviyo.SOURCE, "events", cursors=cursor_on(ago(0)))
    assert [(each.start, each.end) for each in made.slices] == [(windows.midnight(ago(2), HONOLULU.zone), NOW)]
    made = planned(klaviyo.SOURCE, "events", cursors=cursor_on(ago(40)))
    assert days(made.slices) == (ago(windows.FIRST_OF_SUNDAY_DAYS + 37), TODAY)
    made = planned(klaviyo.SOURCE, "events", "HISTORICAL")
    assert days(made.slices) == (ago(windows.HISTORICAL_DAYS - 1), TODAY)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (ago(9), ago(5), (ago(9), ago(6))),
        (ago(9), ago(8), (ago(9), ago(9))),
        (ago(3), None, (ago(3), ago(0))),
        (ago(3), ago(-5), (ago(3), ago(0))),
        (ago(0), None, (ago(0), ago(0))),
    ],
    ids=["four days", "one day", "no end", "an end to come", "today"],
)
@pytest.mark.parametrize("job_type", ["INCREMENTAL", "HISTORICAL", "BACKFILL"])
def test_a_chosen_window_is_half_open_and_ends_with_today(
    job_type: str, start: dt.date, end: dt.date | None, expected: tuple[dt.date, dt.date]
) -> None:
    for source, stream in ((meta_ads.SOURCE, "insights_account"), (klaviyo.SOURCE, "events")):
        made = planned(source, stream, job_type, window_start=start, window_end=end, cursors=cursor_on(ago(1)))
        assert days(made.slices) == expected


def test_a_window_of_which_no_day_is_over_is_said_and_not_read() -> None:
    made = planned(meta_ads.SOURCE, "insights_account", "BACKFILL", window_start=ago(-1))
    assert made == Plan((), ("insights_account: no whole day of the window is over yet",))


def test_days_that_the_vendor_keeps_no_more_are_said() -> None:
    kept = meta_ads.SOURCE.stream("insights_account").retention_days
    assert kept
    wish = {"window_start": ago(kept + 9), "window_end": ago(kept - 2)}
    made = planned(meta_ads.SOURCE, "insights_account", "BACKFILL", **wish)
    assert days(made.slices) == (ago(kept), ago(kept - 1))
    assert made.warnings == (f"insights_account: the vendor keeps nothing before {ago(kept)}",)
    gone = planned(meta_ads.SOURCE, "insights_account", "BACKFILL", **wish | {"window_end": ago(kept)})
    assert gone == Plan((), (f"insights_account: the vendor keeps nothing before {ago(kept)}",))


def test_long_windows_are_cut_and_the_slices_numbered() -> None:
    longest = klaviyo.SOURCE.stream("events").slice_days
    assert longest
    made = planned(klaviyo.SOURCE, "events", "BACKFILL", window_start=ago(longest + 4), window_end=ago(0))
    assert [each.slice_no for each in made.slices] == [0, 1]
    assert days(made.slices[:1]) == (ago(longest + 4), ago(5))
    assert days(made.slices[1:]) == (ago(4), ago(1))


@pytest.mark.parametrize(
    ("wish", "is_read"),
    [
        ({}, True),
        ({"window_start": ago(3)}, True),
        ({"window_start": ago(0), "window_end": ago(-1)}, True),
        ({"window_start": ago(3), "window_end": ago(0)}, False),
    ],
)
def test_values_of_this_moment_are_read_when_today_is_wanted(wish: dict[str, dt.date], is_read: bool) -> None:
    made = planned(klaviyo.SOURCE, "campaign_values", **wish)
    assert {days((each,)) for each in made.slices} == ({(TODAY, TODAY)} if is_read else set())


def test_a_backfill_reads_objects_only_where_none_were_read_before() -> None:
    entities = {each.name for each in meta_ads.SOURCE.streams if each.kind is Kind.ENTITY and each.is_default}
    assert entities

    def read(job_type: str, cursors: dict[str, dt.datetime]) -> set[str]:
        made = planned(meta_ads.SOURCE, None, job_type, window_start=ago(3), cursors=cursors)
        return {each.stream for each in made.slices}

    known = dict.fromkeys(entities, NOW)
    default = {each.name for each in meta_ads.SOURCE.streams if each.is_default}
    assert read("INCREMENTAL", known) == read("BACKFILL", {}) == default
    assert read("BACKFILL", known) == default - entities


def test_a_daily_cursor_never_passes_the_last_complete_day() -> None:
    stream = meta_ads.SOURCE.stream("insights_account")
    made = planned(meta_ads.SOURCE, "insights_account")
    assert cursor_after(stream, HONOLULU, made.slices, NOW) == windows.midnight(TODAY, HONOLULU.zone)
    early = planned(meta_ads.SOURCE, "insights_account", window_start=ago(9), window_end=ago(5))
    assert cursor_after(stream, HONOLULU, early.slices, NOW) == windows.midnight(ago(5), HONOLULU.zone)
    events = planned(klaviyo.SOURCE, "events")
    assert cursor_after(klaviyo.SOURCE.stream("events"), HONOLULU, events.slices, NOW) == NOW
    assert cursor_after(meta_ads.SOURCE.stream("campaigns"), HONOLULU, (), NOW) == NOW


def test_a_stream_without_today_ends_yesterday() -> None:
    without = [each.name for each in ga4.SOURCE.streams if not each.includes_today and each.kind is Kind.DAILY]
    assert without
    for stream in without:
        assert days(planned(ga4.SOURCE, stream).slices)[1] == ago(1)
        assert days(planned(ga4.SOURCE, stream, "BACKFILL", window_start=ago(2)).slices) == (ago(2), ago(1))
        assert planned(ga4.SOURCE, stream, "BACKFILL", window_start=ago(0)).slices == ()


def test_a_stream_that_has_nothing_to_read_keeps_no_other_from_it() -> None:
    wish = Wish("BACKFILL", ago(0), None, ("property", "campaigns", "insights_account"), {})
    made = plan(replace(meta_ads.SOURCE, streams=(*ga4.SOURCE.streams, *meta_ads.SOURCE.streams)), HONOLULU, wish, NOW)
    assert [each.stream for each in made.slices] == ["campaigns", "insights_account"]
    assert made.warnings == ("property: no whole day of the window is over yet",)


def test_a_cursors_day_is_the_accounts() -> None:
    """A midnight in Auckland is the day before in UTC: the stream's last success would be a day too old."""
    account = Account("c0", "shop", "1", time_zone="Pacific/Auckland", currency="NZD")
    cursor = windows.midnight(account.today(NOW), account.zone).astimezone(dt.UTC)
    wish = Wish("INCREMENTAL", None, None, ("insights_account",), {"insights_account": cursor})
    first = plan(meta_ads.SOURCE, account, wish, NOW).slices[0].start
    assert first == windows.midnight(account.today(NOW) - dt.timedelta(days=2), account.zone)


MONTH = windows.FIRST_RUN_DAYS
SUNDAY = windows.FIRST_OF_SUNDAY_DAYS


@pytest.mark.parametrize(
    ("cursor", "first", "is_carried"),
    [
        (None, ago(MONTH), True),
        (None, ago(MONTH - 1), False),
        (ago(0), ago(SUNDAY), True),
        (ago(0), ago(SUNDAY - 1), False),
        (ago(9), ago(SUNDAY + 9), True),
        (ago(9), ago(SUNDAY + 8), False),
    ],
)
def test_a_chosen_window_carries_a_cursor_on_when_it_read_all_that_was_due(
    cursor: dt.date | None, first: dt.date, is_carried: bool
) -> None:
    stream = meta_ads.SOURCE.stream("insights_account")
    made = planned(meta_ads.SOURCE, "insights_account", "HISTORICAL", window_start=first)
    cursor_at = cursor_on(cursor)["insights_account"] if cursor else None
    assert carries_on(stream, HONOLULU, made.slices, cursor_at, NOW) is is_carried


def test_what_has_no_days_is_always_carried_on() -> None:
    campaigns = planned(meta_ads.SOURCE, "campaigns").slices
    assert carries_on(meta_ads.SOURCE.stream("campaigns"), HONOLULU, campaigns, None, NOW)
    values = planned(klaviyo.SOURCE, "campaign_values", window_start=ago(0)).slices
    assert carries_on(klaviyo.SOURCE.stream("campaign_values"), HONOLULU, values, None, NOW)


def test_a_stream_that_the_source_does_not_have_is_named() -> None:
    with pytest.raises(PenstockError, match=r"CONFIG_INVALID.*no stream insights_adz; it has campaigns"):
        planned(meta_ads.SOURCE, "insights_adz")
