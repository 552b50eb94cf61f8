"""Secrets in rows, encrypted with AES-256-GCM and bound to their row.

A stored value reads `v1:<key id>:<nonce>:<ciphertext and tag>`, the last two in base64. What it is bound to (for
example `platform_connections:<id>:access_token`) goes in as associated data: copied into another row, it does not
decrypt.

Keys come newest first; the first encrypts, all of them decrypt. To rotate, put a new key in front, run
`python -m penstock.warehouse.vault rotate`, then remove the old one.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg.types.json import Jsonb

from penstock.core.databases import DSN_VARIABLES, dsn_of_environment
from penstock.core.errors import PenstockError, error
from penstock.warehouse.session import Connection, plain_dsn

VERSION = "v1"
KEY_BYTES = 32
NONCE_BYTES = 12
BATCH = 500

_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
# <nonce>:<tag>:<ciphertext> in hex; the nonce has 12 or 16 bytes
_OLD_FORM = re.compile(r"(?:[0-9a-f]{24}|[0-9a-f]{32}):[0-9a-f]{32}:(?:[0-9a-f]{2})+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Key:
    """One key; its repr does not show it."""

    key_id: str
    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Key:
        """A key from `<key id>:<32 bytes as hex or base64>`; without an id it is named by its own fingerprint.

        Raises CREDENTIAL_INVALID.
        """
        key_id, colon, encoded = text.strip().rpartition(":")
        secret = _decoded_key(encoded)
        if secret is None:
            raise error("CREDENTIAL_INVALID", f"an encryption key is {KEY_BYTES} bytes, written in hex or base64")
        if not colon:
            key_id = hashlib.sha256(b"penstock key id" + secret).hexdigest()[:8]
        if not _KEY_ID.fullmatch(key_id):
            raise error("CREDENTIAL_INVALID", "the id of an encryption key is made of 1 to 32 letters, digits, - and _")
        return cls(key_id, secret)

    @classmethod
    def generate(cls) -> str:
        """A new random key, as `parse` reads it."""
        return base64.b64encode(os.urandom(KEY_BYTES)).decode()


class Vault:
    """Encrypts with the newest key, decrypts with any.

    Without keys it reads plain values only, and refuses to encrypt.
    """

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self._keys = {key.key_id: AESGCM(key.secret) for key in reversed(keys)}
        self._newest = keys[0].key_id if keys else None
        if len(self._keys) != len(keys):
            raise error("CREDENTIAL_INVALID", "two encryption keys have the same id")

    def __repr__(self) -> str:
        return f"Vault({', '.join(reversed(self._keys))})"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Vault:
        """Keys of `PENSTOCK_ENCRYPTION_KEYS` (comma-separated, newest first), then the old workers' `ENCRYPTION_KEY`.

        Raises CREDENTIAL_INVALID.
        """
        variables = os.environ if environment is None else environment
        texts = [
            *re.split(r"[,\s]+", variables.get("PENSTOCK_ENCRYPTION_KEYS", "")),
            variables.get("ENCRYPTION_KEY", ""),
        ]
        keys: dict[bytes, Key] = {}
        for text in filter(None, (text.strip() for text in texts)):
            key = Key.parse(text)
            keys.setdefault(key.secret, key)
        return cls(tuple(keys.values()))

    @property
    def can_encrypt(self) -> bool:
        return self._newest is not None

    def encrypt(self, plain: str, bound_to: str) -> str:
        """The stored form. Raises CREDENTIAL_INVALID when there is no key."""
        if self._newest is None:
            raise error("CREDENTIAL_INVALID", "there is no key to encrypt with: set PENSTOCK_ENCRYPTION_KEYS")
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._keys[self._newest].encrypt(nonce, plain.encode(), bound_to.encode())
        return ":".join([VERSION, self._newest, base64.b64encode(nonce).decode(), base64.b64encode(sealed).decode()])

    def decrypt(self, value: str, bound_to: str) -> tuple[str, bool]:
        """The plain text, and whether it should be stored again: it was plain, in the old workers' form, or under an
        older key.

        Raises CREDENTIAL_UNDECRYPTABLE when the key is missing or the value belongs to another row.
        """
        if _OLD_FORM.fullmatch(value):
            return self._decrypt_old(value, bound_to), self.can_encrypt
        if not value.startswith(f"{VERSION}:"):
            return value, self.can_encrypt
        key_id, nonce, sealed = _parts(value)
        key = self._keys.get(key_id)
        if key is None:
            raise error("CREDENTIAL_UNDECRYPTABLE", f"{bound_to}: there is no encryption key {key_id}")
        try:
            plain = key.decrypt(nonce, sealed, bound_to.encode()).decode()
        except (InvalidTag, ValueError) as refused:
            message = f"{bound_to}: the value was encrypted for another row, or is damaged"
            raise error("CREDENTIAL_UNDECRYPTABLE", message) from refused
        return plain, key_id != self._newest

    def _decrypt_old(self, value: str, bound_to: str) -> str:
        """AES-256-GCM as Node programs write it, bound to nothing and without the name of its key: all are tried."""
        nonce, tag, sealed = (bytes.fromhex(part) for part in value.split(":"))
        for key in self._keys.values():
            try:
                return key.decrypt(nonce, sealed + tag, None).decode()
            except (InvalidTag, ValueError):
                continue
        raise error("CREDENTIAL_UNDECRYPTABLE", f"{bound_to}: no encryption key fits the old worker's value")


@dataclass(frozen=True, slots=True)
class Rotation:
    """Rows looked at and rewritten, and what could not be read, with the reason."""

    seen: int
    rewritten: int
    problems: tuple[str, ...]


def rotate(connection: Connection, vault: Vault, *, batch: int = BATCH) -> Rotation:
    """Bring the credentials of all accounts under the newest key, plain ones too, in short transactions.

    Each text of the object `platform_connections.credentials` is encrypted by itself, bound to
    `platform_connections:<id>:<name>`. A row that cannot be read is reported and left as it is.
    """
    seen = rewritten = 0
    problems: list[str] = []
    after = "00000000-0000-0000-0000-000000000000"
    while True:
        with connection.transaction():
            rows = connection.execute(_ROTATION_BATCH, {"after": after, "batch": batch}).fetchall()
            for connection_id, stored in rows:
                try:
                    fresh = _reencrypted(vault, str(connection_id), stored)
                except PenstockError as unreadable:
                    problems.append(str(unreadable))
                    continue
                if fresh != stored:
                    connection.execute(_ROTATION_STORE, {"id": connection_id, "credentials": Jsonb(fresh)})
                    rewritten += 1
        if not rows:
            return Rotation(seen, rewritten, tuple(problems))
        seen += len(rows)
        after = rows[-1][0]


def rotate_google_connections(connection: Connection, vault: Vault, *, batch: int = BATCH) -> Rotation:
    """Bring the refresh tokens of `google_connections` under the newest key, where the table exists.

    A token is bound to `google_connections:<id>:<workspace>:refresh_token`. Rows are locked for a moment each: a drain
    that runs meanwhile reads tokens under either key, and whoever connects again at the same time wins.
    """
    seen = rewritten = 0
    problems: list[str] = []
    after = "00000000-0000-0000-0000-000000000000"
    while True:
        with connection.transaction():
            rows = connection.execute(_GOOGLE_BATCH, {"after": after, "batch": batch}).fetchall()
            for connection_id, workspace_id, stored in rows:
                bound_to = f"google_connections:{connection_id}:{workspace_id}:refresh_token"
                try:
                    plain, needs_rewrite = vault.decrypt(stored, bound_to)
                except PenstockError as unreadable:
                    problems.append(str(unreadable))
                    continue
                if needs_rewrite:
                    fresh = vault.encrypt(plain, bound_to)
                    connection.execute(_GOOGLE_STORE, {"id": connection_id, "stored": stored, "fresh": fresh})
                    rewritten += 1
        if not rows:
            return Rotation(seen, rewritten, tuple(problems))
        seen += len(rows)
        after = rows[-1][0]


_GOOGLE_BATCH = """
select id, workspace_id, refresh_token_encrypted
from public.google_connections
where id > %(after)s
order by id limit %(batch)s for no key update
"""
_GOOGLE_STORE = """
update public.google_connections set refresh_token_encrypted = %(fresh)s
where id = %(id)s and refresh_token_encrypted = %(stored)s
"""
_ROTATION_BATCH = """
select id, credentials from public.platform_connections
where id > %(after)s and jsonb_typeof(credentials) = 'object'
order by id limit %(batch)s for no key update
"""
_ROTATION_STORE = "update public.platform_connections set credentials = %(credentials)s where id = %(id)s"


def _reencrypted(vault: Vault, connection_id: str, stored: Mapping[str, object]) -> dict[str, object]:
    def renewed() -> Iterator[tuple[str, object]]:
        for name, value in stored.items():
            if not isinstance(value, str):
                yield name, value
                continue
            bound_to = f"platform_connections:{connection_id}:{name}"
            plain, needs_rewrite = vault.decrypt(value, bound_to)
            yield name, vault.encrypt(plain, bound_to) if needs_rewrite else value

    return dict(renewed())


def rotate_all(connection: Connection, vault: Vault) -> Rotation:
    """Every stored credential that this database has."""
    outcomes = [
        turn(connection, vault)
        for table, turn in (
            ("public.platform_connections", rotate),
            ("public.google_connections", rotate_google_connections),
        )
        if connection.execute("select to_regclass(%s) is not null", [table]).fetchone() == (True,)
    ]
    return Rotation(
        sum(outcome.seen for outcome in outcomes),
        sum(outcome.rewritten for outcome in outcomes),
        tuple(problem for outcome in outcomes for problem in outcome.problems),
    )


def _parts(value: str) -> tuple[str, bytes, bytes]:
    try:
        _, key_id, nonce, sealed = value.split(":")
        return key_id, base64.b64decode(nonce, validate=True), base64.b64decode(sealed, validate=True)
    except (ValueError, binascii.Error) as broken:
        raise error(
            "CREDENTIAL_UNDECRYPTABLE", "a stored credential begins like an encrypted one and is cut"
        ) from broken


def _decoded_key(text: str) -> bytes | None:
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return bytes.fromhex(text)
    padded = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        secret = base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True)
    except (ValueError, binascii.Error):
        secret = b""
    if len(secret) != KEY_BYTES:  # the old worker also took 32 characters as they are
        secret = text.encode()
    return secret if len(secret) == KEY_BYTES else None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: `generate` prints a new key, `rotate` brings all credentials under the newest one."""
    parser = argparse.ArgumentParser(prog="python -m penstock.warehouse.vault", description=__doc__)
    parser.add_argument("action", choices=["generate", "rotate"])
    parser.add_argument("--dsn", default=dsn_of_environment(os.environ), help=f"default: {', '.join(DSN_VARIABLES)}")
    options = parser.parse_args(arguments)
    if options.action == "generate":
        sys.stdout.write(f"{Key.generate()}\n")
        return 0
    if not options.dsn:
        parser.error(f"no database: give --dsn or set {DSN_VARIABLES[0]}")
    try:
        vault = Vault.from_environment()
        if not vault.can_encrypt:
            raise error("CREDENTIAL_INVALID", "there is no key: set PENSTOCK_ENCRYPTION_KEYS")
        with psycopg.connect(plain_dsn(options.dsn), autocommit=True) as connection:
            outcome = rotate_all(connection, vault)
    except PenstockError as failure:
        sys.stderr.write(f"{failure}\n")
        return 2
    sys.stdout.write(f"{outcome.seen} rows looked at, {outcome.rewritten} rewritten\n")
    sys.stderr.writelines(f"{problem}\n" for problem in outcome.problems)
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
