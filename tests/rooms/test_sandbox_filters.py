"""Klaviyo's filter language."""

from __future__ import annotations

import datetime as dt

import pytest

from sandbox.klaviyo_filters import Condition, FilterError, instant, parse

ALLOWED = {
    "name": ("equals", "contains", "any"),
    "datetime": ("greater-or-equal", "less-than"),
    "archived": ("equals",),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("equals(name,'a')", [Condition("equals", "name", "a")]),
        ('equals(name,"a,b(c)")', [Condition("equals", "name", "a,b(c)")]),
        ("equals(name,'it\\'s')", [Condition("equals", "name", "it's")]),
        ("any(name,['a','b'])", [Condition("any", "name", ("a", "b"))]),
        ("equals(archived,true)", [Condition("equals", "archived", True)]),
        ("equals(archived, false)", [Condition("equals", "archived", False)]),
        (
            "greater-or-equal(datetime,2026-01-01T00:00:00+01:00),less-than(datetime,2026-01-02T00:00:00Z)",
            [
                Condition("greater-or-equal", "datetime", "2026-01-01T00:00:00+01:00"),
                Condition("less-than", "datetime", "2026-01-02T00:00:00Z"),
            ],
        ),
        (
            "and(equals(name,'a'),equals(archived,true))",
            [Condition("equals", "name", "a"), Condition("equals", "archived", True)],
        ),
        ("", None),
    ],
)
def test_filters_are_read(text: str, expected: list[Condition] | None) -> None:
    if expected is None:
        with pytest.raises(FilterError):
            parse(text, ALLOWED)
    else:
        assert list(parse(text, ALLOWED)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "equals(name,'a'",
        "equals(name,'a'))",
        "equals('name','a')",
        "equals(other,'a')",
        "less-than(name,'a')",
        "equals(name,'a') or equals(name,'b')",
        "equals(name,['a')",
        "x" * 10_001,
    ],
)
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(FilterError):
        parse(text, ALLOWED)


def test_a_time_without_a_zone_is_in_the_zone_of_the_query() -> None:
    condition = Condition("less-than", "datetime", "2026-01-01T00:00:00")
    zone = dt.timezone(dt.timedelta(hours=14))
    assert instant(condition, zone) == dt.datetime(2025, 12, 31, 10, tzinfo=dt.UTC)
    assert instant(condition) == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize("value", ["soon", True, ("a",)])
def test_a_time_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(FilterError):
        instant(Condition("less-than", "datetime", value))  # type: ignore[arg-type]
