"""One worker of the diamond benchmark: reads the lanes it is given, one after the other, and tells its peak memory."""

from __future__ import annotations

import json
import resource
import sys

from penstock.clients.credentials import Credentials
from penstock.clients.nivoda import NivodaClient
from penstock.jobs.nivoda_ingestion import Ingestion, Settings, ingest_partition
from penstock.sources.nivoda import limits
from penstock.sources.tokens import LocalTokens
from penstock.warehouse.limits import SharedBreaker, SharedLimiter
from penstock.warehouse.session import Warehouse


def context_of(job: dict[str, object], warehouse: Warehouse) -> Ingestion:
    """What the jobs work with. job: dsn, url, username, password, rate, concurrency, largest_mean."""
    credentials = Credentials(
        base_url=str(job["url"]), secret=str(job["password"]), extra={"username": job["username"]}
    )
    tokens = LocalTokens()

    def open_client() -> NivodaClient:
        limiter, breaker = SharedLimiter(warehouse), SharedBreaker(warehouse)
        return NivodaClient(credentials, limiter, breaker, tokens, limits=limits(int(str(job["rate"]))))

    settings = Settings(
        base_filter={}, concurrency=int(str(job["concurrency"])), largest_mean=int(str(job["largest_mean"]))
    )
    return Ingestion(warehouse, open_client, settings)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    with Warehouse(job["dsn"]) as warehouse:
        context = context_of(job, warehouse)
        # Each lane is handed over when the one before is done, as Airflow's pool does.
        for line in sys.stdin:
            lane = json.loads(line)
            done = ingest_partition(context, lane["run_id"], lane["partition_id"])
            print(
                json.dumps({**done, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True
            )


if __name__ == "__main__":
    main()
