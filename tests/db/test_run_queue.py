"""Who reads which account, once: enqueue, claim, rescue, parents."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import uuid
from typing import Any

import psycopg
import pytest

from penstock.core.errors import PenstockError
from penstock.core.lease import MAX_ATTEMPTS
from penstock.jobs import platform_etl
from penstock.jobs.platform_etl import RunContext
from penstock.jobs.platform_etl.runs import HISTORIES_AT_ONCE
from penstock.warehouse.session import Warehouse
from penstock.warehouse.vault import Vault


def add_account(warehouse: Warehouse, platform: str, account_id: str, shop_id: str = "aurora", **columns: Any) -> str:
    values = {"platform": platform, "account_id": account_id, "shop_id": shop_id, "account_name": account_id, **columns}
    names = ", ".join(values)
    places = ", ".join(f"%({name})s" for name in values)
    with warehouse.connection() as conn:
        row = conn.execute(
            f"insert into platform_connections ({names}) values ({places}) returning id::text", values
        ).fetchone()
    assert row is not None
    return str(row[0])


def fetch(warehouse: Warehouse, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with warehouse.connection() as conn:
        return conn.execute(query, parameters).fetchall()


def execute(warehouse: Warehouse, query: str, **parameters: Any) -> None:
    with warehouse.connection() as conn:
        conn.execute(query, parameters)


def dashboard_insert(warehouse: Warehouse, platform: str, shop_id: str = "aurora") -> str:
    """What an old dashboard does."""
    row = fetch(
        warehouse,
        "insert into core_warehouse.etl_runs (shop_id, status, job_type, platform) "
        "values (%(shop_id)s, 'QUEUED', 'INCREMENTAL', %(platform)s) returning id::text",
        shop_id=shop_id,
        platform=platform,
    )
    return str(row[0][0])


def enqueue(warehouse: Warehouse, source: str = "meta_ads", dag_run_id: str = "run 1", **wish: Any) -> list[str]:
    defaults: dict[str, Any] = {
        "window_start": None,
        "window_end": None,
        "job_type": "INCREMENTAL",
        "accounts": None,
        "streams": None,
        "is_dry_run": False,
        "requested_by": "test",
        "dag_id": "dag",
    }
    return platform_etl.enqueue_scheduled(warehouse, source, dag_run_id=dag_run_id, **{**defaults, **wish})


def claim(
    warehouse: Warehouse, dag_run_id: str = "run 1", source: str | None = None, run_ids: list[str] | None = None
) -> list[dict[str, Any]]:
    return platform_etl.claim(warehouse, source=source, dag_id="dag", dag_run_id=dag_run_id, limit=50, run_ids=run_ids)


def status(warehouse: Warehouse, run_id: str) -> str:
    return str(fetch(warehouse, "select status from core_warehouse.etl_runs where id = %(id)s", id=run_id)[0][0])


def test_a_dashboards_insert_becomes_one_run_per_active_account(warehouse: Warehouse) -> None:
    first, second = add_account(warehouse, "META", "1"), add_account(warehouse, "META", "2")
    add_account(warehouse, "META", "3", is_active=False)
    add_account(warehouse, "META", "4", shop_id="borealis")
    parent = dashboard_insert(warehouse, "META")

    claimed = claim(warehouse)

    assert sorted(lane["account_id"] for lane in claimed) == ["1", "2"]
    assert {lane["source"] for lane in claimed} == {"meta_ads"}
    assert status(warehouse, parent) == "IN_PROGRESS"
    members = fetch(
        warehouse,
        "select r.connection_id::text from penstock.run_members m "
        "join core_warehouse.etl_runs r on r.id = m.run_id where m.parent_run_id = %(id)s",
        id=parent,
    )
    assert sorted(row[0] for row in members) == sorted([first, second])


def test_a_parent_ends_with_the_worst_state_of_its_members(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    add_account(warehouse, "META", "2")
    parent = dashboard_insert(warehouse, "META")
    good, bad = (lane["run_id"] for lane in claim(warehouse))
    execute(
        warehouse,
        "update core_warehouse.etl_runs set status = 'SUCCEEDED', records_synced = 5 where id = %(id)s",
        id=good,
    )
    claim(warehouse, "sweep 1")
    assert status(warehouse, parent) == "IN_PROGRESS", "one member still works"
    execute(
        warehouse,
        'update core_warehouse.etl_runs set status = \'FAILED\', error = \'{"code": "META_AUTH_ERROR", '
        '"message": "m", "service": "s", "task": "t"}\' where id = %(id)s',
        id=bad,
    )
    claim(warehouse, "sweep 2")
    row = fetch(
        warehouse,
        "select status, error->>'code', records_synced from core_warehouse.etl_runs where id = %(id)s",
        id=parent,
    )
    assert row == [("FAILED", "META_AUTH_ERROR", 5)]


def test_a_shop_without_accounts_is_told_so(warehouse: Warehouse) -> None:
    parent = dashboard_insert(warehouse, "META", shop_id="nobody")
    assert claim(warehouse) == []
    row = fetch(warehouse, "select status, error->>'code' from core_warehouse.etl_runs where id = %(id)s", id=parent)
    assert row == [("FAILED", "CONFIG_NO_ACCOUNT")]


def test_a_platform_without_source_does_not_wait_for_ever(warehouse: Warehouse) -> None:
    run = dashboard_insert(warehouse, "GOOGLE_ADS")
    claim(warehouse)
    row = fetch(warehouse, "select status, error->>'code' from core_warehouse.etl_runs where id = %(id)s", id=run)
    assert row == [("FAILED", "SOURCE_NOT_SUPPORTED")]


def test_a_second_insert_for_a_shop_in_flight_is_refused_as_before(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    dashboard_insert(warehouse, "META")
    with pytest.raises(psycopg.errors.UniqueViolation):
        dashboard_insert(warehouse, "META")


def test_eight_claimers_never_get_the_same_run(warehouse: Warehouse) -> None:
    for number in range(40):
        add_account(warehouse, "META", str(number))
    dashboard_insert(warehouse, "META")
    enqueue(warehouse, "meta_ads")
    execute(warehouse, "update core_warehouse.etl_runs set not_before = null")

    def take(worker: int) -> list[str]:
        taken: list[str] = []
        while lanes := platform_etl.claim(
            warehouse, source=None, dag_id="dag", dag_run_id=f"{worker}-{len(taken)}", limit=3, run_ids=None
        ):
            taken += [lane["run_id"] for lane in lanes]
        return taken

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        taken = [run_id for runs in pool.map(take, range(8)) for run_id in runs]
    assert len(taken) == len(set(taken)) == 40


def test_runs_are_reserved_for_the_dag_run_that_wrote_them(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    mine = enqueue(warehouse)
    assert claim(warehouse, "somebody else") == []
    assert [lane["run_id"] for lane in claim(warehouse, source="meta_ads", run_ids=mine)] == mine


def test_enqueue_and_claim_tried_again_find_the_same_runs(warehouse: Warehouse) -> None:
    """The task died after its commit, before Airflow knew its result."""
    add_account(warehouse, "META", "1")
    mine = enqueue(warehouse)
    assert enqueue(warehouse) == mine
    claimed = platform_etl.claim(warehouse, source="meta_ads", dag_id="dag", dag_run_id="run 1", limit=9, run_ids=mine)
    again = platform_etl.claim(warehouse, source="meta_ads", dag_id="dag", dag_run_id="run 1", limit=9, run_ids=mine)
    assert [lane["run_id"] for lane in again] == [lane["run_id"] for lane in claimed] == mine


def test_an_account_in_flight_keeps_its_run(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    first = enqueue(warehouse, dag_run_id="run 1")
    assert enqueue(warehouse, dag_run_id="run 2") == first
    backfill = enqueue(warehouse, dag_run_id="run 3", job_type="BACKFILL")
    assert backfill != first, "a backfill runs beside the incremental run"


def test_a_run_whose_worker_is_gone_is_claimed_after_its_lease(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    dashboard_insert(warehouse, "META")
    run_id = claim(warehouse, "dead worker")[0]["run_id"]
    assert claim(warehouse, "early sweep") == []
    execute(
        warehouse,
        "update core_warehouse.etl_runs set leased_until = now() - interval '1 second' where id = %(id)s",
        id=run_id,
    )
    rescued = claim(warehouse, "sweep")
    assert [lane["run_id"] for lane in rescued] == [run_id]
    row = fetch(warehouse, "select attempts, lease_epoch from core_warehouse.etl_runs where id = %(id)s", id=run_id)
    assert row == [(0, 2)], "an attempt counts when its work begins"


def test_an_old_workers_stuck_run_is_rescued(warehouse: Warehouse) -> None:
    connection_id = add_account(warehouse, "META", "1")
    execute(
        warehouse,
        "insert into core_warehouse.etl_runs (shop_id, status, job_type, platform, connection_id, started_at) "
        "values ('aurora', 'IN_PROGRESS', 'INCREMENTAL', 'META', %(id)s, now() - interval '2 hours')",
        id=connection_id,
    )
    assert len(claim(warehouse)) == 1


def test_a_run_that_kills_its_workers_ends_failed(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    dashboard_insert(warehouse, "META")
    run_id = claim(warehouse)[0]["run_id"]
    execute(
        warehouse,
        "update core_warehouse.etl_runs set leased_until = now() - interval '1 second', attempts = %(n)s "
        "where id = %(id)s",
        id=run_id,
        n=MAX_ATTEMPTS,
    )
    assert claim(warehouse, "sweep") == []
    row = fetch(warehouse, "select status, error->>'code' from core_warehouse.etl_runs where id = %(id)s", id=run_id)
    assert row == [("FAILED", "ATTEMPTS_EXHAUSTED")]


def test_a_quota_stop_is_not_claimed_before_its_reset(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    dashboard_insert(warehouse, "META")
    run_id = claim(warehouse)[0]["run_id"]
    execute(
        warehouse,
        "update core_warehouse.etl_runs set status = 'QUEUED', leased_until = null, attempts = 1, "
        "not_before = now() + interval '1 hour' where id = %(id)s",
        id=run_id,
    )
    assert claim(warehouse, "sweep") == []
    execute(
        warehouse,
        "update core_warehouse.etl_runs set not_before = now() - interval '1 second' where id = %(id)s",
        id=run_id,
    )
    assert [lane["run_id"] for lane in claim(warehouse, "sweep 2")] == [run_id]


def test_due_accounts_are_enqueued_once(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "due")
    add_account(warehouse, "META", "paused", state="PAUSED")
    later = add_account(warehouse, "GA4", "later")
    execute(
        warehouse,
        "update platform_connections set next_sync_at = now() + interval '1 hour' where id = %(id)s",
        id=later,
    )
    first = platform_etl.enqueue_due(warehouse, dag_id="platform_etl_queue", dag_run_id="r1")
    assert len(first) == 1
    assert platform_etl.enqueue_due(warehouse, dag_id="platform_etl_queue", dag_run_id="r2") == []


def test_an_unknown_account_or_stream_is_named(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    with pytest.raises(PenstockError, match=r"CONFIG_NO_ACCOUNT.*77"):
        enqueue(warehouse, accounts=["1", "77"])
    with pytest.raises(PenstockError, match=r"CONFIG_INVALID.*insights_adz.*insights_ad"):
        enqueue(warehouse, streams=["insights_adz"])


def test_an_insert_wakes_the_listener_and_a_reserved_run_does_not(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    with psycopg.connect(warehouse.dsn, autocommit=True) as listener:
        listener.execute("listen penstock_etl_runs")
        enqueue(warehouse)
        assert list(listener.notifies(timeout=0.2)) == []
        execute(warehouse, "update core_warehouse.etl_runs set status = 'SUCCEEDED'")
        dashboard_insert(warehouse, "META")
        assert [note.channel for note in listener.notifies(timeout=2, stop_after=1)] == ["penstock_etl_runs"]


def test_a_run_id_that_does_not_exist_is_an_error(warehouse: Warehouse) -> None:
    lane = {"run_id": str(uuid.uuid4()), "source": "meta_ads", "holder": "h"}
    context = RunContext(warehouse, Vault.from_environment({}), lane, open_client=lambda *_: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(PenstockError, match="has no row"):
        platform_etl.finish(context)


def test_a_wish_for_more_than_the_run_in_flight_reads_waits(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    enqueue(warehouse, dag_run_id="run 1")
    with pytest.raises(PenstockError, match="ACCOUNT_IN_FLIGHT"):
        enqueue(warehouse, dag_run_id="run 2", job_type="HISTORICAL")
    with pytest.raises(PenstockError, match="ACCOUNT_IN_FLIGHT"):
        enqueue(warehouse, dag_run_id="run 3", is_dry_run=True)


ONE_STREAM = {"streams": ["insights_ad"]}
SOME_DAYS = {"job_type": "HISTORICAL", "window_start": dt.date(2026, 1, 1)}


@pytest.mark.parametrize("lesser", [ONE_STREAM, SOME_DAYS])
def test_a_wish_for_everything_does_not_join_a_run_of_a_part(warehouse: Warehouse, lesser: dict[str, Any]) -> None:
    """It would end well, and most of it would be unread."""
    add_account(warehouse, "META", "1")
    in_flight = enqueue(warehouse, dag_run_id="run 1", **lesser)
    with pytest.raises(PenstockError, match=r"ACCOUNT_IN_FLIGHT.*meta_ads 1"):
        enqueue(warehouse, dag_run_id="run 2")
    dashboard_insert(warehouse, "META")
    assert {lane["run_id"] for lane in claim(warehouse, "sweep")} <= set(in_flight)
    assert fetch(warehouse, "select status from core_warehouse.etl_runs where connection_id is null") == [("QUEUED",)]
    assert enqueue(warehouse, dag_run_id="run 3", **lesser) == in_flight, "the same wish joins it"


@pytest.mark.parametrize("lesser", [ONE_STREAM, SOME_DAYS])
def test_an_account_that_is_read_in_part_holds_up_no_other_of_the_daily_run(
    warehouse: Warehouse, lesser: dict[str, Any]
) -> None:
    """The part may wait a day for a quota. The account's turn comes when it has ended."""
    add_account(warehouse, "META", "1")
    add_account(warehouse, "META", "2")
    in_flight = enqueue(warehouse, dag_run_id="run 1", accounts=["1"], **lesser)
    daily = enqueue(warehouse, dag_run_id="run 2", requested_by="schedule")
    assert len(daily) == 1
    assert set(daily).isdisjoint(in_flight)
    execute(warehouse, "update core_warehouse.etl_runs set status = 'SUCCEEDED'")
    due = platform_etl.enqueue_due(warehouse, dag_id="platform_etl_queue", dag_run_id="sweep")
    assert len(due) == 2


