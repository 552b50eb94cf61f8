"""The Nivoda client against the sandbox, which checks every query by the schema."""

from __future__ import annotations

import datetime as dt
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.core.errors import PenstockError
from penstock.sources.nivoda import (
    MAX_OFFSET,
    OLD_BASE_FILTER,
    PAGE_SIZE,
    STAGING_ENUMS,
    TOP,
    Query,
    base_query,
    stone,
    with_price,
    with_sizes,
    with_updated,
)
from penstock.sources.tokens import LocalTokens
from tests.nivoda_bench import NivodaBench, advance, post, switch, truth
from tests.sandbox_fixture import NOW, Sandbox

NATURAL = base_query("natural")


@pytest.fixture
def bench(sandbox: Sandbox) -> Iterator[NivodaBench]:
    switch(sandbox, natural=700, labgrown=300)
    made = NivodaBench(sandbox)
    yield made
    made.client.close()


def refused(call: Any, *arguments: Any) -> PenstockError:
    with pytest.raises(PenstockError) as caught:
        call(*arguments)
    return caught.value


def read_all(bench: NivodaBench, query: Query, order: str = "createdAt") -> list[str]:
    """All stones' ids, last page first."""
    count = bench.client.count(query)
    last = -(-count // PAGE_SIZE) * PAGE_SIZE
    pages = [bench.client.page(query, offset, PAGE_SIZE, order) for offset in range(last, -1, -PAGE_SIZE)]
    return [stone(item).supplier_stone_id for page in pages for item in page.items]


@pytest.mark.parametrize("feed", ["natural", "labgrown"])
@pytest.mark.parametrize("order", ["createdAt", "price"])
def test_all_stones_of_a_feed_are_read_once_each(bench: NivodaBench, feed: str, order: str) -> None:
    ids = read_all(bench, base_query(feed), order)
    assert sorted(ids) == sorted(truth(bench.sandbox, feed, ids="1")["ids"])


def test_the_real_stones_have_the_prices_of_the_data_set(sandbox: Sandbox) -> None:
    bench = NivodaBench(sandbox)
    found = truth(sandbox)
    assert (found["active"], found["price_cents"]) == (53_940, 21_213_521_700)
    assert bench.client.count(NATURAL) == 53_940
    page = bench.client.page(NATURAL, 0, PAGE_SIZE, "price")
    assert [stone(item).price_cents for item in page.items[:3]] == [32_600, 32_600, 32_700]
    bench.client.close()


def test_a_page_brings_the_true_count_where_its_own_total_is_its_length(bench: NivodaBench) -> None:
    page = bench.client.page(NATURAL, 650, PAGE_SIZE, "createdAt", "ASC", True)
    assert (page.length, page.count, bench.client.requests) == (50, 700, 2)
    assert bench.client.page(NATURAL, 700, PAGE_SIZE).items == []


def test_the_shops_filter_is_understood_and_finds_less(bench: NivodaBench) -> None:
    switch(bench.sandbox, without_media=0.3)
    found = bench.client.count(base_query("natural", OLD_BASE_FILTER))
    assert 0 < found < 700


def test_counts_in_one_call_are_those_of_single_calls(sandbox: Sandbox) -> None:
    switch(sandbox, natural=700)
    bench = NivodaBench(sandbox, count_batch=4)
    queries = [with_price(NATURAL, "dollar_value", 0, top) for top in (500, 1_000, 2_000, 5_000, TOP)]
    found = bench.client.counts(queries)
    assert found == [bench.client.count(query) for query in queries]
    assert found == sorted(found)
    assert found[-1] == 700
    assert bench.client.requests == 1 + 2 + 5
    bench.client.close()


def test_a_vendor_that_refuses_many_counts_in_one_call_is_asked_one_by_one(sandbox: Sandbox) -> None:
    switch(sandbox, natural=700, batch_limit=2)
    bench = NivodaBench(sandbox, count_batch=10)
    queries = [with_price(NATURAL, "dollar_value", 0, top) for top in (500, 1_000, 2_000)]
    assert bench.client.counts(queries) == [bench.client.count(query) for query in queries]
    assert bench.client.counts(queries) == [bench.client.count(query) for query in queries]
    assert bench.client.requests == 1 + 1 + 4 * 3
    bench.client.close()


def test_more_than_fifty_items_and_too_high_an_offset_are_refused_for_good(bench: NivodaBench) -> None:
    for offset, limit in ((0, PAGE_SIZE + 1), (MAX_OFFSET + PAGE_SIZE, PAGE_SIZE)):
        before = bench.client.requests
        failure = refused(bench.client.page, NATURAL, offset, limit)
        assert failure.code == "NIVODA_INVALID_QUERY"
        assert bench.client.requests - before <= 2  # the first call logs in
    assert bench.client.page(NATURAL, MAX_OFFSET, PAGE_SIZE).items == []


@pytest.mark.parametrize("status", [200, 400])
def test_an_unknown_filter_stops_the_run_at_its_first_call(bench: NivodaBench, status: int) -> None:
    switch(bench.sandbox, validation_status=status)
    failure = refused(bench.client.count, {**NATURAL, "updatedAt": {}})
    assert failure.code == "NIVODA_INVALID_QUERY"
    assert "updatedAt" in failure.message


# -- bounds of prices


@pytest.mark.parametrize(("bounds", "has_gap"), [("real", True), ("floor", False)])
def test_disjoint_dollar_ranges_lose_stones_only_where_bounds_are_real(
    sandbox: Sandbox, bounds: str, has_gap: bool
) -> None:
    switch(sandbox, natural=20_000, bounds=bounds)
    bench = NivodaBench(sandbox)
    whole = bench.client.count(with_price(NATURAL, "dollar_value", 0, TOP))
    cut = 1_000
    low = bench.client.count(with_price(NATURAL, "dollar_value", 0, cut))
    above = bench.client.count(with_price(NATURAL, "dollar_value", cut + 1, TOP))
    touching = bench.client.count(with_price(NATURAL, "dollar_value", cut, TOP))
    assert whole == 20_000
    assert (low + above < whole) is has_gap
    assert low + touching >= whole
    bench.client.close()


@pytest.mark.parametrize("key_field", ["dollar_value", "dollar_per_carat"])
def test_touching_ranges_find_every_stone(bench: NivodaBench, key_field: str) -> None:
    cuts = [0, 300, 900, 2_000, 6_000, TOP]
    found: set[str] = set()
    for low, high in itertools.pairwise(cuts):
        found |= set(read_all(bench, with_price(NATURAL, key_field, low, high)))
    assert len(found) == 700


def test_sizes_split_one_dollar_range_further(bench: NivodaBench) -> None:
    whole = with_price(NATURAL, "dollar_value", 0, 5_000)
    parts = [with_sizes(whole, low, high) for low, high in ((0, 0.5), (0.51, 1.0), (1.01, 1_000))]
    assert sum(bench.client.count(part) for part in parts) == bench.client.count(whole)


def test_some_stones_no_price_range_finds(bench: NivodaBench) -> None:
    switch(bench.sandbox, unpriced=0.1)
    priced = bench.client.count(with_price(NATURAL, "dollar_value", 0, TOP))
    assert bench.client.count(NATURAL) == 700
    assert 600 < priced < 700


def test_a_range_that_ends_before_it_begins_is_answered_with_thirty_stones(bench: NivodaBench) -> None:
    query = with_price(NATURAL, "dollar_value", 20, 10)
    assert bench.client.page(query, 0, PAGE_SIZE, "price", "ASC", True).count == 30


# -- tokens


def test_one_login_serves_all_calls(bench: NivodaBench) -> None:
    for _ in range(5):
        bench.client.count(NATURAL)
    assert bench.client.requests == 6
    assert bench.sandbox.get("nivoda/truth")["logins"] == 1


def test_a_token_that_ends_in_mid_read_is_renewed_and_the_call_repeated(bench: NivodaBench) -> None:
    bench.client.page(NATURAL, 0)
    post(bench.sandbox, "revoke")
    assert bench.client.page(NATURAL, 50).length == PAGE_SIZE
    bench.sandbox.faults({"vendor": "nivoda", "action": "expired_token", "times": 1})
    assert bench.client.page(NATURAL, 100).length == PAGE_SIZE
    assert bench.sandbox.get("nivoda/truth")["logins"] == 3
    assert bench.breaker.events == ["success"] * bench.client.requests


def test_a_token_whose_time_is_over_before_the_client_thinks_so_is_renewed(sandbox: Sandbox) -> None:
    """The bench's clock stands still: its client never renews a token by itself."""
    switch(sandbox, natural=300, token_seconds=0.3)
    bench = NivodaBench(sandbox, tokens=LocalTokens(clock=lambda: bench.clock.now - dt.timedelta(seconds=10)))
    read = 0
    for offset in range(0, 300, PAGE_SIZE):
        read += bench.client.page(NATURAL, offset).length
        time.sleep(0.12)
    assert read == 300
    assert 2 <= sandbox.get("nivoda/truth")["logins"] <= 4
    bench.client.close()


def test_an_expired_token_is_told_inside_http_200_and_recognised(sandbox: Sandbox) -> None:
    switch(sandbox, natural=100, token_seconds=0)
    bench = NivodaBench(sandbox)
    failure = refused(bench.client.count, NATURAL)
    assert (failure.code, sandbox.answered("nivoda", status=200)) == ("NIVODA_AUTH_ERROR", 4)
    assert "jwt expired" in failure.message


def test_a_token_that_is_refused_right_after_its_issue_fails_for_good(bench: NivodaBench) -> None:
    switch(bench.sandbox, refuses_tokens=True)
    failure = refused(bench.client.count, NATURAL)
    assert failure.code == "NIVODA_AUTH_ERROR"
    assert bench.client.requests == 4  # login, call, login, call


def test_a_token_is_renewed_before_it_ends(sandbox: Sandbox) -> None:
    switch(sandbox, natural=100)
    tokens = LocalTokens(clock=lambda: bench.clock.now)
    bench = NivodaBench(sandbox, tokens=tokens)
    bench.client.count(NATURAL)
    bench.clock.now += dt.timedelta(hours=6) - dt.timedelta(minutes=6)
    bench.client.count(NATURAL)
    assert sandbox.get("nivoda/truth")["logins"] == 1
    bench.clock.now += dt.timedelta(minutes=2)
    bench.client.count(NATURAL)
    assert sandbox.get("nivoda/truth")["logins"] == 2
    bench.client.close()


def test_a_wrong_password_is_asked_once_and_is_nowhere_in_the_error(sandbox: Sandbox) -> None:
    bench = NivodaBench(sandbox, changes={"secret": "wrong-password-1234"})
    failure = refused(bench.client.check)
    assert (failure.code, bench.client.requests) == ("NIVODA_AUTH_ERROR", 1)
    assert "wrong-password-1234" not in f"{failure!r} {failure.as_json()}"


def test_threads_share_one_login(bench: NivodaBench) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(bench.client.count(NATURAL))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [700] * 8
    assert bench.sandbox.get("nivoda/truth")["logins"] == 1


# -- trouble


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "status", "params": {"status": 503}},
        {"action": "status", "params": {"status": 429, "retry_after": 2}},
        {"action": "status", "params": {"status": 429}},
        {"action": "status", "params": {"status": 200, "message": "operation timed out"}},
        {"action": "status", "params": {"status": 200, "message": "something we have never seen"}},
        {"action": "status", "params": {"status": 200, "message": "Too many requests, wait 30 seconds"}},
        {"action": "drop"},
        {"action": "truncate"},
        {"action": "truncate", "params": {"wrong_length": True}},
        {"action": "html", "params": {"status": 200}},
        {"action": "html", "params": {"status": 502}},
    ],
    ids=str,
)
def test_passing_trouble_is_got_over_within_the_call(bench: NivodaBench, fault: dict[str, Any]) -> None:
    bench.client.count(NATURAL)
    bench.sandbox.faults({"vendor": "nivoda", "times": 1, **fault})
    assert bench.client.page(NATURAL, 0).length == PAGE_SIZE
    assert bench.client.requests == 4


