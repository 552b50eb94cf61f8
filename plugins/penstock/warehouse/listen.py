"""LISTEN as an async generator that survives what happens to connections."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from penstock.warehouse.session import plain_dsn

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 30.0
"""A connection that died without a word is found out after this time."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
ECHO_SECONDS = 3.0

AsyncConnection = psycopg.AsyncConnection[TupleRow]


async def listen(dsn: str, channel: str) -> AsyncIterator[str]:
    """Yields whenever there may be something to do: at the start, after every reconnect ("connected"), and for
    notifications on `channel` ("notified"); those that come together are one.

    What is notified while the connection is away is lost, hence the yield after a reconnect, and hence the rule that
    consumers look at the table and never at a payload. Behind a transaction pooler no notification ever arrives: that
    is said once, and after the first yield the generator waits for ever; a regular sweep must do the work there.

    Never raises for a database that is away. Raises psycopg.OperationalError at the first connect only, for a wrong
    DSN or password.
    """
    plain = plain_dsn(dsn)
    pause = 0.0
    has_connected = False
    while True:
        try:
            async with await _connect(plain) as connection:
                await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
                deaf = await _is_deaf(connection, plain)
                has_connected, pause = True, 0.0
                yield "connected"
                if deaf:
                    log.warning("a transaction pooler passes no notifications from the database: sweep only")
                    await asyncio.Event().wait()
                async for _ in _notifications(connection):
                    yield "notified"
        except (psycopg.OperationalError, TimeoutError) as lost:
            if not has_connected:
                raise
            pause = min(max(pause * 2, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            log.warning("listening on %s stopped (%s), again in %.1f s", channel, type(lost).__name__, pause)
        await asyncio.sleep(pause)


async def _connect(dsn: str) -> AsyncConnection:
    return await psycopg.AsyncConnection.connect(
        dsn,
        autocommit=True,
        prepare_threshold=None,
        application_name="penstock-listen",
        connect_timeout=10,
        keepalives_idle=30,
        keepalives_interval=10,
        keepalives_count=3,
    )


async def _notifications(connection: AsyncConnection) -> AsyncIterator[None]:
    """One item per burst of notifications. Raises psycopg.OperationalError or TimeoutError when the server is gone."""
    while True:
        came = False
        async for _ in connection.notifies(timeout=HEARTBEAT_SECONDS, stop_after=1):
            came = True
        if came:
            async for _ in connection.notifies(timeout=0):  # the rest of the burst
                pass
            yield
        else:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                await connection.execute("select 1")


async def _is_deaf(connection: AsyncConnection, dsn: str) -> bool:
    """Whether notifications do not reach this connection.

    A pooler gives its clients process ids of its own invention; that much is cheap to see. Whether it is one that
    keeps our session (Supabase's port 5432) shows only when a notification from elsewhere arrives.
    """
    row = await (await connection.execute("select pg_backend_pid()")).fetchone()
    if row is not None and row[0] == connection.info.backend_pid:
        return False
    echo = f"penstock_echo_{secrets.token_hex(6)}"
    await connection.execute(sql.SQL("listen {}").format(sql.Identifier(echo)))
    async with await _connect(dsn) as other:
        await other.execute(sql.SQL("notify {}").format(sql.Identifier(echo)))
    heard = False
    async for notification in connection.notifies(timeout=ECHO_SECONDS, stop_after=1):
        heard = notification.channel == echo
    await connection.execute(sql.SQL("unlisten {}").format(sql.Identifier(echo)))
    return not heard
