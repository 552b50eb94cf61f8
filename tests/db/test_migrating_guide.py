"""docs/migrating.md: the SQL that it tells people to run can be run."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from penstock.warehouse.session import Warehouse
from penstock.warehouse.statements import split

pytestmark = pytest.mark.db

TEXT = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text(encoding="utf-8")
QUERIES = [statement.text for block in re.findall(r"```sql\n(.*?)```", TEXT, re.S) for statement in split(block)]
UPDATES = re.findall(r"`(update [^`]+)`", TEXT)


def test_every_statement_of_the_guide_can_be_run(warehouse: Warehouse) -> None:
    assert len(QUERIES) >= 12
    assert len(UPDATES) >= 3
    failures = []
    with warehouse.connection() as connection:
        for statement in [*QUERIES, *UPDATES]:
            try:
                connection.execute(statement)
            except psycopg.Error as failure:
                failures.append(f"{statement}: {failure}")
    assert failures == []
