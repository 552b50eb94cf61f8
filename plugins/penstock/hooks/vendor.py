"""What the hooks of all vendors share: connection -> credentials -> client, and the connection form's test button."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from airflow.sdk import BaseHook, Connection

from penstock.core.errors import ConfigurationError, PenstockError
from penstock.hooks.connections import base_url, find_connection

if TYPE_CHECKING:
    from penstock.clients.credentials import Credentials
    from penstock.clients.transport import VendorClient
    from penstock.sources.ports import Breaker, Limiter
    from penstock.sources.stream import Account, Limit


class Unlimited:
    """The limiter and breaker of one call by hand. The vendor's own limits hold all the same."""

    def reserve(self, key: str, limits: Sequence[Limit], cost: int = 1) -> float:
        return 0.0

    def block(self, key: str, seconds: float, reason: str) -> None:
        """Nobody else is there to be held back."""

    def observe(self, key: str, usage_percent: float) -> None:
        """Nothing is paced."""

    def refuses(self, key: str) -> bool:
        return False

    def allow(self, key: str) -> bool:
        return True

    def success(self, key: str) -> None:
        """Nothing is counted."""

    def failure(self, key: str, message: str) -> None:
        """Nothing is counted."""


class VendorHook(BaseHook):
    """A vendor's connection.

    The connection holds what all accounts share: host (base URL), password (token), extra. An account with
    credentials of its own brings them; where calls go is the connection's affair alone, so that a row of the
    database cannot send a token elsewhere.
    """

    source: ClassVar[str]
    default_base_url: ClassVar[str]
    needs_account: ClassVar[bool] = True
    """Whether a credential can only be tried on an account."""

    def __init__(self, conn_id: str) -> None:
        super().__init__()
        self.conn_id = conn_id

    @abstractmethod
    def credentials_of(self, connection: Connection | None, own: Mapping[str, str]) -> Credentials:
        """The account's own credentials, else the connection's. Raises CREDENTIAL_NOT_FOUND, CREDENTIAL_INVALID."""

    def credentials(self, own: Mapping[str, str] | None = None) -> Credentials:
        """What a client needs. `own`: the decrypted credentials of an account, if it has any."""
        return self.credentials_of(find_connection(self.conn_id), own or {})

    def open_client(
        self,
        account: Account,
        limits: Mapping[str, tuple[Limit, ...]],
        limiter: Limiter,
        breaker: Breaker,
        own: Mapping[str, str] | None = None,
    ) -> VendorClient:
        """A client for one account, paced by `limiter`."""
        from penstock.clients import CLIENTS

        return CLIENTS[self.source](self.credentials(own), account.account_id, limits, limiter, breaker)

    @property
    def test_account_id(self) -> str:
        """The account that the test button reads: the connection's extra `account_id`."""
        connection = find_connection(self.conn_id)
        return str(connection.extra_dejson.get("account_id") or "") if connection else ""

    def get_conn(self) -> VendorClient:
        """A client for the account that the connection names; unpaced, for a call by hand."""
        from penstock import sources
        from penstock.clients import CLIENTS

        limits = sources.by_name(self.source).limits
        return CLIENTS[self.source](self.credentials(), self.test_account_id, limits, Unlimited(), Unlimited())

    def test_connection(self) -> tuple[bool, str]:
        """Whether the vendor accepts the connection's credentials; if not: code, cause and what to do."""
        try:
            credentials = self.credentials()
            if self.needs_account and not self.test_account_id:
                return False, f"{credentials.base_url}: name an account in the extra `account_id`, to have one to read"
            return True, check(self.get_conn())
        except PenstockError as exc:
            return False, explained(exc)

    def base_url(self, connection: Connection | None) -> str:
        return base_url(connection, self.default_base_url)

    def missing(self) -> PenstockError:
        return ConfigurationError(
            "CREDENTIAL_NOT_FOUND",
            f"neither the account nor the connection `{self.conn_id}` holds a credential",
            service=self.source,
        )


def check(client: VendorClient) -> str:
    """One cheap call that proves the client's credentials. Raises PenstockError."""
    try:
        return client.check()
    finally:
        client.close()


def explained(exc: PenstockError) -> str:
    """Code, cause and what to do, in one line."""
    return f"{exc} What to do: {exc.remedy}"
