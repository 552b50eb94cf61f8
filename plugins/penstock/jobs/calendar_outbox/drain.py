"""Drains the outbox: claims lanes in turn, hands them to threads, rebuilds workspaces, listens for more.

A resident drain stays for its minute, so that an item that is written meanwhile is sent at once; another leaves when
nothing is due. Any number of drains may run at the same time, anywhere.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import psycopg

from penstock.core.calendar_events import REBUILD, read_intent
from penstock.core.errors import CATALOGUE, FatalError, PenstockError, error
from penstock.core.lease import retry_delay
from penstock.jobs.calendar_outbox.accounts import Accounts
from penstock.jobs.calendar_outbox.delivery import RETRY_FOR_S, Delivery, Notice, Report
from penstock.jobs.calendar_outbox.rebuild import Busy, Rebuild
from penstock.jobs.calendar_outbox.store import BATCH, CHANNEL, CalendarStore, UnkeyedItem
from penstock.warehouse.bell import Bell

log = logging.getLogger(__name__)

THREADS = 4
RESIDENCE_S = 55.0
SWEEP_EVERY_S = 5.0
LEAST_WAIT_S, LONGEST_WAIT_S = 0.02, 2.0
LATE_AFTER_S = 900.0
QUIET = dt.timedelta(hours=1)
REBUILD_BASE, REBUILD_CAP = dt.timedelta(seconds=5), dt.timedelta(minutes=15)
UNREADABLE = (psycopg.DataError, ArithmeticError, ValueError, TypeError)
"""What values that nobody expects in a source's row come to: a time that Python has no number for, a missing one."""


@dataclass(frozen=True, slots=True)
class Orders:
    """How one drain works.

    residence: seconds to stay, 0 to leave when nothing is due. horizon: one that does not stay still waits for what is
    due within so many seconds. batch: keys of one claim. late_after: age in seconds of the oldest item above which a
    person is told.
    """

    residence: float = RESIDENCE_S
    horizon: float = 0.0
    threads: int = THREADS
    batch: int = BATCH
    late_after: float = LATE_AFTER_S


@dataclass(slots=True)
class Tally:
    """What a drain has done."""

    counts: Counter[str] = field(default_factory=Counter)
    depth: int = 0
    oldest_seconds: float | None = None

    def summary(self) -> dict[str, Any]:
        """Counts alone: no payload, no secret."""
        return {**self.counts, "depth": self.depth, "oldest_seconds": self.oldest_seconds}


def log_notice(notice: Notice) -> None:
    log.error("%s: %s %s", notice.code, notice.message, notice.about)


