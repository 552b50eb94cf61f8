"""A thin front for Airflow's own backfill: create it, watch it, say how it went."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from contextlib import closing

from stack.airflow_api import FINISHED, AirflowApi
from stack.local import LocalStack

WAIT_FOR_DAG_SECONDS = 120.0
POLL_SECONDS = 3.0


def run(stack: LocalStack, source: str, first: dt.date, last: dt.date) -> int:
    """One DAG run per day from `first` to `last`. Status 0 when all succeed."""
    dag_id = source if source.startswith("platform_etl__") else f"platform_etl__{source}"
    with closing(stack.api()) as api:
        if not _exists(api, dag_id):
            known = sorted(dag["dag_id"] for dag in api.dags())
            stack.say(f"there is no DAG {dag_id}; there are {', '.join(known) or 'none at all'}")
            return 1
        api.unpause(dag_id)
        began = dt.datetime.now(dt.UTC)
        backfill = api.create_backfill(dag_id, first, last, {})
        stack.say(f"backfill {backfill} of {dag_id}, {first} to {last}: {stack.url}/dags/{dag_id}")
        return _watch(stack, api, dag_id, began)


def _exists(api: AirflowApi, dag_id: str) -> bool:
    """Whether the DAG is there; a stack that has just started for the first time still reads its files."""
    deadline = time.monotonic() + WAIT_FOR_DAG_SECONDS
    while True:
        known = {dag["dag_id"] for dag in api.dags()}
        if dag_id in known:
            return True
        if known or time.monotonic() > deadline:
            return False
        time.sleep(1)


def _watch(stack: LocalStack, api: AirflowApi, dag_id: str, began: dt.datetime) -> int:
    said = ""
    while True:
        runs = api.dag_runs(dag_id, since=began, run_type="backfill")
        states = Counter(str(run["state"]) for run in runs)
        line = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        if line and line != said:
            stack.say(f"{dag_id}: {line}")
            said = line
        if runs and states.keys() <= FINISHED:
            return 0 if states.keys() == {"success"} else 1
        time.sleep(POLL_SECONDS)
