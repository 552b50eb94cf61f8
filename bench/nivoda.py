"""`python -m bench.nivoda`: the diamond ingestion: planner, speed at the vendor's budget, memory, a moving market.

Everything but the planner runs against a real sandbox and a real Postgres, each a process of its own, with the job
processes that Airflow would start. Exits with 1 when stones are missing or the aims of the planner are missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import requests

from bench import nivoda_planning
from bench.machine import SERVER_SETTINGS, BenchError
from bench.nivoda_worker import context_of
from penstock.jobs import nivoda_ingestion as jobs
from penstock.jobs.nivoda_ingestion import PlanRequest
from penstock.warehouse.migrations import migrate
from penstock.warehouse.session import Warehouse
from stack.postgres import EmbeddedPostgres

SECTIONS = ("planner", "speed", "memory", "market")
PAGE = 50
AIM_WALL, AIM_REQUESTS, AIM_MEMORY = 1.10, 1.05, 1.2
HOURS = 3
RATES = {"sold": 0.005, "added": 0.005, "repriced": 0.02, "held": 0.005, "uploads": 1.0}
"""Of the market section, per hour: shares of the stock, and supplier uploads of a twentieth of it."""


@dataclass
class Ground:
    """Postgres, sandbox, and the job that workers are given."""

    dsn: str
    sandbox_url: str
    job: dict[str, Any]

    def switch(self, **switches: Any) -> None:
        requests.put(f"{self.sandbox_url}/sandbox/nivoda", json=switches, timeout=600).raise_for_status()

    def truth(self, feed: str, **query: str) -> Mapping[str, Any]:
        answer = requests.get(f"{self.sandbox_url}/sandbox/nivoda/truth", params={"feed": feed, **query}, timeout=600)
        answer.raise_for_status()
        found: Mapping[str, Any] = answer.json()["feeds"][feed]
        return found


@contextlib.contextmanager
def ground(natural: int, labgrown: int, *, rate: int, concurrency: int) -> Iterator[Ground]:
    """Everything a run needs, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    folder.chmod(0o711)  # the server's own user must get through
    server = EmbeddedPostgres(folder / "postgres", durable=True, settings=SERVER_SETTINGS)
    sizes = ("--nivoda-natural", str(natural), "--nivoda-lab", str(labgrown))
    command = [sys.executable, "-m", "sandbox", "--faults", "none", *sizes]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sandbox:
        try:
            server.start()
            dsn = server.create_database("diamonds")
            migrate(dsn)
            url = json.loads(sandbox.stdout.readline() if sandbox.stdout else "{}")["sandbox"]
            given = requests.get(f"{url}/sandbox/credentials", timeout=600).json()["nivoda"]
            job = {
                "dsn": dsn,
                "url": f"{url}/nivoda/api/diamonds",
                "username": given["username"],
                "password": given["password"],
                "rate": rate,
                "concurrency": concurrency,
                "largest_mean": nivoda_planning.LARGEST_MEAN,
            }
            yield Ground(dsn, url, job)
        finally:
            sandbox.terminate()
            server.stop(immediate=True)
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Ran:
    """A run: its summary, seconds until all was read, seconds of the rest, the workers' peaks."""

    summary: Mapping[str, Any]
    planning: float
    reading: float
    rest: float
    peaks: tuple[float, ...]


def run(place: Ground, feed: str, workers: int, *, only: int | None = None, **wish: Any) -> Ran:
    """A whole run by so many worker processes; `only` reads that many partitions and stops there."""
    with Warehouse(place.dsn) as warehouse:
        context = context_of(place.job, warehouse)
        began = time.monotonic()
        planned = jobs.plan(context, feed, PlanRequest(run_type="full", **wish))
        planning = time.monotonic() - began
        print(f"  {planned.text}", flush=True)
        done = read(place.job, planned.lanes[:only], workers)
        reading = time.monotonic() - began - planning
        run_id = str(planned.run_id)
        jobs.judge_partitions(context, run_id)
        if only is None:
            jobs.consolidate(context, run_id)
            jobs.reconcile_vanished(context, run_id)
            jobs.move_watermark(context, run_id)
        summary = jobs.summarise(context, run_id)
        rest = time.monotonic() - began - planning - reading
    return Ran(summary, planning, reading, rest, tuple(each["peak_mb"] for each in done))


