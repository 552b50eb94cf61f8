"""The environment in which the stack's processes run, Airflow's above all."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack import private_files
from stack.home import PROJECT, Home
from stack.keys import Keys
from stack.ports import HOST

ADMIN = "admin"

# Two cores are enough with these (measured: 32 workers on two cores take 6 to 18 s per task, four take 0.4 s);
# the defaults of Airflow are for servers.
_TUNING: Mapping[str, str] = {
    "AIRFLOW__CORE__PARALLELISM": "4",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.25",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    # A killed task is found missing after this many seconds without a heartbeat (they come every 5 s).
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "60",
    "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
    # A trigger on an asset is registered by a parse: a longer interval would delay the queue's first start.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
    "AIRFLOW__API__WORKERS": "1",
    "AIRFLOW__API__HOST": HOST,
    # The execution API is built at its first request, which takes longer than the default of 5 s.
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
    "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
}

# Inherited, they would change Airflow's processes: without bytecode every one of them compiles Airflow again.
_DROPPED = ("PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONPATH")


@dataclass(frozen=True, slots=True)
class AirflowPorts:
    """Where Airflow's servers listen."""

    api: int
    worker_logs: int
    trigger_logs: int


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without settings of Airflow and Python that belong to another installation."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _DROPPED and not (name.startswith("AIRFLOW__") or name == "AIRFLOW_HOME")
    }


def airflow(
    home: Home,
    *,
    base: Mapping[str, str],
    keys: Keys,
    ports: AirflowPorts,
    metadata_dsn: str,
    dags_folder: Path = PROJECT / "dags",
) -> dict[str, str]:
    """Everything an `airflow` process needs. `base`: what it inherits."""
    url = f"http://{HOST}:{ports.api}"
    ours = {
        "AIRFLOW_HOME": str(home.airflow),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__FERNET_KEY": keys.fernet_key,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{ADMIN}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home.passwords_file),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": metadata_dsn.replace("postgresql://", "postgresql+psycopg2://", 1),
        "AIRFLOW__API__PORT": str(ports.api),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__SECRET_KEY": keys.api_secret_key,
        "AIRFLOW__API_AUTH__JWT_SECRET": keys.jwt_secret,
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home.logs / "tasks"),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(home.logs / "dag_processor"),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(ports.worker_logs),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports.trigger_logs),
        "PENSTOCK_HOME": str(home.root),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)]),
    }
    return {**inherited(base), **_TUNING, **ours}


def write_passwords(home: Home, keys: Keys) -> None:
    """The file that the simple auth manager reads: user -> password, in plain text."""
    private_files.write_text(home.passwords_file, json.dumps({ADMIN: keys.admin_password}))


def write_shell_file(home: Home, environment: Mapping[str, str]) -> None:
    """What a shell has to source so that `airflow` works in it: our variables alone, not the caller's."""
    names = sorted(name for name in environment if name.startswith(("AIRFLOW", "PENSTOCK_")))
    lines = [f"unset {' '.join(_DROPPED)}", f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"']
    lines += [f"export {name}={shlex.quote(environment[name])}" for name in names]
    private_files.write_text(home.env_file, "\n".join(lines) + "\n")