@pytest.mark.parametrize(("has_retry_after", "least"), [(True, 1), (False, 30)])
def test_a_storm_of_429_closes_the_limit_for_everybody(bench: NivodaBench, has_retry_after: bool, least: float) -> None:
    switch(bench.sandbox, request_limit=3, request_period=0.2, has_retry_after=has_retry_after)
    bench.client._sleep = lambda seconds: (bench.clock.sleep(seconds), threading.Event().wait(0.2))
    for _ in range(6):
        bench.client.count(NATURAL)
    assert bench.limiter.blocked
    assert {key for key, _, _ in bench.limiter.blocked} == {f"nivoda:{bench.client._account_id}:graphql"}
    assert min(seconds for _, seconds, _ in bench.limiter.blocked) >= least
    assert max(bench.clock.slept) >= least


def test_items_outside_the_schemas_enumerations_are_counted_and_the_others_kept(bench: NivodaBench) -> None:
    switch(bench.sandbox, bad_enums=0.1, bad_colors=0.05)
    good, bad, partial = 0, 0, 0
    for offset in range(0, 700, PAGE_SIZE):
        page = bench.client.page(NATURAL, offset)
        assert page.length == PAGE_SIZE
        assert all(stone(item) for item in page.items)
        assert all("cannot represent value" in reason for _, reason in page.bad)
        good, bad, partial = good + len(page.items), bad + len(page.bad), partial + len(page.partial)
    assert good + bad == 700
    assert 0 < partial < bad < 200


