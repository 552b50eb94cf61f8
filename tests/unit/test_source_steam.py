from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import UnreadableRecord
from penstock.sources import steam
from penstock.sources.apps import APP_SOURCES, by_name
from penstock.sources.keyed import DEFAULT_LIMITS, KeyedSource

TRANSFORMS = Path(__file__).parents[2] / "include/sql/apps/transform"


def entry(**data: Any) -> dict[str, Any]:
    known = {
        "type": "Game",
        "name": "A",
        "is_free": False,
        "release_date": {"coming_soon": False, "date": "Aug 21, 2012"},
    }
    return {"10": {"success": True, "data": {**known, **data}}}


def test_names_are_unique_found_again_and_have_their_statement() -> None:
    names = [source.name for source in APP_SOURCES]
    assert len(names) == len(set(names))
    for source in APP_SOURCES:
        assert by_name(source.name) is source
        assert (TRANSFORMS / f"{source.name}.sql").is_file()
        assert source.limits


def test_a_source_without_limits_of_its_own_has_ten_calls_in_thirty_seconds() -> None:
    (limit,) = KeyedSource("name", "vendor", lambda send, key: None).limits["default"]
    assert (limit,) == DEFAULT_LIMITS
    assert (limit.count, limit.is_hard_window) == (10, True)
    assert limit.period >= 30


def test_every_request_names_a_family_that_has_a_limit() -> None:
    for source, request in ((steam.STOREFRONT, steam.details_request(7)), (steam.REVIEWS, steam.reviews_request(7))):
        assert request.limit in source.limits
    assert steam.details_request(7).params["appids"] == "7"
    assert steam.reviews_request(7).path == "appreviews/7"


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("Aug 21, 2012", "2012-08-21"),
        ("21 Aug, 2012", "2012-08-21"),
        ("May 1, 2009", "2009-05-01"),
        ("Coming soon", None),
        ("Q4 2026", None),
        ("2027", None),
        ("", None),
        (None, None),
    ],
)
def test_a_release_date_is_a_day_or_nothing(text: Any, day: str | None) -> None:
    assert steam.release_date(text) == day


def test_details_keep_what_the_tables_hold() -> None:
    price = {"currency": "USD", "initial": 1999, "final": 999, "discount_percent": 50}
    found = steam.details(10, entry(price_overview=price, developers=["X"], categories=[{"id": 2}, {"id": 30}]))
    assert found == {
        "appid": 10,
        "name": "A",
        "type": "game",
        "is_free": False,
        "release_date": "2012-08-21",
        "is_released": True,
        "has_workshop": True,
        "has_developer_info": True,
        "currency": "USD",
        "price_cents": 999,
        "initial_price_cents": 1999,
        "discount_percent": 50,
    }
    free = steam.details(10, entry(is_free=True, release_date={"coming_soon": True, "date": "Coming soon"}))
    assert free is not None
    assert (free["price_cents"], free["is_released"], free["release_date"]) == (None, False, None)


def test_an_app_that_the_store_does_not_have_is_no_record() -> None:
    assert steam.details(10, {"10": {"success": False}}) is None
    assert steam.review_summary(10, {"success": 2}) is None


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"10": []},
        {"10": {"success": True}},
        entry(name=None),
        entry(name="a\x00b"),
        entry(name="a\ud800b"),
        entry(price_overview={"final": "free"}),
        entry(price_overview={"final": 2**31, "initial": 1, "discount_percent": 0}),
        entry(release_date="soon"),
    ],
    ids=repr,
)
def test_details_of_the_wrong_shape_are_refused(body: Any) -> None:
    with pytest.raises(UnreadableRecord):
        steam.details(10, body)


def test_counts_of_reviews_are_counts() -> None:
    summary = {"total_reviews": 3, "total_positive": 2, "total_negative": 1, "review_score": 8}
    body = {"success": 1, "query_summary": {**summary, "review_score_desc": "Very Positive"}}
    found = steam.review_summary(10, body)
    assert found is not None
    assert (found["total_reviews"], found["positive_reviews"], found["negative_reviews"]) == (3, 2, 1)
    for wrong in ("many", -1, True, None, 2**31):
        with pytest.raises(UnreadableRecord):
            steam.review_summary(10, {"success": 1, "query_summary": {**summary, "total_reviews": wrong}})
