"""Reads the accounts of a marketing platform into the warehouse.

## What it does

1. `enqueue_runs` writes one row into `core_warehouse.etl_runs` per active account (`platform_connections`); an account
   that is being read already joins its run, unless that reads less than is asked for. In `platform_etl_queue`,
   `enqueue_due_accounts` does so for every account whose `sync_frequency` is due, of any platform.
2. `claim_runs` takes waiting runs under a lease. `platform_etl_queue` takes any run that waits, whoever wrote its row,
   and runs whose worker died.
3. `sync_account` is mapped over the claimed runs, one lane per account, so that one account never holds up another:
   `extract` reads the vendor's pages into `staging_ingest`, `transform` carries them into `core_warehouse` and moves
   the cursors in the same transaction, `finish` closes the run and turns red when it did not end well.

## When it runs

- `platform_etl__<source>`: daily at 02:15 UTC; by hand with the form; as a backfill.
- `platform_etl_queue`: within seconds of an `insert into core_warehouse.etl_runs`, and every five minutes.

A scheduled run is INCREMENTAL: it reads from each account's cursors, and some days back for what the vendor restates.
A backfill reads its data interval, a manual run for a past date that date and its interval, a manual run with `from`
those days: none of them moves a cursor.

## Parameters

`platform_etl__<source>` takes the accounts, the job type, the first and the last day, the streams and whether to read
without loading; `platform_etl_queue` takes how many runs to claim. The form describes each.

    airflow dags trigger platform_etl__klaviyo --conf '{"from": "2026-01-01", "to": "2026-01-31"}'
    airflow backfill create --dag-id platform_etl__klaviyo --from-date 2026-01-01 --to-date 2026-02-01

## When it fails

Slack gets one message per failed run, with the account, the code, what to do, and the link to the log; the same stands
in `core_warehouse.etl_runs.error`, and `docs/runbook.md` is ordered by code. A run whose figures differ from the
vendor's own totals is loaded all the same, and told of by one message (`TOTALS_MISMATCH`).

| what you see | what it means |
|---|---|
| `extract` red at the first try | credentials, permission or a setting: a person has to act first |
| `extract` up for retry | the vendor or the network is down; the next try resumes at the last saved page |
| `extract` skipped | a quota is used up: the run waits in the queue until the vendor's reset (`not_before`) |
| `transform` green, `finish` red | PARTIAL: some slices failed; whole days are loaded, the cursor has not moved |
| green, the account NEEDS_PERMISSION | the key may not read a stream: that was told once, the other streams go on |
| everything skipped | nothing was waiting, or another DAG run has the accounts |

## Run it again

Clear the lane's failed task (after PARTIAL: `extract` with its downstream), or trigger the DAG for the account: what
was read is not read again, what is loaded is replaced day by day and never doubled. Nothing has to be cleaned up first.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import (
    DAG,
    Asset,
    AssetOrTimeSchedule,
    AssetWatcher,
    CronDataIntervalTimetable,
    CronTriggerTimetable,
    Param,
    TriggerRule,
    dag,
    task_group,
)

from penstock.dag_defaults import DEFAULT_ARGS, START_DATE, Tag, stream_table
from penstock.operators.platform_etl import (
    ClaimRunsOperator,
    EnqueueDueAccountsOperator,
    EnqueueRunsOperator,
    ExtractRunOperator,
    FinishRunOperator,
    TransformRunOperator,
)
from penstock.operators.run_request import AUTO, JOB_TYPES
from penstock.sources import REGISTRY
from penstock.sources.stream import Source
from penstock.triggers.postgres_listen import PostgresListenTrigger

CHANNEL = "penstock_etl_runs"  # the trigger on core_warehouse.etl_runs notifies it
LABEL = "{{ label }}"
QUEUE_POOL = "platform_etl"
CLAIM_LIMIT = 200  # lanes of one DAG run; Airflow maps at most 1,024


def run_params(source: Source) -> dict[str, Param]:
    """The form of a source's DAG."""
    day = {"type": ["null", "string"], "format": "date"}
    names = {"type": ["null", "array"], "items": {"type": "string"}}
    return {
        "accounts": Param(
            None,
            title="Accounts",
            description="The platform's own account ids, one per line. Empty: every active account.",
            **names,
        ),
        "job_type": Param(
            AUTO,
            title="Job type",
            description="AUTO: a window reads BACKFILL, no window reads INCREMENTAL from the cursors. "
            "HISTORICAL: two years back, or from `from`.",
            type="string",
            enum=list(JOB_TYPES),
        ),
        "from": Param(None, title="From", description="First day to read, in the account's own time zone.", **day),
        "to": Param(None, title="To", description="Last day to read, itself included. Empty: today.", **day),
        "streams": Param(
            None,
            title="Streams",
            description="Only these streams. Empty: all default ones.",
            examples=[stream.name for stream in source.streams],
            **names,
        ),
        "dry_run": Param(
            False,
            title="Dry run",
            description="Only write into the log what would be read; read and load nothing, move no cursor.",
            type="boolean",
        ),
    }


