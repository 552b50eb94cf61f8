"""Kill drains of the calendar outbox at random, stop Postgres, and compare the calendars with what is wanted.

python -m bench.soak_calendar [--kills 120] [--seed 7] [--only storm|postgres|rebuild|width|everywhere]

storm       keys that change and are cancelled while they are drained by workers that are killed (-9) all the time
postgres    sessions ended, the server restarted, frozen for 5 s or full, statements taken back or their answer lost
rebuild     REBUILD_ALL of 1,000 events, its workers killed at random
width       5,000 items over 50 accounts under Google's own limits: calls against items, time against the ideal
everywhere  a death at every single statement and call of a small drain and of a small rebuild

Exits 1 when a calendar is not exactly as wanted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "plugins"), str(PROJECT)]

from bench.calendar_workers import Workers  # noqa: E402
from bench.postgres_faults import disturb  # noqa: E402
from bench.soak import running_postgres, running_sandbox  # noqa: E402
from penstock.clients.google_calendar import LIMITS  # noqa: E402
from penstock.jobs.calendar_outbox import Orders  # noqa: E402
from penstock.warehouse.migrations import migrate  # noqa: E402
from penstock.warehouse.session import Warehouse  # noqa: E402
from stack.postgres import EmbeddedPostgres  # noqa: E402
from tests.calendar_crash import drain_dies, rebuild_dies  # noqa: E402
from tests.calendar_scene import Scene, Workspace, cancel, source_id, upsert  # noqa: E402

SETS = ("ops", "accounts", "calendar")
ACCOUNTS, KEYS_EACH = 8, 50
REBUILD_EVENTS = 1000
WIDE_ACCOUNTS, WIDE_ITEMS = 50, 5000
FAULTS = (
    {"vendor": "google_calendar", "path": "/events", "action": "status", "probability": 0.03,
     "params": {"status": 403, "reason": "rateLimitExceeded"}},
    {"vendor": "google_calendar", "path": "/events", "action": "status", "probability": 0.03,
     "params": {"status": 500, "stored": True}},
    {"vendor": "google_calendar", "path": "/batch/", "action": "truncate", "probability": 0.03,
     "params": {"wrong_length": True}},
)  # fmt: skip


@dataclass(frozen=True)
class Ground:
    """Where a soak runs."""

    server: EmbeddedPostgres
    sandbox_url: str
    faults: Callable[[Sequence[Mapping[str, Any]]], None]
    calls: Callable[[], int]
    rng: random.Random
    kills: int

    @contextmanager
    def scene(self, **options: Any) -> Iterator[Scene]:
        name = f"calendar_{uuid.uuid4().hex[:8]}"
        dsn = self.server.create_database(name)
        migrate(dsn, SETS)
        with Warehouse(dsn, patience=60) as warehouse:
            scene = Scene(warehouse, self.sandbox_url, **options)
            scene.reset()
            yield scene
        self.server.drop_database(name)


def produce(
    scene: Scene, workspaces: Sequence[Workspace], rounds: int, rng: random.Random, stop: threading.Event
) -> dict[tuple[str, int], str | None]:
    """Items for random keys, cancels among them; what is wanted in the end: (calendar, key) -> title or None."""
    wanted: dict[tuple[str, int], str | None] = {}
    for turn in range(rounds):
        if stop.is_set():
            break
        workspace, number = rng.choice(workspaces), rng.randrange(KEYS_EACH)
        if rng.random() < 0.25:
            scene.enqueue(workspace, "CANCEL_EVENT", cancel(workspace, number))
            wanted[workspace.calendar, number] = None
        else:
            scene.enqueue(workspace, "UPSERT_EVENT", upsert(workspace, number, f"key {number} turn {turn}"))
            wanted[workspace.calendar, number] = f"key {number} turn {turn}"
        time.sleep(rng.uniform(0.0, 0.03))
    return wanted


def wait_until_drained(scene: Scene, seconds: float) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    query = "select count(*) from public.sync_outbox where status in ('PENDING', 'PROCESSING', 'FAILED')"
    while True:
        try:
            if scene.fetch(query) == [(0,)]:
                return
        except psycopg.Error:
            time.sleep(0.5)
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s: {scene.states()}")
        time.sleep(0.2)


def compare(scene: Scene, workspaces: Sequence[Workspace], wanted: Mapping[tuple[str, int], str | None]) -> str:
    """Raises AssertionError at the first difference."""
    events = 0
    for workspace in workspaces:
        titles = sorted(title for (calendar, _), title in wanted.items() if title and calendar == workspace.calendar)
        seen = scene.titles(workspace.calendar)
        assert seen == titles, f"{workspace.calendar}: {set(seen) ^ set(titles)} differ, {len(seen)} of {len(titles)}"
        events += len(seen)
    states = scene.states()
    assert set(states) <= {"COMPLETED", "SUPERSEDED"}, f"{states} {scene.dead()[:3]}"
    return f"{sum(states.values())} items, {events} events exactly as wanted"


def disturbed(ground: Ground, disturb: Callable[[Workers, Scene], None], name: str) -> None:
    """Production and drains, disturbed `kills` times."""
    with ground.scene() as scene:
        ground.faults(FAULTS)
        workspaces = scene.connect_workspaces(ACCOUNTS)
        workers = Workers(scene.warehouse.dsn, ground.sandbox_url, 3, has_failing_statements=name == "postgres")
        stop, told = threading.Event(), {}
        seed = ground.rng.random()

        def run() -> None:
            with Warehouse(scene.warehouse.dsn, patience=60) as own:
                producer = Scene(own, ground.sandbox_url)
                told.update(patient_produce(producer, workspaces, random.Random(seed), stop))

        producer = threading.Thread(target=run)
        began = time.monotonic()
        producer.start()
        try:
            for blow in range(ground.kills):
                wait_for_calls(ground)
                disturb(workers, scene)
                if blow % 20 == 19:
                    print(f"  {name}: {blow + 1} blows, {scene.states()}", flush=True)
            stop.set()
            producer.join()
            ground.faults(())
            wait_until_drained(scene, 180)
        finally:
            stop.set()
            workers.end()
        print(
            f"{name}: {compare(scene, workspaces, told)} after {ground.kills} blows, {time.monotonic() - began:.0f} s"
        )


def wait_for_calls(ground: Ground) -> None:
    """Until Google was called again, for some seconds at most: a blow at a worker that has just begun hits nothing."""
    before, deadline = ground.calls(), time.monotonic() + 5
    while ground.calls() == before and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(ground.rng.choice([0.0, ground.rng.uniform(0.0, 0.3)]))


def patient_produce(
    scene: Scene, workspaces: Sequence[Workspace], rng: random.Random, stop: threading.Event
) -> dict[tuple[str, int], str | None]:
    """Production that bears a database which is away: what was not written is not wanted."""
    wanted: dict[tuple[str, int], str | None] = {}
    while not stop.is_set():
        try:
            wanted.update(produce(scene, workspaces, 1, rng, stop))
        except psycopg.Error:
            # Nobody knows whether it was committed: the next item for every key says what is wanted.
            settle(scene, workspaces, wanted)
    settle(scene, workspaces, wanted)
    return wanted


def settle(scene: Scene, workspaces: Sequence[Workspace], wanted: dict[tuple[str, int], str | None]) -> None:
    """One last item for every key. Raises psycopg.Error when the database stays away for a minute."""
    deadline = time.monotonic() + 60
    for workspace in workspaces:
        for number in range(KEYS_EACH):
            title = f"key {number} settled {time.monotonic():.3f}"
            while True:
                try:
                    scene.enqueue(workspace, "UPSERT_EVENT", upsert(workspace, number, title))
                    break
                except psycopg.Error:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
            wanted[workspace.calendar, number] = title


def storm(ground: Ground) -> None:
    disturbed(ground, lambda workers, scene: workers.kill_one(ground.rng), "storm")


def postgres(ground: Ground) -> None:
    blows: Counter[str] = Counter()

    def blow(workers: Workers, scene: Scene) -> None:
        blows[disturb(ground.server, scene.warehouse.dsn, ground.rng)] += 1

    disturbed(ground, blow, "postgres")
    print(f"postgres: {dict(blows)}")


def rebuild(ground: Ground) -> None:
    """1,000 tasks: half of their events are there, some are wrong, some have no task."""
    with ground.scene() as scene:
        (workspace,) = scene.connect_workspaces(1)
        scene.enqueue(workspace, "UPSERT_EVENT", *(upsert(workspace, n, f"wrong {n}") for n in range(0, 1200, 2)))
        scene.run(Orders(residence=0, threads=2))
        scene.fetch(
            "insert into public.tasks (id, workspace_id, title, priority, is_blocking, due_at) "
            "select i::uuid, %s, 'task ' || n, 'P1', true, now() from unnest(%s::text[]) with ordinality as t (i, n)",
            [workspace.workspace_id, [source_id(number) for number in range(REBUILD_EVENTS)]],
        )
        began = time.monotonic()
        scene.enqueue(workspace, "REBUILD_ALL", {})
        workers = Workers(scene.warehouse.dsn, ground.sandbox_url, 2)
        blows = max(5, ground.kills // 10)
        try:
            for _ in range(blows):
                wait_for_calls(ground)
                workers.kill_one(ground.rng)
            wait_until_drained(scene, 180)
        finally:
            workers.end()
        wanted = sorted(f"Deadline: task {number + 1}" for number in range(REBUILD_EVENTS))
        assert scene.titles(workspace.calendar) == wanted, "the calendar differs from the tasks"
        assert set(scene.states()) <= {"COMPLETED", "SUPERSEDED"}, scene.states()
        print(
            f"rebuild: {REBUILD_EVENTS} events exactly as wanted after {blows} kills, {time.monotonic() - began:.0f} s"
        )


def width(ground: Ground) -> None:
    """Many accounts under the limits that Google really has."""
    with ground.scene(limits=dict(LIMITS)) as scene:
        scene.put("limits", {"user": [600, 60], "calendar": [50, 10], "project": [10_000, 60]})
        workspaces = scene.connect_workspaces(WIDE_ACCOUNTS)
        each = WIDE_ITEMS // WIDE_ACCOUNTS
        for workspace in workspaces:
            scene.enqueue(workspace, "UPSERT_EVENT", *(upsert(workspace, n, f"event {n}") for n in range(each)))
        began = time.monotonic()
        scene.run(Orders(residence=0, horizon=30, threads=4))
        seconds = time.monotonic() - began
        for workspace in workspaces:
            assert len(scene.seen(workspace.calendar)) == each, workspace.calendar
        assert scene.states() == {"COMPLETED": WIDE_ITEMS}, scene.states()
        calls = http_calls(ground.sandbox_url)
        exceeded = [row for row in calls["limits"] if row["is_exceeded"] and row["vendor"] == "google_calendar"]
        assert not exceeded, exceeded
        counted = [row for row in calls["answers"] if not row["endpoint"].startswith("batched")]
        made = sum(row["count"] for row in counted if row["vendor"] in ("google_calendar", "google"))
        ideal = (each / 50 - 1) * 10.0
        print(
            f"width: {WIDE_ITEMS} items over {WIDE_ACCOUNTS} accounts with {made} calls to Google "
            f"({WIDE_ITEMS / made:.1f} items a call), {seconds:.1f} s; the calendars' limits allow {ideal:.0f} s"
        )
        assert made * 20 <= WIDE_ITEMS, "too many calls"


def http_calls(sandbox_url: str) -> dict[str, Any]:
    import requests

    answer: dict[str, Any] = requests.get(f"{sandbox_url}/sandbox/calls", timeout=30).json()
    return answer


def everywhere(ground: Ground) -> None:
    deaths = 0
    for dies in (drain_dies, rebuild_dies):
        for after in (False, True):
            with ground.scene() as scene:
                for step in itertools.count(1):
                    if not dies(scene, step, after=after):
                        break
                    deaths += 1
    print(f"everywhere: {deaths} deaths, the calendar right after each")


SOAKS: Mapping[str, Callable[[Ground], None]] = {
    "storm": storm,
    "postgres": postgres,
    "rebuild": rebuild,
    "width": width,
    "everywhere": everywhere,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak_calendar", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", choices=sorted(SOAKS), action="append")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}")
    from sandbox.faults import parse

    with running_postgres() as server, running_sandbox() as (state, url):
        ground = Ground(
            server,
            url,
            lambda rules: state.faults.set(parse(rules)),
            lambda: len(state.remembered("google_calendar").get("calls", ())),
            random.Random(options.seed),
            options.kills,
        )
        for name in options.only or SOAKS:
            try:
                SOAKS[name](ground)
            except (AssertionError, TimeoutError, psycopg.Error) as failure:
                print(f"{name} went wrong: {json.dumps(str(failure))[:2000]}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
