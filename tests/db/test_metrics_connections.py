"""Who reads which connection when, what a failure does to it, and what it shares with the platform ETL."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from penstock.core.errors import PenstockError
from penstock.jobs.metrics_sync import sync_connection
from penstock.sources import by_name
from penstock.sources.stream import Account, Request
from penstock.warehouse.limits import SharedLimiter
from penstock.warehouse.session import Warehouse
from tests.metrics_stage import MetricsStage
from tests.sandbox_fixture import NOW, Sandbox

pytestmark = pytest.mark.db

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def stage(warehouse: Warehouse, sandbox: Sandbox) -> MetricsStage:
    return MetricsStage(warehouse, sandbox.url, sandbox.state.clock.now)


@pytest.fixture
def meta(stage: MetricsStage) -> str:
    account = stage.accounts("META")[0]
    stage.connect(account)
    return str(account["account_id"])


def state(stage: MetricsStage) -> dict[str, Any]:
    names = (
        "metrics_failures",
        "metrics_error_code",
        "metrics_synced_at is not null",
        "last_synced_at is not null",
        "state",
        "extract(epoch from metrics_next_sync_at - now())::float",
    )
    (row,) = stage.fetch(f"select {', '.join(names)} from platform_connections")
    return dict(zip(("failures", "code", "synced", "last_synced", "state", "due_in"), row, strict=True))


# -- due


def test_a_connection_is_due_once_per_interval_at_a_time_of_its_own(stage: MetricsStage) -> None:
    stage.execute(
        "insert into platform_connections (platform, account_id, sync_frequency) "
        "select 'meta', n::text, case when n %% 2 = 0 then 1440 else 60 end from generate_series(1, 400) as n"
    )
    slots = "select extract(epoch from penstock.next_metrics_slot(id, sync_frequency) - now())::float"
    daily = [row[0] for row in stage.fetch(f"{slots} from platform_connections where sync_frequency = 1440")]
    hourly = [row[0] for row in stage.fetch(f"{slots} from platform_connections where sync_frequency = 60")]
    assert all(43_200 <= wait <= 129_600 for wait in daily)
    assert all(1_800 <= wait <= 5_400 for wait in hourly)
    by_hour = [sum(int(wait // 3_600) % 24 == hour for wait in daily) for hour in range(24)]
    assert max(by_hour) < 25, f"of 200 connections so many come in one hour: {by_hour}"


def test_only_what_is_due_is_claimed_oldest_first_and_no_more_than_the_limit(stage: MetricsStage) -> None:
    for number, minutes in enumerate((5, -30, -10, -20)):
        stage.execute(
            "insert into platform_connections (platform, account_id, metrics_next_sync_at) "
            "values ('META', %(id)s, now() + make_interval(mins => %(minutes)s))",
            id=str(number),
            minutes=minutes,
        )
    assert [lane["account_id"] for lane in stage.claim(limit=2)] == ["1", "3"]
    assert [lane["account_id"] for lane in stage.claim()] == ["2"]
    assert stage.claim() == []


def test_paused_inactive_and_foreign_connections_are_not_read(stage: MetricsStage) -> None:
    rows = [
        ("META", "1", {"is_active": False}),
        ("META", "2", {"state": "PAUSED"}),
        ("META", None, {}),
        ("tiktok", "4", {}),
        ("facebook", "5", {}),
        ("google", "6", {}),
    ]
    for platform, account_id, columns in rows:
        account = {"platform": platform, "account_id": account_id, "account_name": "", "credentials": {}}
        stage.connect(account, **columns)
    assert {(lane["platform"], lane["account_id"]) for lane in stage.claim()} == {("META", "5"), ("GOOGLE_ADS", "6")}


def test_a_claim_that_is_tried_again_gets_the_same_connections(stage: MetricsStage, meta: str) -> None:
    (first,) = stage.claim()
    stage.runs -= 1
    assert stage.claim() == [first]


def test_an_unknown_connection_is_refused_by_name(stage: MetricsStage, meta: str) -> None:
    with pytest.raises(PenstockError, match="77777") as refused:
        stage.claim(meta, "act_77777")
    assert refused.value.code == "CONFIG_NO_ACCOUNT"


def test_success_sets_the_times_and_encrypts_what_was_stored_plain(stage: MetricsStage, meta: str) -> None:
    (stored,) = stage.fetch("select credentials from platform_connections")
    assert stored[0]["access_token"].startswith("EAA")
    stage.sync()
    found = state(stage)
    assert found | {"due_in": 0} == {
        "failures": 0,
        "code": None,
        "synced": True,
        "last_synced": True,
        "state": "OK",
        "due_in": 0,
    }
    assert found["due_in"] > 43_000
    (stored,) = stage.fetch("select credentials from platform_connections")
    assert {value[:3] for value in stored[0].values()} == {"v1:"}
    stage.make_due()
    assert [outcome.status for outcome in stage.sync()] == ["success"]
    assert stage.fetch("select time_zone, currency from platform_connections") == [("Europe/Zurich", "CHF")]


def test_what_the_old_worker_kept_beside_the_token_stops_nobody(stage: MetricsStage, meta: str) -> None:
    more = '{"expires_in": 5183944, "refresh_token": null, "granted": {"scopes": ["ads_read"]}}'
    stage.execute("update platform_connections set credentials = credentials || %(more)s::jsonb", more=more)
    assert [outcome.status for outcome in stage.sync()] == ["success"]
    ((stored,),) = stage.fetch("select credentials from platform_connections")
    assert {"access_token", "expires_in", "granted"} <= stored.keys()
    assert "refresh_token" not in stored
    assert {value[:3] for value in stored.values()} == {"v1:"}
    stage.make_due()
    assert [outcome.status for outcome in stage.sync()] == ["success"]


def test_a_credential_under_a_lost_key_stops_that_connection_only(stage: MetricsStage, meta: str) -> None:
    lost = "v1:lost:AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    other = stage.accounts("META")[1]
    stage.connect({**other, "credentials": {"access_token": lost}})
    outcomes = stage.sync()
    assert sorted((outcome.status, outcome.code or "") for outcome in outcomes) == [
        ("failed", "CREDENTIAL_UNDECRYPTABLE"),
        ("success", ""),
    ]


# -- failures


def test_a_revoked_token_stops_its_connection_with_one_alert_until_somebody_acts(stage: MetricsStage) -> None:
    good, bad = stage.accounts("META")[:2]
    stage.connect(good)
    connection = stage.connect({**bad, "credentials": {"access_token": "EAArevoked-long-ago"}})
    outcomes = {outcome.status: outcome for outcome in stage.sync()}
    assert set(outcomes) == {"success", "failed"}
    assert (outcomes["failed"].code, outcomes["failed"].is_reported) == ("META_AUTH_ERROR", False)
    assert stage.claim() == []
    (row,) = stage.fetch(
        "select state, metrics_error_code, last_synced_at, metrics_next_sync_at > now() + interval '23 hours' "
        "from platform_connections where id::text = %(id)s",
        id=connection,
    )
    assert row == ("NEEDS_RECONNECT", "META_AUTH_ERROR", None, True)
    (again,) = stage.sync(connection)
    assert (again.status, again.is_reported) == ("failed", True)
    (log,) = stage.fetch("select status, error_message from metric_sync_logs order by start_time desc limit 1")
    assert log[0] == "failed"
    assert log[1].startswith("META_AUTH_ERROR")
    assert "EAArevoked" not in log[1]
    stage.execute(
        "update platform_connections set credentials = %(new)s where id::text = %(id)s",
        new=Jsonb(bad["credentials"]),
        id=connection,
    )
    assert [outcome.status for outcome in stage.sync()] == ["success"]
    assert stage.fetch("select distinct state, metrics_failures from platform_connections") == [("OK", 0)]


@pytest.mark.parametrize("token", [None, "EAArevoked-long-ago"])
def test_a_connection_that_is_paused_during_its_sync_stays_paused(
    stage: MetricsStage, meta: str, token: str | None
) -> None:
    if token:
        revoked = Jsonb({"access_token": token})
        stage.execute("update platform_connections set credentials = %(revoked)s", revoked=revoked)
    (lane,) = stage.claim()
    stage.execute("update platform_connections set state = 'PAUSED'")
    assert stage.work(lane).status == ("failed" if token else "success")
    assert state(stage)["state"] == "PAUSED"


def test_the_status_view_tells_what_a_person_has_to_know(stage: MetricsStage) -> None:
    good, bad, idle = stage.accounts("META")
    stage.request(meta_ad_id=stage.ads("META", good["account_id"])[0])
    for account in (good, {**bad, "credentials": {"access_token": "EAArevoked-long-ago"}}):
        stage.connect(account)
    stage.sync()
    stage.connect(idle)
    shown = stage.fetch(
        "select account_id, health, error_code, last_status, metrics_created > 0, ads_without_request > 0 "
        "from reporting.metrics_sync_status"
    )
    assert set(shown) == {
        (good["account_id"], "OK", None, "success", True, True),
        (bad["account_id"], "FAILING", "META_AUTH_ERROR", "failed", False, None),
        (idle["account_id"], "NEVER_RUN", None, None, None, None),
    }


def test_failures_wait_longer_each_time_with_jitter(stage: MetricsStage, meta: str, sandbox: Sandbox) -> None:
    sandbox.faults({"vendor": "meta", "path": "/insights$", "action": "repeat_cursor"})
    waits = []
    for failures in (1, 2, 3):
        stage.make_due()
        (outcome,) = stage.sync()
        assert (outcome.status, outcome.code) == ("failed", "RESPONSE_REPEATED_CURSOR")
        found = state(stage)
        assert (found["failures"], found["synced"], found["last_synced"]) == (failures, False, False)
        waits.append(found["due_in"] / (900 * 2 ** (failures - 1)))
    assert all(0.49 <= share <= 1.01 for share in waits)
    assert len({round(share, 4) for share in waits}) == 3
    sandbox.faults()
    stage.make_due()
    assert [outcome.status for outcome in stage.sync()] == ["success"]
    assert state(stage)["failures"] == 0


def test_a_failure_that_may_pass_is_raised_while_the_task_has_tries_left(
    stage: MetricsStage, meta: str, sandbox: Sandbox
) -> None:
    sandbox.faults({"vendor": "meta", "path": "/insights$", "action": "repeat_cursor"})
    (lane,) = stage.claim()
    with pytest.raises(PenstockError, match="twice"):
        stage.work(lane, is_last_try=False)
    sandbox.faults()
    assert stage.work(lane).status == "success"
    assert [log[0] for log in stage.logs()] == ["failed", "success"]


def test_a_defect_of_ours_closes_the_log_and_is_raised(stage: MetricsStage, meta: str) -> None:
    (lane,) = stage.claim()
    broken = stage.context(lane, is_last_try=False, days="thirty")
    with pytest.raises(TypeError):
        sync_connection(broken)
    assert (state(stage)["code"], [log[0] for log in stage.logs()]) == ("UNKNOWN", ["failed"])


def test_a_quota_puts_the_connection_off_and_is_no_failure(stage: MetricsStage, meta: str, sandbox: Sandbox) -> None:
    stage.sync()
    before = stage.fetch("select last_synced_at from platform_connections")
    stage.make_due()
    fault = {"status": 400, "code": 17, "subcode": 2446079, "retry_after": 1800}
    sandbox.faults({"vendor": "meta", "path": "/insights$", "action": "status", "params": fault})
    (outcome,) = stage.sync()
    assert (outcome.status, outcome.code) == ("waiting", "META_ACCOUNT_QUOTA_BLOCK")
    found = state(stage)
    assert (found["failures"], found["code"]) == (0, None)
    assert 60 <= found["due_in"] <= 3_660
    assert stage.fetch("select last_synced_at from platform_connections") == before


# -- shops


def test_a_shops_account_is_read_once_requests_name_ads_and_keeps_the_platform_etls_times(
    stage: MetricsStage,
) -> None:
    account = stage.accounts("META")[0]
    connection = stage.connect(account, shop_id="aurora", platform="META")
    clock = "select next_sync_at, last_synced_at, consecutive_failures, state from platform_connections"
    before = stage.fetch(clock)
    assert stage.claim() == []
    ad = stage.ads("META", account["account_id"])[0]
    request = stage.request(meta_ad_id=ad)
    assert [outcome.status for outcome in stage.sync()] == ["success"]
    assert stage.metrics(request) == stage.expected("meta", [ad], account["account_id"])
    assert stage.fetch(clock) == before
    assert state(stage)["synced"] is True
    stage.make_due()
    stage.execute("""update platform_connections set settings = '{"metrics_sync": false}'""")
    assert stage.claim() == []
    assert stage.claim(connection) == []


def test_the_last_request_that_is_unlinked_loses_what_it_showed(stage: MetricsStage, sandbox: Sandbox) -> None:
    """No request names ads of the platform any more: its account is read once more, and then left alone."""
    account, other = stage.accounts("META")[:2]
    for each in (account, other):
        stage.connect(each, shop_id="aurora", platform="META")
    request = stage.request(meta_ad_id=stage.ads("META", account["account_id"])[0])
    stage.execute(
        "insert into performance_metrics (request_id, platform, metric_type, value, date, source, source_detail) "
        "select %(request)s, 'meta', name, 1, '2026-11-18', 'api_sync', detail "
        "from (values ('ctr', '[]'::jsonb), ('cpm', '{\"connections\": \"x\"}'), ('cpc', null)) as old (name, detail)",
        request=stage.request(title="as the old worker left it"),
    )
    assert [outcome.status for outcome in stage.sync()] == ["success", "success"]
    sandbox.now(NOW + dt.timedelta(days=1))
    first_read_again = "2026-10-21"
    shown = stage.metrics(request)
    assert min(day for _, _, day in shown) < first_read_again
    stage.execute("update requests set metadata = metadata - 'meta_ad_id'")
    stage.make_due()
    lanes = stage.claim()
    assert [lane["account_id"] for lane in lanes] == [account["account_id"]]
    assert [stage.work(lane).status for lane in lanes] == ["success"]
    assert stage.metrics(request) == {key: value for key, value in shown.items() if key[2] < first_read_again}
    stage.make_due()
    assert stage.claim() == []


def test_both_concerns_take_their_calls_from_one_bucket(stage: MetricsStage, meta: str, sandbox: Sandbox) -> None:
    """The platform ETL has the account as 123, the old metrics worker had it as act_123."""
    stage.execute("update platform_connections set account_id = 'act_' || account_id")
    stage.request(meta_ad_id=stage.ads("META", meta)[0])
    source = by_name("meta_ads")
    token = stage.accounts("META")[0]["credentials"]
    etl = stage.open_client(source, Account("", "aurora", meta), token)
    etl.send(Request("GET", f"act_{meta}", {"fields": "account_id"}))
    assert [outcome.status for outcome in stage.sync()] == ["success"]
    keys = stage.fetch("select limit_key from penstock.rate_limits where limit_key like 'meta_ads:%%' order by 1")
    assert keys == [(f"meta_ads:{meta}:default",), (f"meta_ads:{meta}:default:8550/300",)]


def test_what_closes_the_account_for_the_platform_etl_closes_it_for_the_metrics(
    stage: MetricsStage, meta: str, sandbox: Sandbox
) -> None:
    SharedLimiter(stage.warehouse).block(f"meta_ads:{meta}:default", 600, "META_ACCOUNT_QUOTA_BLOCK")
    (outcome,) = stage.sync()
    assert (outcome.status, outcome.code) == ("waiting", "RATE_LIMIT_WAIT_TOO_LONG")
    assert sandbox.answered("meta") == 0
    assert 500 <= state(stage)["due_in"] <= 610


# -- several workers, dead workers


def test_two_workers_never_claim_the_same_connection(stage: MetricsStage) -> None:
    stage.execute(
        "insert into platform_connections (platform, account_id) select 'META', n::text from generate_series(1, 60) n"
    )
    found: list[str] = []

    def work() -> None:
        with Warehouse(stage.warehouse.dsn) as warehouse:
            own = MetricsStage(warehouse, stage.sandbox_url, stage.now)
            own.runs = threading.get_ident()
            while lanes := own.claim(limit=7):
                found.extend(lane["account_id"] for lane in lanes)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found, key=int) == [str(number) for number in range(1, 61)]


def test_a_worker_that_was_thought_dead_cannot_write(stage: MetricsStage, meta: str) -> None:
    request = stage.request(meta_ad_id=stage.ads("META", meta)[0])
    (lane,) = stage.claim()
    late = stage.context(lane)
    original = late.open_client

    def overtaken(*arguments: Any) -> Any:
        """Meanwhile the lease expired, and another worker did the work."""
        stage.execute("update platform_connections set metrics_leased_until = now() - interval '1 second'")
        (other,) = stage.claim()
        assert stage.work(other).status == "success"
        stage.execute("delete from performance_metrics")
        return original(*arguments)

    late.open_client = overtaken
    with pytest.raises(PenstockError) as refused:
        sync_connection(late)
    assert refused.value.code == "LEASE_LOST"
    assert stage.metrics(request) == {}
    assert sorted(log[0] for log in stage.logs()) == ["failed", "success"]


def test_logs_of_dead_workers_are_closed_and_running_ones_are_left(stage: MetricsStage, meta: str) -> None:
    (lane,) = stage.claim()
    old = (
        "insert into metric_sync_logs (platform_connection_id, status, start_time) "
        "values (%(id)s, 'in_progress', %(at)s)"
    )
    other = stage.connect(stage.accounts("META")[1], metrics_next_sync_at=dt.datetime(2100, 1, 1, tzinfo=dt.UTC))
    hours_ago = dt.datetime.now(dt.UTC) - dt.timedelta(hours=3)
    stage.execute(old, id=other, at=hours_ago)
    stage.execute(old, id=None, at=hours_ago)
    stage.execute(old, id=lane["connection_id"], at=hours_ago)
    stage.claim()
    assert stage.fetch("select platform_connection_id::text, status from metric_sync_logs order by 2, 1") == [
        (other, "failed"),
        (None, "failed"),
        (lane["connection_id"], "in_progress"),
    ]


def test_a_worker_killed_in_the_middle_leaves_no_trace_in_the_numbers(
    stage: MetricsStage, meta: str, sandbox: Sandbox
) -> None:
    ads = stage.ads("META", meta)[:3]
    request = stage.request(meta_ad_id=ads)
    sandbox.state.latency = 0.03
    for pages in (1, 6, 12):
        (lane,) = stage.claim()
        job = {"dsn": stage.warehouse.dsn, "sandbox_url": stage.sandbox_url, "lane": lane, "page_size": 25}
        worker = subprocess.Popen([sys.executable, "-m", "tests.metrics_worker", json.dumps(job)], env=ENVIRONMENT)
        wait_for_pages(stage, worker, pages)
        worker.kill()
        worker.wait(10)
        assert stage.metrics(request) == {}
        stage.execute("update platform_connections set metrics_leased_until = now() - interval '1 second'")
    sandbox.state.latency = 0.0
    (outcome,) = stage.sync()
    assert outcome.status == "success"
    assert stage.metrics(request) == stage.expected("meta", ads, meta)
    assert [log[0] for log in stage.logs()] == ["failed"] * 3 + ["success"]
    assert stage.fetch("select 1 from penstock.ad_metric_pages") == []


def wait_for_pages(stage: MetricsStage, worker: subprocess.Popen[bytes], pages: int) -> None:
    """Until the newest sync has saved so many pages of 25."""
    deadline = time.monotonic() + 30
    query = "select count(*) from penstock.ad_metric_pages group by sync_id"
    while max((row[0] for row in stage.fetch(query)), default=0) < pages * 25:
        assert worker.poll() is None, "the worker ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.005)
