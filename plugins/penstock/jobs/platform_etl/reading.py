"""The open slices of a run, read several at a time while the lease is kept."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import logging
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from penstock.core.errors import (
    AuthError,
    FatalError,
    InternalError,
    PenstockError,
    QuotaExhausted,
    RateLimited,
    RetryableError,
)
from penstock.core.lease import CLAIM_LEASE, HEARTBEAT, LEASE
from penstock.jobs.platform_etl.context import (
    SERVICE,
    SQL,
    HeldRun,
    RunContext,
    Stopped,
    VendorClient,
    delay_of,
    require_lease,
)
from penstock.jobs.platform_etl.slices import SliceReader, slice_of
from penstock.sources.stream import Account

log = logging.getLogger(__name__)

STOPPING = (AuthError, RateLimited, QuotaExhausted, InternalError)
OUR_OWN_BRAKES = ("RATE_LIMIT_WAIT_TOO_LONG", "CIRCUIT_OPEN")


class CallCounter:
    """HTTP calls that the run's row does not count yet."""

    def __init__(self) -> None:
        self._clients: list[VendorClient] = []
        self._taken = 0

    def watch(self, client: VendorClient) -> None:
        """Counts this client's calls too."""
        self._clients.append(client)

    def take(self) -> int:
        """The calls since the last time."""
        total = sum(client.requests for client in self._clients)
        fresh, self._taken = total - self._taken, total
        return fresh


def _in_turns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One slice of every stream after the other, so that a slow stream's slices do not fill all threads at once."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, int, dict[str, Any]]] = []
    for row in rows:
        turns.append((seen[row["stream"]], row["slice_no"], row))
        seen[row["stream"]] += 1
    return [row for _, _, row in sorted(turns, key=lambda turn: turn[:2])]


def _stream_of(rows: list[dict[str, Any]], slice_no: int) -> str:
    return next(str(row["stream"]) for row in rows if row["slice_no"] == slice_no)


def _most_telling(
    first: PenstockError, running: Mapping[concurrent.futures.Future[None], Mapping[str, Any]]
) -> PenstockError:
    """The vendor's own refusal, where the first error to arrive was only a brake that it made us pull."""
    if first.code not in OUR_OWN_BRAKES:
        return first
    concurrent.futures.wait(running)
    causes = [_cause(future, row) for future, row in running.items()]
    told = [each for each in causes if isinstance(each, RetryableError) and each.code not in OUR_OWN_BRAKES]
    return told[0] if told else first


def _cause(future: concurrent.futures.Future[None], row: Mapping[str, Any]) -> BaseException | None:
    """What the slice ended with; an error of ours names its stream."""
    cause = future.exception()
    if isinstance(cause, PenstockError):
        cause.context.setdefault("stream", row["stream"])
    return cause


def counts_of(held: HeldRun, rows: Sequence[Mapping[str, Any]], requests: int) -> dict[str, Any]:
    """What `extract` tells of a run's slices."""
    return {
        "run_id": held.lease.row_id,
        "slices": len(rows),
        "slices_failed": sum(row["status"] == "FAILED" for row in rows),
        "rows_read": sum(row["rows_read"] for row in rows),
        "rows_written": sum(row["rows_written"] for row in rows),
        "rows_rejected": sum(row["rows_rejected"] for row in rows),
        "requests": requests,
    }


