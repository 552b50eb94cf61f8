"""What the stages of an ingestion share: the database, the vendor, and the run as its rows say."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from psycopg.rows import dict_row

from penstock.core.errors import error
from penstock.jobs.nivoda_ingestion.settings import Settings, vendor_feed
from penstock.sources import nivoda
from penstock.warehouse import queries
from penstock.warehouse.session import Connection, Warehouse

SQL = queries.load("nivoda")
log = logging.getLogger(__name__)

SERVICE = "penstock.nivoda_ingestion"
FULL, INCREMENTAL = "full", "incremental"
READ = ("COMPLETED", "INCOMPLETE")
"""States of a partition that was read to its end."""

CLOCK_SKEW = dt.timedelta(seconds=60)
"""A run reads what changed up to so long before it began: the vendor's clock may be behind ours."""
OVERLAP = dt.timedelta(minutes=15)
"""An incremental run begins so long before the watermark: longer than a change takes to be found by a search."""

PLANNED_ANEW = frozenset({"save_page", "consolidate_batch", "mark_up_batch"})
"""Statements whose plan is not kept: one made while the tables were empty would read all of them for every page."""


class Nivoda(Protocol):
    """The vendor, as `clients.nivoda.NivodaClient`; threads may share it."""

    @property
    def requests(self) -> int: ...

    def counts(self, queries: Sequence[Mapping[str, Any]]) -> list[int]: ...

    def page(
        self,
        query: Mapping[str, Any],
        offset: int,
        limit: int = ...,
        order: str = ...,
        direction: str = ...,
        with_count: bool = ...,
    ) -> nivoda.Page: ...

    def by_certificates(self, numbers: Sequence[str]) -> nivoda.LookUp: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Ingestion:
    """What a stage works with.

    open_client: made once per stage that calls the vendor, closed by it. now: the present, None for the database's
    clock. is_last_try: nobody will try this task again, so what failed now has failed for good.
    """

    warehouse: Warehouse
    open_client: Callable[[], Nivoda]
    settings: Settings = field(default_factory=Settings)
    now: Callable[[], dt.datetime] | None = None
    is_last_try: bool = True

    def clock(self) -> dt.datetime:
        if self.now is not None:
            return self.now()
        return self.one("database_clock")["now"]  # type: ignore[no-any-return]

    @property
    def moment(self) -> dt.datetime | None:
        """The present for statements that stamp rows; None lets the database say it."""
        return None if self.now is None else self.now()

    def rows(self, name: str, connection: Connection | None = None, **parameters: Any) -> list[dict[str, Any]]:
        """The rows of a named query, on this thread's connection or on the one of a transaction."""
        if connection is not None:
            kept = False if name in PLANNED_ANEW else None
            cursor = connection.cursor(row_factory=dict_row).execute(SQL[name], parameters, prepare=kept)
            return cursor.fetchall() if cursor.description else []
        with self.warehouse.connection() as own:
            return self.rows(name, own, **parameters)

    def one(self, name: str, connection: Connection | None = None, **parameters: Any) -> dict[str, Any]:
        """The first row of a named query; empty when there is none."""
        return next(iter(self.rows(name, connection, **parameters)), {})


@dataclass(frozen=True)
class Run:
    """One run of one feed, as its rows say. `feed`: as the tables call it."""

    run_id: str
    feed: str
    run_type: str
    started_at: dt.datetime
    updated_from: dt.datetime | None
    updated_to: dt.datetime
    watermark_before: dt.datetime | None
    key_field: str
    is_whole: bool
    is_touching: bool
    total: int
    covered: int
    requests: int
    base_filter: Mapping[str, Any]
    row: Mapping[str, Any]

    @property
    def coverage(self) -> float:
        return self.covered / self.total if self.total else 1.0

    @property
    def query(self) -> nivoda.Query:
        """What all pages and counts of the run ask for: its feed, frozen at its beginning."""
        base = nivoda.base_query(vendor_feed(self.feed), self.base_filter)
        return nivoda.with_updated(base, self.updated_from, self.updated_to)


def load_run(context: Ingestion, run_id: str) -> Run:
    """The run. Raises CONFIG_INVALID when there is no such run of ours."""
    row = context.one("run_of", run_id=run_id)
    if not row:
        raise error("CONFIG_INVALID", f"there is no diamond run {run_id}", service=SERVICE)
    return Run(
        run_id=row["run_id"],
        feed=row["feed"],
        run_type=row["run_type"],
        started_at=row["started_at"],
        updated_from=row["updated_from"],
        updated_to=row["updated_to"],
        watermark_before=row["watermark_before"],
        key_field=row["key_field"],
        is_whole=row["is_whole"],
        is_touching=row["is_touching"],
        total=row["total"],
        covered=row["covered"],
        requests=row["requests"],
        base_filter=row["settings"].get("base_filter", {}),
        row=row,
    )
