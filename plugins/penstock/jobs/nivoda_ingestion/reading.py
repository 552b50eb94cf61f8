"""Stage 2: one partition, page by page from its last offset down, with the proof that nothing was missed.

The list is frozen: stones that change after the run's beginning leave it, and everything behind them moves up. Reading
downwards, what moves is always still ahead of the reader, so no stone that stayed can be missed; some are read twice.
Forwards, each stone that leaves hides a neighbour. This holds for any order that is total and does not change. A page
that ends before the last one began has left something out, unless the list ends there: it is asked for again higher up.

Whether the vendor's order is one nobody says, so it is measured: `c0` stones when the reading began, `c1` when it
ended, `d` distinct ones read. `d < c1` means loss for certain; then the partition is read once more in another order.
`d` holds stones that were read and left, which may hide a loss; so a page whose stones came again as only an order that
does not stand brings them again has the partition read once more as well, unless `d = c0` proves that nothing lacks.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from penstock.core.errors import FatalError, PenstockError, SkippableError, error
from penstock.jobs.nivoda_ingestion.context import SERVICE, Ingestion, Nivoda, Run, load_run
from penstock.jobs.nivoda_ingestion.pages import RejectedItem, Rows, ids_of, is_unsteady, joined, rows_of
from penstock.jobs.nivoda_ingestion.planning import query_of, span_of, span_text
from penstock.sources.nivoda import MAX_OFFSET, PAGE_SIZE, Page
from penstock.warehouse import failures

log = logging.getLogger(__name__)

ORDERS = (("createdAt", "ASC"), ("price", "ASC"), ("createdAt", "DESC"))
"""Of the first, second and third pass. Ties that lose stones in one order do not lose the same in another."""

OVER = -1
"""The checkpoint of a pass that has read its page 0."""

UNREADABLE_SHARE = 0.01
"""With more items than this that hold no stone the vendor has changed, and the partition fails."""
FEW_UNREADABLE = 5

REMEMBERED = 2_000
"""Stones above a page that it is compared with: so many may leave at once, as when a supplier uploads his list anew."""

DATABASE_TRIES = 5
DATABASE_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a pass stands.

    offset: to be read next; None before the first page. is_climbing: its end is not found. reach: all from there on has
    been read, so the page must not end before; not stored, because a page that is full reaches far enough anyway.
    """

    offset: int | None
    is_climbing: bool
    reach: int | None = field(default=None, compare=False)

    @property
    def is_again(self) -> bool:
        """Whether it closes a gap that the page before has left."""
        return self.reach is not None and 0 < self.reach - (self.offset or 0) < PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Account:
    """The numbers that say what was missed."""

    c0: int
    c1: int
    distinct: int
    unreadable: int
    nameless: int
    rows_read: int
    is_unsteady: bool

    @property
    def is_accepted(self) -> bool:
        """Whether another pass is of no use."""
        return self.surely_missed == 0 and not (self.is_unsteady and self.possibly_missed)

    @property
    def surely_missed(self) -> int:
        return max(0, self.c1 - self.distinct - self.nameless)

    @property
    def possibly_missed(self) -> int:
        """At most. Those that left while they were read are among them, so it is not a loss by itself."""
        return max(0, self.c0 - self.distinct - self.nameless)


def ingest_partition(context: Ingestion, run_id: str, partition_id: str) -> dict[str, Any]:
    """Read a partition to its end, from its checkpoint if there is one. Returns its accounting.

    Raises LEASE_LOST when another worker has taken it over, and what the vendor's client raises.
    """
    run = load_run(context, run_id)
    begun = context.one(
        "begin_partition",
        run_id=run_id,
        partition_id=partition_id,
        payload=Jsonb({"feed": run.feed, "runId": run_id, "partitionId": partition_id}),
    )
    if not begun:
        return {"run_id": run_id, "partition_id": partition_id, "status": "done before"}
    with closing(context.open_client()) as client:
        reader = _Reader(context, run, client, begun)
        try:
            return reader.work()
        except PenstockError as failure:
            if failure.code != "LEASE_LOST" and (
                context.is_last_try or isinstance(failure, FatalError | SkippableError)
            ):
                fail_partition(context, run_id, partition_id, failure, epoch=begun["epoch"])
            raise


