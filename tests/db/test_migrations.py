"""The migration runner: once, in order, one process at a time, with errors that name file and line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.core.databases import DSN_VARIABLES
from penstock.core.errors import PenstockError
from penstock.warehouse.migrations import main, migrate, pending, view_files

Connection = psycopg.Connection[Any]
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file of the set `demo`; the set `ops` is the project's own."""
    from penstock.warehouse.queries import sql_root

    (tmp_path / "ops").symlink_to(sql_root() / "ops")
    monkeypatch.setenv("PENSTOCK_SQL_DIR", str(tmp_path))

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / "demo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_file


@pytest.fixture
def database(empty_database: str) -> Iterator[Connection]:
    with psycopg.connect(empty_database, autocommit=True, options="-c search_path=public") as connection:
        yield connection


SETS = ("ops", "demo")


def labels(database: Connection | str) -> list[str]:
    return [file.label for file in migrate(database, SETS) if file.set_name == "demo"]


def test_each_file_is_applied_once_and_in_order(database: Connection, write: Write) -> None:
    write("migrations/0002_fill_t.sql", "insert into t values (1);")
    write("migrations/0001_create_t.sql", "create table t (n int);")
    assert labels(database) == ["demo/migrations/0001_create_t.sql", "demo/migrations/0002_fill_t.sql"]
    assert labels(database) == []
    assert database.execute("select n from t").fetchall() == [(1,)]
    ledger = database.execute(
        "select version, name from penstock.migrations where \"set\" = 'demo' order by 1"
    ).fetchall()
    assert ledger == [(1, "create_t"), (2, "fill_t")]


def test_pending_tells_what_is_missing_and_changes_nothing(database: Connection, write: Write) -> None:
    write("migrations/0001_create_t.sql", "create table t (n int);")
    write("views/v.sql", "create view v as select n from t;")
    missing = [file.label for file in pending(database, ("demo",))]
    assert missing == ["demo/migrations/0001_create_t.sql", "demo/views/v.sql"]
    assert database.execute("select to_regclass('penstock.migrations')").fetchone() == (None,)
    migrate(database, SETS)
    assert pending(database, SETS) == []


def test_a_landed_file_that_changed_is_named_and_nothing_runs(database: Connection, write: Write) -> None:
    path = write("migrations/0001_create_t.sql", "create table t (n int);\n")
    migrate(database, SETS)
    path.write_bytes(b"create table t (n int);\r\n")
    assert labels(database) == []  # line ends do not count
    path.write_text("create table t (n bigint);")
    write("migrations/0002_more.sql", "create table u (n int);")
    with pytest.raises(PenstockError, match=r"demo/migrations/0001_create_t\.sql has changed since it was applied"):
        migrate(database, SETS)
    with pytest.raises(PenstockError, match=r"has changed .*`make reset` deletes an embedded warehouse"):
        pending(database, SETS)
    assert database.execute("select to_regclass('u')").fetchone() == (None,)


def test_an_error_names_file_and_line_and_leaves_nothing_of_the_file(database: Connection, write: Write) -> None:
    write("migrations/0001_good.sql", "create table t (n int);")
    write("migrations/0002_bad.sql", "-- why\ncreate table u (n int);\n\ninsert into t\nvalues (1),\n  (nothing);\n")
    with pytest.raises(PenstockError, match=r"demo/migrations/0002_bad\.sql, line 6: column \"nothing\" does not"):
        migrate(database, SETS)
    assert database.execute("select to_regclass('t') is null, to_regclass('u') is null").fetchone() == (False, True)


def test_an_error_inside_a_block_names_the_line_on_which_the_block_begins(database: Connection, write: Write) -> None:
    write("migrations/0001_block.sql", "select 1;\n\ndo $$\nbegin\n  perform 1 / 0;\nend $$;")
    with pytest.raises(PenstockError, match=r"0001_block\.sql, line 3: division by zero; .*PL/pgSQL .* line 3"):
        migrate(database, SETS)


@pytest.mark.parametrize("name", ["1_short.sql", "0001-dash.sql", "0001_Upper.sql"])
def test_a_wrong_file_name_is_refused(database: Connection, write: Write, name: str) -> None:
    write(f"migrations/{name}", "select 1;")
    with pytest.raises(PenstockError, match="NNNN_verb_noun"):
        migrate(database, SETS)


def test_a_version_used_twice_is_refused(database: Connection, write: Write) -> None:
    write("migrations/0001_one.sql", "select 1;")
    write("migrations/0001_other.sql", "select 1;")
    with pytest.raises(PenstockError, match="version 1 is taken by 0001_one"):
        migrate(database, SETS)


def test_an_unknown_set_is_refused(database: Connection, write: Write) -> None:
    with pytest.raises(PenstockError, match="no migration set nowhere"):
        migrate(database, ("nowhere",))


def test_processes_that_migrate_at_once_apply_each_file_once(empty_database: str, write: Write) -> None:
    write("migrations/0001_create_t.sql", "create table t (n int); select pg_sleep(0.2);")
    write("migrations/0002_fill_t.sql", "insert into t values (1); select pg_sleep(0.2);")
    write("views/v.sql", "create view v as select n from t;")
    applied: list[list[str]] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        applied.append(labels(empty_database))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(applied) == 4
    assert sorted(label for each in applied for label in each) == [
        "demo/migrations/0001_create_t.sql",
        "demo/migrations/0002_fill_t.sql",
        "demo/views/v.sql",
    ]
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("select n from v").fetchall() == [(1,)]


# -- views --------------------------------------------------------------------------------------------------------