@pytest.mark.parametrize("change", ["is_active = false", "state = 'PAUSED'"])
@pytest.mark.parametrize("is_claimed", [False, True])
def test_a_run_of_an_account_that_is_read_no_more_ends_and_holds_nobody_up(
    warehouse: Warehouse, change: str, *, is_claimed: bool
) -> None:
    add_account(warehouse, "META", "off")
    add_account(warehouse, "META", "on")
    dashboard_insert(warehouse, "META")
    claimed = claim(warehouse)
    execute(warehouse, "update core_warehouse.etl_runs set status = 'SUCCEEDED' where connection_id is not null")
    off = next(lane["run_id"] for lane in claimed if lane["account_id"] == "off")
    state = "'IN_PROGRESS', leased_until = now() - interval '1 s'" if is_claimed else "'QUEUED', leased_until = null"
    execute(warehouse, f"update core_warehouse.etl_runs set status = {state} where id = %(id)s", id=off)
    execute(warehouse, f"update platform_connections set {change} where account_id = 'off'")
    assert claim(warehouse, "sweep") == []
    ended = fetch(
        warehouse,
        "select connection_id is null, status, error->>'code' from core_warehouse.etl_runs where error is not null",
    )
    assert sorted(ended) == [(False, "FAILED", "CONFIG_NO_ACCOUNT"), (True, "FAILED", "CONFIG_NO_ACCOUNT")]
    dashboard_insert(warehouse, "META")
    assert [lane["account_id"] for lane in claim(warehouse, "sweep 2")] == ["on"]