def test_on_staging_the_fields_in_question_are_not_asked_for(sandbox: Sandbox) -> None:
    switch(sandbox, natural=200, bad_enums=0.5)
    bench = NivodaBench(sandbox, without=STAGING_ENUMS)
    page = bench.client.page(NATURAL, 0)
    assert page.bad == []
    assert not STAGING_ENUMS & set(page.items[0]["diamond"]["certificate"])
    bench.client.close()


def test_short_pages_in_mid_stream_leave_the_rest_at_the_next_offset(bench: NivodaBench) -> None:
    switch(bench.sandbox, short_pages=3)
    short = bench.client.page(NATURAL, 100)
    assert 0 < short.length < PAGE_SIZE
    rest = bench.client.page(NATURAL, 100 + short.length, PAGE_SIZE - short.length)
    assert short.length + rest.length == PAGE_SIZE


# -- a market that moves


def test_a_frozen_set_only_shrinks_and_reading_it_backwards_misses_no_untouched_stone(sandbox: Sandbox) -> None:
    switch(sandbox, natural=2_000)
    bench = NivodaBench(sandbox)
    start = sandbox.state.clock.now()
    frozen = with_updated(NATURAL, None, start)
    switch(sandbox, sold=0.005, added=0.005, repriced=0.02, uploads=1, seconds_per_request=250)
    before = bench.client.count(frozen)
    ids = read_all(bench, frozen)
    after = bench.client.count(frozen)
    found = truth(sandbox, ids="1", since=start.isoformat())
    touched = set(found["touched_ids"])
    assert before > after
    assert len(touched) > 200
    assert set(found["ids"]) - touched <= set(ids)
    assert all(found["events"][kind] for kind in ("sold", "added", "repriced", "uploaded"))
    bench.client.close()


