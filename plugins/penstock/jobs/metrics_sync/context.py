"""What a sync works with, how it is begun and how it is ended."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from penstock.core.errors import AuthError, FatalError, PenstockError, PermissionDenied, error
from penstock.core.lease import LEASE, retry_delay
from penstock.sources.ad_metrics import SYNC_DAYS, AdPlatform, by_platform
from penstock.sources.stream import Account, Request, Source
from penstock.warehouse import queries
from penstock.warehouse.session import Connection, Warehouse
from penstock.warehouse.vault import Vault

SQL = queries.load("metrics")
SERVICE = "penstock.metrics_sync"
TASK = "sync"

RETRY_BASE = dt.timedelta(minutes=15)
RETRY_CAP = dt.timedelta(hours=24)
"""After a failure that a person has to mend, a connection is tried once in so long; at once when it is changed."""

LEAST_WAIT = dt.timedelta(minutes=1)


class SyncWaiting(Exception):
    """The vendor's quota put the connection off. No failure."""

    def __init__(self, cause: PenstockError, delay: dt.timedelta) -> None:
        super().__init__(f"{cause} The connection is read again in {delay.total_seconds():.0f} s.")
        self.cause = cause


class SyncFailed(Exception):
    """The sync ended failed; its log and its connection say so.

    is_reported: the same trouble was told before and nobody has changed anything since.
    """

    def __init__(self, cause: PenstockError, *, is_reported: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.is_reported = is_reported


class VendorClient(Protocol):
    """What a sync needs of a vendor's client."""

    @property
    def requests(self) -> int:
        """HTTP attempts so far."""

    def send(self, request: Request) -> Any: ...

    def close(self) -> None: ...


ClientFactory = Callable[[Source, Account, Mapping[str, str] | None], VendorClient]


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass
class SyncContext:
    """One claimed connection and what its sync works with.

    claimed: what `claim` returned for it.
    open_client: (source, account, own credentials or None) -> client.
    days: how many days back are read, today included.
    is_dry_run: read and compare, write nothing.
    is_last_try: nobody will try this task again.
    """

    warehouse: Warehouse
    vault: Vault
    claimed: Mapping[str, Any]
    open_client: ClientFactory
    days: int = SYNC_DAYS
    is_dry_run: bool = False
    is_last_try: bool = True
    now: Callable[[], dt.datetime] = utc_now
    rng: random.Random = field(default_factory=random.Random)

    @property
    def platform(self) -> AdPlatform:
        return by_platform(self.claimed["platform"])


@dataclass(frozen=True, slots=True)
class HeldSync:
    """A connection that this worker holds, and what was known of it before.

    failures, error_code: of its earlier syncs; None when the last one went well.
    """

    sync_id: str
    connection_id: str
    holder: str
    epoch: int
    failures: int
    error_code: str | None

    @property
    def key(self) -> dict[str, Any]:
        """The parameters by which every write proves its lease."""
        return {"connection_id": self.connection_id, "epoch": self.epoch, "holder": self.holder}


def begin(context: SyncContext) -> HeldSync:
    """Takes the connection under a new epoch and opens its log. Raises LEASE_LOST when somebody else has it."""
    connection_id = str(context.claimed["connection_id"])
    sync_id = str(uuid.uuid4())
    identity = {"connection_id": connection_id, "sync_id": sync_id}
    parameters = identity | {"lease": LEASE, "holder": context.claimed["holder"]}
    with context.warehouse.transaction() as conn:
        row = conn.cursor(row_factory=dict_row).execute(SQL["begin_sync"], parameters).fetchone()
        if row is None:
            raise lease_lost(connection_id)
        conn.execute(SQL["forget_pages"], identity)
        conn.execute(SQL["close_earlier_logs"], identity | {"message": "LEASE_LOST: tried again by another worker"})
        if not context.is_dry_run:
            conn.execute(SQL["open_log"], identity | {"details": Jsonb({"days": context.days})})
    return HeldSync(sync_id, connection_id, context.claimed["holder"], row["epoch"], row["failures"], row["error_code"])


def lease_lost(connection_id: str) -> PenstockError:
    return error("LEASE_LOST", f"connection {connection_id} is read by another worker", service=SERVICE, task=TASK)


def require_lease(row: Any, held: HeldSync) -> None:
    """Raises LEASE_LOST when the statement that compared the epoch found no row."""
    if row is None:
        raise lease_lost(held.connection_id)


def end_log(conn: Connection, held: HeldSync, status: str, *, details: Mapping[str, Any], message: str | None) -> None:
    parameters = {
        "sync_id": held.sync_id,
        "status": status,
        "updated": int(details.get("metrics_updated", 0)),
        "created": int(details.get("metrics_created", 0)),
        "message": message,
        "details": Jsonb(dict(details)),
    }
    conn.execute(SQL["end_log"], parameters)


def release(context: SyncContext, held: HeldSync) -> None:
    """Nothing happened: the connection is as it was."""
    with context.warehouse.transaction() as conn:
        conn.execute(SQL["forget_pages"], held.key)
        conn.execute(SQL["release_lease"], held.key)


def fail(context: SyncContext, held: HeldSync, cause: PenstockError, *, requests: int) -> SyncFailed:
    """Ends the sync failed; its connection waits longer after every failure."""
    if isinstance(cause, FatalError):
        delay = RETRY_CAP
    else:
        delay = retry_delay(held.failures + 1, base=RETRY_BASE, cap=RETRY_CAP, rng=context.rng)
    _put_off(context, held, cause, delay, counted=1, requests=requests)
    return SyncFailed(cause, is_reported=held.error_code == cause.code)


def wait(context: SyncContext, held: HeldSync, cause: PenstockError, *, requests: int) -> SyncWaiting:
    """Puts the connection off until the vendor's reset; told as a delay, so that the database's clock decides."""
    if cause.retry_after is None and cause.resets_at is not None:
        asked = cause.resets_at - context.now()
    else:
        asked = dt.timedelta(seconds=cause.retry_after or 60)
    delay = max(asked, LEAST_WAIT)
    _put_off(context, held, cause, delay, counted=0, requests=requests)
    return SyncWaiting(cause, delay)


def _put_off(
    context: SyncContext, held: HeldSync, cause: PenstockError, delay: dt.timedelta, *, counted: int, requests: int
) -> None:
    cause.service, cause.task = SERVICE, TASK
    with context.warehouse.transaction() as conn:
        require_lease(conn.execute(SQL["lock_lease"], held.key).fetchone(), held)
        conn.execute(SQL["forget_pages"], held.key)
        if context.is_dry_run:
            conn.execute(SQL["release_lease"], held.key)
            return
        code = cause.code if counted else held.error_code
        parameters = {"code": code, "state": connection_state(cause), "delay": delay, "counted": counted}
        conn.execute(SQL["connection_failed"], held.key | parameters)
        details = {"error": cause.as_json(), "requests": requests, "next_sync_in_s": round(delay.total_seconds())}
        end_log(conn, held, "failed", details=details, message=str(cause)[:2000])


def connection_state(cause: PenstockError) -> str | None:
    """What the connection needs from a person, if anything."""
    if isinstance(cause, AuthError):
        return "NEEDS_RECONNECT"
    if isinstance(cause, PermissionDenied):
        return "NEEDS_PERMISSION"
    return None
