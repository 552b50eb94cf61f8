"""Encryption of values: bound to their row, rotated from key to key."""

from __future__ import annotations

import base64

import pytest

from penstock.core.errors import ConfigurationError, PenstockError
from penstock.warehouse.vault import Key, Vault

OLD = Key("old", bytes(range(32)))
NEW = Key("new", bytes(range(1, 33)))
ROW = "platform_connections:7f:access_token"


def test_what_was_encrypted_is_read_back_and_is_not_in_the_stored_value() -> None:
    vault = Vault([NEW])
    stored = vault.encrypt("EAAB-tökén", ROW)
    assert stored.startswith("v1:new:")
    assert "EAAB" not in stored
    assert vault.decrypt(stored, ROW) == ("EAAB-tökén", False)


def test_the_same_text_is_never_stored_twice_alike() -> None:
    vault = Vault([NEW])
    assert len({vault.encrypt("token", ROW) for _ in range(100)}) == 100


def test_a_value_copied_into_another_row_does_not_decrypt() -> None:
    stored = Vault([NEW]).encrypt("token", ROW)
    with pytest.raises(ConfigurationError, match="another row") as caught:
        Vault([NEW]).decrypt(stored, ROW.replace("7f", "80"))
    assert caught.value.code == "CREDENTIAL_UNDECRYPTABLE"


def test_a_value_under_an_older_key_is_read_and_asks_to_be_rewritten() -> None:
    stored = Vault([OLD]).encrypt("token", ROW)
    assert Vault([NEW, OLD]).decrypt(stored, ROW) == ("token", True)


def test_a_value_whose_key_is_gone_names_the_key_and_not_the_value() -> None:
    stored = Vault([OLD]).encrypt("token", ROW)
    with pytest.raises(ConfigurationError, match="no encryption key old") as caught:
        Vault([NEW]).decrypt(stored, ROW)
    assert stored not in str(caught.value)


def test_a_plain_value_is_read_and_asks_to_be_rewritten_when_there_is_a_key() -> None:
    assert Vault([NEW]).decrypt("EAAB", ROW) == ("EAAB", True)
    assert Vault().decrypt("EAAB", ROW) == ("EAAB", False)


@pytest.mark.parametrize("damage", [lambda v: v[:-4], lambda v: v + "AAAA", lambda v: v.replace("v1:new:", "v1:new:!")])
def test_a_damaged_value_is_refused(damage) -> None:
    stored = damage(Vault([NEW]).encrypt("a longer token", ROW))
    with pytest.raises(PenstockError) as caught:
        Vault([NEW]).decrypt(stored, ROW)
    assert caught.value.code == "CREDENTIAL_UNDECRYPTABLE"


def test_one_flipped_bit_is_noticed() -> None:
    version, key_id, nonce, sealed = Vault([NEW]).encrypt("token", ROW).split(":")
    flipped = bytearray(base64.b64decode(sealed))
    flipped[0] ^= 1
    with pytest.raises(PenstockError, match="damaged"):
        Vault([NEW]).decrypt(":".join([version, key_id, nonce, base64.b64encode(flipped).decode()]), ROW)


@pytest.mark.parametrize(
    "text",
    [
        NEW.secret.hex(),
        base64.b64encode(NEW.secret).decode(),
        base64.urlsafe_b64encode(NEW.secret).decode().rstrip("="),
        f"2026-11:{base64.b64encode(NEW.secret).decode()}",
    ],
)
def test_keys_are_read_in_hex_and_base64_with_and_without_an_id(text: str) -> None:
    assert Key.parse(text).secret == NEW.secret


def test_the_old_workers_32_characters_are_a_key() -> None:
    assert Key.parse("0123456789abcdefghijklmnopqrstuv").secret == b"0123456789abcdefghijklmnopqrstuv"


@pytest.mark.parametrize("text", ["", "short", "zz" * 32, "id with space:" + "00" * 32])
def test_what_is_no_key_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(PenstockError) as caught:
        Key.parse(text)
    assert caught.value.code == "CREDENTIAL_INVALID"
    assert not text or text not in str(caught.value)


def test_the_environment_gives_the_newest_key_first_and_the_old_workers_last() -> None:
    vault = Vault.from_environment(
        {"PENSTOCK_ENCRYPTION_KEYS": f"b:{'22' * 32}, a:{'11' * 32}", "ENCRYPTION_KEY": "33" * 32}
    )
    assert vault.encrypt("token", ROW).startswith("v1:b:")
    oldest = Vault([Key.parse("33" * 32)]).encrypt("token", ROW)
    assert vault.decrypt(oldest, ROW) == ("token", True)


def test_the_old_key_alone_encrypts_too() -> None:
    vault = Vault.from_environment({"ENCRYPTION_KEY": "33" * 32})
    assert vault.decrypt(vault.encrypt("token", ROW), ROW) == ("token", False)


def test_the_same_key_in_both_variables_is_one_key() -> None:
    vault = Vault.from_environment({"PENSTOCK_ENCRYPTION_KEYS": "33" * 32, "ENCRYPTION_KEY": "33" * 32})
    assert vault.can_encrypt


def test_two_keys_of_one_id_are_refused() -> None:
    with pytest.raises(PenstockError, match="same id"):
        Vault([Key("a", bytes(32)), Key("a", bytes(range(32)))])


def test_without_a_key_nothing_is_encrypted() -> None:
    with pytest.raises(ConfigurationError, match="PENSTOCK_ENCRYPTION_KEYS"):
        Vault().encrypt("token", ROW)


def test_neither_keys_nor_vault_show_a_secret() -> None:
    shown = repr(NEW) + repr(Vault([NEW, OLD]))
    assert "new" in shown
    assert NEW.secret.hex() not in shown
    assert repr(NEW.secret) not in shown


def test_a_generated_key_can_be_used() -> None:
    assert len(Key.parse(Key.generate()).secret) == 32
