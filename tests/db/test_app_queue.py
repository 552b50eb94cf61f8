"""Which apps are due and in which order; priorities; the old worker's functions on its own database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.core.errors import PenstockError
from penstock.jobs.app_sync import refresh_priorities
from penstock.warehouse.migrations import migrate
from penstock.warehouse.session import Warehouse
from tests.app_store import Store, seed_apps
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db

OLD_TABLES = Path(__file__).with_name("old_apps.sql")


@pytest.fixture
def store(warehouse: Warehouse) -> Store:
    """Six apps, none read yet."""
    seed_apps(warehouse.dsn, range(1, 7))
    return Store(warehouse, "")


def change(store: Store, appid: int, **values: Any) -> None:
    """Set columns of an app; SQL expressions as text."""
    for table in ("apps", "sync_status"):
        known = {row[0] for row in store.rows("select attname from pg_attribute where attrelid = %s::regclass", table)}
        wanted = {name: value for name, value in values.items() if name in known and name != "appid"}
        if wanted:
            assignments = ", ".join(f"{name} = {value}" for name, value in wanted.items())
            store.rows(f"update public.{table} set {assignments} where appid = {appid} returning 1")


def test_a_released_game_without_a_date_comes_first_then_what_was_never_read_then_the_score(store: Store) -> None:
    change(store, 1, last_storefront_sync="now() - interval '3 days'", priority_score="500")
    change(store, 2, priority_score="10")
    change(store, 3, priority_score="20")
    change(
        store,
        4,
        last_storefront_sync="now() - interval '3 days'",
        type="'game'",
        is_released="true",
        release_date="null",
    )
    change(store, 5, is_syncable="false")
    change(store, 6, last_storefront_sync="now() - interval '3 days'", type="'game'", is_released="true",
           release_date="null", is_delisted="true")  # fmt: skip
    assert store.due("storefront") == [4, 3, 2, 1, 6]
    assert store.due("steamspy") == [1, 3, 2, 4, 6]
    assert store.rows("select * from public.get_apps_for_sync('storefront', 2)") == [(4, 0), (3, 20)]


def test_the_interval_is_the_app_s_own_and_a_week_for_the_histogram(store: Store) -> None:
    for appid, hours in enumerate((5, 7, 23, 25, 169), start=1):
        change(store, appid, last_storefront_sync=f"now() - interval '{hours} hours'",
               last_histogram_sync=f"now() - interval '{hours} hours'", sync_interval_hours="6")  # fmt: skip
    change(store, 3, sync_interval_hours="48")
    change(store, 4, sync_interval_hours="null")
    assert sorted(store.due("storefront")) == [2, 4, 5, 6]
    assert sorted(store.due("histogram")) == [5, 6]


def test_a_later_next_sync_blocks_nobody_and_a_closed_storefront_only_its_own_source(store: Store) -> None:
    change(store, 1, next_sync_after="now() + interval '1 year'")
    change(store, 2, storefront_accessible="false")
    assert sorted(store.due("storefront")) == [1, 3, 4, 5, 6]
    assert sorted(store.due("reviews")) == [1, 2, 3, 4, 5, 6]
    assert store.rows("select * from public.get_queue_status()") == [(5, 0, 0, 0)]


def test_partitions_cover_the_queue_evenly_without_overlap(store: Store) -> None:
    """Also when the ids have a step: the old worker split them by their remainder."""
    store.rows("delete from public.apps returning 1")
    seed_apps(store.warehouse.dsn, range(8, 128, 8))
    parts = [
        {
            row[0]
            for row in store.rows("select appid from public.get_apps_for_sync_partitioned('reviews', 100, 4, %s)", n)
        }
        for n in range(4)
    ]
    assert sorted(appid for part in parts for appid in part) == list(range(8, 128, 8))
    assert sorted(map(len, parts)) == [3, 4, 4, 4]


def test_reviews_go_by_velocity_then_by_how_long_they_are_overdue(store: Store) -> None:
    read = {"last_reviews_sync": "now() - interval '2 days'"}
    change(store, 1, **read, review_velocity_tier="'low'", next_reviews_sync="now() - interval '9 hours'")
    change(store, 2, **read, review_velocity_tier="'high'", next_reviews_sync="now() - interval '1 hour'")
    change(store, 3, **read, review_velocity_tier="'high'", next_reviews_sync="now() - interval '2 hours'")
    change(store, 4, **read, review_velocity_tier="'high'", next_reviews_sync="now() + interval '2 hours'")
    change(store, 5, reviews_claimed_by="'an old worker'", reviews_claim_expires_at="now() + interval '1 minute'")
    rows = store.rows("select appid from public.get_apps_for_reviews_sync(10)")
    assert [row[0] for row in rows] == [6, 3, 2, 1]


@pytest.mark.parametrize(
    ("case", "score", "hours", "tier"),
    [
        ("false, null, null, null, null, false", 25, 48, "moderate"),
        ("true, null, null, null, null, false", 0, 168, "dead"),
        ("true, 100, 1, 5, 100, false", 0, 168, "dead"),
        ("true, 101, null, null, null, false", 25, 48, "moderate"),
        ("true, 1001, null, null, null, false", 50, 24, "moderate"),
        ("true, 10001, null, null, null, false", 100, 12, "active"),
        ("true, 0, 1.1, null, null, false", 10, 168, "dormant"),
        ("true, 0, 5.1, null, null, false", 20, 168, "dormant"),
        ("true, 0, 10.1, null, null, false", 40, 48, "moderate"),
        ("true, null, null, 5.1, 101, false", 20, 168, "dormant"),
        ("true, null, null, -10.1, 1001, false", 35, 48, "moderate"),
        ("true, 20000, 20, 20, 20000, false", 185, 6, "active"),
        ("true, 0, 0.09, null, 20000, false", 0, 168, "dead"),
        ("true, 0, 0.09, 20, 20000, false", 0, 168, "dead"),
        ("true, 0, 0.1, null, 20000, false", 20, 168, "dormant"),
        ("true, 0, 0.05, null, 5, true", 50, 24, "moderate"),
        ("true, 10001, 20, null, 20000, true", 160, 6, "active"),
    ],
)
def test_the_score_and_what_follows_from_it(warehouse: Warehouse, case: str, score: int, hours: int, tier: str) -> None:
    with warehouse.connection() as connection:
        row = connection.execute(
            f"select score, penstock.app_sync_interval_hours(score), penstock.app_refresh_tier(score) "
            f"from penstock.app_priority_score({case}) as score"
        ).fetchone()
    assert row == (score, hours, tier)


def test_the_refresh_reads_players_reviews_trend_and_age(store: Store) -> None:
    change(store, 1, last_storefront_sync="now()")
    store.rows(
        "insert into public.daily_metrics (appid, metric_date, ccu_peak, total_reviews, positive_reviews) values "
        "(1, current_date, 20000, 20140, 18126), (1, current_date - 7, 1, 20000, 18000), "
        "(1, current_date - 40, 1, 19000, 9500), (1, current_date - 20, 1, 19500, 1) returning 1"
    )
    change(store, 2, last_reviews_sync="now()", release_date="current_date - 3")
    store.rows(
        "insert into public.daily_metrics (appid, metric_date, ccu_peak, total_reviews) values "
        "(3, current_date, 0, 1000), (3, current_date - 3, 0, 1000) returning 1"
    )
    change(store, 3, last_reviews_sync="now()")
    assert refresh_priorities(store.warehouse) == 6
    assert store.rows(
        "select appid, priority_score, sync_interval_hours, refresh_tier::text, review_velocity_tier "
        "from public.sync_status where appid <= 4 order by 1"
    ) == [
        (1, 185, 6, "active", "high"),
        (2, 50, 24, "moderate", "unknown"),
        (3, 0, 168, "dead", "dormant"),
        (4, 25, 48, "moderate", "unknown"),
    ]
    assert refresh_priorities(store.warehouse) == 0, "once a day"
    assert refresh_priorities(store.warehouse, is_forced=True) == 6


def test_tokens_are_granted_up_to_the_bucket_and_then_the_wait_is_told(store: Store) -> None:
    granted = [store.rows("select * from public.acquire_api_rate_token('storefront', 'w1')")[0] for _ in range(4)]
    assert [row[0] for row in granted] == [True, True, True, False]
    assert 2500 < granted[3][1] <= 3031
    default = [store.rows("select * from public.acquire_api_rate_token('anything', null)")[0][0] for _ in range(11)]
    assert default == [True] * 10 + [False]


def test_the_old_worker_s_database_migrates_without_loss(empty_database: str, sandbox: Sandbox) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(OLD_TABLES.read_text(encoding="utf-8"))
        assert migrate(empty_database, ("ops", "accounts", "apps"))
        assert migrate(empty_database, ("ops", "accounts", "apps")) == []
        assert connection.execute("select * from public.failing_apps").fetchall() == [(20, "storefront")]
        assert connection.execute("select appid from public.get_apps_for_sync('storefront', 9)").fetchall() == [
            (20,), (10,)
        ]  # fmt: skip
        assert connection.execute("select failures from penstock.app_sync_states").fetchall() == [(3,)]
        assert connection.execute("select github_run_id, items_skipped from public.sync_jobs").fetchall() == [("7", 0)]
    with Warehouse(empty_database) as warehouse:
        counts = Store(warehouse, sandbox.url).sync("storefront")
        # The store of the sandbox has neither.
        assert (counts.processed, counts.skipped) == (2, 2)
        assert refresh_priorities(warehouse) == 2
        with warehouse.connection() as connection:
            row = connection.execute("select priority_score from public.sync_status where appid = 10").fetchone()
            assert row == (120,)


def test_an_unknown_source_is_refused_by_name() -> None:
    from penstock.sources.apps import by_name

    with pytest.raises(PenstockError) as refused:
        by_name("myspace")
    assert refused.value.code == "SOURCE_NOT_SUPPORTED"
    assert "storefront, reviews" in refused.value.message
