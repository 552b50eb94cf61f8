"""A case is a folder `cases/<subject>/<case>/`: given.yaml, rows before; expect.yaml, rows after.

given.yaml
    shops:     {<shop_id>: {currency, time_zone}}
    accounts:  {<alias>: {platform, account_id, shop_id, time_zone, currency, ...columns}}
    tables:    {<table>: [rows]}                 rows that no transform writes
    runs:      [{account, windows: {<stream>: [first day, last day] or "listing"}, complete, flags,
                 staged: {<stream>: [vendor records]}, withdrawn: [streams]}]     one after the other
expect.yaml
    <table or view>: [rows]                      all of its rows, in any order, in the columns that the rows name

`connection_id` is written as the account's alias.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import sql

from tests.sql.model import Model, Window, connection_id

CASES = sorted(path.parent for path in (Path(__file__).parent / "cases").glob("*/*/given.yaml"))

pytestmark = pytest.mark.db


@pytest.mark.parametrize("case", CASES, ids=[f"{case.parent.name}/{case.name}" for case in CASES])
def test_given_rows_give_expected_rows(case: Path, connect: Callable[[], psycopg.Connection[Any]]) -> None:
    model = Model(connect())
    given = yaml.safe_load((case / "given.yaml").read_text(encoding="utf-8"))
    expected = yaml.safe_load((case / "expect.yaml").read_text(encoding="utf-8"))
    prepare(model, given)
    for relation, rows in expected.items():
        columns = list(dict.fromkeys(column for row in rows for column in row)) or ["*"]
        assert as_text(model, found(model, relation, columns), columns) == as_text(model, rows, columns), relation


def test_there_are_cases() -> None:
    assert len(CASES) >= 10


def prepare(model: Model, given: Mapping[str, Any]) -> None:
    for shop_id, shop in given.get("shops", {}).items():
        model.add_shop(shop_id, **shop)
    for alias, account in given.get("accounts", {}).items():
        columns = dict(account)
        model.add_account(alias, columns.pop("platform"), **columns)
    for table, rows in given.get("tables", {}).items():
        model.insert(table, [with_connection(row) for row in rows])
    for run in given.get("runs", []):
        for stream, records in run.get("staged", {}).items():
            model.stage(run["account"], stream, records)
        for stream in run.get("withdrawn", []):
            model.withdraw(run["account"], stream)
        windows = {stream: as_window(window) for stream, window in run["windows"].items()}
        model.transform(run["account"], windows, flags=run.get("flags"), complete=run.get("complete", True))


def with_connection(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: connection_id(value) if key == "connection_id" else value for key, value in row.items()}


def as_window(window: Any) -> Window:
    return None if window == "listing" else (window[0], window[1])


def found(model: Model, relation: str, columns: list[str]) -> list[dict[str, Any]]:
    listed = sql.SQL("*") if columns == ["*"] else sql.SQL(", ").join(map(sql.Identifier, columns))
    query = sql.SQL("select {} from {}").format(listed, sql.Identifier(*relation.split(".")))
    return model.rows(query.as_string(model.conn))


def as_text(model: Model, rows: list[dict[str, Any]], columns: list[str]) -> list[dict[str, str]]:
    """Rows that can be compared and read: every value as text, sorted."""
    normal = [{column: one_text(model, row.get(column)) for column in columns} for row in rows]
    return sorted(normal, key=lambda row: [row[column] for column in columns])


def one_text(model: Model, value: Any) -> str:
    if isinstance(value, uuid.UUID):
        return model.alias_of(str(value))
    if isinstance(value, bool) or value is None:
        return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)
    if isinstance(value, int | float | Decimal):
        return f"{Decimal(str(value)).normalize():f}"
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat()
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)
