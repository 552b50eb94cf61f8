"""The keyed-entity worker against a real database and the sandbox's store over HTTP."""

from __future__ import annotations

import datetime as dt
import os
import signal
import threading
import time
from typing import Any

import pytest

from penstock.core.errors import PenstockError, error
from penstock.jobs.app_sync import items, plan_lanes, report_disabled
from penstock.jobs.app_sync.context import Item, SyncContext
from penstock.jobs.app_sync.items import claim
from penstock.sources.apps import by_name
from penstock.sources.keyed import KeyedSource, Record, Send
from penstock.warehouse.session import Warehouse
from sandbox.steam_apps import BROKEN_APPID, POISON_APPID, catalogue
from tests.app_store import Store, apps_of, seed_apps
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db


@pytest.fixture
def store(warehouse: Warehouse, sandbox: Sandbox) -> Store:
    """Every app of the sandbox's store, none read yet."""
    sandbox.state.remembered("steam")["settings"] = {"details_limit": 100_000, "reviews_limit": 100_000}
    seed_apps(warehouse.dsn, catalogue(sandbox.state.seed))
    return Store(warehouse, sandbox.url)


def counted(sandbox: Sandbox) -> dict[str, int]:
    apps = catalogue(sandbox.state.seed).values()
    states = [app.state for app in apps]
    return {"ok": states.count("ok"), "missing": states.count("missing"), "all": len(states)}


def test_every_app_ends_in_its_right_state_with_the_vendor_s_own_values(store: Store, sandbox: Sandbox) -> None:
    expected = counted(sandbox)
    details, reviews = store.sync("storefront"), store.sync("reviews")
    for counts in (details, reviews):
        assert (counts.processed, counts.succeeded, counts.skipped, counts.failed) == (
            expected["all"], expected["ok"], expected["missing"], 2,
        )  # fmt: skip
        assert (counts.created, counts.updated, counts.released, counts.lost) == (expected["ok"], 0, 0, 0)
    truth = {app["appid"]: app for app in sandbox.get("steam/truth")["apps"] if app["state"] == "ok"}
    rows = store.rows(
        "select jsonb_build_object('appid', a.appid, 'name', a.name, 'type', a.type, 'is_free', a.is_free, "
        "'is_released', a.is_released, 'release_date', a.release_date, 'has_workshop', a.has_workshop, "
        "'has_developer_info', a.has_developer_info, 'price_cents', a.current_price_cents, "
        "'discount_percent', a.current_discount_percent, 'total_reviews', d.total_reviews, "
        "'positive_reviews', d.positive_reviews, 'negative_reviews', d.negative_reviews, 'state', 'ok') "
        "from public.apps as a inner join public.daily_metrics as d using (appid)"
    )
    assert {row[0]["appid"]: row[0] for row in rows} == truth
    assert store.rows("select count(*) from penstock.app_prices") == [
        (sum(1 for app in truth.values() if app["price_cents"] is not None),)
    ]
    jobs = store.rows("select job_type, status, items_processed, items_skipped, items_failed from public.sync_jobs")
    assert sorted(jobs) == [
        (name, "completed", expected["all"], expected["missing"], 2) for name in ("reviews", "storefront")
    ]


@pytest.mark.parametrize("status", [200, 404, 410], ids=str)
def test_an_app_that_the_vendor_does_not_have_is_stamped_and_not_picked_again(
    store: Store, sandbox: Sandbox, status: int
) -> None:
    """Whether it says so in its answer, as the store does, or by the status, as others do."""
    missing = apps_of(sandbox.state.seed, "missing")[0].appid
    if status != 200:
        sandbox.faults({"vendor": "steam", "action": "status", "params": {"status": status}})
    store.rows("update public.sync_status set is_syncable = false where appid <> %s returning 1", missing)
    store.rows("update public.sync_status set consecutive_errors = 3 where appid = %s returning 1", missing)
    assert store.sync().skipped == 1
    status = store.status(missing)
    assert status["last_storefront_sync"] is not None
    assert status["consecutive_errors"] == 0
    assert store.due("storefront") == []
    assert store.sync().processed == 0
    assert sandbox.answered("steam", "appdetails") == 1


def test_a_success_resets_the_errors_and_a_failure_adds_one_in_the_database(store: Store) -> None:
    store.rows("update public.sync_status set consecutive_errors = 4 returning 1")
    store.sync("storefront")
    assert store.rows("select distinct consecutive_errors from public.sync_status order by 1") == [(0,), (5,)]
    for appid in (POISON_APPID, BROKEN_APPID):
        status = store.status(appid)
        assert (status["consecutive_errors"], status["last_error_source"]) == (5, "storefront")
        assert status["is_syncable"] is True
        assert status["last_storefront_sync"] is None
    codes = dict(
        store.rows("select appid, last_error_code from penstock.app_sync_states where last_outcome = 'failed'")
    )
    assert codes == {POISON_APPID: "WRONG_TYPE", BROKEN_APPID: "STEAM_TRANSIENT"}


