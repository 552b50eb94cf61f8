"""`make demo`: the scheduler runs every DAG once; then our totals are compared with the vendors' own."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from stack import private_files, report
from stack.airflow_api import FINISHED, AirflowApi
from stack.local import LocalStack
from stack.memory import PeakMemory
from stack.parts import PARTS, Ground, Part, PartResult
from stack.processes import ServiceError

PARSE_SECONDS = 180.0
POLL_SECONDS = 2.0
PROGRESS_SECONDS = 10.0
ENDED = FINISHED | {"queued"}  # of a paused DAG: what is queued stays so
DEFAULT_LIMIT = 1200.0  # seconds for all DAG runs; PENSTOCK_DEMO_SECONDS changes it

# A waiting run with an error was put back by a quota; one without is reserved for the DAG run that wrote it.
_WAITING = """
select
    count(*) filter (
        where status = 'QUEUED' and (coalesce(not_before, '-infinity') <= now() or error is null)
    ) as queued,
    count(*) filter (where status = 'IN_PROGRESS') as running,
    count(*) filter (where status = 'QUEUED' and not_before > now() and error is not null) as later
from core_warehouse.etl_runs
where coalesce(completed_at, heartbeat_at, created_at) >= %(since)s or status in ('QUEUED', 'IN_PROGRESS')
"""
_PROGRESS = """
select
    count(*) filter (where s.status = 'DONE') as done, count(*) filter (where s.status <> 'SPLIT') as slices,
    coalesce(sum(s.requests), 0)::bigint as requests, coalesce(sum(s.rows_read), 0)::bigint as records
