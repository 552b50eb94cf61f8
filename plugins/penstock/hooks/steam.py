"""Airflow connection `steam` -> client of Steam's public store."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from airflow.sdk import Connection

from penstock.core.errors import error
from penstock.hooks.app_hook import AppHook
from penstock.hooks.connections import find_connection

if TYPE_CHECKING:
    from penstock.clients.credentials import Credentials
    from penstock.clients.steam import SteamClient
    from penstock.sources.ports import Breaker, Limiter
    from penstock.sources.stream import Limit

_PACE = re.compile(r"(\d+)/(\d+(?:\.\d+)?)")


class SteamHook(AppHook):
    """Steam's public store, which asks for no credentials.

    Connection: host = base URL; extra `storefront_limit` and `reviews_limit` ("200/300": calls/seconds) where another
    pace than the public one is allowed, `pause_seconds` after a refusal.
    """

    conn_name_attr = "steam_conn_id"
    default_conn_name = "steam"
    conn_type = "steam"
    hook_name = "Steam"
    source: ClassVar[str] = "steam"
    # https://partner.steamgames.com/doc/store/getreviews
    default_base_url: ClassVar[str] = "https://store.steampowered.com"

    def __init__(self, steam_conn_id: str = default_conn_name) -> None:
        super().__init__(steam_conn_id)

    def credentials_of(self, connection: Connection | None, own: Mapping[str, str]) -> Credentials:
        from penstock.clients.credentials import Credentials

        extra = connection.extra_dejson if connection else {}
        return Credentials(base_url=self.base_url(connection), extra=extra)

    def limits(self) -> Mapping[str, tuple[Limit, ...]]:
        """Family -> limits, those of the connection before the public ones. Raises CONFIG_INVALID."""
        from penstock.sources.steam import LIMITS

        connection = find_connection(self.conn_id)
        extra = connection.extra_dejson if connection else {}
        return {family: pace(extra.get(f"{family}_limit")) or public for family, public in LIMITS.items()}

    def open_app_client(
        self, limiter: Limiter, breaker: Breaker, sleep: Callable[[float], None] = time.sleep
    ) -> SteamClient:
        from penstock.clients.steam import PUBLIC, SteamClient

        return SteamClient(self.credentials(), PUBLIC, self.limits(), limiter, breaker, sleep=sleep)


def pace(text: str | None) -> tuple[Limit, ...]:
    """The limit that "calls/seconds" stands for, used evenly; none for an empty text. Raises CONFIG_INVALID."""
    from penstock.sources.keyed import HEADROOM
    from penstock.sources.stream import Limit

    if not text:
        return ()
    match = _PACE.fullmatch(str(text).strip())
    if match is None or not int(match[1]) or not float(match[2]):
        raise error("CONFIG_INVALID", f"connection `steam`: a limit is written calls/seconds, not {text!r}")
    count = int(match[1])
    return (Limit(count, float(match[2]) / HEADROOM, burst=min(3, count)),)
