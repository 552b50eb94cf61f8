"""Access tokens of Google, from a refresh token or a service account, renewed when they are over."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.clients.sessions import BodyTooLarge, BodyTooSlow, ThreadLocal, network_error
from penstock.core.errors import error

if TYPE_CHECKING:
    import requests

GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105  https://developers.google.com/identity/protocols/oauth2/web-server#offline


class GoogleTokens:
    """The access token of one set of credentials. Threads may share it.

    Parameters
    ----------
    make: the google-auth credentials; called once, when a token is first needed. Raises PenstockError.
    auth_code, transient_code: codes of the catalogue for a refusal and for a passing failure.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        sessions: ThreadLocal[requests.Session],
        redact: Callable[[str], str],
        *,
        auth_code: str,
        transient_code: str,
    ) -> None:
        self._make = make
        self._sessions = sessions
        self._redact = redact
        self._auth_code = auth_code
        self._transient_code = transient_code
        self._credentials: Any = None
        self._lock = threading.Lock()

    def bearer(self) -> str:
        """A valid access token. Raises PenstockError; google-auth's own messages are redacted."""
        with self._lock:
            if self._credentials is None:
                self._credentials = self._make()
            if self._credentials.valid:
                return str(self._credentials.token)
            return self._refreshed()

    def forget(self) -> None:
        """The vendor refused the token before its time was over: the next call asks for a new one."""
        with self._lock:
            if self._credentials is not None:
                self._credentials.token = None

    def _refreshed(self) -> str:
        from google.auth import exceptions
        from google.auth.transport.requests import Request as TokenRequest

        try:
            self._credentials.refresh(TokenRequest(self._sessions.get()))
        except exceptions.TransportError as failure:
            broken = error(
                "NETWORK_UNREACHABLE", self._redact(f"the token endpoint cannot be reached: {failure}")[:500]
            )
        except exceptions.GoogleAuthError as failure:
            code = self._transient_code if getattr(failure, "retryable", False) else self._auth_code
            broken = error(code, self._redact(f"no access token: {failure}")[:500])
        except (BodyTooLarge, BodyTooSlow) as failure:
            broken = network_error(failure, self._redact)
        else:
            return str(self._credentials.token)
        raise broken


def refreshable(fields: Mapping[str, str], scopes: Sequence[str]) -> Any:
    """Credentials of `refresh_token`, `client_id` and `client_secret`; without `token_uri` Google's own is asked."""
    from google.oauth2.credentials import Credentials

    return Credentials(
        token=None,
        refresh_token=fields["refresh_token"],
        client_id=fields["client_id"],
        client_secret=fields["client_secret"],
        token_uri=fields.get("token_uri") or GOOGLE_TOKEN_URI,
        scopes=list(scopes),
    )


def service_account(info: Any, scopes: Sequence[str]) -> Any:
    """Credentials of a service account's key file (object or text). Raises CREDENTIAL_INVALID."""
    from google.auth.exceptions import GoogleAuthError
    from google.oauth2 import service_account as accounts

    try:
        parsed = dict(json.loads(info) if isinstance(info, str | bytes) else info)
        return accounts.Credentials.from_service_account_info(parsed, scopes=list(scopes))
    except (ValueError, TypeError, GoogleAuthError) as failure:
        kind = type(failure).__name__
    raise error("CREDENTIAL_INVALID", f"the service-account JSON cannot be read ({kind})")
