"""Kill a task, Postgres and the scheduler while Airflow reads diamonds, and compare with a run that nobody disturbed.

`python -m bench.soak_nivoda [--stones 12000]`: a stack of its own with Airflow's own scheduler and executor, in a
folder that is thrown away. Exits with 1 when a stone differs or a run ends otherwise than it should.

1. A run that nobody disturbs. What it leaves is the measure.
2. From nothing again: a mapped task is killed, then Postgres, then the scheduler with all that it runs.
3. From nothing again: the vendor refuses all tokens in mid-run. All partitions fail, the gate blocks, an operator
   approves the consolidation (by the call that Airflow's form makes), then clears the failed tasks, which go on at
   their checkpoints.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "plugins"), str(PROJECT)]

import psutil  # noqa: E402
import psycopg  # noqa: E402
import requests  # noqa: E402
from psycopg.rows import DictRow, dict_row  # noqa: E402

from bench.machine import BenchError  # noqa: E402
from stack.airflow_api import FINISHED, AirflowApi  # noqa: E402
from stack.home import Home  # noqa: E402
from stack.local import WAREHOUSE, LocalStack  # noqa: E402
from stack.terminal import end_on_signals  # noqa: E402

DAG_ID = "nivoda_ingestion"
FEED = "natural"
READ_PARTITION = f"{FEED}.partition.ingest_partition"
APPROVE = f"{FEED}.approve_consolidation"
PARTITIONS = 8
PATIENCE = 1_500.0  # seconds; a killed task is missed after a minute, and its next try waits some more
POLL = 0.2

TABLES = (
    "raw_diamonds_nivoda, diamonds, run_metadata, worker_runs, partition_progress, dataset_versions, "
    "penstock.nivoda_plans, penstock.nivoda_partitions, penstock.nivoda_page_keys, penstock.feed_watermarks, "
    "penstock.ingest_debt, penstock.stone_sightings, penstock.nivoda_rejected_stones"
)
STOCK = """
select
    count(*) as stones, sum(feed_price) as dollars,
    md5(string_agg(supplier_stone_id || row_hash || status || availability, ',' order by supplier_stone_id)) as digest
from diamonds
"""
RUN = """
select
    status, decision, watermark like 'moved%' as is_moved, distinct_read, duplicates, surely_missed, possibly_missed,
    requests, seconds::integer as seconds, (select max(attempts) from penstock.nivoda_partitions) as most_attempts
from reporting.nivoda_runs where level = 'run'
"""
PROGRESS = "select coalesce(sum(rows_read), 0)::bigint as rows from penstock.nivoda_partitions"
READERS = """
select client_port from pg_stat_activity
where application_name = 'penstock' and query ilike '%nivoda_partitions%' and client_port > 0
"""


READING_SECONDS = 5.0
"""What a person takes at least to read the gate's question."""


