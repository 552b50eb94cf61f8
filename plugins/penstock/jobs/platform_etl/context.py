"""What the three stages of a run share: who they are, what they work with, how they hold and end the run."""

from __future__ import annotations

import datetime as dt
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from penstock import sources
from penstock.core.errors import (
    DEFECTS,
    AuthError,
    InternalError,
    PenstockError,
    PermissionDenied,
    RetryableError,
    error,
)
from penstock.core.lease import LEASE, Lease, retry_delay
from penstock.sources.stream import Account, Request, Source
from penstock.warehouse import queries
from penstock.warehouse.session import Warehouse
from penstock.warehouse.vault import Vault

SQL = queries.load("platform_etl")
log = logging.getLogger(__name__)

SERVICE = "penstock.platform_etl"
ACCOUNT_RETRY = dt.timedelta(minutes=15)
ACCOUNT_RETRY_CAP = dt.timedelta(hours=24)


class RunWaiting(Exception):
    """The run went back into the queue until a vendor's quota resets. No failure."""

    def __init__(self, cause: PenstockError, not_before: dt.datetime) -> None:
        super().__init__(f"{cause} The run goes on at {not_before:%Y-%m-%d %H:%M:%S %Z}.")
        self.cause = cause
        self.not_before = not_before


class RunNotComplete(Exception):
    """The run ended FAILED or PARTIAL. `is_reported`: the task that failed has raised the alert already."""

    def __init__(self, status: str, stored_error: Mapping[str, Any] | None, *, is_reported: bool) -> None:
        detail = stored_error or {}
        super().__init__(f"{status}: {detail.get('code', 'UNKNOWN')}: {detail.get('message', 'no error was stored')}")
        self.status = status
        self.error = dict(detail)
        self.is_reported = is_reported


class Stopped(Exception):
    """Another slice stopped the run; this one keeps what it has saved."""


class VendorClient(Protocol):
    """What a run needs of a vendor's client; shared by the run's threads."""

    @property
    def requests(self) -> int:
        """HTTP attempts so far."""

    def send(self, request: Request) -> Any: ...

    def close(self) -> None: ...


ClientFactory = Callable[[Source, Account, Mapping[str, str] | None], VendorClient]


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass
class RunContext:
    """One claimed run and what its stages work with.

    run: what `claim` returned for it (run_id, source, holder, label).
    open_client: (source, account, own credentials or None) -> client; called once, in `extract`.
    is_last_try: nobody will try this task again, so what failed now has failed for good.
    epoch: of the stage that this process began last; None before the first.
    """

    warehouse: Warehouse
    vault: Vault
    run: Mapping[str, Any]
    open_client: ClientFactory
    now: Callable[[], dt.datetime] = utc_now
    is_last_try: bool = True
    rng: random.Random = field(default_factory=random.Random)
    epoch: int | None = None

    @property
    def run_id(self) -> str:
        return str(self.run["run_id"])

    @property
    def source(self) -> Source:
        return sources.by_name(self.run["source"])


@dataclass(frozen=True, slots=True)
class HeldRun:
    """A run that this stage holds, as its row says. `had_succeeded`: a person cleared it after it had ended well."""

    lease: Lease
    connection_id: str
    shop_id: str
    platform: str
    job_type: str
    window_start: dt.date | None
    window_end: dt.date | None
    streams: tuple[str, ...] | None
    is_dry_run: bool
    created_at: dt.datetime
    started_at: dt.datetime
    warnings: tuple[Mapping[str, Any], ...]
    had_succeeded: bool

    @property
    def key(self) -> dict[str, Any]:
        """The parameters by which every write proves its lease."""
        return {"run_id": self.lease.row_id, "epoch": self.lease.epoch}


def begin_stage(context: RunContext, *, is_first: bool) -> HeldRun:
    """Takes the run for one stage, under a new epoch that fences whoever had it before.

    A run that has ended starts again when its task is cleared by a person. `is_first`: the stage that counts as an
    attempt. Raises LEASE_LOST when somebody else works on the run, or on another run of the same account.
    """
    parameters = {
        "run_id": context.run_id,
        "holder": context.run["holder"],
        "lease": LEASE,
        "counted": int(is_first),
    }
    try:
        with context.warehouse.connection() as conn:
            row = conn.cursor(row_factory=dict_row).execute(SQL["begin_stage"], parameters).fetchone()
    except psycopg.errors.UniqueViolation:
        row = None
    if row is None:
        raise error("LEASE_LOST", f"run {context.run_id} is worked by somebody else", service=SERVICE)
    context.epoch = row["lease_epoch"]
    return HeldRun(
        lease=Lease(context.run_id, context.run["holder"], row["lease_epoch"]),
        connection_id=row["connection_id"],
        shop_id=row["shop_id"],
        platform=row["platform"],
        job_type=row["job_type"],
        window_start=row["window_start"],
        window_end=row["window_end"],
        streams=tuple(row["streams"]) if row["streams"] else None,
        is_dry_run=row["is_dry_run"],
        created_at=row["created_at"],
        started_at=row["started_at"] or row["created_at"],
        warnings=tuple(row["warnings"]),
        had_succeeded=row["had_succeeded"],
    )


