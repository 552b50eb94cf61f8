"""The views whose rows depend on the clock, and what the others cost."""

from __future__ import annotations

import datetime as dt
import json
import zoneinfo
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.sql.model import Model, connection_id

pytestmark = pytest.mark.db


@pytest.fixture
def model(connect: Callable[[], psycopg.Connection[Any]]) -> Model:
    model = Model(connect())
    model.add_shop("aurora")
    return model


def add_run(model: Model, alias: str | None, status: str, hours: float, **columns: Any) -> None:
    """A run that was asked for `hours` ago and ended, if it did, a minute later.

    columns: a span of time stands for the moment so long ago.
    """
    ended = status in ("SUCCEEDED", "PARTIAL", "FAILED")
    row = {
        "shop_id": "aurora",
        "status": status,
        "job_type": "INCREMENTAL",
        "platform": model.platforms.get(alias or "", "META"),
        "connection_id": connection_id(alias) if alias else None,
        "created_at": model.hours_ago(hours),
        "started_at": None if status == "QUEUED" else model.hours_ago(hours),
        "completed_at": model.hours_ago(hours) + dt.timedelta(minutes=1) if ended else None,
        **{name: model.now - value if isinstance(value, dt.timedelta) else value for name, value in columns.items()},
    }
    model.insert("core_warehouse.etl_runs", [row])


def health(model: Model, alias: str) -> str:
    found = model.rows(
        "select distinct health from reporting.sync_status where connection_id = %(id)s", id=connection_id(alias)
    )
    assert len(found) == 1
    return str(found[0]["health"])


FAILURE = {"code": "META_AUTH_ERROR", "message": "token expired", "operator_action": "Reissue the token."}
LIMITED = {"code": "META_RATE_LIMIT", "message": "too many calls"}


@pytest.mark.parametrize(
    ("expected", "account", "runs"),
    [
        ("NEVER_RUN", {}, []),
        ("NEVER_RUN", {}, [("QUEUED", 1, {})]),
        ("OK", {}, [("SUCCEEDED", 20, {})]),
        ("OK", {}, [("FAILED", 21, {}), ("SUCCEEDED", 20, {})]),
        ("OK", {"sync_frequency": 2880}, [("SUCCEEDED", 90, {})]),
        ("OK", {}, [("SUCCEEDED", 20, {}), ("FAILED", 1, {"job_type": "BACKFILL"})]),
        ("OK", {}, [("SUCCEEDED", 20, {}), ("FAILED", 1, {"is_dry_run": True})]),
        ("STALE", {}, [("SUCCEEDED", 90, {})]),
        ("STALE", {"settings": {"stale_after_hours": 2}}, [("SUCCEEDED", 3, {})]),
        ("STALE", {}, [("SUCCEEDED", 90, {}), ("SUCCEEDED", 1, {"job_type": "BACKFILL"})]),
        ("FAILING", {}, [("SUCCEEDED", 20, {}), ("FAILED", 1, {"error": FAILURE})]),
        ("FAILING", {}, [("SUCCEEDED", 20, {}), ("PARTIAL", 1, {})]),
        ("RUNNING", {}, [("SUCCEEDED", 20, {}), ("IN_PROGRESS", 0, {"leased_until": dt.timedelta(hours=-1)})]),
        ("RUNNING", {}, [("IN_PROGRESS", 0.1, {"heartbeat_at": dt.timedelta(hours=0.05)})]),
        ("STUCK", {}, [("SUCCEEDED", 20, {}), ("IN_PROGRESS", 2, {"leased_until": dt.timedelta(hours=1)})]),
        ("STUCK", {}, [("IN_PROGRESS", 2, {})]),
        (
            "WAITING_FOR_QUOTA",
            {},
            [("FAILED", 9, {}), ("QUEUED", 1, {"not_before": dt.timedelta(hours=-3), "error": LIMITED})],
        ),
        ("OK", {}, [("SUCCEEDED", 9, {}), ("QUEUED", 0, {"not_before": dt.timedelta(hours=-0.01)})]),
        ("NEEDS_RECONNECT", {"state": "NEEDS_RECONNECT"}, [("SUCCEEDED", 1, {})]),
        ("NEEDS_PERMISSION", {"state": "NEEDS_PERMISSION"}, []),
        ("PAUSED", {"state": "PAUSED"}, [("SUCCEEDED", 1, {})]),
        ("DISABLED", {"is_active": False, "state": "NEEDS_RECONNECT"}, [("FAILED", 1, {})]),
    ],
)
def test_an_accounts_health(
    model: Model, expected: str, account: dict[str, Any], runs: list[tuple[str, float, dict[str, Any]]]
) -> None:
    model.add_account("main", "META", account_id="1", **account)
    for status, hours, columns in runs:
        add_run(model, "main", status, hours, **columns)
    assert health(model, "main") == expected


