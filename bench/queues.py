"""`python -m bench.queues`: claim and acknowledge in bulk against one by one, near the database and 5 ms away, and
against procrastinate with an empty job; then how long single inserts take to be seen in Slack.

The statements are the lease rule of `core/lease.py`: leased_until, leased_by and lease_epoch in the claim, the epoch
compared in the acknowledgement.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import requests

from bench.machine import Machine, machine
from penstock.clients.credentials import Credentials
from penstock.clients.slack import SlackClient
from penstock.jobs.notifications import Courier, Drain, NotificationStore, Orders
from penstock.warehouse.limits import SharedBreaker
from penstock.warehouse.session import Warehouse

TICKS = os.sysconf("SC_CLK_TCK")
AIM_CPU, AIM_FAR, AIM_P95 = 13.0, 100.0, 1.0
FAR_MS = 5.0
INSERTS = 50
PAYLOAD = "x" * 250

_TABLE = """
drop table if exists bench_jobs;
create table bench_jobs (
    id bigint generated always as identity primary key, payload text not null, state text not null default 'queued',
    attempts smallint not null default 0, next_attempt_at timestamptz not null default now(), last_error text,
    leased_until timestamptz, leased_by text, lease_epoch bigint not null default 0, finished_at timestamptz
) with (fillfactor = 70);
create index on bench_jobs (next_attempt_at, id) where state in ('queued', 'running');
"""
_CLAIM = """
with c as (
    select id from bench_jobs
    where (state = 'queued' or (state = 'running' and leased_until < now())) and next_attempt_at <= now()
    order by next_attempt_at, id limit %(limit)s for no key update skip locked
)
update bench_jobs as j
set state = 'running', leased_by = 'bench', lease_epoch = lease_epoch + 1, leased_until = now() + interval '5 minutes',
    attempts = attempts + 1
from c where j.id = c.id returning j.id, j.lease_epoch, j.payload
"""
_ACK = """
update bench_jobs as j set state = 'done', leased_until = null, finished_at = now()
from unnest(%(ids)s::bigint[], %(epochs)s::bigint[]) as u (id, epoch)
where j.id = u.id and j.lease_epoch = u.epoch and j.state = 'running'
"""


@dataclass(frozen=True, slots=True)
class Took:
    """What a contender took for `rows` jobs; CPU of the client and of its backends."""

    name: str
    rows: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.rows / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu / self.rows * 1e6


def main() -> int:
    """The command line; exits with 1 when an aim was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.queues", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000, help="of each contender near the database")
    parser.add_argument("--far-jobs", type=int, default=500, help="of the one-by-one loop 5 ms away")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--only", choices=("queues", "latency"))
    options = parser.parse_args()
    met = True
    with machine(0) as ground:
        if options.only in (None, "queues"):
            met = queues(ground, options.jobs, options.far_jobs, options.rounds) and met
        if options.only in (None, "latency"):
            met = latency(ground) and met
    return 0 if met else 1


# -- claim and acknowledge


