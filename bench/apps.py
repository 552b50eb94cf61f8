"""`python -m bench.apps`: four processes of `app_sync` on one limit of Steam's store: how near they come to it, and
whether they ever exceed it.

Every process has a queue that does not end. Calls are counted by the sandbox, from the first one on and in its fullest
window (5 % tolerance).
Exits with 1 when a limit was exceeded; the aim is printed, not enforced.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import psycopg
import requests

from bench.machine import BenchError, Machine, machine
from bench.pacing import Pacing
from penstock.clients.credentials import Credentials
from penstock.clients.steam import PUBLIC, SteamClient
from penstock.jobs.app_sync import SyncContext, sync
from penstock.sources.apps import by_name
from penstock.sources.keyed import HEADROOM
from penstock.sources.stream import Limit
from penstock.warehouse.limits import SharedBreaker, SharedLimiter
from penstock.warehouse.session import Warehouse

WORKERS = 4
APPS = 3000
AIM = 0.85
TIMEOUT_S = 30
WARM_UP_S = 5.0
"""Workers go on for so long beyond the test: they do not start at the same instant."""

_SEED = """
with added as (
    insert into public.apps (appid, name) select n * 10, 'App ' || n from generate_series(1, %(apps)s) as n
    returning appid
)
insert into public.sync_status (appid) select appid from added
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A limit: what the client of `source` keeps to, and what the sandbox counts, as calls in seconds.

    limit: None for the source's own.
    """

    title: str
    source: str
    setting: str
    count: int
    period: float
    limit: Limit | None = None


CASES = (
    Case("Steam's storefront, 200 calls in 300 s, counted as 40 in 60 s", "storefront", "details", 40, 60.0),
    Case("Steam's reviews, 60 calls in 60 s", "reviews", "reviews", 60, 60.0),
    Case(
        "the demo's pace, 600 calls in 60 s",
        "storefront",
        "details",
        600,
        60.0,
        Limit(600, 60.0 / HEADROOM, burst=3),
    ),
)


def measure(ground: Machine, number: int, seconds: float) -> Pacing:
    """Let four workers read for `seconds`, counted from the first call. Raises BenchError when one fails."""
    case = CASES[number]
    ground.reset_sandbox()
    settings = {f"{case.setting}_limit": case.count, f"{case.setting}_period": case.period}
    requests.put(f"{ground.sandbox_url}/sandbox/steam", json=settings, timeout=TIMEOUT_S).raise_for_status()
    dsn = ground.database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_SEED, {"apps": APPS})
        connection.execute("analyze")
    command = [sys.executable, "-m", "bench.apps", "--worker", ground.sandbox_url, dsn, str(number), str(seconds)]
    workers = [subprocess.Popen(command) for _ in range(WORKERS)]
    while not _counted(ground)["limits"]:
        if any(worker.poll() for worker in workers):
            raise BenchError("a worker failed")
        time.sleep(0.01)
    time.sleep(seconds)
    answered = int(_counted(ground)["total"])
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise BenchError("a worker failed")
    (row,) = _counted(ground)["limits"]
    ground.drop(dsn)
    return Pacing(
        seconds=seconds,
        answered=answered,
        allowed=case.count * seconds / case.period,
        fullest={f"{row['period']:g} s": (row["most_in_window"], row["limit"])},
        refused=row["rejected"],
    )


def _counted(ground: Machine) -> dict[str, Any]:
    """What the sandbox has counted since its reset."""
    counted: dict[str, Any] = requests.get(f"{ground.sandbox_url}/sandbox/calls", timeout=TIMEOUT_S).json()
    return counted


def work(sandbox_url: str, dsn: str, case: Case, seconds: float) -> None:
    """One worker's job: as fast as the shared limit lets it."""
    source = by_name(case.source)
    limits = {case.source: (case.limit,)} if case.limit else source.limits
    with Warehouse(dsn) as warehouse:
        limiter, breaker = SharedLimiter(warehouse), SharedBreaker(warehouse)
        client = SteamClient(Credentials(f"{sandbox_url}/steam"), PUBLIC, limits, limiter, breaker)
        time_limit = dt.timedelta(seconds=seconds + WARM_UP_S)
        sync(SyncContext(warehouse, source, client.send, APPS, f"bench/{os.getpid()}", "bench", time_limit=time_limit))
        client.close()


def show(case: Case, found: Pacing) -> None:
    print(f"\n{case.title}: {WORKERS} processes for {found.seconds:g} s")
    print(f"  {found.answered} calls of {found.allowed:.0f} allowed, {found.refused} refused")
    for period, (most, limit) in found.fullest.items():
        print(f"  fullest window of {period} (5 % tolerance): {most} of {limit}")
    verdict = "met   " if found.share >= AIM else "MISSED"
    print(f"  {verdict} {found.share:.0%} of the limit used (aim: {AIM:.0%})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.apps", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each test (default 60)")
    parser.add_argument("--worker", nargs=4, metavar=("SANDBOX", "DSN", "CASE", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        sandbox_url, dsn, number, seconds = options.worker
        work(sandbox_url, dsn, CASES[int(number)], float(seconds))
        return
    exceeded = []
    with machine(1) as ground:
        for number, case in enumerate(CASES):
            found = measure(ground, number, options.seconds)
            show(case, found)
            exceeded += [case.title] * found.is_exceeded
    if exceeded:
        raise SystemExit(f"bench: exceeded: {'; '.join(exceeded)}")


if __name__ == "__main__":
    main()
