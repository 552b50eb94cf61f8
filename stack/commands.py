"""What each command of `python -m stack` does. Every one returns its exit status."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import signal
import subprocess
import time
from collections.abc import Iterator

import psutil

from penstock.warehouse.migrations import migrate_databases
from stack import backfills, connections
from stack import demo as demonstration
from stack import status as overview
from stack.environment import ADMIN
from stack.home import PROJECT, Home
from stack.local import AlreadyRunning, LocalStack, NotRunning
from stack.settings import read_environment
from stack.terminal import Stopped, speaker

CHECK_SECONDS = 1.0
DOWN_SECONDS = 90.0


def day(text: str) -> dt.date:
    """A day on the command line."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day (YYYY-MM-DD)") from error


def local_stack() -> LocalStack:
    values = read_environment()
    return LocalStack(Home.from_environment(values), values, speaker())


@contextlib.contextmanager
def running_stack() -> Iterator[LocalStack]:
    """The stack that runs already, or one of our own for as long as the command takes."""
    stack = local_stack()
    if stack.is_running_elsewhere():
        yield stack.attach()
        return
    with stack.running():
        yield stack


@contextlib.contextmanager
def prepared_stack() -> Iterator[LocalStack]:
    """Like `running_stack`, for commands that need no service of Airflow."""
    stack = local_stack()
    if stack.is_running_elsewhere():
        yield stack.attach()
        return
    with stack.prepared():
        yield stack


def up(options: argparse.Namespace) -> int:
    """Start everything and stay."""
    stack = local_stack()
    with stack.running():
        demonstration.go_on(stack)
        stack.say(f"Airflow: {stack.url}  login: {ADMIN}  password: {stack.keys.admin_password}")
        stack.say(f"in another shell: `make status`, or `source {stack.home.env_file}` and use `airflow`")
        stack.say("Ctrl-C stops everything")
        try:
            while True:
                time.sleep(CHECK_SECONDS)
                stack.check()
        except Stopped:
            stack.say("stopping")
    stack.say("stopped; the data stay for the next start")
    return 0


def demo(options: argparse.Namespace) -> int:
    """Run every DAG once and compare."""
    return demonstration.run(local_stack())


def status(options: argparse.Namespace) -> int:
    """What runs, and how the last syncs went."""
    stack = local_stack()
    return overview.show(stack.attach())


def down(options: argparse.Namespace) -> int:
    """Ask the stack to end, and wait until it has."""
    stack = local_stack()
    if not stack.is_running_elsewhere():
        stack.end_leftovers()
        print("nothing is running")
        return 0
    pid = stack.told_elsewhere().get("pid")
    if pid is None:
        raise NotRunning(
            "the stack is just starting or stopping: try again in a moment, or press Ctrl-C where it was started"
        )
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).send_signal(signal.SIGTERM)
    deadline = time.monotonic() + DOWN_SECONDS
    while stack.is_running_elsewhere():
        if time.monotonic() > deadline:
            raise NotRunning(f"process {pid} did not end within {DOWN_SECONDS:.0f} s")
        time.sleep(0.2)
    print("stopped")
    return 0


def reset(options: argparse.Namespace) -> int:
    """Delete all state; the next start begins anew."""
    stack = local_stack()
    if stack.is_running_elsewhere():
        raise AlreadyRunning("the stack is running: stop it first with `make down`")
    stack.forget()
    print(f"deleted {stack.home.root}")
    return 0


def migrate(options: argparse.Namespace) -> int:
    """Bring the warehouse's schema up to date; with an external warehouse nothing else is started."""
    stack = local_stack()
    if stack.plan.warehouse_dsn is not None:
        print(f"{len(migrate_databases(stack.plan.databases(stack.plan.warehouse_dsn)))} migrations applied")
        return 0
    with prepared_stack() as prepared:
        applied = migrate_databases(prepared.plan.databases(prepared.warehouse_dsn))
        print(f"{len(applied)} migrations applied" if applied else "the schema is up to date")
    return 0


def init(options: argparse.Namespace) -> int:
    """Prepare a deployment whose databases exist already."""
    from stack import deployment

    return deployment.prepare(speaker())


def show_settings(options: argparse.Namespace) -> int:
    """`airflow_settings.yaml` as this stack fills it in; secrets are hidden."""
    with prepared_stack() as stack:
        imports = stack.settings().imports()
    for connection in imports["connections"].values():
        for name in ("password", "extra"):
            if connection.get(name):
                connection[name] = "***"
    print(json.dumps(imports, indent=2))
    return 0


def test_connections(options: argparse.Namespace) -> int:
    """Try every connection and account."""
    with prepared_stack() as stack:
        return connections.test(stack)


def airflow(options: argparse.Namespace) -> int:
    """Run one `airflow` command against the stack's database, its vendors and its warehouse."""
    with prepared_stack() as stack:
        process = subprocess.Popen(stack.run_airflow(options.arguments), env=stack.airflow_environment(), cwd=PROJECT)
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.terminate()
                process.terminate()
                process.wait()


def backfill(options: argparse.Namespace) -> int:
    """Airflow's backfill of one source, watched until it has ended."""
    with running_stack() as stack:
        return backfills.run(stack, options.source, options.first, options.last)
