"""Connections: one per thread, replaced after a drop, never inside a transaction."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.core.errors import InternalError
from penstock.warehouse.failures import classify, is_passing
from penstock.warehouse.session import Warehouse, plain_dsn
from stack.postgres import EmbeddedPostgres, free_port

from .pooler import pooler


def pid(warehouse: Warehouse) -> int:
    with warehouse.connection() as connection:
        return _pid(connection)


def _pid(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("select pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def terminate(dsn: str, victim: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(%s, 5000)", [victim])


def test_a_thread_keeps_its_connection_and_threads_do_not_share_one(warehouse: Warehouse) -> None:
    mine = {pid(warehouse) for _ in range(3)}
    others: list[int] = []
    threads = [threading.Thread(target=lambda: others.append(pid(warehouse))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(mine) == 1
    assert len({*mine, *others}) == 4


def test_settings_of_a_session(warehouse: Warehouse) -> None:
    with warehouse.connection() as connection:
        assert connection.autocommit
        row = connection.execute(
            "select current_setting('TimeZone'), current_setting('statement_timeout'), current_setting('lock_timeout'),"
            " current_setting('idle_in_transaction_session_timeout'), current_setting('application_name')"
        ).fetchone()
    assert row == ("UTC", "15min", "1min", "2min", "penstock-test")


def test_a_connection_that_the_server_ended_is_replaced_unnoticed(warehouse: Warehouse) -> None:
    first = pid(warehouse)
    terminate(warehouse.dsn, first)
    assert pid(warehouse) != first


def test_a_connection_that_breaks_inside_a_transaction_is_not_replaced_there(warehouse: Warehouse) -> None:
    def write_in_two_halves() -> None:
        with warehouse.transaction() as connection:
            connection.execute("create table half (n int)")
            terminate(warehouse.dsn, _pid(connection))
            with warehouse.connection() as same:
                same.execute("create table other_half (n int)")

    with pytest.raises(psycopg.OperationalError):
        write_in_two_halves()
    with warehouse.connection() as connection:
        tables = connection.execute("select to_regclass('half'), to_regclass('other_half')").fetchone()
    assert tables == (None, None)


def test_a_transaction_commits_or_leaves_nothing(warehouse: Warehouse) -> None:
    with warehouse.transaction() as connection:
        connection.execute("create table t (n int)")
        with warehouse.transaction() as inner:
            inner.execute("insert into t values (1)")
            raise psycopg.Rollback
    with warehouse.connection() as connection:
        assert connection.execute("select count(*) from t").fetchone() == (0,)


def test_a_pipelined_transaction_commits_or_leaves_nothing(warehouse: Warehouse) -> None:
    with warehouse.pipelined_transaction() as connection:
        connection.execute("create table t (n int primary key)")
        inserted = connection.execute("insert into t values (1) returning n")
        assert inserted.fetchone() == (1,)
        connection.execute("insert into t values (2)")

    def insert_again() -> None:
        with warehouse.pipelined_transaction() as connection:
            connection.execute("insert into t values (3)")
            connection.execute("insert into t values (1)")  # whose result nobody fetches

    def give_up() -> None:
        with warehouse.pipelined_transaction() as connection:
            connection.execute("insert into t values (4)")
            raise ZeroDivisionError

    with pytest.raises(psycopg.errors.UniqueViolation):
        insert_again()
    with pytest.raises(ZeroDivisionError):
        give_up()
    with warehouse.transaction() as connection:
        assert connection.execute("select array_agg(n order by n) from t").fetchone() == ([1, 2],)


def test_the_statements_of_a_pipelined_transaction_wait_for_nothing_until_a_result_is_fetched(
    warehouse: Warehouse,
) -> None:
    with warehouse.pipelined_transaction() as connection:
        first, second = connection.execute("select 1"), connection.execute("select 2")
        assert (first.pgresult, second.pgresult) == (None, None)
        assert (second.fetchone(), first.fetchone()) == ((2,), (1,))


def test_a_connection_that_breaks_inside_a_pipelined_transaction_is_not_replaced_there(warehouse: Warehouse) -> None:
    def write_in_two_halves() -> None:
        with warehouse.pipelined_transaction() as connection:
            connection.execute("create table half (n int)")
            row = connection.execute("select pg_backend_pid()").fetchone()
            assert row is not None
            terminate(warehouse.dsn, row[0])
            with warehouse.connection() as same:
                same.execute("create table other_half (n int)")

    with pytest.raises(psycopg.OperationalError):
        write_in_two_halves()
    with warehouse.connection() as connection:
        tables = connection.execute("select to_regclass('half'), to_regclass('other_half')").fetchone()
    assert tables == (None, None)


def test_the_shared_connection_commits_although_the_thread_has_a_transaction_open(warehouse: Warehouse) -> None:
    with warehouse.transaction() as connection:
        connection.execute("create table t (n int)")
        with warehouse.shared_connection() as shared:
            shared.execute("create table kept (n int)")
        raise psycopg.Rollback
    with warehouse.connection() as connection:
        found = connection.execute("select to_regclass('t') is null, to_regclass('kept') is null").fetchone()
    assert found == (True, False)


def test_a_server_that_starts_late_is_waited_for(open_folder: Path) -> None:
    port = free_port()
    server = EmbeddedPostgres(open_folder / "postgres", port=port, durable=False)

    def start_soon() -> threading.Timer:
        timer = threading.Timer(0.3, server.start)
        timer.start()
        return timer

    try:
        with Warehouse(f"postgresql://penstock@127.0.0.1:{port}/postgres", patience=30) as warehouse:
            starter = start_soon()
            assert pid(warehouse) > 0
            starter.join()
            server.kill()
            starter = start_soon()
            assert pid(warehouse) > 0
            starter.join()
    finally:
        server.stop(immediate=True)


def test_without_patience_a_server_that_is_away_fails_at_once() -> None:
    began = time.monotonic()
    warehouse = Warehouse(f"postgresql://penstock@127.0.0.1:{free_port()}/postgres", patience=0)
    with pytest.raises(psycopg.OperationalError) as caught:
        pid(warehouse)
    assert time.monotonic() - began < 2
    assert classify(caught.value).code == "DB_UNAVAILABLE"


def test_an_unknown_database_fails_at_once_whatever_the_patience(postgres_server: EmbeddedPostgres) -> None:
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError):
        pid(Warehouse(postgres_server.dsn("nowhere"), patience=60))
    assert time.monotonic() - began < 5


def test_close_ends_the_connections_of_all_threads(warehouse: Warehouse) -> None:
    pids = [pid(warehouse)]
    thread = threading.Thread(target=lambda: pids.append(pid(warehouse)))
    thread.start()
    thread.join()
    warehouse.close()
    with psycopg.connect(warehouse.dsn) as connection:
        deadline = time.monotonic() + 5
        left = 1
        while left and time.monotonic() < deadline:
            row = connection.execute("select count(*) from pg_stat_activity where pid = any(%s)", [pids]).fetchone()
            left = row[0] if row else 0
            connection.rollback()
    assert left == 0


def test_a_password_does_not_show(fresh_database: str) -> None:
    assert "hunter2" not in repr(Warehouse("postgresql://user:hunter2@host/database"))


def test_behind_a_transaction_pooler_time_outs_hold_in_transactions_and_nothing_is_prepared(
    fresh_database: str,
) -> None:
    with pooler(fresh_database, is_transaction_mode=True) as dsn, Warehouse(dsn, statement_timeout=7) as warehouse:
        assert warehouse.is_pooled
        with warehouse.connection() as connection:
            assert connection.execute("select current_setting('statement_timeout')").fetchone() == ("0",)
            for _ in range(10):
                connection.execute("select %s::int", [1])
            assert connection.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)
        for begin in (warehouse.transaction, warehouse.pipelined_transaction):
            with begin() as connection:
                assert connection.execute("select current_setting('statement_timeout')").fetchone() == ("7s",)


def test_a_direct_connection_is_not_taken_for_a_pooled_one(warehouse: Warehouse) -> None:
    assert not warehouse.is_pooled


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("postgresql+psycopg2://u:p@h:1/d", "postgresql://u:p@h:1/d"),
        ("postgres://u:p%40@h/d?sslmode=require&pgbouncer=true", "postgresql://u:p%40@h/d?sslmode=require"),
        ("host=h password=a://b dbname=d", "host=h password=a://b dbname=d"),
    ],
)
def test_urls_of_other_tools_are_understood(given: str, plain: str) -> None:
    assert plain_dsn(given) == plain


@pytest.mark.parametrize(
    ("statement", "code", "passes"),
    [
        ("select * from nowhere", "MIGRATION_PENDING", False),
        ("select nothing from penstock.slices", "MIGRATION_PENDING", False),
        ("select 1 / 0", "DB_WRITE_ERROR", False),
        ("do $$ begin raise exception 'x' using errcode = '40001'; end $$", "DB_WRITE_ERROR", True),
        ("do $$ begin raise exception 'x' using errcode = '53300'; end $$", "DB_UNAVAILABLE", True),
        ("do $$ begin raise exception 'x' using errcode = '57P01'; end $$", "DB_UNAVAILABLE", True),
    ],
)
def test_a_database_error_becomes_the_code_that_tells_what_to_do(
    warehouse: Warehouse, statement: str, code: str, passes: bool
) -> None:
    with warehouse.connection() as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute(statement)
    assert classify(caught.value).code == code
    assert is_passing(caught.value) is passes


def test_the_rows_that_an_error_quotes_do_not_get_into_its_message(warehouse: Warehouse) -> None:
    with warehouse.connection() as connection:
        connection.execute("create table t (secret text unique); insert into t values ('hunter2')")
        with pytest.raises(psycopg.Error) as caught:
            connection.execute("insert into t values ('hunter2')")
    failure = classify(caught.value)
    assert isinstance(failure, InternalError)
    assert failure.context == {"sqlstate": "23505"}
    assert "hunter2" not in str(failure)
