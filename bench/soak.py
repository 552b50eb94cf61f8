"""Kill workers and the database at random, run after run, and compare the warehouse with an undisturbed one.

python -m bench.soak --kills 100 [--seed 7]    exits 1 at the first difference, 0 when there was none
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "plugins"), str(PROJECT)]

from penstock.core.lease import MAX_ATTEMPTS  # noqa: E402
from penstock.warehouse.migrations import migrate  # noqa: E402
from penstock.warehouse.session import Warehouse  # noqa: E402
from sandbox.__main__ import create_server, listen  # noqa: E402
from sandbox.clock import Clock  # noqa: E402
from sandbox.state import State  # noqa: E402
from stack.postgres import EmbeddedPostgres, free_port  # noqa: E402
from stack.terminal import Stopped, end_on_signals  # noqa: E402
from tests.crash_scenes import ASYNC_REPORTS, GA4, KLAVIYO, META, Scene, Stage, empty, raise_curtain  # noqa: E402
from tests.crash_worker import Result, Worker  # noqa: E402
from tests.pipeline import Pipeline  # noqa: E402
from tests.sandbox_fixture import NOW  # noqa: E402

SCENES = (META, GA4, KLAVIYO, ASYNC_REPORTS)
BLOWS_PER_RUN = MAX_ATTEMPTS - 1
PATIENCE = 20.0
ALLOWED = {None, "DB_UNAVAILABLE", "DB_WRITE_ERROR", "LEASE_LOST"}


class Soak:
    """Runs with blows, until enough of them have hit."""

    def __init__(self, server: EmbeddedPostgres, sandbox: State, url: str, rng: random.Random) -> None:
        self.hits: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.runs = 0
        self._server = server
        self._sandbox = sandbox
        self._url = url
        self._rng = rng
        self._databases: dict[str, str] = {}
        self._blows: Mapping[str, Callable[[Stage, Worker, Mapping[str, Any]], Mapping[str, Any]]] = {
            "worker killed, same lane retries": self._kill,
            "worker killed, lease expires": self._kill_and_take_over,
            "worker frozen, thawed after the takeover": self._freeze,
            "Postgres killed": self._kill_postgres,
            "started twice": self._start_twice,
        }

    def run_once(self) -> None:
        """One run of a random account, up to BLOWS_PER_RUN blows, and the comparison."""
        scene = self._rng.choice(SCENES)
        with Warehouse(self._database(scene), patience=PATIENCE) as warehouse:
            self._sandbox.reset()
            stage = raise_curtain(Pipeline(warehouse, self._url), self._sandbox, scene)
            try:
                self._play(stage)
            except TimeoutError:
                describe(stage)
                raise
            finally:
                for worker in stage.workers:
                    worker.kill()
            # A worker that was started twice may begin when its twin has ended well: that clears the run.
            reopened = "select 1 from core_warehouse.etl_runs where reopened_at is not null"
            stage.assert_as_if_undisturbed(was_cleared=bool(stage.pipeline.fetch(reopened)))
            empty(stage.pipeline, list(stage.expected))
        self.runs += 1

    def _play(self, stage: Stage) -> None:
        lane: Mapping[str, Any] = stage.claim()
        for _ in range(BLOWS_PER_RUN):
            if self._is_over(stage):
                break  # to start it once more would be to clear it, as a person does
            worker = stage.start(lane, patience=PATIENCE)
            calls = stage.calls() + self._rng.randint(1, stage.expected_calls // 2)
            # Half of the blows fall while the vendor is asked, the others at any time: in a transform too.
            if self._rng.random() < 0.5:
                worker.wait_until(lambda until=calls: stage.calls() >= until, 60)  # type: ignore[misc]
            else:
                time.sleep(self._rng.uniform(0.1, 3.0))
            if not worker.is_alive:
                break
            kind = self._rng.choice(list(self._blows))
            lane = self._blows[kind](stage, worker, lane)
            self.hits[kind] += 1
        self._complete(stage, lane)

    def _complete(self, stage: Stage, lane: Mapping[str, Any]) -> None:
        if not self._is_over(stage):
            stage.complete(lane)

    @staticmethod
    def _is_over(stage: Stage) -> bool:
        return stage.pipeline.fetch("select status from core_warehouse.etl_runs") == [("SUCCEEDED",)]

    # -- blows: each returns the lane that goes on with the run ---------------------------------------------------

    def _kill(self, stage: Stage, worker: Worker, lane: Mapping[str, Any]) -> Mapping[str, Any]:
        worker.kill()
        return lane

    def _kill_and_take_over(self, stage: Stage, worker: Worker, lane: Mapping[str, Any]) -> Mapping[str, Any]:
        worker.kill()
        return self._take_over(stage, lane)

    def _take_over(self, stage: Stage, lane: Mapping[str, Any]) -> Mapping[str, Any]:
        """Another DAG run claims what is left, once the dead worker's session is gone."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            stage.expire_lease()
            lanes = stage.sweep()
            if lanes:
                return lanes[0]
            if stage.pipeline.fetch("select 1 from core_warehouse.etl_runs where status = 'IN_PROGRESS'") == []:
                return lane
            time.sleep(0.1)
        raise AssertionError("the run is stuck IN_PROGRESS after its lease")

    def _freeze(self, stage: Stage, worker: Worker, lane: Mapping[str, Any]) -> Mapping[str, Any]:
        worker.freeze()
        stage.end_idle_transactions(worker)
        lane = self._take_over(stage, lane)
        successor = stage.start(lane, patience=PATIENCE)
        time.sleep(self._rng.uniform(0.0, 1.0))
        worker.thaw()
        self._note(worker.result())
        self._note(successor.result())
        return lane

    def _kill_postgres(self, stage: Stage, worker: Worker, lane: Mapping[str, Any]) -> Mapping[str, Any]:
        self._server.kill()
        time.sleep(self._rng.uniform(0.0, 0.5))
        self._server.start()
        self._note(worker.result())
        return lane

    def _start_twice(self, stage: Stage, worker: Worker, lane: Mapping[str, Any]) -> Mapping[str, Any]:
        twin = stage.start(lane, patience=PATIENCE)
        self._note(worker.result())
        self._note(twin.result())
        return lane

    def _note(self, result: Result) -> None:
        if result.code not in ALLOWED:
            raise AssertionError(f"a worker ended with {result.code}: {result.message}")
        self.ends[result.code or "SUCCEEDED"] += 1

    def _database(self, scene: Scene) -> str:
        """A database per scene: what one account has learned is no other's business."""
        key = f"soak_{SCENES.index(scene)}"
        if key not in self._databases:
            self._databases[key] = self._server.create_database(key)
            migrate(self._databases[key])
        return self._databases[key]


