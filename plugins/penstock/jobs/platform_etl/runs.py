"""The run queue: who asks for a run, who claims it, how it is closed."""

from __future__ import annotations

import datetime as dt
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from penstock import sources
from penstock.core.errors import error
from penstock.core.lease import CLAIM_LEASE, MAX_ATTEMPTS, RESERVATION
from penstock.jobs.platform_etl.context import (
    SERVICE,
    SQL,
    RunContext,
    RunNotComplete,
    is_accounts_sync,
    mark_account_failed,
)
from penstock.jobs.platform_etl.planning import check_streams
from penstock.sources.stream import Source
from penstock.warehouse.session import Warehouse

log = logging.getLogger(__name__)

UNLEASED_AFTER = dt.timedelta(minutes=30)
"""A row in progress without any lease is an old worker's: its longest run took less."""

TIMETABLE = "schedule"
"""`requested_by` of the daily runs."""

HISTORIES_AT_ONCE = 4
"""Lanes of the queue that may read two years each, for hours: half of its pool and of its DAG runs, so that what
somebody has just asked for finds room."""


def enqueue_scheduled(
    warehouse: Warehouse,
    source: str,
    *,
    window_start: dt.date | None,
    window_end: dt.date | None,
    job_type: str,
    accounts: Sequence[str] | None,
    streams: Sequence[str] | None,
    is_dry_run: bool,
    requested_by: str,
    dag_id: str,
    dag_run_id: str,
) -> list[str]:
    """One run per active account of the source; an account already in flight keeps its run. Returns the run ids.

    Parameters
    ----------
    window_start, window_end: half-open days; None leaves the window to the account's cursors.
    accounts: vendor ids or connection ids; None for all. Raises CONFIG_NO_ACCOUNT when one of them is unknown.
    streams: names of the source's streams; None for its default ones. Raises CONFIG_INVALID for an unknown name.

    Raises ACCOUNT_IN_FLIGHT when an account is being read already, but less of it than is wished; the timetable passes
    over it.
    Called again by the same DAG run (a retry), it returns the runs that it wrote before.
    """
    registered = sources.by_name(source)
    check_streams(registered, streams)
    origin = {"dag_id": dag_id, "dag_run_id": dag_run_id}
    with warehouse.transaction() as conn:
        cursor = conn.cursor(row_factory=dict_row)
        found = _active_accounts(cursor, registered, shop_id=None, accounts=accounts)
        mine = cursor.execute(SQL["enqueued_by"], origin | {"platform": registered.platform}).fetchall()
        run_of = {row["connection_id"]: row["run_id"] for row in mine}
        wish = {
            "job_type": job_type,
            "window_start": window_start,
            "window_end": window_end,
            "streams": list(streams) if streams else None,
            "is_dry_run": is_dry_run,
        }
        new = [account for account in found if account["connection_id"] not in run_of]
        if held_up := _held_up(cursor, new, wish):
            _refuse_to_join(held_up, source, requested_by)
        for account in new:
            if account in held_up:
                continue
            run_of[account["connection_id"]] = _enqueue(
                cursor, account, registered.platform, wish | origin | {"requested_by": requested_by}
            )
    return list(run_of.values())


def enqueue_due(warehouse: Warehouse, *, dag_id: str, dag_run_id: str) -> list[str]:
    """A run for every account whose `sync_frequency` is due and which has none in flight. Returns the run ids."""
    parameters = {
        "reserved_for": RESERVATION,
        "platforms": _platforms(),
        "dag_id": dag_id,
        "dag_run_id": dag_run_id,
    }
    with warehouse.transaction() as conn:
        return [row[0] for row in conn.execute(SQL["enqueue_due"], parameters)]


