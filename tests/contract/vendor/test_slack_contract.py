"""Slack's OpenAPI file against the sandbox's answers.

The file is of 2021: errors that Slack has named since (invalid_blocks, ratelimited) are not in it and not checked here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests

from sandbox import slack
from tests.sandbox_fixture import Sandbox


@pytest.fixture(scope="module")
def openapi(contracts: Path) -> Mapping[str, Any]:
    contract: Mapping[str, Any] = json.loads((contracts / "slack_openapi.json").read_text())
    return contract


def check(openapi: Mapping[str, Any], method: str, outcome: str, body: Mapping[str, Any]) -> None:
    [operation] = openapi["paths"][f"/{method}"].values()
    schema = {**operation["responses"][outcome]["schema"], "definitions": openapi["definitions"]}
    jsonschema.Draft4Validator(schema).validate(body)


def call(sandbox: Sandbox, method: str, token: str | None = None, **form: str) -> Mapping[str, Any]:
    headers = {"Authorization": f"Bearer {slack.token(sandbox.state) if token is None else token}"}
    body: Mapping[str, Any] = requests.post(sandbox.slack_url + method, headers=headers, data=form, timeout=5).json()
    return body


def test_a_sent_message_validates(openapi: Mapping[str, Any], sandbox: Sandbox) -> None:
    body = call(sandbox, "chat.postMessage", channel="C00ALERTS", text="hello")
    assert body["ok"] is True
    check(openapi, "chat.postMessage", "200", body)


def test_who_the_token_belongs_to_validates(openapi: Mapping[str, Any], sandbox: Sandbox) -> None:
    check(openapi, "auth.test", "200", call(sandbox, "auth.test"))


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"channel": "C0NOWHERE", "text": "x"}, "channel_not_found"),
        ({"channel": "C0ARCHIVED", "text": "x"}, "is_archived"),
        ({"channel": "C0PRIVATE", "text": "x"}, "not_in_channel"),
        ({"channel": "C00ALERTS"}, "no_text"),
        ({"channel": "C00ALERTS", "text": "x" * 40_001}, "msg_too_long"),
    ],
)
def test_refusals_of_messages_validate(
    openapi: Mapping[str, Any], sandbox: Sandbox, form: dict[str, str], error: str
) -> None:
    body = call(sandbox, "chat.postMessage", **form)
    assert body["error"] == error
    check(openapi, "chat.postMessage", "default", body)


@pytest.mark.parametrize("token", ["", "xoxb-wrong", "revoked"])
def test_refusals_of_tokens_validate(openapi: Mapping[str, Any], sandbox: Sandbox, token: str) -> None:
    given = slack.revoked_token(sandbox.state) if token == "revoked" else token
    body = call(sandbox, "auth.test", given)
    assert body["ok"] is False
    check(openapi, "auth.test", "default", body)
