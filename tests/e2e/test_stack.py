"""The commands themselves, on a state folder of their own: everything real, the vendors played by the sandbox."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from stack import keys, private_files
from stack.home import PROJECT, Home
from stack.postgres import EmbeddedPostgres
from tests.running_stack import START_SECONDS, dags_folder, environment, start_up, wait_for

DEMO_SECONDS = 540
DAG_FILES = ("platform_etl.py", "warehouse_migrate.py", "retention.py")
"""With lanes, on its own, with params of the demo's. The others have tests of their own."""

COMMAND_SECONDS = 240


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """Not below pytest's own folder: under root Postgres runs as a user who cannot enter that."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-stack-"))
    folder.chmod(0o711)
    yield Home(folder)
    run("down", Home(folder))
    shutil.rmtree(folder)


def run(command: str, home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stack", command, *arguments],
        env=environment(home.root, PENSTOCK_DAGS_DIR=dags_folder(home.root, *DAG_FILES)),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEMO_SECONDS,
    )


def left_running(home: Home) -> list[str]:
    """Processes that mention the state folder, in their command line or their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.environ().get("PENSTOCK_HOME", "")]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(home.root) in word for word in words):
            found.append(" ".join(words))
    return found


@pytest.fixture(scope="module")
def first_demo(home: Home) -> subprocess.CompletedProcess[str]:
    return run("demo", home)