def read(job: Mapping[str, Any], lanes: list[dict[str, str]], workers: int) -> list[dict[str, Any]]:
    """What the lanes told, read by so many processes at a time."""
    waiting: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for lane in lanes:
        waiting.put(lane)
    done: list[dict[str, Any]] = []
    threads = [threading.Thread(target=_serve, args=(job, waiting, done)) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(done) != len(lanes):
        raise BenchError(f"{len(lanes) - len(done)} partitions were not read")
    return done


def _serve(job: Mapping[str, Any], waiting: queue.SimpleQueue[dict[str, str]], done: list[dict[str, Any]]) -> None:
    command = [sys.executable, "-m", "bench.nivoda_worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        if worker.stdin is None or worker.stdout is None:
            raise BenchError("the worker has no pipes")
        worker.stdin.write(json.dumps(job) + "\n")
        with contextlib.suppress(queue.Empty):
            while True:
                worker.stdin.write(json.dumps(waiting.get_nowait()) + "\n")
                worker.stdin.flush()
                line = worker.stdout.readline()
                if not line:
                    break
                done.append(json.loads(line))
        worker.stdin.close()


def speed(options: argparse.Namespace) -> bool:
    """A run at the vendor's budget, which the sandbox enforces."""
    print(
        f"\nSpeed: {options.stones:,} natural stones, {options.rate} requests/s, {options.workers} workers", flush=True
    )
    with ground(options.stones, 100, rate=options.rate, concurrency=options.workers) as place:
        # 5 % room for the sandbox's clock and ours to disagree about when a second begins.
        place.switch(request_limit=math.ceil(options.rate * 1.05), request_period=1.0)
        ran = run(place, "natural", options.workers)
        with psycopg.connect(place.dsn) as connection:
            row = connection.execute(
                "select sum((c0 + 49) / 50), (select requests from penstock.nivoda_plans limit 1) "
                "from penstock.nivoda_partitions"
            ).fetchone()
        refused = sum(
            each["count"]
            for each in requests.get(f"{place.sandbox_url}/sandbox/calls", timeout=60).json()["answers"]
            if each["vendor"] == "nivoda" and each["status"] == 429
        )
    ideal, plan = (int(value) for value in row) if row else (0, 0)
    asked = ran.summary["requests"]
    wall = (ran.planning + ran.reading) / (asked / options.rate)
    print(
        f"  {asked:,} requests (ideal pages {ideal:,}, plan {plan}), refused {refused}; read in {ran.reading:.0f} s, "
        f"planned in {ran.planning:.1f} s, consolidated and closed in {ran.rest:.0f} s, "
        f"workers' peak {max(ran.peaks):.0f} MB"
    )
    _verdict(f"wall {wall:.2f} x requests / rate (aim {AIM_WALL})", wall <= AIM_WALL)
    _verdict(
        f"requests {asked / (ideal + plan):.3f} x ideal pages + plan (aim {AIM_REQUESTS})",
        asked <= AIM_REQUESTS * (ideal + plan),
    )
    _verdict(
        f"missed {ran.summary['surely_missed']} to {ran.summary['possibly_missed']}",
        ran.summary["possibly_missed"] == 0,
    )
    return bool(ran.summary["status"] == "completed" and ran.summary["possibly_missed"] == 0)


def memory(options: argparse.Namespace) -> bool:
    """Peak memory of a worker that reads one partition, of a small and of a large feed."""
    peaks = []
    for stones in options.memory_stones:
        print(f"\nMemory: {stones:,} lab-grown stones, one worker reads two partitions", flush=True)
        with ground(100, stones, rate=25, concurrency=1) as place:
            place.job["rate"] = 25
            ran = run(place, "labgrown", 1, only=2, partitions=max(2, round(stones / 20_000)))
        peaks.append(max(ran.peaks))
        print(f"  peak {peaks[-1]:.0f} MB for {ran.summary['rows_read']:,} rows", flush=True)
    growth = peaks[-1] / peaks[0]
    _verdict(
        f"{growth:.2f} x the memory for {options.memory_stones[-1] / options.memory_stones[0]:.0f} x the feed",
        growth <= AIM_MEMORY,
    )
    return growth <= AIM_MEMORY


def market(options: argparse.Namespace) -> bool:
    """Three market hours pass while a feed is read; then the sandbox tells which stones nobody touched."""
    is_met = True
    for feed in ("natural", "labgrown"):
        print(f"\nMarket: {options.market_stones:,} {feed} stones, {HOURS} hours pass while they are read", flush=True)
        with ground(options.market_stones, options.market_stones, rate=25, concurrency=2) as place:
            listed = set(place.truth(feed, ids="1")["ids"])
            place.switch(seconds_per_request=HOURS * 3600 / (options.market_stones / PAGE), **RATES)
            ran = run(place, feed, 2)
            place.switch(seconds_per_request=0, **dict.fromkeys(RATES, 0))
            with psycopg.connect(place.dsn) as connection:
                row = connection.execute("select updated_to from penstock.nivoda_plans").fetchone()
                stored = {each[0] for each in connection.execute("select supplier_stone_id from raw_diamonds_nivoda")}
            touched = set(place.truth(feed, since=row[0].isoformat() if row else "")["touched_ids"])
        missed = listed - touched - stored
        summary = ran.summary
        print(
            f"  {len(touched):,} stones were touched; read twice {summary['duplicates']:,}; by the accounting missed "
            f"{summary['surely_missed']} for certain, at most {summary['possibly_missed']:,}",
            flush=True,
        )
        _verdict(f"{len(missed)} untouched stones missed", not missed)
        is_met = is_met and not missed and summary["surely_missed"] == 0
    return is_met


def _verdict(text: str, is_met: bool) -> None:
    print(f"  {'met   ' if is_met else 'MISSED'} {text}", flush=True)


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.nivoda", description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, action="append")
    parser.add_argument("--natural", type=int, default=500_000, help="stones of the planner's natural feed")
    parser.add_argument("--labgrown", type=int, default=2_000_000, help="stones of the planner's lab-grown feed")
    parser.add_argument("--seeds", type=int, default=10, help="feeds of each kind in the planner's tables")
    parser.add_argument("--stones", type=int, default=500_000, help="stones of the speed section")
    parser.add_argument("--rate", type=int, default=25, help="requests a second of the speed section")
    parser.add_argument("--workers", type=int, default=4, help="worker processes of the speed section")
    parser.add_argument("--memory-stones", type=int, nargs=2, default=[50_000, 2_000_000])
    parser.add_argument("--market-stones", type=int, default=50_000, help="stones of each feed in the market section")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    sections = {
        "planner": lambda: nivoda_planning.measure(options.natural, options.labgrown, options.seeds),
        "speed": lambda: speed(options),
        "memory": lambda: memory(options),
        "market": lambda: market(options),
    }
    began = time.monotonic()
    results = {name: sections[name]() for name in options.only or SECTIONS}
    print(
        f"\n{time.monotonic() - began:.0f} s in all; "
        + ", ".join(f"{name} {'ok' if is_ok else 'NOT OK'}" for name, is_ok in results.items())
    )
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
