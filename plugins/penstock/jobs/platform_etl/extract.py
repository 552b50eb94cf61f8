"""Vendor pages to staging. A run is cut into slices once; every page is saved together with the place it stopped at,
so a run that dies goes on at its last saved page, whoever takes it over."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from penstock.core import windows
from penstock.core.errors import (
    AuthError,
    FatalError,
    InternalError,
    PenstockError,
    QuotaExhausted,
    RateLimited,
    RetryableError,
    error,
)
from penstock.core.lease import HEARTBEAT, LEASE
from penstock.jobs.accounts import load_account
from penstock.jobs.platform_etl.context import (
    SERVICE,
    SQL,
    HeldRun,
    RunContext,
    RunWaiting,
    VendorClient,
    begin_stage,
    fail_run,
    require_lease,
)
from penstock.jobs.platform_etl.planning import Plan, Wish, plan
from penstock.jobs.platform_etl.slices import SliceReader, Stopped
from penstock.sources.stream import Account, Profile, Slice, Source
from penstock.warehouse import failures

log = logging.getLogger(__name__)
TASK = "extract"

STATISTICS_ROWS = 500
"""Rows written by a run that make a staging table's statistics worth refreshing."""


def extract(context: RunContext) -> dict[str, Any]:
    """Reads every open slice of the run into staging.

    Returns counts for the task's XCom. Raises RunWaiting when a quota put the run back, the run's own error when
    nothing could be read or nobody may go on, and a retryable error while the task has tries left.
    """
    held = begin_stage(context, is_first=True)
    client: VendorClient | None = None
    calls = CallCounter()
    try:
        with context.warehouse.connection() as conn:
            stored = load_account(conn, context.vault, held.connection_id)
        client = context.open_client(context.source, stored.account, stored.credentials)
        calls.watch(client)
        account = _profiled(context, held, client, stored.account)
        _prepare_slices(context, held, account)
        if held.is_dry_run:
            return _dry_run(context, held, client)
        return _Extraction(context, held, client, account, calls).run()
    except psycopg.Error as broken:
        cause = failures.classify(broken)
        _give_up_or_retry(context, held, cause, calls.take())
        raise cause from broken
    except RunWaiting:
        raise
    except (RateLimited, QuotaExhausted) as limited:
        raise _put_back(context, held, limited, calls.take()) from None
    except PenstockError as cause:
        _give_up_or_retry(context, held, cause, calls.take())
        raise
    except Exception as defect:
        unknown = error("UNKNOWN", f"{type(defect).__name__}: {defect}")
        _give_up_or_retry(context, held, unknown, calls.take())
        raise
    finally:
        if client is not None:
            client.close()


class CallCounter:
    """HTTP calls that the run's row does not count yet."""

    def __init__(self) -> None:
        self._client: VendorClient | None = None
        self._taken = 0

    def watch(self, client: VendorClient) -> None:
        self._client = client

    def take(self) -> int:
        """The calls since the last time."""
        total = self._client.requests if self._client else 0
        fresh, self._taken = total - self._taken, total
        return fresh


def _give_up_or_retry(context: RunContext, held: HeldRun, cause: PenstockError, api_calls: int) -> None:
    """Ends the run FAILED unless trying the task again can help, the run is no longer ours or nobody can write."""
    if cause.code in ("LEASE_LOST", "DB_UNAVAILABLE"):
        return
    if isinstance(cause, RetryableError | InternalError) and not context.is_last_try:
        return
    fail_run(context, held, cause, task=TASK, api_calls=api_calls)


def _put_back(context: RunContext, held: HeldRun, cause: PenstockError, api_calls: int) -> RunWaiting:
    """Back into the queue until the vendor's reset, told as a delay: the database's clock decides when it is over."""
    now = context.now()
    delay = cause.resets_at - now if cause.resets_at else dt.timedelta(seconds=cause.retry_after or 60)
    delay = max(delay, dt.timedelta(seconds=1))
    parameters = held.key | {"delay": delay, "error": Jsonb(cause.as_json()), "api_calls": api_calls}
    with context.warehouse.connection() as conn:
        require_lease(conn.execute(SQL["put_back"], parameters).fetchone(), held)
    return RunWaiting(cause, now + delay)


