"""Takes the old rows of one table away, batch by batch, so that nobody who writes there has to wait for long.

A batch is one statement in one transaction, together with its count in `penstock.retention_runs` and the stamp of its
policy where all are in one database. Rows that somebody else has locked are passed over and looked for again at the
end. Any number of walks may go over one table at once.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from penstock.core import retention
from penstock.jobs.retention.statements import Move, Statements
from penstock.warehouse import failures, queries
from penstock.warehouse.session import Warehouse

log = logging.getLogger(__name__)

SQL = queries.load("retention")
STATEMENT_TIMEOUT = "10s"  # of a batch that aims at a twentieth of a second: something is wrong
LOCK_TIMEOUT = "2s"
MAX_FAILURES = 5  # of one batch, one after the other
MAX_PASSES = 3  # over a table in which others hold rows locked
SECONDS_BETWEEN_PASSES = 1.0

# The rows leave one table and enter the other in one transaction: a crash that loses it leaves them where they were.
# So no batch needs to wait for the disk, nor a writer's commit behind it.
_LOCAL_SETTINGS = """
select
    set_config('statement_timeout', %(statement)s, true),
    set_config('lock_timeout', %(lock)s, true),
    set_config('synchronous_commit', 'off', true)
"""
# Of the transaction, by the server's clock. With the way to the server in it, a far one would seem slow, and no batch
# would ever be small enough.
_SECONDS_AT_WORK = "select extract(epoch from clock_timestamp() - now())::float8"


@dataclass(frozen=True, slots=True)
class Batch:
    """What one statement took away, and how long the server took for it."""

    rows: int
    oldest_at: dt.datetime | None
    newest_at: dt.datetime | None
    stored_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Book:
    """The run's row in `penstock.retention_runs`, in the database of the policies."""

    warehouse: Warehouse
    run_id: int

    def add(self, batch: Batch, *, is_archived: bool, partition: str | None = None) -> None:
        """Counts a batch and stamps its policy, inside the transaction that this thread has open on the database."""
        parameters = {
            "run_id": self.run_id,
            "is_archived": is_archived,
            "rows_archived": batch.rows if is_archived else 0,
            "bytes_archived": batch.stored_bytes if is_archived else 0,
            "rows_purged": 0 if is_archived else batch.rows,
            "bytes_purged": 0 if is_archived else batch.stored_bytes,
            "oldest_at": batch.oldest_at,
            "newest_at": batch.newest_at,
            "milliseconds": round(batch.seconds * 1000),
            "partition": partition,
        }
        with self.warehouse.connection() as connection:
            connection.execute(SQL["add_progress"], parameters)


@dataclass(frozen=True, slots=True)
class Task:
    """One step on one plain table or partition, for one run."""

    warehouse: Warehouse
    book: Book
    statements: Statements
    before: dt.datetime
    is_archived: bool
    sleep: Callable[[float], None] = time.sleep

    def count_left(self) -> int:
        """How many rows are still to be moved."""
        with self.warehouse.connection() as connection:
            row = connection.execute(self.statements.left, {"before": self.before}).fetchone()
        return int(row[0]) if row else 0

    def first_time(self) -> str | None:
        """The least time of the rows that are still to be moved; None: there are none."""
        with self.warehouse.connection() as connection:
            row = connection.execute(self.statements.first, {"before": self.before}).fetchone()
        return row[0] if row else None

    def move(self, move: Move, place: Mapping[str, Any]) -> Batch:
        """One batch and its count, in one transaction. Raises psycopg.Error."""
        try:
            return self._move(move.plain, place)
        except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation):
            return self._move(move.careful, place)

    def _move(self, statement: sql.Composed, place: Mapping[str, Any]) -> Batch:
        # While the rows are locked, the server waits for us once, however far away it is.
        with self.warehouse.pipelined_transaction() as connection:
            connection.execute(_LOCAL_SETTINGS, {"statement": STATEMENT_TIMEOUT, "lock": LOCK_TIMEOUT})
            moved = connection.execute(statement, {"before": self.before, **place})
            clock = connection.execute(_SECONDS_AT_WORK)
            rows, oldest_at, newest_at, stored_bytes = moved.fetchone() or (0, None, None, 0)
            (seconds,) = clock.fetchone() or (0.0,)
            batch = Batch(rows, oldest_at, newest_at, stored_bytes, seconds)
            if rows and self.book.warehouse is self.warehouse:
                self.book.add(batch, is_archived=self.is_archived)
        if batch.rows and self.book.warehouse is not self.warehouse:
            # Two databases cannot commit as one: a crash in between leaves a count too low, never a row lost.
            self.book.add(batch, is_archived=self.is_archived)
        return batch


def walk(task: Task, *, is_indexed: bool, blocks: Callable[[], int]) -> int:
    """Moves every old row; returns how many are left because somebody held them locked to the end.

    is_indexed: go along the index of the time, else through the pages. blocks: how many pages there are by now.
    Raises psycopg.Error when a batch fails for a reason that does not pass.
    """
    left = 0
    for number in range(MAX_PASSES):
        if number:
            task.sleep(SECONDS_BETWEEN_PASSES)
        _walk_along_time(task) if is_indexed else _walk_through_pages(task, blocks())
        left = task.count_left()
        if not left:
            break
    return left


def _walk_along_time(task: Task) -> None:
    """Each batch begins where the one before ended: without that, it would first pass its dead index entries.

    Those of a run that was killed are passed before the first batch, which a time-out would end.
    """
    size, from_time = retention.FIRST_BATCH, task.first_time()
    while from_time is not None:
        place = functools.partial(_rows_from, from_time)
        batch, size = _patiently(task, task.statements.along_time, place, size)
        if not batch.rows:
            return
        from_time = batch.newest_at.isoformat() if batch.newest_at else from_time
        size = retention.next_size(
            size, batch.seconds, smallest=retention.SMALLEST_BATCH, largest=retention.LARGEST_BATCH
        )
        task.sleep(retention.pause(batch.seconds))


def _walk_through_pages(task: Task, blocks: int) -> None:
    size, first = retention.FIRST_BLOCKS, 0
    while first < blocks:
        place = functools.partial(_pages_from, first)
        batch, size = _patiently(task, task.statements.through_pages, place, size)
        first += size
        size = retention.next_size(
            size, batch.seconds, smallest=retention.SMALLEST_BLOCKS, largest=retention.LARGEST_BLOCKS
        )
        task.sleep(retention.pause(batch.seconds))


def _rows_from(from_time: str, size: int) -> Mapping[str, Any]:
    return {"from_time": from_time, "size": size}


def _pages_from(first: int, size: int) -> Mapping[str, Any]:
    return {"first": f"({first},0)", "end": f"({first + size},0)"}


def _patiently(task: Task, move: Move, place: Callable[[int], Mapping[str, Any]], size: int) -> tuple[Batch, int]:
    """The batch, tried again smaller after a time-out or another passing fault; and the size that it had at last."""
    fault_count = 0
    while True:
        try:
            return task.move(move, place(size)), size
        except psycopg.Error as fault:
            fault_count += 1
            is_timeout = isinstance(fault, psycopg.errors.QueryCanceled)
            if fault_count == MAX_FAILURES or not (is_timeout or failures.is_passing(fault)):
                raise
            size = max(1, size // 4)
            log.warning("a batch failed (%s), trying again with %d", failures.classify(fault).message, size)
            task.sleep(min(0.1 * 2**fault_count, 2.0))
