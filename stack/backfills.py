"""A thin front for Airflow's own backfill: create it, watch it, say how it went."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

from stack.airflow_api import FINISHED, AirflowApi
from stack.local import LocalStack

WAIT_FOR_DAG_SECONDS = 120.0
POLL_SECONDS = 3.0
NAMED = 10  # days that are named one by one


def run(stack: LocalStack, source: str, first: dt.date, last: dt.date) -> int:
    """One DAG run per day from `first` to `last`. Status 0 when every day has one and all succeed."""
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
        days = [first + dt.timedelta(days=number) for number in range((last - first).days + 1)]
        return _watch(stack, api, dag_id, began, days)


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


def _watch(stack: LocalStack, api: AirflowApi, dag_id: str, began: dt.datetime, days: Sequence[dt.date]) -> int:
    said = ""
    while True:
        state_of = _states(api, dag_id, began, days)
        states = Counter(state_of.values())
        line = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        if line and line != said:
            stack.say(f"{dag_id}: {line}")
            said = line
        if states.keys() <= FINISHED:
            break
        time.sleep(POLL_SECONDS)
    # Airflow makes all runs of a backfill when it is asked for, and leaves days out without a word.
    left_out = [str(day) for day in days if day not in state_of]
    if left_out:
        stack.say(f"{dag_id}: not read, their own runs are at work or they are not over: {_few(left_out)}")
    return 0 if states.keys() == {"success"} and not left_out else 1


def _states(api: AirflowApi, dag_id: str, began: dt.datetime, days: Sequence[dt.date]) -> dict[dt.date, str]:
    """Day -> state of its run in this backfill."""
    runs = api.dag_runs(dag_id, since=began, run_type="backfill")
    state_of = {dt.datetime.fromisoformat(run["logical_date"]).date(): str(run["state"]) for run in runs}
    return {day: state for day, state in state_of.items() if day in days}


def _few(days: Sequence[str]) -> str:
    more = f" and {len(days) - NAMED} more" if len(days) > NAMED else ""
    return f"{', '.join(days[:NAMED])}{more}"
