"""Airflow connection `ga4` -> client of the Google Analytics Data API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from airflow.sdk import Connection

from penstock.core.errors import error
from penstock.hooks.vendor import VendorHook

if TYPE_CHECKING:
    from penstock.clients.credentials import Credentials

GOOGLE_TOKEN_HOSTS = ("oauth2.googleapis.com", "accounts.google.com", "www.googleapis.com")
"""Where key files of Google send for tokens (https://developers.google.com/identity/protocols/oauth2/service-account)."""

GOOGLE_EXTRAS = ("key_path", "credential_config_file", "key_secret_name", "impersonation_chain", "is_anonymous")
"""Extras by which a connection of Airflow's Google provider names its credentials."""


class GA4Hook(VendorHook):
    """Google Analytics 4.

    Connection: host = base URL; password, or extra `keyfile_dict` = the service account's JSON; or extra
    `google_conn_id` = a connection of the Google provider, with any credentials that it supports; or that provider's
    own extras (`key_path`, `credential_config_file`, `impersonation_chain`, ...); extra `account_id` = the property
    that the test button reads. An account's own credentials: `service_account_json`.
    """

    conn_name_attr = "ga4_conn_id"
    default_conn_name = "ga4"
    conn_type = "ga4"
    hook_name = "Google Analytics 4"
    source: ClassVar[str] = "ga4"
    # https://developers.google.com/analytics/devguides/reporting/data/v1/rest
    default_base_url: ClassVar[str] = "https://analyticsdata.googleapis.com"

    def __init__(self, ga4_conn_id: str = default_conn_name) -> None:
        super().__init__(ga4_conn_id)

    def credentials_of(self, connection: Connection | None, own: Mapping[str, str]) -> Credentials:
        from penstock.clients.credentials import Credentials

        url = self.base_url(connection)
        if own_key := own.get("service_account_json"):
            account = service_account(own_key, "the account's service_account_json")
            refuse_foreign_token_uri(account, url)
            return Credentials(base_url=url, extra={"service_account": account})
        if connection is None:
            raise self.missing()
        extra = dict(connection.extra_dejson)
        key = connection.password or extra.get("keyfile_dict")
        if key:
            account = service_account(key, f"connection `{self.conn_id}`")
            return Credentials(base_url=url, extra={"service_account": account})
        google_conn_id = extra.get("google_conn_id")
        if not google_conn_id and not any(extra.get(name) for name in GOOGLE_EXTRAS):
            raise self.missing()
        credentials = google_credentials(str(google_conn_id or self.conn_id))
        return Credentials(base_url=url, extra={"google_credentials": credentials})


def service_account(value: Any, where: str) -> dict[str, Any]:
    """The parsed key file. Raises CREDENTIAL_INVALID; the message never quotes the value."""
    if isinstance(value, dict):
        account = value
    else:
        try:
            account = json.loads(value)
        except json.JSONDecodeError as exc:
            # The decoder's own message would quote the text, and the text is a private key.
            raise error("CREDENTIAL_INVALID", f"{where} is not JSON (line {exc.lineno})", service="ga4") from None
    if not isinstance(account, dict):
        raise error("CREDENTIAL_INVALID", f"{where} is not a JSON object", service="ga4")
    missing = [name for name in ("client_email", "private_key", "token_uri") if not account.get(name)]
    if missing:
        raise error("CREDENTIAL_INVALID", f"{where} lacks {', '.join(missing)}", service="ga4")
    return account


def refuse_foreign_token_uri(account: Mapping[str, Any], url: str) -> None:
    """A key in a row of the database may ask Google, or the server that the connection names, and nobody else:
    otherwise whoever can write that row could make a worker call any address inside the network."""
    asked, allowed = urlsplit(str(account["token_uri"])), urlsplit(url)
    is_google = asked.scheme == "https" and asked.hostname in GOOGLE_TOKEN_HOSTS
    if not is_google and (asked.scheme, asked.netloc) != (allowed.scheme, allowed.netloc):
        raise error("CREDENTIAL_INVALID", f"token_uri points at {asked.hostname}, not at Google", service="ga4")


def google_credentials(conn_id: str) -> Any:
    """Credentials of any kind that Airflow's Google provider supports."""
    from airflow.exceptions import AirflowException
    from airflow.providers.google.common.hooks.base_google import GoogleBaseHook

    try:
        return GoogleBaseHook(gcp_conn_id=conn_id).get_credentials()
    except (AirflowException, ValueError, OSError) as exc:
        message = f"connection `{conn_id}` gives no Google credentials ({type(exc).__name__})"
        raise error("CREDENTIAL_INVALID", message, service="ga4") from exc
