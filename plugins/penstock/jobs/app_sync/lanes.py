"""Which sources have how much to do, split over workers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.jobs.app_sync import job_log
from penstock.jobs.app_sync.context import SQL
from penstock.sources.keyed import KeyedSource
from penstock.warehouse.session import Connection, Warehouse

log = logging.getLogger(__name__)

SHOWN_IN_DRY_RUN = 20


@dataclass(frozen=True, slots=True)
class Lane:
    """One worker's part of a DAG run. share: items to process at most."""

    source: str
    lane: int
    share: int
    label: str


def plan_lanes(
    warehouse: Warehouse, sources: Sequence[KeyedSource], *, batch_size: int | None, partitions: int, is_dry_run: bool
) -> list[Lane]:
    """The lanes of one DAG run; none for a source with nothing due, none at all in a dry run.

    All lanes of a source claim from one queue: a lane is a worker and its share of the batch, so that none stands
    idle while another has work left. A dry run only logs what would be asked for, in order.

    Parameters
    ----------
    batch_size: items of each source in all; None takes the source's own.
    partitions: workers per source.
    """
    lanes: list[Lane] = []
    for source in sources:
        with warehouse.transaction() as conn:
            due = count_due(conn, source.name)
            wanted = min(due, batch_size or source.batch_size)
            log.info("%s: %d due, %d in this batch", source.name, due, wanted)
            if is_dry_run:
                _show(conn, source.name, wanted)
                continue
        closed = job_log.close_stale(warehouse, source.name)
        if closed:
            log.warning("%s: %d jobs had lost their worker", source.name, closed)
        lanes += _split(source.name, wanted, partitions)
    return lanes


def count_due(conn: Connection, source: str) -> int:
    """Items that may be claimed now."""
    row = conn.execute(SQL["count_due"], {"source": source}).fetchone()
    return int(row[0]) if row else 0


def _split(source: str, wanted: int, partitions: int) -> list[Lane]:
    workers = min(partitions, wanted)
    shares = [wanted // workers + (number < wanted % workers) for number in range(workers)] if workers else []
    return [
        Lane(source, number, share, f"{source} {number + 1}/{workers}: {share}") for number, share in enumerate(shares)
    ]


def _show(conn: Connection, source: str, wanted: int) -> None:
    rows = conn.execute(SQL["due"], {"source": source, "limit": min(wanted, SHOWN_IN_DRY_RUN)})
    first = ", ".join(str(appid) for (appid,) in rows)
    log.info("dry run: %s would ask for %d items, the first are %s", source, wanted, first or "none")
