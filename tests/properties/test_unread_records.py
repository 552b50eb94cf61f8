"""A list whose records are read one by one holds what it holds when the whole answer is read at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.clients.answers import Answer
from penstock.core.errors import PenstockError
from penstock.warehouse.loader import read_record

TEXTS = st.text(st.characters(codec=None), max_size=8)  # NUL and halves of surrogate pairs too
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
BODIES = st.fixed_dictionaries({"data": st.lists(VALUES, max_size=5)}, optional={"links": VALUES, "meta": VALUES})


def read(body: bytes, unread: str | None) -> Any:
    """What the answer holds in the end, or the code of the error."""
    try:
        found = Answer(200, {}, body).json(unread)
        if isinstance(found, dict) and isinstance(found.get("data"), list):
            found["data"] = [read_record(record) for record in found["data"]]
    except PenstockError as failure:
        return failure.code
    return found


@given(BODIES | VALUES, st.booleans(), st.sampled_from((None, 0, 1)))
def test_one_by_one_is_the_same_as_at_once(content: Any, escaped: bool, indent: int | None) -> None:
    body = json.dumps(content, ensure_ascii=escaped, indent=indent).encode(errors="replace")
    assert read(body, "data") == read(body, None)


@given(BODIES, st.integers(1, 200))
def test_an_answer_that_was_cut_off_is_no_answer(content: Any, cut: int) -> None:
    body = json.dumps(content).encode()[:-cut]
    assert read(body, "data") == read(body, None)
    assert read(body, "data") in ("RESPONSE_TRUNCATED", "RESPONSE_NOT_JSON")


@given(BODIES, st.integers(0), st.integers(0, 255))
def test_an_answer_with_one_wrong_byte_is_read_alike_or_is_an_error_both_ways(
    content: Any, place: int, byte: int
) -> None:
    body = bytearray(json.dumps(content, ensure_ascii=False).encode(errors="replace"))
    body[place % len(body)] = byte
    found, expected = read(bytes(body), "data"), read(bytes(body), None)
    assert found == expected or (found, expected) == ("SCHEMA_MISMATCH", "RESPONSE_TRUNCATED")


@pytest.mark.parametrize("body", [b'{"\xe9": 1, "data": []}', b'{"data": [1e999]}', b'{"data": [{"a": -1e999}, {}]}'])
def test_what_only_one_of_the_readers_refuses_is_read_alike(body: bytes) -> None:
    assert read(body, "data") == read(body, None)
