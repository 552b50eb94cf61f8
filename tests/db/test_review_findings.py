"""Ways in which a run queue and its cursors go quietly wrong: rows nobody claims, days nobody reads, rows lost to an
older reading, accounts that are asked again and again."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.core.errors import error
from penstock.core.lease import MAX_ATTEMPTS
from penstock.jobs import platform_etl
from penstock.jobs.platform_etl import RunContext, RunNotComplete, remote_report
from penstock.jobs.platform_etl.context import begin_stage, fail_run
from penstock.warehouse.session import Warehouse
from penstock.warehouse.vault import Vault
from tests.db.test_run_queue import add_account, claim, dashboard_insert, enqueue, execute, fetch, status
from tests.pipeline import Pipeline, hurried
from tests.sandbox_fixture import NOW, Sandbox

PACE = 10.0


@pytest.fixture
def pipeline(warehouse: Warehouse, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.setattr(remote_report, "REPORT_POLL_SECONDS", (0.1,))
    with hurried(sandbox.state, PACE):
        yield Pipeline(warehouse, sandbox.url, now=lambda: sandbox.state.clock.now(), vendor_pace=PACE)


def context_of(warehouse: Warehouse, lane: dict[str, Any]) -> RunContext:
    return RunContext(warehouse, Vault.from_environment({}), lane, open_client=lambda *_: None)  # type: ignore[arg-type,return-value]


def next_sync_is_due(warehouse: Warehouse) -> bool:
    return bool(fetch(warehouse, "select next_sync_at <= now() from platform_connections")[0][0])


# -- rows that nobody claims


@pytest.mark.parametrize("leased_until", ["now() - interval '1 minute'", "null"])
def test_an_old_workers_stuck_row_without_an_account_is_taken_up(warehouse: Warehouse, leased_until: str) -> None:
    """The old worker's rows name no account. One whose process died blocks its shop's key until somebody takes it."""
    add_account(warehouse, "META", "1")
    execute(
        warehouse,
        "insert into core_warehouse.etl_runs (shop_id, status, job_type, platform, started_at, leased_until) "
        f"values ('aurora', 'IN_PROGRESS', 'INCREMENTAL', 'META', now() - interval '2 hours', {leased_until})",
    )
    lanes = claim(warehouse)
    assert [lane["account_id"] for lane in lanes] == ["1"]
    execute(warehouse, "update core_warehouse.etl_runs set status = 'SUCCEEDED' where connection_id is not null")
    claim(warehouse, "sweep")
    assert fetch(warehouse, "select distinct status from core_warehouse.etl_runs") == [("SUCCEEDED",)]
    dashboard_insert(warehouse, "META")


def test_an_old_worker_that_is_at_work_keeps_its_row(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    execute(
        warehouse,
        "insert into core_warehouse.etl_runs (shop_id, status, job_type, platform, started_at) "
        "values ('aurora', 'IN_PROGRESS', 'INCREMENTAL', 'META', now() - interval '2 minutes')",
    )
    assert claim(warehouse) == []


def test_an_account_that_belongs_to_no_shop_does_not_stop_the_others(warehouse: Warehouse) -> None:
    """The metrics worker's accounts have no shop; some have no id at the vendor either."""
    add_account(warehouse, "META", "1")
    execute(warehouse, "insert into platform_connections (platform, account_id) values ('META', '2'), ('META', null)")
    run_ids = enqueue(warehouse)
    assert [lane["account_id"] for lane in claim(warehouse, source="meta_ads", run_ids=run_ids)] == ["1"]
    assert platform_etl.enqueue_due(warehouse, dag_id="dag", dag_run_id="sweep") == []


