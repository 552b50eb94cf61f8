"""`docs/roles.sql`: both drains work with the rights of their role, and what the role may not do is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from penstock.warehouse.session import Warehouse
from sandbox.slack import token
from tests import notification_scene
from tests.calendar_scene import Scene
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db
ROLES = Path(__file__).parents[2] / "docs" / "roles.sql"


class Limited(Warehouse):
    """A door whose sessions have the rights of a role."""

    role = ""

    def _connect_once(self) -> psycopg.Connection:
        connection = super()._connect_once()
        if self.role:
            connection.execute(f"set role {self.role}")
        return connection


@pytest.fixture
def limited(fresh_database: str) -> Iterator[Limited]:
    with psycopg.connect(fresh_database, autocommit=True) as owner:
        for _ in range(2):  # it may be repeated
            owner.execute(ROLES.read_text())
    with Limited(fresh_database) as door:
        yield door


def work_as(door: Limited, role: str) -> None:
    door.close()
    door.role = role


def refused(door: Limited, statement: str) -> None:
    with door.connection() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


def test_notifications_are_sent_with_few_rights(limited: Limited, sandbox: Sandbox) -> None:
    scene = notification_scene.Scene(limited, sandbox.url, token(sandbox.state))
    scene.insert(scene.config(channel=None, user_id=scene.person("U0ANNA")))
    scene.insert(scene.config(channel=None))
    work_as(limited, "penstock_notify")
    scene.drain()
    store = scene.store()
    store.pause("channel", "C00ALERTS", "test", "test")
    store.resume("channel", "C00ALERTS")
    assert scene.states() == {"sent": 1, "dead": 1}
    refused(limited, "delete from notification_queue")
    refused(limited, "update notification_queue set event_data = '{}'")
    refused(limited, "update notification_config set template = '<!channel>'")
    refused(limited, "select first_name from profiles")
    refused(limited, "select refresh_token_encrypted from google_connections")


def test_the_calendar_is_kept_with_few_rights(limited: Limited, sandbox: Sandbox) -> None:
    scene = Scene(limited, sandbox.url)
    workspace = scene.connect_workspaces()[0]
    scene.upsert(workspace, 1, "one")
    scene.enqueue(workspace, "REBUILD_ALL", {"workspaceId": workspace.workspace_id})
    work_as(limited, "penstock_calendar")
    scene.run()
    assert set(scene.states()) <= {"COMPLETED", "SUPERSEDED"}
    scene.post("revoke", {"email": workspace.email})
    scene.upsert(workspace, 2, "two")
    scene.run()
    assert [reason for reason, _ in scene.dead()] == ["OAUTH_INVALID"]
    refused(limited, "delete from sync_outbox")
    refused(limited, "update google_connections set workspace_id = gen_random_uuid()")
    refused(limited, "select event_data from notification_queue")
