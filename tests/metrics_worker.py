"""A worker of the metrics sync in a process of its own, to be killed: `python -m tests.metrics_worker <JSON>`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import sys

import requests

from penstock.sources import ad_metrics
from penstock.warehouse.session import Warehouse
from tests.metrics_stage import MetricsStage


def main(job: dict[str, object]) -> None:
    """dsn, sandbox_url, lane, page_size: what one lane needs."""
    page_size = int(str(job["page_size"]))
    ad_metrics.PLATFORMS = tuple(
        dataclasses.replace(each, stream=dataclasses.replace(each.stream, page_size=page_size))
        for each in ad_metrics.PLATFORMS
    )
    url = str(job["sandbox_url"])
    ahead = dt.datetime.fromisoformat(requests.get(f"{url}/sandbox/health", timeout=10).json()["now"])
    shift = ahead - dt.datetime.now(dt.UTC)
    with Warehouse(str(job["dsn"])) as warehouse:
        stage = MetricsStage(warehouse, url, lambda: dt.datetime.now(dt.UTC) + shift)
        lane = job["lane"]
        assert isinstance(lane, dict)
        outcome = stage.work(lane)
    sys.exit(0 if outcome.status == "success" else 1)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