def test_a_run_that_is_transformed_is_not_stuck(model: Model) -> None:
    model.add_account("main", "META", account_id="1")
    model.add_account("other", "META", account_id="2")
    for alias in ("main", "other"):
        add_run(model, alias, "IN_PROGRESS", 2, leased_until=dt.timedelta(hours=1))
    model.rows(
        "select pg_advisory_lock(hashtextextended('penstock transform ' || %(id)s, 0))", id=connection_id("main")
    )
    assert (health(model, "main"), health(model, "other")) == ("RUNNING", "STUCK")


def test_sync_status_keeps_the_old_columns_first_and_lists_runs_newest_first(model: Model) -> None:
    model.add_account("main", "META", account_id="1")
    model.add_account("fresh", "GA4", account_id="2")
    add_run(model, "main", "SUCCEEDED", 30, records_synced=12)
    add_run(model, "main", "FAILED", 2, error=FAILURE)
    add_run(model, None, "QUEUED", 1)
    rows = model.rows("select * from reporting.sync_status")
    assert list(rows[0])[:11] == [
        "run_id",
        "shop_id",
        "shop_name",
        "status",
        "job_type",
        "platform",
        "records_synced",
        "created_at",
        "started_at",
        "completed_at",
        "error",
    ]
    assert [(row["status"], row["health"]) for row in rows] == [
        (None, "NEVER_RUN"),
        ("QUEUED", "NEVER_RUN"),
        ("FAILED", "FAILING"),
        ("SUCCEEDED", "FAILING"),
    ]
    failed = rows[2]
    assert (failed["error_code"], failed["remedy"]) == ("META_AUTH_ERROR", "Reissue the token.")
    assert failed["shop_name"] == "Aurora"
    assert rows[3]["records_synced"] == 12
    assert rows[0]["account_name"] == "fresh"


def test_sync_status_tells_cursor_age_and_the_next_attempt(model: Model) -> None:
    model.add_account(
        "main",
        "META",
        account_id="1",
        next_sync_at=model.hours_ago(-5),
        consecutive_failures=2,
        last_error_code="UNKNOWN",
    )
    add_run(model, "main", "SUCCEEDED", 30)
    add_run(model, "main", "QUEUED", 1, not_before=model.hours_ago(-2), error=LIMITED)
    for stream, hours in (("insights_ad", 40), ("insights_account", 16)):
        cursor = {
            "connection_id": connection_id("main"),
            "stream": stream,
            "cursor_at": model.hours_ago(hours),
            "run_id": connection_id("any"),
        }
        model.insert("penstock.stream_cursors", [cursor])
    queued, succeeded = model.rows("select * from reporting.sync_status")
    assert queued["cursor"] == model.hours_ago(40)
    assert round(queued["age"].total_seconds() / 3600) == 30
    assert queued["consecutive_failures"] == 2
    assert queued["next_attempt_at"] == model.hours_ago(-2)
    assert succeeded["next_attempt_at"] == model.hours_ago(-5)
    assert queued["last_error_code"] == "UNKNOWN"


@pytest.mark.parametrize(("is_active", "hours"), [(True, 5), (None, 5), (False, None)])
def test_an_account_has_a_next_attempt_unless_it_is_switched_off(
    model: Model, is_active: bool | None, hours: int | None
) -> None:
    model.add_account("main", "META", account_id="1", is_active=is_active, next_sync_at=model.hours_ago(-5))
    expected = None if hours is None else model.hours_ago(-hours)
    assert model.value("select next_attempt_at from reporting.sync_status") == expected


def test_data_freshness_names_the_last_day_and_how_far_the_cursor_is_behind(model: Model) -> None:
    model.add_account("main", "META", account_id="1", time_zone="Pacific/Kiritimati", last_synced_at=model.now)
    today = model.now.astimezone(dt.timezone(dt.timedelta(hours=14))).date()
    record = {
        "date_start": (today - dt.timedelta(days=2)).isoformat(),
        "date_stop": (today - dt.timedelta(days=2)).isoformat(),
        "account_id": "1",
        "spend": "1",
        "impressions": "1",
    }
    model.stage("main", "insights_account", [record])
    model.transform("main", {"insights_account": (today - dt.timedelta(days=2), today)})
    cursor = {
        "connection_id": connection_id("main"),
        "stream": "insights_account",
        "cursor_at": model.now - dt.timedelta(days=1),
        "run_id": connection_id("any"),
    }
    model.insert("penstock.stream_cursors", [cursor])
    rows = {row["stream"]: row for row in model.rows("select * from reporting.data_freshness")}
    found = rows["insights_account"]
    assert found["last_day"] == today - dt.timedelta(days=2)
    assert found["days_behind"] == 1
    sunday = today - dt.timedelta(days=today.isoweekday() % 7)
    assert found["final_through"] == sunday - dt.timedelta(days=29), "read that late on Sundays alone"
    assert rows["insights_ad"]["last_day"] is None
    assert rows["insights_ad"]["days_behind"] is None


