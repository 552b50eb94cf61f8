"""One worker of the diamond benchmark: does the stages it is told, one after the other, and tells its peak memory.

Every stage of a run is a call of the job that the Airflow task of the same name makes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from penstock.clients.credentials import Credentials
from penstock.clients.nivoda import NivodaClient
from penstock.jobs import nivoda_ingestion as jobs
from penstock.jobs.nivoda_ingestion import Ingestion, PlanRequest, Settings
from penstock.sources.nivoda import FAMILY
from penstock.sources.stream import Limit
from penstock.sources.tokens import LocalTokens
from penstock.warehouse.limits import SharedBreaker, SharedLimiter
from penstock.warehouse.session import Warehouse


def context_of(job: Mapping[str, Any], warehouse: Warehouse) -> Ingestion:
    """What the jobs work with. job: dsn, url, username, password, rate, concurrency, largest_mean.

    rate: requests a second; above the vendor's highest where the sandbox has no budget.
    """
    credentials = Credentials(base_url=job["url"], secret=job["password"], extra={"username": job["username"]})
    tokens = LocalTokens()
    limits = {FAMILY: (Limit(job["rate"], 1.0),)}

    def open_client() -> NivodaClient:
        limiter, breaker = SharedLimiter(warehouse), SharedBreaker(warehouse)
        return NivodaClient(credentials, limiter, breaker, tokens, limits=limits)

    settings = Settings(base_filter={}, concurrency=job["concurrency"], largest_mean=job["largest_mean"])
    return Ingestion(warehouse, open_client, settings)


def plan(context: Ingestion, feed: str, **wish: Any) -> Mapping[str, Any]:
    planned = jobs.plan(context, feed, PlanRequest(**wish))
    return {"run_id": planned.run_id, "lanes": planned.lanes, "text": planned.text}


def gate(context: Ingestion, run_id: str) -> Mapping[str, Any]:
    return dataclasses.asdict(jobs.judge_partitions(context, run_id))


STAGES: Mapping[str, Callable[..., Mapping[str, Any]]] = {
    "plan": plan,
    "ingest_partition": jobs.ingest_partition,
    "gate": gate,
    "consolidate": jobs.consolidate,
    "reconcile_vanished": jobs.reconcile_vanished,
    "move_watermark": jobs.move_watermark,
    "summarise": jobs.summarise,
}
"""Task of the DAG -> its job."""


def peak_mb() -> float:
    """Of this program. `getrusage` would tell the peak of the process that started it, if that was higher."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    job = json.loads(sys.stdin.readline())
    with Warehouse(job["dsn"]) as warehouse:
        context = context_of(job, warehouse)
        for line in sys.stdin:
            told = json.loads(line)
            done = STAGES[told.pop("stage")](context, **told)
            print(json.dumps({**done, "peak_mb": peak_mb()}, default=str), flush=True)


if __name__ == "__main__":
    main()
