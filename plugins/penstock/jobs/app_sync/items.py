"""Items under a lease: claimed, renewed, and acknowledged together with what they brought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from penstock.core.errors import PenstockError, error
from penstock.jobs.app_sync.context import GIVE_UP_AFTER, SERVICE, SQL, Counts, Item, Kind, Outcome, SyncContext
from penstock.warehouse.queries import transform
from penstock.warehouse.session import Connection

MESSAGE_LIMIT = 500


CLAIMS = 10
"""Claims in a row that may all lose their race before a worker takes the queue for empty."""


def claim(context: SyncContext, limit: int) -> list[Item]:
    """At most `limit` due items in the order of the queue. No other worker holds one of them.

    A claim that picked what another one took in the same instant comes back empty though the queue is not.
    """
    for _ in range(CLAIMS):
        items = _claim_once(context, limit)
        if items or not _is_any_due(context):
            return items
    return []


def _is_any_due(context: SyncContext) -> bool:
    with context.warehouse.connection() as conn:
        return conn.execute(SQL["due"], {"source": context.source.name, "limit": 1}).fetchone() is not None


def _claim_once(context: SyncContext, limit: int) -> list[Item]:
    parameters = {
        "source": context.source.name,
        "limit": limit,
        "lease": context.lease,
        "holder": context.holder,
    }
    with context.warehouse.transaction() as conn:
        return [Item(appid, epoch) for appid, epoch in conn.execute(SQL["claim"], parameters)]


def renew(context: SyncContext, items: Sequence[Item]) -> None:
    """Hold the items for another lease; those that were taken over stay with their new holder."""
    with context.warehouse.transaction() as conn:
        conn.execute(SQL["renew"], {**_keys(context, items), "lease": context.lease})


def acknowledge(conn: Connection, context: SyncContext, outcomes: Sequence[Outcome], counts: Counts) -> None:
    """Store the records and write every item's outcome; `counts` grows by what was really written.

    To be called inside a transaction. An item that another worker has taken over meanwhile is left to it. A record
    that the database refuses becomes a failure of its item alone.
    """
    items = [outcome.item for outcome in outcomes]
    conn.execute(SQL["lock_apps"], {"appids": [item.appid for item in items]})
    held = {row[0] for row in conn.execute(SQL["held"], _keys(context, items))}
    mine = [outcome for outcome in outcomes if outcome.item.appid in held]
    counts.lost += len(outcomes) - len(mine)
    stored = _store(conn, context, [outcome for outcome in mine if outcome.kind is Kind.SYNCED])
    final = [stored.judged(outcome) for outcome in mine]
    conn.execute(
        SQL["acknowledge"],
        {
            "source": context.source.name,
            "appids": [outcome.item.appid for outcome in final],
            "outcomes": [str(outcome.kind) for outcome in final],
            "error_codes": [outcome.error.code if outcome.error else None for outcome in final],
            "error_messages": [str(outcome.error)[:MESSAGE_LIMIT] if outcome.error else None for outcome in final],
            "give_up_after": GIVE_UP_AFTER,
        },
    )
    _count(counts, final, stored.created)


@dataclass(slots=True)
class _Stored:
    """created: apps that were stored for the first time. refused: what the database did not take, and why."""

    created: set[int] = field(default_factory=set)
    refused: dict[int, PenstockError] = field(default_factory=dict)

    def judged(self, outcome: Outcome) -> Outcome:
        refusal = self.refused.get(outcome.item.appid)
        return replace(outcome, kind=Kind.FAILED, error=refusal) if refusal else outcome


def _store(conn: Connection, context: SyncContext, synced: Sequence[Outcome]) -> _Stored:
    if not synced:
        return _Stored()
    records = [{**(outcome.record or {}), "appid": outcome.item.appid} for outcome in synced]
    return _store_records(conn, transform("apps", context.source.name), records)


def _store_records(conn: Connection, statement: str, records: list[dict[str, Any]]) -> _Stored:
    """All in one statement; when the database refuses one of them, by halves until it stands alone."""
    try:
        with conn.transaction():
            rows = conn.execute(statement, {"records": Jsonb(records)}).fetchall()
    except (psycopg.DataError, psycopg.IntegrityError) as refusal:
        if len(records) == 1:
            message = f"app {records[0]['appid']}: {refusal.diag.message_primary or refusal}"
            return _Stored(refused={records[0]["appid"]: error("SCHEMA_MISMATCH", message, service=SERVICE)})
        middle = len(records) // 2
        first = _store_records(conn, statement, records[:middle])
        second = _store_records(conn, statement, records[middle:])
        return _Stored(first.created | second.created, first.refused | second.refused)
    return _Stored(created={appid for appid, is_created in rows if is_created})


def _count(counts: Counts, outcomes: Sequence[Outcome], created: set[int]) -> None:
    kinds = [outcome.kind for outcome in outcomes]
    succeeded = kinds.count(Kind.SYNCED)
    counts.succeeded += succeeded
    counts.skipped += kinds.count(Kind.SKIPPED)
    counts.failed += kinds.count(Kind.FAILED)
    counts.released += kinds.count(Kind.RELEASED)
    counts.processed = counts.succeeded + counts.skipped + counts.failed
    counts.created += len(created)
    counts.updated += succeeded - len(created)


def _keys(context: SyncContext, items: Sequence[Item]) -> dict[str, Any]:
    return {
        "source": context.source.name,
        "appids": [item.appid for item in items],
        "epochs": [item.epoch for item in items],
    }
