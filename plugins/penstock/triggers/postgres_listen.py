"""Starts a DAG when Postgres says NOTIFY."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from penstock.core.errors import PenstockError
from penstock.hooks.warehouse import warehouse_dsn

RESTART_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Pauses between attempts to find the connection and listen again; the last one repeats."""


class PostgresListenTrigger(BaseEventTrigger):
    """One event per burst of notifications on a channel.

    An event says "look", nothing more: its receiver claims rows by query, so a lost notification costs time and
    never a row. Therefore it also fires when it starts and after every reconnect, for what was notified meanwhile.

    :param conn_id: Airflow connection of the database; read when the trigger runs, never serialised.
    :param channel: the channel to LISTEN on.
    :param quiet_seconds: after an event, notifications of this long are gathered into one more.
    """

    def __init__(self, conn_id: str, channel: str, quiet_seconds: float = 1.0) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.channel = channel
        self.quiet_seconds = quiet_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"conn_id": self.conn_id, "channel": self.channel, "quiet_seconds": self.quiet_seconds},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields at once for the first notification, then at most one event per `quiet_seconds`."""
        bell = asyncio.Event()
        listener = asyncio.create_task(self._listen_for_ever(bell))
        try:
            while True:
                await _rung(bell, listener)
                bell.clear()
                yield TriggerEvent({"channel": self.channel})
                await asyncio.sleep(self.quiet_seconds)
        finally:
            listener.cancel()

    async def _listen_for_ever(self, bell: asyncio.Event) -> None:
        """Rings for every notification. Whatever ends the listening (no connection yet, database away) passes:
        a trigger that dies is not started again before its DAG file is parsed anew."""
        import psycopg

        from penstock.warehouse.listen import listen

        failures = 0
        while True:
            try:
                async for _ in listen(await warehouse_dsn(self.conn_id), self.channel):
                    failures = 0
                    bell.set()
            except (PenstockError, psycopg.Error, OSError, AirflowException) as exc:
                self.log.warning("Cannot listen on %s, trying again: %s", self.channel, exc)
            await asyncio.sleep(RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)])
            failures += 1


async def _rung(bell: asyncio.Event, listener: asyncio.Task[None]) -> None:
    """Returns when the bell rings; raises what ended the listener, so that a defect is seen and not waited for."""
    ringing = asyncio.create_task(bell.wait())
    try:
        await asyncio.wait({ringing, listener}, return_when=asyncio.FIRST_COMPLETED)
        if listener.done():
            listener.result()
    finally:
        ringing.cancel()