def delay_of(limited: PenstockError, now: dt.datetime) -> dt.timedelta:
    """How long a limit or quota holds a run up."""
    delay = limited.resets_at - now if limited.resets_at else dt.timedelta(seconds=limited.retry_after or 60)
    return max(delay, dt.timedelta(seconds=1))


def require_lease(row: Any, held: HeldRun) -> None:
    """Raises LEASE_LOST when the statement that compared the epoch found no row."""
    if row is None:
        raise error("LEASE_LOST", f"run {held.lease.row_id} was taken over by another worker", service=SERVICE)


def end_run(
    conn: psycopg.Connection[Any],
    held: HeldRun,
    status: str,
    *,
    failure: Mapping[str, Any] | None,
    warnings: Sequence[Mapping[str, Any]],
    api_calls: int,
) -> None:
    """Ends the run in the caller's transaction, its counters summed from its slices."""
    parameters = held.key | {
        "status": status,
        "error": Jsonb(failure) if failure else None,
        "warnings": Jsonb(list(warnings)),
        "api_calls": api_calls,
    }
    require_lease(conn.execute(SQL["end_run"], parameters).fetchone(), held)


def fail_run(context: RunContext, held: HeldRun, cause: PenstockError, *, task: str, api_calls: int = 0) -> None:
    """Ends the run FAILED with this error; its cursors stay, its account waits longer after each failure but a dry
    run's."""
    cause.service, cause.task = SERVICE, task
    with context.warehouse.transaction() as conn:
        end_run(conn, held, "FAILED", failure=cause.as_json(), warnings=held.warnings, api_calls=api_calls)
        state = None if held.is_dry_run else account_state(cause)
        if is_accounts_sync(held.job_type, held.is_dry_run) or state:
            mark_account_failed(context.rng, conn, held.connection_id, cause.code, state)
        conn.execute(SQL["close_parents"])


def give_up_or_retry(
    context: RunContext, held: HeldRun, cause: PenstockError, *, task: str, api_calls: int = 0
) -> None:
    """Ends the run FAILED unless trying the task again can help, the run is no longer ours or nobody can write."""
    if cause.code in ("LEASE_LOST", "DB_UNAVAILABLE"):
        return
    if isinstance(cause, RetryableError | InternalError) and not context.is_last_try:
        return
    fail_run(context, held, cause, task=task, api_calls=api_calls)


def give_up_on_defect(context: RunContext, held: HeldRun, defect: Exception, *, task: str, api_calls: int = 0) -> None:
    """As `give_up_or_retry`, for what is no error of ours. One of `DEFECTS` is the task's last word: its run ends now,
    with the defect's name, or it would look like one whose worker died."""
    cause = error("UNKNOWN", f"{type(defect).__name__}: {defect}")
    end = fail_run if isinstance(defect, DEFECTS) else give_up_or_retry
    end(context, held, cause, task=task, api_calls=api_calls)


def is_accounts_sync(job_type: str, is_dry_run: bool) -> bool:
    """Whether a run's failure puts its account off. A backfill's trouble is its own, and a dry run is only a look: the
    account's daily runs come when they are due."""
    return job_type != "BACKFILL" and not is_dry_run


def mark_account_failed(
    rng: random.Random, conn: psycopg.Connection[Any], connection_id: str, code: str, state: str | None
) -> None:
    """The account waits longer after each failure; `state` says what it needs from a person, if anything."""
    failures = conn.execute(SQL["account_failures"], {"connection_id": connection_id}).fetchone()
    delay = retry_delay((failures[0] if failures else 0) + 1, base=ACCOUNT_RETRY, cap=ACCOUNT_RETRY_CAP, rng=rng)
    parameters = {"connection_id": connection_id, "code": code, "state": state, "delay": delay}
    conn.execute(SQL["account_failed"], parameters)


def account_state(cause: PenstockError) -> str | None:
    """What the account needs from a person, if anything."""
    if isinstance(cause, AuthError):
        return "NEEDS_RECONNECT"
    if isinstance(cause, PermissionDenied):
        return "NEEDS_PERMISSION"
    return None