def test_reading_it_forwards_misses_some(sandbox: Sandbox) -> None:
    """Why the client's users read backwards."""
    switch(sandbox, natural=2_000)
    bench = NivodaBench(sandbox)
    start = sandbox.state.clock.now()
    frozen = with_updated(NATURAL, None, start)
    switch(sandbox, repriced=0.1, seconds_per_request=250)
    ids = {stone(item).supplier_stone_id for at in range(0, 2_000, 50) for item in bench.client.page(frozen, at).items}
    found = truth(sandbox, ids="1", since=start.isoformat())
    assert set(found["ids"]) - set(found["touched_ids"]) - ids
    bench.client.close()


def test_what_was_touched_comes_in_the_next_window(bench: NivodaBench) -> None:
    start = bench.sandbox.state.clock.now()
    switch(bench.sandbox, repriced=0.05, held=0.05)
    advance(bench.sandbox, 3600)
    # The market catches up when it is asked, and stamps what moved with that second: the window ends after it.
    touched = truth(bench.sandbox, since=start.isoformat())["touched_ids"]
    query = with_updated(NATURAL, start, bench.sandbox.state.clock.now())
    assert touched
    assert sorted(read_all(bench, query)) == sorted(touched)


def test_ties_that_change_their_order_lose_stones_and_a_count_shows_it(sandbox: Sandbox) -> None:
    switch(sandbox, natural=2_000, ties="unstable")
    bench = NivodaBench(sandbox)
    assert len(set(read_all(bench, NATURAL))) < bench.client.count(NATURAL)
    bench.client.close()


def test_sold_stones_are_found_by_certificate_and_half_a_feed_can_be_taken_away(bench: NivodaBench) -> None:
    stones = [stone(item) for item in bench.client.page(NATURAL, 0).items]
    switch(bench.sandbox, sold=0.5)
    advance(bench.sandbox, 3600)
    numbers = sorted({each.certificate_number for each in stones})
    answer = bench.client.by_certificates(numbers)
    looked_up = {item["diamond"]["id"]: item["diamond"]["availability"] for item in answer.items}
    assert answer.unclear == set()
    listed = set(truth(bench.sandbox, ids="1")["ids"])
    gone = {each.supplier_stone_id for each in stones} - listed
    assert {looked_up.get(each) for each in gone} == {"SOLD", None}
    switch(bench.sandbox, sold=0)
    before = bench.client.count(NATURAL)
    post(bench.sandbox, "take_away", feed="natural", share=0.5)
    assert before * 0.4 < bench.client.count(NATURAL) < before * 0.6
    post(bench.sandbox, "take_away", feed="natural", share=0)
    assert bench.client.count(NATURAL) == before


def test_a_look_up_says_beside_which_certificates_an_item_cannot_be_read(bench: NivodaBench) -> None:
    numbers = sorted({stone(item).certificate_number for item in bench.client.page(NATURAL, 0).items})
    switch(bench.sandbox, bad_colors=0.1)
    answer = bench.client.by_certificates(numbers)
    assert len(answer.items) < len(numbers)
    assert set() < answer.unclear <= set(numbers)
    told = {item["diamond"]["certificate"]["certNumber"] for item in answer.items}
    assert set(numbers) - told <= answer.unclear


def test_the_present_of_the_sandbox_is_the_tests(sandbox: Sandbox) -> None:
    assert abs((dt.datetime.fromisoformat(sandbox.get("nivoda/truth")["now"]) - NOW).total_seconds()) < 60
