"""Brings the items of `sync_outbox` into the workspaces' Google calendars.

## What it does

`drain` takes up to 50 source objects of one connected account at a time and calls Google in one batch. Of several items
for one object only the newest is carried out; the others end as SUPERSEDED. Events have ids of our own, so that a call
that got no answer can be repeated without a second event. Items without an end after a day of passing faults, and those
that Google refuses, become DEAD_LETTER with a reason. A REBUILD_ALL compares the calendar with tasks, milestones, gate
runs and reviews, removes what nobody wants and writes an item for everything else.

## When it runs

Every minute, and within seconds of an `insert into sync_outbox`. The run of a minute stays and listens, so that an item
written meanwhile is sent at once; the others end with the work.

## Parameters

`replay` (a reason, or ALL) and `items` put dead letters back; with `dry_run` they are only listed. `workspace` narrows
everything to one workspace, `rebuild` rebuilds it. `late_after_minutes` is the age of the oldest item that is worth an
alert. The whole queue is paused by pausing this DAG.

    airflow dags trigger calendar_outbox --conf '{"replay": "CALENDAR_FORBIDDEN"}'
    airflow dags trigger calendar_outbox --conf '{"workspace": "<uuid>", "rebuild": true}'
    python -m penstock.jobs.calendar_outbox pause --workspace <uuid> --hours 2 --reason "migration"

## When it fails

| what you see | what it means |
|---|---|
| alert OAUTH_INVALID | a workspace has to connect its Google account again; its items come back by themselves |
| alert CALENDAR_LATE | the oldest item has waited for too long: look at `reporting.queue_health` |
| `drain` red, CALENDAR_CLIENT_INVALID | the OAuth client in the connection `google_calendar` is wrong |
| items FAILED | a passing fault: they are tried again, after an hour at the latest |
| items DEAD_LETTER | `dead_reason` is the code; `docs/runbook.md` says what to do |

## Run it again

At any time, also beside a running one: what is done is not done twice. A killed run's items are taken up two minutes
later.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable, Param, dag

from penstock.dag_defaults import DEFAULT_ARGS, START_DATE, Tag
from penstock.operators.calendar_outbox import DrainCalendarOutboxOperator
from penstock.triggers.postgres_listen import PostgresListenTrigger

CHANNEL = "penstock_sync_outbox"  # the trigger on sync_outbox notifies it
UUID = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"

waiting_items = Asset(
    name=CHANNEL, watchers=[AssetWatcher(CHANNEL, trigger=PostgresListenTrigger("calendar_db", CHANNEL))]
)


@dag(
    dag_id="calendar_outbox",
    dag_display_name="Calendar outbox",
    description="Items of sync_outbox into Google Calendar, as soon as they are written",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("* * * * *", timezone="UTC"), assets=[waiting_items]),
    start_date=START_DATE,
    catchup=False,
    max_active_runs=2,
    max_active_tasks=2,
    max_consecutive_failed_dag_runs=0,
    dagrun_timeout=timedelta(minutes=30),
    default_args=DEFAULT_ARGS,
    params={
        "replay": Param(
            None,
            title="Replay",
            description="Put back dead letters of this reason (a code of the runbook), or ALL.",
            type=["null", "string"],
            maxLength=64,
        ),
        "items": Param(
            None,
            title="Items",
            description="Put back these dead letters, one id per line.",
            type=["null", "array"],
            items={"type": "string", "pattern": UUID},
            maxItems=1000,
        ),
        "workspace": Param(
            None,
            title="Workspace",
            description="Only this workspace: for the replay, the rebuild and the drain.",
            type=["null", "string"],
            pattern=UUID,
        ),
        "rebuild": Param(
            False,
            title="Rebuild",
            description="Bring the workspace's whole calendar in line with its tasks, milestones, gates and reviews.",
            type="boolean",
        ),
        "late_after_minutes": Param(
            15,
            title="Late after",
            description="Minutes that the oldest item may wait before a person is told.",
            type="integer",
            minimum=1,
            maximum=10_000,
        ),
        "dry_run": Param(
            False,
            title="Dry run",
            description="Only list the dead letters that a replay would put back; send nothing.",
            type="boolean",
        ),
    },
    render_template_as_native_obj=False,
    tags=[Tag.CALENDAR, Tag.QUEUE],
)
def calendar_outbox() -> None:
    DrainCalendarOutboxOperator(task_id="drain", pool="calendar", execution_timeout=timedelta(minutes=20))


calendar_outbox()
