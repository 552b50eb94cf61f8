"""Klaviyo's orders are counted by a metric that each account may choose, and choose anew."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from penstock.sources.stream import Request
from penstock.warehouse.queries import sql_root
from penstock.warehouse.session import Warehouse
from penstock.warehouse.statements import split
from tests.db.test_resumption import altered
from tests.pipeline import Pipeline, hurried
from tests.sandbox_fixture import Sandbox

PACE = 10.0
WEEK = {"job_type": "BACKFILL", "window_start": dt.date(2026, 11, 10), "window_end": dt.date(2026, 11, 17)}
ALL_EQUAL = dict.fromkeys(("conversions", "revenue", "placed_orders", "placed_order_value"), (7, 0))
"""Days with a total of the vendor's, and by how much reporting differs from them."""

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


COUNTED_BY = {
    "fct_klaviyo_event_daily": "metric_id",
    "fct_klaviyo_message_daily": "conversion_metric_id",
    "fct_account_totals": "conversion_metric_id",
}


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


def mismatches(pipeline: Pipeline) -> list[Any]:
    return pipeline.fetch("select scope from penstock.quality_results where check_code = 'TOTALS_MISMATCH'")


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
    assert {metric: (days, difference) for metric, (days, _, difference) in found.items()} == ALL_EQUAL
    assert all(total > 100 for _, total, _ in found.values())


def test_another_conversion_metric_makes_no_difference_to_days_that_are_stored(pipeline: Pipeline) -> None:
    read_week(pipeline)
    before = compared(pipeline)
    assert {metric: (days, difference) for metric, (days, _, difference) in before.items()} == ALL_EQUAL
    set_up(pipeline, conversion_metric_id=metric_id(pipeline, "Opened Email"))
    assert compared(pipeline) == before


def test_totals_that_were_counted_by_another_metric_are_not_compared(pipeline: Pipeline) -> None:
    """A run of the totals alone has read no events of the new metric, and no message's share of it."""
    read_week(pipeline)
    with pipeline.warehouse.connection() as conn:
        for table, column in COUNTED_BY.items():
            conn.execute(f"update core_warehouse.{table} set {column} = 'former'")
    assert {metric: (days, difference) for metric, (days, _, difference) in compared(pipeline).items()} == ALL_EQUAL
    read_week(pipeline, ["totals"])
    assert {days for days, _, _ in compared(pipeline).values()} == {0}
    assert mismatches(pipeline) == []
    read_week(pipeline)
    assert {metric: (days, difference) for metric, (days, _, difference) in compared(pipeline).items()} == ALL_EQUAL
    assert mismatches(pipeline) == []


def test_whatever_events_are_chosen_orders_are_among_them(pipeline: Pipeline) -> None:
    set_up(pipeline, event_metrics=["Opened Email"])
    read_week(pipeline)
    assert {metric: (days, difference) for metric, (days, _, difference) in compared(pipeline).items()} == ALL_EQUAL
    read = pipeline.fetch("select distinct metric_name from core_warehouse.fct_klaviyo_event_daily order by 1")
    assert read == [("Opened Email",), ("Placed Order",)]


def test_a_key_that_may_not_read_events_has_nothing_that_its_orders_could_differ_from(
    pipeline: Pipeline, sandbox: Sandbox
) -> None:
    with pipeline.warehouse.connection() as conn:
        conn.execute('update platform_connections set facts = facts || \'{"forbidden_streams": ["events"]}\'')
    sandbox.faults({"vendor": "klaviyo", "path": "/api/events", "action": "status", "params": {"status": 403}})
    read_week(pipeline)
    assert mismatches(pipeline) == []
    assert {metric: days for metric, (days, _, _) in compared(pipeline).items()} == {"conversions": 7, "revenue": 7}


def test_orders_that_are_missing_from_days_that_were_read_still_show(pipeline: Pipeline) -> None:
    read_week(pipeline, ["metrics", "message_aggregates", "totals"])

    def lost(request: Request, body: Any) -> Any:
        return {**body, "data": []} if request.path == "api/events" else body

    read_week(pipeline, ["events"], **altered(pipeline, lost))
    days, total, difference = compared(pipeline)["placed_orders"]
    assert (days, difference) == (7, total)
    assert len(mismatches(pipeline)) == 14


def test_totals_that_an_older_version_stored_name_the_metric_that_they_were_asked_for(pipeline: Pipeline) -> None:
    """Those whose answers have left staging are taken for the account's present one's."""
    read_week(pipeline)
    former = metric_id(pipeline, "Placed Order")
    set_up(pipeline, conversion_metric_id="NEW")
    migration = sql_root() / "platform_etl/migrations/0010_name_the_metric_of_totals.sql"
    *_, fill = split(migration.read_text(encoding="utf-8"))
    with pipeline.warehouse.connection() as conn:
        conn.execute("update core_warehouse.fct_account_totals set conversion_metric_id = null")
        conn.execute("delete from staging_ingest.klaviyo_totals where record_date = '2026-11-10'")
        conn.execute(fill.text)
    found = pipeline.fetch(
        "select conversion_metric_id, min(date), count(*) from core_warehouse.fct_account_totals group by 1 order by 2"
    )
    assert found == [("NEW", dt.date(2026, 11, 10), 4), (former, dt.date(2026, 11, 11), 24)]
