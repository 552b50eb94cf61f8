"""Runs that go on after something they relied on is gone or wrong: a vendor's report, an answer, our own code."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from penstock.clients.meta_ads import ReportState, ReportStatus
from penstock.core.errors import VendorUnavailable, error
from penstock.jobs import platform_etl
from penstock.jobs.platform_etl import VendorClient, remote_report, slices
from penstock.jobs.platform_etl.context import begin_stage
from penstock.sources.stream import Account, Request, Source
from penstock.warehouse.session import Warehouse
from tests.pipeline import Pipeline
from tests.sandbox_fixture import Sandbox

REPORT = {"streams": ["insights_ad"]}
"""Thirty days of ads: one report that Meta works out first."""


@pytest.fixture
def pipeline(warehouse: Warehouse, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    monkeypatch.setattr(slices, "BATCH_SECONDS", 0.0)
    monkeypatch.setattr(remote_report, "REPORT_POLL_SECONDS", (0.01,))
    return Pipeline(warehouse, sandbox.url, now=lambda: sandbox.state.clock.now())


Alter = Callable[[Request, Any], Any]


class AlteredClient:
    """A vendor's client whose answers are altered on their way."""

    def __init__(self, client: VendorClient, alter: Alter) -> None:
        self._client: Any = client
        self._alter = alter

    def send(self, request: Request) -> Any:
        return self._alter(request, self._client.send(request))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def altered(
    pipeline: Pipeline, alter: Alter = lambda _, answer: answer, kind: type[AlteredClient] = AlteredClient
) -> dict[str, Any]:
    """What to work a lane with, so that the client's answers are altered."""
    return {"open_client": lambda *of: kind(pipeline.open_client(*of), alter)}


def reports_asked_for(sandbox: Sandbox) -> int:
    return len(sandbox.state.remembered("meta_reports"))


def stop_in_mid_report(pipeline: Pipeline) -> dict[str, Any]:
    """A run whose worker has saved two pages of the report, and was then left by its vendor."""
    pipeline.register(pipeline.accounts("META")[:1])
    with pipeline.warehouse.connection() as conn:
        conn.execute('update platform_connections set facts = \'{"page_sizes": {"insights_ad": 50}}\'')
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads", **REPORT))[0]
    pages = 0

    def break_down(request: Request, answer: Any) -> Any:
        nonlocal pages
        pages += "data" in answer
        if pages > 2:
            raise RuntimeError("the machine went away")
        return answer

    with pytest.raises(RuntimeError):
        platform_etl.extract(pipeline.context(lane, is_last_try=False, **altered(pipeline, break_down)))
    saved = pipeline.fetch("select pages, next_token is not null, rows_read from penstock.slices")
    assert saved == [(2, True, 200)]
    return lane


def test_a_slice_whose_report_is_gone_is_read_from_the_start_of_a_new_one(pipeline: Pipeline, sandbox: Sandbox) -> None:
    """The saved page belongs to the old report: in the new one other rows may lie before it."""
    lane = stop_in_mid_report(pipeline)
    with pipeline.warehouse.connection() as conn:
        conn.execute("delete from penstock.remote_jobs")
        conn.execute("update staging_ingest.meta_ads_insights set payload_hash = 'old', payload = '{}'")
    assert pipeline.work(lane).status == "SUCCEEDED"
    assert reports_asked_for(sandbox) == 2
    staged = pipeline.fetch(
        "select count(*), count(*) filter (where payload = '{}') from staging_ingest.meta_ads_insights"
    )
    assert staged[0][0] > 300
    assert staged[0][1] == 0
    assert pipeline.fetch("select rows_read from penstock.slices where status = 'DONE'") == [staged[0][:1]]


def test_a_worker_that_dies_while_it_waits_for_the_new_report_leaves_no_page_of_the_old_one(
    pipeline: Pipeline, sandbox: Sandbox
) -> None:
    lane = stop_in_mid_report(pipeline)
    with pipeline.warehouse.connection() as conn:
        conn.execute("delete from penstock.remote_jobs")
        conn.execute("update staging_ingest.meta_ads_insights set payload_hash = 'old', payload = '{}'")

    class Dying(AlteredClient):
        def poll_report(self, report_id: str) -> Any:
            raise RuntimeError("the machine went away")

    with pytest.raises(RuntimeError):
        platform_etl.extract(pipeline.context(lane, is_last_try=False, **altered(pipeline, kind=Dying)))
    assert reports_asked_for(sandbox) == 2
    assert pipeline.work(lane).status == "SUCCEEDED"
    assert reports_asked_for(sandbox) == 2
    assert pipeline.fetch("select count(*) from staging_ingest.meta_ads_insights where payload = '{}'") == [(0,)]