@pytest.fixture(scope="module")
def report(home: Home, first_demo: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return private_files.read_json(home.report_file)


def test_the_demo_succeeds_and_leaves_nothing_running(
    home: Home, first_demo: subprocess.CompletedProcess[str], report: dict[str, Any]
) -> None:
    assert first_demo.returncode == 0, first_demo.stdout + first_demo.stderr
    assert report["ok"] is True
    assert report["problems"] == []
    assert left_running(home) == []
    assert not home.state_file.exists()


def test_the_demo_says_what_stands_in_and_shows_progress(first_demo: subprocess.CompletedProcess[str]) -> None:
    assert "warehouse: embedded Postgres (WAREHOUSE_URL is not set)" in first_demo.stdout
    assert "Klaviyo: sandbox (KLAVIYO_API_KEY is not set)" in first_demo.stdout
    assert re.search(r"\[ +\d+ s\] accounts: \d+ being read", first_demo.stdout)
    assert "OK: every DAG run succeeded and every difference is 0" in first_demo.stdout


def test_every_dag_ran(report: dict[str, Any]) -> None:
    assert {run["dag_id"] for run in report["dag_runs"]} >= {
        *("platform_etl__meta_ads", "platform_etl__ga4", "platform_etl__klaviyo"),
        *("platform_etl_queue", "warehouse_migrate", "retention"),
    }
    assert {run["state"] for run in report["dag_runs"]} == {"success"}
    assert all(run["seconds"] > 0 for run in report["dag_runs"])


def test_every_account_was_read_and_agrees_with_its_vendor(report: dict[str, Any]) -> None:
    assert {account["source"] for account in report["accounts"]} == {"meta_ads", "ga4", "klaviyo"}
    assert len(report["accounts"]) == 9
    for account in report["accounts"]:
        assert account["requests"] > 0
        assert account["staged"] > 0
        assert sum(account["vendor_totals"].values()) > 0
        assert account["warehouse_totals"] == account["vendor_totals"]
        assert set(account["difference"].values()) == {0.0}


def test_malformed_records_were_rejected_and_harmed_nothing(report: dict[str, Any]) -> None:
    assert sum(account["rejected"] for account in report["accounts"]) > 0


def test_time_and_memory_are_stated(report: dict[str, Any]) -> None:
    assert 0 < report["started_in_seconds"] < report["seconds"] < DEMO_SECONDS
    assert report["peak_memory_mb"]["all"] > report["peak_memory_mb"]["scheduler"] > 0


@pytest.fixture(scope="module")
def second_demo(home: Home, first_demo: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    return run("demo", home)


def test_a_second_demo_loads_only_what_changed(
    home: Home, report: dict[str, Any], second_demo: subprocess.CompletedProcess[str]
) -> None:
    assert second_demo.returncode == 0, second_demo.stdout + second_demo.stderr
    again = private_files.read_json(home.report_file)

    for before, after in zip(report["accounts"], again["accounts"], strict=True):
        assert after["staged"] <= before["staged"] * 0.01, (after["source"], after["account_id"])
        assert after["vendor_totals"] == before["vendor_totals"]


@pytest.fixture(scope="module")
def running(home: Home, second_demo: subprocess.CompletedProcess[str]) -> Iterator[subprocess.Popen[bytes]]:
    """`up` in the folder that the demos have left."""
    process, log = start_up(home.root, PENSTOCK_DAGS_DIR=dags_folder(home.root, *DAG_FILES))
    wait_for(process, log, lambda said: "Ctrl-C stops everything" in said)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


def test_up_prints_where_to_log_in(home: Home, running: subprocess.Popen[bytes]) -> None:
    said = (home.root / "up.log").read_text()

    password = keys.load_or_make(home.keys_file).admin_password
    assert re.search(rf"Airflow: http://127\.0\.0\.1:\d+  login: admin  password: {re.escape(password)}\n", said)


def test_the_dags_that_the_demo_has_paused_go_on(home: Home, running: subprocess.Popen[bytes]) -> None:
    listed = run("airflow", home, "--", "dags", "list", "--output", "json")

    assert listed.returncode == 0, listed.stdout + listed.stderr
    paused = {dag["dag_id"]: dag["is_paused"] for dag in json.loads(listed.stdout[listed.stdout.index("[{") :])}
    assert "platform_etl__klaviyo" in paused
    assert not any(value in (True, "True") for value in paused.values()), paused
    assert not home.paused_file.exists()


def test_a_second_stack_in_the_same_folder_is_refused(home: Home, running: subprocess.Popen[bytes]) -> None:
    refused = run("up", home)

    assert refused.returncode == 1
    assert "runs in" in refused.stderr
    assert "make down" in refused.stderr


def test_status_shows_services_runs_and_syncs(home: Home, running: subprocess.Popen[bytes]) -> None:
    shown = run("status", home)

    assert shown.returncode == 0, shown.stdout + shown.stderr
    for name in ("sandbox", "api-server", "scheduler", "dag-processor", "triggerer"):
        assert re.search(rf"^{name} +\d+ +running", shown.stdout, re.MULTILINE), name
    assert "platform_etl__klaviyo" in shown.stdout
    assert "SUCCEEDED" in shown.stdout


def test_connections_are_tried_one_by_one(home: Home, running: subprocess.Popen[bytes]) -> None:
    tried = run("test-connections", home)

    assert tried.returncode == 0, tried.stdout + tried.stderr
    lines = tried.stdout.splitlines()
    assert sum(" ok " in line and line.startswith("account ") for line in lines) == 12
    assert {line.split()[1] for line in lines if line.startswith("connection ")} == {
        *(
            "warehouse",
            "vault",
            "meta_ads",
            "ga4",
            "klaviyo",
            "google_ads",
            "google_calendar",
            "nivoda",
            "slack",
            "steam",
        )
    }


def test_backfill_makes_a_run_per_day_and_waits_for_them(home: Home, running: subprocess.Popen[bytes]) -> None:
    done = run("backfill", home, "ga4", "2026-01-10", "2026-01-11")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "platform_etl__ga4: 2 success" in done.stdout


def test_a_shell_that_sources_the_file_has_airflow(home: Home, running: subprocess.Popen[bytes]) -> None:
    answered = subprocess.run(
        ["bash", "-c", f"source '{home.env_file}' && airflow connections get klaviyo --output json"],
        env={"PATH": os.defpath, "HOME": os.environ.get("HOME", "/")},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_SECONDS,
    )

    assert answered.returncode == 0, answered.stderr
    assert json.loads(answered.stdout)[0]["conn_type"] == "klaviyo"


def test_a_killed_service_and_a_killed_postgres_come_back(home: Home, running: subprocess.Popen[bytes]) -> None:
    state = private_files.read_json(home.state_file)
    triggerer = next(service for service in state["services"] if service["name"] == "triggerer")
    os.kill(triggerer["pid"], signal.SIGKILL)
    cluster = EmbeddedPostgres(
        home.cluster("warehouse"), durable=True, password=keys.load_or_make(home.keys_file).warehouse_password
    )
    cluster.kill()

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        again = private_files.read_json(home.state_file)
        pids = {service["name"]: service["pid"] for service in again["services"]}
        if pids["triggerer"] != triggerer["pid"] and cluster.running:
            break
        time.sleep(0.5)

    assert pids["triggerer"] != triggerer["pid"]
    with psycopg.connect(cluster.dsn("warehouse")) as connection:
        row = connection.execute("select count(*) from core_warehouse.etl_runs").fetchone()
    assert row is not None
    assert row[0] > 0


def test_ctrl_c_ends_everything(home: Home, running: subprocess.Popen[bytes]) -> None:
    running.send_signal(signal.SIGINT)

    assert running.wait(timeout=120) == 0
    assert left_running(home) == []


def test_what_a_killed_stack_leaves_is_ended_by_the_next_start(home: Home) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "stack", "airflow", "--", "version"], env=environment(home.root), cwd=PROJECT
    )
    deadline = time.monotonic() + START_SECONDS
    while not private_files.read_json(home.state_file).get("services"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert left_running(home) != []

    again = run("migrate", home)

    assert again.returncode == 0, again.stderr
    assert "ending sandbox of a stack that was killed" in again.stdout
    # The `airflow` command itself was nobody's service: it ends when it is done.
    deadline = time.monotonic() + 30
    while left_running(home) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left_running(home) == []