def _profiled(context: RunContext, held: HeldRun, client: VendorClient, account: Account) -> Account:
    """The account with what the vendor says of it: its zone and currency are read, never guessed."""
    source = context.source
    bodies = [client.send(request) for request in source.profile_requests(account)]
    profile = source.profile(account, bodies)
    if profile.problem:
        raise error(profile.problem, f"account {account.account_id} ({profile.name}) cannot be read")
    _check_zone(profile)
    with context.warehouse.connection() as conn:
        _store_profile(conn, held, profile)
    return Account(
        connection_id=account.connection_id,
        shop_id=account.shop_id,
        account_id=account.account_id,
        name=profile.name,
        time_zone=profile.time_zone,
        currency=profile.currency,
        settings=account.settings,
        facts={**account.facts, **profile.facts},
    )


def _check_zone(profile: Profile) -> None:
    """Raises CONFIG_INVALID for a zone that this machine does not know: its days could not be cut."""
    try:
        ZoneInfo(profile.time_zone)
    except (LookupError, ValueError):
        raise error("CONFIG_INVALID", f"the vendor names an unknown time zone {profile.time_zone!r}") from None


def _store_profile(conn: psycopg.Connection[Any], held: HeldRun, profile: Profile) -> None:
    parameters = {
        "connection_id": held.connection_id,
        "name": profile.name,
        "time_zone": profile.time_zone,
        "currency": profile.currency,
        "facts": Jsonb(dict(profile.facts)),
        "shop_id": held.shop_id,
    }
    conn.execute(SQL["store_profile"], parameters)
    conn.execute(SQL["complete_shop"], parameters)


def _prepare_slices(context: RunContext, held: HeldRun, account: Account) -> None:
    """Plans the run the first time; later tries find its slices and open the failed ones again."""
    with context.warehouse.transaction() as conn:
        require_lease(conn.execute(SQL["lock_lease"], held.key).fetchone(), held)
        cursor = conn.cursor(row_factory=dict_row)
        known = cursor.execute(SQL["slices"], held.key).fetchall()
        if any(row["status"] in ("PENDING", "FAILED") for row in known):
            conn.execute(SQL["reopen_slices"], held.key)
            return
        if known and not _is_repeat(known):
            return
        conn.execute(SQL["remove_slices"], held.key)
        planned = _plan(cursor, context, held, account)
        _insert_slices(cursor, held, planned)


def _is_repeat(known: list[dict[str, Any]]) -> bool:
    """All slices are done, yet extract starts: either its task died before it could say so, which is minutes ago at
    most, or a person cleared a run that had succeeded and wants it read again."""
    last = max(row["updated_at"] for row in known)
    return bool(dt.datetime.now(dt.UTC) - last > LEASE * 2)


def _plan(cursor: psycopg.Cursor[dict[str, Any]], context: RunContext, held: HeldRun, account: Account) -> Plan:
    cursors = {
        row["stream"]: row["cursor_at"]
        for row in cursor.execute(SQL["stream_cursors"], {"connection_id": held.connection_id})
    }
    if not cursors:
        cursors = _cursors_of_old_worker(cursor, context.source, account, held)
    wish = Wish(
        job_type=held.job_type,
        window_start=held.window_start,
        window_end=held.window_end,
        streams=held.streams,
        cursors=cursors,
    )
    return plan(context.source, account, wish, context.now())


def _cursors_of_old_worker(
    cursor: psycopg.Cursor[dict[str, Any]], source: Source, account: Account, held: HeldRun
) -> dict[str, dt.datetime]:
    """The old worker's one cursor per shop and platform stands for every stream until ours exist.

    It wrote the wall clock of its last success, so the day it names is not complete: we start with that day.
    """
    row = cursor.execute(SQL["old_cursor"], {"shop_id": held.shop_id, "platform": held.platform}).fetchone()
    if row is None:
        return {}
    try:
        day = dt.date.fromisoformat(row["cursor_value"][:10])
    except ValueError:
        log.warning("sync_cursors.cursor_value %r is no day; reading the default window", row["cursor_value"])
        return {}
    return {stream.name: windows.midnight(day, account.zone) for stream in source.streams}