def queues(ground: Machine, jobs: int, far_jobs: int, rounds: int) -> bool:
    dsn = ground.database()
    print("claim + acknowledge: jobs/s, CPU of client and server per job (load may disturb jobs/s, CPU hardly)")
    ours, single = [], []
    for _ in range(rounds):
        single.append(loop("one by one", dsn, max(500, jobs // 10), 1))
        ours.append(loop("bulk 500", dsn, jobs, 500))
    near, one = _median(ours), _median(single)
    for took in (one, loop("bulk 50", dsn, jobs, 50), near, procrastinate(ground.database(), max(500, jobs // 20))):
        _show(took, one)
    with far_away(dsn) as far:
        far_one, far_bulk = loop("one by one", far, far_jobs, 1), loop("bulk 500", far, jobs, 500)
    print(f"the same with {FAR_MS:g} ms round trip")
    for took in (far_one, far_bulk):
        _show(took, far_one)
    cpu, speed = one.cpu_us / near.cpu_us, far_bulk.rate / far_one.rate
    print(f"CPU per job {cpu:.1f} x less (aim {AIM_CPU:g}); {FAR_MS:g} ms away {speed:.0f} x faster (aim {AIM_FAR:g})")
    return cpu >= AIM_CPU and speed >= AIM_FAR


def loop(name: str, dsn: str, jobs: int, batch: int) -> Took:
    """Fill the table, then claim and acknowledge until it is empty."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_TABLE)
        connection.execute(
            "insert into bench_jobs (payload) select %s from generate_series(1, %s::int)", [PAYLOAD, jobs]
        )
        connection.execute("analyze bench_jobs")
        row = connection.execute("select pg_backend_pid()").fetchone()
        backend = int(row[0]) if row else 0
        cpu, began = time.process_time() + _cpu(backend), time.perf_counter()
        done = 0
        while claimed := connection.execute(_CLAIM, {"limit": batch}).fetchall():
            connection.execute(_ACK, {"ids": [each[0] for each in claimed], "epochs": [each[1] for each in claimed]})
            done += len(claimed)
        seconds = time.perf_counter() - began
        took = Took(name, done, seconds, time.process_time() + _cpu(backend) - cpu)
    assert done == jobs
    return took


def procrastinate(dsn: str, jobs: int) -> Took:
    """An empty job, ten at a time, finished jobs deleted."""
    return asyncio.run(_procrastinate(dsn, jobs))


async def _procrastinate(dsn: str, jobs: int) -> Took:
    from procrastinate import App, PsycopgConnector
    from procrastinate.types import JSONValue

    app = App(connector=PsycopgConnector(conninfo=dsn))

    @app.task(name="nothing")
    async def nothing(number: int) -> None:
        return None

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        numbers: list[dict[str, JSONValue]] = [{"number": number} for number in range(jobs)]
        await nothing.batch_defer_async(*numbers)
        before, began = time.process_time() + _backends(dsn), time.perf_counter()
        await app.run_worker_async(wait=False, concurrency=10, delete_jobs="always", install_signal_handlers=False)
        seconds = time.perf_counter() - began
        return Took("procrastinate, 10 at once", jobs, seconds, time.process_time() + _backends(dsn) - before)


def _backends(dsn: str) -> float:
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute("select pid from pg_stat_activity where datname = current_database()").fetchall()
    return sum(_cpu(row[0]) for row in rows)


def _cpu(pid: int) -> float:
    """CPU seconds of a process of this machine (proc(5)); 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextlib.contextmanager
def far_away(dsn: str) -> Iterator[str]:
    """The database behind a proxy that takes its time."""
    parts = urlsplit(dsn)
    target = f"{parts.hostname}:{parts.port}"
    command = [sys.executable, "-m", "bench.delay", target, str(FAR_MS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            port = proxy.stdout.readline().strip() if proxy.stdout else ""
            user = f"{parts.username}@" if parts.username else ""
            yield urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}"))
        finally:
            proxy.terminate()


def _median(measured: list[Took]) -> Took:
    return sorted(measured, key=lambda took: took.cpu_us)[len(measured) // 2]


def _show(took: Took, other: Took) -> None:
    print(
        f"  {took.name:28} {took.rate:10,.0f} jobs/s  {took.cpu_us:8,.0f} us/job  "
        f"{took.rate / other.rate:6.1f} x the speed, {other.cpu_us / took.cpu_us:5.1f} x less CPU"
    )


# -- from the insert to the channel


def latency(ground: Machine) -> bool:
    """Single inserts into an idle queue with a drain resident."""
    token = requests.get(f"{ground.sandbox_url}/sandbox/credentials", timeout=30).json()["slack"]["token"]
    with Warehouse(ground.database()) as warehouse:
        client = SlackClient(Credentials(f"{ground.sandbox_url}/slack/api/", token))
        store = NotificationStore(warehouse, "bench")
        drain = Drain(store, Courier(client, SharedBreaker(warehouse)), Orders(residence=600.0))
        thread = threading.Thread(target=drain.run)
        thread.start()
        try:
            time.sleep(2.0)
            seconds = [_seconds_to_be_seen(warehouse.dsn, ground.sandbox_url, number) for number in range(INSERTS)]
        finally:
            drain.stop()
            thread.join()
    p95 = statistics.quantiles(seconds, n=20)[-1]
    shown = f"median {_ms(seconds)}, p95 {p95 * 1e3:.0f} ms"
    print(f"insert -> seen in Slack, {INSERTS} single inserts, a drain resident: {shown}")
    return p95 <= AIM_P95


def _seconds_to_be_seen(dsn: str, sandbox_url: str, number: int) -> float:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "insert into notification_config (entity_type, event_type, channel_id, template) "
            "values ('request', 'status_change', %s, '{{n}}') returning id",
            [f"C1LAT{number:03d}"],
        ).fetchone()
        began = dt.datetime.now(dt.UTC).timestamp()
        inserted = connection.execute(
            "insert into notification_queue (config_id, entity_id, entity_type, event_data) "
            "values (%s, gen_random_uuid(), 'request', %s) returning id::text",
            [row and row[0], json.dumps({"n": number})],
        ).fetchone()
    key = inserted[0] if inserted else ""
    stamp = _wait(lambda: _stamp(sandbox_url, key))
    return stamp - began


def _stamp(sandbox_url: str, key: str) -> float | None:
    """When Slack took the message of that key."""
    for message in requests.get(f"{sandbox_url}/sandbox/slack/messages", timeout=30).json():
        if message["metadata"]["event_payload"]["notification_id"] == key:
            return float(message["ts"])
    return None


def _wait(look: Callable[[], float | None]) -> float:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.05)
    raise TimeoutError("the message was never seen")


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
