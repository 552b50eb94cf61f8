"""Stages 6 and 7: the watermark, and the summary that people read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from penstock.core.errors import error
from penstock.core.partition_chart import Bar, draw
from penstock.jobs.nivoda_ingestion.consolidation import APPROVED, BLOCKED, NOTHING
from penstock.jobs.nivoda_ingestion.context import FULL, READ, SERVICE, Ingestion, Run, load_run, log
from penstock.jobs.nivoda_ingestion.planning import span_of, span_text
from penstock.jobs.nivoda_ingestion.settings import COVERAGE


def move_watermark(context: Ingestion, run_id: str) -> dict[str, Any]:
    """The feed's watermark goes to the run's end when nothing is owed and no listed stone was missed; else it stays.

    It is compared with what it was when the run was planned: a run that another has overtaken does not move it.
    """
    run = load_run(context, run_id)
    partitions = context.rows("partitions_of", run_id=run_id)
    is_read = all(row["status"] in READ for row in partitions)
    with context.warehouse.transaction() as connection:
        if run.run_type == FULL and run.is_whole and is_read and partitions:
            context.rows("clear_debts", connection, run_id=run_id)
        reason = _why_it_stays(context, run, partitions, is_read)
        if reason is None:
            moved = context.one("move_watermark", connection, run_id=run_id, watermark_before=run.watermark_before)
            reason = None if moved else "another run has moved it meanwhile"
        text = f"moved to {run.updated_to:%Y-%m-%d %H:%M:%S}" if reason is None else f"stays: {reason}"
        context.rows("note_watermark", connection, run_id=run_id, watermark=text)
    log.info("%s: watermark %s", run.feed, text)
    return {"run_id": run_id, "is_moved": reason is None, "watermark": text}


def _why_it_stays(context: Ingestion, run: Run, partitions: list[dict[str, Any]], is_read: bool) -> str | None:
    if not run.is_whole:
        return "the run read a price range only"
    if run.row["decision"] == BLOCKED:
        return "the run was not consolidated"
    if not is_read:
        return "some partitions failed"
    missed = _missed(partitions, "c1")
    if missed:
        return f"{missed} listed stones were not read"  # what changed of them the next incremental run must read
    if run.run_type == FULL and not partitions:
        return "a full run found no stones at all"
    owed = context.one("debts", feed=run.feed)["owed"]
    return f"{owed} ranges are owed" if owed else None


def summarise(context: Ingestion, run_id: str) -> dict[str, Any]:
    """End the run; keep its summary and the chart of its partitions with it."""
    run = load_run(context, run_id)
    partitions = context.rows("partitions_of", run_id=run_id)
    with context.warehouse.transaction() as connection:
        counts = context.one("run_counts", connection, run_id=run_id)
        summary = _summary(context, run, partitions, counts)
        failure = None if summary["status"] == "completed" else _failure(summary, partitions)
        context.rows("end_run", connection, run_id=run_id)
        context.rows(
            "note_summary",
            connection,
            run_id=run_id,
            summary=Jsonb(summary),
            chart=chart(run, partitions),
            error=Jsonb(failure) if failure else None,
        )
    log.info("%s", text_of(summary))
    return summary


def chart(run: Run, partitions: list[dict[str, Any]]) -> str:
    """The partitions as an SVG."""
    bars = [
        Bar(
            label=span_text(span_of(row)),
            expected=row["expected"],
            read=row["distinct_read"],
            is_whole=row["status"] == "COMPLETED",
        )
        for row in partitions
    ]
    return draw(f"{run.feed}, {run.run_type} run of {run.started_at:%Y-%m-%d %H:%M} UTC", bars)


def text_of(summary: Mapping[str, Any]) -> str:
    """The summary in some lines, for log and chat."""
    lines = [
        f"{summary['feed']}: {summary['run_type']} run {summary['status']}, {summary['completed']} of "
        f"{summary['partitions']} partitions",
        f"{summary['distinct']:,} stones of {summary['listed']:,} listed, {summary['written']:,} new or changed, "
        f"{summary['requests']:,} requests",
        f"missed for certain {summary['surely_missed']:,}, at most {summary['possibly_missed']:,}; "
        f"read twice {summary['duplicates']:,}; rejected {summary['rejected']:,}",
        f"watermark {summary['watermark'] or 'not looked at'}",
    ]
    if summary["incomplete"]:
        lines.append(f"incomplete: {', '.join(summary['incomplete'])}")
    if summary["failed"]:
        lines.append(f"failed: {', '.join(summary['failed'])}")
    if summary["coverage"] < COVERAGE:
        lines.append(f"the price filter finds only {summary['coverage']:.2%} of the stones")
    vanished = summary["vanished"] or {}
    if vanished.get("braked"):
        lines.append(
            f"BRAKE: {vanished['candidates']:,} of {vanished['active']:,} stones are missing, none was deleted"
        )
    elif vanished.get("deleted"):
        lines.append(f"{vanished['deleted']:,} vanished stones were deleted")
    return "\n".join(lines)


def _summary(
    context: Ingestion, run: Run, partitions: list[dict[str, Any]], counts: Mapping[str, Any]
) -> dict[str, Any]:
    def total(name: str) -> int:
        return sum(int(row[name] or 0) for row in partitions)

    names = {
        state: [row["partition_id"] for row in partitions if row["status"] == state]
        for state in ("FAILED", "INCOMPLETE")
    }
    stones = context.one("distinct_stones", feed=run.feed, run_id=run.run_id)["stones"]
    return {
        "run_id": run.run_id,
        "feed": run.feed,
        "run_type": run.run_type,
        "status": _status(run, counts),
        "partitions": counts["expected"],
        "completed": counts["completed"],
        "failed": names["FAILED"],
        "incomplete": names["INCOMPLETE"],
        "decision": run.row["decision"],
        "watermark": run.row["watermark"],
        "vanished": run.row["vanished"],
        "coverage": run.coverage,
        "expected": total("expected"),
        "listed": total("c1"),
        "distinct": stones,
        "rows_read": total("rows_read"),
        "duplicates": max(total("rows_read") - stones, 0),
        "written": total("rows_written"),
        "rejected": total("unreadable"),
        "surely_missed": _missed(partitions, "c1"),
        "possibly_missed": _missed(partitions, "c0"),
        "requests": total("requests") + run.requests,
        "passes": max((row["pass"] for row in partitions), default=0),
    }


def _missed(partitions: list[dict[str, Any]], count: str) -> int:
    return sum(max(0, (row[count] or 0) - row["distinct_read"] - row["nameless"]) for row in partitions)


def _status(run: Run, counts: Mapping[str, Any]) -> str:
    if counts["completed"] == counts["expected"] and run.row["consolidation_completed_at"] is not None:
        return "completed"
    if run.row["decision"] in (BLOCKED, NOTHING):
        return "failed"
    return "partial" if counts["completed"] or run.row["decision"] == APPROVED else "failed"


def _failure(summary: Mapping[str, Any], partitions: list[dict[str, Any]]) -> dict[str, Any]:
    """What the run's row keeps: which partitions failed, with the first one's cause."""
    first = next((row["error"] for row in partitions if row["error"]), None) or {}
    cause = f": {first['code']}: {first['message']}" if first else ""
    failed = error(
        "NIVODA_PARTITIONS_FAILED",
        f"{len(summary['failed'])} of {summary['partitions']} partitions failed{cause}",
        service=SERVICE,
        task="summarise",
    )
    return failed.as_json()
