"""Whole runs of the diamond ingestion against the sandbox, whose market moves and whose API has its quirks."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from penstock.core.errors import error
from penstock.jobs import nivoda_ingestion as jobs
from penstock.sources.nivoda import Page
from penstock.warehouse.session import Warehouse
from tests.diamonds import Diamonds
from tests.nivoda_bench import post, switch
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db


@pytest.fixture
def diamonds(warehouse: Warehouse, sandbox: Sandbox) -> Diamonds:
    switch(sandbox, natural=500, labgrown=450)
    return Diamonds(warehouse, sandbox)


def raw_ids(diamonds: Diamonds) -> set[str]:
    rows = diamonds.fetch("select supplier_stone_id from raw_diamonds_nivoda where feed = %(f)s", f=diamonds.stored)
    return {row[0] for row in rows}


@pytest.mark.parametrize("feed", ["natural", "labgrown"])
def test_every_stone_arrives_and_a_second_run_writes_nothing(diamonds: Diamonds, feed: str) -> None:
    diamonds.feed = feed
    summary = diamonds.run(partitions=5)
    truth = diamonds.truth(ids="1")
    assert summary["status"] == "completed"
    assert diamonds.active_ids() == set(truth["ids"])
    assert diamonds.value("select sum(feed_price) * 100 from diamonds") == truth["price_cents"]
    assert summary["surely_missed"] == summary["possibly_missed"] == 0
    again = diamonds.run(partitions=5, run_type="full")
    assert (again["status"], again["written"], again["distinct"]) == ("completed", 0, summary["distinct"])
    assert diamonds.value("select sum(consolidation_processed) from run_metadata") == truth["active"]


@pytest.mark.parametrize("run_type", ["full", "incremental"])
def test_a_new_markup_reaches_every_stone_with_the_next_run(diamonds: Diamonds, run_type: str) -> None:
    diamonds.run(partitions=3)
    dearer = diamonds.with_settings(markup=Decimal("1.5"))
    summary = dearer.run(partitions=3, run_type=run_type)
    assert (summary["status"], summary["written"]) == ("completed", 0)
    wrong = "select count(*) from diamonds where (price_model_price, markup_ratio) <> (round(feed_price * 1.5, 2), 1.5)"
    assert diamonds.value(wrong) == 0
    rows = "select supplier_stone_id, xmin::text from diamonds order by 1"
    before = diamonds.fetch(rows)
    dearer.run(partitions=3, run_type=run_type)
    assert diamonds.fetch(rows) == before
    assert len(before) > 400


@pytest.mark.parametrize("bounds", ["real", "floor"])
def test_no_stone_is_lost_at_a_border_however_the_vendor_reads_bounds(diamonds: Diamonds, bounds: str) -> None:
    switch(diamonds.sandbox, bounds=bounds)
    summary = diamonds.run(partitions=12)
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])
    touching = diamonds.value("select is_touching from penstock.nivoda_plans")
    assert touching or bounds == "floor"
    assert summary["duplicates"] == summary["rows_read"] - summary["distinct"] >= 0


@pytest.mark.parametrize("feed", ["natural", "labgrown"])
def test_in_a_moving_market_no_untouched_stone_is_missed_and_the_accounting_says_so(
    diamonds: Diamonds, feed: str
) -> None:
    diamonds.feed = feed
    planned = diamonds.plan(partitions=3)
    listed = set(diamonds.truth(ids="1")["ids"])
    begun = diamonds.value("select updated_to from penstock.nivoda_plans")
    # Three hours of a market that is far livelier than the real one, during some forty requests.
    rates = {"sold": 0.02, "added": 0.02, "repriced": 0.05, "held": 0.01, "uploads": 0.7}
    switch(diamonds.sandbox, seconds_per_request=300, **rates)
    diamonds.ingest(planned)
    switch(diamonds.sandbox, seconds_per_request=0, **dict.fromkeys(rates, 0))
    summary = diamonds.finish(str(planned.run_id))
    touched = set(diamonds.truth(since=begun.isoformat())["touched_ids"])
    assert len(touched) > 40
    assert listed - touched - raw_ids(diamonds) == set()
    assert summary["surely_missed"] == 0
    assert summary["passes"] == 1
    follow_up = diamonds.run(run_type="incremental")
    assert follow_up["status"] == "completed"
    assert set(diamonds.truth(ids="1")["ids"]) <= raw_ids(diamonds)


def test_ties_in_an_order_that_changes_are_detected_and_repaired_by_another_pass(diamonds: Diamonds) -> None:
    switch(diamonds.sandbox, ties="unstable")
    summary = diamonds.run(partitions=2)
    assert summary["passes"] > 1
    assert summary["surely_missed"] == 0
    assert summary["incomplete"] == []
    assert raw_ids(diamonds) == set(diamonds.truth(ids="1")["ids"])


def test_stones_that_leave_do_not_hide_what_changing_ties_have_lost(diamonds: Diamonds) -> None:
    """Of those read some left, so that the counts agree although others were never seen."""
    switch(diamonds.sandbox, natural=3_000)
    planned = diamonds.plan(partitions=2)
    listed = set(diamonds.truth(ids="1")["ids"])
    begun = diamonds.value("select updated_to from penstock.nivoda_plans")
    switch(diamonds.sandbox, ties="unstable", seconds_per_request=90, sold=0.1)
    diamonds.ingest(planned)
    switch(diamonds.sandbox, seconds_per_request=0, sold=0)
    summary = diamonds.finish(str(planned.run_id))
    touched = set(diamonds.truth(since=begun.isoformat())["touched_ids"])
    assert len(touched) > 100
    assert summary["passes"] > 1
    assert summary["surely_missed"] == 0 < summary["possibly_missed"]
    assert listed - touched - raw_ids(diamonds) == set()


def test_a_supplier_who_uploads_his_list_anew_is_no_order_that_changes(diamonds: Diamonds) -> None:
    """More stones than a page holds leave between two requests."""
    switch(diamonds.sandbox, natural=3_000)
    planned = diamonds.plan(partitions=1)
    switch(diamonds.sandbox, seconds_per_request=120, uploads=3)
    diamonds.ingest(planned)
    switch(diamonds.sandbox, seconds_per_request=0, uploads=0)
    summary = diamonds.finish(str(planned.run_id))
    assert diamonds.truth()["events"]["uploaded"] > 150
    assert summary["passes"] == 1


@pytest.mark.parametrize("every", [1, 5])
def test_short_pages_in_mid_stream_lose_nothing(diamonds: Diamonds, every: int) -> None:
    switch(diamonds.sandbox, short_pages=every)
    summary = diamonds.run(partitions=2)
    assert (summary["surely_missed"], summary["passes"], summary["incomplete"]) == (0, 1, [])
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])


def test_short_pages_of_a_moving_market_hide_no_stone_that_stayed(diamonds: Diamonds) -> None:
    switch(diamonds.sandbox, short_pages=2)
    planned = diamonds.plan(partitions=2)
    listed = set(diamonds.truth(ids="1")["ids"])
    begun = diamonds.value("select updated_to from penstock.nivoda_plans")
    switch(diamonds.sandbox, seconds_per_request=300, sold=0.05, repriced=0.1)
    diamonds.ingest(planned)
    switch(diamonds.sandbox, seconds_per_request=0, sold=0, repriced=0)
    assert diamonds.finish(str(planned.run_id))["surely_missed"] == 0
    touched = set(diamonds.truth(since=begun.isoformat())["touched_ids"])
    assert len(touched) > 20
    assert listed - touched - raw_ids(diamonds) == set()


def changed_pages(change: Callable[[int, int, Page], Page]) -> Callable[[Any], Any]:
    """Clients whose pages are changed: given their number, their offset and what they hold."""

    def wrap(client: Any) -> Any:
        page, numbers = client.page, itertools.count()

        def lying(query: Any, offset: int, *rest: Any, **options: Any) -> Page:
            return change(next(numbers), offset, page(query, offset, *rest, **options))

        client.page = lying
        return client

    return wrap


@pytest.mark.parametrize("length", [1, 20, 34])
def test_a_vendor_whose_pages_are_smaller_than_asked_for_costs_requests_but_no_stones(
    diamonds: Diamonds, length: int
) -> None:
    def cut(_: int, __: int, page: Page) -> Page:
        return replace(page, items=page.items[:length])

    summary = replace(diamonds, wrap=changed_pages(cut)).run(partitions=1)
    assert (summary["status"], summary["surely_missed"], summary["passes"]) == ("completed", 0, 1)
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])
    assert summary["requests"] < 20 + 2 * 500 / length


def test_an_empty_page_in_mid_stream_loses_nothing(diamonds: Diamonds) -> None:
    def emptied(number: int, _: int, page: Page) -> Page:
        return replace(page, items=[]) if number in (3, 6) else page

    summary = replace(diamonds, wrap=changed_pages(emptied)).run(partitions=1)
    assert (summary["surely_missed"], summary["passes"]) == (0, 1)
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])


def promising(_: int, __: int, page: Page) -> Page:
    """Counts more stones than the pages hold."""
    return page if page.count is None else replace(page, count=page.count + 120)


def test_counts_that_promise_more_than_the_pages_hold_end_incomplete_and_delete_nothing(diamonds: Diamonds) -> None:
    summary = replace(diamonds, wrap=changed_pages(promising)).run(partitions=1)
    assert summary["incomplete"] == ["partition-1"]
    assert summary["vanished"] == {"skipped": "some partitions failed or are incomplete"}
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])


def test_a_certain_loss_holds_the_watermark_until_a_run_has_read_all(diamonds: Diamonds) -> None:
    diamonds.run(partitions=2)
    before = diamonds.watermark
    switch(diamonds.sandbox, repriced=0.2)
    post(diamonds.sandbox, "advance", seconds=3600)
    switch(diamonds.sandbox, repriced=0)
    short = replace(diamonds, wrap=changed_pages(promising)).run(run_type="incremental")
    assert short["status"] == "completed"
    assert short["watermark"] == "stays: 120 listed stones were not read"
    assert diamonds.watermark == before
    again = diamonds.run(run_type="incremental")
    assert again["distinct"] == short["distinct"] > 0, "the window begins where it began"
    assert again["watermark"].startswith("moved")


def test_items_that_hold_no_stone_are_rejected_and_their_stones_stay(diamonds: Diamonds) -> None:
    diamonds.run(partitions=2)
    switch(diamonds.sandbox, bad_colors=0.006)
    summary = diamonds.run(partitions=2, run_type="full")
    assert summary["status"] == "completed"
    assert summary["surely_missed"] == 0
    assert summary["rejected"] == diamonds.value("select sum(seen) from penstock.nivoda_rejected_stones") > 0
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])
    assert summary["vanished"] == {"skipped": "some items told no id: they may be the missing stones"}


def test_too_many_items_without_a_stone_fail_the_partition(diamonds: Diamonds) -> None:
    switch(diamonds.sandbox, bad_colors=0.2)
    summary = diamonds.run(partitions=2)
    assert summary["status"] == "failed"
    assert {row[0] for row in diamonds.fetch("select error ->> 'code' from penstock.nivoda_partitions")} == {
        "NIVODA_UNREADABLE_ITEMS"
    }


def test_a_partition_with_unreadable_items_is_read_again_when_it_is_retried(diamonds: Diamonds) -> None:
    switch(diamonds.sandbox, bad_colors=0.2)
    failed = diamonds.run(partitions=2)
    switch(diamonds.sandbox, bad_colors=0)
    diamonds.ingest(diamonds.plan(retry_run_id=failed["run_id"]))
    summary = diamonds.finish(failed["run_id"])
    assert (summary["status"], summary["rejected"]) == ("completed", 0)
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])


def test_tokens_that_end_and_a_storm_of_refusals_change_nothing(diamonds: Diamonds) -> None:
    diamonds.sandbox.faults(
        {"vendor": "nivoda", "action": "status", "every": 7, "params": {"status": 429, "retry_after": 0}},
        {"vendor": "nivoda", "action": "expired_token", "every": 11},
        {"vendor": "nivoda", "action": "status", "every": 13, "params": {"status": 503}},
    )
    summary = diamonds.run(partitions=3)
    assert summary["status"] == "completed"
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])


def test_an_incremental_run_reads_only_what_changed_and_deletes_nothing(diamonds: Diamonds) -> None:
    diamonds.run(partitions=2)
    first = diamonds.watermark
    switch(diamonds.sandbox, held=0.1)
    post(diamonds.sandbox, "advance", seconds=3600)
    switch(diamonds.sandbox, held=0)
    summary = diamonds.run()
    assert summary["run_type"] == "incremental"
    assert 0 < summary["rows_read"] < 200
    assert summary["vanished"] == {"skipped": "only a full run sees every stone"}
    assert diamonds.watermark > first
    # Nothing changed but the availability, and it arrives.
    held = diamonds.value("select count(*) from diamonds where raw_availability = 'ON_HOLD'")
    assert held == diamonds.truth()["availability"]["ON_HOLD"]
    assert diamonds.value("select count(*) from diamonds where status = 'deleted'") == 0


def test_an_incremental_run_that_finds_nothing_is_complete(diamonds: Diamonds) -> None:
    diamonds.run(partitions=2)
    first = diamonds.watermark
    diamonds.sandbox.now(diamonds.sandbox.state.clock.now() + dt.timedelta(hours=1))
    summary = diamonds.run(run_type="incremental")
    assert (summary["status"], summary["partitions"], summary["decision"]) == ("completed", 0, "nothing")
    assert diamonds.watermark > first


def test_a_watermark_that_a_killed_task_has_moved_is_told_as_moved_by_the_next_try(diamonds: Diamonds) -> None:
    run_id = diamonds.run(partitions=2)["run_id"]
    moved = diamonds.watermark
    again = jobs.move_watermark(diamonds.context, run_id)
    assert again["is_moved"]
    assert again["watermark"].startswith("moved to")
    assert diamonds.watermark == moved


def test_a_run_over_a_price_range_moves_nothing_and_deletes_nothing(diamonds: Diamonds) -> None:
    summary = diamonds.run(price_from=1_000, price_to=2_000)
    prices = diamonds.fetch("select min(feed_price), max(feed_price), count(*) from diamonds")[0]
    assert 1_000 <= prices[0] <= prices[1] <= 2_001
    assert prices[2] == summary["distinct"] > 0
    assert diamonds.watermark is None
    assert summary["watermark"] == "stays: the run read a price range only"
    assert summary["vanished"]["skipped"] == "the run read a price range only"


def test_stones_that_no_price_filter_finds_are_noticed(diamonds: Diamonds) -> None:
    switch(diamonds.sandbox, unpriced=0.05)
    assert not diamonds.plan(partitions=3).is_covered
    summary = diamonds.run(partitions=3)
    assert summary["coverage"] < 0.995
    assert "the price filter finds only" in summary["vanished"]["skipped"]


class Vanishing:
    """Stones come and go."""

    def __init__(self, diamonds: Diamonds) -> None:
        self.diamonds = diamonds

    def take_away(self, share: float, **how: Any) -> None:
        post(self.diamonds.sandbox, "take_away", feed="natural", share=share, **how)

    def deleted(self) -> Iterator[str]:
        rows = self.diamonds.fetch("select supplier_stone_id from diamonds where status = 'deleted'")
        return itertools.chain.from_iterable(rows)


def test_a_stone_that_a_look_up_does_not_find_is_deleted_and_comes_back(diamonds: Diamonds) -> None:
    market = Vanishing(diamonds)
    diamonds.run(partitions=2)
    everything = diamonds.active_ids()
    market.take_away(0.02)
    summary = diamonds.run(partitions=2, run_type="full")
    there = set(diamonds.truth(ids="1")["ids"])
    assert set(market.deleted()) == everything - there != set()
    assert summary["vanished"]["deleted"] == len(everything - there)
    assert diamonds.fetch("select distinct availability from diamonds where status = 'deleted'") == [("unavailable",)]
    market.take_away(0)
    diamonds.run(partitions=2, run_type="full")
    assert diamonds.active_ids() == everything
    assert diamonds.value("select count(*) from diamonds where deleted_at is not null") == 0


def test_a_stone_that_is_for_sale_by_a_look_up_goes_only_when_missing_in_two_full_runs(diamonds: Diamonds) -> None:
    market = Vanishing(diamonds.with_settings(look_ups=0))
    market.diamonds.run(partitions=2)
    market.take_away(0.02, in_lookups=False)
    first = market.diamonds.with_settings(look_ups=500).run(partitions=2, run_type="full")
    assert first["vanished"]["looked_up"] > 0
    assert list(market.deleted()) == []
    last = market.diamonds.with_settings(look_ups=500).run(partitions=2, run_type="full")
    assert last["vanished"]["deleted"] == first["vanished"]["looked_up"]


def test_a_look_up_whose_items_cannot_be_read_deletes_nothing(diamonds: Diamonds) -> None:
    def spoiled(client: Any) -> Any:
        page = client.page

        def bad(query: Any, *rest: Any, **options: Any) -> Page:
            found = page(query, *rest, **options)
            if "certificate_numbers" not in query:
                return found
            return replace(found, items=found.items[1:], bad=[(0, "Enum cannot represent value")])

        client.page = bad
        return client

    diamonds.run(partitions=2)
    everything = diamonds.active_ids()
    Vanishing(diamonds).take_away(0.02, in_lookups=False)
    summary = replace(diamonds, wrap=spoiled).run(partitions=2, run_type="full")
    assert summary["vanished"]["looked_up"] > 0
    assert diamonds.active_ids() == everything


def test_stones_that_the_price_filter_hides_are_not_taken_for_vanished(diamonds: Diamonds) -> None:
    blind = diamonds.with_settings(look_ups=0)
    blind.run()  # in one piece, without a price filter
    everything = blind.active_ids()
    switch(diamonds.sandbox, unpriced=0.002)
    for _ in range(3):
        summary = blind.run(partitions=3, run_type="full")
        assert 0.995 <= summary["coverage"] < 1
    assert summary["vanished"]["candidates"] > 0
    assert blind.active_ids() == everything


def test_a_run_that_missed_stones_is_no_proof_that_they_are_gone(diamonds: Diamonds) -> None:
    blind = diamonds.with_settings(look_ups=0)
    blind.run(partitions=2)
    everything = blind.active_ids()
    Vanishing(blind).take_away(0.02)
    incomplete = blind.run(partitions=2, run_type="full")["run_id"]
    blind.fetch(
        "update penstock.nivoda_partitions set status = 'INCOMPLETE' where run_id = %(r)s returning 1", r=incomplete
    )
    blind.run(partitions=2, run_type="full")
    assert blind.active_ids() == everything
    blind.run(partitions=2, run_type="full")
    assert blind.active_ids() == set(diamonds.truth(ids="1")["ids"])


def test_a_feed_that_suddenly_returns_nothing_is_told_of_like_one_that_returns_half(diamonds: Diamonds) -> None:
    careful = diamonds.with_settings(brake_minimum=50)
    assert careful.run(run_type="full")["vanished"].get("braked") is None
    everything = careful.active_ids()
    Vanishing(careful).take_away(1.0)
    summary = careful.run(run_type="full")
    assert summary["partitions"] == 0
    assert summary["vanished"] == {"braked": True, "active": 500, "candidates": 500, "allowed": 50, "deleted": 0}
    assert "BRAKE: 500 of 500 stones are missing" in jobs.text_of(summary)
    assert careful.active_ids() == everything


def full_run_of_a_changing_market(diamonds: Diamonds) -> dict[str, Any]:
    """A full run between whose plan and first page a third of the stones change, and so leave its frozen list."""
    planned = diamonds.plan(partitions=2, run_type="full")
    switch(diamonds.sandbox, repriced=0.3)
    post(diamonds.sandbox, "advance", seconds=3600)
    switch(diamonds.sandbox, repriced=0)
    diamonds.ingest(planned)
    return diamonds.finish(str(planned.run_id))


def test_stones_that_change_while_two_full_runs_read_are_not_deleted(diamonds: Diamonds) -> None:
    blind = diamonds.with_settings(look_ups=0)
    blind.run(partitions=2)
    Vanishing(blind).take_away(0.02)
    for _ in range(2):
        assert full_run_of_a_changing_market(blind)["vanished"]["touched"] > 100
    there = set(diamonds.truth(ids="1")["ids"])
    assert there <= blind.active_ids()
    blind.run(run_type="incremental")
    assert full_run_of_a_changing_market(blind)["vanished"]["touched"] > 100
    assert blind.active_ids() == there


def test_a_run_with_another_filter_is_no_proof_that_stones_are_gone(diamonds: Diamonds) -> None:
    blind = diamonds.with_settings(look_ups=0)
    blind.run(partitions=2)
    everything = blind.active_ids()
    by_mistake = blind.with_settings(base_filter={"shapes": ["ROUND"]}, brake_minimum=10)
    assert by_mistake.run(partitions=2, run_type="full")["vanished"]["braked"]
    by_mistake.run(run_type="incremental")
    full_run_of_a_changing_market(blind)
    assert blind.active_ids() == everything


def test_a_feed_that_suddenly_returns_half_its_stones_deletes_nothing(diamonds: Diamonds) -> None:
    careful = diamonds.with_settings(brake_minimum=50)
    careful.run(partitions=2)
    Vanishing(careful).take_away(0.5)
    for _ in range(2):
        summary = careful.run(partitions=2, run_type="full")
        assert summary["vanished"]["braked"]
    assert list(Vanishing(careful).deleted()) == []


def test_the_brake_holds_when_a_run_is_retried_after_many_stones_have_changed(diamonds: Diamonds) -> None:
    careful = diamonds.with_settings(brake_minimum=20)
    careful.run(partitions=4)
    everything = careful.active_ids()
    Vanishing(careful).take_away(0.3)
    assert careful.run(partitions=4, run_type="full")["vanished"]["braked"]
    planned = careful.plan(partitions=4, run_type="full")
    careful.ingest(planned, only=lambda name: name != "partition-2")
    assert careful.finish(str(planned.run_id))["status"] == "partial"
    switch(careful.sandbox, repriced=0.5)
    post(careful.sandbox, "advance", seconds=3600)
    switch(careful.sandbox, repriced=0)
    careful.run(run_type="incremental")
    careful.run(partitions=4, run_type="full")
    careful.ingest(careful.plan(retry_run_id=planned.run_id))
    vanished = careful.finish(str(planned.run_id))["vanished"]
    assert (vanished.get("braked"), vanished["deleted"]) == (True, 0)
    assert careful.active_ids() == everything


def test_the_view_shows_each_run_and_partition(diamonds: Diamonds) -> None:
    summary = diamonds.run(partitions=3)
    rows = diamonds.fetch(
        "select level, status, distinct_read, surely_missed, possibly_missed, requests from reporting.nivoda_runs"
    )
    assert [row[0] for row in rows] == ["run", "partition", "partition", "partition"]
    assert {row[1] for row in rows} == {"completed"}
    assert rows[0][2] == sum(row[2] for row in rows[1:])
    assert rows[0][5] == summary["requests"]
    chart = diamonds.value("select chart_svg from reporting.nivoda_runs where level = 'run'")
    assert chart.startswith("<svg")
    assert chart.count("<rect") == 1 + 2 * 3


@pytest.mark.parametrize("is_killed", [False, True])
def test_of_a_partition_that_failed_in_its_middle_the_view_counts_what_it_has_read(
    diamonds: Diamonds, is_killed: bool
) -> None:
    class Killed(BaseException):
        pass

    def broken(number: int, _: int, page: Page) -> Page:
        if number == 4:
            raise Killed if is_killed else error("NIVODA_AUTH_ERROR", "revoked")
        return page

    planned = diamonds.plan(partitions=1)
    unlucky = replace(diamonds, wrap=changed_pages(broken))
    if is_killed:
        with pytest.raises(Killed):
            unlucky.ingest(planned)
    else:
        unlucky.ingest(planned)
    numbers = "select distinct_read, duplicates, surely_missed from reporting.nivoda_runs where status = %(status)s"
    if is_killed:
        assert diamonds.fetch(numbers, status="running") == [(None, None, None)] * 2  # nobody has counted yet
    diamonds.finish(str(planned.run_id))
    read = len(raw_ids(diamonds))
    assert 0 < read < 500
    rows = diamonds.fetch(numbers, status="failed")
    assert [row[:2] for row in rows] == [(read, 0)] * 2


def test_requests_are_few(diamonds: Diamonds) -> None:
    summary = diamonds.run(partitions=3)
    plan = diamonds.value("select requests from penstock.nivoda_plans")
    ideal = sum(-(-row[0] // 50) for row in diamonds.fetch("select c0 from penstock.nivoda_partitions"))
    assert summary["requests"] - plan <= ideal + 2 * 3 + 3  # a login each
