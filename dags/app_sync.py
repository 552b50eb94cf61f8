"""Keeps items that are known by their key up to date: apps and what a store says of them.

## What it does

1. `refresh_priorities` scores every app once a day (players, reviews, trend, age): the score decides its place
   in the queue and its interval, from 6 hours to a week.
2. `plan_lanes` looks how many apps are due for each source, and splits the batch over `partitions` workers.
3. `sync_lane` is mapped over the workers. Each claims due apps under a lease, never one that another worker holds,
   asks for one after the other at a pace that all workers share, and stores what came with the app's new state.
   Apps that were given up are told to Slack once.

## When it runs

Hourly. Each app's own interval decides whether it is due.

## Parameters

`source` names one keyed source, empty means all of them. `batch_size` is per source. The form describes each.

    airflow dags trigger app_sync --conf '{"source": "reviews", "batch_size": 100, "partitions": 2}'

## When it fails

| what happens | what becomes of the app |
|---|---|
| the vendor has no such app | stamped and counted as skipped; asked again after its interval |
| its answer cannot be read, the vendor fails on it | `consecutive_errors` + 1; again after 2^errors x 15 minutes |
| five errors in a row | cools down for a day |
| ten errors in a row | `is_syncable` = false, one alert |
| a rate limit, an outage, SIGTERM | given back untouched |
| it alone is refused, again and again, while others are answered | as if the vendor failed on it |

A red `sync_items` is a fault of the whole job: credentials, a wrong request, the database. The alert names it. A job
whose worker was killed is closed by the next one (`abandoned_as_stale_by_new_<source>_run`), its apps are free again
after five minutes.

## Run it again

At any time: what was read is not due, what is in somebody's hands is not claimed.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, dag, task_group

from penstock.dag_defaults import DEFAULT_ARGS, START_DATE, Tag
from penstock.operators.app_sync import (
    PlanLanesOperator,
    RefreshPrioritiesOperator,
    SyncItemsOperator,
)
from penstock.sources.apps import APP_SOURCES

POOL = "app_sync"
SOURCES = [source.name for source in APP_SOURCES]


@task_group(group_id="sync_lane")
def sync_lane(lane: dict[str, object]) -> None:
    """One lane: one worker of one source."""
    SyncItemsOperator(
        task_id="sync_items",
        lane=lane,
        pool=POOL,
        map_index_template="{{ label }}",
        execution_timeout=timedelta(minutes=50),
    )


@dag(
    dag_id="app_sync",
    dag_display_name="Apps: sync",
    description="Details and reviews of apps, item by item, by priority",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("5 * * * *", timezone="UTC"),
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    max_active_tasks=16,
    max_consecutive_failed_dag_runs=0,
    dagrun_timeout=timedelta(hours=3),
    default_args=DEFAULT_ARGS,
    params={
        "source": Param(
            None,
            title="Source",
            description="A keyed source. Empty: all of them.",
            type=["null", "string"],
            enum=[None, *SOURCES],
        ),
        "batch_size": Param(
            None,
            title="Batch size",
            description="Apps of each source at most. Empty: what the source has as its own.",
            type=["null", "integer"],
            minimum=1,
            maximum=100_000,
        ),
        "partitions": Param(
            2,
            title="Partitions",
            description="Workers per source. They share the batch and the rate limit.",
            type="integer",
            minimum=1,
            maximum=16,
        ),
        "refresh_priorities": Param(
            "AUTO",
            title="Refresh priorities",
            description="AUTO: once a day. ALWAYS: before this run. NEVER: leave them.",
            type="string",
            enum=["AUTO", "ALWAYS", "NEVER"],
        ),
        "dry_run": Param(
            False,
            title="Dry run",
            description="Only write into the log which apps would be asked for; ask, store and refresh nothing.",
            type="boolean",
        ),
    },
    render_template_as_native_obj=False,
    tags=[Tag.APP_SYNC],
)
def app_sync() -> None:
    refresh_priorities = RefreshPrioritiesOperator(task_id="refresh_priorities")
    plan_lanes = PlanLanesOperator(task_id="plan_lanes")
    refresh_priorities >> plan_lanes
    sync_lane.expand(lane=plan_lanes.output)


app_sync()
