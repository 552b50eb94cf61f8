"""A database that the old diamond worker made: its rows, its faults, and the first run after the swap."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from penstock.core.databases import SHARED_SETS
from penstock.jobs import nivoda_ingestion as jobs
from penstock.sources.nivoda import Page
from penstock.warehouse.migrations import migrate
from penstock.warehouse.queries import sql_root
from penstock.warehouse.session import Warehouse
from tests.diamonds import Diamonds
from tests.nivoda_bench import switch
from tests.sandbox_fixture import NOW, Sandbox

pytestmark = pytest.mark.db

GOOD, PARTIAL = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
SETS = (*SHARED_SETS, "nivoda")


@pytest.fixture
def old_database(empty_database: str) -> str:
    """As the old worker left it: a complete run two hours ago, a partial one after it that moved its watermark."""
    old_tables = Path(sql_root() / "nivoda" / "migrations" / "0001_create_old_tables.sql").read_text(encoding="utf-8")
    ran = NOW - dt.timedelta(hours=2)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(old_tables)
        for run_id, moment, partitions in (
            (GOOD, ran, (False, False)),
            (PARTIAL, ran + dt.timedelta(hours=1), (True, False)),
        ):
            connection.execute(
                "insert into run_metadata (run_id, feed, run_type, expected_workers, watermark_after, started_at, "
                "completed_at) values (%s, 'nivoda-natural', 'full', 2, %s, %s, %s)",
                [run_id, moment, moment, moment + dt.timedelta(minutes=10)],
            )
            for number, has_failed in enumerate(partitions, 1):
                connection.execute(
                    "insert into partition_progress (run_id, partition_id, next_offset, completed, failed) "
                    "values (%s, %s, 300, %s, %s)",
                    [run_id, f"partition-{number}", not has_failed, has_failed],
                )
        connection.execute(
            "insert into raw_diamonds_nivoda (run_id, feed, supplier_stone_id, offer_id, payload_hash, "
            "consolidation_status, payload) values (%s, null, 'old-1', 'DIAMOND/old-1', 'x', 'processing', '{}')",
            [GOOD],
        )
        connection.execute(
            "insert into diamonds (feed, supplier_stone_id, offer_id, shape, carats, feed_price, price_per_carat, "
            "price_model_price, availability) values "
            "('nivoda-natural', 'old-1', 'DIAMOND/old-1', 'ROUND', 1, 100, 100, 120, 'available')"
        )
    return empty_database


@pytest.fixture
def diamonds(old_database: str, sandbox: Sandbox) -> Any:
    migrate(old_database, SETS)
    switch(sandbox, natural=300, labgrown=100)
    with Warehouse(old_database) as warehouse:
        yield Diamonds(warehouse, sandbox)


def test_the_watermark_is_that_of_the_last_run_whose_partitions_all_succeeded(diamonds: Diamonds) -> None:
    assert diamonds.watermark == NOW - dt.timedelta(hours=2)


def test_an_incremental_run_right_after_the_swap_works_and_keeps_the_old_rows(diamonds: Diamonds) -> None:
    switch(diamonds.sandbox, repriced=0.2)
    diamonds.sandbox.now(NOW + dt.timedelta(minutes=30))
    diamonds.truth()
    switch(diamonds.sandbox, repriced=0)
    summary = diamonds.run()
    assert (summary["run_type"], summary["status"]) == ("incremental", "completed")
    assert summary["written"] > 0
    assert "old-1" in diamonds.active_ids()
    assert diamonds.value("select feed from raw_diamonds_nivoda where supplier_stone_id = 'old-1'") == "nivoda-natural"
    assert diamonds.watermark is not None
    assert diamonds.watermark > NOW


def test_what_the_old_worker_saw_is_not_deleted_by_our_first_full_run(diamonds: Diamonds) -> None:
    careful = diamonds.with_settings(look_ups=0)
    careful.run(run_type="full", partitions=1)
    assert "old-1" in careful.active_ids()
    last = careful.run(run_type="full", partitions=1)
    assert last["vanished"]["deleted"] == 1
    assert "old-1" not in careful.active_ids()


def test_migrating_twice_changes_nothing(diamonds: Diamonds) -> None:
    assert migrate(diamonds.warehouse.dsn, SETS) == []


def put(diamonds: Diamonds, stone_id: str, **changes: Any) -> None:
    """A raw row that waits to be consolidated."""
    item: dict[str, Any] = {
        "id": f"DIAMOND/{stone_id}",
        "price": 123_456,
        "diamond": {
            "id": stone_id,
            "availability": "AVAILABLE",
            "eyeClean": "90%",
            "certificate": {"shape": "round", "carats": 1.25, "certNumber": "1", "color": "G", "length": "7.200000"},
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = item
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    with diamonds.warehouse.connection() as connection:
        connection.execute(
            "insert into raw_diamonds_nivoda (run_id, feed, supplier_stone_id, offer_id, payload, payload_hash) "
            "values (gen_random_uuid(), 'nivoda-natural', %(id)s, %(id)s, %(payload)s, 'h') "
            "on conflict (feed, supplier_stone_id) do update set payload = excluded.payload, consolidated = false, "
            "consolidation_status = 'pending'",
            {"id": stone_id, "payload": Jsonb(item)},
        )


def consolidate(diamonds: Diamonds) -> dict[str, Any]:
    return jobs.consolidate(diamonds.context, str(diamonds.plan(run_type="full", partitions=1).run_id))


@pytest.mark.parametrize(
    ("raw", "availability"),
    [
        ("AVAILABLE", "available"),
        ("NOT_AVAILABLE", "unavailable"),
        ("ON_HOLD", "on_hold"),
        ("MEMO", "on_hold"),
        ("SOLD_OUT", "sold"),
        ("SOMETHING_NEW", "unavailable"),
    ],
)
def test_availability_goes_by_the_exact_word(diamonds: Diamonds, raw: str, availability: str) -> None:
    put(diamonds, "s", diamond__availability=raw)
    consolidate(diamonds)
    rows = diamonds.fetch("select availability, raw_availability from diamonds where supplier_stone_id = 's'")
    assert rows == [(availability, raw)]


def test_a_stone_is_mapped_and_a_change_of_availability_alone_is_written(diamonds: Diamonds) -> None:
    put(diamonds, "s", diamond__certificate__width="null", diamond__certificate__depth="0", diamond__eyeClean="Yes")
    consolidate(diamonds)
    row = diamonds.fetch(
        "select feed_price::text, price_per_carat::text, price_model_price::text, shape, color, length_mm::text, "
        "width_mm, depth_mm, ratio, eye_clean, lab_grown, status from diamonds where supplier_stone_id = 's'"
    )
    assert row == [("1234.56", "987.65", "1234.56", "ROUND", "G", "7.20", None, None, None, True, False, "active")]
    put(diamonds, "s", diamond__certificate__width="null", diamond__certificate__depth="0", diamond__eyeClean="Yes")
    assert consolidate(diamonds)["written"] == 0
    put(diamonds, "s", diamond__availability="HOLD")
    assert consolidate(diamonds)["written"] == 1


def leaving_open(client: Any) -> Any:
    """A vendor whose certificates do not say where their stones come from."""
    page = client.page

    def unsaid(*asked: Any, **options: Any) -> Page:
        found: Page = page(*asked, **options)
        for item in found.items:
            item["diamond"]["certificate"]["labgrown"] = None
        return found

    client.page = unsaid
    return client


@pytest.mark.parametrize(("feed", "is_lab_grown"), [("natural", False), ("labgrown", True)])
def test_where_a_certificate_leaves_it_open_the_feed_says_whether_a_stone_was_grown(
    diamonds: Diamonds, feed: str, is_lab_grown: bool
) -> None:
    replace(diamonds, feed=feed, wrap=leaving_open).run(run_type="full")
    found = diamonds.fetch("select distinct lab_grown from diamonds where feed = %(f)s", f=f"nivoda-{feed}")
    assert set(found) - {(None,)} == {(is_lab_grown,)}  # null: the old worker's own stone


def test_lab_stones_that_were_taken_for_natural_ones_are_put_right_by_the_next_full_run(diamonds: Diamonds) -> None:
    lab = replace(diamonds, feed="labgrown", wrap=leaving_open)
    lab.run(run_type="full")
    lab.fetch(
        "update diamonds set lab_grown = false, row_hash = 'as it was' where feed = %(f)s returning 1", f=lab.stored
    )
    mending = sql_root() / "nivoda" / "migrations" / "0005_read_unsure_lab_stones_again.sql"
    with lab.warehouse.connection() as connection:
        connection.execute(mending.read_text(encoding="utf-8"))
    lab.run(run_type="full")
    assert lab.fetch("select distinct lab_grown from diamonds where feed = %(f)s", f=lab.stored) == [(True,)]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"price": None}, "MISSING_KEY"),
        ({"price": "many"}, "WRONG_TYPE"),
        ({"diamond__certificate__carats": 0}, "WRONG_TYPE"),
        ({"diamond__certificate__shape": ""}, "MISSING_KEY"),
    ],
)
def test_an_unreadable_stone_is_rejected_and_the_others_arrive(
    diamonds: Diamonds, change: dict[str, Any], code: str
) -> None:
    diamonds.fetch("delete from raw_diamonds_nivoda returning 1")
    put(diamonds, "bad", **change)
    put(diamonds, "good")
    consolidated = consolidate(diamonds)
    assert (consolidated["written"], consolidated["errors"]) == (1, 1)
    rows = diamonds.fetch("select supplier_stone_id, reason_code from penstock.nivoda_rejected_stones")
    assert rows == [("bad", code)]
    put(diamonds, "bad")
    assert consolidate(diamonds)["errors"] == 0


def test_an_absurd_price_stops_neither_the_consolidation_nor_the_next_plan(diamonds: Diamonds) -> None:
    diamonds.fetch("delete from raw_diamonds_nivoda returning 1")
    put(diamonds, "absurd", price=900_000_000_000)
    put(diamonds, "good")
    marked_up = consolidate(diamonds.with_settings(markup=Decimal(2)))
    assert (marked_up["written"], marked_up["errors"]) == (1, 1)
    assert consolidate(diamonds)["written"] == 1  # the columns hold the price without the markup
    assert diamonds.plan(run_type="full", partitions=1).lanes != []


PRICES = "select price_model_price::text, markup_ratio::text from diamonds where supplier_stone_id = %(id)s"


def prices(diamonds: Diamonds, stone_id: str) -> tuple[str, str]:
    ((price, ratio),) = diamonds.fetch(PRICES, id=stone_id)
    return price, ratio


def test_a_new_markup_reaches_stones_that_have_not_changed(diamonds: Diamonds) -> None:
    put(diamonds, "s", price=100_005)
    consolidate(diamonds)
    before = diamonds.fetch("select row_hash, created_at from diamonds where supplier_stone_id = 's'")
    dearer = diamonds.with_settings(markup=Decimal("1.23456"))
    first = consolidate(dearer)
    assert (first["written"], first["repriced"]) == (0, 2)  # the old worker's stone, which had no markup, and ours
    assert prices(diamonds, "s") == ("1234.62", "1.2346")
    assert diamonds.fetch("select row_hash, created_at from diamonds where supplier_stone_id = 's'") == before
    rows = "select supplier_stone_id, xmin::text, updated_at from diamonds order by 1"
    untouched = diamonds.fetch(rows)
    put(diamonds, "s", price=100_005)  # read again, and nothing of it is new
    again = consolidate(dearer)
    assert (again["written"], again["repriced"]) == (0, 0)
    assert diamonds.fetch(rows) == untouched
    # the column has four places, the price is by all of them: too little for the old stone of 100 dollars
    assert consolidate(diamonds.with_settings(markup=Decimal("1.23462")))["repriced"] == 1
    assert prices(diamonds, "s") == ("1234.68", "1.2346")


def test_a_new_price_and_a_new_markup_at_once_are_one_write(diamonds: Diamonds) -> None:
    put(diamonds, "s")
    consolidate(diamonds.with_settings(markup=Decimal(2)))
    put(diamonds, "s", price=200_000)
    again = consolidate(diamonds.with_settings(markup=Decimal("1.5")))
    assert (again["written"], again["repriced"]) == (1, 1)  # the other one is the old worker's
    assert prices(diamonds, "s") == ("3000.00", "1.5000")


def test_a_new_markup_leaves_alone_what_is_gone_and_what_it_would_make_too_dear(diamonds: Diamonds) -> None:
    for stone_id in ("gone", "good"):
        put(diamonds, stone_id)
    put(diamonds, "absurd", price=900_000_000_000)
    consolidate(diamonds)
    diamonds.fetch("update diamonds set status = 'deleted' where supplier_stone_id in ('gone', 'old-1') returning 1")
    version = "select version from dataset_versions where feed = 'nivoda-natural'"
    before = diamonds.value(version)
    doubled = diamonds.with_settings(markup=Decimal(2))
    run_id = str(diamonds.plan(run_type="full", partitions=1).run_id)
    assert jobs.consolidate(doubled.context, run_id)["repriced"] == 1
    assert [prices(diamonds, each)[1] for each in ("gone", "good", "absurd")] == ["1.0000", "2.0000", "1.0000"]
    assert diamonds.value(version) == before + 1
    # asked again, the same run raises the version only for what it changes
    assert jobs.consolidate(doubled.context, run_id)["version"] is None
    assert jobs.consolidate(diamonds.context, run_id)["version"] == before + 2
    put(diamonds, "gone")
    consolidate(doubled)
    assert prices(diamonds, "gone") == ("2469.12", "2.0000")


@pytest.mark.parametrize("is_kept", [True, False])
def test_the_payload_is_kept_or_dropped_and_the_version_rises(diamonds: Diamonds, is_kept: bool) -> None:
    chosen = diamonds.with_settings(keep_payload=is_kept)
    put(chosen, "s")
    first, second = consolidate(chosen), consolidate(chosen)
    assert second["version"] == first["version"] + 1
    kept = chosen.value("select payload from raw_diamonds_nivoda where supplier_stone_id = 's'")
    assert (kept is not None) == is_kept
    assert json.dumps(kept) == "null" or kept["price"] == 123_456
