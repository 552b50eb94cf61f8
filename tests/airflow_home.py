"""An Airflow of its own for the tests: a temporary home, sqlite, our DAGs and plugins, and no connection but ours.

`prepare` must run before anything imports Airflow, which reads its settings while it is imported.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]

# What a developer's shell or .env may hold and a test must not see.
_FOREIGN = (
    "AIRFLOW",
    "DATABASE_URL",
    "ENCRYPTION_KEY",
    "GA4_",
    "KLAVIYO_",
    "META_",
    "PENSTOCK_ALERT_CHANNEL",
    "PENSTOCK_ENCRYPTION_KEYS",
    "SLACK_",
    "SUPABASE_",
    "WAREHOUSE_",
)


def prepare() -> Path:
    """Points Airflow at a fresh home; returns it. Called again, it returns the same one."""
    if home := os.environ.get("PENSTOCK_TEST_AIRFLOW_HOME"):
        return Path(home)
    if "airflow" in sys.modules:
        raise RuntimeError("Airflow was imported before its settings were made")
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        del os.environ[name]
    home_path = Path(tempfile.mkdtemp(prefix="penstock-airflow-"))
    atexit.register(shutil.rmtree, home_path, ignore_errors=True)
    os.environ.update(_settings(home_path))
    return home_path


def migrate_metadata() -> None:
    """Makes the tables of Airflow's metadata database, in a process of its own as an operator would."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"airflow db migrate failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def _settings(home: Path) -> dict[str, str]:
    return {
        "PENSTOCK_TEST_AIRFLOW_HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": "",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__API__BASE_URL": "http://airflow.example",
        "AIRFLOW__API_AUTH__JWT_SECRET": "only for these tests, and long enough for HMAC with SHA-512, which wants 64",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    }
