"""Where a connection is found: in Airflow, or in the environment variables that the old workers used."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from types import MappingProxyType

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from penstock.core.databases import WAREHOUSE_VARIABLES
from penstock.core.errors import error

FALLBACKS: Mapping[str, str] = MappingProxyType(
    {"agency_db": "warehouse", "apps_db": "warehouse", "nivoda_db": "warehouse", "calendar_db": "warehouse"}
)
"""Databases that live in the warehouse until somebody gives them a connection of their own."""

# What an old deployment's environment calls a connection's fields.
_URL_VARIABLES = {"warehouse": WAREHOUSE_VARIABLES}
_PASSWORD_VARIABLES = {
    "meta_ads": "META_ACCESS_TOKEN",
    "ga4": "GA4_CREDENTIALS_JSON",
    "klaviyo": "KLAVIYO_API_KEY",
    "google_ads": "GOOGLE_ADS_DEVELOPER_TOKEN",
    "slack": "SLACK_BOT_TOKEN",
    "nivoda": "NIVODA_PASSWORD",
    "google_calendar": "GOOGLE_CLIENT_SECRET",
    "vault": "PENSTOCK_ENCRYPTION_KEYS",
}
_HOST_VARIABLES = {
    "nivoda": "NIVODA_ENDPOINT",
    "meta_ads": "META_BASE_URL",
    "ga4": "GA4_BASE_URL",
    "klaviyo": "KLAVIYO_BASE_URL",
    "google_ads": "GOOGLE_ADS_BASE_URL",
    "google_calendar": "GOOGLE_CALENDAR_BASE_URL",
}
_LOGIN_VARIABLES = {"nivoda": "NIVODA_USERNAME", "google_calendar": "GOOGLE_CLIENT_ID"}
_EXTRA_VARIABLES = {
    "meta_ads": {"app_secret": "META_APP_SECRET", "api_version": "META_API_VERSION"},
    "klaviyo": {"revision": "KLAVIYO_REVISION"},
    "google_ads": {
        "refresh_token": "GOOGLE_ADS_REFRESH_TOKEN",
        "client_id": "GOOGLE_ADS_CLIENT_ID",
        "client_secret": "GOOGLE_ADS_CLIENT_SECRET",
        "login_customer_id": "GOOGLE_ADS_LOGIN_CUSTOMER_ID",
        "api_version": "GOOGLE_ADS_API_VERSION",
        "service_account_json": "GOOGLE_ADS_CREDENTIALS_JSON",
        "token_uri": "GOOGLE_ADS_TOKEN_URL",
    },
    "slack": {"base_url": "SLACK_BASE_URL"},
    "google_calendar": {"token_uri": "GOOGLE_CALENDAR_TOKEN_URL"},
    "nivoda": {"requests_per_second": "NIVODA_REQUESTS_PER_SECOND", "count_batch": "NIVODA_COUNT_BATCH"},
}


def find_connection(conn_id: str) -> Connection | None:
    """The connection, its fallback's, or one made of the environment; None when there is none of them."""
    for candidate in _candidates(conn_id):
        if found := own_connection(candidate):
            return found
    return None


def own_connection(conn_id: str) -> Connection | None:
    """The connection of this very id, or one made of the environment; None when there is none of them."""
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return _from_environment(conn_id)


async def find_connection_async(conn_id: str) -> Connection | None:
    """`find_connection` for the triggerer, where a blocking look-up would stop every trigger."""
    for candidate in _candidates(conn_id):
        try:
            return await BaseHook.aget_connection(candidate)
        except AirflowNotFoundException:
            if found := _from_environment(candidate):
                return found
    return None


def required(conn_id: str, connection: Connection | None) -> Connection:
    """The connection. Raises CREDENTIAL_NOT_FOUND, naming what to create."""
    if connection is None:
        variables = _URL_VARIABLES.get(conn_id, ()) or filter(None, (_PASSWORD_VARIABLES.get(conn_id),))
        hint = "".join(f", no environment variable {name}" for name in variables)
        raise error("CREDENTIAL_NOT_FOUND", f"no Airflow connection `{conn_id}`{hint}")
    return connection


_DEFAULT_PORTS = {"https": 443, "http": 80}


def base_url(connection: Connection | None, default: str) -> str:
    """The vendor's base URL without a trailing slash: a whole URL in the host field, or scheme, host and port.

    A scheme's own port is left out, so that the URL equals the one in the vendor's links.
    """
    if connection is None or not connection.host:
        return default.rstrip("/")
    scheme, _, rest = connection.host.rstrip("/").rpartition("://")
    scheme = scheme or connection.schema or "https"
    host, slash, path = rest.partition("/")
    # Airflow splits the port off when the connection came as a URI; in the form it stays in the host.
    needs_port = ":" not in host and connection.port and connection.port != _DEFAULT_PORTS.get(scheme)
    port = f":{connection.port}" if needs_port else ""
    return f"{scheme}://{host}{port}{slash}{path}"


def _candidates(conn_id: str) -> tuple[str, ...]:
    return (conn_id, FALLBACKS[conn_id]) if conn_id in FALLBACKS else (conn_id,)


def _from_environment(conn_id: str) -> Connection | None:
    url = next(filter(None, map(os.environ.get, _URL_VARIABLES.get(conn_id, ()))), None)
    password = os.environ.get(_PASSWORD_VARIABLES.get(conn_id, ""))
    if url:
        connection = Connection.from_uri(url, conn_id=conn_id)
    elif password:
        connection = Connection(
            conn_id=conn_id,
            conn_type=conn_id,
            host=os.environ.get(_HOST_VARIABLES.get(conn_id, "")) or None,
            login=os.environ.get(_LOGIN_VARIABLES.get(conn_id, "")) or None,
            password=password,
            extra=_extra(conn_id),
        )
    else:
        return None
    # Airflow masks what its own backends return; this it has not seen.
    if connection.password:
        mask_secret(connection.password)
    return connection


def _extra(conn_id: str) -> str | None:
    names = _EXTRA_VARIABLES.get(conn_id, {})
    values = {key: os.environ[name] for key, name in names.items() if os.environ.get(name)}
    return json.dumps(values) if values else None
