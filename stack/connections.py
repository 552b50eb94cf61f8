"""`make test-connections`: Airflow's connections and the registered accounts, tried one by one."""

from __future__ import annotations

import subprocess
import sys

from stack.home import PROJECT
from stack.local import LocalStack


def test(stack: LocalStack) -> int:
    """One line each: ok, or the code, the cause and what to do. Status 0 when all are well."""
    values = {**stack.airflow_environment(), "PYTHONPATH": str(PROJECT / "plugins"), "PYTHONWARNINGS": "ignore"}
    values.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")
    command = [sys.executable, "-m", "penstock.hooks.check"]
    return subprocess.run(command, env=values, cwd=PROJECT, check=False).returncode
