"""What a Postgres does to its clients on a bad day."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import psutil
import psycopg

from stack.postgres import EmbeddedPostgres

FREEZE_S, CROWDED_S = 5.0, 3.0
FAILING_SHARE = 0.02

_TERMINATE = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() order by random() limit 1
"""


def disturb(server: EmbeddedPostgres, dsn: str, rng: random.Random) -> str:
    """One blow: mostly the end of somebody's session, seldom a restart, a freeze, a server that is full. Its name."""
    dice = rng.random()
    if dice < 0.02:
        server.stop(immediate=True)
        server.start()
        return "restart"
    if dice < 0.03:
        freeze(server)
        return "freeze"
    if dice < 0.04:
        crowd(dsn)
        return "crowd"
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_TERMINATE)
    return "terminate"


def freeze(server: EmbeddedPostgres) -> None:
    """Nothing of the server moves for some seconds."""
    postmaster = psutil.Process(server.pid)
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    time.sleep(FREEZE_S)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)


def crowd(dsn: str) -> None:
    """Every connection that the server has is taken."""
    with contextlib.ExitStack() as taken:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                taken.enter_context(psycopg.connect(dsn, autocommit=True, connect_timeout=5))
        time.sleep(CROWDED_S)


@contextlib.contextmanager
def failing_statements(store: type, method: str, rng: random.Random) -> Iterator[None]:
    """Some of a store's statements are taken back by the server, or their answer is lost.

    method: the store's one that is given each statement as a function to call.
    """
    real = getattr(store, method)

    def patched(self: Any, statement: Callable[..., Any]) -> Any:
        def failing(*args: Any) -> Any:
            if rng.random() < FAILING_SHARE:
                raise rng.choice([psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected])("injected")
            answer = statement(*args)
            if rng.random() < FAILING_SHARE / 2:
                raise psycopg.errors.AdminShutdown("injected: it took effect, and nobody was told")
            return answer

        return real(self, failing)

    with mock.patch.object(store, method, patched):
        yield