@pytest.mark.parametrize(
    ("errors", "minutes"), [(0, 30), (1, 60), (2, 120), (3, 240), (4, 24 * 60), (8, 24 * 60)], ids=lambda n: str(n)
)
def test_the_back_off_doubles_and_the_fifth_error_costs_a_day(store: Store, errors: int, minutes: int) -> None:
    store.rows("update public.sync_status set is_syncable = appid = %s, consecutive_errors = %s returning 1",
               POISON_APPID, errors)  # fmt: skip
    assert store.sync().failed == 1
    ((wait,),) = store.rows("select not_before - now() from penstock.app_sync_states where appid = %s", POISON_APPID)
    assert dt.timedelta(minutes=minutes - 1) < wait <= dt.timedelta(minutes=minutes)
    assert store.due("storefront") == []


def test_the_tenth_error_gives_an_app_up_and_people_hear_of_it_once(store: Store) -> None:
    store.rows("update public.sync_status set is_syncable = appid = %s, consecutive_errors = 9 returning 1",
               POISON_APPID)  # fmt: skip
    store.sync()
    told: list[Any] = []
    assert report_disabled(store.warehouse, told.extend) == 1
    assert report_disabled(store.warehouse, told.extend) == 0
    (app,) = told
    assert (app.appid, app.source, app.errors) == (POISON_APPID, "storefront", 10)
    assert store.status(POISON_APPID)["is_syncable"] is False
    store.rows("update penstock.app_sync_states set not_before = null returning 1")
    assert [store.due(source) for source in ("storefront", "reviews", "histogram")] == [[], [], []]
    assert store.sync().processed == 0
    assert store.rows("select penstock.revive_app(%s)", POISON_APPID) == [(True,)]
    assert store.due("storefront") == [POISON_APPID]


def test_a_rate_limit_storm_charges_no_app_and_starves_none(store: Store, sandbox: Sandbox) -> None:
    sandbox.faults(
        {"vendor": "steam", "action": "status", "after": 40, "times": 12, "params": {"status": 429}},
        {"vendor": "steam", "action": "status", "after": 120, "times": 4, "params": {"status": 200}},
    )
    expected = counted(sandbox)
    counts = store.sync()
    assert (counts.succeeded, counts.skipped, counts.failed) == (expected["ok"], expected["missing"], 2)
    assert store.rows("select count(*), max(consecutive_errors) from public.sync_status") == [(expected["all"], 1)]
    assert store.rows("select count(*) from penstock.app_sync_states where leased_until is not null") == [(0,)]
    assert sandbox.answered("steam", status=429) == 12


@pytest.mark.parametrize(("status", "code", "calls"), [(429, "STEAM_RATE_LIMIT", 5), (400, "STEAM_INVALID_QUERY", 2)])
def test_an_app_that_is_refused_again_and_again_fails_alone(
    store: Store, sandbox: Sandbox, status: int, code: str, calls: int
) -> None:
    """First in the queue, and never answered: it holds up nobody, and its job ends well."""
    (first, *_) = apps_of(sandbox.state.seed, "ok")
    store.rows("update public.sync_status set priority_score = 1000 where appid = %s returning 1", first.appid)
    sandbox.faults({"vendor": "steam", "account": str(first.appid), "action": "status", "params": {"status": status}})
    expected = counted(sandbox)
    counts = store.sync(time_limit=dt.timedelta(seconds=60))
    assert (counts.succeeded, counts.skipped, counts.failed) == (expected["ok"] - 1, expected["missing"], 3)
    assert store.rows("select last_outcome, last_error_code, failures from penstock.app_sync_states where appid = %s",
                      first.appid) == [("failed", code, 1)]  # fmt: skip
    assert sandbox.answered("steam", status=status) == calls
    assert store.rows("select status, error_message from public.sync_jobs") == [("completed", None)]


def test_a_long_refusal_ends_the_job_and_gives_everything_back(store: Store, sandbox: Sandbox) -> None:
    sandbox.faults({"vendor": "steam", "action": "status", "params": {"status": 429, "retry_after": 3000}})
    counts = store.sync(time_limit=dt.timedelta(seconds=60))
    assert (counts.processed, counts.released) == (0, 50)
    assert store.rows("select count(*) from public.sync_status where consecutive_errors > 0") == [(0,)]
    ((status, message),) = store.rows("select status, error_message from public.sync_jobs")
    assert status == "completed"
    assert "STEAM_RATE_LIMIT" in message
    assert len(store.due("storefront")) == counted(sandbox)["all"]


