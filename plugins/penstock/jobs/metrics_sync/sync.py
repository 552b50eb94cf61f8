"""One connection's sync: its pages are kept as they come, and carried over in one transaction once all are there."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg.rows import dict_row

from penstock.core import windows
from penstock.core.errors import (
    InternalError,
    PenstockError,
    QuotaExhausted,
    RateLimited,
    RetryableError,
    TooMuchData,
    UnreadableRecord,
    error,
)
from penstock.core.lease import LEASE
from penstock.jobs.accounts import load_account
from penstock.jobs.metrics_sync.context import (
    SQL,
    HeldSync,
    SyncContext,
    VendorClient,
    begin,
    end_log,
    fail,
    release,
    require_lease,
    wait,
)
from penstock.sources.fields import excerpt, find
from penstock.sources.stream import Account, Record, Slice
from penstock.warehouse import failures
from penstock.warehouse.loader import read_record

log = logging.getLogger(__name__)


def sync_connection(context: SyncContext) -> dict[str, Any]:
    """Reads the connection's last days and brings the metrics of its requests up to date. Returns counts.

    Raises SyncWaiting when a quota put it off, SyncFailed when it failed for good, the error itself when the task
    should be tried again, LEASE_LOST when another worker has the connection.
    """
    held = begin(context)
    reader = _Reader(context, held)
    try:
        return reader.run()
    except psycopg.Error as broken:
        cause = failures.classify(broken)
        raise _ended(context, held, cause, reader.requests) from broken
    except (RateLimited, QuotaExhausted) as limited:
        raise wait(context, held, limited, requests=reader.requests) from None
    except PenstockError as cause:
        raise _ended(context, held, cause, reader.requests) from cause
    except Exception as defect:
        fail(context, held, error("UNKNOWN", f"{type(defect).__name__}: {defect}"), requests=reader.requests)
        raise
    finally:
        reader.close()


def _ended(context: SyncContext, held: HeldSync, cause: PenstockError, requests: int) -> Exception:
    """What to raise: the error while trying again can help or nobody may write, else the end of the sync."""
    if cause.code in ("LEASE_LOST", "DB_UNAVAILABLE"):
        return cause
    if isinstance(cause, RetryableError | InternalError) and not context.is_last_try:
        return cause
    return fail(context, held, cause, requests=requests)


class _Reader:
    """The way of one sync: account -> pages -> ad days -> metrics."""

    def __init__(self, context: SyncContext, held: HeldSync) -> None:
        self._context = context
        self._held = held
        self._platform = context.platform
        self._client: VendorClient | None = None
        self._pages = 0
        self._problems: list[str] = []

    @property
    def requests(self) -> int:
        return self._client.requests if self._client else 0

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def run(self) -> dict[str, Any]:
        with self._context.warehouse.connection() as conn:
            stored = load_account(conn, self._context.vault, self._held.connection_id)
        self._client = self._context.open_client(self._platform.source, stored.account, stored.credentials)
        account = self._profiled(self._client, stored.account)
        days = self._days(account)
        self._read(self._client, account, days)
        counts = self._carry_over(account, days)
        log.info("%s", counts)
        return counts

    def _profiled(self, client: VendorClient, account: Account) -> Account:
        """The account with the zone and currency that the vendor names: they are read, never guessed."""
        source = self._platform.source
        profile = source.profile(account, [client.send(each) for each in source.profile_requests(account)])
        if profile.problem:
            raise error(profile.problem, f"account {account.account_id} ({profile.name}) cannot be read")
        try:
            ZoneInfo(profile.time_zone)
        except (LookupError, ValueError):
            raise error("CONFIG_INVALID", f"the vendor names an unknown time zone {profile.time_zone!r}") from None
        if not self._context.is_dry_run:
            facts = {"name": profile.name, "time_zone": profile.time_zone, "currency": profile.currency}
            with self._context.warehouse.connection() as conn:
                conn.execute(SQL["store_profile"], facts | {"connection_id": self._held.connection_id})
        return replace(account, name=profile.name, time_zone=profile.time_zone, currency=profile.currency)

    def _days(self, account: Account) -> windows.DayRange:
        """The last days of the account's own calendar, today among them, as far back as the vendor has them."""
        today = account.today(self._context.now())
        kept = min(self._context.days, self._platform.stream.retention_days or self._context.days)
        return windows.DayRange(today - dt.timedelta(days=kept - 1), today)

    # -- pages

    def _read(self, client: VendorClient, account: Account, days: windows.DayRange) -> None:
        """Every page of the window; what is too much for the vendor is asked in smaller pages, then in fewer days."""
        stream = self._platform.stream
        whole = windows.day_window(days.first_day, days.last_day, account.zone)
        waiting = list(windows.cut(whole, stream.slice_days, account.zone))
        page_size = stream.page_size
        while waiting:
            window = waiting.pop(0)
            try:
                self._read_window(client, account, window, page_size)
            except TooMuchData:
                if page_size // 2 >= stream.min_page_size:
                    page_size //= 2
                    waiting.insert(0, window)
                    continue
                halves = windows.halve(window, account.zone)
                if halves is None:
                    raise
                waiting[:0] = halves

    def _read_window(self, client: VendorClient, account: Account, window: windows.Window, page_size: int) -> None:
        stream = self._platform.stream
        part = Slice(0, stream.name, window.start, window.end, page_size=page_size)
        token: str | None = None
        seen: set[str] = set()
        while True:
            request = stream.request(account, part, token)
            page = stream.parse(client.send(request), request)
            self._save(account, page.records)
            token = page.next_token
            if token is None:
                return
            if token in seen:
                raise error("RESPONSE_REPEATED_CURSOR", f"{stream.name}: the same page token came twice")
            seen.add(token)

    def _save(self, account: Account, records: Sequence[Record]) -> None:
        """Keeps a page and the lease, in one transaction."""
        rows: dict[str, tuple[Any, ...]] = {}
        for number, record in enumerate(records):
            rows.update([self._row(account, record, number)])
        self._pages += 1
        columns = list(zip(*rows.values(), strict=True)) if rows else [()] * 7
        names = ("ad_ids", "dates", "impressions", "clicks", "spends", "reaches", "problems")
        parameters = {name: list(values) for name, values in zip(names, columns, strict=True)}
        with self._context.warehouse.transaction() as conn:
            key = self._held.key | {"lease": LEASE}
            require_lease(conn.execute(SQL["renew_lease"], key).fetchone(), self._held)
            page = {"sync_id": self._held.sync_id, "record_keys": list(rows)}
            conn.execute(SQL["save_page"], self._held.key | page | parameters)

    def _row(self, account: Account, record: Record, number: int) -> tuple[str, tuple[Any, ...]]:
        """Key and columns of a record; of one that cannot be read, what it names of itself and why."""
        try:
            row = self._platform.stream.row(read_record(record), account)
            day = self._platform.measure(row)
            refuse_odd_id(day.ad_id)
        except UnreadableRecord as unreadable:
            self._problems.append(str(unreadable))
            return f"unreadable {self._pages} {number}", (*named_in(record), None, None, None, None, str(unreadable))
        return row.record_key, (day.ad_id, day.date, day.impressions, day.clicks, day.spend, day.reach, None)

    # -- carrying over

    def _carry_over(self, account: Account, days: windows.DayRange) -> dict[str, Any]:
        """Ad days, metrics, log and the connection's next time, all or nothing. A dry run takes it all back."""
        is_dry_run = self._context.is_dry_run
        with self._context.warehouse.transaction() as conn, conn.transaction(force_rollback=is_dry_run):
            require_lease(conn.execute(SQL["lock_lease"], self._held.key).fetchone(), self._held)
            counts = self._merge(conn, account, days)
            conn.execute(SQL["connection_synced"], {"connection_id": self._held.connection_id})
            conn.execute(SQL["forget_pages"], self._held.key)
            end_log(conn, self._held, "success", details=counts, message=None)
        if is_dry_run:
            release(self._context, self._held)
        return counts | {"is_dry_run": is_dry_run}

    def _merge(self, conn: psycopg.Connection[Any], account: Account, days: windows.DayRange) -> dict[str, Any]:
        parameters = self._held.key | {
            "sync_id": self._held.sync_id,
            "platform": self._platform.source.platform,
            "label": self._platform.label,
            "metadata_key": self._platform.metadata_key,
            "currency": account.currency,
            "first_day": days.first_day,
            "last_day": days.last_day,
        }
        cursor = conn.cursor(row_factory=dict_row)
        cursor.execute(SQL["lock_platform"], parameters)
        parameters |= cursor.execute(SQL["find_siblings"], parameters).fetchone() or {}
        ad_days = cursor.execute(SQL["merge_ad_days"], parameters).fetchone() or {}
        cursor.execute(SQL["find_members"], parameters)
        cursor.execute("analyze sync_members")
        cursor.execute(SQL["lock_requests"])
        cursor.execute(SQL["find_wanted"], parameters)
        cursor.execute("analyze sync_wanted")
        metrics = cursor.execute(SQL["merge_metrics"], parameters).fetchone() or {}
        counts = {
            **ad_days,
            **metrics,
            "first_day": days.first_day.isoformat(),
            "last_day": days.last_day.isoformat(),
            "pages": self._pages,
            "requests_sent": self.requests,
            "records_rejected": len(self._problems),
        }
        return {**counts, "rejected": self._problems[:10]} if self._problems else counts


def refuse_odd_id(ad_id: str) -> None:
    """Ids of ads are digits at every vendor."""
    if not (ad_id.isascii() and ad_id.isdigit()):
        raise error("WRONG_TYPE", f"an ad's id is a number, got {excerpt(ad_id)}")


def named_in(record: Any) -> tuple[str | None, dt.date | None]:
    """The ad and the day that a broken record names, as far as they can be read; they keep what was known of them."""
    ad_id = find(record, "ad_id") or find(record, "adGroupAd", "ad", "id")
    day = find(record, "date_start") or find(record, "segments", "date")
    is_clean = isinstance(ad_id, str | int) and "\x00" not in str(ad_id) and str(ad_id).isascii()
    try:
        date = dt.date.fromisoformat(str(day))
    except ValueError:
        date = None
    return (str(ad_id) if is_clean else None), date
