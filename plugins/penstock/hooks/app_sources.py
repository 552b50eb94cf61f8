"""The hook of each vendor of keyed sources, and what a worker's job is handed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock.core.errors import error
from penstock.hooks.app_hook import AppHook
from penstock.hooks.steam import SteamHook

if TYPE_CHECKING:
    from penstock.jobs.app_sync import Lane, SyncContext
    from penstock.warehouse.session import Warehouse

BREAKER_THRESHOLD = 20
"""Failures in a row before the vendor counts as down: one item that always fails must not stop the others."""

APP_HOOKS: Mapping[str, type[AppHook]] = {"steam": SteamHook}
"""Vendor of a keyed source -> its hook."""


@contextmanager
def sync_context(
    apps: Warehouse, shared: Warehouse, lane: Lane, *, holder: str, run_id: str, stop: threading.Event
) -> Iterator[SyncContext]:
    """What a lane's job works with; its client is closed at the end. Raises SOURCE_NOT_SUPPORTED.

    apps: the database of the apps. shared: the one that holds the limits of all workers.
    """
    from penstock.jobs.app_sync import SyncContext, stoppable_sleep
    from penstock.sources.apps import by_name
    from penstock.warehouse.limits import SharedBreaker, SharedLimiter

    source = by_name(lane.source)
    if source.vendor not in APP_HOOKS:
        raise error("SOURCE_NOT_SUPPORTED", f"there is no hook for vendor {source.vendor!r} of {source.name}")
    limiter, breaker = SharedLimiter(shared), SharedBreaker(shared, threshold=BREAKER_THRESHOLD)
    client = APP_HOOKS[source.vendor]().open_app_client(limiter, breaker, stoppable_sleep(stop))
    try:
        yield SyncContext(
            warehouse=apps,
            source=source,
            send=client.send,
            share=lane.share,
            holder=holder,
            run_id=run_id,
            lane=lane.lane,
            stop=stop,
        )
    finally:
        client.close()
