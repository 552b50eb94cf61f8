"""From the connection `google_ads`, or an account's own grant, to credentials."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.core.errors import PenstockError
from penstock.hooks.google_ads import GoogleAdsHook

pytestmark = pytest.mark.dags

KEY_FILE = {
    "type": "service_account",
    "client_email": "reader@project.example",
    "private_key": "-----BEGIN PRIVATE KEY-----\nnot a real one\n-----END PRIVATE KEY-----\n",
    "token_uri": "https://oauth2.googleapis.com/token",
}
SHARED = {"refresh_token": "1//shared", "client_id": "id", "client_secret": "secret", "login_customer_id": "111"}


def connect(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> GoogleAdsHook:
    values = {"conn_type": "google_ads", "host": "https://ads.example", "password": "developer", **fields}
    monkeypatch.setenv("AIRFLOW_CONN_GOOGLE_ADS", json.dumps(values))
    return GoogleAdsHook()


def refused(hook: GoogleAdsHook, own: dict[str, str] | None = None) -> PenstockError:
    with pytest.raises(PenstockError) as found:
        hook.credentials(own)
    return found.value


def test_the_connection_serves_accounts_without_a_grant_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = connect(monkeypatch, extra=SHARED).credentials()
    assert credentials.base_url == "https://ads.example"
    assert credentials.extra == {"developer_token": "developer", **SHARED}


def test_an_accounts_own_grant_takes_the_connections_developer_and_oauth_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hook = connect(monkeypatch, extra=SHARED)
    credentials = hook.credentials({"refresh_token": "1//own", "login_customer_id": "222"})
    assert credentials.extra == {
        "developer_token": "developer",
        "login_customer_id": "222",
        "refresh_token": "1//own",
        "client_id": "id",
        "client_secret": "secret",
    }
    token = hook.credentials({"access_token": "ya29.own"})
    assert (token.token, "refresh_token" in token.extra) == ("ya29.own", False)


def test_where_tokens_are_asked_for_is_the_connections_affair_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise whoever can write a row could have refresh tokens sent to himself."""
    hook = connect(monkeypatch, extra={**SHARED, "token_uri": "https://tokens.example"})
    own = {"refresh_token": "1//own", "token_uri": "https://thief.example"}
    assert hook.credentials(own).extra["token_uri"] == "https://tokens.example"
    foreign = {"service_account_json": json.dumps({**KEY_FILE, "token_uri": "http://10.0.0.1/"})}
    assert refused(hook, foreign).code == "CREDENTIAL_INVALID"
    good = {"service_account_json": json.dumps(KEY_FILE)}
    assert hook.credentials(good).extra["service_account"] == KEY_FILE


@pytest.mark.parametrize(
    ("fields", "own", "code"),
    [
        ({"password": None}, {}, "CREDENTIAL_NOT_FOUND"),
        ({}, {}, "CREDENTIAL_NOT_FOUND"),
        ({}, {"refresh_token": "1//own"}, "CREDENTIAL_INVALID"),
        ({"extra": {"service_account_json": "{not json"}}, {}, "CREDENTIAL_INVALID"),
    ],
)
def test_what_is_missing_is_said_without_the_secret(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], own: dict[str, str], code: str
) -> None:
    failure = refused(connect(monkeypatch, **fields), own)
    assert failure.code == code
    assert "1//own" not in str(failure)


def test_the_old_environment_starts_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "GOOGLE_ADS_DEVELOPER_TOKEN": "developer",
        "GOOGLE_ADS_REFRESH_TOKEN": "1//env",
        "GOOGLE_ADS_CLIENT_ID": "id",
        "GOOGLE_ADS_CLIENT_SECRET": "secret",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    credentials = GoogleAdsHook().credentials()
    assert credentials.base_url == "https://googleads.googleapis.com"
    assert credentials.extra["refresh_token"] == "1//env"
    assert set(credentials.secrets()) == {"developer", "1//env", "secret"}
