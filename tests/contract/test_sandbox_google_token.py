"""google-auth against the sandbox's token endpoint, unchanged."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import requests
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request
from google.oauth2 import credentials, service_account

from tests.sandbox_fixture import Sandbox

SCOPE = "https://www.googleapis.com/auth/analytics.readonly"


def info(sandbox: Sandbox) -> dict[str, Any]:
    account = next(each for each in sandbox.accounts() if each["platform"] == "GA4")
    found: dict[str, Any] = json.loads(account["credentials"]["service_account_json"])
    return found


def test_a_service_account_gets_a_token_for_an_hour(sandbox: Sandbox) -> None:
    given = service_account.Credentials.from_service_account_info(info(sandbox), scopes=[SCOPE])
    given.refresh(Request())
    token = sandbox.state.tokens.valid(given.token)
    assert token is not None
    assert token.scopes == {SCOPE}
    assert 3590 <= token.expires_at - time.time() <= 3600
    assert sandbox.state.tokens.valid(given.token + "x") is None


def test_a_token_outlives_a_restart_of_the_sandbox(sandbox: Sandbox) -> None:
    from sandbox.tokens import Tokens

    token = sandbox.state.tokens.issue("somebody", frozenset({SCOPE}))
    assert Tokens(sandbox.state.seed, sandbox.state.clock).valid(token) is not None
    assert Tokens(sandbox.state.seed + 1, sandbox.state.clock).valid(token) is None


def test_a_token_ends(sandbox: Sandbox) -> None:
    token = sandbox.state.tokens.issue("somebody", frozenset({SCOPE}), lifetime=-1)
    assert sandbox.state.tokens.valid(token) is None


def test_an_assertion_signed_with_another_key_is_refused(sandbox: Sandbox) -> None:
    from sandbox.state import State

    other = State.create(seed=sandbox.state.seed + 1).tokens.service_account(sandbox.token_url)
    forged = {**info(sandbox), "private_key": other["private_key"]}
    given = service_account.Credentials.from_service_account_info(forged, scopes=[SCOPE])
    with pytest.raises(RefreshError, match="Invalid JWT Signature"):
        given.refresh(Request())


def test_an_unknown_account_is_refused(sandbox: Sandbox) -> None:
    stranger = {**info(sandbox), "client_email": "nobody@example.com"}
    given = service_account.Credentials.from_service_account_info(stranger, scopes=[SCOPE])
    with pytest.raises(RefreshError, match="account not found") as raised:
        given.refresh(Request())
    assert raised.value.retryable is False


def test_a_refresh_token_gets_an_access_token(sandbox: Sandbox) -> None:
    google = sandbox.get("credentials")["google"]
    given = credentials.Credentials(
        None,
        refresh_token=google["refresh_token"],
        token_uri=sandbox.token_url,
        client_id=google["client_id"],
        client_secret=google["client_secret"],
    )
    given.refresh(Request())
    assert sandbox.state.tokens.valid(given.token) is not None


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({}, 400, "invalid_request"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "a.b.c"}, 400, "invalid_request"),
        ({"grant_type": "refresh_token", "client_id": "x"}, 401, "invalid_client"),
    ],
)
def test_a_wrong_grant_is_refused(sandbox: Sandbox, form: dict[str, str], status: int, error: str) -> None:
    answer = requests.post(sandbox.token_url, data=form, timeout=5)
    assert (answer.status_code, answer.json()["error"]) == (status, error)


def test_a_fault_makes_the_grant_invalid(sandbox: Sandbox) -> None:
    sandbox.faults({"vendor": "google", "action": "expired_token", "times": 1})
    given = service_account.Credentials.from_service_account_info(info(sandbox), scopes=[SCOPE])
    with pytest.raises(RefreshError, match="invalid_grant"):
        given.refresh(Request())