def test_a_report_that_always_fails_is_asked_for_twice_before_its_days_are_split(pipeline: Pipeline) -> None:
    """Smaller pages would be pages of the same report, and each try of it may take an hour."""
    pipeline.register(pipeline.accounts("META")[:1])
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads", **REPORT))[0]
    asked: list[str] = []

    class Failing(AlteredClient):
        def submit_report(self, request: Request) -> Any:
            asked.append(str(request.params["time_range"]))
            return self._client.submit_report(request)

        def poll_report(self, report_id: str) -> Any:
            if len(set(asked)) == 1:
                return ReportStatus(ReportState.FAILED)
            return self._client.poll_report(report_id)

    assert pipeline.work(lane, **altered(pipeline, kind=Failing)).status == "SUCCEEDED"
    assert asked.count(asked[0]) == 2
    assert pipeline.fetch("select count(*) from penstock.slices where status = 'SPLIT' and page_size is null") == [(1,)]


def test_a_row_that_leaves_between_two_pages_makes_the_slice_be_read_again(pipeline: Pipeline) -> None:
    """All rows behind it move up by one, and the one at the page's edge is never sent."""
    pipeline.register(pipeline.accounts("GA4")[:1])
    with pipeline.warehouse.connection() as conn:
        conn.execute('update platform_connections set facts = \'{"page_sizes": {"traffic": 50}}\'')
    passes: Counter[str] = Counter()

    class Moving(AlteredClient):
        def send(self, request: Request) -> Any:
            body = request.body or {}
            days, offset = str(body.get("dateRanges")), int(body.get("offset", 0))
            passes[days] += offset == 0
            if passes[days] > 1 or offset == 0:
                return self._client.send(request)
            answer = self._client.send(dataclasses.replace(request, body={**body, "offset": str(offset + 1)}))
            return {**answer, "rowCount": answer["rowCount"] - 1}

    lane = pipeline.claim("ga4", pipeline.enqueue("ga4", streams=["traffic"]))[0]
    assert pipeline.work(lane, **altered(pipeline, kind=Moving)).status == "SUCCEEDED"
    assert 2 in passes.values()
    staged = pipeline.fetch("select count(*) from staging_ingest.ga4_reports")
    assert pipeline.fetch("select sum(rows_read), sum(rows_expected) from penstock.slices") == [staged[0] * 2]


@pytest.mark.parametrize(("hours", "reports"), [(5, 1), (7, 2)])
def test_a_run_goes_on_with_its_own_report_for_six_hours(
    pipeline: Pipeline, sandbox: Sandbox, hours: int, reports: int
) -> None:
    lane = stop_in_mid_report(pipeline)
    with pipeline.warehouse.connection() as conn:
        conn.execute("update penstock.remote_jobs set submitted_at = now() - make_interval(hours => %s)", [hours])
    assert pipeline.work(lane).status == "SUCCEEDED"
    assert reports_asked_for(sandbox) == reports


def test_a_run_that_waits_for_a_quota_is_heard_of_after_a_day_without_a_page(
    pipeline: Pipeline, sandbox: Sandbox
) -> None:
    """It is no failure to wait; to wait for ever is one that nobody would see."""
    pipeline.register(pipeline.accounts("META")[:1])
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads", streams=["insights_country"]))[0]
    limited = {
        "vendor": "meta",
        "path": "/insights$",
        "action": "status",
        "params": {"status": 429, "retry_after": 1800},
    }

    def work_after(hours: int) -> str:
        """The next try of a run that began, and last saved a page, so many hours ago."""
        with pipeline.warehouse.connection() as conn:
            ago = [dt.timedelta(hours=hours)]
            conn.execute("update core_warehouse.etl_runs set started_at = now() - %s, not_before = now()", ago)
            conn.execute("update penstock.slices set updated_at = now() - %s", ago)
            conn.execute("truncate penstock.rate_limits")
        swept = platform_etl.claim(
            pipeline.warehouse, source=None, dag_id="queue", dag_run_id="sweep", limit=5, run_ids=None
        )
        return pipeline.work(swept[0] if swept else lane).status

    sandbox.faults(limited)
    assert work_after(hours=1) == "QUEUED"
    assert work_after(hours=23) == "QUEUED"
    assert work_after(hours=25) == "FAILED"
    stored = pipeline.fetch("select error->>'code', error->>'message' from core_warehouse.etl_runs")[0]
    assert stored[0] == "QUOTA_STALLED"
    assert "META_RATE_LIMIT" in stored[1]


