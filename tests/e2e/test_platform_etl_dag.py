"""`platform_etl__<source>` from the trigger to the warehouse."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from tests.e2e.conftest import Deployment

pytestmark = [
    pytest.mark.dags,
    pytest.mark.db,
    pytest.mark.e2e,
    # Here Airflow itself runs, and it and its libraries warn about each other.
    pytest.mark.filterwarnings("default"),
]

PAST = dt.datetime(2026, 1, 15, tzinfo=dt.UTC)


def test_a_date_in_the_past_is_read_as_a_backfill_and_no_cursor_moves(deployment: Deployment) -> None:
    accounts = deployment.register("KLAVIYO")
    ended = deployment.run("platform_etl__klaviyo", logical_date=PAST)
    assert ended.state == "success"
    lanes = ["success"] * len(accounts)
    assert ended.tasks["sync_account.extract"] == lanes
    assert ended.tasks["sync_account.transform"] == lanes
    assert ended.tasks["sync_account.finish"] == lanes
    runs = deployment.rows(
        "select status, job_type, window_start, window_end, requested_by from core_warehouse.etl_runs"
    )
    window = (dt.date(2026, 1, 13), dt.date(2026, 1, 16))
    assert [tuple(run.values()) for run in runs] == [("SUCCEEDED", "BACKFILL", *window, "trigger")] * len(accounts)
    assert deployment.rows("select * from penstock.stream_cursors") == []
    days = deployment.rows("select distinct date from core_warehouse.fct_account_totals order by date")
    assert [row["date"] for row in days] == [dt.date(2026, 1, day) for day in (13, 14, 15)]
    assert deployment.rows("select * from reporting.reconciliation where difference <> 0") == []
    assert deployment.alerts == []


def test_every_lane_carries_the_name_of_its_account(deployment: Deployment) -> None:
    accounts = deployment.register("KLAVIYO")
    ended = deployment.run("platform_etl__klaviyo", logical_date=PAST, run_conf={"streams": ["lists"]})
    expected = sorted(f"klaviyo {each['account_name']} ({each['account_id']}) backfill" for each in accounts)
    for task_id in ("sync_account.extract", "sync_account.transform", "sync_account.finish"):
        assert sorted(str(label) for label in ended.labels[task_id]) == expected


def test_params_choose_account_window_and_streams(deployment: Deployment) -> None:
    chosen, *_ = deployment.register("META")
    conf = {
        "accounts": [chosen["account_id"]],
        "from": "2026-10-01",
        "to": "2026-10-02",
        "streams": ["insights_account", "totals"],
    }
    ended = deployment.run("platform_etl__meta_ads", run_conf=conf)
    assert ended.state == "success"
    (run,) = deployment.rows(
        "select connection_id::text, job_type, window_start, window_end from core_warehouse.etl_runs"
    )
    assert run == {
        "connection_id": chosen["connection_id"],
        "job_type": "BACKFILL",
        "window_start": dt.date(2026, 10, 1),
        "window_end": dt.date(2026, 10, 3),
    }
    staged = deployment.rows("select distinct report_key, record_date from staging_ingest.meta_ads_insights order by 2")
    assert [tuple(row.values()) for row in staged] == [
        ("insights_account", dt.date(2026, 10, 1)),
        ("insights_account", dt.date(2026, 10, 2)),
    ]


def test_a_manual_run_now_is_incremental_and_moves_the_cursors(deployment: Deployment) -> None:
    accounts = deployment.register("META")
    conf = {"streams": ["insights_account", "totals"]}
    ended = deployment.run("platform_etl__meta_ads", run_conf=conf)
    assert ended.state == "success"
    cursors = deployment.rows("select distinct connection_id::text from penstock.stream_cursors")
    assert {row["connection_id"] for row in cursors} == {account["connection_id"] for account in accounts}
    assert {row["job_type"] for row in deployment.rows("select job_type from core_warehouse.etl_runs")} == {
        "INCREMENTAL"
    }


def test_a_revoked_token_fails_its_own_account_only_with_one_alert_and_no_retry(deployment: Deployment) -> None:
    def revoke(account: dict[str, Any]) -> None:
        if account["shop_id"] == "aurora":
            account["credentials"] = {**account["credentials"], "access_token": "EAAwasrevokedyesterday0000"}

    accounts = deployment.register("META", spoil=revoke)
    broken = next(account for account in accounts if account["shop_id"] == "aurora")
    ended = deployment.run("platform_etl__meta_ads", run_conf={"streams": ["insights_account", "totals"]})

    assert ended.state == "failed"
    assert sorted(ended.tasks["sync_account.extract"]) == ["failed", *["success"] * (len(accounts) - 1)]
    assert sorted(ended.tasks["sync_account.transform"]) == [*["success"] * (len(accounts) - 1), "upstream_failed"]
    assert sorted(ended.tasks["sync_account.finish"]) == ["failed", *["success"] * (len(accounts) - 1)]
    assert set(ended.tries["sync_account.extract"]) == {1}

    (failed,) = deployment.rows(
        "select connection_id::text, error from core_warehouse.etl_runs where status = 'FAILED'"
    )
    assert failed["connection_id"] == broken["connection_id"]
    assert failed["error"]["code"] == "META_AUTH_ERROR"
    succeeded = deployment.rows("select 1 from core_warehouse.etl_runs where status = 'SUCCEEDED'")
    assert len(succeeded) == len(accounts) - 1
    cursors = deployment.rows("select distinct connection_id::text from penstock.stream_cursors")
    assert broken["connection_id"] not in {row["connection_id"] for row in cursors}
    assert len(cursors) == len(accounts) - 1

    (alert,) = deployment.alerts
    text = alert["text"]
    assert "*META_AUTH_ERROR* in `platform_etl__meta_ads` · `sync_account.extract`" in text
    assert f"{broken['account_name']} ({broken['account_id']})" in text
    assert "*What to do:* Issue a new system-user token" in text
    assert "<http://airflow.example/dags/platform_etl__meta_ads/runs/" in text
    assert "EAAwasrevokedyesterday0000" not in str(alert)


def test_a_passing_fault_is_retried_and_the_second_try_goes_on(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.jobs import platform_etl

    accounts = deployment.register("KLAVIYO")
    extract, calls = platform_etl.extract, []

    def drop_once(context: Any) -> dict[str, Any]:
        calls.append((context.run_id, context.is_last_try))
        if len(calls) == 1:
            raise ConnectionResetError("the network went away")
        return extract(context)

    monkeypatch.setattr(platform_etl, "extract", drop_once)
    monkeypatch.setattr(
        deployment.dags["platform_etl__klaviyo"].get_task("sync_account.extract"),
        "retry_delay",
        dt.timedelta(seconds=1),
    )
    ended = deployment.run("platform_etl__klaviyo", logical_date=PAST, run_conf={"streams": ["lists"]})
    assert ended.state == "success"
    assert sorted(ended.tries["sync_account.extract"]) == [*[1] * (len(accounts) - 1), 2]
    assert [is_last for _, is_last in calls] == [False] * (len(accounts) + 1)
    assert deployment.alerts == []


def test_a_quota_puts_the_run_back_and_nothing_is_red(deployment: Deployment) -> None:
    deployment.register("KLAVIYO")
    limited = {"vendor": "klaviyo", "path": "/api/lists$", "action": "status"}
    deployment.sandbox.faults({**limited, "params": {"status": 429, "retry_after": 3600}})
    ended = deployment.run("platform_etl__klaviyo", logical_date=PAST, run_conf={"streams": ["lists"]})
    assert ended.state == "success"
    assert set(ended.tasks["sync_account.extract"]) == {"skipped"}
    assert set(ended.tasks["sync_account.transform"]) == {"skipped"}
    waiting = deployment.rows(
        "select status, leased_until, not_before > now() + interval '50 minutes' as is_later "
        "from core_warehouse.etl_runs"
    )
    assert {tuple(run.values()) for run in waiting} == {("QUEUED", None, True)}
    assert deployment.alerts == []


def test_a_defect_is_alerted_once_per_run_and_leaves_no_run_open(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.jobs import platform_etl

    def break_down(context: Any) -> dict[str, Any]:
        platform_etl.context.begin_stage(context, is_first=True)
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(platform_etl, "extract", break_down)
    accounts = deployment.register("META")
    monkeypatch.setattr(deployment.dags["platform_etl__meta_ads"].get_task("sync_account.extract"), "retries", 0)
    ended = deployment.run("platform_etl__meta_ads", logical_date=PAST)
    assert ended.state == "failed"
    assert set(ended.tasks["sync_account.finish"]) == {"failed"}
    statuses = deployment.rows("select distinct status from core_warehouse.etl_runs")
    assert statuses == [{"status": "FAILED"}]
    # The first goes out, those of the same minute are held and go out with the next.
    (told,) = deployment.alerts
    texts = [told["text"]] + [row["body"] for row in deployment.rows("select body from penstock.held_alerts")]
    assert len(texts) == len(accounts)
    assert all("*UNKNOWN* in `platform_etl__meta_ads` · `sync_account.extract`" in text for text in texts)
    assert all("ZeroDivisionError: division by zero" in text for text in texts)


def test_without_accounts_the_run_is_green_and_says_nothing(deployment: Deployment) -> None:
    ended = deployment.run("platform_etl__ga4", logical_date=PAST)
    assert ended.state == "success"
    assert ended.tasks["sync_account.extract"] == ["skipped"]
    assert deployment.alerts == []


def test_a_param_that_cannot_be_meant_fails_once_with_an_alert(deployment: Deployment) -> None:
    deployment.register("KLAVIYO")
    ended = deployment.run("platform_etl__klaviyo", run_conf={"from": "2026-10-02", "to": "2026-10-01"})
    assert ended.state == "failed"
    assert ended.tasks["enqueue_runs"] == ["failed"]
    assert ended.tries["enqueue_runs"] == [1]
    (alert,) = deployment.alerts
    assert "*CONFIG_INVALID* in `platform_etl__klaviyo` · `enqueue_runs`" in alert["text"]
