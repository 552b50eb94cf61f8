from __future__ import annotations

import pytest

from penstock.clients.credentials import Credentials
from penstock.clients.redaction import Redactor

TOKEN = "se+cret/to=ken"


@pytest.mark.parametrize(
    "text",
    [
        f"plain {TOKEN}",
        "https://x.test/a?access_token=se%2Bcret%2Fto%3Dken&fields=id",
        "https://x.test/a?q=se%2Bcret/to%3Dken",
    ],
)
def test_known_secrets_are_masked_however_they_are_quoted(text: str) -> None:
    masked = Redactor([TOKEN])(text)
    assert "cret" not in masked.replace("access_token", "")
    assert "***" in masked


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("GET /me?access_token=EAAabc123&fields=id", "fields=id"),
        ("appsecret_proof=0123456789abcdef", "appsecret_proof="),
        ("Authorization: Klaviyo-API-Key pk_1234567890abcdef", "Klaviyo-API-Key"),
        ("Authorization: Bearer ya29.a0AfH6SMBx-yz", "Bearer"),
        ('{"access_token": "EAAabc123", "id": 1}', '"id": 1'),
        ("the key pk_1234567890abcdef was refused", "was refused"),
        ("xoxb-123456789012-abcdef failed", "failed"),
        ("xapp-1-123456789012-abcdef failed", "failed"),
        ("the grant 1//0a0AfH6SMBx-yz is gone", "is gone"),
        ('{"private_key": "-----BEGIN PRIVATE KEY-----xyz"}', "private_key"),
    ],
)
def test_whatever_looks_like_a_secret_is_masked(text: str, kept: str) -> None:
    masked = Redactor([])(text)
    assert "***" in masked
    assert kept in masked
    for secret in ("EAAabc123", "0123456789abcdef", "1234567890abcdef", "a0AfH6SMBx", "123456789012", "PRIVATE KEY-"):
        assert secret not in masked


def test_ordinary_text_stays_as_it_is() -> None:
    text = "campaign 1234 has no token field; see breakdowns=age"
    assert Redactor(["abc"])(text) == text  # too short to be told apart from ordinary text


def test_credentials_show_their_host_alone() -> None:
    extra = {"service_account": {"private_key": "KEY-MATERIAL"}}
    held = Credentials("https://graph.facebook.com", "EAAsecret", "app-secret", extra)
    assert repr(held) == "Credentials('https://graph.facebook.com')"
    assert str(held) == repr(held)
    assert set(held.secrets()) == {"EAAsecret", "app-secret", "KEY-MATERIAL"}
