"""Keys and passwords of the local stack: made once, kept in one file with mode 0600."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from stack import private_files


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """Every secret that the stack makes for itself, and the name by which it knows its own rows again."""

    installation_id: str
    fernet_key: str
    jwt_secret: str
    api_secret_key: str
    admin_password: str
    vault_key: str
    metadata_password: str
    warehouse_password: str


def _key_of_32_bytes() -> str:
    """The form of Fernet keys and of AES-256 keys alike: 32 bytes in URL-safe base64."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


_MAKERS: Mapping[str, Callable[[], str]] = {
    "installation_id": lambda: secrets.token_hex(8),
    "fernet_key": _key_of_32_bytes,
    "jwt_secret": lambda: secrets.token_urlsafe(48),
    "api_secret_key": lambda: secrets.token_urlsafe(32),
    "admin_password": lambda: secrets.token_urlsafe(12),
    "vault_key": _key_of_32_bytes,
    "metadata_password": lambda: secrets.token_urlsafe(24),
    "warehouse_password": lambda: secrets.token_urlsafe(24),
}


def load_or_make(path: Path) -> Keys:
    """The keys in the file; those it lacks are made and added, those it has never change."""
    stored = private_files.read_json(path)
    names = [field.name for field in fields(Keys)]
    values = {name: str(stored.get(name) or _MAKERS[name]()) for name in names}
    if any(stored.get(name) != value for name, value in values.items()):
        private_files.write_json(path, {**stored, **values})
    return Keys(**values)