def test_an_account_in_a_zone_that_nobody_knows_is_refused_before_its_days_are_cut(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads"))[0]

    def move_to_mars(request: Request, answer: Any) -> Any:
        return {**answer, "timezone_name": "Mars/Olympus_Mons"}

    outcome = pipeline.work(lane, **altered(pipeline, move_to_mars))
    assert outcome.status == "FAILED"
    stored = pipeline.fetch("select error->>'code', error->>'message' from core_warehouse.etl_runs")
    assert stored[0][0] == "CONFIG_INVALID"
    assert "Mars/Olympus_Mons" in stored[0][1]
    assert pipeline.fetch("select time_zone from platform_connections") == [(None,)]
    assert pipeline.fetch("select 1 from penstock.slices") == []


@pytest.mark.parametrize("is_last_try", [False, True])
def test_a_defect_of_ours_is_stored_as_unknown_when_nobody_will_try_again(
    pipeline: Pipeline, is_last_try: bool
) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads"))[0]

    def open_client(*of: Any) -> VendorClient:
        raise ZeroDivisionError("division by zero")

    with pytest.raises(ZeroDivisionError):
        platform_etl.extract(pipeline.context(lane, is_last_try=is_last_try, open_client=open_client))
    stored = pipeline.fetch(
        "select status, error->>'code', error->>'message', error->>'task' from core_warehouse.etl_runs"
    )
    unknown = ("FAILED", "UNKNOWN", "ZeroDivisionError: division by zero", "extract")
    assert stored == [unknown if is_last_try else ("IN_PROGRESS", None, None, None)]


def test_a_defect_that_airflow_does_not_try_again_ends_the_run_at_once(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.register(pipeline.accounts("META")[:1])

    def open_client(*of: Any) -> VendorClient:
        raise TypeError("a wrong argument")

    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads"))[0]
    with pytest.raises(TypeError):
        platform_etl.extract(pipeline.context(lane, is_last_try=False, open_client=open_client))
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads", streams=["campaigns"]))[0]
    platform_etl.extract(pipeline.context(lane))
    monkeypatch.setattr(sys.modules[platform_etl.transform.__module__], "coverage", lambda *_: {}["nothing"])
    with pytest.raises(KeyError):
        platform_etl.transform(pipeline.context(lane, is_last_try=False))
    stored = pipeline.fetch(
        "select status, error->>'code', error->>'message', error->>'task' from core_warehouse.etl_runs order by 4"
    )
    assert stored == [
        ("FAILED", "UNKNOWN", "TypeError: a wrong argument", "extract"),
        ("FAILED", "UNKNOWN", "KeyError: 'nothing'", "transform"),
    ]


def test_the_page_size_that_a_run_came_down_to_is_kept_and_grows_again(pipeline: Pipeline, sandbox: Sandbox) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    learned = "select (facts #>> '{page_sizes,insights_country}')::int from platform_connections"
    too_much = {"vendor": "meta", "path": "/insights$", "action": "too_much_data", "params": {"above_limit": 130}}
    wish = {"streams": ["insights_country"]}
    sandbox.faults(too_much)
    assert pipeline.sync("meta_ads", **wish)[0].status == "SUCCEEDED"
    small = pipeline.fetch(learned)[0][0]
    assert small <= 130
    sandbox.faults()
    assert pipeline.sync("meta_ads", **wish)[0].status == "SUCCEEDED"
    assert pipeline.fetch(learned) == [(2 * small,)]


def test_a_day_in_a_far_zone_is_read_whole_by_the_runs_before_and_after_its_midnight(
    pipeline: Pipeline, sandbox: Sandbox
) -> None:
    """Kiritimati is fourteen hours ahead: its nineteenth begins at ten in the morning of our eighteenth."""
    account = sandbox.account("META", "kiritimati")
    pipeline.register(each for each in pipeline.accounts("META") if each["account_id"] == account.account_id)
    zone = ZoneInfo("Pacific/Kiritimati")
    midnight = dt.datetime(2026, 11, 19, tzinfo=zone)
    cursor = "select distinct cursor_at from penstock.stream_cursors"
    streams = {"streams": ["insights_account", "totals"]}

    sandbox.now(midnight - dt.timedelta(minutes=5))
    assert pipeline.sync("meta_ads", **streams)[0].status == "SUCCEEDED"
    assert pipeline.fetch(cursor) == [(midnight - dt.timedelta(days=1),)], "the eighteenth is not over"
    sandbox.now(midnight + dt.timedelta(minutes=5))
    assert pipeline.sync("meta_ads", **streams)[0].status == "SUCCEEDED"
    assert pipeline.fetch(cursor) == [(midnight,)]

    last = dt.date(2026, 11, 18)
    truth = {day["date"]: Decimal(day["spend"]) for day in sandbox.truth(account, dt.date(2026, 10, 20), last)}
    loaded = pipeline.fetch(
        "select date::text, spend from core_warehouse.fct_meta_daily where level = 'ACCOUNT' and date <= %(last)s",
        last=last,
    )
    assert dict(loaded) == {day: spend for day, spend in truth.items() if spend}
    assert truth[last.isoformat()] > 0
    assert pipeline.fetch("select max(abs(difference)) from reporting.reconciliation") == [(0,)]


LIMITED = {"vendor": "meta", "path": "/insights$", "action": "status", "params": {"status": 429, "retry_after": 1800}}


def age(pipeline: Pipeline, days: int) -> None:
    """The runs, and all that they read, are so many days older."""
    with pipeline.warehouse.connection() as conn:
        ago = {"ago": dt.timedelta(days=days)}
        conn.execute("update core_warehouse.etl_runs set started_at = started_at - %(ago)s", ago)
        conn.execute("update penstock.slices set updated_at = updated_at - %(ago)s", ago)
        conn.execute("truncate penstock.rate_limits")


@pytest.mark.parametrize("ended", ["SUCCEEDED", "PARTIAL", "FAILED"])
def test_a_run_that_is_cleared_days_later_waits_for_a_quota_like_any_other(
    pipeline: Pipeline, sandbox: Sandbox, ended: str
) -> None:
    """It has waited since it was cleared, not since it began for the first time."""
    pipeline.register(pipeline.accounts("META")[:1])
    streams = ["insights_country", "campaigns"] if ended == "PARTIAL" else ["insights_country"]
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads", streams=streams))[0]
    refused = {"vendor": "meta", "path": "/insights$", "action": "status", "params": {"status": 500}}
    sandbox.faults(*([] if ended == "SUCCEEDED" else [refused]))
    assert pipeline.work(lane).status == ended
    age(pipeline, days=3)
    with pipeline.warehouse.connection() as conn:
        conn.execute("truncate penstock.circuit_breakers")
    sandbox.faults(LIMITED)
    assert pipeline.work(lane).status == "QUEUED"


def test_a_backfill_that_is_cleared_days_later_drops_what_the_vendor_has_withdrawn_meanwhile(
    pipeline: Pipeline,
) -> None:
    """A row that another run has stored since this one's first beginning is older than its second."""
    pipeline.register(pipeline.accounts("META")[:1])
    wish = {"job_type": "BACKFILL", "window_start": dt.date(2026, 8, 3), "window_end": dt.date(2026, 8, 10)}
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads", **REPORT, **wish))[0]
    assert pipeline.work(lane).status == "SUCCEEDED"
    everything = pipeline.fetch("select count(*) from staging_ingest.meta_ads_insights")
    age(pipeline, days=3)
    with pipeline.warehouse.connection() as conn:
        conn.execute(
            "insert into staging_ingest.meta_ads_insights (run_id, slice_no, connection_id, report_key, record_key, "
            "record_date, payload, payload_hash, ingested_at) select gen_random_uuid(), 0, connection_id, report_key, "
            "record_key || 'x', record_date, payload || '{\"ad_id\": \"999\"}', payload_hash, now() - interval '1 day' "
            "from staging_ingest.meta_ads_insights limit 1"
        )
    assert pipeline.work(lane).status == "SUCCEEDED"
    assert pipeline.fetch("select count(*) from staging_ingest.meta_ads_insights") == everything


def test_a_run_goes_on_with_the_token_that_was_exchanged_while_it_was_reading(pipeline: Pipeline) -> None:
    """The old one is revoked in mid-run. A run that failed by it would say that the new one needs to be issued."""
    accounts = pipeline.accounts("META")[:1]
    pipeline.register(accounts)
    renewed = [account | {"credentials": account["credentials"] | {"issued": "again"}} for account in accounts]
    opened: list[VendorClient] = []

    def exchange(request: Request, answer: Any) -> Any:
        if opened[-1].requests < 4:
            return answer
        pipeline.register(renewed)
        raise error("META_AUTH_ERROR", "the token was revoked")

    def open_client(source: Source, account: Account, own: Mapping[str, str] | None) -> VendorClient:
        opened.append(pipeline.open_client(source, account, own))
        return opened[-1] if "issued" in (own or {}) else AlteredClient(opened[-1], exchange)

    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads"))[0]
    assert pipeline.work(lane, open_client=open_client).status == "SUCCEEDED"
    assert pipeline.fetch("select state, consecutive_failures from platform_connections") == [("OK", 0)]
    calls = pipeline.fetch("select api_calls from core_warehouse.etl_runs")
    assert calls == [(sum(client.requests for client in opened),)]


def test_a_token_that_nobody_has_exchanged_is_asked_for_once(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads"))[0]
    asked: list[Request] = []

    def refuse(request: Request, answer: Any) -> Any:
        asked.append(request)
        raise error("META_AUTH_ERROR", "the token was revoked")

    assert pipeline.work(lane, **altered(pipeline, refuse)).status == "FAILED"
    assert len(asked) == 1
    assert pipeline.fetch("select state from platform_connections") == [("NEEDS_RECONNECT",)]


PROPERTY_DAYS = "select count(*) from core_warehouse.fct_ga4_daily where report = 'property'"


def test_an_error_under_the_status_200_takes_no_day_from_the_warehouse(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("GA4")[:1])
    wish = {"streams": ["property", "events"]}
    assert [run.status for run in pipeline.sync("ga4", **wish)] == ["SUCCEEDED"]
    loaded = pipeline.fetch(PROPERTY_DAYS)

    def refuse(request: Request, answer: Any) -> Any:
        dimensions = [each["name"] for each in (request.body or {}).get("dimensions", ())]
        return {"error": {"code": 500, "status": "INTERNAL"}} if dimensions == ["date"] else answer

    lane = pipeline.claim("ga4", pipeline.enqueue("ga4", **wish))[0]
    assert pipeline.work(lane, **altered(pipeline, refuse)).status == "PARTIAL"
    assert pipeline.fetch(PROPERTY_DAYS) == loaded == [(30,)]


WEEK = {"streams": ["insights_account"], "job_type": "BACKFILL", "window_start": dt.date(2026, 11, 9)}


def insights_asked_for(sandbox: Sandbox) -> int:
    return sandbox.answered("meta", "insights")


def age_slices(pipeline: Pipeline) -> None:
    pipeline.fetch("update penstock.slices set updated_at = now() - interval '1 hour' returning 1")


def test_a_run_whose_transform_lost_its_worker_is_loaded_without_asking_the_vendor_again(
    pipeline: Pipeline, sandbox: Sandbox
) -> None:
    """A transform of two years takes longer than the lease; the sweep that takes its run over begins with `extract`."""
    pipeline.register(pipeline.accounts("META")[:1])
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads", **WEEK))[0]
    platform_etl.extract(pipeline.context(lane))
    asked = insights_asked_for(sandbox)
    begin_stage(pipeline.context(lane), is_first=False)
    age_slices(pipeline)
    pipeline.fetch("update core_warehouse.etl_runs set leased_until = now() - interval '1 second' returning 1")
    taken = platform_etl.claim(
        pipeline.warehouse, source=None, dag_id="queue", dag_run_id="sweep", limit=5, run_ids=None
    )
    assert [pipeline.work(each).status for each in taken] == ["SUCCEEDED"]
    assert insights_asked_for(sandbox) == asked > 0
    assert pipeline.fetch("select count(*) from core_warehouse.fct_meta_daily where level = 'ACCOUNT'") == [(10,)]


def test_a_run_that_has_been_read_waits_for_its_transform_as_long_as_for_its_first_stage(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads", **WEEK))[0]
    platform_etl.extract(pipeline.context(lane))
    waits = "select leased_until > now() + interval '25 minutes' from core_warehouse.etl_runs"
    assert pipeline.fetch(waits) == [(True,)], "the pool may be full of others' transforms"


def test_a_run_that_succeeded_and_is_cleared_is_read_again_though_the_first_try_finds_the_vendor_down(
    pipeline: Pipeline, sandbox: Sandbox
) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads", **WEEK))[0]
    assert pipeline.work(lane).status == "SUCCEEDED"
    asked = insights_asked_for(sandbox)

    def fail(request: Request, answer: Any) -> Any:
        raise error("META_TRANSIENT", "down")

    with pytest.raises(VendorUnavailable):
        platform_etl.extract(pipeline.context(lane, is_last_try=False, **altered(pipeline, fail)))
    assert pipeline.work(lane).status == "SUCCEEDED"
    assert insights_asked_for(sandbox) == 2 * asked
