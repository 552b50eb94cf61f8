from __future__ import annotations

from typing import Any

import pytest

from penstock.core.errors import PenstockError, UnreadableRecord
from penstock.sources.fields import CHECKS, compile_fields, excerpt, join_key, optional, required

GOOD: dict[str, list[Any]] = {
    "id": ["a", "123", 5],
    "text": ["", "x"],
    "currency": ["USD"],
    "integer": [0, -5, "12", "+3", 2**63 - 1, "-9223372036854775808"],
    "decimal": [1, 1.5, "1.50", "-0.000001", "12e3", ".5", "5."],
    "date": ["2024-02-29"],
    "timestamp": ["2026-11-01T12:00:00+00:00", "2026-11-01T12:00:00Z", "2026-11-01T12:00:00.123456-0530"],
    "boolean": [True, False],
    "object": [{}],
    "list": [[]],
    "actions": [[], [{"action_type": "purchase", "value": "1.5", "7d_click": "1"}]],
}
BAD: dict[str, list[Any]] = {
    "id": ["", True, 1.5, [], "x" * 513],
    "text": [1, ["x"]],
    "currency": ["usd", "EURO", "", 978],
    "integer": [True, 1.0, "1.0", "1e3", "", " 1", "1\n", "½", 2**63, "9223372036854775808", "1_000"],
    "decimal": [True, "NaN", float("inf"), float("nan"), "1,5", "", "1 ", "1e13", 10**12, "0x1", "\u0661"],
    "date": ["2023-02-29", "20231101", "2023-11-01T00:00:00Z", 20231101],
    "timestamp": [
        "2026-11-01T12:00:00",
        "2026-11-01",
        "2026-13-01T12:00:00Z",
        "2026-W01-1T12:00:00Z",
        1700000000,
        "2026-11-01T12:00:00+20:00",
    ],
    "boolean": [0, "true"],
    "object": [[], "x"],
    "list": [{}, "x"],
    "actions": [{}, ["x"], [{"value": "1"}], [{"action_type": "purchase"}], [{"action_type": "x", "value": "many"}]],
}


def test_each_type_takes_what_postgres_casts_and_refuses_the_rest() -> None:
    assert set(GOOD) == set(BAD) == set(CHECKS)
    assert [(name, value) for name in CHECKS for value in GOOD[name] if not CHECKS[name](value)] == []
    assert [(name, value) for name in CHECKS for value in BAD[name] if CHECKS[name](value)] == []


check = compile_fields(
    (
        *required("id", "id", "relationships/metric/data/id"),
        *required("timestamp", "attributes/datetime"),
        *optional("decimal", "attributes/properties/$value"),
    )
)


def record(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "id": "1",
        "attributes": {"datetime": "2026-11-01T12:00:00Z", "properties": {"$value": 3}},
        "relationships": {"metric": {"data": {"id": "M"}}},
    }
    return {**good, **changes}


def test_a_record_as_declared_passes_with_fields_that_nobody_declared() -> None:
    check(record(more={"of": "it"}))


def test_optional_fields_may_be_absent_or_null_at_any_depth() -> None:
    moment = {"datetime": "2026-11-01T12:00:00Z"}
    check(record(attributes=moment))
    check(record(attributes={**moment, "properties": None}))
    check(record(attributes={**moment, "properties": {"$value": None}}))


@pytest.mark.parametrize(
    ("broken", "code", "message"),
    [
        (record(id=None), "MISSING_KEY", "id is required"),
        (record(relationships={}), "MISSING_KEY", "relationships.metric.data.id is required"),
        (record(relationships={"metric": {"data": "x"}}), "WRONG_TYPE", "relationships.metric.data should be object"),
        (
            record(attributes={"datetime": "yesterday"}),
            "WRONG_TYPE",
            'attributes.datetime should be timestamp, got "yes',
        ),
        (
            record(attributes={"datetime": "2026-11-01T12:00:00Z", "properties": {"$value": "12,5"}}),
            "WRONG_TYPE",
            'attributes.properties.$value should be decimal, got "12,5"',
        ),
        (["no", "object"], "SCHEMA_MISMATCH", "a record is not an object"),
    ],
)
def test_a_broken_record_is_refused_with_field_and_value(broken: Any, code: str, message: str) -> None:
    with pytest.raises(UnreadableRecord) as refused:
        check(broken)
    assert refused.value.code == code
    assert message in refused.value.message


def test_messages_show_long_and_odd_values_shortened_and_in_ascii() -> None:
    assert len(excerpt("x" * 1000)) < 130
    assert excerpt("\x00\ud800") == '"\\u0000\\ud800"'


def test_key_parts_cannot_run_into_each_other() -> None:
    assert join_key("a", "bc") != join_key("ab", "c")


def test_refusals_are_errors_of_ours() -> None:
    with pytest.raises(PenstockError):
        check({})
