"""A database of apps and workers on it, against the sandbox's store."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from penstock.clients.credentials import Credentials
from penstock.clients.steam import PUBLIC, SteamClient
from penstock.jobs.app_sync import Counts, SyncContext, stoppable_sleep, sync
from penstock.sources import steam
from penstock.sources.apps import by_name
from penstock.sources.keyed import HEADROOM, KeyedSource
from penstock.sources.stream import Limit
from penstock.warehouse.limits import SharedBreaker, SharedLimiter
from penstock.warehouse.session import Warehouse
from sandbox.steam_apps import App, catalogue

FAST = Limit(1000, 1.0)


def seed_apps(dsn: str, appids: Iterable[int]) -> None:
    """The rows that another system writes when it hears of an app."""
    ids = list(appids)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "insert into public.apps (appid, name) select id, 'App ' || id from unnest(%s::integer[]) as id "
            "on conflict do nothing",
            [ids],
        )
        connection.execute(
            "insert into public.sync_status (appid) select id from unnest(%s::integer[]) as id on conflict do nothing",
            [ids],
        )


def apps_of(seed: int, *states: str) -> list[App]:
    """The sandbox's apps in these states, all without any."""
    return [app for app in catalogue(seed).values() if not states or app.state in states]


@dataclass
class Store:
    """Workers of one source on one database."""

    warehouse: Warehouse
    sandbox_url: str
    limit: Limit = FAST
    pause_seconds: float = 0.3
    stop: threading.Event = field(default_factory=threading.Event)
    _clients: list[SteamClient] = field(default_factory=list)

    def context(self, source: str | KeyedSource, share: int = 1000, **changes: Any) -> SyncContext:
        known = by_name(source) if isinstance(source, str) else source
        limits = dict.fromkeys((*steam.LIMITS, "default"), (self.limit,))
        client = SteamClient(
            Credentials(f"{self.sandbox_url}/steam", extra={"pause_seconds": self.pause_seconds}),
            PUBLIC,
            limits,
            SharedLimiter(self.warehouse),
            SharedBreaker(self.warehouse, threshold=20),
            sleep=stoppable_sleep(self.stop),
            rng=lambda: 0.02,  # retries wait next to nothing
        )
        self._clients.append(client)
        context = SyncContext(self.warehouse, known, client.send, share, "test", "run", stop=self.stop)
        return replace(context, **changes)

    def sync(self, source: str | KeyedSource = "storefront", share: int = 1000, **changes: Any) -> Counts:
        try:
            return sync(self.context(source, share, **changes))
        finally:
            self._clients.pop().close()

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.warehouse.connection() as connection:
            return connection.execute(query, parameters).fetchall()

    def status(self, appid: int) -> Mapping[str, Any]:
        """An app's row of sync_status."""
        (row,) = self.rows("select to_jsonb(s) from public.sync_status as s where appid = %s", appid)
        found: Mapping[str, Any] = row[0]
        return found

    def due(self, source: str) -> Sequence[int]:
        """Who would be picked, in order, by the old worker's function."""
        return [row[0] for row in self.rows("select appid from public.get_apps_for_sync(%s, 10000)", source)]

    def forget_leases(self) -> None:
        """Time passes: leases and back-offs are over."""
        self.rows(
            "update penstock.app_sync_states set leased_until = now() - interval '1 second' "
            "where leased_until is not null returning appid"
        )


def paced(count: int, period: float, **options: Any) -> Limit:
    """A limit as sources use it: with headroom."""
    return Limit(count, period / HEADROOM, **options)