@task_group(group_id="sync_account")
def sync_account(claimed: dict[str, str], pool: str) -> None:
    """One lane: one claimed run of one account."""
    extract = ExtractRunOperator(
        task_id="extract",
        claimed=claimed,
        pool=pool,
        map_index_template=LABEL,
        execution_timeout=timedelta(hours=12),
    )
    transform = TransformRunOperator(task_id="transform", claimed=claimed, pool=QUEUE_POOL, map_index_template=LABEL)
    finish = FinishRunOperator(
        task_id="finish",
        claimed=claimed,
        pool=QUEUE_POOL,
        map_index_template=LABEL,
        trigger_rule=TriggerRule.ALL_DONE,
    )
    extract >> transform >> finish


def source_dag(source: Source) -> DAG:
    """`platform_etl__<source>`."""

    @dag(
        dag_id=f"platform_etl__{source.name}",
        dag_display_name=f"Platform ETL: {source.name}",
        description=f"Accounts of {source.name} into the warehouse, daily, by hand or as a backfill",
        doc_md=f"{__doc__}\n{stream_table(source)}",
        schedule=CronDataIntervalTimetable("15 2 * * *", timezone="UTC"),
        start_date=START_DATE,
        catchup=False,
        max_active_runs=4,
        max_active_tasks=16,
        max_consecutive_failed_dag_runs=0,
        dagrun_timeout=timedelta(hours=24),
        default_args=DEFAULT_ARGS,
        params=run_params(source),
        render_template_as_native_obj=False,
        tags=[Tag.PLATFORM_ETL, source.name],
    )
    def platform_etl() -> None:
        enqueue_runs = EnqueueRunsOperator(task_id="enqueue_runs", source=source.name)
        claim_runs = ClaimRunsOperator(
            task_id="claim_runs", run_ids=enqueue_runs.output, source=source.name, limit=CLAIM_LIMIT
        )
        sync_account.partial(pool=source.name).expand(claimed=claim_runs.output)

    return platform_etl()


def queue_dag() -> DAG:
    """`platform_etl_queue`."""
    queued_runs = Asset(
        name="penstock_etl_runs",
        watchers=[AssetWatcher("penstock_etl_runs", trigger=PostgresListenTrigger("warehouse", CHANNEL))],
    )

    @dag(
        dag_id="platform_etl_queue",
        dag_display_name="Platform ETL: queue",
        description="Waiting runs of any source, as soon as they are written, and accounts that are due",
        doc_md=__doc__,
        schedule=AssetOrTimeSchedule(
            timetable=CronTriggerTimetable("*/5 * * * *", timezone="UTC"), assets=[queued_runs]
        ),
        start_date=START_DATE,
        catchup=False,
        max_active_runs=8,  # twice HISTORIES_AT_ONCE: a DAG run lasts as long as its longest lane
        max_active_tasks=16,
        max_consecutive_failed_dag_runs=0,
        dagrun_timeout=timedelta(hours=24),
        default_args=DEFAULT_ARGS,
        params={
            "limit": Param(
                CLAIM_LIMIT,
                title="Limit",
                description="Claim at most so many runs; the next DAG run takes the rest.",
                type="integer",
                minimum=1,
                maximum=1000,
            )
        },
        render_template_as_native_obj=False,
        tags=[Tag.PLATFORM_ETL, Tag.QUEUE],
    )
    def platform_etl_queue() -> None:
        enqueue_due_accounts = EnqueueDueAccountsOperator(task_id="enqueue_due_accounts")
        claim_runs = ClaimRunsOperator(
            task_id="claim_runs", run_ids=enqueue_due_accounts.output, source=None, limit="{{ params.limit }}"
        )
        sync_account.partial(pool=QUEUE_POOL).expand(claimed=claim_runs.output)

    return platform_etl_queue()


for registered in REGISTRY:
    source_dag(registered)
queue_dag()
