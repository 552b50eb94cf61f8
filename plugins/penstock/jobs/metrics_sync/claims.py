"""Which connections are read now, and by whom."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from psycopg.rows import dict_row

from penstock.core.errors import error
from penstock.core.lease import CLAIM_LEASE
from penstock.jobs.metrics_sync.context import SERVICE, SQL, utc_now
from penstock.sources.ad_metrics import PLATFORMS, SYNC_DAYS
from penstock.warehouse.session import Warehouse

STALE_AFTER = dt.timedelta(hours=1)
"""A log in progress for so long, without anybody who holds its connection, is left over from a dead worker."""

DIED = "ATTEMPTS_EXHAUSTED: the worker of this sync ended without a word"


def claim(
    warehouse: Warehouse,
    *,
    holder: str,
    limit: int,
    connections: Sequence[str] | None = None,
    now: Callable[[], dt.datetime] = utc_now,
) -> list[dict[str, Any]]:
    """Claims the connections that are due, those that waited longest first, and closes the logs of dead workers.

    Parameters
    ----------
    holder: the DAG run; asked again by the same one, it returns what it claimed before.
    limit: at most so many; the next DAG run takes the rest, so that a backlog never reads all at once.
    connections: the vendors' account ids or ids of rows, due or not; None for those that are due. Raises
        CONFIG_NO_ACCOUNT when one of them is unknown.

    Returns connection_id, platform, account_id, account_name, holder and label per claimed connection.
    """
    platforms = [each.source.platform for each in PLATFORMS]
    named = [plain_id(each) for each in connections] if connections else None
    with warehouse.transaction() as conn:
        cursor = conn.cursor(row_factory=dict_row)
        if named:
            rows = cursor.execute(SQL["known_connections"], {"platforms": platforms, "connections": named}).fetchall()
            _refuse_unknown(named, rows)
        cursor.execute(SQL["close_stale_logs"], {"age": STALE_AFTER, "message": DIED})
        parameters = {
            "platforms": platforms,
            "holder": holder,
            "connections": named,
            "limit": limit,
            "lease": CLAIM_LEASE,
            "first_day": _first_day(now()),
        }
        claimed = cursor.execute(SQL["claim_connections"], parameters).fetchall()
    return [{**row, "label": _label(row)} for row in claimed]


def _first_day(now: dt.datetime) -> dt.date:
    """From here on a sync reads again in every account's zone: its today is at most one day ahead of that in UTC."""
    return now.astimezone(dt.UTC).date() - dt.timedelta(days=SYNC_DAYS - 2)


def plain_id(name: str) -> str:
    """An account id without `act_` and dashes; the id of a row stays as it is."""
    is_row_id = name.count("-") == 4
    return name if is_row_id else name.removeprefix("act_").replace("-", "")


def _refuse_unknown(named: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    known = {row["connection_id"] for row in rows} | {row["account_id"] for row in rows}
    unknown = sorted(set(named) - known)
    if unknown:
        raise error(
            "CONFIG_NO_ACCOUNT", f"platform_connections has no connection {', '.join(unknown)}", service=SERVICE
        )


def _label(row: dict[str, Any]) -> str:
    return " ".join(filter(None, (row["platform"].lower(), row["account_name"], f"({row['account_id']})")))
