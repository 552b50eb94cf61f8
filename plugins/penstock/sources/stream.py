"""What a source is: streams as data, requests and parsing as pure functions.

A source file names its streams; nothing here opens a connection. A client sends `Request`s,
`parse` turns a body into a `Page`, `row` turns a vendor record into what staging keeps.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

Record = dict[str, Any]
"""One record as the vendor sent it; what only repeats itself may be taken out (Klaviyo's links)."""

UnreadRecord = memoryview
"""One record as the JSON text that the vendor sent; see `Request.unread`."""


@dataclass(frozen=True, slots=True)
class Account:
    """One account of one vendor: a row of `platform_connections`, with what the vendor says of it.

    `facts` holds what `Source.profile` read at the start of the run (for example Klaviyo's
    metric ids by name).
    """

    connection_id: str
    shop_id: str
    account_id: str
    name: str = ""
    time_zone: str = "UTC"
    currency: str = "USD"
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    def today(self, now: dt.datetime) -> dt.date:
        """The account's own calendar day at the aware instant `now`."""
        return now.astimezone(self.zone).date()


@dataclass(frozen=True, slots=True)
class Slice:
    """A half-open window of one stream, worked by one thread and recorded as done once, whole.

    `start` and `end` are aware instants; for daily streams both are midnights in the account's zone.
    Entity streams have neither. `params` are what else tells slices of one stream apart.
    """

    slice_no: int
    stream: str
    start: dt.datetime | None = None
    end: dt.datetime | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    page_size: int | None = None

    def first_day(self, zone: ZoneInfo) -> dt.date:
        if self.start is None:
            raise ValueError(f"slice {self.slice_no} of {self.stream} has no window")
        return self.start.astimezone(zone).date()

    def last_day(self, zone: ZoneInfo) -> dt.date:
        """The last day inside the window, for vendors whose `until` is inclusive."""
        if self.end is None:
            raise ValueError(f"slice {self.slice_no} of {self.stream} has no window")
        return (self.end - dt.timedelta(microseconds=1)).astimezone(zone).date()

    def with_page_size(self, page_size: int) -> Slice:
        return replace(self, page_size=page_size)


@dataclass(frozen=True, slots=True)
class Request:
    """One call, without host and credentials (the client adds both).

    `limit` names the rate-limit family in `Source.limits`; `cost` is what the call takes from it.

    `unread` names a list in the answer whose records stay JSON text until each is worked on (`loader.read_record`). It
    is for large pages: their next page is asked for at once, and each record is parsed by the thread that stores it.
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    limit: str = "default"
    cost: int = 1
    unread: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page: the records or their text, the token of the next page (None: the last), the vendor's own count of
    the whole result where it tells one, and flags about the data's quality."""

    records: Sequence[Any]
    next_token: str | None = None
    expected: int | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Row:
    """What staging keeps of a record, beside the payload.

    `record_key` joins the parts of the vendor's key by U+001F; `cursor_value` is the record's own
    time stamp where the stream has one.
    """

    record_key: str
    record_date: dt.date | None
    cursor_value: str | None
    payload: Record


class Kind(StrEnum):
    ENTITY = "entity"  # the current state of objects: campaigns, lists
    DAILY = "daily"  # whole days, restated by the vendor: a day is replaced as a whole
    EVENT = "event"  # things that happened once, read by their time stamp
    TOTALS = "totals"  # daily totals asked for in another way, to check the others against


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of record of a source.

    name: unique in the source; also the `report_key` in staging.
    table: staging table without schema and source prefix (`insights` -> staging_ingest.meta_ads_insights).
    request: (account, slice, page token or None) -> the call for that page.
    parse: (body, request) -> the page. Raises SCHEMA_MISMATCH when the body itself has the wrong shape.
    row: (record, account) -> Row. Raises UnreadableRecord; the run goes on.
    slice_days: longest window of one slice; None for streams read whole.
    page_size: what the first request asks for; halved on TooMuchData down to `min_page_size`.
    variants: (account) -> the `params` of the slices that one window is cut into (channels, metrics, ...).
    includes_today: whether the vendor serves the unfinished day in a usable form.
    retention_days: how far back the vendor answers; None = for ever.
    is_async: read through a report job at the vendor when the window is longer than `sync_days`.
    is_default: read unless the run names its streams.
    is_as_of: a state that is read once, for the window's last day alone: one slice of that day.
    """

    name: str
    table: str
    kind: Kind
    request: Callable[[Account, Slice, str | None], Request]
    parse: Callable[[Any, Request], Page]
    row: Callable[[Record, Account], Row]
    page_size: int
    min_page_size: int = 1
    slice_days: int | None = None
    variants: Callable[[Account], Sequence[Mapping[str, str]]] = lambda account: ({},)
    includes_today: bool = True
    retention_days: int | None = None
    is_async: bool = False
    sync_days: int = 0
    is_default: bool = True
    is_as_of: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` units in any `period` seconds. A hard window is counted exactly, from the
    times of the last grants; otherwise the units are spread evenly (GCRA) with a burst of `burst`."""

    count: int
    period: float
    burst: int = 1
    is_hard_window: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """What the vendor says of the account itself.

    findings: code of the catalogue -> what is wrong with an account that can be read all the same.
    """

    name: str
    time_zone: str
    currency: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    findings: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None  # code of the catalogue when the account cannot be read at all


@dataclass(frozen=True, slots=True)
class Source:
    """A vendor: its streams, limits, and the SQL that its rows go through.

    name: registry name, connection id and prefix of staging tables (`meta_ads`).
    platform: the value in `etl_runs.platform` (`META`).
    limits: family -> limits that hold together, per vendor account.
    concurrency: slices of one run worked at the same time.
    profile_requests / profile: (account) -> calls, and (account, their bodies) -> Profile.
    transforms: names of `include/sql/platform_etl/transform/<name>.sql`, in order.
    report_page: (remote report id, slice, page token) -> the call for a page of a finished report, for
        vendors whose streams are `is_async`.
    """

    name: str
    platform: str
    streams: tuple[Stream, ...]
    limits: Mapping[str, tuple[Limit, ...]]
    concurrency: int
    profile_requests: Callable[[Account], Sequence[Request]]
    profile: Callable[[Account, Sequence[Any]], Profile]
    transforms: tuple[str, ...]
    report_page: Callable[[str, Slice, str | None], Request] | None = None

    def stream(self, name: str) -> Stream:
        """The stream of this name, which the source has."""
        return next(stream for stream in self.streams if stream.name == name)
