"""Connections to the warehouse: one per thread, with time-outs, replaced when the server dropped them."""

from __future__ import annotations

import logging
import re
import select
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.rows import TupleRow

log = logging.getLogger(__name__)

Connection = psycopg.Connection[TupleRow]

CONNECT_TIMEOUT_SECONDS = 10
STATEMENT_TIMEOUT_SECONDS = 15 * 60
IDLE_IN_TRANSACTION_SECONDS = 2 * 60  # shorter than a lease: a frozen worker must not block its successor
LOCK_TIMEOUT_SECONDS = 60
PATIENCE_SECONDS = 30.0

_URL = re.compile(r"postgres(ql)?(\+\w+)?://")

# What libpq and the server say while a server restarts, fails over or is full. A wrong password is not among them.
_PASSING = (
    "connection refused",
    "connection reset",
    "server closed the connection",
    "timeout expired",
    "connection timeout",
    "starting up",
    "shutting down",
    "in recovery mode",
    "terminating connection",
    "not yet accepting connections",
    "too many clients",
    "remaining connection slots",
    "could not receive data",
    "eof detected",
)

_SETTINGS = """
select
    set_config('TimeZone', 'UTC', false),
    set_config('statement_timeout', %(statement)s, false),
    set_config('lock_timeout', %(lock)s, false),
    set_config('idle_in_transaction_session_timeout', %(idle)s, false)
where pg_backend_pid() = %(pid)s
"""
_LOCAL_SETTINGS = """
select
    set_config('TimeZone', 'UTC', true),
    set_config('statement_timeout', %(statement)s, true),
    set_config('lock_timeout', %(lock)s, true),
    set_config('idle_in_transaction_session_timeout', %(idle)s, true)
"""