@contextmanager
def running_sandbox() -> Iterator[tuple[State, str]]:
    """The vendors, in a thread, on the tests' day."""
    state = State.create(clock=Clock(NOW))
    listener = listen("127.0.0.1", 0)
    server = create_server(state, "critical")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield state, f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = server.force_exit = True
    thread.join(10)
    listener.close()


@contextmanager
def running_postgres() -> Iterator[EmbeddedPostgres]:
    """A durable server on one port: workers find it again after its death."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-soak-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "postgres", free_port(), durable=True)
    try:
        yield server.start()
    finally:
        server.stop(immediate=True)
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--kills", type=int, default=100, help="blows that must have hit")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}")
    began = time.monotonic()
    end_on_signals()  # by default SIGTERM ends Python before it has cleaned up
    with running_postgres() as server, running_sandbox() as (state, url):
        soak = Soak(server, state, url, random.Random(options.seed))
        try:
            while soak.hits.total() < options.kills:
                soak.run_once()
                print(f"run {soak.runs}: equal after {soak.hits.total()} blows", flush=True)
        except (AssertionError, TimeoutError, EOFError, psycopg.Error) as failure:
            print(f"run {soak.runs + 1} went wrong after {soak.hits.total()} blows: {failure!r}"[:4000])
            return 1
        except Stopped as stopped:
            return 128 + stopped.number
        finally:
            report(soak, time.monotonic() - began)
    return 0


def describe(stage: Stage) -> None:
    """What the run and the sessions of the database are at."""
    for query in (
        "select status, leased_by, lease_epoch, attempts, leased_until - now(), error from core_warehouse.etl_runs",
        "select stream, status, pages, updated_at - now(), error from penstock.slices where status <> 'DONE'",
        "select remote_id, status, percent, now() - submitted_at from penstock.remote_jobs",
        "select limit_key, to_jsonb(l) from penstock.rate_limits as l",
        "select to_jsonb(b) from penstock.circuit_breakers as b where b.state <> 'closed'",
        "select application_name, state, wait_event, left(query, 80) from pg_stat_activity where datname is not null",
    ):
        try:
            print(query, *stage.pipeline.fetch(query), sep="\n    ")
        except psycopg.Error as failure:
            print(f"{query}: {failure}")


def report(soak: Soak, seconds: float) -> None:
    print(f"\n{soak.runs} runs equal to an undisturbed one, {soak.hits.total()} blows, {seconds:.0f} s")
    for title, counts in (("blows", soak.hits), ("ends of workers that lived on", soak.ends)):
        print(f"{title}:")
        for name, count in counts.most_common():
            print(f"  {count:5d}  {name}")


if __name__ == "__main__":
    sys.exit(main())
