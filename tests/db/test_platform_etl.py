"""Whole runs without Airflow: the sandbox over HTTP, real clients, real jobs, a real warehouse."""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.core.errors import PenstockError
from penstock.jobs import platform_etl
from penstock.jobs.platform_etl import remote_report
from penstock.warehouse.session import Warehouse
from tests.pipeline import Pipeline, hurried, snapshot
from tests.sandbox_fixture import NOW, Sandbox

KLAVIYO_STREAMS = ["events", "lists", "segments", "flows", "message_aggregates", "totals"]
"""Those that a vendor's two report calls a minute do not slow down."""


PACE = 10.0
"""The limits are the vendors' own, and at their own pace most of a test would be waiting for them."""


@pytest.fixture
def pipeline(warehouse: Warehouse, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.setattr(remote_report, "REPORT_POLL_SECONDS", (0.1,))
    with hurried(sandbox.state, PACE):
        yield Pipeline(warehouse, sandbox.url, now=lambda: sandbox.state.clock.now(), vendor_pace=PACE)


_UNDISTURBED: dict[str, dict[str, list[tuple[Any, ...]]]] = {}
WEEK = {"job_type": "BACKFILL", "window_start": dt.date(2026, 11, 10), "window_end": dt.date(2026, 11, 17)}


def undisturbed(pipeline: Pipeline, sandbox: Sandbox, source: str, **wish: Any) -> dict[str, list[tuple[Any, ...]]]:
    """The warehouse after a run in which nothing goes wrong; the warehouse is emptied again.

    The sandbox says the same in every test, so each question is asked once.
    """
    question = f"{source} {wish}"
    if question not in _UNDISTURBED:
        for outcome in pipeline.sync(source, **wish):
            assert outcome.status == "SUCCEEDED", outcome.error
        _UNDISTURBED[question] = snapshot(pipeline)
        tables = ", ".join(_UNDISTURBED[question])
        with pipeline.warehouse.connection() as conn:
            conn.execute(f"truncate {tables}, core_warehouse.etl_runs, penstock.stream_cursors cascade")
            conn.execute("truncate core_warehouse.sync_cursors, penstock.rate_limits, penstock.circuit_breakers")
        sandbox.state.reset()
    return _UNDISTURBED[question]


def cursors(pipeline: Pipeline) -> list[tuple[Any, ...]]:
    return pipeline.fetch(
        "select c.account_id, s.stream, s.cursor_at from penstock.stream_cursors s "
        "join platform_connections c on c.id = s.connection_id order by 1, 2"
    )


@pytest.mark.parametrize(("platform", "source"), [("META", "meta_ads"), ("GA4", "ga4"), ("KLAVIYO", "klaviyo")])
def test_every_account_arrives_whole_and_agrees_with_the_vendors_totals(
    pipeline: Pipeline, platform: str, source: str
) -> None:
    pipeline.register(account for account in pipeline.accounts(platform) if account["shop_id"] == "aurora")
    outcomes = pipeline.sync(source)
    assert [outcome.status for outcome in outcomes] == ["SUCCEEDED"] * len(outcomes)
    compared = pipeline.fetch(
        "select count(*), count(vendor_total), sum(abs(difference)) from reporting.reconciliation"
    )
    rows, with_total, difference = compared[0]
    assert rows >= 30
    assert with_total == rows
    assert difference == 0


def load_another_total(pipeline: Pipeline, wish: dict[str, Any], day: str) -> dict[str, Any]:
    """A run of which the vendor's spend of one day was changed in staging: what its transform counted."""
    lanes = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads", streams=["insights_account", "totals"], **wish))
    context = pipeline.context(lanes[0])
    platform_etl.extract(context)
    another = (
        "update staging_ingest.meta_ads_totals set payload = jsonb_set(payload, '{spend}', '\"0.01\"'), "
        "payload_hash = '' where record_date = %(day)s"
    )
    with pipeline.warehouse.connection() as conn:
        assert conn.execute(another, {"day": day}).rowcount == 1
    return platform_etl.transform(context)


def test_a_total_that_differs_is_a_finding_and_undoes_nothing(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    counts = load_another_total(pipeline, WEEK, "2026-11-12")
    # Six days old: Meta may have corrected the day between the two questions.
    assert (counts["status"], counts["totals_differing"]) == ("SUCCEEDED", 0)
    found = pipeline.fetch("select scope, severity from penstock.quality_results where check_code = 'TOTALS_MISMATCH'")
    assert found == [("spend 2026-11-12", "WARN")]
    assert pipeline.fetch("select count(*) from core_warehouse.fct_meta_daily where level = 'ACCOUNT'") == [(7,)]

    assert load_another_total(pipeline, WEEK, "2026-11-12")["totals_differing"] == 1
    assert load_another_total(pipeline, WEEK, "2026-11-13")["totals_differing"] == 0


def test_a_total_of_a_day_that_is_corrected_no_more_counts_at_once(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    october = {**WEEK, "window_start": dt.date(2026, 10, 19), "window_end": dt.date(2026, 10, 26)}
    assert load_another_total(pipeline, october, "2026-10-21")["totals_differing"] == 0
    assert load_another_total(pipeline, october, "2026-10-20")["totals_differing"] == 1


def test_sync_status_knows_a_transform_that_outlasts_its_lease(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run is locked and its lease cannot be renewed; so it has lapsed here before the transform began."""
    pipeline.register(pipeline.accounts("META")[:1])
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads", streams=["insights_account"]))[0]
    context = pipeline.context(lane)
    platform_etl.extract(context)
    seen: list[tuple[Any, ...]] = []

    def begin_late(*args: Any, **kwargs: Any) -> Any:
        held = begin_stage(*args, **kwargs)
        pipeline.fetch("update core_warehouse.etl_runs set leased_until = now() - interval '1 minute' returning 1")
        seen.extend(pipeline.fetch("select health from reporting.sync_status"))
        return held

    def look(load: Any) -> None:
        seen.extend(pipeline.fetch("select health from reporting.sync_status"))

    module = importlib.import_module("penstock.jobs.platform_etl.transform")  # the package's name is the function's
    begin_stage = module.begin_stage
    monkeypatch.setattr(module, "begin_stage", begin_late)
    monkeypatch.setattr(module._Load, "_run_transforms", look)
    platform_etl.transform(context)
    assert seen == [("STUCK",), ("RUNNING",)]


def test_a_second_run_of_the_day_writes_no_row(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    pipeline.sync("meta_ads")
    where = "select tableoid::regclass::text, xmin::text, ctid::text from {}"
    tables = ["core_warehouse.fct_meta_daily", "core_warehouse.dim_ad", "staging_ingest.meta_ads_insights"]
    before = {table: sorted(pipeline.fetch(where.format(table))) for table in tables}
    outcome = pipeline.sync("meta_ads")[0]
    assert outcome.extracted["rows_written"] == 0
    assert outcome.extracted["rows_read"] > 50
    assert {table: sorted(pipeline.fetch(where.format(table))) for table in tables} == before


@pytest.mark.parametrize("look", [{"is_dry_run": True}, WEEK], ids=["dry run", "backfill"])
def test_what_moves_no_cursor_leaves_the_old_workers_cursor_in_force(pipeline: Pipeline, look: dict[str, Any]) -> None:
    """The guide has people begin with a dry run. The days since the old worker stopped are read all the same."""
    stopped = dt.date(2026, 8, 20)
    shop = pipeline.accounts("META")[0]["shop_id"]
    pipeline.register(pipeline.accounts("META")[:1])
    old = "insert into core_warehouse.sync_cursors (shop_id, platform, cursor_value) values (%s, 'META', %s)"
    with pipeline.warehouse.connection() as conn:
        conn.execute(old, [shop, stopped.isoformat()])
    assert pipeline.sync("meta_ads", streams=["insights_account"], **look)[0].status == "SUCCEEDED"
    assert pipeline.sync("meta_ads", streams=["insights_account"])[0].status == "SUCCEEDED"
    days = "select min(date) <= %(stopped)s, count(*) > 80 from core_warehouse.fct_meta_daily where level = 'ACCOUNT'"
    assert pipeline.fetch(days, stopped=stopped) == [(True, True)]


def test_one_revoked_token_stops_one_account_and_keeps_its_cursor(pipeline: Pipeline, sandbox: Sandbox) -> None:
    accounts = pipeline.accounts("META")[:2]
    pipeline.register(accounts)
    pipeline.sync("meta_ads")
    before = cursors(pipeline)
    revoked, healthy = accounts[0]["account_id"], accounts[1]["account_id"]
    sandbox.now(NOW + dt.timedelta(days=1))
    sandbox.state.reset()
    sandbox.faults({"vendor": "meta", "account": revoked, "action": "expired_token"})

    outcomes = {outcome.lane["account_id"]: outcome for outcome in pipeline.sync("meta_ads")}

    assert outcomes[healthy].status == "SUCCEEDED"
    assert outcomes[revoked].status == "FAILED"
    stored = pipeline.fetch(
        "select r.error->>'code', r.error->>'operator_action', c.state from core_warehouse.etl_runs r "
        "join platform_connections c on c.id = r.connection_id where r.status = 'FAILED'"
    )
    assert [row[0] for row in stored] == ["META_AUTH_ERROR"]
    assert "token" in stored[0][1]
    assert stored[0][2] == "NEEDS_RECONNECT"
    after = cursors(pipeline)
    assert [row for row in after if row[0] == revoked] == [row for row in before if row[0] == revoked]
    assert [row for row in after if row[0] == healthy] != [row for row in before if row[0] == healthy]
    calls = [row for row in sandbox.get("calls")["answers"] if row["account"] == revoked]
    assert sum(row["count"] for row in calls) <= 2, "no retry storm"


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(
            [{"vendor": "*", "action": "status", "every": 5, "params": {"status": 429, "retry_after": 1}}],
            id="429 with Retry-After",
        ),
        pytest.param([{"vendor": "*", "action": "status", "every": 6, "params": {"status": 429}}], id="429 without"),
        pytest.param([{"vendor": "*", "action": "status", "times": 2, "params": {"status": 500}}], id="500"),
        pytest.param([{"vendor": "*", "action": "truncate", "times": 2}], id="truncated"),
        pytest.param([{"vendor": "*", "action": "drop", "times": 2}], id="dropped"),
        pytest.param([{"vendor": "*", "action": "html", "times": 2}], id="HTML"),
        pytest.param([{"vendor": "*", "action": "duplicate_page", "times": 2}], id="a page twice"),
        pytest.param([{"vendor": "*", "action": "repeat_cursor", "times": 1}], id="a cursor repeated once"),
    ],
)
def test_passing_faults_leave_the_same_warehouse(
    pipeline: Pipeline, sandbox: Sandbox, rules: list[dict[str, Any]]
) -> None:
    pipeline.register(pipeline.accounts("KLAVIYO")[:1])
    expected = undisturbed(pipeline, sandbox, "klaviyo", streams=KLAVIYO_STREAMS, **WEEK)
    sandbox.faults(*rules)
    outcome = pipeline.sync("klaviyo", streams=KLAVIYO_STREAMS, **WEEK)[0]
    assert outcome.status == "SUCCEEDED", outcome.error
    assert snapshot(pipeline) == expected


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("new_field", None),
        ("wrong_type", "WRONG_TYPE"),
        ("nul_character", "FORBIDDEN_CHARACTER"),
        ("lone_surrogate", "FORBIDDEN_CHARACTER"),
        ("missing_id", "MISSING_KEY"),
    ],
)
def test_a_bad_record_is_kept_with_its_reason_and_every_good_one_is_right(
    pipeline: Pipeline, sandbox: Sandbox, action: str, code: str | None
) -> None:
    pipeline.register([a for a in pipeline.accounts("KLAVIYO") if a["shop_id"] == "aurora"][:1])
    wish = {"streams": ["events", "lists"]}
    for outcome in pipeline.sync("klaviyo", **wish):
        assert outcome.status == "SUCCEEDED", outcome.error
    expected = pipeline.fetch("select record_key, payload->>'id' from staging_ingest.klaviyo_events order by 1")
    assert len(expected) > 100
    with pipeline.warehouse.connection() as conn:
        conn.execute("truncate staging_ingest.klaviyo_events, core_warehouse.fct_klaviyo_event_daily")
        conn.execute("truncate penstock.stream_cursors")
    sandbox.faults({"vendor": "klaviyo", "path": "/api/events", "action": action})
    outcome = pipeline.sync("klaviyo", **wish)[0]
    assert outcome.status == "SUCCEEDED", outcome.error
    found = pipeline.fetch("select record_key, payload->>'id' from staging_ingest.klaviyo_events order by 1")
    assert found == expected
    rejected = pipeline.fetch(
        "select distinct reason_code from staging_ingest.rejected_records where stream = 'events'"
    )
    assert rejected == ([(code,)] if code else [])
    counted = pipeline.fetch(
        "select records_rejected > 0 from core_warehouse.etl_runs order by created_at desc limit 1"
    )
    assert counted == [(code is not None,)]


def test_all_faults_at_once(pipeline: Pipeline, sandbox: Sandbox) -> None:
    pipeline.register(pipeline.accounts("KLAVIYO")[:1])
    expected = undisturbed(pipeline, sandbox, "klaviyo", streams=KLAVIYO_STREAMS, **WEEK)
    sandbox.faults(
        {"vendor": "klaviyo", "action": "status", "every": 9, "params": {"status": 429, "retry_after": 1}},
        {"vendor": "klaviyo", "action": "status", "times": 1, "after": 2, "params": {"status": 500}},
        {"vendor": "klaviyo", "action": "truncate", "times": 1, "after": 4},
        {"vendor": "klaviyo", "action": "drop", "times": 1, "after": 6},
        {"vendor": "klaviyo", "path": "/api/events", "action": "duplicate_page", "times": 1},
        {"vendor": "klaviyo", "path": "/api/events", "action": "missing_id"},
        {"vendor": "klaviyo", "path": "/api/lists", "action": "nul_character"},
        {"vendor": "klaviyo", "path": "/api/segments", "action": "wrong_type"},
        {"vendor": "klaviyo", "path": "/api/flows", "action": "lone_surrogate"},
    )
    outcome = pipeline.sync("klaviyo", streams=KLAVIYO_STREAMS, **WEEK)[0]
    assert outcome.status == "SUCCEEDED", outcome.error
    found = snapshot(pipeline)
    found.pop("staging_ingest.rejected_records")
    reasons = pipeline.fetch("select distinct stream, reason_code from staging_ingest.rejected_records order by 1")
    assert reasons == [
        ("events", "MISSING_KEY"),
        ("flows", "FORBIDDEN_CHARACTER"),
        ("lists", "FORBIDDEN_CHARACTER"),
        ("segments", "WRONG_TYPE"),
    ]
    assert found == expected


def test_a_quota_stop_puts_the_run_back_and_it_goes_on_where_it_stopped(pipeline: Pipeline, sandbox: Sandbox) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    expected = undisturbed(pipeline, sandbox, "meta_ads")
    sandbox.faults(
        {
            "vendor": "meta",
            "path": "/insights",
            "after": 3,
            "action": "status",
            "params": {"status": 429, "retry_after": 1800},
        }
    )
    outcome = pipeline.sync("meta_ads")[0]
    assert outcome.status == "QUEUED"
    row = pipeline.fetch(
        "select status, not_before > now() + interval '30 seconds', error->>'code', attempts "
        "from core_warehouse.etl_runs"
    )
    assert row == [("QUEUED", True, "META_RATE_LIMIT", 1)]
    finished = pipeline.fetch("select slice_no, updated_at from penstock.slices where status = 'DONE' order by 1")
    assert len(finished) >= 3

    sandbox.faults()
    with pipeline.warehouse.connection() as conn:
        conn.execute("update core_warehouse.etl_runs set not_before = now()")
        conn.execute("truncate penstock.rate_limits")
    lanes = platform_etl.claim(
        pipeline.warehouse, source=None, dag_id="queue", dag_run_id="sweep", limit=5, run_ids=None
    )
    assert [pipeline.work(lane).status for lane in lanes] == ["SUCCEEDED"]
    assert snapshot(pipeline) == expected
    again = pipeline.fetch(
        "select slice_no, updated_at from penstock.slices where slice_no = any(%(numbers)s) order by 1",
        numbers=[row[0] for row in finished],
    )
    assert again == finished, "finished slices are not read again"


def test_a_stream_that_fails_leaves_the_run_partial_and_the_cursors_where_they_were(
    pipeline: Pipeline, sandbox: Sandbox
) -> None:
    pipeline.register(pipeline.accounts("GA4")[:1])
    sandbox.faults({"vendor": "ga4", "path": "batchRunReports", "action": "status", "params": {"status": 500}})
    outcome = pipeline.sync("ga4")[0]
    assert outcome.status == "PARTIAL"
    assert cursors(pipeline) == []
    loaded = pipeline.fetch("select count(*) from core_warehouse.fct_ga4_daily where report = 'property'")[0][0]
    assert loaded == 30
    code = pipeline.fetch("select error->>'code', error->>'first_code' from core_warehouse.etl_runs")
    assert code == [("SLICES_FAILED", "GA4_TRANSIENT")]

    sandbox.faults()
    lane = outcome.lane
    again = pipeline.work(lane)
    assert again.status == "SUCCEEDED", "clearing the task reads the failed slices and closes the run"
    assert cursors(pipeline) != []


def test_a_row_that_the_vendor_withdrew_disappears(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    pipeline.sync("meta_ads")
    with pipeline.warehouse.connection() as conn:
        conn.execute(
            "insert into staging_ingest.meta_ads_insights (run_id, slice_no, connection_id, report_key, record_key, "
            "record_date, payload, payload_hash) select run_id, slice_no, connection_id, report_key, "
            "record_key || 'x', record_date, payload || '{\"ad_id\": \"999\"}', payload_hash "
            "from staging_ingest.meta_ads_insights "
            "where report_key = 'insights_ad' and record_date = '2026-11-17' limit 1"
        )
        conn.execute("update penstock.stream_cursors set cursor_at = cursor_at - interval '2 days'")
    ghost = "select count(*) from staging_ingest.meta_ads_insights where payload->>'ad_id' = '999'"
    assert pipeline.fetch(ghost) == [(1,)]
    assert pipeline.sync("meta_ads")[0].status == "SUCCEEDED"
    assert pipeline.fetch(ghost) == [(0,)]


def test_a_backfill_moves_no_cursor_and_leaves_other_days_alone(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    pipeline.sync("meta_ads")
    moved = cursors(pipeline)
    other_days = (
        "select xmin::text, ctid::text from core_warehouse.fct_meta_daily where date >= '2026-10-20' order by 2"
    )
    before = pipeline.fetch(other_days)
    outcome = pipeline.sync(
        "meta_ads", job_type="BACKFILL", window_start=dt.date(2026, 8, 3), window_end=dt.date(2026, 8, 10)
    )[0]
    assert outcome.status == "SUCCEEDED"
    assert cursors(pipeline) == moved
    assert pipeline.fetch(other_days) == before
    days = pipeline.fetch(
        "select distinct date from core_warehouse.fct_meta_daily where date < '2026-10-01' order by 1"
    )
    assert [row[0] for row in days] == [dt.date(2026, 8, day) for day in range(3, 10)]


def test_a_dry_run_says_its_plan_and_writes_nothing(pipeline: Pipeline, sandbox: Sandbox) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    outcome = pipeline.sync("meta_ads", is_dry_run=True)[0]
    assert outcome.status == "SUCCEEDED"
    assert sandbox.answered("meta", "insights") == 0
    assert snapshot(pipeline, "staging_ingest") == {}
    assert cursors(pipeline) == []
    plan = pipeline.fetch("select jsonb_array_length(warnings) from core_warehouse.etl_runs")
    assert plan[0][0] >= 10


def test_a_worker_that_lost_its_run_writes_nothing_more(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads"))[0]
    client_calls = 0

    def open_client(*arguments: Any) -> Any:
        """The run is taken over while the first worker reads."""
        nonlocal client_calls
        client_calls += 1
        if client_calls == 1:
            with pipeline.warehouse.connection() as conn:
                conn.execute("update core_warehouse.etl_runs set lease_epoch = lease_epoch + 1, leased_by = 'another'")
        return pipeline.open_client(*arguments)

    with pytest.raises(PenstockError, match="LEASE_LOST"):
        platform_etl.extract(pipeline.context(lane, open_client=open_client))
    assert pipeline.fetch("select count(*) from penstock.slices") == [(0,)]
    assert pipeline.fetch("select status, leased_by from core_warehouse.etl_runs") == [("IN_PROGRESS", "another")]


def test_a_vendor_that_is_down_fails_the_try_and_not_the_run(pipeline: Pipeline, sandbox: Sandbox) -> None:
    pipeline.register(pipeline.accounts("GA4")[:1])
    lane = pipeline.claim("ga4", pipeline.enqueue("ga4"))[0]
    sandbox.faults({"vendor": "ga4", "path": "traffic|runReport", "action": "status", "params": {"status": 503}})
    with pytest.raises(PenstockError, match="GA4_TRANSIENT"):
        platform_etl.extract(pipeline.context(lane, is_last_try=False))
    assert pipeline.fetch("select status from core_warehouse.etl_runs") == [("IN_PROGRESS",)]
    sandbox.faults()
    with pipeline.warehouse.connection() as conn:
        conn.execute("truncate penstock.circuit_breakers")
    assert pipeline.work(lane).status == "SUCCEEDED"


def test_credentials_are_stored_encrypted(pipeline: Pipeline) -> None:
    account = pipeline.accounts("META")[0]
    pipeline.register([account])
    stored = pipeline.fetch("select credentials::text from platform_connections")[0][0]
    assert account["credentials"]["access_token"] not in stored
    assert '"v1:' in stored


def test_accounts_loaded_together_never_mix(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META"))
    assert {outcome.status for outcome in pipeline.sync("meta_ads", streams=["insights_account", "totals"])} == {
        "SUCCEEDED"
    }
    strangers = pipeline.fetch(
        "select count(*) from staging_ingest.meta_ads_insights s join platform_connections c on c.id = s.connection_id "
        "where s.payload->>'account_id' <> c.account_id"
    )
    assert strangers == [(0,)]
    per_account = pipeline.fetch(
        "select count(distinct connection_id), sum(abs(difference)) "
        "from reporting.reconciliation where metric = 'spend'"
    )
    assert per_account == [(3, 0)]


def test_spend_of_ads_that_are_gone_still_counts(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META"))
    pipeline.sync("meta_ads", streams=["ads", "insights_ad"])
    spent = pipeline.fetch(
        "select count(*) from core_warehouse.fct_meta_daily f "
        "join core_warehouse.dim_ad a on a.connection_id = f.connection_id and a.ad_id = f.entity_id "
        "where f.level = 'AD' and f.spend > 0 and a.effective_status not in ('ACTIVE', 'PAUSED')"
    )
    assert spent[0][0] > 0


def test_no_token_reaches_the_log_or_a_table(
    pipeline: Pipeline, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    account = pipeline.accounts("META")[0]
    pipeline.register([account])
    sandbox.faults({"vendor": "meta", "path": "/insights", "action": "status", "params": {"status": 500}})
    outcome = pipeline.sync("meta_ads", streams=["campaigns", "insights_account"])[0]
    assert outcome.status == "PARTIAL"
    written = pipeline.fetch(
        "select r::text from core_warehouse.etl_runs r union all select s::text from penstock.slices s "
        "union all select b::text from penstock.circuit_breakers b union all select l::text from penstock.rate_limits l"
    )
    secrets = [account["credentials"][name] for name in ("access_token", "app_secret")]
    text = caplog.text + str(outcome.error) + "".join(row[0] for row in written)
    assert [secret for secret in secrets if secret in text] == []
    assert len(written) >= 4