class Warehouse:
    """A door to one Postgres database.

    Parameters
    ----------
    dsn: libpq URL or key-value string.
    application_name: what pg_stat_activity shows.
    statement_timeout: seconds after which the server gives a statement up.
    patience: seconds to go on trying to connect while the server restarts. 0: fail at once.

    Every thread that asks gets a connection of its own, in autocommit mode. Behind a transaction pooler (PgBouncer,
    Supabase's port 6543) sessions have no settings and no prepared statements: there the time-outs are set in each
    `transaction`.
    """

    def __init__(
        self,
        dsn: str,
        *,
        application_name: str = "penstock",
        statement_timeout: float = STATEMENT_TIMEOUT_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.dsn = plain_dsn(dsn)
        self._application_name = application_name
        self._statement_timeout = statement_timeout
        self._patience = patience
        self._local = threading.local()
        self._guard = threading.Lock()
        self._open: set[Connection] = set()
        self._pooled: bool | None = None
        self._shared: Connection | None = None
        self._shared_guard = threading.Lock()

    def __repr__(self) -> str:
        return f"Warehouse({self._application_name!r})"  # the DSN holds a password

    @property
    def is_pooled(self) -> bool:
        """Whether another process answers for the server, as PgBouncer does."""
        if self._pooled is None:
            with self.connection():
                pass
        return bool(self._pooled)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """This thread's connection. Raises psycopg.OperationalError when the server cannot be reached."""
        connection: Connection | None = getattr(self._local, "connection", None)
        # Inside a transaction a broken connection stays: a new one would commit what the transaction takes back.
        in_transaction = getattr(self._local, "depth", 0) > 0
        if connection is None or (not in_transaction and not _is_alive(connection)):
            self._forget(connection)
            connection = self._local.connection = self._connect()
        yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """This thread's connection inside a transaction; a savepoint when one is open already."""
        with self.connection() as connection, connection.transaction():
            if self._pooled:
                connection.execute(_LOCAL_SETTINGS, self._time_outs())
            self._local.depth = getattr(self._local, "depth", 0) + 1
            try:
                yield connection
            finally:
                self._local.depth -= 1

    @contextmanager
    def pipelined_transaction(self) -> Iterator[Connection]:
        """As `transaction`, never inside another one; its statements travel together until a result is fetched.

        Two round trips where `transaction` has one per statement, and one each to begin and to end: for those that
        hold locks which others want. A statement's fault is raised when a result is fetched, or at the end.
        """
        with self.connection() as connection:
            self._local.depth = 1
            try:
                with connection.pipeline():
                    connection.execute("begin")
                    if self._pooled:
                        connection.execute(_LOCAL_SETTINGS, self._time_outs())
                    yield connection
                    connection.execute("commit")
            except BaseException:
                if not connection.closed:
                    connection.rollback()
                raise
            finally:
                self._local.depth = 0

    @contextmanager
    def shared_connection(self) -> Iterator[Connection]:
        """One autocommit connection for all threads, one at a time: for short statements that must commit at once
        even while this thread has a transaction open. Do not begin a transaction on it."""
        with self._shared_guard:
            if self._shared is None or not _is_alive(self._shared):
                self._forget(self._shared)
                self._shared = self._connect()
            yield self._shared

    def run_shared(self, statement: str, parameters: Mapping[str, object]) -> TupleRow | None:
        """Run one statement on the shared connection; its first row, if it returns any.

        When the connection breaks under it, it is sent again on a new one: it may take effect twice.
        """
        for is_last in (False, True):
            try:
                with self.shared_connection() as connection:
                    cursor = connection.execute(statement, parameters)
                    return cursor.fetchone() if cursor.description else None
            except psycopg.OperationalError:
                if is_last or self._shared is None or not self._shared.broken:
                    raise
        return None

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._guard:
            connections, self._open = self._open, set()
        for connection in connections:
            connection.close()

    def __enter__(self) -> Warehouse:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self, connection: Connection | None) -> None:
        if connection is None:
            return
        with self._guard:
            self._open.discard(connection)
        connection.close()

    def _connect(self) -> Connection:
        deadline = time.monotonic() + self._patience
        delay = 0.1
        while True:
            try:
                return self._connect_once()
            except psycopg.OperationalError as refused:
                if time.monotonic() + delay > deadline or not is_passing_refusal(refused):
                    raise
                log.warning("the database does not answer, trying again in %.1f s", delay)
            time.sleep(delay)
            delay = min(delay * 2, 2.0)

    def _connect_once(self) -> Connection:
        connection = psycopg.connect(
            self.dsn,
            autocommit=True,
            application_name=self._application_name[:63],
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
        )
        settings = {**self._time_outs(), "pid": connection.info.backend_pid}
        # A pooler hands out a process id of its own invention: then no row comes back and nothing is set.
        self._pooled = connection.execute(_SETTINGS, settings).fetchone() is None
        if self._pooled:
            connection.prepare_threshold = None
        with self._guard:
            self._open.add(connection)
        return connection

    def _time_outs(self) -> dict[str, str]:
        return {
            "statement": f"{self._statement_timeout * 1000:.0f}",
            "lock": f"{LOCK_TIMEOUT_SECONDS * 1000}",
            "idle": f"{IDLE_IN_TRANSACTION_SECONDS * 1000}",
        }


def is_passing_refusal(refused: psycopg.OperationalError) -> bool:
    """Whether a failed attempt to connect is worth another one in a moment."""
    message = str(refused).lower()
    return any(phrase in message for phrase in _PASSING)


def plain_dsn(dsn: str) -> str:
    """The DSN in the form libpq takes: SQLAlchemy's driver suffix and Prisma's `pgbouncer=true` removed."""
    if not _URL.match(dsn):
        return dsn
    parts = urlsplit(dsn)
    foreign = {"pgbouncer", "schema", "connection_limit", "pool_timeout"}  # Prisma's, refused by libpq
    known = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if key not in foreign]
    return urlunsplit(parts._replace(scheme="postgresql", query=urlencode(known)))


def _is_alive(connection: Connection) -> bool:
    """Whether the server has hung up meanwhile; costs one look at the socket."""
    if connection.closed or connection.broken:
        return False
    try:
        for _ in range(3):  # a farewell, then the end of the stream, which stays readable and makes the next look fail
            if not select.select([connection], [], [], 0)[0]:
                break
            connection.pgconn.consume_input()
    except (psycopg.OperationalError, OSError, ValueError):
        return False
    return not connection.broken
