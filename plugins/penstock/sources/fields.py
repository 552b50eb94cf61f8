"""Field declarations as data, compiled into a fast check of one record.

Every value that the transform SQL casts is declared here by its source and checked before it is
staged, so that a cast never fails for a whole run because of one record.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.core.errors import PenstockError, error
from penstock.sources.stream import Record

KEY_SEPARATOR = "\x1f"

BIGINT_LIMIT = 2**63  # Postgres bigint
MONEY_LIMIT = 10**12  # numeric(18,6) has twelve digits before the point
ID_LENGTH = 512  # keys end up in B-tree indexes, whose entries have a limit
EXCERPT_LENGTH = 120

INTEGER_TEXT = re.compile(r"[+-]?[0-9]{1,19}\Z").match
DECIMAL_TEXT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?\Z").match
TIMESTAMP_TEXT = re.compile(  # what both Python and Postgres read; offsets as Postgres bounds them
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:Z|[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?)\Z"
).match
CURRENCY_TEXT = re.compile(r"[A-Z]{3}\Z").match
DATE_TEXT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z").match

MISSING = object()


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record.

    path: keys from the record down to the value.
    type: one of `CHECKS`.
    required: a record without it is refused as MISSING_KEY; otherwise it may be absent or null.
    """

    path: tuple[str, ...]
    type: str
    required: bool = False


def required(type_name: str, *paths: str) -> tuple[Field, ...]:
    """Required fields of one type; a path's keys are joined by `/`."""
    return tuple(Field(tuple(path.split("/")), type_name, True) for path in paths)


def optional(type_name: str, *paths: str) -> tuple[Field, ...]:
    """Fields of one type that may be absent or null; a path's keys are joined by `/`."""
    return tuple(Field(tuple(path.split("/")), type_name) for path in paths)


def is_id(value: Any) -> bool:
    if type(value) is str:
        return 0 < len(value) <= ID_LENGTH
    return type(value) is int


def is_text(value: Any) -> bool:
    return type(value) is str


def is_currency(value: Any) -> bool:
    """An ISO 4217 code, as char(3) holds it."""
    return type(value) is str and CURRENCY_TEXT(value) is not None


def is_integer(value: Any) -> bool:
    """An integer that Postgres casts to bigint; `1.0` is none, and neither is `true`."""
    if type(value) is str:
        if INTEGER_TEXT(value) is None:
            return False
        value = int(value)
    return type(value) is int and -BIGINT_LIMIT <= value < BIGINT_LIMIT


def is_decimal(value: Any) -> bool:
    """A finite number, as a JSON number or as text, that numeric(18,6) can hold."""
    if type(value) is str:
        if DECIMAL_TEXT(value) is None:
            return False
        value = float(value)
    kind = type(value)
    return ((kind is float and math.isfinite(value)) or kind is int) and -MONEY_LIMIT < value < MONEY_LIMIT


def is_date(value: Any) -> bool:
    """A calendar day `YYYY-MM-DD`."""
    if type(value) is not str or DATE_TEXT(value) is None:
        return False
    try:
        dt.date.fromisoformat(value)
    except ValueError:
        return False
    return True


def is_timestamp(value: Any) -> bool:
    """ISO 8601 with an offset, so that it names one instant."""
    if type(value) is not str or TIMESTAMP_TEXT(value) is None:
        return False
    try:
        dt.datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def is_boolean(value: Any) -> bool:
    return type(value) is bool


def is_object(value: Any) -> bool:
    return type(value) is dict


def is_list(value: Any) -> bool:
    return type(value) is list


def is_actions(value: Any) -> bool:
    """Meta's list of `{action_type, value}`, the value a number."""
    if type(value) is not list:
        return False
    return all(
        type(item) is dict and is_id(item.get("action_type")) and is_decimal(item.get("value")) for item in value
    )


CHECKS: dict[str, Callable[[Any], bool]] = {
    "id": is_id,
    "text": is_text,
    "currency": is_currency,
    "integer": is_integer,
    "decimal": is_decimal,
    "date": is_date,
    "timestamp": is_timestamp,
    "boolean": is_boolean,
    "object": is_object,
    "list": is_list,
    "actions": is_actions,
}

Checker = Callable[[Record], None]
Member = tuple[str, Callable[[Any], bool], Field]  # key in its object, check, declaration


def compile_fields(fields: Sequence[Field]) -> Checker:
    """A function that raises MISSING_KEY or WRONG_TYPE for a field that is not as declared.

    Fields of one object are looked up together, because this runs for every record.
    """
    groups: dict[tuple[str, ...], list[Member]] = {}
    for field in fields:
        groups.setdefault(field.path[:-1], []).append((field.path[-1], CHECKS[field.type], field))
    steps = tuple((parents, tuple(members)) for parents, members in groups.items())

    def check_record(record: Record) -> None:
        if type(record) is not dict:
            raise error("SCHEMA_MISMATCH", f"a record is not an object, got {excerpt(record)}")
        for parents, members in steps:
            holder: Any = record
            for parent in parents:
                holder = holder.get(parent) if type(holder) is dict else None
            if type(holder) is dict:
                check_members(holder, members)
            else:
                refuse_holder(holder, members)

    return check_record


def check_members(holder: Record, members: Sequence[Member]) -> None:
    for key, check, field in members:
        value = holder.get(key)
        if value is None:
            if field.required:
                raise missing(field)
        elif not check(value):
            raise wrong(field, value)


def refuse_holder(holder: Any, members: Sequence[Member]) -> None:
    """The object that should hold `members` is absent or is no object."""
    for _, _, field in members:
        if holder is not None:
            raise wrong(Field(field.path[:-1], "object"), holder)
        if field.required:
            raise missing(field)


def missing(field: Field) -> PenstockError:
    return error("MISSING_KEY", f"{'.'.join(field.path)} is required, got nothing")


def wrong(field: Field, value: Any) -> PenstockError:
    return error("WRONG_TYPE", f"{'.'.join(field.path)} should be {field.type}, got {excerpt(value)}")


def excerpt(value: Any) -> str:
    """A value as it may stand in a message: JSON, shortened."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= EXCERPT_LENGTH else text[:EXCERPT_LENGTH] + "..."


def join_key(*parts: Any) -> str:
    """The record key: the parts of the vendor's key joined by U+001F."""
    return KEY_SEPARATOR.join(map(str, parts))


def expect_list(body: Any, *path: str) -> list[Any]:
    """The list at `path` of a body. Raises SCHEMA_MISMATCH."""
    found = find(body, *path)
    if type(found) is not list:
        raise error("SCHEMA_MISMATCH", f"the answer has no list {'.'.join(path)}, got {excerpt(body)}")
    return found


def expect_object(body: Any, *path: str) -> dict[str, Any]:
    """The object at `path` of a body. Raises SCHEMA_MISMATCH."""
    found = find(body, *path)
    if type(found) is not dict:
        raise error("SCHEMA_MISMATCH", f"the answer has no object {'.'.join(path)}, got {excerpt(body)}")
    return found


def find(body: Any, *path: str) -> Any:
    """The value at `path`, None where the way breaks off."""
    for key in path:
        body = body.get(key) if type(body) is dict else None
    return body
