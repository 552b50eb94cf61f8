"""A worker on one partition, in a process of its own, to be killed: `python -m tests.diamond_worker <job as JSON>`."""

from __future__ import annotations

import json
import sys
import time

from penstock.clients.credentials import Credentials
from penstock.clients.nivoda import NivodaClient
from penstock.jobs.nivoda_ingestion import Ingestion, Settings, ingest_partition
from penstock.sources.nivoda import Page
from penstock.sources.tokens import LocalTokens
from penstock.warehouse.session import Warehouse
from tests.client_doubles import Breaker, Limiter


class SlowClient(NivodaClient):
    """Takes its time for each page, so that somebody can die in between."""

    def page(self, *arguments: object, **options: object) -> Page:
        time.sleep(0.05)
        return super().page(*arguments, **options)  # type: ignore[arg-type]


def main() -> None:
    job = json.loads(sys.argv[1])
    credentials = Credentials(base_url=job["url"], secret=job["password"], extra={"username": job["username"]})
    with Warehouse(job["dsn"]) as warehouse:
        context = Ingestion(
            warehouse,
            lambda: SlowClient(credentials, Limiter(), Breaker(), LocalTokens()),
            Settings(base_filter={}),
        )
        sys.stdout.write(json.dumps(ingest_partition(context, job["run_id"], job["partition_id"])))


if __name__ == "__main__":
    main()
