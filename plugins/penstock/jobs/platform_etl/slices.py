"""One slice: page after page into staging, the next pages on their way while these are written."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from penstock.core import windows
from penstock.core.errors import PenstockError, TooMuchData, UnreadableRecord, error
from penstock.core.windows import Window
from penstock.jobs.platform_etl.context import SQL, HeldRun, RunContext, Stopped, VendorClient, require_lease
from penstock.jobs.platform_etl.read_ahead import ReadAhead
from penstock.jobs.platform_etl.remote_report import RemoteReport
from penstock.sources.stream import Account, Kind, Page, Request, Row, Slice, Stream
from penstock.warehouse import loader
from penstock.warehouse.loader import Prepared, Rejected

log = logging.getLogger(__name__)

BATCH_ROWS = 5_000
"""Rows written in one transaction: large enough for COPY to pay, small enough to lose little in a crash."""

BATCH_SECONDS = 3.0
"""A slow vendor's pages are saved at least this often: what a dead worker had in hand is asked for again."""

COLLECTOR_THRESHOLD = 100_000
"""For `gc.set_threshold` where a process that reads begins: new objects after which Python looks for circles of
garbage. A page of events is 15,000 objects without one; with Python's own 700 they are looked at again and again."""

REPEATED_PAGE_TRIES = 3