class Reading:
    """The open slices of one run, several at a time; this thread keeps the lease while the others read."""

    def __init__(
        self, context: RunContext, held: HeldRun, client: VendorClient, account: Account, calls: CallCounter
    ) -> None:
        self._context = context
        self._held = held
        self._client = client
        self._account = account
        self._calls = calls
        self._stop = threading.Event()

    def run(self) -> dict[str, Any]:
        failed: dict[int, PenstockError] = {}
        closed: dict[str, PenstockError] = {}
        # A slice that is split leaves new ones behind, whatever became of the others: look again until none is left.
        while rows := self._open(failed, closed):
            try:
                failed |= self._work(rows)
            except (RateLimited, QuotaExhausted) as limited:
                # What has a limit of its own is read before the run is put back, maybe for a day.
                closed[self._limit_of(rows, limited)] = limited
                self._stop.clear()
        if closed:
            raise min(closed.values(), key=lambda limited: delay_of(limited, self._context.now()))
        if failed:
            self._settle(failed)
        rows = self._slices()
        self._renew(CLAIM_LEASE)
        log.info("read %s rows in %s requests", sum(row["rows_read"] for row in rows), self._client.requests)
        return counts_of(self._held, rows, self._client.requests)

    def _open(self, failed: Collection[int], closed: Collection[str]) -> list[dict[str, Any]]:
        """The slices that nobody has tried to read yet, without those that a closed limit holds up."""
        rows = [row for row in self._slices() if row["status"] == "PENDING" and row["slice_no"] not in failed]
        return [row for row in rows if not closed or self._limit(row) not in closed]

    def _limit_of(self, rows: Sequence[Mapping[str, Any]], limited: PenstockError) -> str:
        return self._limit(next(row for row in rows if row["stream"] == limited.context["stream"]))

    def _limit(self, row: Mapping[str, Any]) -> str:
        """The rate-limit family of a slice's calls."""
        return self._context.source.stream(row["stream"]).request(self._account, slice_of(row), None).limit

    def _slices(self) -> list[dict[str, Any]]:
        with self._context.warehouse.connection() as conn:
            return conn.cursor(row_factory=dict_row).execute(SQL["slices"], self._held.key).fetchall()

    def _work(self, rows: list[dict[str, Any]]) -> dict[int, PenstockError]:
        """Reads these slices; returns the errors of those that failed. Raises what stops the whole run."""
        reader = SliceReader(self._context, self._held, self._client, self._account, self._stop)
        failed: dict[int, PenstockError] = {}
        refused: dict[str, PenstockError] = {}
        queue = _in_turns(rows)
        running: dict[concurrent.futures.Future[None], dict[str, Any]] = {}
        with concurrent.futures.ThreadPoolExecutor(self._context.source.concurrency, "slice") as pool:
            try:
                while queue or running:
                    while queue and len(running) < self._context.source.concurrency:
                        row = queue.pop(0)
                        if row["stream"] in refused:
                            # The vendor refused this stream for good: asking for its other days is a storm.
                            failed[row["slice_no"]] = refused[row["stream"]]
                        else:
                            running[pool.submit(reader.read, row)] = row
                    for slice_no, cause in self._wait(running).items():
                        failed[slice_no] = cause
                        if isinstance(cause, FatalError):
                            refused[_stream_of(rows, slice_no)] = cause
            except PenstockError as first:
                self._stop.set()
                raise _most_telling(first, running) from None
            except BaseException:
                self._stop.set()
                raise
        return failed

    def _wait(self, running: dict[concurrent.futures.Future[None], dict[str, Any]]) -> dict[int, PenstockError]:
        """Keeps the lease until a slice ends; returns the errors of those that failed."""
        done, _ = concurrent.futures.wait(running, HEARTBEAT.total_seconds(), concurrent.futures.FIRST_COMPLETED)
        self._renew()
        outcomes = {running[future]["slice_no"]: self._outcome(_cause(future, running[future])) for future in done}
        for future in done:
            del running[future]
        return {slice_no: cause for slice_no, cause in outcomes.items() if cause is not None}

    @staticmethod
    def _outcome(cause: BaseException | None) -> PenstockError | None:
        """The error that only this slice failed with; raises those that stop the run."""
        if cause is None or isinstance(cause, Stopped):
            return None
        if not isinstance(cause, PenstockError) or isinstance(cause, STOPPING):
            raise cause
        return cause

    def _settle(self, failed: Mapping[int, PenstockError]) -> None:
        """What happens to slices that failed: a later try of the task, or FAILED for good.

        Raises the first error when the task is tried again anyway, or when no slice at all could be read.
        """
        passing = [cause for cause in failed.values() if isinstance(cause, RetryableError)]
        if passing and not self._context.is_last_try:
            raise passing[0]
        with self._context.warehouse.transaction() as conn:
            require_lease(conn.execute(SQL["share_lease"], self._held.key).fetchone(), self._held)
            for slice_no, cause in failed.items():
                cause.service, cause.task = SERVICE, "extract"
                conn.execute(
                    SQL["end_slice"],
                    {
                        "run_id": self._held.lease.row_id,
                        "slice_no": slice_no,
                        "status": "FAILED",
                        "error": Jsonb(cause.as_json()),
                    },
                )
        if not any(row["status"] == "DONE" for row in self._slices()):
            raise next(iter(failed.values()))

    def _renew(self, lease: dt.timedelta = LEASE) -> None:
        parameters = self._held.key | {"lease": lease, "api_calls": self._calls.take()}
        with self._context.warehouse.connection() as conn:
            require_lease(conn.execute(SQL["renew_lease"], parameters).fetchone(), self._held)