def test_data_quality_shows_findings_and_records_that_wait_to_be_replayed(model: Model) -> None:
    model.add_account("main", "META", account_id="1")
    run_id = model.transform("main", {})
    rejected = {
        "run_id": run_id,
        "slice_no": 0,
        "connection_id": connection_id("main"),
        "source": "meta_ads",
        "stream": "insights_ad",
        "reason_code": "WRONG_TYPE",
        "payload": "{}",
    }
    for number, replayed_at in ((1, None), (2, None), (3, model.now)):
        row = {**rejected, "reason": f"spend {number}", "payload_hash": str(number), "replayed_at": replayed_at}
        model.insert("staging_ingest.rejected_records", [row])
    model.insert(
        "penstock.quality_results",
        [{"run_id": run_id, "check_code": "TOTALS_MISMATCH", "scope": "spend 2026-11-01", "severity": "WARN"}],
    )
    rows = model.rows("select check_code, scope, observed, account_id from reporting.data_quality order by check_code")
    assert [tuple(row.values()) for row in rows] == [
        ("TOTALS_MISMATCH", "spend 2026-11-01", None, "1"),
        ("WRONG_TYPE", "insights_ad", 2, "1"),
    ]


def test_the_unfinished_day_is_marked_in_the_accounts_own_zone(model: Model) -> None:
    model.add_account("east", "META", account_id="1", time_zone="Pacific/Kiritimati")
    model.add_account("west", "META", account_id="2", time_zone="Pacific/Pago_Pago")
    today_east = model.now.astimezone(dt.timezone(dt.timedelta(hours=14))).date()
    for alias in ("east", "west"):
        model.transform(alias, {"totals": (today_east - dt.timedelta(days=1), today_east - dt.timedelta(days=1))})
    rows = model.rows("select account_id, is_provisional from reporting.reconciliation where metric = 'spend'")
    assert {row["account_id"]: row["is_provisional"] for row in rows} == {"1": False, "2": True}


# -- zones ------------------------------------------------------------------------------------------------------


def test_every_zone_that_has_a_name_is_known(model: Model) -> None:
    names = sorted(zoneinfo.available_timezones() - {"localtime", "posixrules", "Factory"})
    query = "select name from unnest(%(names)s::text[]) as n (name) where core_warehouse.known_time_zone(name) <> name"
    assert model.rows(query, names=names) == []


@pytest.mark.parametrize(
    "text",
    [
        "(GMT-05:00) Eastern Time (US & Canada)",
        "(GMT+01:00) Amsterdam",
        "UTC+2",
        "GMT-5",
        "+02:00",
        "Mars/Base",
        "",
        None,
    ],
)
def test_what_is_no_zones_name_counts_as_utc(model: Model, text: str | None) -> None:
    """Postgres would read an offset with its sign the other way round."""
    assert model.value("select core_warehouse.known_time_zone(%(text)s)", text=text) == "UTC"


# -- cost -------------------------------------------------------------------------------------------------------

BIG = """
insert into core_warehouse.fct_meta_daily (
    connection_id, level, date, entity_id, currency, spend, impressions, clicks, inline_link_clicks, outbound_clicks,
    landing_page_views, video_views_3s, purchases, purchase_value, add_to_carts, initiate_checkouts, leads, run_id
)
select
    account.id, part.level, date '2025-01-01' + day, 'e' || entity, 'EUR', 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    account.id
from public.platform_connections as account
cross join (values ('ACCOUNT', 1), ('AD', 40)) as part (level, entities)
cross join generate_series(0, 364) as day
cross join generate_series(1, part.entities) as entity
"""


@pytest.mark.parametrize(
    "query",
    [
        "select * from reporting.blended_daily_performance where shop_id = 'aurora' and date between {}",
        "select * from reporting.reconciliation where connection_id = '{account}' and date between {}",
        "select * from core_warehouse.fct_ad_spend_daily where connection_id = '{account}' and date between {}",
        "select * from reporting.data_freshness where connection_id = '{account}'",
    ],
)
def test_a_month_of_one_shop_is_read_through_indexes(model: Model, query: str) -> None:
    for number in range(3):
        model.add_account(f"account {number}", "META", account_id=str(number), shop_id=["aurora", "b", "c"][number])
    model.conn.execute(BIG)
    model.conn.execute("analyze core_warehouse.fct_meta_daily")
    asked = query.format("'2025-06-01' and '2025-06-30'", account=connection_id("account 0"))
    plan = model.value(f"explain (analyze, buffers, format json) {asked}")[0]["Plan"]
    assert "fct_meta_daily_pkey" in json.dumps(plan)
    scanned = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"}
    assert "fct_meta_daily" not in scanned
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 250


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(found for child in plan.get("Plans", []) for found in nodes(child))]
