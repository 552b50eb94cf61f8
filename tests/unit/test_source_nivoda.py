from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from penstock.core.errors import PenstockError
from penstock.sources import nivoda
from penstock.sources.nivoda import base_query, iso, parse_counts, parse_page, stone, with_price, with_sizes


def item(**changes: Any) -> dict[str, Any]:
    certificate = {"certNumber": "1", "shape": "ROUND", "carats": 0.5, "length": "null", "labgrown": False}
    certificate |= changes.pop("certificate", {})
    diamond = {"id": "a", "availability": "AVAILABLE", "certificate": certificate, **changes.pop("diamond", {})}
    return {"id": "DIAMOND/a", "price": 12_345, "diamond": diamond, **changes}


def code_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(PenstockError) as caught:
        call(*arguments)
    return caught.value.code


# -- queries


def test_a_query_always_says_which_feed_it_means_and_which_price() -> None:
    assert base_query("natural") == {"labgrown": False, "search_on_markup_price": False}
    assert base_query("labgrown", {"has_image": True})["labgrown"] is True


@pytest.mark.parametrize("name", ["labgrown", "updated", "dollar_value", "certificate_numbers"])
def test_a_base_filter_cannot_set_what_the_reading_sets(name: str) -> None:
    assert code_of(base_query, "natural", {name: True}) == "CONFIG_INVALID"


def test_an_unknown_feed_or_key_is_a_matter_of_configuration() -> None:
    assert code_of(base_query, "emeralds") == "CONFIG_INVALID"
    assert code_of(with_price, {}, "price", 0, 1) == "CONFIG_INVALID"


def test_narrowing_leaves_the_query_itself_alone() -> None:
    query = base_query("natural")
    narrowed = with_price(query, "dollar_value", 1, 2)
    assert "dollar_value" not in query
    assert narrowed["dollar_value"] == {"from": 1, "to": 2}


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (None, [{"from": 0.5, "to": 1.0}]),
        ([{"from": 0.4, "to": 15.0}], [{"from": 0.5, "to": 1.0}]),
        ([{"from": 0.1, "to": 0.6}, {"from": 0.9, "to": 2.0}], [{"from": 0.5, "to": 0.6}, {"from": 0.9, "to": 1.0}]),
        ([{"from": 2.0, "to": 3.0}], [{"from": 2.0, "to": 1.0}]),  # nothing: not the same as no filter
    ],
)
def test_sizes_are_cut_out_of_those_that_are_filtered_already(held: Any, expected: Any) -> None:
    query = {} if held is None else {"sizes": held}
    assert with_sizes(query, 0.5, 1.0)["sizes"] == expected


def test_instants_are_sent_in_utc_with_milliseconds() -> None:
    zurich = dt.timezone(dt.timedelta(hours=1))
    assert iso(dt.datetime(2026, 11, 1, 13, 0, 0, 999_900, tzinfo=zurich)) == "2026-11-01T12:00:00.999Z"
    moment = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
    assert nivoda.with_updated({}, None, moment)["updated"] == {"to": "2026-11-01T00:00:00.000Z"}
    assert nivoda.with_updated({}, moment, moment)["updated"].keys() == {"from", "to"}


@pytest.mark.parametrize("rate", [0, 26])
def test_no_pace_above_what_the_vendor_allows(rate: int) -> None:
    assert code_of(nivoda.limits, rate) == "CONFIG_INVALID"


def test_the_pace_is_even() -> None:
    [limit] = nivoda.limits(25)["graphql"]
    assert (limit.count, limit.period, limit.burst) == (25, 1.0, 1)


def test_staging_fields_can_be_left_out_of_the_selection() -> None:
    spared = nivoda.diamond_fields(nivoda.STAGING_ENUMS)
    words = set(spared.split())
    assert not nivoda.STAGING_ENUMS & words
    assert {"certNumber", "color", "carats"} <= words


# -- answers


def test_a_page_without_errors_is_taken_whole() -> None:
    page = parse_page({"data": {"page": {"items": [item(), item()]}, "n": 7}})
    assert (len(page.items), page.count, page.bad, page.length) == (2, 7, [], 2)


def test_items_with_errors_are_bad_and_the_others_good() -> None:
    errors = [
        {
            "message": 'Enum "X" cannot represent value',
            "path": ["page", "items", 1, "diamond", "certificate", "floInt"],
        },
        {"message": "again", "path": ["page", "items", 1, "diamond", "certificate", "clarity"]},
        {"message": "no colour", "path": ["page", "items", 2, "diamond", "certificate", "color"]},
    ]
    page = parse_page({"errors": errors, "data": {"page": {"items": [item(), item(price=1), None, item()]}}})
    assert len(page.items) == 2
    assert page.bad == [(1, 'Enum "X" cannot represent value'), (2, "no colour")]
    assert set(page.partial) == {1}
    assert page.length == 4


def test_null_among_the_items_without_an_error_is_bad_too() -> None:
    page = parse_page({"data": {"page": {"items": [None, item()]}}})
    assert [place for place, _ in page.bad] == [0]


@pytest.mark.parametrize("body", [None, [], {"data": None}, {"data": {"page": {"items": {}}}}])
def test_an_answer_of_another_shape_is_a_mismatch(body: Any) -> None:
    assert code_of(parse_page, body) == "SCHEMA_MISMATCH"


@pytest.mark.parametrize("value", [None, "7", -1, True])
def test_a_count_is_a_number(value: Any) -> None:
    assert code_of(parse_counts, {"data": {"n0": value}}, 1) == "SCHEMA_MISMATCH"


# -- stones


def test_a_stone_is_known_by_the_id_of_the_diamond_not_of_the_offer() -> None:
    found = stone(item())
    assert (found.supplier_stone_id, found.offer_id, found.price_cents, found.carats) == ("a", "DIAMOND/a", 12_345, 0.5)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"price": None}, "MISSING_KEY"),
        ({"price": "12.5"}, "WRONG_TYPE"),
        ({"price": 0}, "WRONG_TYPE"),
        ({"diamond": {"id": ""}}, "WRONG_TYPE"),
        ({"diamond": {"id": None}}, "MISSING_KEY"),
        ({"diamond": {"certificate": None}}, "MISSING_KEY"),
        ({"diamond": {"supplier": "Anna"}}, "WRONG_TYPE"),
        ({"diamond": {"availability": None}}, "MISSING_KEY"),
        ({"certificate": {"carats": 0}}, "WRONG_TYPE"),
        ({"certificate": {"carats": "half"}}, "WRONG_TYPE"),
        ({"certificate": {"length": 7.2}}, "WRONG_TYPE"),
    ],
    ids=str,
)
def test_a_stone_that_cannot_be_kept_is_refused_with_its_reason(changes: dict[str, Any], code: str) -> None:
    assert code_of(stone, item(**changes)) == code
