"""`make status`: what runs, how the DAG runs went, what waits, and how fresh the data are."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg
import requests

from stack import private_files, processes
from stack.environment import ADMIN
from stack.local import LocalStack
from stack.terminal import table

RUNS = 12
SYNCS = 12

_QUEUE = """
select status, count(*) from core_warehouse.etl_runs
where status in ('QUEUED', 'IN_PROGRESS') or created_at > now() - interval '1 day'
group by status order by status
"""
_SYNCS = """
select
    r.platform, coalesce(c.account_name, c.account_id, 'all accounts of ' || r.shop_id), r.status, r.job_type,
    coalesce(r.records_synced, 0), coalesce(to_char(r.completed_at, 'YYYY-MM-DD HH24:MI:SS'), ''),
    coalesce(r.error ->> 'code', '')
from core_warehouse.etl_runs as r
left join public.platform_connections as c on r.connection_id = c.id
order by r.created_at desc
limit %(limit)s
"""


def show(stack: LocalStack) -> int:
    """Print it all. Status 0 when every part is well."""
    state = private_files.read_json(stack.home.state_file)
    print(f"{stack.url}  login: {ADMIN}  password: {stack.keys.admin_password}\n")
    services = [["service", "process", "state", "log"]]
    for service in state["services"]:
        alive = processes.started_at(service["pid"]) == service["started_at"]
        services.append([service["name"], str(service["pid"]), "running" if alive else "down", service["log"]])
    print(table(services), end="\n\n")
    is_well = all(row[2] != "down" for row in services)
    with closing(stack.api()) as api:
        try:
            health = api.health()
        except requests.RequestException as error:
            print(f"Airflow does not answer: {error}\n")
            return 1
        is_well = is_well and all(value == "healthy" for value in health.values())
        print("Airflow: " + ", ".join(f"{name} {value}" for name, value in sorted(health.items())), end="\n\n")
        print(table([["DAG", "run", "state", "seconds"], *map(_run_row, api.newest_dag_runs(RUNS))]), end="\n\n")
    _show_warehouse(stack)
    return 0 if is_well else 1


def _run_row(run: dict[str, Any]) -> list[str]:
    return [run["dag_id"], run["dag_run_id"], run["state"], f"{run['duration'] or 0:.1f}"]


def _show_warehouse(stack: LocalStack) -> None:
    with psycopg.connect(stack.warehouse_dsn, autocommit=True) as connection:
        queue = connection.execute(_QUEUE).fetchall()
        syncs = connection.execute(_SYNCS, {"limit": SYNCS}).fetchall()
    print("runs of the last day: " + (", ".join(f"{count} {status}" for status, count in queue) or "none"), end="\n\n")
    header = ["platform", "account", "status", "job", "records", "completed (UTC)", "error"]
    print(table([header, *([str(value) for value in row] for row in syncs)], frozenset({4})))