from core_warehouse.etl_runs as r
inner join penstock.slices as s on s.run_id = r.id
where coalesce(r.completed_at, r.heartbeat_at, r.created_at) >= %(since)s
"""


class DemoError(ServiceError):
    """The demo cannot go on; the message says why."""


def run(stack: LocalStack) -> int:
    """Status 0 only if every DAG run succeeded and every difference is 0."""
    began = time.monotonic()
    with PeakMemory(stack.processes) as memory, stack.running():
        started_in = time.monotonic() - began
        stack.say(f"Airflow is up: {stack.url}")
        with closing(stack.api()) as api, psycopg.connect(stack.warehouse_dsn, autocommit=True) as warehouse:
            demo = _Demo(stack, api, warehouse)
            dag_ids, dag_runs = demo.run_every_dag()
            accounts = report.read_accounts(stack.warehouse_dsn, demo.since)
            parts = demo.part_results()
        found = report.problems(accounts, dag_runs, dag_ids)
        found += [f"{name}: {problem}" for name, part in parts.items() for problem in part.problems]
        result = {
            "ok": not found,
            "seconds": round(time.monotonic() - began, 1),
            "started_in_seconds": round(started_in, 1),
            "began_at": demo.since.isoformat(),
            "dag_runs": dag_runs,
            "accounts": report.as_json(accounts),
            **{name: dict(part.data) for name, part in parts.items()},
            "problems": found,
            "peak_memory_mb": memory.megabytes,
        }
        private_files.write_json(stack.home.report_file, result)
        print(f"\n{report.text(accounts, dag_runs)}\n", flush=True)
        for name, part in parts.items():
            print("\n".join((f"{name}:", *(f"  {line}" for line in part.lines), "")), flush=True)
    _conclude(stack, result)
    return 1 if found else 0


def go_on(stack: LocalStack) -> None:
    """Unpause what a demo has paused at its end, once: what a person pauses stays so."""
    paused = private_files.read_json(stack.home.paused_file).get("dag_ids", [])
    with closing(stack.api()) as api:
        for dag_id in paused:
            api.unpause(dag_id)
    stack.home.paused_file.unlink(missing_ok=True)


def _conclude(stack: LocalStack, result: Mapping[str, Any]) -> None:
    peaks = result["peak_memory_mb"]
    parts = ", ".join(f"{name} {size:,}" for name, size in peaks.items() if name != "all")
    print(f"{result['seconds']:.0f} s, of which {result['started_in_seconds']:.0f} s to start")
    print(f"peak memory {peaks.get('all', 0):,} MB ({parts})")
    for problem in result["problems"]:
        print(f"NOT OK: {problem}")
    if result["ok"]:
        print("OK: every DAG run succeeded and every difference is 0")
    print(f"report: {stack.home.report_file}", flush=True)


class _Demo:
    def __init__(self, stack: LocalStack, api: AirflowApi, warehouse: psycopg.Connection[Any]) -> None:
        self._stack = stack
        self._api = api
        self._warehouse = warehouse
        self._states: dict[tuple[str, str], str] = {}
        self._parts: tuple[Part, ...] = ()
        self._triggered: set[str] = set()
        # Runs that the scheduler made while the stack was starting belong to the demo.
        self.since = stack.started_at
        self._ground = Ground(
            warehouse_dsn=stack.warehouse_dsn,
            sandbox_url=stack.sandbox_url,
            vault_keys=stack.vault_keys,
            since=self.since,
        )
        self._deadline = time.monotonic() + float(stack.values.get("PENSTOCK_DEMO_SECONDS") or DEFAULT_LIMIT)

    def run_every_dag(self) -> tuple[list[str], list[dict[str, Any]]]:
        """The ids of all DAGs, and their runs of this demo once all have ended."""
        dags = self._wait_for_dags()
        dag_ids = sorted(dags)
        self._stack.say(f"{len(dag_ids)} DAGs: {', '.join(dag_ids)}")
        if self._stack.plan.is_make_believe:
            self._parts = tuple(part for part in PARTS if part.dag_id in dags)
        else:
            self._stack.say("sample rows of the other concerns are left out: not everything is a stand-in")
        for part in self._parts:
            part.prepare(self._ground)
        for dag_id in dag_ids:
            self._api.unpause(dag_id)
        self._start_the_idle(dags)
        next_progress = 0.0
        is_closing = False
        while True:
            self._stack.check()
            runs = self._api.dag_runs(since=self.since)
            self._say_changes(runs)
            if not is_closing and self._is_worked(runs, dag_ids):
                is_closing = True
                private_files.write_json(self._stack.home.paused_file, {"dag_ids": dag_ids})
                # Drains stay for their minute and the next one is started at once: without this somebody always runs.
                for dag_id in dag_ids:
                    self._api.pause(dag_id)
            elif is_closing and all(run["state"] in ENDED for run in runs):
                return dag_ids, [_summary(run) for run in runs if run["state"] != "queued"]
            if time.monotonic() > self._deadline:
                self._stack.say("time is up: runs that have not ended count as failed (PENSTOCK_DEMO_SECONDS)")
                return dag_ids, [_summary(run) for run in runs]
            if time.monotonic() > next_progress:
                next_progress = time.monotonic() + PROGRESS_SECONDS
                self._say_progress()
            time.sleep(POLL_SECONDS)

    def part_results(self) -> dict[str, PartResult]:
        """Name -> what each concern has to show."""
        return {part.name: part.result(self._ground) for part in self._parts}

    def _wait_for_dags(self) -> dict[str, dict[str, Any]]:
        """Every DAG, once each file is parsed. Raises DemoError when a file is broken or never read."""
        files = {path.name for path in self._stack.dags_folder.glob("*.py")}
        if not files:
            raise DemoError(f"{self._stack.dags_folder} has no DAG files")
        deadline = time.monotonic() + PARSE_SECONDS
        while True:
            self._stack.check()
            errors = self._api.import_errors()
            if errors:
                raise DemoError("\n".join(f"{item['filename']}: {item['stack_trace']}" for item in errors))
            dags = {dag["dag_id"]: dag for dag in self._api.dags()}
            missing = files - {Path(str(dag["fileloc"])).name for dag in dags.values()}
            if not missing:
                return dags
            if time.monotonic() > deadline:
                raise DemoError(f"not parsed within {PARSE_SECONDS:.0f} s: {', '.join(sorted(missing))}")
            time.sleep(1)

    def _start_the_idle(self, dags: Mapping[str, Mapping[str, Any]]) -> None:
        """Trigger the DAGs of which the scheduler starts no run by itself now, or none that would do."""
        now = dt.datetime.now(dt.UTC)
        conf = {part.dag_id: part.params for part in self._parts if part.params is not None}
        begun = {run["dag_id"] for run in self._api.dag_runs(since=self.since)}
        begun -= {part.dag_id for part in self._parts if part.is_always_triggered}
        for dag_id, dag in sorted(dags.items()):
            due = dag.get("next_dagrun_run_after") if dag_id not in conf else None
            if dag_id in begun or (due and dt.datetime.fromisoformat(due) <= now):
                continue
            self._triggered.add(self._api.trigger(dag_id, conf.get(dag_id)))

    def _is_worked(self, runs: Sequence[Mapping[str, Any]], dag_ids: Sequence[str]) -> bool:
        """Whether every DAG has ended a run and nothing waits for another one."""
        finished = [run for run in runs if run["state"] in FINISHED]
        if not set(dag_ids) <= {run["dag_id"] for run in finished}:
            return False
        if not self._triggered <= {run["dag_run_id"] for run in finished}:
            return False
        row = self._warehouse.execute(_WAITING, {"since": self.since}).fetchone()
        if row is not None and (row[0] or row[1]):
            return False
        return all(part.is_over(self._ground) for part in self._parts)

    def _say_changes(self, runs: Sequence[Mapping[str, Any]]) -> None:
        for run in runs:
            key, state = (str(run["dag_id"]), str(run["dag_run_id"])), str(run["state"])
            if self._states.get(key) != state:
                self._states[key] = state
                seconds = f" after {run['duration']:.0f} s" if run["duration"] and state in FINISHED else ""
                self._stack.say(f"{run['dag_id']} ({run['run_type']}): {state}{seconds}")
                if state == "failed":
                    self._say_failed_tasks(run)

    def _say_failed_tasks(self, run: Mapping[str, Any]) -> None:
        for task in self._api.task_instances(str(run["dag_id"]), str(run["dag_run_id"])):
            if task["state"] == "failed":
                log = self._stack.home.logs / "tasks" / f"dag_id={run['dag_id']}" / f"run_id={run['dag_run_id']}"
                index = f"/map_index={task['map_index']}" if task["map_index"] >= 0 else ""
                self._stack.say(f"  {task['task_id']} failed: {log}/task_id={task['task_id']}{index}")

    def _say_progress(self) -> None:
        waiting = self._warehouse.execute(_WAITING, {"since": self.since}).fetchone()
        progress = self._warehouse.execute(_PROGRESS, {"since": self.since}).fetchone()
        if waiting is None or progress is None:
            return
        queued, running, later = waiting
        done, slices, requests, records = progress
        rest = f", {later} wait for a quota" if later else ""
        self._stack.say(
            f"accounts: {running} being read, {queued} queued{rest} · slices {done:,} of {slices:,} · "
            f"{requests:,} requests · {records:,} records"
        )


def _summary(run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "dag_id": run["dag_id"],
        "run_id": run["dag_run_id"],
        "run_type": run["run_type"],
        "state": run["state"],
        "seconds": round(run["duration"] or 0.0, 1),
    }
