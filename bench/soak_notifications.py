"""`python -m bench.soak_notifications`: notifications through a storm, and what people then see in Slack.

    kill        drains that die by SIGKILL at random moments, over a Slack that drops answers, limits and fails
    freeze      drains that are stopped for 1.7 leases and go on as if nothing had been
    postgres    backends terminated every 200 ms, immediate restarts, freezes of 5 s, a full server, statements that
                fail to serialise, meet a deadlock, or whose answer is lost
    load        many messages over many channels, undisturbed: the time against what the limits allow
    everywhere  a death at every single statement and call of a small drain

Counts what was lost, seen twice and out of order. Exits with 1 when anything was, except for messages seen twice after
a freeze: those the look-up cannot see (a process that sleeps between its last check and the POST for longer than its
lease); there may be as many as freezes, and each is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psycopg
import requests

from bench.postgres_faults import disturb, failing_statements
from penstock.clients.credentials import Credentials
from penstock.clients.slack import SlackClient
from penstock.core.errors import PenstockError
from penstock.jobs.notifications import Courier, Drain, NotificationStore, Orders, courier
from penstock.warehouse.limits import SharedBreaker
from penstock.warehouse.migrations import migrate
from penstock.warehouse.session import Warehouse
from stack.postgres import EmbeddedPostgres, free_port
from tests.notification_crash import drain_dies
from tests.notification_scene import Scene

LEASE_S = 3.0
FAST_PACE_S = 0.05
STORM = (
    {"vendor": "slack", "path": "chat.postMessage", "action": "status", "probability": 0.03,
     "params": {"status": 429, "retry_after": 1}},
    {"vendor": "slack", "path": "chat.postMessage", "action": "stored_then_drop", "probability": 0.03},
    {"vendor": "slack", "path": "chat.postMessage", "action": "stored_then_status", "probability": 0.02},
)  # fmt: skip
_FILL = """
with configs as (
    insert into notification_config (entity_type, event_type, channel_id, template, time_to_live)
    select 'request', 'status_change', 'C1' || lpad(g::text, 5, '0'), '*{{n}}* {{text}}', '10 days'
    from generate_series(1, %(channels)s) as g
    returning id
)
insert into notification_queue (config_id, entity_id, entity_type, event_data, max_attempts)
select c.id, gen_random_uuid(), 'request', jsonb_build_object('n', n, 'text', 'storm'), 1000
from generate_series(1, %(each)s) as n cross join configs as c
order by n, c.id
"""
_OPEN = "select count(*) from notification_queue where state in ('queued', 'sending')"
_EXPECTED = """
select c.channel_id, array_agg(q.id::text order by q.seq)
from notification_queue as q inner join notification_config as c on q.config_id = c.id group by 1
"""


@dataclass
class Ground:
    """A Postgres, a Slack, and the drains at work."""

    server: EmbeddedPostgres
    dsn: str
    sandbox_url: str
    token: str
    rng: random.Random
    pace: float
    workers: list[BaseProcess] = field(default_factory=list)
    disturbed: int = 0
    blows: Counter[str] = field(default_factory=Counter)
    has_failing_statements: bool = False

    def start_worker(self) -> None:
        context = multiprocessing.get_context("fork")
        told = (self.dsn, self.sandbox_url, self.token, self.pace, self.has_failing_statements)
        process = context.Process(target=work, args=told, daemon=True)
        process.start()
        self.workers.append(process)

    def replace_the_dead(self, count: int) -> None:
        self.workers = [worker for worker in self.workers if worker.is_alive()]
        while len(self.workers) < count:
            self.start_worker()

    def waiting(self) -> int:
        """Rows that are not done; while the server restarts, all of them."""
        try:
            with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
                row = connection.execute(_OPEN).fetchone()
        except psycopg.OperationalError:
            return sys.maxsize
        return int(row[0]) if row else 0


def work(dsn: str, sandbox_url: str, token: str, pace: float, has_failing_statements: bool) -> None:
    """One drain, in a process of its own: real but for the pace, so that a storm takes minutes."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    courier.PACE = dt.timedelta(seconds=pace)
    courier.RETRY_BASE, courier.RETRY_CAP = dt.timedelta(seconds=0.1), dt.timedelta(seconds=1)
    courier.HISTORY_LAG = dt.timedelta(seconds=0.2)
    courier.CIRCUIT_PAUSE = dt.timedelta(seconds=0.2)
    with contextlib.ExitStack() as stack:
        if has_failing_statements:
            stack.enter_context(failing_statements(NotificationStore, "_steady", random.Random(os.getpid())))
        warehouse = stack.enter_context(Warehouse(dsn, application_name="soak"))
        store = NotificationStore(warehouse, f"soak/{os.getpid()}", lease=dt.timedelta(seconds=LEASE_S))
        client = SlackClient(Credentials(f"{sandbox_url}/slack/api/", token))
        breaker = SharedBreaker(warehouse, threshold=20, cooldown=0.2)
        with contextlib.suppress(psycopg.Error, PenstockError):
            Drain(store, Courier(client, breaker), Orders(residence=0.0, horizon=60.0, threads=4)).run()


