"""What a run finds out about the account itself: stored with the run, and told once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.jobs import platform_etl
from penstock.jobs.platform_etl import remote_report
from penstock.sources.stream import Request
from penstock.warehouse.session import Warehouse
from tests.db.test_resumption import altered
from tests.pipeline import Pipeline, hurried
from tests.sandbox_fixture import Sandbox

PACE = 10.0
FINDINGS = "select check_code, scope, severity from penstock.quality_results order by created_at, scope"


@pytest.fixture
def pipeline(warehouse: Warehouse, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.setattr(remote_report, "REPORT_POLL_SECONDS", (0.1,))
    with hurried(sandbox.state, PACE):
        yield Pipeline(warehouse, sandbox.url, now=lambda: sandbox.state.clock.now(), vendor_pace=PACE)


def read(pipeline: Pipeline, source: str, stream: str, **changes: Any) -> list[dict[str, str]]:
    """One run of one stream; what its alert tells of the account."""
    lane = pipeline.claim(source, pipeline.enqueue(source, streams=[stream]))[0]
    context = pipeline.context(lane, **changes)
    platform_etl.extract(context)
    told: list[dict[str, str]] = platform_etl.transform(context)["account_findings"]
    return told


def in_tokyo(request: Request, body: Any) -> Any:
    return {**body, "timezone_name": "Asia/Tokyo", "currency": "JPY"} if "timezone_name" in body else body


def test_an_account_whose_zone_and_currency_changed_is_told_of_once(pipeline: Pipeline) -> None:
    """Days that were cut in two zones stand side by side until somebody reads the history again."""
    pipeline.register(pipeline.accounts("META")[:1])
    assert read(pipeline, "meta_ads", "campaigns") == []
    assert pipeline.fetch(FINDINGS) == []

    told = read(pipeline, "meta_ads", "campaigns", **altered(pipeline, in_tokyo))
    assert [each["code"] for each in told] == ["ACCOUNT_CHANGED", "ACCOUNT_CHANGED"]
    assert "time_zone: Europe/Zurich -> Asia/Tokyo" in told[1]["message"]
    changes = [("currency: CHF -> JPY", "WARN"), ("time_zone: Europe/Zurich -> Asia/Tokyo", "WARN")]
    assert pipeline.fetch(FINDINGS) == [("ACCOUNT_CHANGED", *change) for change in changes]

    assert read(pipeline, "meta_ads", "campaigns", **altered(pipeline, in_tokyo)) == []
    assert len(pipeline.fetch(FINDINGS)) == 2


def test_a_change_that_a_failed_run_has_noticed_is_told_by_the_next(pipeline: Pipeline) -> None:
    """Also when the metrics sync was the first to store what it heard."""
    pipeline.register(pipeline.accounts("META")[:1])
    read(pipeline, "meta_ads", "campaigns")
    with pipeline.warehouse.connection() as conn:
        conn.execute("update platform_connections set time_zone = 'Asia/Tokyo', currency = 'JPY'")
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads", streams=["campaigns"]))[0]
    platform_etl.extract(pipeline.context(lane, **altered(pipeline, in_tokyo)))
    with pipeline.warehouse.connection() as conn:
        conn.execute("update core_warehouse.etl_runs set status = 'FAILED' where status = 'IN_PROGRESS'")

    assert len(read(pipeline, "meta_ads", "campaigns", **altered(pipeline, in_tokyo))) == 2


def in_kiritimati(request: Request, body: Any) -> Any:
    if request.path != "api/accounts":
        return body
    found = body["data"][0]
    return {**body, "data": [{**found, "attributes": {**found["attributes"], "timezone": "Pacific/Kiritimati"}}]}


def test_the_history_that_is_read_again_after_a_change_has_each_order_on_its_new_day(pipeline: Pipeline) -> None:
    """What an event says of itself has not changed, only the account's days have: that is what the remedy is for."""
    pipeline.register(pipeline.accounts("KLAVIYO")[:1])
    week = {"job_type": "HISTORICAL", "window_start": dt.date(2026, 11, 1), "window_end": dt.date(2026, 11, 8)}
    lane = pipeline.claim("klaviyo", pipeline.enqueue("klaviyo", streams=["events"], **week))[0]
    assert pipeline.work(lane).status == "SUCCEEDED"
    lane = pipeline.claim("klaviyo", pipeline.enqueue("klaviyo", streams=["events"], **week))[0]
    assert pipeline.work(lane, **altered(pipeline, in_kiritimati)).status == "SUCCEEDED"

    occurred = "(payload #>> '{attributes,datetime}')::timestamptz at time zone 'Pacific/Kiritimati'"
    orders = f"select ({occurred})::date as day, count(*) from staging_ingest.klaviyo_events group by 1"
    counted = "select date, events from core_warehouse.fct_klaviyo_event_daily"
    whole_days = " where {} between '2026-11-01' and '2026-11-07' order by 1"
    assert pipeline.fetch(counted + whole_days.format("date")) == pipeline.fetch(
        f"select * from ({orders}) as o" + whole_days.format("day")
    )


def test_a_key_of_another_account_brings_none_of_its_numbers(pipeline: Pipeline) -> None:
    """Klaviyo's calls name no account: whose numbers come is the key's to say."""
    ours, theirs = pipeline.accounts("KLAVIYO")[:2]
    pipeline.register([ours])
    assert pipeline.sync("klaviyo", streams=["message_aggregates"])[0].status == "SUCCEEDED"
    facts = "select date, message_id, conversion_value from core_warehouse.fct_klaviyo_message_daily order by 1, 2"
    before = pipeline.fetch(facts)
    pipeline.register([{**ours, "credentials": theirs["credentials"]}])

    outcome = pipeline.sync("klaviyo", streams=["message_aggregates"])[0]

    assert pipeline.fetch(facts) == before
    assert outcome.status == "FAILED"
    assert outcome.error is not None
    assert outcome.error.code == "CREDENTIAL_INVALID"


def without_orders(request: Request, body: Any) -> Any:
    if request.path != "api/metrics":
        return body
    return {**body, "data": [each for each in body["data"] if each["attributes"]["name"] != "Placed Order"]}


def test_an_account_without_a_metric_of_orders_is_told_of_once_a_month(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("KLAVIYO")[:1])
    told = [read(pipeline, "klaviyo", "lists", **altered(pipeline, without_orders)) for _ in range(2)]
    assert [[each["code"] for each in each_run] for each_run in told] == [["KLAVIYO_NO_CONVERSION_METRIC"], []]
    assert pipeline.fetch(FINDINGS) == [("KLAVIYO_NO_CONVERSION_METRIC", "", "WARN")] * 2
    with pipeline.warehouse.connection() as conn:
        conn.execute(
            "update penstock.quality_results set detail = jsonb_set(detail, '{told_at}', "
            "to_jsonb(now() - interval '31 days')) where detail ? 'told_at'"
        )
    assert len(read(pipeline, "klaviyo", "lists", **altered(pipeline, without_orders))) == 1

    assert read(pipeline, "klaviyo", "lists") == []
    assert len(pipeline.fetch(FINDINGS)) == 3
