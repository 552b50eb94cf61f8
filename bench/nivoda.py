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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import requests
from psycopg import sql

from bench import nivoda_planning
from bench.machine import SERVER_SETTINGS, BenchError
from penstock.jobs.nivoda_ingestion import Settings
from penstock.warehouse.migrations import migrate
from stack.postgres import EmbeddedPostgres

SECTIONS = ("planner", "speed", "memory", "market")
PAGE = 50
UNPACED = 10_000
"""Requests a second where the time does not matter."""
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
    """A run: its summary, seconds until all was read, seconds of the rest, the highest memory (MB) of each stage."""

    summary: Mapping[str, Any]
    planning: float
    reading: float
    rest: float
    peaks: Mapping[str, float]


Stage = Callable[..., dict[str, Any]]
"""Has a stage done: `stage("consolidate", run_id=...)`, and returns what the job returns, with the peak memory."""


@contextlib.contextmanager
def worker(job: Mapping[str, Any]) -> Iterator[Stage]:
    """A process for stages, as Airflow starts one per task."""
    command = [sys.executable, "-m", "bench.nivoda_worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise BenchError("the worker has no pipes")
        told, answers = process.stdin, process.stdout
        told.write(json.dumps(job) + "\n")

        def do(name: str, **arguments: Any) -> dict[str, Any]:
            told.write(json.dumps({"stage": name, **arguments}) + "\n")
            told.flush()
            line = answers.readline()
            if not line:
                raise BenchError(f"the worker died in {name}")
            done: dict[str, Any] = json.loads(line)
            return done

        yield do
        told.close()


@dataclass
class Tasks:
    """The tasks of a run, each in a process of its own.

    peaks: the highest memory (MB) of any process of each task.
    """

    job: Mapping[str, Any]
    peaks: dict[str, float] = field(default_factory=dict)

    def do(self, name: str, *, called: str | None = None, **arguments: Any) -> dict[str, Any]:
        """One task; `called`: its name in the table."""
        began = time.monotonic()
        with worker(self.job) as stage:
            done = stage(name, **arguments)
        self._note(called or name, time.monotonic() - began, done["peak_mb"])
        return done

    def read(self, lanes: list[dict[str, str]], workers: int) -> None:
        """The partitions of these lanes, so many at a time."""
        began = time.monotonic()
        done = read(self.job, lanes, workers)
        self._note("ingest_partition", time.monotonic() - began, max(each["peak_mb"] for each in done))

    def close(self, run_id: str) -> Mapping[str, Any]:
        """All that comes after the partitions; the run's summary."""
        for name in ("gate", "consolidate", "reconcile_vanished", "move_watermark"):
            self.do(name, run_id=run_id)
        return self.do("summarise", run_id=run_id)

    def _note(self, name: str, seconds: float, peak: float) -> None:
        self.peaks[name] = peak
        print(f"  {name}: {seconds:.0f} s, peak {peak:.0f} MB", flush=True)


def run(place: Ground, feed: str, workers: int) -> Ran:
    """A whole full run."""
    tasks = Tasks(place.job)
    began = time.monotonic()
    planned = tasks.do("plan", feed=feed, run_type="full")
    planning = time.monotonic() - began
    print(f"  {planned['text']}", flush=True)
    tasks.read(planned["lanes"], workers)
    reading = time.monotonic() - began - planning
    summary = tasks.close(planned["run_id"])
    return Ran(summary, planning, reading, time.monotonic() - began - planning - reading, tasks.peaks)


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
    # Each lane is handed over when the one before is done, as Airflow's pool does.
    with worker(job) as stage, contextlib.suppress(queue.Empty):
        while True:
            lane = waiting.get_nowait()
            done.append(stage("ingest_partition", run_id=lane["run_id"], partition_id=lane["partition_id"]))


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
        f"workers' peak {ran.peaks['ingest_partition']:.0f} MB"
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
    """Peak memory of the process of each task, of a small and of a large feed; the pages are real, the pace is not."""
    print(f"\nMemory: no budget of requests, {options.workers} workers", flush=True)
    peaks = [_peaks(stones, options) for stones in options.memory_stones]
    few, many = options.memory_stones
    print(f"  {'peak MB of':24}{few:>12,}{many:>12,}{'ratio':>8}")
    ratios = {name: peaks[-1][name] / peaks[0][name] for name in peaks[0]}
    for name, ratio in ratios.items():
        print(f"  {name:24}{peaks[0][name]:>12.0f}{peaks[-1][name]:>12.0f}{ratio:>8.2f}")
    highest = max(ratios.values())
    _verdict(f"at most {highest:.2f} x the memory for {many / few:.0f} x the feed", highest <= AIM_MEMORY)
    return highest <= AIM_MEMORY


def _peaks(stones: int, options: argparse.Namespace) -> Mapping[str, float]:
    """Of a first run of so many lab-grown stones, and of the plan after it, which has that run's prices to go by."""
    with ground(100, stones, rate=UNPACED, concurrency=options.workers) as place:
        place.job["largest_mean"] = Settings().largest_mean
        tasks = Tasks(place.job)
        planned = tasks.do("plan", feed="labgrown", run_type="full")
        print(f"  {planned['text']}", flush=True)
        lanes, run_id = planned["lanes"], planned["run_id"]
        tasks.read(lanes[: options.memory_partitions], options.workers)
        if len(lanes) > options.memory_partitions:
            tasks.do("consolidate", run_id=run_id)
            _fill_up(place.dsn, run_id, stones)
            print(
                f"  {options.memory_partitions} of {len(lanes)} partitions were read; SQL put in the rest", flush=True
            )
        summary = tasks.close(run_id)
        tasks.do("plan", called="plan after a run", feed="labgrown", run_type="full")
    if summary["status"] != "completed" or summary["distinct"] < 0.9 * stones:
        raise BenchError(f"{summary['status']}, {summary['distinct']:,} of {stones:,} stones")
    return tasks.peaks


def _fill_up(dsn: str, run_id: str, stones: int) -> None:
    """What the other partitions would have left in the database: copies of the stones that were read, at prices of
    their own. One of 25 looks as if it had vanished, so that the reconciliation has work."""
    with psycopg.connect(dsn) as connection:
        names = (
            "select column_name from information_schema.columns where table_name = 'diamonds' and column_name <> 'id'"
        )
        columns = [row[0] for row in connection.execute(names)]
        changed = {
            "supplier_stone_id": sql.SQL("d.supplier_stone_id || '-' || n"),
            "feed_price": sql.SQL("round((d.feed_price * (0.5 + random()))::numeric, 2)"),
        }
        connection.execute(
            sql.SQL(
                "with known as (select count(*) as stones from diamonds) "
                "insert into diamonds ({}) select {} from diamonds as d cross join known "
                "cross join lateral generate_series(1, {} / known.stones - 1) as n"
            ).format(
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.SQL(", ").join(changed.get(name, sql.Identifier("d", name)) for name in columns),
                sql.Literal(stones),
            )
        )
        connection.execute(
            "insert into penstock.stone_sightings select feed, supplier_stone_id, %(run_id)s, case "
            "when hashtext(supplier_stone_id) %% 25 = 0 then '2000-01-01' else clock_timestamp() end, "
            "feed_price::integer from diamonds on conflict (feed, supplier_stone_id) do nothing",
            {"run_id": run_id},
        )
        connection.execute(
            "update penstock.nivoda_partitions set status = 'COMPLETED', c0 = expected, c1 = expected, "
            "distinct_read = expected where run_id = %s and status = 'PENDING'",
            [run_id],
        )
        connection.execute("analyze")


def market(options: argparse.Namespace) -> bool:
    """Three market hours pass while a feed is read, with an order that stands and with one whose ties change in every
    request; then such an order in a market that stands still. The sandbox tells which stones nobody touched."""
    verdicts = [
        _market(feed, options.market_stones, ties, rates)
        for feed in ("natural", "labgrown")
        for ties, rates in (("stable", RATES), ("unstable", RATES), ("unstable", {}))
    ]
    return all(verdicts)


def _market(feed: str, stones: int, ties: str, rates: Mapping[str, float]) -> bool:
    moves = f"{HOURS} hours pass" if rates else "nothing happens"
    print(f"\nMarket: {stones:,} {feed} stones, ties are {ties}, {moves} while they are read", flush=True)
    with ground(stones, stones, rate=25, concurrency=2) as place:
        listed = set(place.truth(feed, ids="1")["ids"])
        place.switch(ties=ties, seconds_per_request=HOURS * 3600 / (stones / PAGE) if rates else 0, **rates)
        ran = run(place, feed, 2)
        place.switch(seconds_per_request=0, **dict.fromkeys(RATES, 0))
        with psycopg.connect(place.dsn) as connection:
            row = connection.execute("select updated_to from penstock.nivoda_plans").fetchone()
            stored = {each[0] for each in connection.execute("select supplier_stone_id from raw_diamonds_nivoda")}
        touched = set(place.truth(feed, since=row[0].isoformat() if row else "")["touched_ids"])
    missed, summary = listed - touched - stored, ran.summary
    print(
        f"  {len(touched):,} stones were touched; {summary['passes']} passes at most, read twice "
        f"{summary['duplicates']:,}; by the accounting missed {summary['surely_missed']} for certain, at most "
        f"{summary['possibly_missed']:,}; watermark {summary['watermark']}",
        flush=True,
    )
    if ties == "stable":
        is_met = not missed and summary["surely_missed"] == 0 and summary["passes"] == 1
        _verdict(f"{len(missed)} untouched stones missed, in one pass", is_met)
    else:
        is_met = not missed and summary["passes"] > 1
        _verdict(f"{len(missed)} untouched stones missed; what the first pass lost was noticed and read again", is_met)
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
    parser.add_argument(
        "--memory-partitions", type=int, default=8, help="partitions that are really read, of each feed"
    )
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
