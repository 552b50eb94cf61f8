"""What the loader makes of one record, and which records it refuses with which reason."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from penstock.core.errors import UnreadableRecord
from penstock.sources.stream import Row
from penstock.warehouse.loader import MAX_KEY_BYTES, Rejected, prepare, read_record

DAY = dt.date(2026, 11, 1)


def row(payload: Any, key: str = "k", cursor: str | None = None) -> Row:
    return Row(key, DAY, cursor, payload)


def test_the_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert prepare(row({"a": 1, "b": {"c": 2, "d": 3}})).digest == prepare(row({"b": {"d": 3, "c": 2}, "a": 1})).digest


@pytest.mark.parametrize("other", [{"a": 2}, {"a": "1"}, {"a": 1, "b": None}, {"a": [1]}, {}])
def test_the_hash_changes_with_any_value(other: dict[str, Any]) -> None:
    assert prepare(row({"a": 1})).digest != prepare(row(other)).digest


def test_a_hash_has_16_bytes_and_the_payload_is_canonical_json() -> None:
    entry = prepare(row({"b": "ü", "a": [1, None, True, 1.5]}))
    assert len(entry.digest) == 16
    assert entry.payload == '{"a":[1,null,true,1.5],"b":"ü"}'.encode()


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        ({"a": {"b": ["x", "y\x00z"]}}, "FORBIDDEN_CHARACTER", r"a\.b\[1\] holds a NUL character: 'y\\x00z'"),
        ({"a": {"x\x00y": 1}}, "FORBIDDEN_CHARACTER", r"a has a key that holds a NUL character"),
        ({"a": "x\ud800"}, "FORBIDDEN_CHARACTER", r"a holds half a surrogate pair"),
        ({"a\udc00": 1}, "FORBIDDEN_CHARACTER", r"the record has a key that holds half a surrogate pair"),
        ({"a": float("nan")}, "WRONG_TYPE", r"a is not a finite number: nan"),
        ({"a": [1, {"b": float("-inf")}]}, "WRONG_TYPE", r"a\[1\]\.b is not a finite number: -inf"),
        ({"a": 2**64}, "WRONG_TYPE", r"a is an integer beyond 64 bits: 18446744073709551616"),
        ({"a": -(2**63) - 1}, "WRONG_TYPE", r"a is an integer beyond 64 bits"),
        ({1: "x"}, "FORBIDDEN_CHARACTER", r"a key that is no text: 1"),
        ({"a": {1, 2}}, "WRONG_TYPE", r"a has the type set"),
    ],
)
def test_what_postgres_cannot_hold_is_refused_with_path_and_value(payload: Any, code: str, reason: str) -> None:
    with pytest.raises(UnreadableRecord, match=reason) as caught:
        prepare(row(payload))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "payload",
    [
        {"a": "the text \\u0000 written out"},
        {"a": None, "b": 1.5, "c": "null and nan"},
        {"a": 2**64 - 1, "b": -(2**63)},
        {"a": "\U0001f600 and \u2028"},
        {"": ""},
        {},
    ],
)
def test_what_only_looks_like_it_is_taken(payload: Any) -> None:
    assert json.loads(prepare(row(payload)).payload) == payload


def test_a_nan_beside_nothing_else_that_is_null_is_found() -> None:
    nested: Any = float("inf")
    for _ in range(50):
        nested = {"inner": [nested]}
    with pytest.raises(UnreadableRecord, match="is not a finite number"):
        prepare(row(nested))


@pytest.mark.parametrize("deep", [300, 5_000])
def test_a_record_nested_too_deeply_is_refused_and_does_not_end_the_process(deep: int) -> None:
    nested: Any = 1
    for _ in range(deep):
        nested = [nested]
    with pytest.raises(UnreadableRecord, match="nested more than 250 levels") as caught:
        prepare(row({"a": nested}))
    assert len(Rejected.of({"a": nested}, caught.value).payload) > 0
    while isinstance(nested, list):  # taken apart by hand: freeing it at once would recurse as well
        nested = nested.pop()


def test_a_key_that_no_index_holds_is_refused() -> None:
    assert prepare(row({}, key="ä" * (MAX_KEY_BYTES // 2)))
    with pytest.raises(UnreadableRecord, match="the record key has 2002 bytes"):
        prepare(row({}, key="ä" * (MAX_KEY_BYTES // 2 + 1)))


@pytest.mark.parametrize("character", ["\x00", "\ud800"])
def test_a_forbidden_character_in_key_or_cursor_is_refused(character: str) -> None:
    with pytest.raises(UnreadableRecord, match="the record key holds"):
        prepare(row({}, key=f"a{character}"))
    with pytest.raises(UnreadableRecord, match="the cursor value holds"):
        prepare(row({}, cursor=f"a{character}"))


def test_a_rejected_record_keeps_its_payload_as_ascii_text() -> None:
    record = {"name": "Zoë\x00\ud800", "n": float("nan")}
    with pytest.raises(UnreadableRecord) as caught:
        prepare(row(record))
    rejected = Rejected.of(record, caught.value, "k")
    assert rejected.payload == '{"name": "Zo\\u00eb\\u0000\\ud800", "n": NaN}'
    assert (rejected.code, rejected.record_key) == (caught.value.code, "k")


def test_a_record_that_is_still_text_is_read_and_one_that_is_no_json_is_kept_as_it_came() -> None:
    assert read_record(memoryview(b'{"id": 1}')) == read_record({"id": 1}) == {"id": 1}
    broken = memoryview(b'{"id": "caf\xe9"}')
    with pytest.raises(UnreadableRecord, match="is no JSON") as caught:
        read_record(broken)
    rejected = Rejected.of(broken, caught.value)
    assert (rejected.code, json.loads(rejected.payload)) == ("SCHEMA_MISMATCH", '{"id": "caf\ufffd"}')
