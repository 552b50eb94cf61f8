"""The cluster of our own: made once, resumed with its data, never somebody else's, never left behind."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from stack import postgres
from stack.postgres import SHARED_STATE, EmbeddedPostgres, PostgresError, free_port

Make = Callable[..., EmbeddedPostgres]


@pytest.fixture
def make(open_folder: Path) -> Iterator[Make]:
    made: list[EmbeddedPostgres] = []

    def make_one(name: str = "postgres", **options: Any) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(open_folder / name, **{"durable": False, **options}))
        return made[-1]

    yield make_one
    for each in made:
        each.stop(immediate=True)
        if SHARED_STATE in each.data_dir.parents:
            shutil.rmtree(each.data_dir.parent, ignore_errors=True)


def ask(dsn: str, statement: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else None


def test_a_second_start_resumes_with_the_data_and_a_running_one_is_taken_as_it_is(make: Make) -> None:
    first = make(password="s'e@c/r:et%").start()
    dsn = first.create_database("things")
    ask(dsn, "create table t (n int)")
    second = make(password="s'e@c/r:et%").start()
    assert (second.pid, second.port) == (first.pid, first.port)
    pid = first.pid
    second.stop()
    assert not first.running
    resumed = make(password="s'e@c/r:et%").start()
    assert resumed.pid != pid
    assert ask(resumed.create_database("things"), "select count(*) from t") == [(0,)]


def test_a_password_is_asked_for(make: Make) -> None:
    server = make(password="right").start()
    wrong = server.dsn().replace("right", "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask(wrong, "select 1")
    with pytest.raises(PostgresError, match="refuses us"):
        make(password="wrong").start()


def test_settings_are_those_asked_for(make: Make) -> None:
    server = make(durable=True, settings={"max_connections": "33", "log_line_prefix": "it's %m "}).start()
    asked = "select current_setting('fsync'), current_setting('max_connections'), current_setting('log_line_prefix'),"
    rows = ask(server.dsn(), f"{asked} current_setting('listen_addresses'), current_setting('TimeZone')")
    assert rows == [("on", "33", "it's %m ", "127.0.0.1", "UTC")]


def test_a_throw_away_server_does_not_sync(make: Make) -> None:
    assert ask(make().start().dsn(), "select current_setting('fsync')") == [("off",)]


def test_a_port_that_is_taken_is_an_error_and_nobody_elses_server_is_used(
    make: Make, postgres_server: EmbeddedPostgres
) -> None:
    with pytest.raises(PostgresError, match=f"did not start on port {postgres_server.port}"):
        make(port=postgres_server.port).start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PostgresError, match=f"did not start on port {port}"):
            make("other", port=port).start()


def test_a_wanted_port_is_used(make: Make) -> None:
    port = free_port()
    assert make(port=port).start().port == port


def test_after_kill_9_it_starts_again_with_what_was_committed(make: Make) -> None:
    server = make(durable=True).start()
    ask(server.dsn(), "create table t (n int); insert into t values (1)")
    server.kill()
    assert not server.running
    server.start()
    assert ask(server.dsn(), "select n from t") == [(1,)]


@pytest.fixture
def confused(make: Make) -> tuple[EmbeddedPostgres, EmbeddedPostgres]:
    """A server, and a killed one whose pid file names the first one's process, as it can after a reboot."""
    other, killed = make("other").start(), make("killed").start()
    pid_file = killed.data_dir / "postmaster.pid"
    lines = pid_file.read_text().splitlines(keepends=True)
    killed.kill()
    pid_file.write_text("".join([f"{other.pid}\n", *lines[1:]]))
    return other, killed


def test_nobody_elses_server_is_stopped_for_a_pid_file_that_names_it(
    confused: tuple[EmbeddedPostgres, EmbeddedPostgres],
) -> None:
    other, killed = confused
    assert not killed.running
    killed.stop()
    killed.kill()
    assert ask(other.dsn(), "select 1") == [(1,)]


def test_it_starts_although_its_pid_file_names_somebody_elses_server(
    confused: tuple[EmbeddedPostgres, EmbeddedPostgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, killed = confused
    monkeypatch.setattr(postgres, "COLLECT_SECONDS", 0.2)
    killed.start()
    assert killed.pid != other.pid
    assert ask(killed.dsn(), "select 1") == ask(other.dsn(), "select 1") == [(1,)]


def test_where_it_is_hidden_in_which_folder_a_server_works_its_command_line_tells(
    confused: tuple[EmbeddedPostgres, EmbeddedPostgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(process: psutil.Process) -> str:
        raise psutil.AccessDenied(process.pid)

    other, killed = confused
    monkeypatch.setattr(psutil.Process, "cwd", hidden)
    assert other.running
    assert not killed.running


def test_processes_that_start_it_at_once_get_one_server(make: Make, open_folder: Path) -> None:
    servers = [make() for _ in range(4)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({server.pid for server in servers}) == 1
    assert servers[0].running


def test_a_start_that_was_cut_off_leaves_nothing_in_the_way(make: Make, open_folder: Path) -> None:
    (open_folder / "postgres.new").mkdir()
    (open_folder / "postgres.new" / "rubbish").write_text("")
    assert make().start().running
    assert not (open_folder / "postgres.new").exists()


def test_a_folder_with_something_else_in_it_is_not_touched(make: Make, open_folder: Path) -> None:
    (open_folder / "postgres").mkdir()
    (open_folder / "postgres" / "thesis.txt").write_text("do not delete")
    with pytest.raises(OSError, match="not empty"):
        make().start()
    assert (open_folder / "postgres" / "thesis.txt").read_text() == "do not delete"


def test_data_of_another_version_are_refused_with_what_to_do(make: Make, open_folder: Path) -> None:
    server = make().start()
    server.stop()
    (open_folder / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresError, match="made by Postgres 9"):
        server.start()


def test_names_of_databases_need_no_care(make: Make) -> None:
    server = make().start()
    dsn = server.create_database('odd "name"/?')
    assert ask(dsn, "select current_database()") == [('odd "name"/?',)]
    assert server.create_database('odd "name"/?') == dsn
    server.drop_database('odd "name"/?')
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        ask(dsn, "select 1")


def test_before_the_start_there_is_no_port(make: Make) -> None:
    with pytest.raises(PostgresError, match="call start"):
        make().dsn()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_below_a_closed_home_the_data_live_elsewhere_and_it_says_so(make: Make, open_folder: Path) -> None:
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    server = make("home/.penstock/postgres").start()
    assert server.note is not None
    assert str(server.data_dir) in server.note
    link = home / ".penstock" / "postgres"
    assert link.resolve() == server.data_dir
    ask(server.dsn(), "create table t (n int)")
    server.stop()
    resumed = make("home/.penstock/postgres").start()
    assert ask(resumed.dsn(), "select count(*) from t") == [(0,)]
    resumed.stop()
    link.unlink()
    anew = make("home/.penstock/postgres").start()
    assert ask(anew.dsn(), "select to_regclass('t')") == [(None,)]
