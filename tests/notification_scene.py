"""What tests of the notification queue play with: configurations, rows, drains against the sandbox."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import requests
from psycopg.rows import dict_row

from penstock.clients.credentials import Credentials
from penstock.clients.slack import SlackClient
from penstock.jobs.notifications import Courier, Drain, Notice, NotificationStore, Orders, Tally
from penstock.warehouse.limits import SharedBreaker
from penstock.warehouse.session import Warehouse

ALERTS, REPORTS = "C00ALERTS", "C0REPORTS"
TEMPLATE = "Request *{{request_title}}* is {{new_status}}"


@dataclass
class Scene:
    """A queue in a warehouse, and Slack at `sandbox_url`."""

    warehouse: Warehouse
    sandbox_url: str
    token: str
    notices: list[Notice] = field(default_factory=list)

    def rows(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        with self.warehouse.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def person(self, slack_id: str | None) -> str:
        (row,) = self.rows("insert into profiles (id, slack_id) values (gen_random_uuid(), %s) returning id", slack_id)
        return str(row["id"])

    def config(self, channel: str | None = ALERTS, template: str | None = TEMPLATE, **columns: Any) -> str:
        """A configuration; its id."""
        values = {"entity_type": "request", "event_type": "status_change", "channel_id": channel, "template": template}
        values |= columns
        names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
        (row,) = self.rows(f"insert into notification_config ({names}) values ({marks}) returning id", *values.values())
        return str(row["id"])

    def insert(self, config: str | None, data: Any = None, **columns: Any) -> str:
        """A row as a stranger inserts it; its id."""
        event = {"request_title": "Spring", "new_status": "completed"} if data is None else data
        values = {"config_id": config, "entity_id": uuid.uuid4(), "entity_type": "request"} | columns
        names, marks = ", ".join((*values, "event_data")), ", ".join(["%s"] * (len(values) + 1))
        (row,) = self.rows(
            f"insert into notification_queue ({names}) values ({marks}) returning id",
            *values.values(),
            json.dumps(event),
        )
        return str(row["id"])

    def fill(self, config: str, count: int) -> list[str]:
        """Rows numbered from 0, in one statement; their ids in order."""
        self.rows(
            "insert into notification_queue (config_id, entity_id, entity_type, event_data) "
            "select %s::uuid, gen_random_uuid(), 'request', jsonb_build_object('request_title', g, 'new_status', 'x') "
            "from generate_series(0, %s::int - 1) as g order by g",
            config,
            count,
        )
        rows = self.rows("select id::text from notification_queue where config_id = %s::uuid order by seq", config)
        return [row["id"] for row in rows]

    def row(self, identity: str) -> dict[str, Any]:
        (row,) = self.rows("select * from notification_queue where id = %s::uuid", identity)
        return row

    def states(self) -> dict[str, int]:
        return dict(Counter(row["state"] for row in self.rows("select state from notification_queue")))

    def store(self, holder: str = "test", lease: float = 120.0) -> NotificationStore:
        return NotificationStore(self.warehouse, holder, lease=timedelta(seconds=lease))

    def client(self) -> SlackClient:
        return SlackClient(Credentials(f"{self.sandbox_url}/slack/api/", self.token))

    def drain(self, store: NotificationStore | None = None, **orders: Any) -> Tally:
        """Drain until nothing is due within some seconds."""
        given = {"residence": 0.0, "horizon": 1.1, "threads": 4} | orders
        courier = Courier(self.client(), SharedBreaker(self.warehouse, cooldown=0.2))
        drain = Drain(store or self.store(), courier, Orders(**given), on_notice=self.notices.append)
        return drain.run()

    def messages(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = requests.get(f"{self.sandbox_url}/sandbox/slack/messages", timeout=10).json()
        return told

    def seen(self) -> dict[str, list[str]]:
        """Channel -> the ids of the rows whose messages are there, in their order. Asserts that none is there twice."""
        told = requests.get(f"{self.sandbox_url}/sandbox/slack/seen", timeout=10).json()
        assert told["repeated"] == {}
        channels: dict[str, list[str]] = told["channels"]
        return channels

    def be_ready(self) -> None:
        """Let all lanes be due and all leases be over, instead of waiting for it."""
        self.rows("update penstock.notification_lanes set next_send_at = now(), leased_until = null")
