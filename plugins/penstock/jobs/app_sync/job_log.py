"""One row of `sync_jobs` per worker's job."""

from __future__ import annotations

from penstock.core.errors import error
from penstock.jobs.app_sync.context import SERVICE, SQL, STALE_AFTER, Counts, SyncContext
from penstock.warehouse.session import Connection, Warehouse

COMPLETED, FAILED = "completed", "failed"


def close_stale(warehouse: Warehouse, source: str, run_id: str | None = None, lane: int | None = None) -> int:
    """End jobs whose worker is gone: those older than `STALE_AFTER`, and an earlier try of this lane. How many."""
    parameters = {"source": source, "run_id": run_id, "lane": lane, "stale_after": STALE_AFTER}
    with warehouse.transaction() as conn:
        return conn.execute(SQL["close_stale_jobs"], parameters).rowcount


def start(context: SyncContext) -> str:
    """The id of a new job."""
    close_stale(context.warehouse, context.source.name, context.run_id, context.lane)
    parameters = {
        "source": context.source.name,
        "batch_size": context.share,
        "run_id": context.run_id,
        "lane": context.lane,
    }
    with context.warehouse.transaction() as conn:
        row = conn.execute(SQL["start_job"], parameters).fetchone()
    if row is None:
        raise error("DB_WRITE_ERROR", "no row could be written into public.sync_jobs", service=SERVICE)
    return str(row[0])


def save_progress(conn: Connection, job_id: str, counts: Counts) -> None:
    conn.execute(SQL["save_progress"], {**counts.as_dict(), "job_id": job_id})


def end(warehouse: Warehouse, job_id: str, status: str, message: str | None) -> None:
    with warehouse.transaction() as conn:
        conn.execute(SQL["end_job"], {"job_id": job_id, "status": status, "error_message": message})
