"""Stages 3 and 4: whether enough was read, and raw rows into the canonical table, set by set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from penstock.core.errors import error
from penstock.jobs.nivoda_ingestion.context import SERVICE, SQL, Ingestion, Run, load_run, log
from penstock.jobs.nivoda_ingestion.settings import vendor_feed
from penstock.warehouse.session import Warehouse

SUCCESS_RATE = 0.70
"""With fewer of its partitions a run is not consolidated unless a person says so."""

BATCH = 2_000

CONSOLIDATE, PARTIAL, APPROVED, BLOCKED, NOTHING = (
    "consolidate",
    "consolidate_partial",
    "approved",
    "blocked",
    "nothing",
)


@dataclass(frozen=True, slots=True)
class Gate:
    """How the partitions of a run ended, and what follows from it."""

    run_id: str
    feed: str
    decision: str
    expected: int
    completed: int
    failed: int
    incomplete: int

    @property
    def text(self) -> str:
        return f"{self.feed}: {self.completed} of {self.expected} partitions were read"


def judge_partitions(context: Ingestion, run_id: str, *, is_second_look: bool = False) -> Gate:
    """Look at the partitions when all tasks have ended. Who has not ended was killed, and counts as failed.

    is_second_look: who has not ended now was begun since, by a retry: it works on, and counts as not read yet.
    """
    run = load_run(context, run_id)
    killed = error("NIVODA_PARTITION_KILLED", "the worker ended without a word", service=SERVICE)
    with context.warehouse.transaction() as connection:
        if not is_second_look:
            context.rows("settle_partitions", connection, run_id=run_id, error=Jsonb(killed.as_json()))
        counts = context.one("run_counts", connection, run_id=run_id)
        context.rows("note_debts", connection, run_id=run_id)
        decision = decide(counts["expected"], counts["completed"])
        context.rows("decide", connection, run_id=run_id, decision=decision)
    log.info("%s: %d of %d partitions: %s", run.feed, counts["completed"], counts["expected"], decision)
    return Gate(run_id, run.feed, decision, **counts)


def decide(expected: int, completed: int) -> str:
    """What follows from so many complete partitions."""
    if expected == 0:
        return NOTHING
    if completed == expected:
        return CONSOLIDATE
    return PARTIAL if completed and completed / expected >= SUCCESS_RATE else BLOCKED


def approve(warehouse: Warehouse, run_id: str) -> None:
    """A person wants a run consolidated whose partitions mostly failed."""
    with warehouse.connection() as connection:
        connection.execute(SQL["decide"], {"run_id": run_id, "decision": APPROVED})


def consolidate(context: Ingestion, run_id: str) -> dict[str, Any]:
    """Carry all waiting rows of the run's feed into `diamonds`; a retry goes on where this one stopped.

    Every batch is one statement and one transaction. Rows that cannot be read go to the rejected stones. Stones that
    were not among the rows get the configured markup as well: `repriced`.
    """
    run = load_run(context, run_id)
    context.rows("begin_consolidation", run_id=run_id, feed=run.feed, retry_failed=True)
    taken, written, errors = _carry_over(context, run)
    repriced = _mark_up(context, run.feed)
    version = context.one("end_consolidation", run_id=run_id, written=written + repriced)["version"]
    log.info(
        "%s: %d rows consolidated, %d written, %d rejected, %d repriced", run.feed, taken, written, errors, repriced
    )
    return {
        "run_id": run_id,
        "rows": taken,
        "written": written,
        "errors": errors,
        "repriced": repriced,
        "version": version,
    }


def _carry_over(context: Ingestion, run: Run) -> tuple[int, int, int]:
    """Batch by batch until no row waits. Returns the rows that were taken, written and rejected."""
    parameters = {
        "feed": run.feed,
        "batch": BATCH,
        "is_labgrown": vendor_feed(run.feed) == "labgrown",
        "markup": context.settings.markup,
        "drop_payload": not context.settings.keep_payload,
    }
    taken = written = errors = 0
    while True:
        with context.warehouse.transaction() as connection:
            batch = context.one("consolidate_batch", connection, **parameters)
            if not batch["taken"]:
                return taken, written, errors
            context.rows(
                "count_consolidated",
                connection,
                run_id=run.run_id,
                processed=batch["taken"] - batch["errors"],
                errors=batch["errors"],
            )
        taken, written, errors = taken + batch["taken"], written + batch["written"], errors + batch["errors"]


def _mark_up(context: Ingestion, feed: str) -> int:
    """Give the configured markup to the stones that have another one. Returns how many there were."""
    parameters: dict[str, Any] = {"feed": feed, "markup": context.settings.markup, "batch": BATCH}
    if not context.one("has_other_markup", **parameters)["is_found"]:
        return 0
    after, repriced = "", 0
    while True:
        with context.warehouse.transaction() as connection:
            batch = context.one("mark_up_batch", connection, **parameters, after=after)
        if batch["last_stone"] is None:
            return repriced
        after, repriced = batch["last_stone"], repriced + batch["repriced"]