# -- storms


def kill(ground: Ground) -> None:
    """SIGKILL somebody every 20 to 500 ms."""
    time.sleep(ground.rng.uniform(0.02, 0.5))
    victim = ground.rng.choice(ground.workers)
    if victim.is_alive() and victim.pid:
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        ground.disturbed += 1


def freeze(ground: Ground) -> None:
    """Stop somebody for longer than a lease, while the others go on."""
    time.sleep(ground.rng.uniform(0.1, 0.5))
    victim = ground.rng.choice(ground.workers)
    if victim.is_alive() and victim.pid:
        os.kill(victim.pid, signal.SIGSTOP)
        time.sleep(1.7 * LEASE_S)
        os.kill(victim.pid, signal.SIGCONT)
        ground.disturbed += 1


def shake(ground: Ground) -> None:
    """A blow at Postgres every 200 ms."""
    time.sleep(0.2)
    ground.disturbed += 1
    ground.blows[disturb(ground.server, ground.dsn, ground.rng)] += 1


def rest(ground: Ground) -> None:
    time.sleep(0.5)


SCENES: dict[str, Callable[[Ground], None]] = {"kill": kill, "freeze": freeze, "postgres": shake, "load": rest}


EVERYWHERE = "everywhere"


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak_notifications", description=__doc__)
    parser.add_argument("scene", choices=[*sorted(SCENES), EVERYWHERE], nargs="?", default="kill")
    parser.add_argument("--messages", type=int, default=1500)
    parser.add_argument("--channels", type=int, default=10)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--most", type=int, default=100_000, help="disturbances at most")
    parser.add_argument("--pace", type=float, help="seconds between messages of a channel; load: 1, storms: 0.05")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds after which it has failed")
    options = parser.parse_args()
    pace = options.pace or (1.0 if options.scene == "load" else FAST_PACE_S)
    with ground_for(pace, options.seed, is_stormy=options.scene not in ("load", EVERYWHERE)) as ground:
        ground.has_failing_statements = options.scene == "postgres"
        return everywhere(ground) if options.scene == EVERYWHERE else run(ground, options)


def everywhere(ground: Ground) -> int:
    """Raises AssertionError at the first place after which people see anything else than what was queued, once."""
    deaths = 0
    with Warehouse(ground.dsn) as warehouse:
        scene = Scene(warehouse, ground.sandbox_url, ground.token)
        for after in (False, True):
            for step in itertools.count(1):
                if not drain_dies(scene, step, after=after):
                    break
                deaths += 1
    print(json.dumps({"scene": EVERYWHERE, "deaths": deaths}))
    return 0


