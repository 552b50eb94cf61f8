"""Several workers in processes of their own: one limit, no overlap, kill -9 and SIGTERM in the middle."""

from __future__ import annotations

import signal
import time
from collections import Counter

import pytest

from penstock.warehouse.session import Warehouse
from sandbox.steam_apps import catalogue
from tests.app_store import Store, seed_apps
from tests.app_worker import counts_of, start, wait_until
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db

WORKERS = 4
LIMIT = (60, 3.0)
SHARE = 30


@pytest.fixture
def store(warehouse: Warehouse, sandbox: Sandbox) -> Store:
    seed_apps(warehouse.dsn, catalogue(sandbox.state.seed))
    sandbox.state.remembered("steam")["settings"] = {"details_limit": LIMIT[0], "details_period": LIMIT[1]}
    return Store(warehouse, sandbox.url)


def calls_per_app(sandbox: Sandbox) -> Counter[str]:
    calls: Counter[str] = Counter()
    for row in sandbox.get("calls")["answers"]:
        calls[row["account"]] += row["count"]
    return calls


def test_four_workers_share_the_limit_never_exceed_it_and_read_every_app_once(store: Store, sandbox: Sandbox) -> None:
    apps = list(catalogue(sandbox.state.seed).values())[: WORKERS * SHARE]
    store.rows("delete from public.apps where appid > %s returning 1", apps[-1].appid)
    workers = [
        start(store.warehouse.dsn, sandbox.url, source="storefront", share=SHARE, lane=lane, limit=LIMIT)
        for lane in range(WORKERS)
    ]
    counts = [counts_of(worker) for worker in workers]
    assert [each["processed"] for each in counts] == [SHARE] * WORKERS
    assert [each["released"] + each["lost"] for each in counts] == [0] * WORKERS
    (limit,) = [row for row in sandbox.get("calls")["limits"] if row["vendor"] == "steam"]
    assert limit["most_in_window"] <= LIMIT[0]
    assert limit["rejected"] == 0
    assert sandbox.answered("steam") / limit["seconds"] >= 0.85 * LIMIT[0] / LIMIT[1]
    calls = calls_per_app(sandbox)
    assert calls == Counter(str(app.appid) for app in apps)


def test_kill_9_in_the_middle_loses_nothing_and_nothing_is_counted_twice(store: Store, sandbox: Sandbox) -> None:
    sandbox.state.latency = 0.01
    sandbox.state.remembered("steam")["settings"] = {"details_limit": 100_000}
    for after in (20, 60, 110):
        worker = start(store.warehouse.dsn, sandbox.url, source="storefront", share=1000, limit=(500, 1.0))
        wait_until(lambda least=after: sandbox.answered("steam") >= least, worker)
        worker.kill()
        worker.communicate()
        assert store.rows("select count(*) > 0 from penstock.app_sync_states where leased_until > now()") == [(True,)]
        store.forget_leases()
    last = start(store.warehouse.dsn, sandbox.url, source="storefront", share=1000, limit=(500, 1.0))
    counts_of(last)
    jobs = store.rows("select status, error_message from public.sync_jobs order by started_at")
    assert jobs == [("failed", "abandoned_as_stale_by_new_storefront_run")] * 3 + [("completed", None)]
    states = store.rows(
        "select count(*) filter (where last_outcome = 'synced'), count(*) filter (where last_outcome = 'skipped'), "
        "count(*) filter (where last_outcome = 'failed'), max(failures) from penstock.app_sync_states"
    )
    ((synced, skipped, failed, most),) = states
    apps = [app.state for app in catalogue(sandbox.state.seed).values()]
    assert (synced, skipped, failed, most) == (apps.count("ok"), apps.count("missing"), 2, 1)
    # Every job wrote its counts in the transaction that wrote the apps: those of the killed ones are true as well.
    totals = store.rows("select sum(items_succeeded), sum(items_skipped), sum(items_failed) from public.sync_jobs")
    assert totals == [(synced, skipped, failed)]


def test_sigterm_ends_a_worker_within_a_second_and_its_job_cleanly(store: Store, sandbox: Sandbox) -> None:
    sandbox.state.latency = 0.05
    worker = start(store.warehouse.dsn, sandbox.url, source="storefront", share=1000, limit=(10, 1.0))
    wait_until(lambda: sandbox.answered("steam") >= 5, worker)
    told = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    counts = counts_of(worker, 10.0)
    assert time.monotonic() - told < 2.0
    assert 4 <= counts["processed"] == sandbox.answered("steam")
    assert counts["released"] == 50 - counts["processed"]
    assert store.rows("select status from public.sync_jobs") == [("completed",)]
    assert store.rows("select count(*) from penstock.app_sync_states where leased_until is not null") == [(0,)]
