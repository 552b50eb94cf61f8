"""Airflow connection `nivoda` -> client of the Nivoda API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from penstock.core.errors import PenstockError, error
from penstock.hooks.connections import base_url, find_connection
from penstock.hooks.vault import open_vault
from penstock.hooks.vendor import Unlimited, check, explained

if TYPE_CHECKING:
    from penstock.clients.credentials import Credentials
    from penstock.clients.nivoda import NivodaClient
    from penstock.sources.ports import Breaker, Limiter
    from penstock.sources.tokens import TokenStore
    from penstock.warehouse.session import Warehouse


class NivodaHook(BaseHook):
    """Nivoda, one user for all of Penstock.

    The connection: host = the endpoint's whole URL, login = user name, password, extra `requests_per_second` (10, at
    most 25), `count_batch` (counts asked for in one call, 1), `without_enums` (true on staging, whose values break its
    own schema).

    :param nivoda_conn_id: a connection of type `nivoda`; `NIVODA_ENDPOINT`, `NIVODA_USERNAME` and `NIVODA_PASSWORD`
        stand in for it.
    """

    conn_name_attr = "nivoda_conn_id"
    default_conn_name = "nivoda"
    conn_type = "nivoda"
    hook_name = "Nivoda"

    def __init__(self, nivoda_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.nivoda_conn_id = nivoda_conn_id

    @property
    def is_configured(self) -> bool:
        """Whether anybody has given user name and password."""
        connection = find_connection(self.nivoda_conn_id)
        return connection is not None and bool(connection.login and connection.password)

    def credentials(self) -> Credentials:
        """Endpoint, user name (in the extra) and password. Raises CREDENTIAL_NOT_FOUND."""
        from penstock.clients.credentials import Credentials
        from penstock.sources.nivoda import DEFAULT_ENDPOINT

        connection = find_connection(self.nivoda_conn_id)
        if connection is None or not connection.login or not connection.password:
            message = f"the connection `{self.nivoda_conn_id}` holds no user name and password"
            raise error("CREDENTIAL_NOT_FOUND", message, service="nivoda")
        extra = {**connection.extra_dejson, "username": connection.login}
        return Credentials(base_url=base_url(connection, DEFAULT_ENDPOINT), secret=connection.password, extra=extra)

    def client(self, warehouse: Warehouse) -> NivodaClient:
        """A client paced by the limit, and with the token, that all workers share through `warehouse`.

        Raises CREDENTIAL_NOT_FOUND, CONFIG_INVALID.
        """
        from penstock.warehouse.limits import SharedBreaker, SharedLimiter
        from penstock.warehouse.tokens import SharedTokens

        tokens = SharedTokens(warehouse, open_vault())
        return self._client(SharedLimiter(warehouse), SharedBreaker(warehouse), tokens)

    def get_conn(self) -> NivodaClient:
        """A client for a call by hand: unpaced, with a token of its own."""
        from penstock.sources.tokens import LocalTokens

        return self._client(Unlimited(), Unlimited(), LocalTokens())

    def test_connection(self) -> tuple[bool, str]:
        """Whether Nivoda lets the user in; if not: code, cause and what to do."""
        try:
            return True, check(self.get_conn())
        except PenstockError as exc:
            return False, explained(exc)

    def _client(self, limiter: Limiter, breaker: Breaker, tokens: TokenStore) -> NivodaClient:
        from penstock.clients.nivoda import NivodaClient
        from penstock.sources.nivoda import DEFAULT_RATE, STAGING_ENUMS, limits

        credentials = self.credentials()
        is_spared = str(credentials.extra.get("without_enums") or "").lower() in ("1", "true", "yes")
        return NivodaClient(
            credentials,
            limiter,
            breaker,
            tokens,
            limits=limits(whole(credentials.extra, "requests_per_second", DEFAULT_RATE)),
            count_batch=whole(credentials.extra, "count_batch", 1),
            without=STAGING_ENUMS if is_spared else frozenset(),
        )


def whole(extra: Mapping[str, Any], name: str, default: int) -> int:
    """A whole number of the connection's extra. Raises CONFIG_INVALID."""
    value = extra.get(name)
    if value in (None, ""):
        return default
    try:
        return int(str(value))
    except ValueError:
        message = f"{name} in the extra of connection `nivoda` is a whole number, got {value!r}"
        raise error("CONFIG_INVALID", message) from None
