"""The Google account of a workspace: from its stored token to a client, or to the reason why there is none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from penstock.clients.google_calendar import GoogleCalendarClient
from penstock.core.errors import PenstockError, error
from penstock.jobs.calendar_outbox.store import CalendarStore, ConnectionRow
from penstock.warehouse.vault import Vault

log = logging.getLogger(__name__)

OpenClient = Callable[[str, str], GoogleCalendarClient]
"""(connection id, refresh token) -> a client of that account."""


def bound_to(connection_id: str, workspace_id: str) -> str:
    """What a stored refresh token is bound to: copied into another row, it does not decrypt."""
    return f"google_connections:{connection_id}:{workspace_id}:refresh_token"


@dataclass(frozen=True, slots=True)
class Account:
    """An account that may be called."""

    connection_id: str
    workspace_id: str
    time_zone: str
    client: GoogleCalendarClient


class Accounts:
    """Clients of all workspaces, kept with their access tokens in this process's memory. Threads may share it.

    on_secret: told every secret in plain before it is used.
    """

    def __init__(
        self,
        store: CalendarStore,
        vault: Vault,
        open_client: OpenClient,
        on_secret: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._vault = vault
        self._open_client = open_client
        self._on_secret = on_secret
        self._clients: dict[str, tuple[str, GoogleCalendarClient]] = {}
        self._lock = threading.Lock()

    def account(self, workspace_id: str) -> Account:
        """Raises CALENDAR_NOT_CONNECTED, OAUTH_INVALID or CREDENTIAL_UNDECRYPTABLE."""
        row = self._store.connection(workspace_id)
        if row.connection_id is None:
            raise error("CALENDAR_NOT_CONNECTED", "the workspace has no Google account")
        if not row.is_valid:
            raise error("OAUTH_INVALID", "Google has refused the connected account; it has to be connected again")
        token = self._plain_token(row, row.connection_id, workspace_id)
        return Account(row.connection_id, workspace_id, row.time_zone, self._client(row.connection_id, token))

    def retry_unreadable(self) -> int:
        """Connections whose key was missing and is there again; how many. Their items come back by themselves."""
        found = 0
        for connection_id, workspace_id, stored in self._store.unreadable():
            try:
                self._vault.decrypt(stored, bound_to(connection_id, workspace_id))
            except PenstockError:
                continue
            self._store.mark_readable(connection_id)
            found += 1
        return found

    def close(self) -> None:
        """Close the connections of all clients."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for _, client in clients.values():
            client.close()

    def _plain_token(self, row: ConnectionRow, connection_id: str, workspace_id: str) -> str:
        binding = bound_to(connection_id, workspace_id)
        try:
            token, needs_rewrite = self._vault.decrypt(row.stored_token, binding)
        except PenstockError as refused:
            if self._store.mark_unreadable(connection_id, refused.code, refused.message):
                log.error("connection %s: %s", connection_id, refused)
            raise
        if self._on_secret is not None:
            self._on_secret(token)
        if needs_rewrite:
            self._store.store_token(connection_id, row.stored_token, self._vault.encrypt(token, binding))
        if row.status == "ERROR":
            self._store.mark_readable(connection_id)
        return token

    def _client(self, connection_id: str, token: str) -> GoogleCalendarClient:
        """The client of the account; a new one when it was connected again."""
        with self._lock:
            held = self._clients.get(connection_id)
            if held is not None and held[0] == token:
                return held[1]
            client = self._open_client(connection_id, token)
            self._clients[connection_id] = (token, client)
        if held is not None:
            held[1].close()
        return client
