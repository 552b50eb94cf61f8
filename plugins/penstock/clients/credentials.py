"""What a client needs to call one account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SECRET_EXTRAS = ("developer_token", "client_secret", "refresh_token")


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """Where to call and with what; its `repr` shows nothing but the host.

    base_url: scheme, host, port and path prefix of the vendor, the sandbox or a test server.
    token: access token or private key; empty where `extra` holds the credentials.
    secret: Meta's app secret, for `appsecret_proof`.
    extra: what only some vendors have (`api_version`, `revision`, `service_account`, `google_credentials`).
    """

    base_url: str
    token: str = ""
    secret: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Credentials({self.base_url!r})"

    def secrets(self) -> tuple[str, ...]:
        """Everything that must never be read in a message."""
        account = self.extra.get("service_account")
        key = account.get("private_key") if isinstance(account, Mapping) else account
        named = (self.extra.get(name) for name in SECRET_EXTRAS)
        return tuple(value for value in (self.token, self.secret, key, *named) if isinstance(value, str) and value)
