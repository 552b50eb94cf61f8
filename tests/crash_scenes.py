"""What the crash tests and the soak play with: an account in many small pages, an undisturbed run to compare with,
and workers that can be killed."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.jobs import platform_etl
from penstock.sources import by_name
from sandbox.state import State
from tests.crash_worker import Job, Worker
from tests.pipeline import SOURCES, Pipeline, snapshot

LATENCY = 0.01
IN_HAND = 2
"""Pages that a slice's worker may hold unsaved when it dies: the one that is written and the one on its way."""

IDLE_SECONDS = 60.0

PROFILE_CALLS = 4
"""Token, account and metrics: every worker begins with them."""

Snapshot = Mapping[str, list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Scene:
    """One account to read, in pages so small that there are many places to die at."""

    platform: str
    page_sizes: Mapping[str, int]
    streams: tuple[str, ...] | None = None

    @property
    def source(self) -> str:
        return SOURCES[self.platform]

    @property
    def calls_lost_per_kill(self) -> int:
        """What a retry may ask again: the account itself, and the pages that were not saved."""
        return PROFILE_CALLS + by_name(self.source).concurrency * IN_HAND


META = Scene("META", {"campaigns": 10, "adsets": 25, "ads": 25, "insights_ad": 150, "insights_country": 50})
GA4 = Scene("GA4", {"landing": 60, "traffic": 60, "events": 60})
KLAVIYO = Scene("KLAVIYO", {"events": 100}, ("events", "lists", "segments"))
ASYNC_REPORTS = Scene("META", {"insights_ad": 300}, ("insights_campaign", "insights_adset", "insights_ad"))
_UNDISTURBED: dict[str, tuple[Snapshot, list[Any], int]] = {}


@dataclass
class Stage:
    """A warehouse with one registered account, before a sandbox."""

    pipeline: Pipeline
    sandbox: State
    scene: Scene
    expected: Snapshot
    expected_slices: list[Any]
    expected_calls: int
    workers: list[Worker] = dataclasses.field(default_factory=list)

    def claim(self) -> dict[str, Any]:
        """A new run of the account, claimed by its DAG run."""
        streams = list(self.scene.streams) if self.scene.streams else None
        lanes = self.pipeline.claim(self.scene.source, self.pipeline.enqueue(self.scene.source, streams=streams))
        return lanes[0]

    def sweep(self) -> list[dict[str, Any]]:
        """What another DAG run gets to claim."""
        return platform_etl.claim(
            self.pipeline.warehouse,
            source=None,
            dag_id="platform_etl_queue",
            dag_run_id=uuid.uuid4().hex,
            limit=5,
            run_ids=None,
        )

    def expire_lease(self) -> None:
        with self.pipeline.warehouse.connection() as conn:
            conn.execute(
                "update core_warehouse.etl_runs set leased_until = now() - interval '1 second' "
                "where status = 'IN_PROGRESS'"
            )

    def end_idle_transactions(self, worker: Worker) -> None:
        """What the server does by itself when a client is silent for too long inside a transaction. A statement that
        is under way ends first: only then does its transaction fall idle."""
        deadline = time.monotonic() + IDLE_SECONDS
        while time.monotonic() < deadline:
            states = self.pipeline.fetch(
                "select case when state like 'idle in transaction%%' then pg_terminate_backend(pid) end "
                "from pg_stat_activity where application_name = %(name)s and state <> 'idle'",
                name=f"penstock-{worker.pid}",
            )
            if not states:
                return
            time.sleep(0.05)
        raise TimeoutError(f"the frozen worker's statement does not end in {IDLE_SECONDS} s")

    def start(self, lane: Mapping[str, Any], *stages: str, **changes: Any) -> Worker:
        job = Job(self.pipeline.warehouse.dsn, self.pipeline.sandbox_url, lane, **changes)
        worker = Worker(dataclasses.replace(job, stages=stages) if stages else job)
        self.workers.append(worker)
        return worker

    def calls(self) -> int:
        """Vendor calls so far, those whose caller is gone included."""
        return int(self.sandbox.ledger.calls()["total"])  # type: ignore[call-overload]

    def kill_after(self, lane: Mapping[str, Any], calls: int) -> bool:
        """Starts a worker and kills it when it has made so many calls; whether it died at work."""
        before = self.calls()
        worker = self.start(lane)
        return worker.wait_until(lambda: self.calls() - before >= calls) and worker.kill()

    def complete(self, lane: Mapping[str, Any]) -> None:
        result = self.start(lane).result()
        assert result.code is None, result.message

    def saved_pages(self) -> int:
        return int(self.pipeline.fetch("select coalesce(sum(pages), 0) from penstock.slices")[0][0])

    def finished_slices(self) -> list[tuple[Any, ...]]:
        return self.pipeline.fetch(
            "select slice_no, updated_at from penstock.slices where status = 'DONE' order by slice_no"
        )

    def assert_as_if_undisturbed(self, *, was_cleared: bool = False) -> None:
        """The warehouse, the slices and the run's row. was_cleared: the run was begun anew after its good end, and read
        what was due from where the cursors stood by then: the slices are others, all of them read."""
        found = snapshot(self.pipeline)
        differing = [table for table in {**found, **self.expected} if found.get(table) != self.expected.get(table)]
        assert found == self.expected, f"tables that differ: {', '.join(differing)}"
        read = slices_read(self.pipeline)
        if was_cleared:
            assert {status for _, _, _, status, *_ in read} == {"DONE"}, f"slices that were not read: {read}"
        else:
            assert read == self.expected_slices, f"slices that differ: {set(read) ^ set(self.expected_slices)}"
        states = self.pipeline.fetch("select distinct status, leased_until from core_warehouse.etl_runs")
        assert states == [("SUCCEEDED", None)], f"the run's row: {states}"


def slices_read(pipeline: Pipeline) -> list[Any]:
    """What was read of every slice: a page counted twice or left out shows here."""
    return pipeline.fetch(
        "select stream, params::text, window_start, status, pages, rows_read, rows_rejected from penstock.slices "
        "order by 1, 2, 3"
    )


def raise_curtain(pipeline: Pipeline, sandbox: State, scene: Scene) -> Stage:
    """The account registered, and what an undisturbed run makes of it (asked once per scene and session)."""
    sandbox.latency = LATENCY
    pipeline.now = sandbox.clock.now
    pipeline.register(pipeline.accounts(scene.platform)[:1])
    remember_page_sizes(pipeline, scene)
    stage = Stage(pipeline, sandbox, scene, {}, [], 0)
    if repr(scene) not in _UNDISTURBED:
        stage.complete(stage.claim())
        _UNDISTURBED[repr(scene)] = (snapshot(pipeline), slices_read(pipeline), stage.calls())
        empty(pipeline, list(_UNDISTURBED[repr(scene)][0]))
        remember_page_sizes(pipeline, scene)
        sandbox.reset()
    stage.expected, stage.expected_slices, stage.expected_calls = _UNDISTURBED[repr(scene)]
    assert len(stage.expected) >= 2, "the scene loads staging and core"
    return stage


def remember_page_sizes(pipeline: Pipeline, scene: Scene) -> None:
    with pipeline.warehouse.connection() as conn:
        conn.execute(
            "update platform_connections set facts = jsonb_build_object('page_sizes', %(sizes)s::jsonb)",
            {"sizes": json.dumps({name: size // 2 for name, size in scene.page_sizes.items()})},
        )


def empty(pipeline: Pipeline, tables: list[str]) -> None:
    with pipeline.warehouse.connection() as conn:
        conn.execute(f"truncate {', '.join(tables)}, core_warehouse.etl_runs, penstock.stream_cursors cascade")
        conn.execute(
            "truncate core_warehouse.sync_cursors, penstock.rate_limits, penstock.circuit_breakers, "
            "penstock.slice_keys, penstock.remote_jobs"
        )
