"""Brings the ad metrics of the agency's requests up to date, connection by connection.

## What it does

1. `claim_connections` takes the rows of `platform_connections` that are due, under a lease, and closes the logs of
   workers that died.
2. `sync_connection` is mapped over them, one lane per connection, so that one revoked token never holds up another:
   it reads every ad of the account by day (Meta insights, Google Ads), for the last 30 days, and in one transaction
   writes `performance_metrics` for every request whose `metadata` names one of the ads in `meta_ad_id` or
   `google_ad_id` (one id, several in a text, or an array). Ads that no request names are counted and left alone.

Counts and spend of several ads are summed, ratios (cpm, cpc, ctr in percent) are made of the sums. Reach does not add
up over ads: a day on which several ads of one request delivered has no reach. Rows that a person entered
(`manual_entry`) are never changed. Each sync has its row in `metric_sync_logs`.

## When it runs

Every ten minutes. A connection is due once per `sync_frequency` (minutes, one day unless set), each at a time of its
own, so that they never all come at once. Rows without `shop_id`, as the old metrics worker had them, belong to this
DAG alone; an account of a shop, which the platform ETL reads, is read here too as soon as any request names ads of its
platform, unless its `settings` hold `{"metrics_sync": false}`.

## Parameters

The connections to read whether they are due or not, how many days back, how many connections at most, and whether to
write nothing. The form describes each.

    airflow dags trigger metrics_sync --conf '{"connections": ["act_1234567890"], "days": 90}'

## When it fails

Slack gets one message per trouble, not one per try; the same stands in `metric_sync_logs.error_message` and in
`platform_connections.metrics_error_code`, and `docs/runbook.md` is ordered by code.

| what you see | what it means |
|---|---|
| `sync` red at once | credentials, permission or a setting; tried once a day, and as soon as its row is changed |
| `sync` up for retry | the vendor or the network is down; the next try begins the connection again |
| `sync` skipped | a quota is used up and the connection waits for the vendor's reset, or another worker has it |
| `claim_connections` green, the rest skipped | nothing was due |

## Run it again

Trigger the DAG for the connection: what is there is compared, only what differs is written. Nothing has to be cleaned
up first.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, dag, task_group

from penstock.dag_defaults import DEFAULT_ARGS, START_DATE, Tag
from penstock.operators.metrics_sync import ClaimConnectionsOperator, SyncConnectionOperator

LABEL = "{{ label }}"
POOL = "metrics_sync"


@task_group(group_id="sync_connection")
def sync_connection(claimed: dict[str, str]) -> None:
    """One lane: one claimed connection."""
    SyncConnectionOperator(
        task_id="sync",
        claimed=claimed,
        pool=POOL,
        map_index_template=LABEL,
        execution_timeout=timedelta(hours=1),
    )


@dag(
    dag_id="metrics_sync",
    dag_display_name="Metrics sync",
    description="Ad metrics of the agency's requests, from every connection that is due",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("*/10 * * * *", timezone="UTC"),
    start_date=START_DATE,
    catchup=False,
    max_active_runs=2,
    max_active_tasks=8,
    max_consecutive_failed_dag_runs=0,
    dagrun_timeout=timedelta(hours=6),
    default_args=DEFAULT_ARGS,
    params={
        "connections": Param(
            None,
            title="Connections",
            description="The vendors' account ids (or ids of rows), one per line, due or not. Empty: all that are due.",
            type=["null", "array"],
            items={"type": "string"},
        ),
        "days": Param(
            30,
            title="Days",
            description="How many days back are read, today included, in each account's own time zone.",
            type="integer",
            minimum=1,
            maximum=1100,
        ),
        "limit": Param(
            60,
            title="Limit",
            description="Claim at most so many connections; the next DAG run takes the rest.",
            type="integer",
            minimum=1,
            maximum=1000,
        ),
        "dry_run": Param(
            False,
            title="Dry run",
            description="Read and compare, and say how much would change; write nothing.",
            type="boolean",
        ),
    },
    render_template_as_native_obj=False,
    tags=[Tag.METRICS],
)
def metrics_sync() -> None:
    claim_connections = ClaimConnectionsOperator(task_id="claim_connections", limit="{{ params.limit }}")
    sync_connection.expand(claimed=claim_connections.output)


metrics_sync()
