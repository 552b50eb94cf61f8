"""Shared rate limits and circuit breakers, by several processes on one database."""

from __future__ import annotations

import bisect
import itertools
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from penstock.clients.credentials import Credentials
from penstock.clients.klaviyo import KlaviyoClient
from penstock.core.errors import PenstockError
from penstock.sources.klaviyo import LIMITS
from penstock.sources.stream import Limit, Request
from penstock.warehouse.limits import TRUST_SECONDS, SharedBreaker, SharedLimiter, spacing
from penstock.warehouse.session import Warehouse

TOLERANCE = 0.95  # of a window: clocks and sleeps are a little off, and so is a vendor's counting


HEADROOM = 0.95
"""What the sources take of a vendor's limit, for the same reason."""


def _work(dsn: str, limits: Sequence[Limit], start: float, seconds: float, zone: str, results: Any) -> None:
    """Takes units as fast as it may, and reports when it would have called."""
    with Warehouse(dsn) as warehouse:
        with warehouse.shared_connection() as connection:
            connection.execute("select set_config('TimeZone', %s, false)", [zone])
        limiter = SharedLimiter(warehouse)
        calls: list[float] = []
        time.sleep(max(0.0, start - time.time()))
        while time.time() < start + seconds:
            time.sleep(limiter.reserve("klaviyo:1:events", limits))
            calls.append(time.time())
    results.put(calls)


