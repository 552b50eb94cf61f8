"""Drains the notification queue: claims lanes, hands them to threads, writes what came of each.

One message per lane and claim, so that lanes take turns whatever their backlogs, a lane has one sender, and nothing is
held that is not being sent. A drain that is resident stays for its minute and LISTENs meanwhile; others leave when
nothing is ready.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from penstock.core.errors import PenstockError
from penstock.jobs.notifications.courier import Courier
from penstock.jobs.notifications.items import Item, Notice, Outcome, Tally
from penstock.jobs.notifications.store import CHANNEL, NotificationStore
from penstock.warehouse.bell import Bell

log = logging.getLogger(__name__)

THREADS = 16
RESIDENCE_S = 75.0
"""A resident stays so long when nobody takes over: its minute, and the start of its successor's."""

RESOLVE_EVERY_S, WAKE_EVERY_S = 1.0, 5.0
RESIDENT_LEASE = dt.timedelta(seconds=15)
LEAST_WAIT_S, LONGEST_WAIT_S = 0.01, 1.0
CHANNEL_QUIET, WORKSPACE_QUIET = dt.timedelta(hours=24), dt.timedelta(hours=1)
LATE_QUIET = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Orders:
    """How one drain works.

    residence: seconds to stay, 0 to leave when nothing is ready. takes_over: whoever is resident makes room.
    horizon: a drain that does not stay still waits for lanes that are ready within so many seconds.
    limit: messages at most. late_after: seconds of age of the oldest due row above which a person is told.
    """

    residence: float = RESIDENCE_S
    takes_over: bool = False
    horizon: float = 0.0
    threads: int = THREADS
    limit: int | None = None
    late_after: float = 3600.0


@dataclass(slots=True)
class _Progress:
    """Where a running drain is; only its own thread changes it."""

    running: dict[Future[Outcome], Item] = field(default_factory=dict)
    begun: int = 0
    resolve_at: float = 0.0
    wake_at: float = 0.0
    leave_at: float = 0.0
    ready_at: float = 0.0  # a claim is of no use before
    is_idle: bool = False  # nothing is due soon
    is_resident: bool = False


def log_notice(notice: Notice) -> None:
    log.error("%s: %s %s", notice.code, notice.message, notice.about)


