"""Several worker processes on one account: how near they come to the vendor's limit without exceeding it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass

import requests

from bench.job import ACCOUNT_ID, account
from bench.machine import BenchError, Machine
from penstock.clients.credentials import Credentials
from penstock.clients.klaviyo import KlaviyoClient
from penstock.sources.klaviyo import SOURCE
from penstock.sources.stream import Request
from penstock.warehouse.limits import SharedBreaker, SharedLimiter
from penstock.warehouse.session import Warehouse

FAMILY = "metrics"
PER_SECOND, PER_MINUTE = 10, 150
"""The vendor's own limits of that endpoint. https://developers.klaviyo.com/en/reference/get_metrics"""
WORKERS = 4


@dataclass(frozen=True, slots=True)
class Pacing:
    """What the workers did in `seconds`.

    answered: calls of all workers. allowed: what the vendor allows in that time. fullest: calls in the fullest window
    per limit, as the sandbox counts them. refused: calls that it answered with 429.
    """

    seconds: float
    answered: int
    allowed: float
    fullest: dict[str, tuple[int, int]]
    refused: int

    @property
    def share(self) -> float:
        return self.answered / self.allowed

    @property
    def is_exceeded(self) -> bool:
        return self.refused > 0 or any(most > limit for most, limit in self.fullest.values())


def measure(machine: Machine, seconds: float) -> Pacing:
    """Let four workers call for `seconds`. Raises BenchError when one fails."""
    machine.reset_sandbox()
    dsn = machine.database()
    command = [sys.executable, "-m", "bench.pacing", machine.sandbox_url, dsn, str(seconds)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(WORKERS)
    ]
    for worker in workers:
        if worker.stdout:
            worker.stdout.readline()  # it has connected
    outputs = _start_together(workers)
    if any(worker.returncode for worker in workers):
        raise BenchError("a worker of the pacing test failed")
    machine.drop(dsn)
    counted = requests.get(f"{machine.sandbox_url}/sandbox/calls", timeout=30).json()["limits"]
    limits = [row for row in counted if row["account"] == ACCOUNT_ID and row["family"] == FAMILY]
    return Pacing(
        seconds=seconds,
        answered=sum(int(output) for output in outputs),
        allowed=PER_MINUTE * seconds / 60,
        fullest={f"{row['period']:g} s": (row["most_in_window"], row["limit"]) for row in limits},
        refused=max((row["rejected"] for row in limits), default=0),
    )


def _start_together(workers: list[subprocess.Popen[str]]) -> list[str]:
    for worker in workers:
        if worker.stdin:
            worker.stdin.write("go\n")
            worker.stdin.flush()
    return [worker.communicate()[0] for worker in workers]


def work(sandbox_url: str, dsn: str, seconds: float) -> int:
    """Call as fast as the shared limiter lets us once a line comes on stdin; the calls answered in `seconds`."""
    key = account(sandbox_url)["credentials"]["api_key"]
    credentials = Credentials(f"{sandbox_url}/klaviyo", key, None, {})
    answered = 0
    with Warehouse(dsn) as warehouse:
        limiter, breaker = SharedLimiter(warehouse), SharedBreaker(warehouse)
        client = KlaviyoClient(credentials, ACCOUNT_ID, SOURCE.limits, limiter, breaker)
        warehouse.run_shared("select 1", {})
        print("ready", flush=True)
        sys.stdin.readline()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            client.send(Request("GET", "api/metrics", limit=FAMILY))
            answered += time.monotonic() <= end
        client.close()
    return answered


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pacing", description="one worker")
    parser.add_argument("sandbox_url")
    parser.add_argument("dsn")
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    print(json.dumps(work(options.sandbox_url, options.dsn, options.seconds)))


if __name__ == "__main__":
    main()