def test_a_run_that_is_being_read_goes_on_when_its_account_is_paused(warehouse: Warehouse) -> None:
    add_account(warehouse, "META", "1")
    dashboard_insert(warehouse, "META")
    run_id = claim(warehouse)[0]["run_id"]
    execute(warehouse, "update platform_connections set state = 'PAUSED'")
    assert claim(warehouse, "sweep") == []
    row = fetch(warehouse, "select status from core_warehouse.etl_runs where id = %(id)s", id=run_id)
    assert row == [("IN_PROGRESS",)]


def test_an_account_that_nobody_has_said_to_be_active_is(warehouse: Warehouse) -> None:
    """Null, as it was in the old table."""
    account = add_account(warehouse, "META", "1")
    execute(warehouse, "update platform_connections set is_active = null where id = %(id)s", id=account)
    dashboard_insert(warehouse, "META")
    assert len(claim(warehouse)) == 1


def test_long_histories_leave_room_in_the_queue_for_what_somebody_has_just_asked_for(warehouse: Warehouse) -> None:
    """Each reads for hours, and the queue has so many lanes: the others wait until one has ended."""
    for number in range(6):
        add_account(warehouse, "META", f"long {number}")
    enqueue(warehouse, job_type="HISTORICAL")
    execute(warehouse, "update core_warehouse.etl_runs set not_before = null")
    first = claim(warehouse, "sweep 1")
    assert [lane["job_type"] for lane in first] == ["HISTORICAL"] * HISTORIES_AT_ONCE

    add_account(warehouse, "META", "new")
    enqueue(warehouse, dag_run_id="run 2", accounts=["new"])
    execute(warehouse, "update core_warehouse.etl_runs set not_before = null")
    assert [lane["account_id"] for lane in claim(warehouse, "sweep 2")] == ["new"]
    again = claim(warehouse, "sweep 1")
    assert {lane["run_id"] for lane in again} == {lane["run_id"] for lane in first}, "a claim that is tried again"

    execute(
        warehouse,
        "update core_warehouse.etl_runs set status = 'SUCCEEDED', leased_until = null where id = %(id)s",
        id=first[0]["run_id"],
    )
    assert [lane["job_type"] for lane in claim(warehouse, "sweep 3")] == ["HISTORICAL"]
