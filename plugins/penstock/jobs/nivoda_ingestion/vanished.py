"""Stage 5: stones that the vendor no longer lists. Deleted only on proof, and never many at once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from psycopg.types.json import Jsonb

from penstock.core.partitions import TOP, Span
from penstock.jobs.nivoda_ingestion.context import FULL, Ingestion, Nivoda, Run, load_run, log
from penstock.jobs.nivoda_ingestion.planning import query_of
from penstock.jobs.nivoda_ingestion.settings import COVERAGE, vendor_feed
from penstock.sources import nivoda
from penstock.sources.fields import find

AVAILABLE = "AVAILABLE"
NO_STONES = "the run found no stones at all"
COVERAGE_TRIES = 3
LOOK_UP_STONES = 500
"""Stones of one round of look-ups, so that what is known is kept when the next one fails."""


def reconcile_vanished(context: Ingestion, run_id: str) -> dict[str, Any]:
    """Mark as deleted what a complete full run did not see: missing in two such runs, or gone by a look-up.

    Returns what was found and done; `braked` when so many are missing that the feed itself must be doubted.
    """
    run = load_run(context, run_id)
    reason = _why_not(context, run)
    if reason:
        emptied = _emptied(context, run) if reason == NO_STONES else None
        return _noted(context, run, emptied or {"skipped": reason}, requests=0)
    with closing(context.open_client()) as client:
        found = _reconcile(context, run, client)
        return _noted(context, run, found, client.requests)


def _why_not(context: Ingestion, run: Run) -> str | None:
    """Why this run proves nothing about stones that it did not see."""
    if run.run_type != FULL:
        return "only a full run sees every stone"
    if not run.is_whole:
        return "the run read a price range only"
    partitions = context.rows("partitions_of", run_id=run.run_id)
    if not partitions:
        return NO_STONES
    if any(row["status"] != "COMPLETED" for row in partitions):
        return "some partitions failed or are incomplete"
    if any(row["nameless"] for row in partitions):
        return "some items told no id: they may be the missing stones"
    if run.coverage < COVERAGE:
        return f"the price filter finds only {run.coverage:.2%} of the stones"
    owed = context.one("debts", feed=run.feed)["owed"]
    return f"{owed} ranges of earlier runs are still owed" if owed else None


def _reconcile(context: Ingestion, run: Run, client: Nivoda) -> dict[str, Any]:
    counts = context.one("vanished_counts", feed=run.feed, started_at=run.started_at)
    active, candidates = counts["active"], counts["candidates"]
    found: dict[str, Any] = {"active": active, "candidates": candidates, "deleted": 0, "looked_up": 0}
    if not candidates:
        return found
    proofs = context.one("proofs", run_id=run.run_id)
    # Of a run that is retried or cleared later: whatever changed since, another run has seen.
    found["touched"] = 0 if proofs["is_read_since"] else _touched(run, client)
    if candidates - found["touched"] > _allowed(context, active):
        return _braked(context, run, found)
    finds_all = _finds_all(run, client)
    before = _missing_since(proofs, is_moving=found["touched"] > 0)
    if before is not None and finds_all:
        with context.warehouse.transaction() as connection:
            gone = context.one("delete_twice_missing", connection, feed=run.feed, before=before)
        found["deleted"] = gone["deleted"]
    return _look_up(context, run, client, found, are_seen=not finds_all)


def _emptied(context: Ingestion, run: Run) -> dict[str, Any] | None:
    """What the brake says of a feed of which nothing is listed any more; None when it never had many stones."""
    counts = context.one("vanished_counts", feed=run.feed, started_at=run.started_at)
    if counts["candidates"] <= _allowed(context, counts["active"]):
        return None
    return _braked(context, run, {**counts, "deleted": 0})


def _allowed(context: Ingestion, active: int) -> int:
    """How many of the active stones may be missing."""
    return max(context.settings.brake_minimum, int(context.settings.brake_share * active))


def _braked(context: Ingestion, run: Run, found: dict[str, Any]) -> dict[str, Any]:
    allowed = _allowed(context, found["active"])
    log.error(
        "%s: %d of %d stones are missing, %d may be: nothing is deleted",
        run.feed,
        found["candidates"],
        found["active"],
        allowed,
    )
    return {**found, "braked": True, "allowed": allowed}


def _touched(run: Run, client: Nivoda) -> int:
    """Stones that are listed and changed since the run began: they left its frozen list, so it did not see them."""
    base = nivoda.base_query(vendor_feed(run.feed), run.base_filter)
    return client.counts([nivoda.with_updated(base, run.updated_to, None)])[0]


def _missing_since(proofs: Mapping[str, Any], *, is_moving: bool) -> dt.datetime | None:
    """Whoever was not seen since then is gone; None: nobody can say.

    is_moving: stones that are listed have changed since the run began. One that also changed while the full run before
    was reading was seen by neither, and is for sale: then a third run, between them, has to have missed it as well.
    """
    since: dt.datetime | None = proofs["full_before_last_run" if is_moving else "last_full"]
    return since


def _finds_all(run: Run, client: Nivoda) -> bool:
    """Whether the price filter hides no stone: one that it hides is missing in every full run, and for sale. Counts
    between which a stone left the list differ as well, so they are asked again."""
    if run.covered >= run.total:
        return True
    asked = [run.query, query_of(run.query, run.key_field, Span(0, TOP))]
    for _ in range(COVERAGE_TRIES):
        total, covered = client.counts(asked)
        if covered >= total:
            return True
    return False


def _look_up(context: Ingestion, run: Run, client: Nivoda, found: dict[str, Any], *, are_seen: bool) -> dict[str, Any]:
    """Ask for the missing ones by certificate: a look-up finds stones whatever their availability.

    are_seen: those for sale count as seen, since the price filter may hide them. Else they have left the shop's filter,
    where no change of their price is told any more, and the next full run that misses them deletes them.
    """
    missing = context.rows(
        "candidates", feed=run.feed, started_at=run.started_at, limit=max(context.settings.look_ups, 0)
    )
    for first in range(0, len(missing), LOOK_UP_STONES):
        asked = missing[first : first + LOOK_UP_STONES]
        numbers = sorted({row["certificate_number"] for row in asked})
        answer = client.by_certificates(numbers)
        told = {str(find(item, "diamond", "id")): str(find(item, "diamond", "availability")) for item in answer.items}
        ids = [row["supplier_stone_id"] for row in asked]
        # Beside items that cannot be read, silence proves nothing.
        unclear = {row["supplier_stone_id"] for row in asked if row["certificate_number"] in answer.unclear} - set(told)
        there = [stone_id for stone_id in ids if told.get(stone_id) == AVAILABLE]
        gone = [stone_id for stone_id in ids if told.get(stone_id) != AVAILABLE and stone_id not in unclear]
        with context.warehouse.transaction() as connection:
            context.rows(
                "sight_looked_up",
                connection,
                feed=run.feed,
                run_id=run.run_id,
                stone_ids=there if are_seen else [],
                now=context.moment,
            )
            deleted = context.one(
                "delete_looked_up",
                connection,
                feed=run.feed,
                stone_ids=gone,
                raw_availabilities=[told.get(stone_id, "NOT_AVAILABLE") for stone_id in gone],
                started_at=run.started_at,
            )
        found["looked_up"] += len(asked)
        found["deleted"] += deleted["deleted"]
    return found


def _noted(context: Ingestion, run: Run, found: dict[str, Any], requests: int) -> dict[str, Any]:
    context.rows("note_vanished", run_id=run.run_id, vanished=Jsonb(found), requests=requests)
    log.info("%s: vanished stones: %s", run.feed, found)
    return {"run_id": run.run_id, "feed": run.feed, **found}
