"""The SQL that the documentation gives people runs on a migrated database."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from penstock.warehouse.session import Warehouse

pytestmark = pytest.mark.db

PROJECT = Path(__file__).resolve().parents[2]
# What stands in the guide to a new source are parts of statements.
PAGES = [
    page
    for page in (PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md")))
    if page.name != "adding_a_source.md"
]

_BLOCK = re.compile(r"^```sql\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ANY_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:select [^`]+|update [^`]+ set |delete from |insert into [^`]+ values )[^`]*)`")


def statements(text: str) -> list[str]:
    """Whole blocks and whole statements inside a line; `...` stands for something that only the reader knows."""
    found = [*_BLOCK.findall(text), *_INLINE.findall(_ANY_BLOCK.sub("", text))]
    return [statement for statement in found if "..." not in statement]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_statement_of_a_page_runs(page: Path, request: pytest.FixtureRequest) -> None:
    found = statements(page.read_text(encoding="utf-8"))
    if not found:
        return
    warehouse: Warehouse = request.getfixturevalue("warehouse")
    refused = []
    with warehouse.connection() as connection:
        for statement in found:
            try:
                with connection.transaction(force_rollback=True):
                    connection.execute(statement)  # type: ignore[call-overload]
            except psycopg.Error as error:
                refused.append(f"{statement}: {error}")
    assert refused == []


def test_the_pages_have_statements_to_run() -> None:
    assert len([each for page in PAGES for each in statements(page.read_text(encoding="utf-8"))]) > 20