def fail_partition(
    context: Ingestion, run_id: str, partition_id: str, failure: PenstockError, epoch: int | None = None
) -> None:
    """Mark the partition failed, unless it is complete or somebody else works on it."""
    failure.service, failure.task = SERVICE, "ingest_partition"
    with context.warehouse.transaction() as connection:
        context.rows(
            "fail_partition",
            connection,
            run_id=run_id,
            partition_id=partition_id,
            epoch=epoch,
            error=Jsonb(failure.as_json()),
            message=str(failure),
        )
        context.rows(
            "log_error",
            connection,
            service=SERVICE,
            message=str(failure),
            context=Jsonb({"run_id": run_id, "partition_id": partition_id, "code": failure.code}),
        )


class _Reader:
    """One worker on one partition, for as long as its epoch is the partition's."""

    def __init__(self, context: Ingestion, run: Run, client: Nivoda, begun: Mapping[str, Any]) -> None:
        self._context = context
        self._run = run
        self._client = client
        self._partition_id: str = begun["partition_id"]
        self._epoch: int = begun["epoch"]
        self._pass: int = begun["pass"]
        self._saved = Checkpoint(begun["next_offset"], begun["is_climbing"])
        self._expected: int = begun["c1"] if begun["c1"] is not None else begun["expected"]
        self._listed = self._expected
        self._unreadable: int = begun["unreadable"]
        span = span_of(begun)
        self._label = f"{run.feed} {self._partition_id} ({span_text(span)})"
        self._query = query_of(run.query, run.key_field, span)
        self._requests = client.requests
        self._since = time.monotonic()

    def work(self) -> dict[str, Any]:
        if self._saved.offset == OVER and has_too_many(self._unreadable, self._listed):
            self._repeat_pass()
        while True:
            if self._saved.offset != OVER:
                self._read_pass()
            account = self._account()
            if account.is_accepted:
                return self._end("COMPLETED", account)
            log.warning(
                "%s: pass %d lost %d stones for certain, %d at most (%d listed, %d read)%s",
                self._label,
                self._pass,
                account.surely_missed,
                account.possibly_missed,
                account.c1,
                account.distinct,
                ", its order did not stand" if account.is_unsteady else "",
            )
            if self._pass >= len(ORDERS):
                return self._end("INCOMPLETE" if account.surely_missed else "COMPLETED", account)
            self._begin_next_pass(account)

    # -- reading

    def _read_pass(self) -> None:
        """From the checkpoint to page 0. The next page is fetched while this one is saved; pages are never asked out of
        order, which the proof needs."""
        at = self._start() if self._saved.offset is None else self._saved
        with ThreadPoolExecutor(1, thread_name_prefix="page") as fetcher:
            coming: Future[Page] | None = fetcher.submit(self._fetch, at)
            above: list[str] = []
            while coming is not None:
                page = coming.result()
                self._listed = self._listed if page.count is None else page.count
                following = self._following(at, page)
                coming = None if following.offset == OVER else fetcher.submit(self._fetch, following)
                ids = ids_of(page)
                # A page that left something out, or that closes a gap, overlaps with others in ways of its own.
                self._save(rows_of(page), page.count, following, page.length == PAGE_SIZE and is_unsteady(above, ids))
                is_next = following.offset == (at.offset or 0) - PAGE_SIZE
                above = joined(above, ids)[:REMEMBERED] if is_next else []
                at = following

    def _start(self) -> Checkpoint:
        """One page beyond the end, to see that there is nothing: a count and a page may not be of the same moment."""
        return Checkpoint(math.ceil(self._expected / PAGE_SIZE) * PAGE_SIZE, is_climbing=True)

    def _following(self, at: Checkpoint, page: Page) -> Checkpoint:
        offset = at.offset or 0
        if at.is_climbing and page.length:
            beyond = math.ceil((page.count or 0) / PAGE_SIZE) * PAGE_SIZE
            return Checkpoint(max(beyond, offset + PAGE_SIZE), is_climbing=True)
        again = self._again(at, offset, page)
        if again is not None:
            return again
        # An empty page further down is no end: what it held has moved towards 0.
        return Checkpoint(max(offset - PAGE_SIZE, 0) if offset > 0 else OVER, is_climbing=False, reach=offset)

    def _again(self, at: Checkpoint, offset: int, page: Page) -> Checkpoint | None:
        """Where to look for what a page has left out above its end; None when it has left out nothing.

        A page as long as this one is asked for that ends where the last one began. Afterwards the way down goes on from
        there, over stones that were read already: of those that were left out some may have moved among them.
        """
        reach = offset + PAGE_SIZE if at.reach is None else at.reach
        if at.is_climbing or page.length >= PAGE_SIZE or offset + page.length >= min(reach, self._listed):
            return None
        start = reach - (page.length or PAGE_SIZE // 2)
        return Checkpoint(start, is_climbing=False, reach=reach) if start > offset else None

    def _fetch(self, at: Checkpoint) -> Page:
        offset = at.offset or 0
        if offset > MAX_OFFSET:
            raise error(
                "NIVODA_PARTITION_TOO_LARGE",
                f"{self._label} goes on beyond offset {MAX_OFFSET:,}",
                service=SERVICE,
            )
        order, direction = ORDERS[self._pass - 1]
        # The first page tells c0, the last one c1, one that is asked for again whether the list has become shorter;
        # none costs a request of its own.
        with_count = at.is_climbing or offset == 0 or at.is_again
        return self._client.page(self._query, offset, PAGE_SIZE, order, direction, with_count)

    # -- saving

    def _save(self, rows: Rows, count: int | None, following: Checkpoint, unsteady: bool) -> None:
        """Rows and checkpoint in one transaction. Raises LEASE_LOST."""
        requests, seconds = self._spent()
        parameters = {
            **self._key,
            **rows.columns,
            "feed": self._run.feed,
            "now": self._context.moment,
            "pass": self._pass,
            "expected_offset": self._saved.offset,
            "was_climbing": self._saved.is_climbing,
            "next_offset": following.offset,
            "is_climbing": following.is_climbing,
            "count": count,
            "read": rows.read,
            # Pages of the climb are read again on the way down: their nameless items would count twice.
            "unreadable": 0 if self._saved.is_climbing and following.is_climbing else len(rows.rejected),
            "nameless": 0 if self._saved.is_climbing and following.is_climbing else rows.nameless,
            "is_unsteady": unsteady,
            "requests": requests,
            "seconds": seconds,
        }
        for last in self._tries():
            try:
                self._write(parameters, rows.rejected)
                break
            except psycopg.Error as broken:
                if last or not failures.is_passing(broken):
                    raise
                log.warning("%s: the database failed, trying again: %s", self._label, broken)
            if self._is_saved(following):
                break
        self._saved = following

    def _write(self, parameters: Mapping[str, Any], rejected: list[RejectedItem]) -> None:
        with self._context.warehouse.transaction() as connection:
            saved = self._context.one("save_page", connection, **parameters)
            if not saved["claimed"]:
                raise self._lost()
            if saved["stored"]:
                self._context.rows("count_written", connection, written=saved["stored"], **self._key)
            if rejected:
                self._reject(connection, rejected)

    def _reject(self, connection: psycopg.Connection[Any], rejected: list[RejectedItem]) -> None:
        each = list({item.digest: item for item in rejected}.values())
        self._context.rows(
            "reject_items",
            connection,
            feed=self._run.feed,
            run_id=self._run.run_id,
            stone_ids=[item.stone_id for item in each],
            codes=[item.code for item in each],
            reasons=[item.reason for item in each],
            payloads=[item.payload.replace("\x00", "\\u0000") for item in each],
            hashes=[item.digest for item in each],
        )
        # A stone that came but cannot be read has not vanished.
        seen = sorted({item.stone_id for item in each if item.stone_id})
        self._context.rows(
            "sight_looked_up",
            connection,
            feed=self._run.feed,
            run_id=self._run.run_id,
            stone_ids=seen,
            now=self._context.moment,
        )

    def _is_saved(self, following: Checkpoint) -> bool:
        """Whether a save whose answer got lost took effect. Raises LEASE_LOST when another worker has the partition."""
        state = self._context.one("partition_state", run_id=self._run.run_id, partition_id=self._partition_id)
        if not state or state["epoch"] != self._epoch or state["status"] != "RUNNING":
            raise self._lost()
        return Checkpoint(state["next_offset"], state["is_climbing"]) == following

    def _tries(self) -> Iterator[bool]:
        """Whether this try is the last one, with a pause before each but the first."""
        for number in range(1, DATABASE_TRIES + 1):
            yield number == DATABASE_TRIES
            time.sleep(DATABASE_PAUSE_SECONDS * number)

    def _spent(self) -> tuple[int, float]:
        """Requests and seconds since this was asked last."""
        requests, now = self._client.requests, time.monotonic()
        spent = requests - self._requests, now - self._since
        self._requests, self._since = requests, now
        return spent

    # -- accounting

    def _account(self) -> Account:
        row = self._context.one("account_pass", **self._key)
        if not row:
            raise self._lost()
        account = Account(
            row["c0"] or 0,
            row["c1"] or 0,
            row["distinct_read"],
            row["unreadable"],
            row["nameless"],
            row["rows_read"],
            row["is_unsteady"],
        )
        if has_too_many(account.unreadable, account.c1):
            raise error(
                "NIVODA_UNREADABLE_ITEMS",
                f"{self._label}: {account.unreadable} of {account.c1} items hold no readable stone",
                service=SERVICE,
            )
        return account

    def _begin_next_pass(self, account: Account) -> None:
        row = self._context.one("next_pass", **{**self._key, "pass": self._pass})
        if not row:
            raise self._lost()
        self._pass, self._saved, self._expected = row["pass"], Checkpoint(None, is_climbing=True), account.c1

    def _repeat_pass(self) -> None:
        """An earlier try failed for items that hold no stone: whether they do by now only the vendor can say."""
        if not self._context.one("repeat_pass", **self._key):
            raise self._lost()
        self._saved = Checkpoint(None, is_climbing=True)

    def _end(self, status: str, account: Account) -> dict[str, Any]:
        if not self._context.one("end_partition", status=status, **self._key)["ended"]:
            raise self._lost()
        return {
            "run_id": self._run.run_id,
            "partition_id": self._partition_id,
            "status": status.lower(),
            "listed": account.c1,
            "distinct": account.distinct,
            "rows_read": account.rows_read,
            "surely_missed": account.surely_missed,
            "possibly_missed": account.possibly_missed,
            "passes": self._pass,
        }

    @property
    def _key(self) -> dict[str, Any]:
        return {"run_id": self._run.run_id, "partition_id": self._partition_id, "epoch": self._epoch}

    def _lost(self) -> PenstockError:
        return error("LEASE_LOST", f"{self._label} was taken over by another worker", service=SERVICE)


def has_too_many(unreadable: int, listed: int) -> bool:
    """Whether so many of the listed items hold no stone that the vendor must have changed its answer."""
    return unreadable > max(FEW_UNREADABLE, UNREADABLE_SHARE * listed)
