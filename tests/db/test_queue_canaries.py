"""Planted secrets, vendors that repeat them in every answer, and everything that anybody could read afterwards."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock.clients.credentials import Credentials
from penstock.clients.google_calendar import GoogleCalendarClient
from penstock.clients.slack import SlackClient
from penstock.warehouse.session import Warehouse
from tests import notification_scene
from tests.calendar_scene import KEY, Scene
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db
SLACK_TOKEN = "xoxb-canary-2b1c7d9e40a8"


@dataclass
class Answer:
    """As much of a `requests.Response` as the clients look at."""

    status_code: int
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Repeater:
    """A session whose vendor answers every call with an error that repeats the call's secrets."""

    def __init__(self, status: int, told: Any) -> None:
        self.status = status
        self.told = told

    def post(self, url: str, headers: dict[str, str], **body: Any) -> Answer:
        return Answer(self.status, json.dumps(self.told(headers["Authorization"])).encode())

    def request(self, method: str, url: str, headers: dict[str, str], **more: Any) -> Answer:
        return self.post(url, headers)

    def get(self) -> Repeater:
        return self

    def close(self) -> None:
        """Nothing to close."""


def everything_stored(warehouse: Warehouse) -> str:
    """All rows of all tables, as text."""
    with warehouse.connection() as connection:
        tables = connection.execute(
            "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname in ('public', 'penstock')"
        ).fetchall()
        rows = [connection.execute(f"select to_jsonb(t)::text from {table} as t").fetchall() for (table,) in tables]
    return str(rows)


@pytest.mark.parametrize("status", [200, 400, 500])
def test_slack_s_token_is_found_nowhere(
    warehouse: Warehouse, sandbox: Sandbox, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    scene = RepeatingSlack(warehouse, sandbox.url, SLACK_TOKEN, status=status)
    row = scene.insert(scene.config())
    tally = scene.drain(horizon=0.0)
    assert "bad token" in scene.row(row)["last_error"] or status == 500
    readable = [everything_stored(warehouse), caplog.text, str(scene.notices), json.dumps(tally.as_json())]
    assert [text for text in readable if SLACK_TOKEN in text] == []


@dataclass
class RepeatingSlack(notification_scene.Scene):
    status: int = 200

    def client(self) -> SlackClient:
        client = SlackClient(Credentials("https://slack.test/api/", self.token))
        repeater: Any = Repeater(self.status, lambda secret: {"ok": False, "error": f"bad token {secret}"})
        client._session = repeater
        return client


@pytest.mark.parametrize("status", [400, 401, 403, 500])
def test_google_s_tokens_and_our_keys_are_found_nowhere(
    warehouse: Warehouse, sandbox: Sandbox, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    scene = Scene(warehouse, sandbox.url)
    workspace = scene.connect_workspaces()[0]
    client_secret = scene.get("accounts")["client_secret"]

    def open_repeating(connection_id: str, refresh_token: str) -> GoogleCalendarClient:
        client = scene.open_client(connection_id, refresh_token)
        client._bearer()  # from the real endpoint
        told = f"{refresh_token} {client_secret}"
        repeater: Any = Repeater(status, lambda secret: {"error": {"message": f"refused: {secret} {told}"}})
        client._sessions = repeater
        client._refresh = lambda: None  # type: ignore[method-assign]
        return client

    scene.upsert(workspace, 1)
    tally = scene.run(open_client=open_repeating)
    told = everything_stored(warehouse) + str(scene.notices)
    assert "refused" in told
    secrets = {*scene.secrets, workspace.refresh_token, client_secret, KEY, KEY.partition(":")[2]}
    assert any(secret.startswith("ya29.") for secret in secrets)
    readable = [told, caplog.text, json.dumps(tally.summary())]
    assert [secret for secret in secrets for text in readable if secret in text] == []