@dataclass(slots=True)
class _Batch:
    """What was read since the last commit."""

    prepared: Prepared = field(default_factory=Prepared)
    pages: int = 0
    rows_read: int = 0
    expected: int | None = None
    flags: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far a slice was read; not at all, unless it says so."""

    token: str | None = None
    pages: int = 0
    rows_read: int = 0
    rows_expected: int | None = None


def slice_of(row: Mapping[str, Any]) -> Slice:
    """The slice that a row of `penstock.slices` stands for."""
    return Slice(
        slice_no=row["slice_no"],
        stream=row["stream"],
        start=row["window_start"],
        end=row["window_end"],
        params=row["params"],
        page_size=row["page_size"],
    )


@dataclass(frozen=True, slots=True)
class SliceReader:
    """Reads the slices of one run; `read` may run in several threads at once.

    stop: set when the run ends early; every slice then saves what it has and raises Stopped.
    """

    context: RunContext
    held: HeldRun
    client: VendorClient
    account: Account
    stop: threading.Event
    sleep: Callable[[float], None] = time.sleep

    def read(self, row: Mapping[str, Any]) -> None:
        """Reads the slice to its end, asking for less when the vendor wants that. Raises the error it cannot mend."""
        stream = self.context.source.stream(row["stream"])
        each = slice_of(row)
        progress = _Progress(
            row["next_token"], row["pages"], row["rows_read"] + row["rows_rejected"], row["rows_expected"]
        )
        restarts = 0
        while True:
            try:
                _SlicePass(self, stream, each, progress).run()
                return
            except TooMuchData as refused:
                smaller = self._smaller(stream, each, refused)
                if smaller is None:
                    return  # its halves are pending slices now
                each = smaller
            except PenstockError as cause:
                if cause.code != "ROWCOUNT_MISMATCH" or restarts:
                    raise
                restarts += 1
            progress = _Progress()
            self.restart(each)

    def _smaller(self, stream: Stream, each: Slice, refused: TooMuchData) -> Slice | None:
        """The slice with half the page size, or None after it was split into two windows. Raises when it is minimal."""
        size = each.page_size or stream.page_size
        # A report that is not finished has no pages yet: the same question would be asked again for each size.
        if refused.code != "META_REPORT_TIMEOUT" and size > stream.min_page_size:
            log.info("%s: %s; asking for pages of %s", each.stream, refused, size // 2)
            return each.with_page_size(max(size // 2, stream.min_page_size))
        if each.start is None or each.end is None:
            raise refused
        halves = windows.halve(Window(each.start, each.end), self.account.zone)
        if halves is None:
            raise refused
        self._split(each, halves)
        return None

    def _split(self, each: Slice, halves: tuple[Window, Window]) -> None:
        with self.context.warehouse.transaction() as conn:
            require_lease(conn.execute(SQL["lock_lease"], self.held.key).fetchone(), self.held)
            first = conn.execute(SQL["next_slice_no"], self.held.key).fetchone()
            number = first[0] if first else 0
            for offset, half in enumerate(halves):
                parameters = {
                    "run_id": self.held.lease.row_id,
                    "slice_no": number + offset,
                    "parent_slice_no": each.slice_no,
                    "stream": each.stream,
                    "params": Jsonb(dict(each.params)),
                    "window_start": half.start,
                    "window_end": half.end,
                    "page_size": each.page_size,
                }
                conn.execute(SQL["add_slice"], parameters)
            self._end(conn, each, "SPLIT")
        log.info("%s: slice %s split at %s", each.stream, each.slice_no, halves[1].start)

    def _end(self, conn: psycopg.Connection[Any], each: Slice, status: str) -> None:
        conn.execute(SQL["forget_slice_keys"], self._slice_key(each))
        conn.execute(SQL["end_slice"], self._slice_key(each) | {"status": status, "error": None})

    def restart(self, each: Slice) -> None:
        """The slice is read from its first page again."""
        with self.context.warehouse.transaction() as conn:
            require_lease(conn.execute(SQL["share_lease"], self.held.key).fetchone(), self.held)
            conn.execute(SQL["forget_slice_keys"], self._slice_key(each))
            conn.execute(SQL["restart_slice"], self._slice_key(each) | {"page_size": each.page_size})

    def _slice_key(self, each: Slice) -> dict[str, Any]:
        return {"run_id": self.held.lease.row_id, "slice_no": each.slice_no}


class _SlicePass:
    """One walk over the pages of a slice, from a given page on."""

    def __init__(self, reader: SliceReader, stream: Stream, each: Slice, progress: _Progress) -> None:
        self._reader = reader
        self._context = reader.context
        self._held = reader.held
        self._client = reader.client
        self._account = reader.account
        self._stream = stream
        self._slice = each
        self._report_id: str | None = None
        self._begin_at(progress)
        self._seen_tokens: set[bytes] = set()
        self._saved_at = time.monotonic()
        self._table = f"{self._context.source.name}_{stream.table}"
        # The keys of events are not kept: nobody withdraws what has happened, and there are many of them.
        self._tracks_keys = stream.kind is not Kind.EVENT

    def _begin_at(self, progress: _Progress) -> None:
        self._token = progress.token
        self._page_no = progress.pages
        self._pages_fetched = progress.pages
        self._rows_read = progress.rows_read
        self._batch = _Batch(expected=progress.rows_expected)

    def run(self) -> None:
        request_page = self._request_page()
        with ReadAhead(lambda token: self._fetch(request_page, token), self._token) as pages:
            for page in pages:
                self._collect(page)
                if page.next_token is None:
                    self._check_count()
                    self._save(None, "DONE")
                    return
                if self._is_due():
                    self._save(page.next_token, "PENDING")
                if self._reader.stop.is_set():
                    self._save(page.next_token, "PENDING")
                    raise Stopped

    def _is_due(self) -> bool:
        return len(self._batch.prepared.entries) >= BATCH_ROWS or time.monotonic() - self._saved_at >= BATCH_SECONDS

    def _request_page(self) -> Callable[[str | None], Request]:
        """How to ask for a page: at once, or of a report that the vendor works out first."""
        window_days = (self._slice.end - self._slice.start).days if self._slice.start and self._slice.end else 0
        report_page = self._context.source.report_page
        if report_page is None or not self._stream.is_async or window_days <= self._stream.sync_days:
            return lambda token: self._stream.request(self._account, self._slice, token)
        report = RemoteReport(
            context=self._context,
            held=self._held,
            client=self._client,
            stream=self._stream.name,
            slice_no=self._slice.slice_no,
            request=self._stream.request(self._account, self._slice, None),
            stop=self._reader.stop,
            sleep=self._reader.sleep,
        )
        remote_id = report.ready()
        self._go_on_in(remote_id)
        return lambda token: report_page(remote_id, self._slice, token)

    def _go_on_in(self, report_id: str) -> None:
        """At the saved page if that is one of this report. In another one, whoever asked for it, other rows may lie
        before the page: it is read from its start."""
        self._report_id = report_id
        if self._token is None:
            return
        saved_id, _, token = self._token.partition(" ")
        if saved_id == report_id:
            self._token = token
            return
        self._reader.restart(self._slice)
        self._begin_at(_Progress())

    def _place(self, next_token: str | None) -> str | None:
        """The token as it is saved: a page of a report together with the report's id."""
        if next_token is None or self._report_id is None:
            return next_token
        return f"{self._report_id} {next_token}"

    def _fetch(self, request_page: Callable[[str | None], Request], token: str | None) -> Page:
        """The page of this token. A vendor that names the same next page again gets another chance, then an error."""
        for attempt in range(REPEATED_PAGE_TRIES):
            request = request_page(token)
            page = self._stream.parse(self._client.send(request), request)
            if page.next_token is None or not self._is_repeated(page.next_token, token):
                self._seen_tokens.add(_digest(token or ""))
                self._pages_fetched += 1
                return page
            self._reader.sleep(attempt + 1.0)
        raise error(
            "RESPONSE_REPEATED_CURSOR",
            f"{self._stream.name}: page {self._pages_fetched} names a page that was read already",
        )

    def _is_repeated(self, next_token: str, token: str | None) -> bool:
        return next_token == token or _digest(next_token) in self._seen_tokens

    def _collect(self, page: Page) -> None:
        batch = self._batch
        batch.pages += 1
        batch.rows_read += len(page.records)
        if page.expected is not None:
            # The most that any page told: where a row leaves between two pages, those behind it move up and one of
            # them is never sent.
            batch.expected = max(page.expected, batch.expected or 0)
        batch.flags.update(page.flags)
        batch.prepared.add(self._rows(page))

    def _rows(self, page: Page) -> Iterator[Row]:
        to_row, account = self._stream.row, self._account
        for record in page.records:
            try:
                record = loader.read_record(record)
                yield to_row(record, account)
            except UnreadableRecord as cause:
                self._batch.prepared.rejected.append(Rejected.of(record, cause))

    def _check_count(self) -> None:
        expected = self._batch.expected
        received = self._rows_read + self._batch.rows_read
        if expected is not None and received < expected:
            raise error(
                "ROWCOUNT_MISMATCH",
                f"{self._stream.name}: the vendor counts {expected} rows and sent {received}",
            )

    def _save(self, next_token: str | None, status: str) -> None:
        """Rows, rejected records and the place to go on from, in one transaction that holds the lease."""
        batch, self._batch = self._batch, _Batch(expected=self._batch.expected)
        origin: dict[str, Any] = {
            "run_id": self._held.lease.row_id,
            "slice_no": self._slice.slice_no,
            "connection_id": self._held.connection_id,
        }
        with self._context.warehouse.transaction() as conn:
            staged = loader.stage(
                conn,
                table=self._table,
                report_key=self._stream.name,
                prepared=batch.prepared,
                page_no=self._page_no,
                track_keys=self._tracks_keys,
                **origin,
            )
            loader.reject(
                conn,
                source=self._context.source.name,
                stream=self._stream.name,
                rejected=staged.rejected,
                **origin,
            )
            conn.execute(
                SQL["save_page"],
                {
                    "run_id": self._held.lease.row_id,
                    "slice_no": self._slice.slice_no,
                    "next_token": self._place(next_token),
                    "status": status,
                    "pages": batch.pages,
                    "rows_read": batch.rows_read - len(staged.rejected),
                    "rows_written": staged.written,
                    "rows_rejected": len(staged.rejected),
                    "rows_expected": batch.expected,
                    "flags": Jsonb(batch.flags),
                    "page_size": self._slice.page_size,
                },
            )
            require_lease(conn.execute(SQL["share_lease"], self._held.key).fetchone(), self._held)
        self._saved_at = time.monotonic()
        self._page_no += batch.pages
        self._rows_read += batch.rows_read


def _digest(token: str) -> bytes:
    return hashlib.blake2b(token.encode(), digest_size=8).digest()