class Soak:
    """One stack, and what happens to it."""

    def __init__(self, stack: LocalStack, api: AirflowApi, stones: int) -> None:
        self._stack = stack
        self._api = api
        self._stones = stones
        self.differences = 0

    # -- the three runs

    def undisturbed(self) -> Mapping[str, Any]:
        """The measure of the others."""
        run_id = self._begin()
        self._expect("state of the run", self._end(run_id), "success")
        stock = self._rows(STOCK)[0]
        self._expect("stones", stock["stones"], self._stones)
        self._report("undisturbed", run_id)
        return stock

    def killed(self, measure: Mapping[str, Any]) -> None:
        """A task, Postgres and the scheduler die."""
        run_id = self._begin()
        self._until_read(0.1)
        self._kill("a mapped task", self._until(self._reader, "a task is found that reads"))
        self._until_read(0.3)
        self._kill("Postgres", self._stack.processes()[f"postgres ({WAREHOUSE})"])
        self._until_read(0.5)
        self._kill("the scheduler", self._stack.processes()["scheduler"])
        self._expect("state of the run", self._end(run_id), "success")
        self._compare(measure)
        self._report("killed", run_id)

    def refused(self, measure: Mapping[str, Any]) -> None:
        """The vendor refuses everybody; a person decides, and has the rest read later."""
        run_id = self._begin()
        self._until_read(0.3)
        self._switch(refuses_tokens=True)
        requests.post(f"{self._stack.sandbox_url}/sandbox/nivoda/revoke", timeout=60).raise_for_status()
        asked = self._until(lambda: self._api.questions(DAG_ID, run_id), "the gate asks")
        self._expect(
            "questions", [each["task_instance"]["task_id"] for each in asked], [f"{FEED}.approve_consolidation"]
        )
        # An answer within the same fifth of a second finds Airflow 3.3.2 not yet done with pausing the task: it takes
        # the paused process for a failed one, forgets the answer and asks again. No person is that quick.
        time.sleep(READING_SECONDS)
        self._api.answer(DAG_ID, run_id, f"{FEED}.approve_consolidation", "Approve")
        self._expect("state of the run", self._end(run_id), "failed")
        part = self._rows(STOCK)[0]["stones"]
        read = self._rows("select count(*) as stones from raw_diamonds_nivoda")[0]["stones"]
        self._expect("stones consolidated of those that were read", part, read)
        print(f"  approved: {part:,} of {self._stones:,} stones are in `diamonds`", flush=True)
        self._report("approved", run_id)

        self._switch(refuses_tokens=False)
        failed = [
            each["map_index"]
            for each in self._api.task_instances(DAG_ID, run_id)
            if each["task_id"] == READ_PARTITION and each["state"] == "failed"
        ]
        self._api.clear(DAG_ID, run_id, READ_PARTITION, failed)
        print(f"  {len(failed)} failed tasks were cleared with all behind them", flush=True)
        self._expect("state of the run", self._end(run_id), "success")
        self._compare(measure)
        self._report("cleared", run_id)
        again = int(self._rows(RUN)[0]["duplicates"])
        # A page at each checkpoint, and what border prices two partitions share.
        self._expect("stones read again are few", again <= PARTITIONS * 100, True)

    # -- steps

    def _begin(self) -> str:
        with psycopg.connect(self._stack.warehouse_dsn, autocommit=True) as connection:
            connection.execute(f"truncate {TABLES} cascade")
        return self._api.trigger(DAG_ID, {"feed": FEED, "run_type": "full", "partitions": PARTITIONS})

    def _end(self, run_id: str) -> str:
        def state() -> str | None:
            found = [run["state"] for run in self._api.dag_runs(DAG_ID) if run["dag_run_id"] == run_id]
            return found[0] if found and found[0] in FINISHED else None

        return str(self._until(state, f"run {run_id} ends"))

    def _until_read(self, share: float) -> None:
        self._until(lambda: self._rows(PROGRESS)[0]["rows"] >= share * self._stones, f"{share:.0%} are read")

    def _until(self, find: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            self._stack.check()
            try:
                found = find()
            except (psycopg.OperationalError, requests.ConnectionError):
                found = None  # what was killed is coming back
            if found:
                return found
            if time.monotonic() > deadline:
                raise BenchError(f"waited {PATIENCE:.0f} s in vain until {what}")
            time.sleep(POLL)

    def _kill(self, what: str, pid: int) -> None:
        rows = self._rows(PROGRESS)[0]["rows"]
        os.kill(pid, signal.SIGKILL)
        print(f"  kill -9 of {what} after {rows:,} of {self._stones:,} stones", flush=True)

    def _reader(self) -> int | None:
        """A process that reads a partition, by its connection to the database."""
        ports = {row["client_port"] for row in self._rows(READERS)}
        found = [each.pid for each in psutil.net_connections("tcp") if each.laddr.port in ports and each.pid]
        readers = [pid for pid in found if "postgres" not in psutil.Process(pid).name()]
        return readers[0] if readers else None

    def _switch(self, **switches: Any) -> None:
        requests.put(f"{self._stack.sandbox_url}/sandbox/nivoda", json=switches, timeout=60).raise_for_status()

    def prepare(self) -> None:
        """The market of the runs. What the scheduler starts by itself for the time before comes first, and is small."""
        self._switch(natural=60, labgrown=60)
        self._end(self._begin())
        self._until(lambda: all(run["state"] in FINISHED for run in self._api.dag_runs(DAG_ID)), "other runs end")
        self._switch(natural=self._stones)

    # -- judging

    def _compare(self, measure: Mapping[str, Any]) -> None:
        for name, value in self._rows(STOCK)[0].items():
            self._expect(name, value, measure[name])

    def _expect(self, what: str, found: Any, wanted: Any) -> None:
        if found != wanted:
            self.differences += 1
            print(f"  DIFFERS {what}: {found}, not {wanted}", flush=True)

    def _report(self, name: str, run_id: str) -> None:
        row = self._rows(RUN)[0]
        tries = [each["try_number"] for each in self._api.task_instances(DAG_ID, run_id)]
        print(f"{name}: {dict(row)}; most tries of a task {max(tries)}", flush=True)

    def _rows(self, query: str) -> list[DictRow]:
        with psycopg.connect(self._stack.warehouse_dsn, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(query).fetchall()


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak_nivoda", description=__doc__)
    parser.add_argument("--stones", type=int, default=12_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="penstock-soak-"))
    folder.chmod(0o711)  # the server's own user must get through
    dags = folder / "dags"
    dags.mkdir()
    shutil.copy(PROJECT / "dags" / f"{DAG_ID}.py", dags)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    values = {**kept, "PENSTOCK_DAGS_DIR": str(dags), "PENSTOCK_DOTENV": os.devnull}
    began = time.monotonic()
    end_on_signals()
    try:
        stack = LocalStack(Home(folder), values, lambda line: print(f"  {line}", flush=True))
        with stack.running(), closing(stack.api()) as api:
            soak = Soak(stack, api, options.stones)
            soak.prepare()
            measure = soak.undisturbed()
            soak.killed(measure)
            soak.refused(measure)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{time.monotonic() - began:.0f} s, {soak.differences} differences")
    return 1 if soak.differences else 0


if __name__ == "__main__":
    sys.exit(main())
