"""The diamond ingestion without Airflow: real jobs, client and warehouse, a real sandbox over HTTP."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.clients.nivoda import NivodaClient
from penstock.core.errors import PenstockError
from penstock.jobs import nivoda_ingestion as jobs
from penstock.jobs.nivoda_ingestion import Ingestion, PlannedRun, PlanRequest, Settings
from penstock.sources.tokens import LocalTokens
from penstock.warehouse.session import Warehouse
from tests.client_doubles import Breaker, Limiter
from tests.nivoda_bench import credentials, truth
from tests.sandbox_fixture import Sandbox

LATER = dt.timedelta(minutes=2)
"""So long after the market last moved a run begins in tests: it leaves out what changed in its last minute."""


@dataclass
class Diamonds:
    """Everything a run needs, against one sandbox and one database. Its clock is the sandbox's."""

    warehouse: Warehouse
    sandbox: Sandbox
    settings: Settings = field(default_factory=lambda: Settings(base_filter={}, concurrency=1))
    is_last_try: bool = True
    workers: int = 4
    feed: str = "natural"
    wrap: Callable[[NivodaClient], Any] = lambda client: client
    tokens: LocalTokens = field(default_factory=LocalTokens)

    @property
    def stored(self) -> str:
        return jobs.stored_feed(self.feed)

    def open_client(self) -> Any:
        limiter, breaker = Limiter(), Breaker()
        return self.wrap(NivodaClient(credentials(self.sandbox), limiter, breaker, self.tokens, sleep=lambda _: None))

    @property
    def context(self) -> Ingestion:
        return Ingestion(
            self.warehouse, self.open_client, self.settings, self.sandbox.state.clock.now, self.is_last_try
        )

    def plan(self, **wish: Any) -> PlannedRun:
        """A run that begins some minutes from the last one."""
        self.sandbox.now(self.sandbox.state.clock.now() + LATER)
        return jobs.plan(self.context, self.feed, PlanRequest(**wish))

    def ingest(self, planned: PlannedRun, *, only: Callable[[str], bool] = lambda _: True) -> dict[str, Any]:
        """The lanes, some at a time; partition -> its accounting, or the error that ended it."""
        chosen = [lane for lane in planned.lanes if only(lane["partition_id"])]
        with ThreadPoolExecutor(self.workers) as threads:
            return dict(zip([lane["partition_id"] for lane in chosen], threads.map(self._ingest, chosen), strict=True))

    def _ingest(self, lane: Mapping[str, str]) -> Any:
        try:
            return jobs.ingest_partition(self.context, lane["run_id"], lane["partition_id"])
        except PenstockError as failure:
            return failure

    def finish(self, run_id: str) -> dict[str, Any]:
        """Everything behind the mapped tasks, as the DAG's trigger rules would have it."""
        gate = jobs.judge_partitions(self.context, run_id)
        if gate.decision != "blocked":
            jobs.consolidate(self.context, run_id)
            jobs.reconcile_vanished(self.context, run_id)
            jobs.move_watermark(self.context, run_id)
        return jobs.summarise(self.context, run_id)

    def run(self, **wish: Any) -> dict[str, Any]:
        """A whole run."""
        planned = self.plan(**wish)
        assert planned.run_id is not None
        self.ingest(planned)
        return self.finish(planned.run_id)

    def with_settings(self, **changes: Any) -> Diamonds:
        return replace(self, settings=replace(self.settings, **changes))

    def truth(self, **query: str) -> Mapping[str, Any]:
        return truth(self.sandbox, self.feed, **query)

    def fetch(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with self.warehouse.connection() as connection:
            return connection.execute(query, parameters).fetchall()

    def value(self, query: str, **parameters: Any) -> Any:
        return self.fetch(query, **parameters)[0][0]

    def active_ids(self) -> set[str]:
        rows = self.fetch(
            "select supplier_stone_id from diamonds where feed = %(feed)s and status = 'active'", feed=self.stored
        )
        return {row[0] for row in rows}

    @property
    def watermark(self) -> dt.datetime | None:
        rows = self.fetch("select updated_to from penstock.feed_watermarks where feed = %(feed)s", feed=self.stored)
        return rows[0][0] if rows else None
