"""Where the streams of an account stand: our own cursors, and the old worker's for streams that have none yet."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

import psycopg
from psycopg.rows import dict_row

from penstock.core import windows
from penstock.jobs.platform_etl.context import SQL, HeldRun
from penstock.sources.stream import Account, Source

log = logging.getLogger(__name__)


def cursors_of(
    conn: psycopg.Connection[Any], source: Source, account: Account, held: HeldRun
) -> dict[str, dt.datetime]:
    """Stream -> the instant before which it is loaded; a stream that was never loaded is absent."""
    parameters = {"connection_id": held.connection_id}
    own = dict(conn.execute(SQL["stream_cursors"], parameters).fetchall())
    return _of_old_worker(conn, source, account, held) | own


def _of_old_worker(
    conn: psycopg.Connection[Any], source: Source, account: Account, held: HeldRun
) -> dict[str, dt.datetime]:
    """The old worker's one cursor per shop and platform stands for every stream until ours exist.

    It wrote the wall clock of its last success, so the day it names is not complete: we start with that day.
    """
    parameters = {"shop_id": held.shop_id, "platform": held.platform}
    row = conn.cursor(row_factory=dict_row).execute(SQL["old_cursor"], parameters).fetchone()
    if row is None:
        return {}
    try:
        day = dt.date.fromisoformat(row["cursor_value"][:10])
    except ValueError:
        log.warning("sync_cursors.cursor_value %r is no day; reading the default window", row["cursor_value"])
        return {}
    return {stream.name: windows.midnight(day, account.zone) for stream in source.streams}
