"""The nightly refresh of priorities, and apps that were given up."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.jobs.app_sync.context import SQL
from penstock.warehouse.session import Warehouse

log = logging.getLogger(__name__)

REFRESH_EVERY = dt.timedelta(hours=23)
"""A little less than a day, so that the hour of the refresh does not wander."""
REFRESH_BATCH = 1000
"""Apps per transaction: writers of single apps wait no longer than for these."""


@dataclass(frozen=True, slots=True)
class DisabledApp:
    """An app that failed too often."""

    appid: int
    name: str
    source: str | None
    message: str | None
    errors: int


def refresh_priorities(warehouse: Warehouse, *, is_forced: bool = False) -> int:
    """Score every app anew; returns how many. Without force only when the oldest one is a day old."""
    with warehouse.connection() as conn:
        row = conn.execute(SQL["is_refresh_due"], {"every": REFRESH_EVERY}).fetchone()
    if not is_forced and not (row and row[0]):
        return 0
    done = 0
    after: int | None = -1
    while after is not None:
        with warehouse.transaction() as conn:
            row = conn.execute(SQL["refresh_priorities"], {"after": after, "batch": REFRESH_BATCH}).fetchone()
        refreshed, after = row if row else (0, None)
        done += int(refreshed)
    log.info("priorities of %d apps refreshed", done)
    return done


def report_disabled(warehouse: Warehouse, tell: Callable[[Sequence[DisabledApp]], None]) -> int:
    """Hand apps that were given up and not told of yet to `tell`, then mark them; returns how many.

    Told first and marked afterwards: a crash in between repeats the message, it never swallows it. One worker at a
    time tells; it locks no app meanwhile.
    """
    with warehouse.transaction() as conn:
        row = conn.execute(SQL["try_to_report"]).fetchone()
        if not (row and row[0]):
            return 0
        found = [DisabledApp(*each) for each in conn.execute(SQL["unreported_disabled"])]
        if found:
            tell(found)
            conn.execute(SQL["mark_disabled_reported"], {"appids": [app.appid for app in found]})
    return len(found)
