"""The sandbox's diamonds: stock, search and market, without HTTP."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest

from sandbox import nivoda_stock as stock
from sandbox.__main__ import nivoda_sizes, parse_arguments
from sandbox.clock import Clock
from sandbox.nivoda_doors import feed_truth
from sandbox.nivoda_filters import SearchError
from sandbox.nivoda_identity import place_of, stone_id
from sandbox.nivoda_market import Market, Switches, change, market_of
from sandbox.nivoda_search import PLACE_MASK, Search
from sandbox.state import State

NOW = dt.datetime(2026, 11, 18, 20, 30, tzinfo=dt.UTC)
TOP = 2_000_000_000


class Time:
    """A clock that stands still until it is pushed."""

    def __init__(self) -> None:
        self.seconds = NOW.timestamp()

    def __call__(self) -> float:
        return self.seconds


def market(time: Time | None = None, **switches: Any) -> Market:
    given = {"natural": 3_000, "labgrown": 1_000, **switches}
    return Market(State.create(clock=Clock(source=time or Time())), Switches(**given))


def found(search: Search, query: dict[str, Any], order: str = "createdAt") -> list[int]:
    return search.page(query, order, "ASC", 0, 10**9)[1].tolist()


# -- stock


def test_the_real_stones_are_those_of_the_data_set() -> None:
    real = stock.built(stock.NATURAL, 7, None)
    assert len(real) == 53_940
    assert int(real["price"].astype(np.int64).sum()) == 21_213_521_700
    assert (real["price"].min(), real["price"].max()) == (32_600, 1_882_300)
    assert set(real["shape"].tolist()) == {stock.SHAPES.index("ROUND")}


def test_generated_natural_prices_follow_the_published_histogram() -> None:
    dollars = stock.built(stock.NATURAL, 7, 100_000)["price"] / 100
    total = sum(count for _, count in stock.NATURAL_HISTOGRAM)
    for start, count in stock.NATURAL_HISTOGRAM[1:20]:
        share = np.count_nonzero((dollars >= start) & (dollars < start + 500)) / len(dollars)
        assert share == pytest.approx(count / total, rel=0.12, abs=0.0007), start


def test_generated_lab_prices_follow_the_model() -> None:
    dollars = stock.built(stock.LABGROWN, 7, 100_000)["price"] / 100
    for share, price in stock.LAB_QUANTILES[1:-1]:
        assert np.percentile(dollars, share * 100) == pytest.approx(price, rel=0.06)


def test_a_stock_is_the_same_whatever_its_size_and_differs_by_seed_and_feed() -> None:
    small, large = (stock.built(stock.NATURAL, 7, count) for count in (500, 2_000))
    assert all((small[name] == large[name][:500]).all() for name in stock.TYPES)
    assert (small["price"] != stock.built(stock.NATURAL, 8, 500)["price"]).any()
    assert (small["price"] != stock.built(stock.LABGROWN, 7, 500)["price"]).any()


def test_an_upload_shares_its_time_of_creation() -> None:
    created = stock.built(stock.NATURAL, 7, 4_000)["created"]
    assert len(np.unique(created)) == 4_000 // stock.BATCH


def test_an_id_leads_back_to_its_stone() -> None:
    assert place_of(stone_id("labgrown", 1_999_999, 2**63)) == ("labgrown", 1_999_999)
    assert place_of(f"DIAMOND/{stone_id('natural', 0, 5)}") == ("natural", 0)
    assert place_of("DIAMOND/unknown") is None


# -- search


def test_prices_are_compared_in_cents_or_cut_to_dollars() -> None:
    for bounds in ("real", "floor"):
        search = Search(market(bounds=bounds))
        cents = search.market.feeds["natural"].stock["price"].astype(np.int64)
        high = 700 * 100 + (99 if bounds == "floor" else 0)
        expected = np.count_nonzero((cents >= 60_000) & (cents <= high))
        assert search.count({"dollar_value": {"from": 600, "to": 700}}) == expected > 0
        assert search.count({"dollar_value": {"from": 0, "to": TOP}}) == 3_000


def test_omitted_labgrown_means_natural() -> None:
    search = Search(market())
    assert search.count({}) == search.count({"labgrown": False}) == 3_000
    assert search.count({"labgrown": True}) == 1_000


def test_image_and_video_together_find_stones_with_either() -> None:
    search = Search(market(without_media=0.3))
    image, video = search.count({"has_image": True}), search.count({"has_v360": True})
    assert search.count({"has_image": True, "has_v360": True}) > max(image, video)
    assert max(image, video) < 2_300


def test_a_filter_that_is_not_served_is_refused_not_ignored() -> None:
    with pytest.raises(SearchError):
        Search(market()).count({"is_fbn": True})


def test_an_empty_list_and_null_are_no_filter() -> None:
    assert Search(market()).count({"shapes": [], "sizes": None}) == 3_000


@pytest.mark.parametrize("order", ["createdAt", "price", "size", "discount"])
def test_ties_are_always_in_the_same_order_or_always_in_another(order: str) -> None:
    stable = Search(market())
    assert found(stable, {}, order) == found(stable, {}, order)
    unstable = Search(market(ties="unstable"))
    first, second = found(unstable, {}, order), found(unstable, {}, order)
    assert first != second
    column = {"createdAt": "created", "price": "price", "size": "carats"}.get(order)
    if column is not None:
        keys = unstable.market.feeds["natural"].stock[column]
        assert keys[first].tolist() == keys[second].tolist() == sorted(keys.tolist())


@pytest.mark.parametrize("order", ["createdAt", "price"])
def test_a_kept_view_is_what_a_new_search_finds_however_the_market_moved(order: str) -> None:
    time = Time()
    moving = market(time, sold=0.05, added=0.05, repriced=0.1, held=0.05, uploads=2)
    kept = Search(moving)
    queries: list[dict[str, Any]] = [
        {},
        {"labgrown": True, "dollar_value": {"from": 100, "to": 300}},
        {"updated": {"to": NOW.isoformat()}},
        {"updated": {"from": NOW.isoformat()}, "availability": ["AVAILABLE"], "sizes": [{"from": 0.5, "to": 1.5}]},
    ]
    for _ in range(8):
        for query in queries:
            fresh = Search(moving)
            assert found(kept, query, order) == found(fresh, query, order)
            assert kept.count(query) == Search(moving).count(query) == len(found(fresh, query, order))
        time.seconds += 600
        moving.catch_up()


def test_views_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.nivoda_search.MOST_VIEWED", 7_000)
    search = Search(market())
    for high in range(1_000, 9_000, 1_000):
        found(search, {"dollar_value": {"from": 0, "to": high}})
    held = [len(view.packed) for view in search._views.values()]
    assert sum(held) <= 7_000
    assert len(held) < 8


# -- market


def test_a_quiet_market_stays_as_it_is() -> None:
    time = Time()
    quiet = market(time)
    before = feed_truth(quiet, "natural", has_ids=True)
    time.seconds += 86_400
    quiet.catch_up(requests=50)
    assert feed_truth(quiet, "natural", has_ids=True) == before


def test_rates_are_shares_of_the_feed_per_hour() -> None:
    time = Time()
    moving = market(time, natural=10_000, sold=0.01, added=0.01, repriced=0.02)
    for _ in range(60):
        time.seconds += 60
        moving.catch_up()
    events = moving.feeds["natural"].events
    assert events["added"] == pytest.approx(100, abs=2)
    assert events["sold"] == pytest.approx(100, abs=3)
    assert events["repriced"] == pytest.approx(200, abs=6)
    assert feed_truth(moving, "natural")["active"] == 10_000 + events["added"] - events["sold"]


def test_the_log_knows_exactly_which_stones_were_touched() -> None:
    time = Time()
    moving = market(time, sold=0.02, added=0.02, repriced=0.05, held=0.02, uploads=1)
    feed = moving.feeds["natural"]
    before = {name: feed.stock[name].copy() for name in ("price", "availability", "status", "updated")}
    time.seconds += 7_200
    since = round(NOW.timestamp() * 1_000_000)
    moving.catch_up()
    touched = set(feed.touched_since(since).tolist())
    changed = {
        place
        for name, values in before.items()
        for place in np.flatnonzero(feed.stock[name][: len(values)] != values).tolist()
    }
    added = set(range(3_000, len(feed.stock)))
    assert added
    assert changed | added == touched
    assert (feed.stock["updated"][sorted(touched)] >= since).all()
    assert feed.touched_since(since + 7_201 * 1_000_000).tolist() == []


def test_a_hold_may_leave_the_time_of_the_last_touch_as_it_is() -> None:
    time = Time()
    moving = market(time, held=0.1, silent_holds=True)
    feed = moving.feeds["natural"]
    updated, held = feed.stock["updated"].copy(), feed.stock["availability"].copy()
    time.seconds += 3_600
    moving.catch_up()
    assert (feed.stock["updated"] == updated).all()
    assert (feed.stock["availability"] != held).any()
    assert len(feed.touched_since(0)) > 200


def test_what_happens_between_two_looks_is_stamped_between_them() -> None:
    time = Time()
    moving = market(time, repriced=0.1)
    time.seconds += 3_600
    moving.catch_up()
    stamps = np.concatenate(moving.feeds["natural"].touched_at) / 1_000_000 - NOW.timestamp()
    assert stamps.min() >= 0
    assert stamps.max() <= 3_600
    assert np.ptp(stamps) > 3_000


def test_half_a_feed_can_be_missing_for_a_while_and_counts_as_untouched() -> None:
    search = Search(market())
    before = found(search, {})
    search.market.take_away("natural", 0.5, is_lost_to_lookups=True)
    left = found(search, {})
    assert 1_300 < len(left) < 1_700
    assert search.count({"labgrown": True}) == 1_000
    search.market.take_away("natural", 0, is_lost_to_lookups=True)
    assert found(search, {}) == before
    assert search.market.feeds["natural"].touched == []


def test_sold_stones_are_found_by_certificate_withdrawn_ones_not() -> None:
    time = Time()
    moving = market(time, sold=0.5)
    search = Search(moving)
    numbers = [str(1_200_000_000 + place) for place in range(25)]
    assert sum(len(places) for _, places in search.by_certificates(numbers)) == 25
    time.seconds += 3_600
    moving.catch_up()
    status = moving.feeds["natural"].stock["status"][:25]
    [places] = [places for feed, places in search.by_certificates(numbers) if feed.stock.feed == "natural"]
    assert set(places.tolist()) == set(np.flatnonzero(status != stock.WITHDRAWN).tolist())
    assert stock.SOLD in status
    assert stock.WITHDRAWN in status


def test_switches_are_checked_and_a_reset_puts_them_back() -> None:
    state = State.create(nivoda={"natural": 100, "labgrown": 0})
    change(state, {"ties": "unstable", "sold": 0.1})
    assert market_of(state).switches.ties == "unstable"
    for wrong in ({"tie": "stable"}, {"ties": "random"}, {"bounds": "ceil"}):
        with pytest.raises(ValueError, match=r"switches|one of"):
            change(state, wrong)
    state.reset()
    assert market_of(state).switches == Switches(natural=100, labgrown=0)


def test_packed_numbers_hold_the_largest_stock() -> None:
    assert PLACE_MASK > 4_000_000
    assert np.iinfo(np.int32).max < 2 ** (63 - PLACE_MASK.bit_length())


def test_the_command_line_sizes_the_feeds() -> None:
    sized = parse_arguments(["--nivoda-natural", "500", "--nivoda-lab", "0"])
    assert nivoda_sizes(sized.nivoda_natural, sized.nivoda_lab) == {"natural": 500, "labgrown": 0}
    plain = parse_arguments([])
    assert nivoda_sizes(plain.nivoda_natural, plain.nivoda_lab) == {}