def run(ground: Ground, options: argparse.Namespace) -> int:
    each = options.messages // options.channels
    with psycopg.connect(ground.dsn, autocommit=True) as connection:
        connection.execute(_FILL, {"channels": options.channels, "each": each})
        expected = {str(row[0]): list(row[1]) for row in connection.execute(_EXPECTED).fetchall()}
    began = time.monotonic()
    looked = waiting = sys.maxsize
    while waiting and time.monotonic() - began < options.limit:
        ground.replace_the_dead(options.workers)
        (SCENES[options.scene] if ground.disturbed < options.most else rest)(ground)
        if time.monotonic() - looked > 1.0 or looked == sys.maxsize:
            looked, waiting = int(time.monotonic()), ground.waiting()
    seconds = time.monotonic() - began
    for worker in ground.workers:
        worker.kill()
    told = judge(ground, expected)
    told |= {"scene": options.scene, "seconds": round(seconds, 1), "disturbances": ground.disturbed}
    told |= {"blows": dict(ground.blows)} if ground.blows else {}
    told |= {"least_seconds": round((each - 1) * ground.pace, 1), "waiting": waiting}
    print(json.dumps(told))
    allowed = ground.disturbed if options.scene == "freeze" else 0
    is_clean = not (told["lost"] or told["out_of_order"] or told["waiting"]) and told["seen_twice"] <= allowed
    return 0 if is_clean else 1


def judge(ground: Ground, expected: dict[str, list[str]]) -> dict[str, Any]:
    """What people see against what was queued."""
    seen = requests.get(f"{ground.sandbox_url}/sandbox/slack/seen", timeout=60).json()
    calls = requests.get(f"{ground.sandbox_url}/sandbox/calls", timeout=60).json()
    lost = out_of_order = 0
    for channel, wished in expected.items():
        first = list(dict.fromkeys(seen["channels"].get(channel, [])))
        lost += len(set(wished) - set(first))
        out_of_order += sum(one != other for one, other in zip(first, wished, strict=False)) if not lost else 0
    with psycopg.connect(ground.dsn, autocommit=True) as connection:
        states: dict[str, int] = dict(
            connection.execute("select state, count(*) from notification_queue group by 1").fetchall()
        )
    answers = {
        f"{row['endpoint']} {row['status']}": row["count"] for row in calls["answers"] if row["vendor"] == "slack"
    }
    exceeded = sum(bool(row["most_granted"] > row["limit"]) for row in calls["limits"] if row["vendor"] == "slack")
    return {
        "messages": sum(map(len, expected.values())),
        "lost": lost,
        "seen_twice": len(seen["repeated"]),
        "out_of_order": out_of_order,
        "states": states,
        "answers": answers,
        "rejected_for_rate": sum(row["rejected"] for row in calls["limits"] if "per channel" in row["family"]),
        "limits_exceeded": exceeded,
    }


@contextlib.contextmanager
def ground_for(pace: float, seed: int, *, is_stormy: bool) -> Iterator[Ground]:
    """Postgres and sandbox, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-soak-"))
    folder.chmod(0o711)  # the server's own user must get through
    # The port is kept: a server that is restarted has to be found again.
    server = EmbeddedPostgres(folder / "postgres", port=free_port(), durable=True)
    command = [sys.executable, "-m", "sandbox", "--faults", "none", "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sandbox:
        try:
            server.start()
            dsn = server.create_database("soak")
            migrate(dsn)
            url = json.loads(sandbox.stdout.readline() if sandbox.stdout else "")["sandbox"]
            token = requests.get(f"{url}/sandbox/credentials", timeout=30).json()["slack"]["token"]
            switches = {"channel_seconds": pace, "history_per_minute": 100_000}
            requests.put(f"{url}/sandbox/slack", json=switches, timeout=30).raise_for_status()
            if is_stormy:
                requests.put(f"{url}/sandbox/faults", json=list(STORM), timeout=30).raise_for_status()
            yield Ground(server, dsn, url, token, random.Random(seed), pace)
        finally:
            sandbox.terminate()
            server.stop(immediate=True)
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    assert threading.active_count() == 1, "workers are forked: the parent may have no threads"
    sys.exit(main())
