"""One worker's job: claims due items, fetches a few at a time, writes every outcome, and always gives back the rest.

An item's own fault (an answer that cannot be read, a server error that stays) is counted against the item. What
concerns everybody (a limit, an open circuit) is not: the item goes behind the others in this worker's hands. What a
person must mend (credentials, wrong requests) ends the job. An item that is refused while others are answered holds up
nobody: in the end the refusal counts as its own fault.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import psycopg

from penstock.core.errors import FatalError, InternalError, NotFound, PenstockError, RateLimited, RetryableError, error
from penstock.core.lease import HEARTBEAT
from penstock.jobs.app_sync import items, job_log
from penstock.jobs.app_sync.context import SERVICE, SQL, Counts, Item, Kind, Outcome, Stopped, SyncContext
from penstock.jobs.app_sync.refusals import Refusals
from penstock.sources.keyed import Record

log = logging.getLogger(__name__)

CLAIM_SIZE = 50
"""Items held at once. More would keep them from other workers without making this one faster."""
CLAIM_BELOW = 25
"""Items that wait in hand, below which more are claimed: those that are refused must never be all there is to do."""

FLUSH_SIZE = 25
FLUSH_SECONDS = 2.0
POLL_SECONDS = 0.5
PROGRESS_EVERY = 100
LEAST_PAUSE_SECONDS = 1.0


def sync(context: SyncContext) -> Counts:
    """Process up to `context.share` due items; returns what was done.

    Raises FatalError for what a person must mend, InternalError for a fault of the database; the job is marked failed
    and the items are given back first, as far as the database allows.
    """
    _register(context)
    job_id = job_log.start(context)
    worker = _Worker(context, job_id)
    try:
        worker.run()
    except (PenstockError, psycopg.Error) as failure:
        job_log.end(context.warehouse, job_id, job_log.FAILED, str(failure))
        raise
    job_log.end(context.warehouse, job_id, job_log.COMPLETED, worker.reason)
    log.info("%s: %s", context.source.name, worker.counts)
    return worker.counts


class _Worker:
    """State of one job. Only the worker's own thread touches it; the pool's threads fetch and return."""

    def __init__(self, context: SyncContext, job_id: str) -> None:
        self._context = context
        self._job_id = job_id
        self.counts = Counts()
        self.reason: str | None = None
        self._waiting: deque[Item] = deque()
        self._running: dict[Future[Record | None], Item] = {}
        self._outcomes: list[Outcome] = []
        self._refusals = Refusals()
        self._is_drained = False
        self._failure: PenstockError | psycopg.Error | None = None
        began = time.monotonic()
        self._ends_at = began + context.time_limit.total_seconds()
        self._resume_at = began
        self._flushed_at = began
        self._renewed_at = began

    def run(self) -> None:
        """Work until the share is done, nothing is due, or somebody says stop."""
        with ThreadPoolExecutor(self._context.source.concurrency, thread_name_prefix="fetch") as pool:
            while self._has_work():
                if self._is_over():
                    self._give_back()
                else:
                    self._begin(pool)
                self._collect()
                self._renew_if_due()
                if len(self._outcomes) >= FLUSH_SIZE or time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
                    self._flush()
        if self._failure is not None:
            raise self._failure

    def _has_work(self) -> bool:
        """Whether anything is in hand; what can be claimed is, and everything is written before the answer is no."""
        self._claim()
        if self._waiting or self._running:
            return True
        self._flush()
        self._claim()  # in place of items that the flush found lost to another worker
        return bool(self._waiting)

    def _claim(self) -> None:
        in_hand = len(self._waiting) + len(self._running)
        missing = self._context.share - self.counts.processed - len(self._outcomes) - in_hand
        room = min(CLAIM_SIZE - in_hand, missing)
        if room <= 0 or len(self._waiting) >= CLAIM_BELOW or self._is_drained or self._is_over():
            return
        claimed = items.claim(self._context, room)
        self._waiting.extend(claimed)
        self._is_drained = not claimed

    def _is_over(self) -> bool:
        if self._failure is None and self.reason is None:
            if self._context.stop.is_set():
                self.reason = "stopped: the items that were not begun went back"
            elif time.monotonic() >= self._ends_at:
                self.reason = "time is up: the items that were not begun went back"
        return self._failure is not None or self.reason is not None

    def _begin(self, pool: ThreadPoolExecutor) -> None:
        source = self._context.source
        while self._waiting and len(self._running) < source.concurrency and time.monotonic() >= self._resume_at:
            item = self._waiting.popleft()
            self._running[pool.submit(source.fetch, self._context.send, item.appid)] = item

    def _give_back(self) -> None:
        self._outcomes.extend(Outcome(item, Kind.RELEASED) for item in self._waiting)
        self._waiting.clear()

    def _collect(self) -> None:
        """Take what has come back; wait a moment for the first of it."""
        if not self._running:
            if self._waiting:
                self._context.stop.wait(min(POLL_SECONDS, max(0.0, self._resume_at - time.monotonic())))
            return
        done, _ = wait(self._running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            self._settle(self._running.pop(future), future)

    def _settle(self, item: Item, future: Future[Record | None]) -> None:
        failure = future.exception()
        match failure:
            case None:
                record = future.result()
                self._answer(Outcome(item, Kind.SKIPPED if record is None else Kind.SYNCED, record))
            case NotFound():
                self._answer(Outcome(item, Kind.SKIPPED))
            case Stopped():
                self._waiting.append(item)
            case PenstockError() if _concerns_everybody(failure):
                self._settle_limit(item, failure)
            case FatalError():
                self._settle_wrong_call(item, failure)
            case InternalError() | psycopg.Error():
                self._waiting.append(item)
                self._failure = failure
            case PenstockError():
                self._fail(item, failure)
            case _:
                # A defect in the source's code, met by this item's answer: the others must not suffer for it.
                log.error("app %d: the source failed", item.appid, exc_info=failure)
                self._fail(item, error("UNKNOWN", f"{type(failure).__name__}: {failure}", service=SERVICE))

    def _answer(self, outcome: Outcome) -> None:
        self._refusals.answered()
        self._outcomes.append(outcome)

    def _settle_limit(self, item: Item, failure: PenstockError) -> None:
        """A limit, most likely everybody's. Without a status nobody was asked: pace or circuit held the call back."""
        self._pause(failure)
        if failure.http_status is not None and self._refusals.is_own_limit(item.appid):
            self._fail(item, failure)
        else:
            self._waiting.append(item)

    def _settle_wrong_call(self, item: Item, failure: FatalError) -> None:
        """This item's fault, or one that a person must mend."""
        if self._refusals.is_own_wrong_call(item.appid):
            self._fail(item, failure)
            return
        self._waiting.append(item)
        if self._refusals.is_every_call_wrong(item.appid):
            self._failure = failure

    def _fail(self, item: Item, failure: PenstockError) -> None:
        log.warning("app %d: %s", item.appid, failure)
        self._outcomes.append(Outcome(item, Kind.FAILED, error=failure))

    def _pause(self, failure: PenstockError) -> None:
        """Begin nothing before the vendor's time is over; when that is too far off, end."""
        resume_at = time.monotonic() + max(LEAST_PAUSE_SECONDS, failure.retry_after or 0.0)
        self._resume_at = max(self._resume_at, resume_at)
        log.warning("%s: pause of %.0f s", failure, self._resume_at - time.monotonic())
        # What the vendor itself said, rather than what follows from it for the calls behind.
        if self._resume_at >= self._ends_at and (self.reason is None or failure.http_status is not None):
            self.reason = f"{failure}: the items that were not begun went back"

    def _renew_if_due(self) -> None:
        if time.monotonic() - self._renewed_at < HEARTBEAT.total_seconds():
            return
        self._renewed_at = time.monotonic()
        held: Iterable[Item] = (*self._waiting, *self._running.values(), *(each.item for each in self._outcomes))
        items.renew(self._context, list(held))

    def _flush(self) -> None:
        """Records, outcomes and the job's counts, in one transaction: the counts of a killed job are true."""
        self._flushed_at = time.monotonic()
        if not self._outcomes:
            return
        outcomes, self._outcomes = self._outcomes, []
        before = self.counts.processed
        with self._context.warehouse.transaction() as conn:
            items.acknowledge(conn, self._context, outcomes, self.counts)
            job_log.save_progress(conn, self._job_id, self.counts)
        if self.counts.processed // PROGRESS_EVERY > before // PROGRESS_EVERY:
            log.info("%s: %d of %d", self._context.source.name, self.counts.processed, self._context.share)


def _concerns_everybody(failure: PenstockError) -> bool:
    """Whether the item is not to blame: a limit, a used-up quota, a vendor whose circuit is open."""
    return isinstance(failure, RateLimited) or failure.code == "CIRCUIT_OPEN" or _is_quota(failure)


def _is_quota(failure: PenstockError) -> bool:
    return isinstance(failure, RetryableError) and failure.resets_at is not None


def _register(context: SyncContext) -> None:
    """Let the database know the source, should it be a new one."""
    parameters = {"source": context.source.name, "fixed_interval": context.source.fixed_interval}
    with context.warehouse.transaction() as conn:
        conn.execute(SQL["register_source"], parameters)