class Drain:
    """One run of a drain.

    on_notice: tells a person; called in the thread of `run`. stop: set by whoever wants it to end: what is being sent
    is finished, nothing new is begun.
    """

    def __init__(
        self,
        store: NotificationStore,
        courier: Courier,
        orders: Orders,
        *,
        on_notice: Callable[[Notice], None] = log_notice,
        stop: threading.Event | None = None,
    ) -> None:
        self._store = store
        self._courier = courier
        self._orders = orders
        self._on_notice = on_notice
        self._stop = stop or threading.Event()
        self._bell = Bell(store.dsn, CHANNEL)
        self._tally = Tally()

    def stop(self) -> None:
        """May be called from a signal handler."""
        self._stop.set()
        self._bell.ring()

    def run(self) -> Tally:
        """Drain until there is no more to do, or the residence is over.

        Raises psycopg.Error when the database fails for longer than a minute; others then take up what was claimed.
        """
        progress = _Progress(leave_at=time.monotonic() + self._orders.residence)
        with self._bell, ThreadPoolExecutor(self._orders.threads, thread_name_prefix="notify") as pool:
            try:
                while self._turn(progress, pool):
                    pass
            finally:
                for future in list(progress.running):
                    self._finish(progress, future)
                if progress.is_resident:
                    self._store.leave()
        self._look_at_health()
        return self._tally

    # -- one turn

    def _turn(self, progress: _Progress, pool: ThreadPoolExecutor) -> bool:
        """Whether to go on."""
        for future in [each for each in progress.running if each.done()]:
            self._finish(progress, future)
        if self._stop.is_set() or self._is_over(progress):
            return False
        self._sweep(progress)
        if self._free(progress) <= 0 and not progress.running:
            return False
        if self._free(progress) > 0 and time.monotonic() >= progress.ready_at:
            self._claim(progress, pool)
        return self._rest(progress)

    def _is_over(self, progress: _Progress) -> bool:
        """Whether its minute is over, or somebody has taken its place; whatever still waits is the next one's."""
        return self._orders.residence > 0 and time.monotonic() >= progress.leave_at

    def _free(self, progress: _Progress) -> int:
        """How many more messages may be begun now."""
        free = self._orders.threads - len(progress.running)
        return free if self._orders.limit is None else min(free, self._orders.limit - progress.begun)

    def _claim(self, progress: _Progress, pool: ThreadPoolExecutor) -> None:
        free = self._free(progress)
        items = self._store.claim(free)
        for item in items:
            progress.begun += 1
            future = pool.submit(self._deliver, item)
            progress.running[future] = item
            future.add_done_callback(lambda _: self._bell.ring())
        now = time.monotonic()
        if len(items) == free:
            progress.ready_at = now
            return
        ready = self._store.next_ready()
        progress.ready_at = now + (LONGEST_WAIT_S if ready is None else ready)
        progress.is_idle = ready is None or ready > self._orders.horizon

    def _deliver(self, item: Item) -> Outcome:
        """In a thread: deliver and write it down at once, whatever the drain is doing."""
        outcome = self._courier.deliver(item)
        self._settle(item, outcome)
        return outcome

    def _settle(self, item: Item, outcome: Outcome) -> None:
        if outcome.pause is not None:
            self._store.park_workspace(item.workspace, outcome.pause)
        if not self._store.settle(item, outcome):
            log.warning("notification %s was taken over while it was being sent (%s)", item.id, outcome.event)

    def _finish(self, progress: _Progress, future: Future[Outcome]) -> None:
        item = progress.running.pop(future)
        failure = future.exception()
        if failure is not None:
            self._failed(item, failure)
            return
        outcome = future.result()
        self._tally.add(outcome.event)
        progress.ready_at = min(progress.ready_at, time.monotonic() + outcome.delay.total_seconds())
        progress.is_idle = False
        if outcome.pause is not None and item.workspace not in self._tally.paused_workspaces:
            self._tally.paused_workspaces.append(item.workspace)
        if outcome.notice is not None:
            self._tell(outcome.notice, CHANNEL_QUIET if outcome.parked else WORKSPACE_QUIET)

    def _failed(self, item: Item, failure: BaseException) -> None:
        """A defect, or the database gone for a minute: the row stays as it is, and its lease ends."""
        self._tally.add("failed")
        code = failure.code if isinstance(failure, PenstockError) else "UNKNOWN"
        log.error("notification %s: %s %s", item.id, code, type(failure).__name__)

    # -- between turns

    def _sweep(self, progress: _Progress) -> None:
        now = time.monotonic()
        if self._bell.take_notified() or now >= progress.resolve_at:
            progress.resolve_at = now + RESOLVE_EVERY_S
            swept = self._store.resolve()
            # Other drains' lanes become due without our knowing.
            progress.ready_at = now if swept.resolved else min(progress.ready_at, now + LONGEST_WAIT_S)
            self._tally.add("dead", swept.dead)
            self._tally.add("skipped", swept.skipped)
        if now >= progress.wake_at:
            progress.wake_at = now + WAKE_EVERY_S
            self._store.wake()
            self._tally.add("dead", self._store.expire())
            self._stay(progress, now)

    def _stay(self, progress: _Progress, now: float) -> None:
        """Become resident, or hear that another drain has taken over."""
        if self._orders.residence <= 0:
            return
        by_force = self._orders.takes_over and not self._tally.is_resident
        was_resident = progress.is_resident
        progress.is_resident = self._store.become_resident(RESIDENT_LEASE, by_force=by_force)
        self._tally.is_resident = self._tally.is_resident or progress.is_resident
        if was_resident and not progress.is_resident:
            progress.leave_at = now

    def _rest(self, progress: _Progress) -> bool:
        """Wait for the next thing to do; False when there is none to wait for."""
        now = time.monotonic()
        if not progress.is_resident and not progress.running and progress.is_idle:
            return False
        ready_at = progress.ready_at if self._free(progress) > 0 else float("inf")
        wait = min(ready_at, progress.resolve_at) - now
        self._bell.wait(min(max(wait, LEAST_WAIT_S), LONGEST_WAIT_S))
        return True

    def _look_at_health(self) -> None:
        health = self._store.health()
        self._tally.health = {
            name: health[name] for name in ("depth", "ready", "oldest_seconds", "dead", "dead_by_reason")
        }
        oldest = health["oldest_seconds"]
        if oldest is not None and oldest > self._orders.late_after:
            message = f"the oldest of {health['ready']} due notifications has waited for {oldest / 60:.0f} minutes"
            self._tell(Notice("late", "NOTIFICATIONS_LATE", message), LATE_QUIET)

    def _tell(self, notice: Notice, quiet: dt.timedelta) -> None:
        if self._store.say_once(f"notifications: {notice.key}", quiet):
            self._on_notice(notice)
