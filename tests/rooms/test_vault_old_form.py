"""Values that the old worker encrypted: AES-256-GCM as Node writes it, without a key's name and bound to nothing."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from penstock.core.errors import PenstockError
from penstock.warehouse.vault import Key, Vault

OLD, NEW = Key.parse("cd" * 32), Key.parse("new:" + "ab" * 32)
ROW = "google_connections:1:2:refresh_token"


def as_node_writes_it(plain: str, nonce_bytes: int = 16) -> str:
    nonce = os.urandom(nonce_bytes)
    sealed = AESGCM(OLD.secret).encrypt(nonce, plain.encode(), None)
    return f"{nonce.hex()}:{sealed[-16:].hex()}:{sealed[:-16].hex()}"


@pytest.mark.parametrize("nonce_bytes", [12, 16])
def test_an_old_value_is_read_with_any_key_and_asks_to_be_stored_again(nonce_bytes: int) -> None:
    stored = as_node_writes_it("1//0secret", nonce_bytes)
    assert Vault((NEW, OLD)).decrypt(stored, ROW) == ("1//0secret", True)


def test_an_old_value_without_its_key_is_an_error_that_names_the_row() -> None:
    with pytest.raises(PenstockError, match=ROW) as refused:
        Vault((NEW,)).decrypt(as_node_writes_it("1//0secret"), ROW)
    assert refused.value.code == "CREDENTIAL_UNDECRYPTABLE"
