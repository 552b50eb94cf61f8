"""Airflow connection `vault` -> the keys that account credentials are encrypted with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from penstock.hooks.connections import find_connection

if TYPE_CHECKING:
    from penstock.warehouse.vault import Vault

VAULT_CONN_ID = "vault"
OLD_KEY_VARIABLE = "ENCRYPTION_KEY"
"""The old workers' one key. Only old values are read with it."""


def open_vault() -> Vault:
    """The vault with the connection's keys (password, newest first), else those of `PENSTOCK_ENCRYPTION_KEYS`."""
    from penstock.warehouse.vault import Vault

    connection = find_connection(VAULT_CONN_ID)
    environment = {OLD_KEY_VARIABLE: os.environ.get(OLD_KEY_VARIABLE, "")}
    environment["PENSTOCK_ENCRYPTION_KEYS"] = (connection.password if connection else None) or ""
    return Vault.from_environment(environment)
