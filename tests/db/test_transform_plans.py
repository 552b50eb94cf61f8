"""What a transform makes the database do. Its tables were filled seconds ago, and nobody has counted them since: a plan
made for empty tables must not be ruinous on full ones."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from penstock.jobs import platform_etl
from penstock.warehouse.session import Warehouse
from tests.pipeline import Pipeline
from tests.sandbox_fixture import Sandbox

Plan = dict[str, Any]


@pytest.fixture
def pipeline(warehouse: Warehouse, sandbox: Sandbox) -> Pipeline:
    return Pipeline(warehouse, sandbox.url, now=lambda: sandbox.state.clock.now())


class Plans:
    """The plans of everything that a connection executes, with what really happened."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.texts: list[str] = []
        conn.execute("load 'auto_explain'")
        for name, value in {
            "auto_explain.log_min_duration": "0",
            "auto_explain.log_analyze": "on",
            "auto_explain.log_timing": "off",
            "auto_explain.log_format": "json",
            "client_min_messages": "log",
        }.items():
            conn.execute("select set_config(%s, %s, false)", [name, value])
        conn.add_notice_handler(lambda notice: self.texts.append(notice.message_primary or ""))

    def __iter__(self) -> Iterator[Plan]:
        """Every node of every plan; `statement` says whose it is."""
        for text in self.texts:
            if "plan:" in text:
                whole = json.loads(text[text.index("{") :])
                yield from nodes(whole["Plan"], whole["Query Text"])


def nodes(plan: Plan, statement: str) -> Iterator[Plan]:
    yield {**plan, "statement": statement}
    for child in plan.get("Plans", []):
        yield from nodes(child, statement)


def freeze_statistics(pipeline: Pipeline) -> None:
    """The statistics stay what they are now."""
    with pipeline.warehouse.connection() as conn:
        tables = conn.execute(
            "select format('%I.%I', schemaname, relname) from pg_stat_user_tables "
            "where schemaname in ('staging_ingest', 'core_warehouse', 'penstock')"
        ).fetchall()
        for (table,) in tables:
            conn.execute(f"alter table {table} set (autovacuum_enabled = false)")
            conn.execute(f"analyze {table}")


COMPARISONS_PER_ROW = 20
"""Of the rows that a join gets. A row is held against every window of its run, and those are a dozen."""


def wasteful(plans: Plans) -> list[str]:
    """Joins that compared far more pairs of rows than they got rows."""
    found = []
    for node in plans:
        compared = node.get("Rows Removed by Join Filter", 0) * node["Actual Loops"]
        if compared == 0:
            continue
        outer, inner = node["Plans"][:2]
        rows = outer["Actual Rows"] * outer["Actual Loops"] + inner["Actual Rows"]
        if compared > COMPARISONS_PER_ROW * max(rows, 100):
            found.append(f"{node['Node Type']} of {rows} rows compared {compared} pairs: {node['statement'][:300]}")
    return found


@pytest.mark.parametrize(("platform", "source"), [("META", "meta_ads"), ("GA4", "ga4")])
def test_no_statement_compares_every_row_with_every_row(pipeline: Pipeline, platform: str, source: str) -> None:
    """A new account's second run. The statistics are of the time before it: they know another account."""
    new, known = pipeline.accounts(platform)[:2]
    pipeline.register([known])
    assert pipeline.sync(source)[0].status == "SUCCEEDED"
    freeze_statistics(pipeline)
    accounts = pipeline.register([new])
    assert pipeline.sync(source, accounts=accounts)[0].status == "SUCCEEDED"
    lane = pipeline.claim(source, pipeline.enqueue(source, accounts=accounts))[0]
    plans = plans_of_transform(pipeline, lane)
    assert len(plans.texts) > 20
    assert wasteful(plans) == []


def plans_of_transform(pipeline: Pipeline, lane: dict[str, Any]) -> Plans:
    platform_etl.extract(pipeline.context(lane))
    with pipeline.warehouse.connection() as conn:
        plans = Plans(conn)
    platform_etl.transform(pipeline.context(lane))
    return plans


def test_a_transform_reads_the_staged_rows_of_its_own_days_only(pipeline: Pipeline) -> None:
    """The old worker's transform read all that was ever staged, on every run."""
    pipeline.register(pipeline.accounts("GA4")[:1])
    streams = ["traffic", "landing"]
    assert pipeline.sync("ga4", streams=streams)[0].status == "SUCCEEDED"
    with pipeline.warehouse.connection() as conn:  # two years of it
        conn.execute(
            "insert into staging_ingest.ga4_reports select run_id, slice_no, connection_id, report_key, "
            "record_key || n, record_date - n * 30, cursor_value, payload, payload_hash "
            "from staging_ingest.ga4_reports, generate_series(1, 24) as n"
        )
    freeze_statistics(pipeline)
    day = dt.date(2026, 11, 10)
    wish = {"job_type": "BACKFILL", "window_start": day, "window_end": day + dt.timedelta(days=1)}
    of_the_day, of_all_days = pipeline.fetch(
        "select count(*) filter (where record_date = %(day)s), count(*) from staging_ingest.ga4_reports", day=day
    )[0]
    lane = pipeline.claim("ga4", pipeline.enqueue("ga4", streams=streams, **wish))[0]
    plans = plans_of_transform(pipeline, lane)
    read = [
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in plans
        if node.get("Relation Name") == "ga4_reports" and "ModifyTable" not in node["Node Type"]
    ]
    assert of_all_days > 20 * of_the_day
    assert len(read) >= len(streams)
    assert max(read) <= of_the_day
