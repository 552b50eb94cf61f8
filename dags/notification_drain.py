"""Sends the rows of `notification_queue` to Slack, each so that people see it once.

## What it does

`drain` looks where new rows go (a channel, or a person by the profile's `slack_id`), then takes the channels in turn:
claim, render the template, post, write it down. A channel gets one message a second, in the order of its rows; channels
go in parallel. A row that was found half sent, because a worker died, is looked up in the channel's history before it
is sent again. Rows that wait follow a corrected channel or `slack_id`.

What cannot be delivered becomes a dead letter with its reason (`state = 'dead'`, `error_class`); a channel that Slack
refuses is parked and its rows wait; a refused token pauses the workspace. Each is told once in the alert channel.

## When it runs

Within seconds of an insert, and every minute. A drain, once started, stays for its minute and LISTENs, so that a row
that comes meanwhile is sent within a second; the next minute's run takes its place. There is one task, whatever the
queue's length.

## Parameters

`replay_ids`, `replay_reason` and `replay_since` put dead letters back; `dry_run` only lists them; `limit` ends the run
after so many messages; `late_after_minutes` is the age of the oldest due row that is worth an alert.

    airflow dags trigger notification_drain --conf '{"replay_reason": "NOTIFICATION_NO_DESTINATION", "dry_run": true}'
    airflow dags trigger notification_drain --conf '{"replay_ids": ["3f0c6a0e-..."]}'

The same, and pauses of a channel, a tenant or the whole queue, on the command line:
`python -m penstock.jobs.notifications`.

## When it fails

| what you see | what it means |
|---|---|
| `drain` red, `WorkspacePaused` | Slack refuses the bot's token; it is tried again every minute |
| `drain` up for retry | the warehouse is down; nothing is lost, what was being sent is looked up |
| alert `SLACK_CHANNEL_ERROR` | one channel is parked, tried every quarter of an hour: invite the bot, or correct it |
| alert `SLACK_SCOPE_MISSING` | direct messages are parked: the bot lacks im:write or users:read.email; channels go on |
| alert `NOTIFICATIONS_LATE` | something holds the queue up: `select * from reporting.queue_health` |

`docs/runbook.md` has one line per reason of a dead letter.

## Run it again

Trigger it, clear it, kill it: a row is sent once. A run by hand ends when nothing is due any more.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable, Param, dag

from penstock.dag_defaults import DEFAULT_ARGS, START_DATE, Tag
from penstock.operators.notifications import DrainNotificationsOperator
from penstock.triggers.postgres_listen import PostgresListenTrigger

CHANNEL = "penstock_notifications"  # the trigger on notification_queue notifies it
QUIET_SECONDS = 30.0  # a resident drain hears the notifications itself: this only starts one when there is none

queued_notifications = Asset(
    name="penstock_notifications",
    watchers=[
        AssetWatcher(
            "penstock_notifications", trigger=PostgresListenTrigger("agency_db", CHANNEL, quiet_seconds=QUIET_SECONDS)
        )
    ],
)


@dag(
    dag_id="notification_drain",
    dag_display_name="Notifications to Slack",
    description="Rows of notification_queue to Slack, within a second while a drain is resident",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("* * * * *", timezone="UTC"), assets=[queued_notifications]
    ),
    start_date=START_DATE,
    catchup=False,
    max_active_runs=3,
    max_active_tasks=3,
    max_consecutive_failed_dag_runs=0,
    dagrun_timeout=timedelta(minutes=30),
    default_args=DEFAULT_ARGS,
    params={
        "replay_ids": Param(
            None,
            title="Replay: ids",
            description="Dead letters to send after all, by their ids.",
            type=["null", "array"],
            items={"type": "string", "format": "uuid"},
            maxItems=1000,
        ),
        "replay_reason": Param(
            None,
            title="Replay: reason",
            description="Dead letters to send after all, by their reason (error_class).",
            type=["null", "string"],
            pattern="^[A-Z0-9_]{1,100}$",
        ),
        "replay_since": Param(
            None,
            title="Replay: since",
            description="Only dead letters that ended at this time or later.",
            type=["null", "string"],
            format="date-time",
        ),
        "limit": Param(
            None,
            title="Limit",
            description="End after so many messages. Empty: no end.",
            type=["null", "integer"],
            minimum=1,
            maximum=100_000,
        ),
        "late_after_minutes": Param(
            60,
            title="Late after",
            description="Minutes that the oldest due row may wait before a person is told.",
            type="integer",
            minimum=1,
            maximum=10_000,
        ),
        "dry_run": Param(
            False,
            title="Dry run",
            description="Only list the dead letters that would be replayed, and the queue's health; send nothing.",
            type="boolean",
        ),
    },
    render_template_as_native_obj=False,
    tags=[Tag.NOTIFICATIONS, Tag.QUEUE],
)
def notification_drain() -> None:
    DrainNotificationsOperator(task_id="drain", pool="notifications", execution_timeout=timedelta(minutes=20))


drain_dag: DAG = notification_drain()
