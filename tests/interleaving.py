"""Two sessions in all 70 interleavings of four steps each: begin, a statement, the same again, commit.

The statements commit alone in production; here a transaction is held open around them, so that each meets the other's
uncommitted work. A session that waits for a lock stays behind while the other goes on, as in Postgres' own isolation
tester.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg

from penstock.warehouse.session import Warehouse

ORDERS = ["".join("a" if at in places else "b" for at in range(8)) for places in itertools.combinations(range(8), 4)]
SECONDS = 10.0


class Session(Warehouse):
    """A door with one connection, whose steps run one after the other in a thread that may wait for a lock."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self._only = psycopg.connect(dsn, autocommit=True)
        self._thread = ThreadPoolExecutor(1)
        self.pid = self._only.info.backend_pid

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        yield self._only

    @contextmanager
    def shared_connection(self) -> Iterator[psycopg.Connection[Any]]:
        yield self._only

    def start(self, step: Callable[[], Any]) -> Future[Any]:
        return self._thread.submit(step)

    def close(self) -> None:
        self._thread.shutdown()
        self._only.close()


class Pair:
    """Two sessions, and a third one that sees which of them waits."""

    def __init__(self, dsn: str) -> None:
        self.sessions = {"a": Session(dsn), "b": Session(dsn)}
        self._watcher = psycopg.connect(dsn, autocommit=True)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        for session in self.sessions.values():
            session.close()
        self._watcher.close()

    def run(self, order: str, statements: Mapping[str, Callable[[Session], Any]]) -> dict[str, list[Any]]:
        """What each session's statement answered, both times. Raises what a step raises, TimeoutError for a deadlock.

        order: whose step is next, eight times. statements: by the session's name.
        """
        steps = {name: _steps(self.sessions[name], statements[name]) for name in self.sessions}
        begun: dict[str, list[Future[Any]]] = {name: [] for name in self.sessions}
        for name in order:
            future = self.sessions[name].start(next(steps[name]))
            begun[name].append(future)
            self._until_done_or_waiting(name, future)
        answers = {name: [future.result(SECONDS) for future in futures] for name, futures in begun.items()}
        return {name: answer[1:3] for name, answer in answers.items()}

    def _until_done_or_waiting(self, name: str, future: Future[Any]) -> None:
        deadline = time.monotonic() + SECONDS
        while not future.done() and time.monotonic() < deadline:
            row = self._watcher.execute(
                "select cardinality(pg_blocking_pids(%s)) > 0", [self.sessions[name].pid]
            ).fetchone()
            if row and row[0]:
                return


def _steps(session: Session, statement: Callable[[Session], Any]) -> Iterator[Callable[[], Any]]:
    with session.connection() as connection:
        yield lambda: connection.execute("begin")
        yield lambda: statement(session)
        yield lambda: statement(session)
        yield lambda: connection.execute("commit")
