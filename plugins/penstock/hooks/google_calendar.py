"""Airflow connection `google_calendar` -> clients of the workspaces' Google calendars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseHook

from penstock.core.errors import AuthError, PenstockError, error
from penstock.hooks.connections import base_url, find_connection
from penstock.hooks.vendor import Unlimited, explained

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.clients.credentials import Credentials
    from penstock.clients.google_calendar import GoogleCalendarClient
    from penstock.sources.ports import Breaker, Limiter

TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105  https://developers.google.com/identity/protocols/oauth2/web-server#offline
UNKNOWN_GRANT = "1//penstock-connection-check"
"""A refresh token that Google never gave: refused as a grant, it shows that the client itself was accepted."""


class GoogleCalendarHook(BaseHook):
    """The OAuth client to which workspaces have given access; their refresh tokens are rows of `google_connections`.

    Connection: host = base URL, login = client id, password = client secret, extra `token_uri`. `GOOGLE_CLIENT_ID` and
    `GOOGLE_CLIENT_SECRET` stand in for it.
    """

    conn_name_attr = "google_calendar_conn_id"
    default_conn_name = "google_calendar"
    conn_type = "google_calendar"
    hook_name = "Google Calendar"
    source: ClassVar[str] = "google_calendar"
    # https://developers.google.com/workspace/calendar/api/v3/reference
    default_base_url: ClassVar[str] = "https://www.googleapis.com"

    def __init__(self, google_calendar_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.conn_id = google_calendar_conn_id

    @property
    def is_configured(self) -> bool:
        connection = find_connection(self.conn_id)
        return bool(connection and connection.login and connection.password)

    def credentials(self, refresh_token: str) -> Credentials:
        """What a client of one account needs. Raises CREDENTIAL_NOT_FOUND."""
        from penstock.clients.credentials import Credentials

        connection = find_connection(self.conn_id)
        if connection is None or not connection.login or not connection.password:
            message = f"the connection `{self.conn_id}` holds no OAuth client (login: its id, password: its secret)"
            raise error("CREDENTIAL_NOT_FOUND", message, service=self.source)
        return Credentials(
            base_url=base_url(connection, self.default_base_url),
            token=refresh_token,
            secret=connection.password,
            extra={
                "client_id": connection.login,
                "token_uri": connection.extra_dejson.get("token_uri") or TOKEN_URI,
            },
        )

    def open_client(
        self,
        connection_id: str,
        refresh_token: str,
        limiter: Limiter,
        breaker: Breaker,
        on_secret: Callable[[str], None] | None = None,
    ) -> GoogleCalendarClient:
        """A client for one account, paced by `limiter`."""
        from penstock.clients.google_calendar import LIMITS, GoogleCalendarClient

        credentials = self.credentials(refresh_token)
        return GoogleCalendarClient(credentials, connection_id, LIMITS, limiter, breaker, on_secret=on_secret)

    def get_conn(self) -> Any:
        """A client without an account: it can only find out whether Google knows the OAuth client."""
        return self.open_client("connection check", UNKNOWN_GRANT, Unlimited(), Unlimited())

    def test_connection(self) -> tuple[bool, str]:
        """Whether Google knows the OAuth client; if not: code, cause and what to do."""
        client = None
        try:
            client = self.get_conn()
            return True, client.check()
        except AuthError:
            return True, "Google knows the OAuth client; accounts connect themselves (google_connections)"
        except PenstockError as exc:
            return False, explained(exc)
        finally:
            if client is not None:
                client.close()
