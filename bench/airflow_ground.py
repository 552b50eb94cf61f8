"""What `make up` starts, in a folder of its own, with the notification queue's DAG alone: for measurements."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import requests

from stack.airflow_api import AirflowApi
from stack.home import PROJECT, Home
from stack.local import LocalStack
from stack.terminal import speaker

DAG = "notification_drain"
DAG_FILE = "notification_drain.py"
TRIGGER = "penstock_notification_queued"
SECONDS = 300.0
LIVE = frozenset({"scheduled", "queued", "running", "restarting", "up_for_retry"})

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class AirflowGround:
    """A running stack, and the three things that a measurement asks: the queue, Slack, Airflow."""

    stack: LocalStack
    api: AirflowApi

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.warehouse_dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def configure(self, channel: str, template: str = "{{n}}") -> str:
        """A configuration that sends to this channel; its id."""
        ((config_id,),) = self.sql(
            "insert into notification_config (entity_type, event_type, channel_id, template) "
            "values ('request', 'status_change', %s, %s) returning id::text",
            channel,
            template,
        )
        return str(config_id)

    def insert(self, config_id: str, number: int) -> str:
        """A row as a producer writes it; its id."""
        ((row_id,),) = self.sql(
            "insert into notification_queue (config_id, entity_id, entity_type, event_data) "
            "values (%s::uuid, gen_random_uuid(), 'request', %s::jsonb) returning id::text",
            config_id,
            json.dumps({"n": number}),
        )
        return str(row_id)

    def messages(self) -> list[dict[str, Any]]:
        """What people see in Slack."""
        answer = requests.get(f"{self.stack.sandbox_url}/sandbox/slack/messages", timeout=30)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def stamps(self) -> dict[str, list[float]]:
        """Row id -> when Slack took a message for it, by Slack's clock."""
        stamps: dict[str, list[float]] = {}
        for message in self.messages():
            key = message.get("metadata", {}).get("event_payload", {}).get("notification_id")
            if key:
                stamps.setdefault(key, []).append(float(message["ts"]))
        return stamps

    def resident(self) -> str | None:
        """Who stays for its minute."""
        rows = self.sql("select leased_by from penstock.drain_residents where leased_until > clock_timestamp()")
        return str(rows[0][0]) if rows else None

    def live_tasks(self) -> list[dict[str, Any]]:
        """Task instances of the drain that run or are about to."""
        runs = [run for run in self.api.dag_runs(DAG) if run["state"] in ("queued", "running")]
        tasks = [task for run in runs for task in self.api.task_instances(DAG, str(run["dag_run_id"]))]
        return [task for task in tasks if task["state"] in LIVE or task["state"] is None]

    def state(self) -> dict[str, Any]:
        """What somebody wants to know when nothing happens."""
        return {
            "processes": self.stack.processes(),
            "resident": self.resident(),
            "runs": [(run["dag_run_id"], run["state"]) for run in self.api.dag_runs(DAG)][-5:],
            "tasks": [(task["dag_run_id"], task["state"]) for task in self.live_tasks()],
            "queue": self.sql("select state, count(*) from notification_queue group by 1"),
            "pauses": self.sql("select scope, scope_key, reason, paused_until from penstock.notification_pauses"),
            "circuits": self.sql("select * from penstock.circuit_breakers"),
            "logs": {str(log.parent.parent.name): log.read_text()[-3000:] for log in self._newest_logs()},
            "paused": [dag["is_paused"] for dag in self.api.dags() if dag["dag_id"] == DAG],
        }

    def _newest_logs(self) -> list[Path]:
        logs = (self.stack.home.logs / "tasks" / f"dag_id={DAG}").rglob("attempt=*.log")
        return sorted(logs, key=lambda log: log.stat().st_mtime)[-3:]


def wait_for(look: Callable[[], Found | None], what: str, seconds: float = SECONDS, pause: float = 0.25) -> Found:
    """What `look` finds, as soon as it does. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(pause)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s")


@contextlib.contextmanager
def airflow_ground(replaced: Mapping[str, str] | None = None) -> Iterator[AirflowGround]:
    """A stack whose drain DAG is known to Airflow, gone at the end.

    replaced: texts of the DAG file and what stands in their place.
    """
    folder = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    folder.chmod(0o711)  # the server's own user must get through
    dags = folder / "dags"
    dags.mkdir()
    text = (PROJECT / "dags" / DAG_FILE).read_text()
    for old, new in (replaced or {}).items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (dags / DAG_FILE).write_text(text)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    values = {**kept, "PENSTOCK_HOME": str(folder), "PENSTOCK_DAGS_DIR": str(dags)}
    stack = LocalStack(Home(folder), values, speaker())
    try:
        with stack.running(), closing(stack.api()) as api:
            ground = AirflowGround(stack, api)
            wait_for(lambda: [dag for dag in api.dags() if dag["dag_id"] == DAG], "the DAG is parsed")
            api.unpause(DAG)
            try:
                yield ground
            except TimeoutError:
                print(json.dumps(ground.state(), default=str, indent=1), flush=True)
                raise
    finally:
        stack.forget()