def test_views_are_applied_after_those_they_read(write: Write) -> None:
    write("views/a.sql", "-- after: b, c\ncreate view a as select n from b;")
    write("views/b.sql", "-- after: c\ncreate view b as select n from c;")
    write("views/c.sql", "create view c as select 1 as n;")
    assert [view.name for view in view_files("demo")] == ["c", "b", "a"]


def test_views_that_read_each_other_or_an_unknown_one_are_refused(write: Write) -> None:
    write("views/a.sql", "-- after: b\ncreate view a as select 1 as n;")
    with pytest.raises(PenstockError, match="no view file b"):
        view_files("demo")
    write("views/b.sql", "-- after: a\ncreate view b as select 1 as n;")
    with pytest.raises(PenstockError, match="read each other"):
        view_files("demo")


def test_a_view_is_applied_again_when_its_text_changes_and_only_then(database: Connection, write: Write) -> None:
    write("views/v.sql", "create or replace view v as select 1 as n;")
    assert labels(database) == ["demo/views/v.sql"]
    assert labels(database) == []
    write("views/v.sql", "create or replace view v as select 2 as n;")
    assert labels(database) == ["demo/views/v.sql"]
    assert database.execute("select n from v").fetchall() == [(2,)]


@pytest.mark.parametrize("create", ["create or replace view", "create view"])
def test_a_view_with_other_columns_replaces_the_old_one_and_its_readers_survive(
    database: Connection, write: Write, create: str
) -> None:
    database.execute("create role reader_of_views nologin")
    write("views/v.sql", f"{create} v as select 1 as n, 2 as gone;")
    migrate(database, SETS)
    database.execute("create view reader as select n + 1 as m from v")
    database.execute("create view second_reader as select m from reader")
    database.execute("create view of_gone as select gone from v")
    database.execute("grant select on reader to reader_of_views with grant option; comment on view reader is 'mine'")
    write("views/v.sql", f"{create} v as select 'new'::text as label, 10 as n;")
    try:
        migrate(database, SETS)
        assert database.execute("select m from second_reader").fetchall() == [(11,)]
        assert database.execute("select obj_description('reader'::regclass)").fetchall() == [("mine",)]
        granted = "select has_table_privilege('reader_of_views', 'reader', 'select with grant option')"
        assert database.execute(granted).fetchall() == [(True,)]
        ((name, problem),) = database.execute("select view_name, problem from penstock.views_set_aside").fetchall()
        assert name == "public.of_gone"
        assert "gone" in problem
    finally:
        database.execute("drop owned by reader_of_views; drop role reader_of_views")


def test_a_view_that_changes_in_place_keeps_its_grants(database: Connection, write: Write) -> None:
    database.execute("create role reader_of_views nologin")
    write("views/v.sql", "create or replace view v as select 1 as n;")
    migrate(database, SETS)
    database.execute("grant select on v to reader_of_views")
    write("views/v.sql", "create or replace view v as select 2 as n, 'more'::text as label;")
    try:
        migrate(database, SETS)
        assert database.execute("select has_table_privilege('reader_of_views', 'v', 'select')").fetchall() == [(True,)]
    finally:
        database.execute("drop owned by reader_of_views; drop role reader_of_views")


def test_when_one_view_fails_all_stay_as_they_were(database: Connection, write: Write) -> None:
    write("views/a.sql", "create or replace view a as select 1 as n;")
    migrate(database, SETS)
    write("views/a.sql", "create or replace view a as select 2 as n;")
    write("views/b.sql", "create or replace view b as\nselect nothing from nowhere;")
    with pytest.raises(PenstockError, match=r"demo/views/b\.sql, line 2: relation \"nowhere\" does not exist"):
        migrate(database, SETS)
    assert database.execute("select n from a").fetchall() == [(1,)]


def test_a_column_changes_its_type_under_views_that_read_it(database: Connection, write: Write) -> None:
    write("migrations/0001_create_t.sql", "create table t (n int, m int); insert into t values (1, 2);")
    migrate(database, SETS)
    database.execute("create view lower_view as select n from t")
    database.execute("create materialized view upper_view as select n + 1 as n from lower_view")
    database.execute("create index upper_index on upper_view (n)")
    write(
        "migrations/0002_widen.sql",
        "select penstock.set_aside_views('t'); alter table t alter n type bigint; select penstock.restore_views();",
    )
    migrate(database, SETS)
    assert database.execute("select n from upper_view").fetchall() == [(2,)]
    assert database.execute("select to_regclass('upper_index') is not null").fetchone() == (True,)
    assert database.execute("select pg_typeof(n)::text from lower_view").fetchone() == ("bigint",)


# -- the command --------------------------------------------------------------------------------------------------


def test_the_command_prints_what_it_applied(
    empty_database: str, write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("migrations/0001_create_t.sql", "create table t (n int);")
    monkeypatch.setenv("PENSTOCK_WAREHOUSE_DSN", empty_database)
    assert main(["--sets", *SETS, "--pending"]) == 1
    assert "pending demo/migrations/0001_create_t.sql\n" in capsys.readouterr().out
    assert main(["--sets", *SETS]) == 0
    assert "applied demo/migrations/0001_create_t.sql\n" in capsys.readouterr().out
    assert main(["--sets", *SETS]) == 0
    assert capsys.readouterr().out == "nothing to apply\n"
    assert main(["--sets", *SETS, "--pending"]) == 0


def test_the_command_says_what_failed_and_what_to_do_without_the_password(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dsn", "postgresql://user:hunter2@127.0.0.1:1/nowhere", "--sets", "ops"]) == 2
    said = capsys.readouterr().err
    assert "DB_UNAVAILABLE" in said
    assert "hunter2" not in said


def test_the_command_without_a_database_says_how_to_name_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in DSN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        main([])
    assert "PENSTOCK_WAREHOUSE_DSN" in capsys.readouterr().err
