"""Klaviyo's orders are counted by a metric that each account may choose, and choose anew."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from penstock.sources.stream import Request
from penstock.warehouse.session import Warehouse
from tests.db.test_resumption import altered
from tests.pipeline import Pipeline, hurried
from tests.sandbox_fixture import Sandbox

PACE = 10.0
WEEK = {"job_type": "BACKFILL", "window_start": dt.date(2026, 11, 10), "window_end": dt.date(2026, 11, 17)}
STREAMS = ["metrics", "events", "message_aggregates", "totals"]


@pytest.fixture
def pipeline(warehouse: Warehouse, sandbox: Sandbox) -> Iterator[Pipeline]:
    with hurried(sandbox.state, PACE):
        opened = Pipeline(warehouse, sandbox.url, now=lambda: sandbox.state.clock.now(), vendor_pace=PACE)
        opened.register(opened.accounts("KLAVIYO")[:1])
        yield opened


def read_week(pipeline: Pipeline, streams: list[str] = STREAMS, **changes: Any) -> None:
    lane = pipeline.claim("klaviyo", pipeline.enqueue("klaviyo", streams=streams, **WEEK))[0]
    outcome = pipeline.work(lane, **changes)
    assert outcome.status == "SUCCEEDED", outcome.error


def set_up(pipeline: Pipeline, **settings: Any) -> None:
    with pipeline.warehouse.connection() as conn:
        conn.execute("update platform_connections set settings = settings || %s", [Jsonb(settings)])


def metric_id(pipeline: Pipeline, name: str) -> str:
    return str(pipeline.fetch("select facts -> 'metrics' from platform_connections")[0][0][name])


def compared(pipeline: Pipeline) -> dict[str, tuple[int, Decimal, Decimal]]:
    """Metric -> days with a total, the totals' sum, the differences' sum."""
    rows = pipeline.fetch(
        "select metric, count(vendor_total), coalesce(sum(vendor_total), 0), coalesce(sum(abs(difference)), 0) "
        "from reporting.reconciliation group by metric"
    )
    return {metric: (days, total, difference) for metric, days, total, difference in rows}


def as_bestellung(request: Request, body: Any) -> Any:
    """The shop's system names its metrics in German."""
    for each in body["data"] if request.path == "api/metrics" else ():
        if each["attributes"]["name"] == "Placed Order":
            each["attributes"]["name"] = "Bestellung"
    return body


def test_orders_under_another_name_are_read_once_their_metric_is_chosen(pipeline: Pipeline) -> None:
    """The remedy that the runbook has for KLAVIYO_NO_CONVERSION_METRIC."""
    read_week(pipeline, ["metrics"], **altered(pipeline, as_bestellung))
    set_up(pipeline, conversion_metric_id=metric_id(pipeline, "Bestellung"))
    read_week(pipeline, **altered(pipeline, as_bestellung))
    found = compared(pipeline)
    assert {metric: (days, difference) for metric, (days, _, difference) in found.items()} == dict.fromkeys(
        ("conversions", "revenue", "placed_orders", "placed_order_value"), (7, 0)
    )
    assert all(total > 100 for _, total, _ in found.values())
