"""Named queries, and the cutting of scripts into statements."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.core.errors import PenstockError
from penstock.warehouse import queries
from penstock.warehouse.statements import split


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_SQL_DIR", str(tmp_path))
    (tmp_path / "demo" / "transform").mkdir(parents=True)
    return tmp_path / "demo"


def test_the_blocks_of_a_file_are_found_by_name(folder: Path) -> None:
    (folder / "queries.sql").write_text("-- a comment\n-- name: one\nselect 1;\n\n-- name: two\n-- why\nselect 2\n")
    assert dict(queries.load("demo")) == {"one": "select 1;", "two": "-- why\nselect 2"}


def test_a_name_used_twice_is_refused(folder: Path) -> None:
    (folder / "queries.sql").write_text("-- name: one\nselect 1\n-- name: one\nselect 2\n")
    with pytest.raises(PenstockError, match="used twice: one"):
        queries.load("demo")


def test_a_missing_file_says_what_to_set(folder: Path) -> None:
    with pytest.raises(PenstockError, match="PENSTOCK_SQL_DIR"):
        queries.transform("demo", "nothing")


def test_the_queries_of_the_project_are_found_relative_to_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_SQL_DIR", raising=False)
    assert (queries.sql_root() / "platform_etl" / "migrations").is_dir()


def texts(script: str) -> list[str]:
    return [statement.text for statement in split(script)]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("select 1; select 2;", ["select 1", "select 2"]),
        ("select 1", ["select 1"]),
        (";;  ; -- only a comment\n/* and ; another */", []),
        ("select ';'; select \"a;b\"", ["select ';'", 'select "a;b"']),
        ("select 'it''s;'; select 2", ["select 'it''s;'", "select 2"]),
        ("select e'it\\'s;'; select 2", ["select e'it\\'s;'", "select 2"]),
        ("select $$a;b$$; select $x$ $$;$$ $x$", ["select $$a;b$$", "select $x$ $$;$$ $x$"]),
        ("select $1; select a$b; select c$b", ["select $1", "select a$b", "select c$b"]),
        ("-- a; b\nselect 1 -- c; d\n; select 2", ["select 1", "select 2"]),
        ("select /* a; /* b; */ c; */ 1; select 2", ["select /* a; /* b; */ c; */ 1", "select 2"]),
        ("select 4/2-1; select -1", ["select 4/2-1", "select -1"]),
    ],
)
def test_a_semicolon_ends_a_statement_only_outside_of_quotes_and_comments(script: str, expected: list[str]) -> None:
    assert texts(script) == expected


def test_statements_know_their_lines() -> None:
    first, second = split("-- why\n\nselect 1;\n\n/* a\nb */ select 2,\n  nothing;\n")
    assert (first.line, second.line) == (3, 6)
    assert second.line_of(second.text.index("nothing") + 1) == 7


def test_a_function_body_without_quotes_is_refused_with_its_line() -> None:
    with pytest.raises(PenstockError, match=r"line 2: quote .* \$\$"):
        split("select 1;\ncreate function f() returns int begin atomic select 1; end")
