"""The ground that contenders run on: a throw-away Postgres, the sandbox, and what both of them cost."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import requests

from bench.job import Job
from penstock.warehouse.migrations import migrate
from stack.postgres import EmbeddedPostgres

TEMPLATE = "bench_template"
TICKS = os.sysconf("SC_CLK_TCK")
SERVER_SETTINGS = {
    # It would work at times of its own choosing, and its CPU would be booked on whoever runs then.
    "autovacuum": "off",
    "max_wal_size": "4GB",
    "shared_buffers": "256MB",
}


class BenchError(RuntimeError):
    """A contender failed or did not do the whole job."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one contender took.

    seconds: of its work, without its set-up. client_cpu: of its whole process, Python's start and imports included.
    postgres_cpu: of the server and all its processes meanwhile.
    """

    name: str
    rows: int
    seconds: float
    client_cpu: float
    postgres_cpu: float
    peak_mb: float
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    @property
    def cpu_per_100k(self) -> float:
        return (self.client_cpu + self.postgres_cpu) * 100_000 / self.rows


class Machine:
    """One Postgres and one sandbox, both processes of their own."""

    def __init__(self, server: EmbeddedPostgres, sandbox_url: str) -> None:
        self._server = server
        self.sandbox_url = sandbox_url
        self._numbers = itertools.count(1)

    def database(self) -> str:
        """The DSN of a fresh, migrated database."""
        return self._server.create_database(f"bench_{next(self._numbers)}", template=TEMPLATE)

    def drop(self, dsn: str) -> None:
        self._server.drop_database(dsn.rsplit("/", 1)[1])

    def latency(self, milliseconds: float) -> None:
        requests.put(f"{self.sandbox_url}/sandbox/latency", json={"milliseconds": milliseconds}, timeout=30)

    def reset_sandbox(self) -> None:
        """Forget all calls, so that nobody pays for the vendor's limits that another has used up."""
        requests.post(f"{self.sandbox_url}/sandbox/reset", timeout=30)

    def run(self, name: str, job: Job) -> Measurement:
        """Let a contender do the job in a process of its own. Raises BenchError."""
        self.reset_sandbox()
        with psycopg.connect(job.dsn, autocommit=True) as connection:
            connection.execute("checkpoint")
        before = self._postgres_cpu()
        told = json.loads(run_child("-m", "bench.contenders", name, job.to_json()))
        self._await_backends(job.dsn)
        return Measurement(
            name,
            told.pop("rows"),
            told.pop("seconds"),
            told.pop("process_cpu"),
            self._postgres_cpu() - before,
            told.pop("peak_mb"),
            told,
        )

    def _postgres_cpu(self) -> float:
        """CPU seconds of the postmaster, its children, and those of its children that have ended."""
        postmaster = self._server.pid
        if postmaster is None:
            raise BenchError("Postgres does not run")
        ticks = sum(_stat(postmaster)[11:15])
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                stat = _stat(int(folder.name))
                if stat[1] == postmaster:
                    ticks += stat[11] + stat[12]
        return ticks / TICKS

    @staticmethod
    def _await_backends(dsn: str) -> None:
        """Until the contender's connections are gone: only then is their CPU counted as that of ended children."""
        others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        deadline = time.monotonic() + 10
        with psycopg.connect(dsn, autocommit=True) as connection:
            while connection.execute(others).fetchone() != (0,) and time.monotonic() < deadline:
                time.sleep(0.05)


def _stat(pid: int) -> list[int]:
    """/proc/<pid>/stat behind the name: [1] parent, [11] utime, [12] stime, [13] cutime, [14] cstime (proc(5))."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return [0, *(int(part) for part in text.rpartition(")")[2].split()[1:20])]


def run_child(*arguments: str) -> str:
    """The output of a Python process. Raises BenchError."""
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchError(f"{' '.join(arguments[:3])} failed:\n{result.stderr[-4000:]}")
    return result.stdout


@contextlib.contextmanager
def machine(events: int) -> Iterator[Machine]:
    """Postgres and sandbox with `events` events, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    folder.chmod(0o711)  # the server's own user must get through
    server = EmbeddedPostgres(folder / "postgres", durable=True, settings=SERVER_SETTINGS)
    command = [sys.executable, "-m", "sandbox", "--faults", "none", "--bench-events", str(events)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sandbox:
        try:
            server.start()
            migrate(server.create_database(TEMPLATE))
            line = sandbox.stdout.readline() if sandbox.stdout else ""
            yield Machine(server, json.loads(line)["sandbox"])
        finally:
            sandbox.terminate()
            server.stop(immediate=True)
            shutil.rmtree(folder, ignore_errors=True)
