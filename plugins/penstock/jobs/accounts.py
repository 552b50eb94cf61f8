"""Accounts: registered once, their credentials encrypted at rest, decrypted only for the run that needs them."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from penstock.core.errors import ConfigurationError, error
from penstock.sources.stream import Account
from penstock.warehouse import queries
from penstock.warehouse.session import Warehouse
from penstock.warehouse.vault import Vault

SQL = queries.load("platform_etl")


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """An account with its own credentials, if it has any; its repr never shows them."""

    account: Account
    platform: str
    credentials: Mapping[str, str] | None = field(default=None, repr=False)


def bound_to(connection_id: str, name: str) -> str:
    """What an encrypted credential is bound to: copied into another account's row it does not decrypt."""
    return f"platform_connections:{connection_id}:{name}"


def register_account(
    warehouse: Warehouse,
    vault: Vault,
    *,
    platform: str,
    shop_id: str,
    account_id: str,
    account_name: str,
    credentials: Mapping[str, str] | None,
    time_zone: str | None,
    currency: str | None,
    settings: Mapping[str, Any],
    shop_name: str | None = None,
    first_sync_in: dt.timedelta = dt.timedelta(days=1),
) -> str:
    """Writes the account and its shop, or adds what is missing to their rows. Returns the connection id.

    Parameters
    ----------
    credentials: plain values, encrypted here; None leaves those of the row, or the Airflow connection's, in force. An
        account that waited for them goes on, one that a person has paused stays paused.
    time_zone, currency: None until the vendor has told.
    first_sync_in: when `platform_etl_queue` syncs the account by itself for the first time.
    """
    with warehouse.transaction() as conn:
        identity = {"platform": platform, "account_id": account_id}
        row = conn.execute(SQL["account_row_id"], identity).fetchone()
        connection_id = row[0] if row else str(uuid.uuid4())
        conn.execute(
            SQL["register_account"],
            identity
            | {
                "connection_id": connection_id,
                "shop_id": shop_id,
                "account_name": account_name,
                "credentials": _encrypted(vault, connection_id, credentials),
                "time_zone": time_zone,
                "currency": currency,
                "settings": Jsonb(dict(settings)),
                "first_sync_in": first_sync_in,
            },
        )
        conn.execute(
            SQL["register_shop"],
            {
                "shop_id": shop_id,
                "shop_domain": shop_id,
                "shop_name": shop_name or shop_id,
                "currency": currency,
                "time_zone": time_zone,
            },
        )
    return str(connection_id)


def load_account(conn: psycopg.Connection[Any], vault: Vault, connection_id: str) -> StoredAccount:
    """The account of this row, its credentials decrypted. A value stored plain is encrypted on the way.

    Raises CONFIG_NO_ACCOUNT when the row is gone, CREDENTIAL_UNDECRYPTABLE when its key is missing.
    """
    cursor = conn.cursor(row_factory=psycopg.rows.dict_row)
    row = cursor.execute(SQL["account"], {"connection_id": connection_id}).fetchone()
    if row is None:
        raise error("CONFIG_NO_ACCOUNT", f"platform_connections has no row {connection_id}")
    account = Account(
        connection_id=connection_id,
        shop_id=row["shop_id"] or "",
        account_id=row["account_id"] or "",
        name=row["account_name"] or "",
        time_zone=row["time_zone"] or "UTC",
        currency=row["currency"] or "USD",
        settings=row["settings"],
        facts=row["facts"],
    )
    credentials, is_stale = _decrypted(vault, connection_id, row["credentials"])
    if is_stale and credentials is not None:
        stored = _encrypted(vault, connection_id, credentials)
        conn.execute(SQL["store_credentials"], {"connection_id": connection_id, "credentials": stored})
    return StoredAccount(account, row["platform"], credentials)


def _encrypted(vault: Vault, connection_id: str, credentials: Mapping[str, str] | None) -> Jsonb | None:
    if not credentials:
        return None
    return Jsonb({name: vault.encrypt(value, bound_to(connection_id, name)) for name, value in credentials.items()})


def _decrypted(vault: Vault, connection_id: str, stored: Any) -> tuple[dict[str, str] | None, bool]:
    """The plain credentials, and whether any was stored plain or under an old key."""
    if not stored:
        return None, False
    if not isinstance(stored, dict):
        raise ConfigurationError(
            "CREDENTIAL_INVALID", f"platform_connections.credentials of {connection_id} is not an object"
        )
    # The old workers kept what a vendor had answered beside the token: `expires_in` is a number, a key file an object.
    given = {name: value for name, value in stored.items() if value is not None}
    plain: dict[str, str] = {}
    is_stale = False
    for name, value in given.items():
        text = value if isinstance(value, str) else json.dumps(value)
        plain[name], needs_rewrite = vault.decrypt(text, bound_to(connection_id, name))
        is_stale = is_stale or needs_rewrite
    return plain, is_stale
