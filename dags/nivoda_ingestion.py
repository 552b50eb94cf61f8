"""Reads the diamonds of Nivoda's feeds, natural and lab-grown, into the shop's stock.

## What it does

For each feed, one after the other:

1. `plan` counts the feed by price and cuts it into partitions of nearly equal size, with some sixty counts. The plan is
   stored before anything is read.
2. `ingest_partition` is mapped over the partitions. It reads pages from the last offset down, of a list frozen at the
   run's beginning, so that stones which are sold meanwhile hide no others, and saves every page with its checkpoint.
   How many stones were listed and how many were read is kept per partition: a loss shows by itself, and is repaired by
   a second pass in another order.
3. `gate` looks at the partitions when all have ended. All read: the run goes on. At least 70 %: it waits five minutes
   for retries, then goes on. Fewer: it stops and sends an alert; `approve_consolidation` lets a person decide.
4. `consolidate` carries the raw rows into `diamonds`; only rows that changed are written, or whose markup is another
   than the configured one.
5. `reconcile_vanished` marks stones as deleted that a complete full run did not see: missing in two of them, or not
   for sale by a look-up. While stones change, a run between the two has to have missed them as well: whatever changes
   during a run leaves its list. If too many are missing, it deletes nothing and sends an alert.
6. `move_watermark` notes up to when all changes are here, if nothing is owed and no listed stone was missed.
7. `summarise` keeps the run's figures and a chart of its partitions, tells Slack, and is red when partitions failed.

`reporting.nivoda_runs` has all figures, per run and per partition.

## When it runs

Every four hours, and by hand with the form. A scheduled run is full when the last complete full run is over a day old,
else incremental: it reads what changed since the watermark, and a quarter of an hour more.

## Parameters

The form describes each. A run over a price range moves no watermark and deletes nothing.

    airflow dags trigger nivoda_ingestion --conf '{"feed": "natural", "run_type": "full"}'
    airflow dags trigger nivoda_ingestion --conf '{"retry_run_id": "...", "partition_ids": ["partition-3"]}'

## When it fails

| what you see | what it means |
|---|---|
| `ingest_partition` up for retry | the vendor or the network is down; the next try resumes at the last saved page |
| some `ingest_partition` red, `summarise` red | partial: what was read is in `diamonds`, the watermark has not moved |
| the watermark stays: listed stones were not read | the vendor counts more than its pages hold; the next run retries |
| `approve_consolidation` waits | fewer than 70 % of the partitions were read: approve, or clear the failed tasks |
| `reconcile_vanished` alerts `NIVODA_BRAKE` | far too many stones are missing: look at the vendor's feed first |

`docs/runbook.md` is ordered by code.

## Run it again

Clear the failed mapped tasks with their downstream, or trigger with `retry_run_id`: only partitions that are not
complete are read, each from its checkpoint. The watermark moves when the last of them is complete.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, TriggerRule, dag, task_group

from penstock.dag_defaults import DEFAULT_ARGS, START_DATE, Tag
from penstock.operators.nivoda import (
    BOTH,
    ApproveConsolidationOperator,
    ConsolidateOperator,
    GateOperator,
    IngestPartitionOperator,
    MoveWatermarkOperator,
    PlanRunOperator,
    ReconcileVanishedOperator,
    SummariseRunOperator,
)

FEEDS = ("natural", "labgrown")
DOLLARS = {"type": ["null", "integer"], "minimum": 0, "maximum": 2_000_000_000}

PARAMS = {
    "feed": Param(
        BOTH,
        title="Feed",
        description="Both feeds one after the other, or one of them.",
        type="string",
        enum=[BOTH, *FEEDS],
    ),
    "run_type": Param(
        "auto",
        title="Run type",
        description="auto: full when the last complete full run is over a day old, else incremental.",
        type="string",
        enum=["auto", "full", "incremental"],
    ),
    "price_from": Param(None, title="Price from", description="Only stones of at least so many dollars.", **DOLLARS),
    "price_to": Param(None, title="Price to", description="Only stones of at most so many dollars.", **DOLLARS),
    "partitions": Param(
        None,
        title="Partitions",
        description="How many partitions. Empty: by the number of stones.",
        type=["null", "integer"],
        minimum=1,
        maximum=1000,
    ),
    "dry_run": Param(
        False,
        title="Dry run",
        description="Only write the plan into the log; store and read nothing.",
        type="boolean",
    ),
    "retry_run_id": Param(
        None,
        title="Run to retry",
        description="No new run: read the partitions of this one that are not complete.",
        type=["null", "string"],
        format="uuid",
    ),
    "partition_ids": Param(
        None,
        title="Partitions to retry",
        description="Only these of them (partition-3), one per line. Empty: all.",
        type=["null", "array"],
        items={"type": "string"},
    ),
}


@task_group(group_id="partition")
def read_partition(lane: dict[str, str]) -> None:
    """One lane: one partition of the plan."""
    IngestPartitionOperator(
        task_id="ingest_partition",
        lane=lane,
        pool="nivoda",
        map_index_template="{{ label }}",
        execution_timeout=timedelta(hours=6),
    )


@dag(
    dag_id="nivoda_ingestion",
    dag_display_name="Nivoda: diamonds",
    description="Diamonds of both feeds into the stock, every four hours, by hand or as a retry",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("15 */4 * * *", timezone="UTC"),
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    max_active_tasks=32,
    max_consecutive_failed_dag_runs=0,
    dagrun_timeout=timedelta(hours=24),
    default_args=DEFAULT_ARGS,
    params=PARAMS,
    render_template_as_native_obj=False,
    tags=[Tag.DIAMONDS],
)
def nivoda_ingestion() -> None:
    def ingest_feed(feed: str) -> tuple[PlanRunOperator, GateOperator]:
        @task_group(group_id=feed)
        def stages() -> tuple[PlanRunOperator, GateOperator]:
            # The second feed is read whatever became of the first.
            plan = PlanRunOperator(task_id="plan", feed=feed, trigger_rule=TriggerRule.ALL_DONE)
            partitions = read_partition.expand(lane=plan.output)
            gate = GateOperator(task_id="gate", plan_task_id=plan.task_id, trigger_rule=TriggerRule.ALL_DONE)
            approve_consolidation = ApproveConsolidationOperator(
                task_id="approve_consolidation",
                gate=gate.output,
                subject=f"Consolidate the {feed} diamonds although most partitions failed?",
                body="Approve: what was read goes into `diamonds`; nothing is deleted, the watermark stays. "
                "Reject, or no answer: nothing happens until a retry.",
                response_timeout=timedelta(hours=3),
            )
            consolidate = ConsolidateOperator(task_id="consolidate", plan_task_id=plan.task_id)
            reconcile_vanished = ReconcileVanishedOperator(task_id="reconcile_vanished", plan_task_id=plan.task_id)
            move_watermark = MoveWatermarkOperator(task_id="move_watermark", plan_task_id=plan.task_id)
            summarise = SummariseRunOperator(
                task_id="summarise", plan_task_id=plan.task_id, trigger_rule=TriggerRule.ALL_DONE
            )
            partitions >> gate >> approve_consolidation >> consolidate
            consolidate >> reconcile_vanished >> move_watermark >> summarise
            return plan, gate

        return stages()

    _, natural_is_read = ingest_feed("natural")
    labgrown_plan, _ = ingest_feed("labgrown")
    natural_is_read >> labgrown_plan


nivoda_ingestion()