def claim(
    warehouse: Warehouse,
    *,
    source: str | None,
    dag_id: str,
    dag_run_id: str,
    limit: int,
    run_ids: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """Claims runs for the mapped lanes of one DAG run.

    Parameters
    ----------
    source: None claims any source's runs, and turns rows without an account into one run per account first.
    run_ids: the runs that this DAG run enqueued; with a `source`, only these are claimed.
    limit: at most so many; the next sweep takes the rest, and the histories beyond HISTORIES_AT_ONCE.

    Returns run_id, source, account_id, account_name, job_type, holder and label per claimed run. Runs whose lease
    has expired are claimed like waiting ones; a run that has used up its attempts, or whose account is read no more,
    fails here.
    """
    platforms = _platforms() if source is None else [sources.by_name(source).platform]
    with warehouse.transaction() as conn:
        cursor = conn.cursor(row_factory=dict_row)
        members: list[str] = []
        if source is None:
            _refuse_unsupported(cursor)
            members = _expand_parents(cursor, dag_id, dag_run_id)
        _end_switched_off(cursor)
        _fail_exhausted(cursor)
        parameters = {
            "platforms": platforms,
            "only_reserved": source is not None,
            "run_ids": [*(run_ids or []), *members],
            "limit": limit,
            "lease": CLAIM_LEASE,
            "holder": f"{dag_id}/{dag_run_id}",
            "dag_id": dag_id,
            "dag_run_id": dag_run_id,
            "unleased_after": UNLEASED_AFTER,
        }
        if source is None:
            claimed = _claim_from_queue(cursor, parameters)
        else:
            claimed = cursor.execute(SQL["claim_runs"], parameters | {"histories": [True, False]}).fetchall()
        cursor.execute(SQL["close_parents"])
    return [_lane(row) for row in claimed]


def _claim_from_queue(cursor: psycopg.Cursor[dict[str, Any]], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Any source's runs, but only so many histories that they cannot fill the queue."""
    claimed = cursor.execute(SQL["claim_runs"], {**parameters, "histories": [False]}).fetchall()
    # Two sweeps at the same moment may let one or two more in.
    under_way = cursor.execute(SQL["histories_under_way"], {"holder": parameters["holder"]}).fetchone()
    room = HISTORIES_AT_ONCE - (under_way["lanes"] if under_way else 0)
    limit = max(0, min(room, parameters["limit"] - len(claimed)))
    return claimed + cursor.execute(SQL["claim_runs"], {**parameters, "histories": [True], "limit": limit}).fetchall()


def finish(context: RunContext) -> dict[str, Any]:
    """Closes the run and says how it ended.

    A run that is still in progress here has lost its worker on every try, unless somebody has begun it again since
    this process worked on it. Raises RunNotComplete when it ended FAILED or PARTIAL, so that the lane is red.
    """
    with context.warehouse.transaction() as conn:
        cursor = conn.cursor(row_factory=dict_row)
        row = _status_row(cursor, context)
        is_orphan = (
            row["status"] == "IN_PROGRESS"
            and row["leased_by"] == context.run["holder"]
            and context.epoch in (None, row["lease_epoch"])
        )
        if is_orphan:
            _close_orphan(cursor, context, row)
            row = _status_row(cursor, context)
        cursor.execute(SQL["close_parents"])
    if row["status"] in ("FAILED", "PARTIAL"):
        raise RunNotComplete(row["status"], row["error"], is_reported=row["status"] == "FAILED" and not is_orphan)
    counts = ("records_synced", "records_staged", "records_rejected", "api_calls")
    return {"status": row["status"], **{name: int(row[name] or 0) for name in counts}}


def _status_row(cursor: psycopg.Cursor[dict[str, Any]], context: RunContext) -> dict[str, Any]:
    row = cursor.execute(SQL["run_status"], {"run_id": context.run_id}).fetchone()
    if row is None:
        raise error("CONFIG_INVALID", f"core_warehouse.etl_runs has no row {context.run_id}", service=SERVICE)
    return row


def _close_orphan(cursor: psycopg.Cursor[dict[str, Any]], context: RunContext, row: Mapping[str, Any]) -> None:
    lost = error("ATTEMPTS_EXHAUSTED", f"the worker of run {context.run_id} died on every try", service=SERVICE)
    lost.task = "finish"
    parameters = {"run_id": context.run_id, "epoch": row["lease_epoch"], "error": Jsonb(lost.as_json())}
    is_closed = cursor.execute(SQL["close_orphan"], parameters).rowcount == 1
    if is_closed and is_accounts_sync(row["job_type"], row["is_dry_run"]):
        mark_account_failed(context.rng, cursor.connection, row["connection_id"], lost.code, None)


def _lane(row: Mapping[str, Any]) -> dict[str, Any]:
    source = sources.by_platform(row["platform"])
    name = row["account_name"] or row["account_id"]
    return {
        "run_id": row["run_id"],
        "source": source.name,
        "account_id": row["account_id"],
        "account_name": row["account_name"],
        "job_type": row["job_type"],
        "holder": row["holder"],
        "label": f"{source.name} {name} ({row['account_id']}) {row['job_type'].lower()}",
    }


def _platforms() -> list[str]:
    return [source.platform for source in sources.REGISTRY]


def _active_accounts(
    cursor: psycopg.Cursor[dict[str, Any]], source: Source, *, shop_id: str | None, accounts: Sequence[str] | None
) -> list[dict[str, Any]]:
    parameters = {
        "platform": source.platform,
        "shop_id": shop_id,
        "accounts": list(accounts) if accounts else None,
    }
    found = cursor.execute(SQL["active_accounts"], parameters).fetchall()
    named = {row["account_id"] for row in found} | {row["connection_id"] for row in found}
    unknown = sorted(set(accounts or ()) - named)
    if unknown:
        raise error(
            "CONFIG_NO_ACCOUNT",
            f"no active account {', '.join(unknown)} of {source.name} in platform_connections",
            service=SERVICE,
        )
    return found


def _enqueue(
    cursor: psycopg.Cursor[dict[str, Any]],
    account: Mapping[str, Any],
    platform: str,
    wish: Mapping[str, Any],
) -> str:
    """The id of the account's new run, or of the one that it has in flight."""
    parameters = {
        **wish,
        "shop_id": account["shop_id"],
        "connection_id": account["connection_id"],
        "platform": platform,
        "reserved_for": RESERVATION,
    }
    row = cursor.execute(SQL["enqueue_run"], parameters).fetchone()
    if row is None:
        row = cursor.execute(SQL["run_in_flight"], {"connection_id": account["connection_id"]}).fetchone()
    if row is None:
        # The run in flight ended between the two statements: now there is room.
        row = cursor.execute(SQL["enqueue_run"], parameters).fetchone()
    if row is None:
        raise error("DB_WRITE_ERROR", f"no run could be written for account {account['account_id']}", service=SERVICE)
    return str(row["run_id"])


def _refuse_unsupported(cursor: psycopg.Cursor[dict[str, Any]]) -> None:
    refusal = error(
        "SOURCE_NOT_SUPPORTED", f"the sources of this deployment are {', '.join(_platforms())}", service=SERVICE
    )
    refusal.task = "claim_runs"
    cursor.execute(SQL["refuse_unsupported"], {"platforms": _platforms(), "error": Jsonb(refusal.as_json())})


def _expand_parents(cursor: psycopg.Cursor[dict[str, Any]], dag_id: str, dag_run_id: str) -> list[str]:
    """Turns each row without an account into one run per active account of its shop and platform."""
    members: list[str] = []
    parameters = {"platforms": _platforms(), "unleased_after": UNLEASED_AFTER}
    for parent in cursor.execute(SQL["lock_parents"], parameters).fetchall():
        source = sources.by_platform(parent["platform"])
        found = _active_accounts(cursor, source, shop_id=parent["shop_id"], accounts=None)
        if not found:
            _fail_parent(cursor, parent, source)
            continue
        wish = {name: parent[name] for name in ("job_type", "window_start", "window_end", "streams", "is_dry_run")}
        if _held_up(cursor, found, wish):
            continue
        origin = {"requested_by": "dashboard", "dag_id": dag_id, "dag_run_id": dag_run_id}
        for account in found:
            run_id = _enqueue(cursor, account, source.platform, wish | origin)
            cursor.execute(SQL["add_member"], {"parent_run_id": parent["run_id"], "run_id": run_id})
            members.append(run_id)
        cursor.execute(SQL["start_parent"], {"run_id": parent["run_id"]})
    return members


def _held_up(
    cursor: psycopg.Cursor[dict[str, Any]], found: Sequence[Mapping[str, Any]], wish: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """The accounts that are being read already, but less of them than is wished. A backfill waits for nobody."""
    if wish["job_type"] == "BACKFILL":
        return []
    connections = [account["connection_id"] for account in found]
    rows = cursor.execute(SQL["read_less_now"], {"connections": connections, **wish}).fetchall()
    busy = {row["connection_id"] for row in rows}
    return [account for account in found if account["connection_id"] in busy]


def _refuse_to_join(held_up: Sequence[Mapping[str, Any]], source: str, requested_by: str) -> None:
    """Raises ACCOUNT_IN_FLIGHT, unless it is the timetable that asks: it must not hold up the other accounts, and what
    is due of these is enqueued once they are free."""
    names = ", ".join(account["account_id"] for account in held_up)
    message = f"{source} {names}: a run in flight reads less than is asked for"
    if requested_by != TIMETABLE:
        raise error("ACCOUNT_IN_FLIGHT", message, service=SERVICE)
    log.warning("%s; platform_etl_queue reads the rest when it has ended", message)


def _fail_parent(cursor: psycopg.Cursor[dict[str, Any]], parent: Mapping[str, Any], source: Source) -> None:
    missing = error(
        "CONFIG_NO_ACCOUNT", f"shop {parent['shop_id']} has no active {source.platform} account", service=SERVICE
    )
    missing.task = "claim_runs"
    cursor.execute(SQL["fail_parent"], {"run_id": parent["run_id"], "error": Jsonb(missing.as_json())})


def _end_switched_off(cursor: psycopg.Cursor[dict[str, Any]]) -> None:
    missing = error("CONFIG_NO_ACCOUNT", "the run's account is switched off, paused or gone", service=SERVICE)
    missing.task = "claim_runs"
    parameters = {"unleased_after": UNLEASED_AFTER, "error": Jsonb(missing.as_json())}
    for row in cursor.execute(SQL["end_switched_off"], parameters).fetchall():
        log.warning("run %s: %s", row["run_id"], missing)


def _fail_exhausted(cursor: psycopg.Cursor[dict[str, Any]]) -> None:
    lost = error("ATTEMPTS_EXHAUSTED", f"{MAX_ATTEMPTS} workers died on this run", service=SERVICE)
    lost.task = "claim_runs"
    parameters = {
        "max_attempts": MAX_ATTEMPTS,
        "unleased_after": UNLEASED_AFTER,
        "error": Jsonb(lost.as_json()),
    }
    for row in cursor.execute(SQL["fail_exhausted"], parameters).fetchall():
        log.error("run %s: %s", row["run_id"], lost)
        if is_accounts_sync(row["job_type"], row["is_dry_run"]):
            mark_account_failed(random.SystemRandom(), cursor.connection, row["connection_id"], lost.code, None)