def test_a_fault_that_a_person_must_mend_fails_the_job_and_gives_everything_back(
    store: Store, sandbox: Sandbox
) -> None:
    sandbox.faults({"vendor": "steam", "action": "status", "after": 30, "params": {"status": 400}})
    with pytest.raises(PenstockError) as refused:
        store.sync()
    assert refused.value.code == "STEAM_INVALID_QUERY"
    ((status, message, processed),) = store.rows("select status, error_message, items_processed from public.sync_jobs")
    assert (status, processed) == ("failed", 30)
    assert message.startswith("STEAM_INVALID_QUERY")
    assert len(store.due("storefront")) == counted(sandbox)["all"] - 30
    assert store.rows("select count(*) from penstock.app_sync_states where leased_until is not null") == [(0,)]


def numbered(number: int) -> Record:
    return {"total_reviews": number, "positive_reviews": 0, "negative_reviews": 0, "review_score": 0}


def test_progress_is_told_every_hundred_apps(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "penstock.jobs.app_sync.worker")
    store.sync()
    told = [int(record.args[1]) for record in caplog.records if record.msg == "%s: %d of %d"]  # type: ignore[index, arg-type, call-overload]
    assert [processed // 100 for processed in told] == [1, 2, 3]


def test_no_more_apps_are_in_hand_than_the_source_allows(store: Store) -> None:
    guard, now_in_hand, most = threading.Lock(), 0, 0

    def fetch(send: Send, key: int) -> Record | None:
        nonlocal now_in_hand, most
        with guard:
            now_in_hand += 1
            most = max(most, now_in_hand)
        time.sleep(0.005)
        with guard:
            now_in_hand -= 1
        return None

    assert store.sync(KeyedSource("reviews", "steam", fetch, concurrency=3)).skipped == 300
    assert most == 3


def test_a_record_that_the_database_refuses_fails_alone(store: Store) -> None:
    def fetch(send: Send, key: int) -> Record | None:
        return numbered(2**40 if key == POISON_APPID else key)

    counts = store.sync(KeyedSource("reviews", "steam", fetch))
    assert (counts.succeeded, counts.failed) == (299, 1)
    assert store.status(POISON_APPID)["last_error_message"].startswith("SCHEMA_MISMATCH: app 1210")


def test_a_kind_that_the_old_enum_does_not_know_changes_nothing_again_and_again(store: Store) -> None:
    def fetch(send: Send, key: int) -> Record | None:
        return {"name": "Comic", "type": "comic", "is_free": True, "is_released": True, "has_workshop": False,
                "has_developer_info": True}  # fmt: skip

    source = KeyedSource("storefront", "steam", fetch)
    store.rows("update public.apps set type = 'game' returning 1")
    assert store.sync(source).created == 300
    store.rows("update public.sync_status set last_storefront_sync = null returning 1")
    store.rows("update penstock.app_sync_states set last_synced_at = null returning 1")
    first = store.rows("select min(updated_at), max(updated_at), min(type::text) from public.apps")
    assert first[0][2] == "game"
    assert store.sync(source).succeeded == 300
    assert store.rows("select min(updated_at), max(updated_at), min(type::text) from public.apps") == first


def test_a_defect_in_a_source_fails_the_items_that_meet_it_alone(store: Store) -> None:
    def fetch(send: Send, key: int) -> Record | None:
        return numbered(1 // (key - POISON_APPID))

    counts = store.sync(KeyedSource("reviews", "steam", fetch))
    assert (counts.succeeded, counts.failed) == (299, 1)
    assert store.status(POISON_APPID)["last_error_message"].startswith("UNKNOWN: ZeroDivisionError")


def test_a_source_that_no_enum_knows_is_registered_by_its_first_job(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(send: Send, key: int) -> Record | None:
        if key == POISON_APPID:
            raise error("WRONG_TYPE", "no")
        return None

    counts = store.sync(KeyedSource("new_source", "steam", fetch, fixed_interval=dt.timedelta(days=2)))
    assert (counts.skipped, counts.failed) == (299, 1)
    assert store.status(POISON_APPID)["last_error_source"] == "new_source"
    assert store.due("new_source") == []
    store.rows("update penstock.app_sync_states set last_synced_at = now() - interval '49 hours' returning 1")
    assert len(store.due("new_source")) == 299


def test_workers_never_hold_the_same_app_and_together_hold_all(store: Store) -> None:
    taken: list[list[int]] = [[] for _ in range(6)]

    def take(number: int) -> None:
        context = store.context("storefront")
        while items := claim(context, 7):
            taken[number] += [item.appid for item in items]

    threads = [threading.Thread(target=take, args=(number,)) for number in range(len(taken))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [appid for each in taken for appid in each]
    assert len(everything) == len(set(everything))
    # Who meets rows that others are just locking may find nothing for a moment and stop: the rest is taken next time.
    everything += [item.appid for item in claim(store.context("storefront"), 1000)]
    assert sorted(everything) == [row[0] for row in store.rows("select appid from public.apps order by 1")]


def test_a_claim_that_loses_a_race_does_not_take_the_queue_for_empty(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else claims what this one has picked, between its look and its write; the rest is still there."""
    context = store.context("storefront")
    due = store.due("storefront")
    real = items._claim_once

    def beaten(of: SyncContext, limit: int) -> list[Item]:
        monkeypatch.setattr(items, "_claim_once", real)
        assert len(real(store.context("storefront"), limit)) == limit
        return []

    monkeypatch.setattr(items, "_claim_once", beaten)
    assert [item.appid for item in items.claim(context, 2)] == list(due[2:4])


def test_a_worker_that_lost_its_leases_writes_nothing_for_them(store: Store) -> None:
    slow = threading.Event()

    def fetch(send: Send, key: int) -> Record | None:
        slow.wait(10)
        return numbered(1)

    results: list[Any] = []
    source = KeyedSource("reviews", "steam", fetch)
    frozen = threading.Thread(target=lambda: results.append(store.sync(source, 5, time_limit=dt.timedelta(0, 5))))
    frozen.start()
    while not store.rows("select 1 from penstock.app_sync_states where leased_until > now()"):
        time.sleep(0.01)
    store.forget_leases()
    successor = claim(store.context("reviews"), 5)
    slow.set()
    frozen.join()
    (counts,) = results
    assert (counts.lost, counts.succeeded) == (5, 5)  # it went on with others
    theirs = [item.appid for item in successor]
    assert store.rows("select 1 from public.daily_metrics where appid = any(%s)", theirs) == []
    still_theirs = store.rows(
        "select appid, lease_epoch from penstock.app_sync_states where leased_until > now() order by appid"
    )
    assert still_theirs == sorted((item.appid, item.epoch) for item in successor)


def test_stop_finishes_what_is_in_hand_gives_back_the_rest_and_ends_the_job(store: Store, sandbox: Sandbox) -> None:
    sandbox.state.latency = 0.05

    def terminate() -> None:
        while sandbox.answered("steam") < 10:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, lambda *_: store.stop.set())
    try:
        killer = threading.Thread(target=terminate)
        killer.start()
        counts = store.sync()
        killer.join()
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert 10 <= counts.processed < 25
    assert sandbox.answered("steam") == counts.processed
    assert counts.released == 50 - counts.processed
    ((status, processed, message),) = store.rows("select status, items_processed, error_message from public.sync_jobs")
    assert (status, processed) == ("completed", counts.processed)
    assert message.startswith("stopped")
    assert store.rows("select count(*) from penstock.app_sync_states where leased_until is not null") == [(0,)]


def test_jobs_that_lost_their_worker_are_closed_by_the_next_one(store: Store) -> None:
    store.rows(
        "insert into public.sync_jobs (job_type, started_at, status, github_run_id, lane) values "
        "('storefront', now() - interval '46 minutes', 'running', 'another', 0), "
        "('storefront', now() - interval '44 minutes', 'running', 'another', 0), "
        "('storefront', now() - interval '1 minute', 'running', 'run', 0), "
        "('reviews', now() - interval '2 days', 'running', null, null) returning 1"
    )
    store.sync("storefront", share=1)
    rows = store.rows(
        "select job_type, status, error_message from public.sync_jobs where started_at < now() - interval '30 seconds' "
        "order by started_at"
    )
    stale = "abandoned_as_stale_by_new_storefront_run"
    assert rows == [
        ("reviews", "running", None),
        ("storefront", "failed", stale),
        ("storefront", "running", None),
        ("storefront", "failed", stale),
    ]


def test_lanes_share_the_batch_and_a_dry_run_touches_nothing(store: Store, sandbox: Sandbox) -> None:
    sources = [by_name("storefront"), by_name("reviews")]
    lanes = plan_lanes(store.warehouse, sources, batch_size=7, partitions=3, is_dry_run=False)
    assert [(lane.source, lane.lane, lane.share) for lane in lanes] == [
        ("storefront", 0, 3), ("storefront", 1, 2), ("storefront", 2, 2),
        ("reviews", 0, 3), ("reviews", 1, 2), ("reviews", 2, 2),
    ]  # fmt: skip
    assert store.sync("storefront", share=3).processed == 3
    before = store.rows("select count(*), max(updated_at) from penstock.app_sync_states")
    assert plan_lanes(store.warehouse, sources, batch_size=None, partitions=3, is_dry_run=True) == []
    assert store.rows("select count(*), max(updated_at) from penstock.app_sync_states") == before
    assert sandbox.answered("steam") == 3
