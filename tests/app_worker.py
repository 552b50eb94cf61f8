"""One worker in a process of its own: `python -m tests.app_worker <job as JSON>`; prints its counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from penstock.warehouse.session import Warehouse
from tests.app_store import Store, paced


def start(dsn: str, sandbox_url: str, **job: Any) -> subprocess.Popen[str]:
    """A worker at work. job: source, share, limit (count, period in seconds)."""
    arguments = json.dumps({"dsn": dsn, "sandbox_url": sandbox_url, **job})
    return subprocess.Popen(
        [sys.executable, "-m", "tests.app_worker", arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def wait_until(is_so: Callable[[], bool], worker: subprocess.Popen[str], seconds: float = 20.0) -> None:
    """Raises AssertionError when the worker ends first, or nothing happens."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert worker.poll() is None, "the worker ended"
        assert time.monotonic() < deadline, f"nothing happened in {seconds} s"
        time.sleep(0.005)


def counts_of(worker: subprocess.Popen[str], seconds: float = 60.0) -> dict[str, int]:
    """What it says at its end. Raises AssertionError when it failed."""
    said, _ = worker.communicate(timeout=seconds)
    assert worker.returncode == 0, said
    counts: dict[str, int] = json.loads(said)
    return counts


def main(job: dict[str, Any]) -> None:
    count, period = job["limit"]
    with Warehouse(job["dsn"], application_name="penstock-app-worker") as warehouse:
        store = Store(warehouse, job["sandbox_url"], limit=paced(count, period))
        signal.signal(signal.SIGTERM, lambda *_: store.stop.set())
        counts = store.sync(job["source"], job["share"], lane=job.get("lane", 0))
    sys.stdout.write(json.dumps(counts.as_dict()))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