class Drain:
    """One run.

    on_notice: tells a person; called in the thread of `run`.
    """

    def __init__(
        self,
        store: CalendarStore,
        accounts: Accounts,
        delivery: Delivery,
        orders: Orders,
        on_notice: Callable[[Notice], None] = log_notice,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._delivery = delivery
        self._orders = orders
        self._on_notice = on_notice
        self._stop = threading.Event()
        self._bell = Bell(store.dsn, CHANNEL)
        self._tally = Tally()
        self._running: set[Future[Report]] = set()
        self._rebuilding: set[str] = set()
        self._failure: BaseException | None = None
        self._swept_at = float("-inf")

    def stop(self) -> None:
        """Finish what is being sent, claim nothing more. May be called from a signal handler."""
        self._stop.set()
        self._bell.ring()

    def run(self) -> Tally:
        """Drain until nothing is due, or the residence is over.

        Raises what concerns every account (CALENDAR_CLIENT_INVALID, CALENDAR_API_DISABLED), when what was begun has
        ended, and psycopg.Error when the database fails for longer than a minute.
        """
        leave_at = time.monotonic() + self._orders.residence
        self._accounts.retry_unreadable()
        with self._bell, ThreadPoolExecutor(self._orders.threads, thread_name_prefix="calendar") as pool:
            try:
                while not self._stop.is_set() and self._turn(pool, leave_at):
                    self._collect()
            finally:
                for future in list(self._running):
                    self._take(future)
        self._accounts.close()
        if not isinstance(self._failure, psycopg.Error):
            self._look_at_age()
        if self._failure is not None:
            raise self._failure
        return self._tally

    # -- turns

    def _turn(self, pool: ThreadPoolExecutor, leave_at: float) -> bool:
        """Whether to go on."""
        if self._failure is not None:
            return False
        now = time.monotonic()
        if self._bell.take_notified() or now - self._swept_at >= SWEEP_EVERY_S:
            self._swept_at = now
            self._store.wake()
            self._begin_unkeyed(pool)
        if len(self._running) < self._orders.threads and self._begin_claim(pool):
            return True
        return self._rest(leave_at)

    def _begin_claim(self, pool: ThreadPoolExecutor) -> bool:
        """Whether it was somebody's turn."""
        claim = self._store.claim(self._orders.batch)
        if claim is not None and claim.keys:
            self._submit(pool.submit(self._delivery.deliver, claim))
        return claim is not None

    def _begin_unkeyed(self, pool: ThreadPoolExecutor) -> None:
        for item in self._store.unkeyed():
            if item.operation != REBUILD:
                self._refuse(item)
            elif item.workspace_id not in self._rebuilding and len(self._rebuilding) < self._most_rebuilds():
                self._rebuilding.add(item.workspace_id)
                self._submit(pool.submit(self._rebuild, item))

    def _most_rebuilds(self) -> int:
        """Rebuilds list calendars and wait for other workers: half of the threads stay for items."""
        return max(1, self._orders.threads // 2)

    def _submit(self, future: Future[Report]) -> None:
        self._running.add(future)
        future.add_done_callback(lambda _: self._bell.ring())

    def _rest(self, leave_at: float) -> bool:
        """Wait for something to do; False when there is nothing to wait for."""
        due = self._store.next_due()
        now = time.monotonic()
        if due is not None and due <= 0 and self._store.wake():
            return True
        stays = now < leave_at
        if not stays and not self._running and (due is None or due > self._orders.horizon):
            return False
        until = [LONGEST_WAIT_S, SWEEP_EVERY_S - (now - self._swept_at)]
        if due is not None:
            until.append(due)
        if stays:
            until.append(leave_at - now)
        self._bell.wait(max(LEAST_WAIT_S, min(until)))
        return True

    # -- ends

    def _collect(self) -> None:
        for future in [each for each in self._running if each.done()]:
            self._take(future)

    def _take(self, future: Future[Report]) -> None:
        """A failure of the database and a defect end the drain, when what was begun has ended: the leases bring back
        what was claimed, and no other claim's notices are lost."""
        self._running.discard(future)
        broken = future.exception()
        if broken is not None:
            self._failure = self._failure or broken
            return
        report = future.result()
        self._tally.counts.update(report.counts)
        for notice in report.notices:
            self._tell(notice)
        self._failure = self._failure or report.failure

    def _tell(self, notice: Notice) -> None:
        if self._store.say_once(notice.key, QUIET):
            self._on_notice(notice)

    def _look_at_age(self) -> None:
        self._tally.oldest_seconds, self._tally.depth = self._store.oldest()
        oldest = self._tally.oldest_seconds
        if oldest is not None and oldest > self._orders.late_after:
            message = f"the oldest of {self._tally.depth} items has waited for {oldest / 60:.0f} minutes"
            self._tell(Notice("late", "CALENDAR_LATE", message))

    # -- items without a key

    def _refuse(self, item: UnkeyedItem) -> None:
        """An item that names no source: its reader says what is wrong with it."""
        try:
            read_intent(item.operation, item.payload, item.workspace_id, "UTC")
            failure = error("CALENDAR_EVENT_INVALID", "the payload names no source object")
        except PenstockError as unreadable:
            failure = unreadable
        self._store.close_item(item.item_id, "DEAD_LETTER", reason=failure.code, message=failure.message[:500])
        self._tally.counts["dead"] += 1
        self._tell(Notice(f"dead {failure.code}", failure.code, failure.message, f"item {item.item_id}"))

    def _rebuild(self, item: UnkeyedItem) -> Report:
        """In a thread. A rebuild that Google does not let us do now is tried again later."""
        report = Report()
        try:
            account = self._accounts.account(item.workspace_id)
            done = Rebuild(self._store, account, item).run()
            report.counts.update({"rebuilt": 1, **done})
        except Busy:
            report.counts["rebuild_busy"] += 1
        except PenstockError as failure:
            self._rebuild_failed(item, failure, report)
        except UNREADABLE as unreadable:
            # One workspace's rows must not end everybody's drain, again and again.
            message = f"a source of the workspace cannot be read: {type(unreadable).__name__}"
            self._rebuild_failed(item, error("CALENDAR_EVENT_INVALID", message), report)
        finally:
            self._rebuilding.discard(item.workspace_id)
        return report

    def _rebuild_failed(self, item: UnkeyedItem, failure: PenstockError, report: Report) -> None:
        is_ours = failure.code in ("CALENDAR_CLIENT_INVALID", "CALENDAR_API_DISABLED", "LEASE_LOST")
        if failure.code == "OAUTH_INVALID":
            row = self._store.connection(item.workspace_id)
            if row.connection_id and self._store.invalidate(row.connection_id, failure.code, failure.message[:500]):
                about = f"workspace {item.workspace_id}"
                report.notices.append(Notice(f"connection {row.connection_id}", failure.code, failure.message, about))
        if isinstance(failure, FatalError) and is_ours:
            report.failure = failure
        is_hopeless = isinstance(failure, FatalError) and not is_ours
        is_worn_out = item.age_seconds > RETRY_FOR_S and not item.has_tries
        if is_hopeless or is_worn_out:
            code = failure.code if failure.code in CATALOGUE else "UNKNOWN"
            self._store.close_item(item.item_id, "DEAD_LETTER", reason=code, message=failure.message[:500])
            report.counts["dead"] += 1
            report.notices.append(Notice(f"dead {code}", code, failure.message, f"rebuild {item.item_id}"))
            return
        delay = max(
            failure.retry_after or 0.0,
            retry_delay(item.attempts + 1, base=REBUILD_BASE, cap=REBUILD_CAP, rng=self._delivery.rng).total_seconds(),
        )
        self._store.close_item(item.item_id, "FAILED", message=failure.message[:500], delay=delay)
        report.counts["rebuild_retry"] += 1