def _insert_slices(cursor: psycopg.Cursor[dict[str, Any]], held: HeldRun, planned: Plan) -> None:
    for warning in planned.warnings:
        log.warning("%s", warning)
    cursor.executemany(SQL["add_slice"], [slice_row(held, each, None) for each in planned.slices])


def slice_row(held: HeldRun, each: Slice, parent_slice_no: int | None) -> dict[str, Any]:
    return {
        "run_id": held.lease.row_id,
        "slice_no": each.slice_no,
        "parent_slice_no": parent_slice_no,
        "stream": each.stream,
        "params": Jsonb(dict(each.params)),
        "window_start": each.start,
        "window_end": each.end,
        "page_size": each.page_size,
    }


def _dry_run(context: RunContext, held: HeldRun, client: VendorClient) -> dict[str, Any]:
    """What the run would read; nothing is asked of the vendor beyond the account itself, nothing is written."""
    with context.warehouse.connection() as conn:
        rows = conn.cursor(row_factory=dict_row).execute(SQL["slices"], held.key).fetchall()
    for row in rows:
        log.info(
            "would read %s %s [%s, %s)", row["stream"], row["params"] or "", row["window_start"], row["window_end"]
        )
    return {"run_id": held.lease.row_id, "slices": len(rows), "requests": client.requests, "is_dry_run": True}


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


OUR_OWN_BRAKES = ("RATE_LIMIT_WAIT_TOO_LONG", "CIRCUIT_OPEN")


def _most_telling(
    first: PenstockError, running: Mapping[concurrent.futures.Future[None], Mapping[str, Any]]
) -> PenstockError:
    """The vendor's own refusal, where the first error to arrive was only a brake that it made us pull."""
    if first.code not in OUR_OWN_BRAKES:
        return first
    concurrent.futures.wait(running)
    causes = [future.exception() for future in running]
    told = [each for each in causes if isinstance(each, RetryableError) and each.code not in OUR_OWN_BRAKES]
    return told[0] if told else first


class _Extraction:
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
        while True:
            rows = [row for row in self._slices() if row["status"] == "PENDING"]
            if not rows:
                break
            # Splitting a slice leaves new pending ones behind: look again until none is left.
            failures_by_slice = self._work(rows)
            if failures_by_slice:
                self._settle(failures_by_slice)
                break
        rows = self._slices()
        self._refresh_statistics(rows)
        self._renew()
        log.info("read %s rows in %s requests", sum(row["rows_read"] for row in rows), self._client.requests)
        return {
            "run_id": self._held.lease.row_id,
            "slices": len(rows),
            "slices_failed": sum(row["status"] == "FAILED" for row in rows),
            "rows_read": sum(row["rows_read"] for row in rows),
            "rows_written": sum(row["rows_written"] for row in rows),
            "rows_rejected": sum(row["rows_rejected"] for row in rows),
            "requests": self._client.requests,
        }

    def _refresh_statistics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Tells the planner of freshly filled tables. The transform starts at once, long before autovacuum looks, and
        a plan for an empty table takes hours on a full one."""
        source = self._context.source
        written: Counter[str] = Counter()
        for row in rows:
            written[f"{source.name}_{source.stream(row['stream']).table}"] += row["rows_written"]
        with self._context.warehouse.connection() as conn:
            for table, count in written.items():
                if count >= STATISTICS_ROWS:
                    conn.execute(sql.SQL("analyze staging_ingest.{}").format(sql.Identifier(table)))

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
        outcomes = {running[future]["slice_no"]: self._outcome(future) for future in done}
        for future in done:
            del running[future]
        return {slice_no: cause for slice_no, cause in outcomes.items() if cause is not None}

    @staticmethod
    def _outcome(future: concurrent.futures.Future[None]) -> PenstockError | None:
        """The error that only this slice failed with; raises those that stop the run."""
        try:
            future.result()
        except (AuthError, RateLimited, QuotaExhausted, InternalError):
            raise
        except PenstockError as cause:
            return cause
        except Stopped:
            return None
        return None

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
                cause.service, cause.task = SERVICE, TASK
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

    def _renew(self) -> None:
        parameters = self._held.key | {"lease": LEASE, "api_calls": self._calls.take()}
        with self._context.warehouse.connection() as conn:
            require_lease(conn.execute(SQL["renew_lease"], parameters).fetchone(), self._held)
