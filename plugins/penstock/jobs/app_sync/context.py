"""What a job works with, and how it ends for one item."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from penstock.core.errors import PenstockError
from penstock.core.lease import LEASE
from penstock.sources.keyed import KeyedSource, Record, Send
from penstock.warehouse.queries import load
from penstock.warehouse.session import Warehouse

SERVICE = "app_sync"
SQL = load("apps")

STALE_AFTER = dt.timedelta(minutes=45)
"""A job that runs for longer has lost its worker: the old worker's rule."""

TIME_LIMIT = dt.timedelta(minutes=40)
"""After this a job gives back what it has not begun: it must end before it counts as stale."""

GIVE_UP_AFTER = 10
"""Errors of an app in a row, after which a person has to look at it."""


class Stopped(Exception):
    """The worker was asked to stop while it waited for its turn: the item goes back."""


class Kind(StrEnum):
    """How the work on an item ended; the words of `penstock.app_sync_states.last_outcome`."""

    SYNCED = "synced"
    SKIPPED = "skipped"  # answered: the vendor has no such item
    FAILED = "failed"
    RELEASED = "released"  # given back as if nobody had touched it


@dataclass(frozen=True, slots=True)
class Item:
    """A claimed item; writes for it must match the epoch."""

    appid: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item: a record when it was synced, an error when it failed."""

    item: Item
    kind: Kind
    record: Record | None = None
    error: PenstockError | None = None


@dataclass(slots=True)
class Counts:
    """What a job has done so far; the columns of `sync_jobs`.

    processed = succeeded + skipped + failed. released: given back untouched. lost: taken over by another worker.
    """

    processed: int = 0
    succeeded: int = 0
    skipped: int = 0
    failed: int = 0
    created: int = 0
    updated: int = 0
    released: int = 0
    lost: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class SyncContext:
    """One worker's job.

    warehouse: the database of the apps. send: calls of the source's vendor, paced by limits that all workers share.
    share: items to process at most. holder: who is named in the leases. run_id, lane: the DAG run and the place in it.
    stop: set when the worker is asked to end.
    """

    warehouse: Warehouse
    source: KeyedSource
    send: Send
    share: int
    holder: str
    run_id: str
    lane: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    lease: dt.timedelta = LEASE
    time_limit: dt.timedelta = TIME_LIMIT


def stoppable_sleep(stop: threading.Event) -> Callable[[float], None]:
    """A `sleep` for clients. Raises Stopped as soon as `stop` is set: returning early would break the pace."""

    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise Stopped

    return sleep