def test_a_cleared_dag_run_reads_again_instead_of_finding_nothing_to_do(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    first = enqueue(warehouse)
    execute(warehouse, "update core_warehouse.etl_runs set status = 'FAILED', completed_at = now()")
    again = enqueue(warehouse)
    assert again != first
    assert [lane["run_id"] for lane in claim(warehouse, source="meta_ads", run_ids=again)] == again


# -- accounts that are asked again and again


def test_an_account_whose_runs_kill_their_workers_waits_longer_each_time(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    platform_etl.enqueue_due(warehouse, dag_id="dag", dag_run_id="run 1")
    claim(warehouse)
    execute(
        warehouse,
        "update core_warehouse.etl_runs set leased_until = now() - interval '1 second', attempts = %(n)s",
        n=MAX_ATTEMPTS,
    )
    claim(warehouse, "sweep")
    assert fetch(warehouse, "select status from core_warehouse.etl_runs") == [("FAILED",)]
    assert platform_etl.enqueue_due(warehouse, dag_id="dag", dag_run_id="run 2") == []
    row = fetch(warehouse, "select consecutive_failures, last_error_code from platform_connections")
    assert row == [(1, "ATTEMPTS_EXHAUSTED")]


def test_an_account_whose_run_was_left_open_by_its_task_waits_too(warehouse: Warehouse) -> None:
    """A defect in our code ends the task without ending the run; `finish` does, every five minutes otherwise."""
    add_account(warehouse, "META", "1")
    platform_etl.enqueue_due(warehouse, dag_id="dag", dag_run_id="run 1")
    lane = claim(warehouse)[0]
    with pytest.raises(RunNotComplete):
        platform_etl.finish(context_of(warehouse, lane))
    assert status(warehouse, lane["run_id"]) == "FAILED"
    assert not next_sync_is_due(warehouse)


def test_a_backfill_that_fails_does_not_put_off_the_daily_runs(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    run_ids = enqueue(warehouse, job_type="BACKFILL", window_start=dt.date(2026, 1, 1), window_end=dt.date(2026, 1, 2))
    lane = claim(warehouse, source="meta_ads", run_ids=run_ids)[0]
    context = context_of(warehouse, lane)
    context.rng = random.Random(1)
    fail_run(context, begin_stage(context, is_first=True), error("META_INVALID_QUERY", "no such field"), task="extract")
    assert status(warehouse, lane["run_id"]) == "FAILED"
    assert next_sync_is_due(warehouse)


@pytest.mark.parametrize("code", ["NETWORK_UNREACHABLE", "META_AUTH_ERROR"])
def test_a_dry_run_that_fails_leaves_the_accounts_schedule_and_state_alone(warehouse: Warehouse, code: str) -> None:
    lane = lane_of_a_dry_run(warehouse)
    context = context_of(warehouse, lane)
    fail_run(context, begin_stage(context, is_first=True), error(code, "no"), task="extract")
    assert status(warehouse, lane["run_id"]) == "FAILED"
    assert_untouched(warehouse)


def test_a_dry_run_that_its_task_left_open_leaves_the_account_alone(warehouse: Warehouse) -> None:
    lane = lane_of_a_dry_run(warehouse)
    with pytest.raises(RunNotComplete, match="ATTEMPTS_EXHAUSTED"):
        platform_etl.finish(context_of(warehouse, lane))
    assert_untouched(warehouse)


def test_a_dry_run_that_kills_its_workers_leaves_the_account_alone(warehouse: Warehouse) -> None:
    lane = lane_of_a_dry_run(warehouse)
    lapse = "update core_warehouse.etl_runs set leased_until = now() - interval '1 second', attempts = %(n)s"
    execute(warehouse, lapse, n=MAX_ATTEMPTS)
    assert claim(warehouse, "sweep") == []
    assert status(warehouse, lane["run_id"]) == "FAILED"
    assert_untouched(warehouse)


def lane_of_a_dry_run(warehouse: Warehouse) -> dict[str, Any]:
    add_account(warehouse, "META", "1")
    return claim(warehouse, source="meta_ads", run_ids=enqueue(warehouse, is_dry_run=True))[0]


def assert_untouched(warehouse: Warehouse) -> None:
    """The account is due, and nobody has to do anything for it."""
    columns = "next_sync_at <= now(), state, consecutive_failures, last_error_code"
    assert fetch(warehouse, f"select {columns} from platform_connections") == [(True, "OK", 0, None)]


# -- accounts that a person has paused


@pytest.mark.parametrize("trouble", [None, "META_AUTH_ERROR"])
def test_an_account_that_is_paused_during_its_run_stays_paused(pipeline: Pipeline, trouble: str | None) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    lane = pipeline.claim("meta_ads", pipeline.enqueue("meta_ads", streams=["campaigns"]))[0]
    execute(pipeline.warehouse, "update platform_connections set state = 'PAUSED'")

    def open_client(*of: Any) -> Any:
        if trouble:
            raise error(trouble, "the token was revoked")
        return pipeline.open_client(*of)

    assert pipeline.work(lane, open_client=open_client).status == ("FAILED" if trouble else "SUCCEEDED")
    found = pipeline.fetch("select state, last_error_code from platform_connections")
    assert found == [("PAUSED", trouble)]


@pytest.mark.parametrize(("before", "after"), [("PAUSED", "PAUSED"), ("NEEDS_RECONNECT", "OK")])
def test_registering_an_account_again_ends_what_its_new_token_mends(
    pipeline: Pipeline, before: str, after: str
) -> None:
    """A start registers its accounts every time; a pause is no fault that a token mends."""
    accounts = pipeline.accounts("META")[:1]
    pipeline.register(accounts)
    execute(pipeline.warehouse, "update platform_connections set state = %(state)s", state=before)
    pipeline.register(accounts)
    assert pipeline.fetch("select state from platform_connections") == [(after,)]


# -- days that nobody reads


def test_a_historical_window_beyond_the_cursor_does_not_carry_it_over_days_that_nobody_read(
    pipeline: Pipeline,
) -> None:
    connection_id = pipeline.register(pipeline.accounts("GA4")[:1])[0]
    behind = dt.datetime(2026, 10, 1, tzinfo=dt.UTC)
    with pipeline.warehouse.connection() as conn:
        conn.execute(
            "insert into penstock.stream_cursors (connection_id, stream, cursor_at, run_id) "
            "values (%s, 'property', %s, gen_random_uuid())",
            [connection_id, behind],
        )
    wish = {"streams": ["property"], "job_type": "HISTORICAL"}
    window = {"window_start": dt.date(2026, 11, 10), "window_end": dt.date(2026, 11, 19)}
    assert [outcome.status for outcome in pipeline.sync("ga4", **wish, **window)] == ["SUCCEEDED"]
    assert pipeline.fetch("select cursor_at from penstock.stream_cursors") == [(behind,)]

    # What was due from the cursor on: the Sunday's late look at old days as well.
    window["window_start"] = dt.date(2026, 9, 20)
    assert [outcome.status for outcome in pipeline.sync("ga4", **wish, **window)] == ["SUCCEEDED"]
    assert pipeline.fetch("select cursor_at from penstock.stream_cursors") == [(behind,)]

    window["window_start"] = dt.date(2026, 8, 20)
    assert [outcome.status for outcome in pipeline.sync("ga4", **wish, **window)] == ["SUCCEEDED"]
    assert pipeline.fetch("select cursor_at > '2026-11-16' from penstock.stream_cursors") == [(True,)]


STOPPED = dt.date(2026, 8, 20)
CHOSEN = {"job_type": "HISTORICAL", "window_start": dt.date(2026, 11, 16), "window_end": dt.date(2026, 11, 19)}
ACCOUNT_DAYS = "select min(date), count(*) from core_warehouse.fct_meta_daily where level = 'ACCOUNT'"


def leave_old_cursor(pipeline: Pipeline, shop_id: str) -> None:
    execute(
        pipeline.warehouse,
        "insert into core_warehouse.sync_cursors (shop_id, platform, cursor_value) values (%(shop)s, 'META', %(day)s)",
        shop=shop_id,
        day=STOPPED.isoformat(),
    )


@pytest.mark.parametrize("first", [CHOSEN, {"streams": ["campaigns"]}], ids=["chosen days", "some streams"])
def test_a_first_run_of_less_than_was_due_loses_no_day_since_the_old_worker_stopped(
    pipeline: Pipeline, first: dict[str, Any]
) -> None:
    accounts = pipeline.accounts("META")[:1]
    pipeline.register(accounts)
    leave_old_cursor(pipeline, accounts[0]["shop_id"])
    assert pipeline.sync("meta_ads", **first)[0].status == "SUCCEEDED"
    left = "select cursor_value from core_warehouse.sync_cursors"
    assert pipeline.fetch(left) == [(STOPPED.isoformat(),)], "an old worker that returns goes on there"
    assert pipeline.sync("meta_ads")[0].status == "SUCCEEDED"
    ((first_day, days),) = pipeline.fetch(ACCOUNT_DAYS)
    assert first_day <= STOPPED
    assert days > 80
    assert pipeline.fetch(left) == [("2026-11-17",)]


def test_an_account_whose_first_run_reads_chosen_days_still_gets_its_first_month(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    for wish in (CHOSEN, {}):
        assert pipeline.sync("meta_ads", streams=["insights_account"], **wish)[0].status == "SUCCEEDED"
    assert pipeline.fetch(ACCOUNT_DAYS) == [(dt.date(2026, 10, 20), 30)]


def test_the_run_of_one_account_is_no_old_cursor_to_the_shops_other_account(
    pipeline: Pipeline, sandbox: Sandbox
) -> None:
    """The first one's token lacks a permission: its run is PARTIAL once, and its cursors have moved all the same."""
    accounts = [account | {"shop_id": "aurora"} for account in pipeline.accounts("META")[:2]]
    pipeline.register(accounts)
    sandbox.faults({"vendor": "meta", "path": "/adsets$", "action": "status", "params": {"status": 403}})
    assert [run.status for run in pipeline.sync("meta_ads", accounts=[accounts[0]["account_id"]])] == ["PARTIAL"]
    sandbox.faults()
    other = accounts[1]["account_id"]
    assert [run.status for run in pipeline.sync("meta_ads", accounts=[other])] == ["SUCCEEDED"]
    days = "select count(distinct date) from core_warehouse.fct_meta_daily join platform_connections c "
    assert pipeline.fetch(days + "on c.id = connection_id where account_id = %(other)s", other=other) == [(30,)]


def first_days(pipeline: Pipeline) -> dict[str, dt.date]:
    rows = pipeline.fetch(
        "select s.stream, min((s.window_start at time zone c.time_zone)::date) from penstock.slices s "
        "join core_warehouse.etl_runs r on r.id = s.run_id join platform_connections c on c.id = r.connection_id "
        "where r.created_at = (select max(created_at) from core_warehouse.etl_runs) group by 1"
    )
    return dict(rows)


def test_a_run_of_some_streams_does_not_count_as_the_days_first_for_the_others(
    pipeline: Pipeline, sandbox: Sandbox
) -> None:
    pipeline.register(pipeline.accounts("GA4")[:1])
    both = {"streams": ["property", "events"]}
    pipeline.sync("ga4", **both)
    with pipeline.warehouse.connection() as conn:
        conn.execute("update core_warehouse.etl_runs set completed_at = %s", [NOW])
    sandbox.now(NOW + dt.timedelta(days=4))  # Sunday
    pipeline.sync("ga4", streams=["property"])
    with pipeline.warehouse.connection() as conn:
        conn.execute(
            "update core_warehouse.etl_runs set completed_at = %s where completed_at > %s",
            [NOW + dt.timedelta(days=4), NOW],
        )
    pipeline.sync("ga4", **both)
    read = first_days(pipeline)
    assert read["events"] <= (NOW + dt.timedelta(days=4 - 28)).date()
    assert read["property"] > (NOW - dt.timedelta(days=1)).date()


# -- rows lost to an older reading


def test_a_row_that_came_while_a_backfill_was_reading_is_not_taken_for_withdrawn(pipeline: Pipeline) -> None:
    """The backfill read the day before the daily run did, and loads after it."""
    pipeline.register(pipeline.accounts("GA4")[:1])
    wish = {
        "job_type": "BACKFILL",
        "streams": ["traffic"],
        "window_start": dt.date(2026, 11, 15),
        "window_end": dt.date(2026, 11, 17),
    }
    lane = pipeline.claim("ga4", pipeline.enqueue("ga4", **wish))[0]
    platform_etl.extract(pipeline.context(lane))
    with pipeline.warehouse.connection() as conn:
        conn.execute(
            "insert into staging_ingest.ga4_reports (run_id, slice_no, connection_id, report_key, record_key, "
            "record_date, payload, payload_hash) select gen_random_uuid(), 0, connection_id, report_key, "
            "record_key || 'late', record_date, payload || '{\"sessionSource\": \"late\"}', payload_hash "
            "from staging_ingest.ga4_reports where report_key = 'traffic' limit 1"
        )
    platform_etl.transform(pipeline.context(lane))
    late = "select count(*) from staging_ingest.ga4_reports where payload->>'sessionSource' = 'late'"
    assert pipeline.fetch(late) == [(1,)]
    assert pipeline.fetch(
        "select count(*) from core_warehouse.fct_ga4_daily where dims->>'sessionSource' = 'late'"
    ) == [(1,)]


# -- wishes that are lost


def test_a_dashboards_wish_for_history_is_not_answered_by_a_small_run_in_flight(warehouse: Warehouse) -> None:
    connection_id = add_account(warehouse, "META", "1")
    small = enqueue(warehouse)[0]
    parent = fetch(
        warehouse,
        "insert into core_warehouse.etl_runs (shop_id, status, job_type, platform) "
        "values ('aurora', 'QUEUED', 'HISTORICAL', 'META') returning id::text",
    )[0][0]
    claim(warehouse, "sweep 1")
    execute(warehouse, "update core_warehouse.etl_runs set status = 'SUCCEEDED' where id = %(id)s", id=small)
    due = platform_etl.enqueue_due(warehouse, dag_id="dag", dag_run_id="sweep 2")
    assert due == [], "an account that is always due must not keep the wish waiting for ever"
    claim(warehouse, "sweep 2")
    rows = fetch(
        warehouse,
        "select r.job_type from penstock.run_members m join core_warehouse.etl_runs r on r.id = m.run_id "
        "where m.parent_run_id = %(id)s and r.connection_id = %(account)s",
        id=parent,
        account=connection_id,
    )
    assert rows == [("HISTORICAL",)]


# -- errors that are mapped wrong


def test_a_database_that_refuses_in_the_last_try_is_named_in_the_runs_error(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("GA4")[:1])
    with pipeline.warehouse.connection() as conn:
        conn.execute("alter table staging_ingest.ga4_reports add constraint no_rows check (record_key is null)")
    outcome = pipeline.sync("ga4", streams=["property"])[0]
    assert outcome.status == "FAILED"
    assert pipeline.fetch("select error->>'code' from core_warehouse.etl_runs") == [("DB_WRITE_ERROR",)]


# -- the old workers' cursor


def test_a_run_that_gets_no_row_moves_the_cursor_too(pipeline: Pipeline, sandbox: Sandbox) -> None:
    """The old worker's cursor stood still, and its window grew for ever."""
    pipeline.register(pipeline.accounts("META")[:1])
    sandbox.now(dt.datetime(2023, 6, 1, 12, tzinfo=dt.UTC))
    outcome = pipeline.sync("meta_ads", streams=["insights_age_gender"])[0]
    assert outcome.status == "SUCCEEDED", outcome.error
    assert outcome.extracted["rows_read"] == 0
    assert pipeline.fetch("select (cursor_at + interval '12 hours')::date from penstock.stream_cursors") == [
        (dt.date(2023, 6, 1),)
    ]


def test_a_run_of_some_streams_does_not_count_as_the_accounts_sync(pipeline: Pipeline) -> None:
    """Days become final, and the next sync is due a day later, when everything was read."""
    pipeline.register(pipeline.accounts("GA4")[:1])
    due = pipeline.fetch("select next_sync_at from platform_connections")
    assert pipeline.sync("ga4", streams=["property"])[0].status == "SUCCEEDED"
    assert pipeline.fetch("select last_synced_at from platform_connections") == [(None,)]
    assert pipeline.fetch("select next_sync_at from platform_connections") == due
    assert pipeline.sync("ga4")[0].status == "SUCCEEDED"
    # As of its beginning: what it read before midnight was not read at a later day's age.
    began = "select c.last_synced_at <= max(r.started_at) from platform_connections c, core_warehouse.etl_runs r"
    assert pipeline.fetch(f"{began} group by c.id") == [(True,)]


def test_a_history_goes_back_two_years(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("GA4")[:1])
    pipeline.sync("ga4", streams=["property"], job_type="HISTORICAL", is_dry_run=True)
    row = pipeline.fetch("select max(window_end)::date - min(window_start)::date from penstock.slices")
    assert row == [(730,)]


def test_the_cursor_stands_at_the_accounts_midnight_and_never_past_its_last_complete_day(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META"))
    pipeline.sync("meta_ads", streams=["insights_account"])
    rows = pipeline.fetch(
        "select c.time_zone, (s.cursor_at at time zone c.time_zone)::text, "
        "(%(now)s::timestamptz at time zone c.time_zone)::date::text || ' 00:00:00' "
        "from penstock.stream_cursors s join platform_connections c on c.id = s.connection_id",
        now=NOW,
    )
    assert len({zone for zone, _, _ in rows}) > 1
    assert [cursor for _, cursor, _ in rows] == [midnight for _, _, midnight in rows]


# -- figures that look final


def test_spend_is_not_final_while_an_account_of_the_shop_has_not_been_read(warehouse: Warehouse) -> None:
    read = add_account(warehouse, "META", "1", currency="USD", time_zone="UTC")
    add_account(warehouse, "META", "2", currency="USD", time_zone="UTC", state="NEEDS_RECONNECT")
    execute(
        warehouse,
        "update platform_connections set last_synced_at = now() - case account_id when '2' then interval '60 days' "
        "else interval '0' end",
    )
    execute(
        warehouse,
        "insert into core_warehouse.fct_meta_daily (connection_id, level, date, entity_id, currency, spend, "
        "impressions, clicks, inline_link_clicks, outbound_clicks, landing_page_views, video_views_3s, purchases, "
        "purchase_value, add_to_carts, initiate_checkouts, leads, run_id) values (%(id)s, 'ACCOUNT', "
        "current_date - 40, '1', 'USD', 100, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, gen_random_uuid())",
        id=read,
    )
    is_final = "select spend, spend_final from reporting.blended_daily_performance"
    assert fetch(warehouse, is_final) == [(100, False)]
    execute(warehouse, "update platform_connections set last_synced_at = now()")
    assert fetch(warehouse, is_final) == [(100, True)]


# -- streams that a used-up quota holds up


REPORTS_USED_UP = {
    "vendor": "klaviyo",
    "path": "/api/[a-z-]+-reports$",
    "action": "status",
    "params": {"status": 429, "retry_after": 70_000},
}


def test_a_quota_of_two_streams_that_another_tool_uses_up_does_not_keep_the_others_from_the_warehouse(
    pipeline: Pipeline, sandbox: Sandbox
) -> None:
    """Klaviyo counts 225 reports a day for the account, whoever asks for them; its events have a limit of their own."""
    pipeline.register(pipeline.accounts("KLAVIYO")[:1])
    sandbox.faults(REPORTS_USED_UP)
    assert [run.status for run in pipeline.sync("klaviyo")] == ["QUEUED"]
    left = pipeline.fetch("select distinct stream from penstock.slices where status <> 'DONE' order by 1")
    assert left == [("campaign_values",), ("flow_series",)]
    assert sandbox.answered("klaviyo", status=429) == 1

    execute(
        pipeline.warehouse,
        "update core_warehouse.etl_runs set started_at = now() - interval '25 hours', not_before = now()",
    )
    execute(pipeline.warehouse, "update penstock.slices set updated_at = now() - interval '25 hours'")
    assert [pipeline.work(lane).status for lane in claim(pipeline.warehouse, "sweep")] == ["PARTIAL"]
    assert pipeline.fetch("select count(*) > 0 from core_warehouse.fct_klaviyo_event_daily") == [(True,)]
    told = "select error->>'code', error->>'first_code' from core_warehouse.etl_runs"
    assert pipeline.fetch(told) == [("SLICES_FAILED", "QUOTA_STALLED")]
    assert pipeline.fetch("select count(*) from penstock.stream_cursors") == [(0,)], "the next run reads it all"


def test_a_row_by_hand_with_a_stream_that_does_not_exist_says_which_there_are(pipeline: Pipeline) -> None:
    pipeline.register(pipeline.accounts("META")[:1])
    run_ids = pipeline.enqueue("meta_ads")
    pipeline.fetch("update core_warehouse.etl_runs set streams = '{insights_adz}' returning 1")
    outcome = pipeline.work(pipeline.claim("meta_ads", run_ids)[0])
    assert outcome.status == "FAILED"
    stored = pipeline.fetch("select error ->> 'code', error ->> 'message' from core_warehouse.etl_runs")
    assert stored[0][0] == "CONFIG_INVALID"
    assert "has no stream insights_adz; it has campaigns" in stored[0][1]
