"""DAGs run for real: Airflow's own task runner, the sandbox over HTTP, a throw-away warehouse."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests import airflow_home

airflow_home.prepare()

import psycopg  # noqa: E402
import pytest  # noqa: E402
from psycopg.rows import dict_row  # noqa: E402

from tests.sandbox_fixture import Sandbox  # noqa: E402

VAULT_KEYS = "22" * 32
CHANNEL = "#alerts"  # one that the sandbox knows


@pytest.fixture(scope="session")
def airflow_metadata() -> None:
    """Airflow's own database, with its tables."""
    airflow_home.migrate_metadata()


@pytest.fixture
def dags(airflow_metadata: None) -> Mapping[str, Any]:
    """Every DAG of the project by id. Parsed for each test, because `dag.test` leaves its params in the DAG."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(airflow_home.PROJECT / "dags"))
    assert bag.import_errors == {}
    assert bag.dags
    return bag.dags


@dataclass
class Ended:
    """How a DAG run ended: its state, and per task the states of its lanes."""

    state: str
    tasks: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, list[str | None]] = field(default_factory=dict)
    tries: dict[str, list[int]] = field(default_factory=dict)
    instances: list[Any] = field(default_factory=list)


@dataclass
class Deployment:
    """Airflow, warehouse and sandbox of one test."""

    dsn: str
    sandbox: Sandbox
    dags: Mapping[str, Any]

    def run(self, dag_id: str, **arguments: Any) -> Ended:
        """`dag.test`: every task in this process, with Airflow's own runner."""
        dag_run = self.dags[dag_id].test(**arguments)
        ended = Ended(str(dag_run.state))
        for ti in sorted(dag_run.get_task_instances(), key=lambda ti: (ti.task_id, ti.map_index)):
            ended.instances.append(ti)
            ended.tasks.setdefault(ti.task_id, []).append(str(ti.state))
            ended.labels.setdefault(ti.task_id, []).append(ti.rendered_map_index)
            ended.tries.setdefault(ti.task_id, []).append(ti.try_number)
        return ended

    def register(self, *platforms: str, spoil: Callable[[dict[str, Any]], None] | None = None) -> list[dict[str, Any]]:
        """Puts the sandbox's accounts into `platform_connections`; returns them. `spoil` may change each before."""
        from penstock.jobs.accounts import register_account
        from penstock.warehouse.session import Warehouse
        from penstock.warehouse.vault import Vault

        vault = Vault.from_environment({"PENSTOCK_ENCRYPTION_KEYS": VAULT_KEYS})
        # The account for measurements has events only, so its totals agree with nothing.
        accounts = [
            account
            for account in self.sandbox.accounts()
            if account["platform"] in platforms and not account["account_id"].startswith("BENCH")
        ]
        with Warehouse(self.dsn) as warehouse:
            for account in accounts:
                if spoil is not None:
                    spoil(account)
                account["connection_id"] = register_account(
                    warehouse, vault, time_zone=None, currency=None, **_registration(account)
                )
        return accounts

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(query, parameters).fetchall()

    def execute(self, statement: str, *parameters: Any) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement, parameters)

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """What Slack was sent, oldest first."""
        messages: list[dict[str, Any]] = self.sandbox.get("slack/messages")
        return messages

    def alerts_a_minute_later(self) -> list[dict[str, Any]]:
        """What Slack was sent when every DAG may speak again: one that fails twice within a minute is heard once."""
        from penstock.alerts import send_held

        self.execute("update penstock.rate_limits set next_free_at = next_free_at - interval '1 minute'")
        send_held()
        return self.alerts


def _registration(account: Mapping[str, Any]) -> dict[str, Any]:
    names = ("platform", "shop_id", "shop_name", "account_id", "account_name", "credentials", "settings")
    return {name: account[name] for name in names}


@pytest.fixture
def deployment(
    dags: Mapping[str, Any], fresh_database: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Deployment:
    """One deployment whose connections all point at the sandbox; it is the present there."""
    from sandbox.slack import token

    sandbox.state.clock.reset()
    vendors = {"meta_ads": "meta", "ga4": "ga4", "klaviyo": "klaviyo"}
    connections: dict[str, dict[str, Any]] = {
        name: {"conn_type": name, "host": sandbox.base_url(path)} for name, path in vendors.items()
    }
    token_uri = {"token_uri": sandbox.token_url}
    connections["google_ads"] = {"conn_type": "google_ads", "host": sandbox.base_url("google_ads"), "extra": token_uri}
    slack_extra = {"base_url": sandbox.slack_url}
    connections["slack"] = {"conn_type": "slack", "password": token(sandbox.state), "extra": slack_extra}
    connections["vault"] = {"conn_type": "generic", "password": VAULT_KEYS}
    for conn_id, fields in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))
    monkeypatch.setenv("WAREHOUSE_URL", fresh_database)
    monkeypatch.setenv("PENSTOCK_ALERT_CHANNEL", CHANNEL)
    return Deployment(fresh_database, sandbox, dags)


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What is counted through Airflow's metrics (StatsD or OpenTelemetry, as Airflow is configured): name -> value."""
    from airflow.sdk.observability import stats

    told: dict[str, float] = {}

    def incr(name: str, count: int = 1, *_: Any, **__: Any) -> None:
        told[name] = told.get(name, 0) + count

    def gauge(name: str, value: float, *_: Any, **__: Any) -> None:
        told[name] = value

    monkeypatch.setattr(stats, "incr", incr)
    monkeypatch.setattr(stats, "gauge", gauge)
    return told
