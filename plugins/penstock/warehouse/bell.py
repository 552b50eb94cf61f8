"""LISTEN for a process that works in threads: a bell that rings when there may be something to do."""

from __future__ import annotations

import asyncio
import logging
import threading
from types import TracebackType

import psycopg

from penstock.warehouse.listen import listen

log = logging.getLogger(__name__)

END_SECONDS = 5.0
"""How long `__exit__` waits for the listening thread; it is a daemon."""


class Bell:
    """Rings for notifications on a channel, and whenever somebody calls `ring`.

    Without a database to listen to, or behind a transaction pooler, it only rings when `ring` is called: whoever
    waits for it looks at the table now and then anyway.
    """

    def __init__(self, dsn: str, channel: str) -> None:
        self._dsn = dsn
        self._channel = channel
        self._event = threading.Event()
        self._notified = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name=f"bell {channel}", daemon=True)

    def __enter__(self) -> Bell:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop, task = self._loop, self._task
        if loop is not None and task is not None and not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)
        self._thread.join(END_SECONDS)

    def ring(self) -> None:
        """Wake whoever waits."""
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Returns when the bell has rung since the last wait, at the latest after `seconds`."""
        self._event.wait(max(0.0, seconds))
        self._event.clear()

    def take_notified(self) -> bool:
        """Whether the database has said something since the last time that this was asked."""
        was_set = self._notified.is_set()
        self._notified.clear()
        return was_set

    def _run(self) -> None:
        try:
            asyncio.run(self._listen())
        except psycopg.OperationalError as refused:
            log.warning("cannot listen on %s (%s): sweep only", self._channel, type(refused).__name__)

    async def _listen(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._hear())
        try:
            await self._task
        except asyncio.CancelledError:
            log.debug("stopped listening on %s", self._channel)

    async def _hear(self) -> None:
        async for _ in listen(self._dsn, self._channel):
            self._notified.set()
            self._event.set()