def _run_workers(dsn: str, limits: Sequence[Limit], seconds: float, workers: int = 4) -> list[list[float]]:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    start = time.time() + 0.7
    zones = ["UTC", "America/New_York", "Asia/Kolkata", "Australia/Eucla"]
    processes = [
        context.Process(target=_work, args=(dsn, limits, start, seconds, zones[number % len(zones)], results))
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    calls = [results.get(timeout=seconds + 60) for _ in processes]
    for process in processes:
        process.join()
    return calls


def most_in_a_window(calls: Sequence[float], seconds: float) -> int:
    return max(bisect.bisect_left(calls, start + seconds) - index for index, start in enumerate(calls))


@pytest.mark.parametrize(
    "vendors",
    [
        (Limit(40, 2.0),),
        (Limit(40, 2.0, burst=3),),
        (Limit(40, 2.0, is_hard_window=True),),
        (Limit(25, 1.0), Limit(60, 3.0, is_hard_window=True), Limit(500, 86400, is_hard_window=True)),
    ],
    ids=["even", "burst", "hard", "several"],
)
def test_four_workers_never_exceed_a_limit_use_most_of_it_and_share_it_fairly(
    fresh_database: str, vendors: Sequence[Limit]
) -> None:
    ours = [replace(limit, period=limit.period / HEADROOM) for limit in vendors]
    by_worker = _run_workers(fresh_database, ours, 4.2)
    calls = sorted(call for worker in by_worker for call in worker)
    for limit in vendors:
        assert most_in_a_window(calls, limit.period * TOLERANCE) <= limit.count, limit
    tightest = vendors[1 if len(vendors) > 1 else 0]
    windows = int((calls[-1] - calls[0]) / tightest.period)
    inside = [call for call in calls if call < calls[0] + windows * tightest.period]
    assert len(inside) >= 0.85 * windows * tightest.count
    shares = [len(worker) for worker in by_worker]
    # The first units of a hard window are free at once: the fastest takes most of them. After that it is by turns.
    least = 0.25 if any(limit.is_hard_window for limit in vendors) else 0.7
    assert min(shares) >= least * max(shares), shares


@pytest.mark.parametrize("burst", [1, 3, 10])
@pytest.mark.parametrize("cost", [1, 2])
def test_no_window_of_granted_times_holds_more_than_the_limit(warehouse: Warehouse, burst: int, cost: int) -> None:
    """Exact, because nobody sleeps: the grants are computed from the database's answers alone."""
    limit = Limit(20, 60.0, burst=burst)
    granted = _grants(warehouse, [limit], cost, 40)
    assert most_in_a_window(granted, 59.9) * cost <= 20


def test_a_hard_window_lets_the_whole_count_through_at_once_and_then_waits(warehouse: Warehouse) -> None:
    granted = _grants(warehouse, [Limit(10, 60.0, is_hard_window=True)], 1, 30)
    assert granted[9] - granted[0] < 2
    assert 59.9 < granted[10] - granted[0] < 62
    assert most_in_a_window(granted, 59.9) == 10


def test_several_limits_hold_together_and_none_is_charged_for_a_call_that_comes_later(warehouse: Warehouse) -> None:
    slow, fast = Limit(6, 60.0), Limit(2, 1.0, is_hard_window=True)
    granted = _grants(warehouse, [slow, fast], 1, 12)
    gaps = [later - earlier for earlier, later in itertools.pairwise(granted)]
    assert all(9.5 < gap < 10.5 for gap in gaps), gaps


def _grants(warehouse: Warehouse, limits: Sequence[Limit], cost: int, number: int) -> list[float]:
    limiter = SharedLimiter(warehouse, max_wait=1e6)
    return [time.time() + limiter.reserve("key", limits, cost) for _ in range(number)]


def test_an_idle_limit_saves_up_no_more_than_its_burst(warehouse: Warehouse) -> None:
    limiter = SharedLimiter(warehouse)
    limit = Limit(20, 1.0, burst=3)
    limiter.reserve("key", [limit])
    time.sleep(0.5)
    waits = [limiter.reserve("key", [limit]) for _ in range(5)]
    assert waits[:3] == [0.0, 0.0, 0.0]
    assert 0 < waits[3] < waits[4] <= 2.5 * spacing(limit)


def test_a_wait_that_is_too_long_is_told_and_takes_nothing(warehouse: Warehouse) -> None:
    limiter = SharedLimiter(warehouse, max_wait=60)
    day = [Limit(2, 86_400.0, is_hard_window=True), Limit(10, 1.0)]
    assert [limiter.reserve("key", day) for _ in range(2)] == pytest.approx([0.0, 0.1], abs=0.1)
    waits = [limiter.reserve("key", day) for _ in range(5)]
    assert all(86_300 < wait <= 86_400 for wait in waits)
    with warehouse.connection() as connection:
        rows = connection.execute(
            "select limit_key, cardinality(grants) from penstock.rate_limits order by 1"
        ).fetchall()
    assert rows == [("key", 0), ("key:10/1", 0), ("key:2/86400", 2)]


def test_keys_do_not_wait_for_each_other(warehouse: Warehouse) -> None:
    limiter = SharedLimiter(warehouse)
    limit = [Limit(1, 60.0)]
    assert limiter.reserve("a", limit) == 0
    assert limiter.reserve("b", limit) == 0
    assert limiter.reserve("a", limit) > 59


def test_a_closed_key_is_closed_for_every_worker_and_a_shorter_closing_does_not_open_it(
    warehouse: Warehouse, fresh_database: str
) -> None:
    limiter = SharedLimiter(warehouse)
    limiter.block("key", 30, "Retry-After")
    limiter.block("key", 5, "Retry-After")
    with Warehouse(fresh_database) as other:
        assert 29 < SharedLimiter(other).reserve("key", [Limit(10, 1.0)]) <= 30
        assert SharedLimiter(other).reserve("other key", [Limit(10, 1.0)]) == 0


def test_after_a_closing_the_calls_do_not_all_come_at_once(warehouse: Warehouse) -> None:
    limiter = SharedLimiter(warehouse)
    limiter.block("key", 30, "Retry-After")
    waits = [limiter.reserve("key", [Limit(10, 1.0)]) for _ in range(11)]
    assert waits[10] - waits[0] == pytest.approx(1.0, abs=0.2)


# -- the database's clock goes back


def clock_went_back(warehouse: Warehouse, seconds: float = 86_400.0) -> None:
    """All of the limits was written while the clock was ahead by so much."""
    with warehouse.connection() as connection:
        connection.execute(
            "update penstock.rate_limits as r set next_free_at = r.next_free_at + s.ahead,"
            " grants = array(select g + s.ahead from unnest(r.grants) as g), updated_at = r.updated_at + s.ahead"
            " from (select make_interval(secs => %s) as ahead) as s where r.limit_key like '%%/%%'",
            [seconds],
        )


@pytest.mark.parametrize(
    ("limit", "wait"),
    [(Limit(10, 1.0), 0.1), (Limit(1, 60.0), 60.0), (Limit(1, 60.0, is_hard_window=True), 60.0)],
    ids=["even", "slow", "hard"],
)
def test_a_clock_that_went_back_closes_no_limit_until_it_has_caught_up(
    warehouse: Warehouse, limit: Limit, wait: float
) -> None:
    limiter = SharedLimiter(warehouse)
    assert limiter.reserve("key", [limit]) == 0
    clock_went_back(warehouse)
    assert limiter.reserve("key", [limit]) == pytest.approx(wait, abs=0.05)


@pytest.mark.parametrize("seconds", [0.5, 30.0, 86_400.0])
@pytest.mark.parametrize(
    "limit",
    [Limit(20, 60.0), Limit(20, 60.0, burst=5), Limit(20, 60.0, is_hard_window=True)],
    ids=["even", "burst", "hard"],
)
def test_a_clock_that_goes_back_lets_no_more_calls_through_than_the_limit(
    warehouse: Warehouse, limit: Limit, seconds: float
) -> None:
    granted: list[float] = []
    for _ in range(4):
        granted += _grants(warehouse, [limit], 1, 12)
        clock_went_back(warehouse, seconds)
    assert most_in_a_window(sorted(granted), 59.9) <= 20
    assert max(granted) - min(granted) < 48 / 20 * 60 * 1.3


def test_calls_from_before_a_clock_ran_ahead_for_a_moment_still_count(warehouse: Warehouse) -> None:
    limiter = SharedLimiter(warehouse)
    limit = Limit(3, 60.0, is_hard_window=True)
    assert [limiter.reserve("key", [limit]) for _ in range(3)] == [0.0] * 3
    with warehouse.connection() as connection:
        connection.execute(
            "update penstock.rate_limits set grants[3] = grants[3] + interval '1 day',"
            " updated_at = updated_at + interval '1 day' where cardinality(grants) > 0"
        )
    assert 59 < limiter.reserve("key", [limit]) <= 60


def test_a_place_that_is_refused_after_the_clock_went_back_comes_nearer_all_the_same(warehouse: Warehouse) -> None:
    limiter = SharedLimiter(warehouse, max_wait=60)
    limit = Limit(1, 100.0)
    limiter.reserve("key", [limit])
    clock_went_back(warehouse)
    assert limiter.reserve("key", [limit]) == pytest.approx(100, abs=0.5)  # too long: nothing was taken
    clock_went_back(warehouse, -50.0)  # 50 seconds pass
    assert limiter.reserve("key", [limit]) == pytest.approx(50, abs=0.5)


def test_what_a_vendor_has_closed_stays_closed_when_the_clock_goes_back(warehouse: Warehouse) -> None:
    limiter = SharedLimiter(warehouse)
    limiter.reserve("key", [Limit(10, 1.0)])
    limiter.block("key", 30, "Retry-After")
    clock_went_back(warehouse)
    assert 29 < limiter.reserve("key", [Limit(10, 1.0)]) <= 30


# -- what a reservation costs


@pytest.mark.parametrize(
    ("limits", "waits"),
    [
        ((Limit(350, 1.0), Limit(3500, 60.0)), False),
        ((Limit(350, 1.0), Limit(60, 60.0)), True),
        ((Limit(1000, 1.0, is_hard_window=True),), True),
    ],
)
def test_only_places_of_a_moment_do_not_wait_for_the_disk(
    warehouse: Warehouse, limits: tuple[Limit, ...], waits: bool
) -> None:
    """A report call of which the server knew nothing after a crash would be one too many for a whole minute."""
    with warehouse.shared_connection() as connection:
        connection.execute("set synchronous_commit = on")
        connection.execute(
            "create table penstock.commits (waits text);"
            "create function penstock.note_commit() returns trigger language plpgsql as $$ begin"
            " insert into penstock.commits values (current_setting('synchronous_commit')); return null; end $$;"
            "create constraint trigger note after insert or update on penstock.rate_limits"
            " deferrable initially deferred for each row execute function penstock.note_commit()"
        )
    limiter = SharedLimiter(warehouse)
    limiter.reserve("klaviyo:1:x", limits)
    limiter.block("klaviyo:1:x", 1.0, "told so")
    with warehouse.connection() as connection:
        noted = [waits for (waits,) in connection.execute("select waits from penstock.commits").fetchall()]
    assert set(noted[:-1]) == {"on" if waits else "off"}
    assert noted[-1] == "on"


def test_a_reservation_commits_although_the_thread_has_a_transaction_open(warehouse: Warehouse) -> None:
    limiter = SharedLimiter(warehouse)
    with warehouse.transaction():
        limiter.reserve("key", [Limit(1, 60.0)])
        raise psycopg.Rollback
    assert limiter.reserve("key", [Limit(1, 60.0)]) > 59


@pytest.mark.parametrize(("limit", "cost"), [(Limit(5, 1.0), 6), (Limit(5, 1.0), 0), (Limit(5, 1.0, burst=6), 1)])
def test_what_no_window_can_hold_is_refused(warehouse: Warehouse, limit: Limit, cost: int) -> None:
    with pytest.raises(PenstockError, match="do not fit") as caught:
        SharedLimiter(warehouse).reserve("key", [limit], cost)
    assert caught.value.code == "CONFIG_INVALID"


def test_high_usage_is_kept_low_usage_costs_no_write_and_the_fall_is_noted(warehouse: Warehouse) -> None:
    limiter = SharedLimiter(warehouse)

    def kept() -> list[Any]:
        with warehouse.connection() as connection:
            return connection.execute("select usage_percent::float from penstock.rate_limits").fetchall()

    limiter.observe("key", 10)
    assert kept() == []
    limiter.observe("key", 88.5)
    assert kept() == [(88.5,)]
    limiter.observe("key", 12)
    assert kept() == [(12.0,)]


# -- breakers -----------------------------------------------------------------------------------------------------


def opened(warehouse: Warehouse, cooldown: float = 0.2, key: str = "meta_ads:1") -> SharedBreaker:
    breaker = SharedBreaker(warehouse, threshold=3, cooldown=cooldown)
    for _ in range(3):
        breaker.failure(key, "HTTP 503")
    return breaker


def test_a_breaker_opens_after_failures_in_a_row_only(warehouse: Warehouse) -> None:
    breaker = SharedBreaker(warehouse, threshold=3)
    for _ in range(4):
        breaker.failure("key", "x")
        breaker.failure("key", "x")
        breaker.success("key")
    assert breaker.allow("key")
    for _ in range(3):
        breaker.failure("key", "x")
    assert not breaker.allow("key")
    assert breaker.allow("other key")


def test_what_one_worker_saw_stops_the_others(warehouse: Warehouse, fresh_database: str) -> None:
    opened(warehouse, cooldown=30)
    with Warehouse(fresh_database) as other:
        assert not SharedBreaker(other).allow("meta_ads:1")
    with warehouse.connection() as connection:
        row = connection.execute("select state, failures, last_error from penstock.circuit_breakers").fetchone()
    assert row == ("open", 3, "HTTP 503")


def test_a_failed_probe_opens_the_breaker_for_twice_as_long_and_a_good_one_closes_it(warehouse: Warehouse) -> None:
    breaker = opened(warehouse)
    time.sleep(0.3)
    assert breaker.allow("meta_ads:1")
    breaker.failure("meta_ads:1", "HTTP 503")
    time.sleep(0.1)
    assert not breaker.allow("meta_ads:1")
    with warehouse.connection() as connection:
        row = connection.execute("select cooldown::text from penstock.circuit_breakers").fetchone()
    assert row == ("00:00:00.4",)
    time.sleep(0.5)
    assert breaker.allow("meta_ads:1")
    breaker.success("meta_ads:1")
    assert breaker.allow("meta_ads:1")
    with warehouse.connection() as connection:
        row = connection.execute("select state, failures, cooldown::text from penstock.circuit_breakers").fetchone()
    assert row == ("closed", 0, "00:00:00.2")


def test_late_failures_of_calls_on_their_way_do_not_lengthen_the_pause(warehouse: Warehouse) -> None:
    breaker = opened(warehouse, cooldown=30)
    with warehouse.connection() as connection:
        before = connection.execute("select open_until from penstock.circuit_breakers").fetchone()
        breaker.failure("meta_ads:1", "late")
        assert connection.execute("select open_until from penstock.circuit_breakers").fetchone() == before


def test_a_probe_that_never_came_back_does_not_block_the_next_one_for_ever(warehouse: Warehouse) -> None:
    breaker = opened(warehouse)
    time.sleep(0.3)
    assert breaker.allow("meta_ads:1")
    assert not breaker.allow("meta_ads:1")
    with warehouse.connection() as connection:
        connection.execute("update penstock.circuit_breakers set probe_until = now() - interval '1 second'")
    assert breaker.allow("meta_ads:1")


def test_a_probe_of_a_worker_that_had_seen_no_failure_closes_the_breaker(
    warehouse: Warehouse, fresh_database: str
) -> None:
    """What the worker remembers of the breaker is older than the failures of the others."""
    breaker = SharedBreaker(warehouse)
    assert breaker.allow("meta_ads:1")
    breaker.success("meta_ads:1")
    with Warehouse(fresh_database) as other:
        opened(other)
    time.sleep(TRUST_SECONDS + 0.2)
    assert breaker.allow("meta_ads:1")
    breaker.success("meta_ads:1")
    with warehouse.connection() as connection:
        row = connection.execute("select state, failures, probe_until from penstock.circuit_breakers").fetchone()
    assert row == ("closed", 0, None)
    assert breaker.allow("meta_ads:1")


def test_whether_a_call_would_be_refused_is_told_without_becoming_the_probe(warehouse: Warehouse) -> None:
    breaker = opened(warehouse)
    assert breaker.refuses("meta_ads:1")
    assert not breaker.refuses("meta_ads:2")
    time.sleep(0.3)
    assert [breaker.refuses("meta_ads:1") for _ in range(2)] == [False, False]
    assert breaker.allow("meta_ads:1")
    assert breaker.refuses("meta_ads:1")
    breaker.success("meta_ads:1")
    assert not breaker.refuses("meta_ads:1")


def test_an_open_circuit_takes_nothing_of_the_days_report_calls(warehouse: Warehouse) -> None:
    breaker = opened(warehouse, cooldown=3600, key="klaviyo:1")
    waits: list[float] = []
    credentials = Credentials("http://vendor.test", "pk_x")
    client = KlaviyoClient(credentials, "1", LIMITS, SharedLimiter(warehouse), breaker, sleep=waits.append)
    with pytest.raises(PenstockError) as refused:
        client.send(Request("POST", "api/campaign-values-reports", body={}, limit="reports"))
    assert (refused.value.code, client.requests) == ("CIRCUIT_OPEN", 0)
    assert waits
    with warehouse.connection() as connection:
        assert connection.execute("select limit_key from penstock.rate_limits").fetchall() == []


def _probe(dsn: str, start: float, results: Any) -> None:
    with Warehouse(dsn) as warehouse:
        breaker = SharedBreaker(warehouse)
        with warehouse.shared_connection():
            time.sleep(max(0.0, start - time.time()))
        results.put(breaker.allow("meta_ads:1"))


def test_of_eight_processes_exactly_one_is_the_probe(warehouse: Warehouse, fresh_database: str) -> None:
    opened(warehouse, cooldown=0.01)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    start = time.time() + 0.7
    processes = [context.Process(target=_probe, args=(fresh_database, start, results)) for _ in range(8)]
    for process in processes:
        process.start()
    allowed = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(allowed) == [False] * 7 + [True]


def test_a_closed_breaker_is_not_asked_about_for_every_call(warehouse: Warehouse) -> None:
    breaker = SharedBreaker(warehouse)
    assert not breaker.refuses("key")
    warehouse.close()
    assert breaker.allow("key")
    breaker.success("key")
    assert not breaker.refuses("key")
    assert breaker.allow("key")
    assert warehouse._shared is not None
    assert warehouse._shared.closed  # no statement was sent, so no connection was opened


def test_a_connection_that_breaks_between_two_calls_or_in_one_costs_nothing(warehouse: Warehouse) -> None:
    limiter, breaker = SharedLimiter(warehouse), SharedBreaker(warehouse)
    for _ in range(2):
        limiter.reserve("key", [Limit(10, 1.0)])
        breaker.failure("key", "x")
        with warehouse.connection() as connection, warehouse.shared_connection() as shared:
            connection.execute("select pg_terminate_backend(%s, 5000)", [shared.info.backend_pid])
    assert limiter.reserve("key", [Limit(10, 1.0)]) >= 0
    with warehouse.connection() as connection:
        assert connection.execute("select failures from penstock.circuit_breakers").fetchone() == (2,)
