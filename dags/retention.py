"""Archives and deletes what has had its time, as `retention_policies` says.

## What it does

1. `plan_policies` reads the policies. One of an unknown entity type is reported, one of a table that is not in this
   database is noted.
2. `policy` is mapped over the others. `enforce_policy` moves rows that are older than `active_retention_days` into the
   archive, where the entity has one, and deletes archived rows that are older than `archive_retention_days`; of an
   entity without an archive it deletes what is older than `active_retention_days`. It works in batches of some
   thirty milliseconds with pauses, so that nobody who writes has to wait; a partition that is old as a whole leaves
   whole.
3. `report_retention` writes rows and bytes of every policy into the log and turns red when a policy was not enforced.

A row that is moved is in one of the two tables at every instant: it leaves the one and enters the other in one
statement. Rows on `legal_hold`, rows that are still to be worked and rows that others have locked stay.

## When it runs

Sundays at 02:00 UTC, for real; by hand as a dry run, unless the form says otherwise. A Sunday's run that begins more
than an hour late, as at the first start, only counts: clear it or trigger one if it is meant.

## Parameters

`dry_run` only counts. `entity_types` names the policies; empty means all. `confirm_above` is how many rows one policy
may take away: a policy that finds more is refused before it touches any.

    airflow dags trigger retention --conf '{"dry_run": false, "entity_types": ["activity_log"]}'

## When it fails

Slack gets one message per policy that failed, and one per finding. `reporting.retention_report` has every run.

| what you see | what it means |
|---|---|
| `RETENTION_POLICY_INVALID` | the policy would delete what is new, or archive what it deletes: nothing was touched |
| `RETENTION_TOO_MANY_ROWS` | more rows than `confirm_above`: look at the policy, then trigger it with a higher number |
| `RETENTION_ENTITY_UNKNOWN` | a policy names nothing that Penstock knows: the others were enforced |
| `RETENTION_ROWS_LOCKED` | somebody's transaction holds old rows: they go next time |

## Run it again

At any time, even while another run is at work: what has gone is gone, and no row is counted twice. A task that is
cleared or tried again goes on where it stopped.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, TriggerRule, dag, task_group

from penstock.core.retention import DEFAULT_CONFIRM_ABOVE
from penstock.dag_defaults import DEFAULT_ARGS, START_DATE, Tag
from penstock.operators.retention import EnforcePolicyOperator, PlanPoliciesOperator, ReportRetentionOperator


@task_group(group_id="policy")
def policy(policy: dict[str, str]) -> None:
    """One lane: one policy of one database."""
    EnforcePolicyOperator(
        task_id="enforce_policy",
        policy=policy,
        map_index_template="{{ label }}",
        execution_timeout=timedelta(hours=6),
    )


@dag(
    dag_id="retention",
    dag_display_name="Retention",
    description="Archives and deletes old rows as the policies say, weekly, by hand as a dry run",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("0 2 * * 0", timezone="UTC"),
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    max_active_tasks=2,
    max_consecutive_failed_dag_runs=0,
    dagrun_timeout=timedelta(hours=12),
    default_args=DEFAULT_ARGS,
    params={
        "dry_run": Param(
            True,
            title="Dry run",
            description="Only count what would go. The timetable's own runs are real if in time, whatever stands here.",
            type="boolean",
        ),
        "entity_types": Param(
            None,
            title="Entity types",
            description="Only the policies of these entity types, one per line. Empty: all.",
            type=["null", "array"],
            items={"type": "string", "maxLength": 50},
            examples=["activity_log", "notification_queue", "sync_outbox", "staging"],
        ),
        "confirm_above": Param(
            DEFAULT_CONFIRM_ABOVE,
            title="Confirmed rows",
            description="Refuse a policy that would take away more rows than this.",
            type="integer",
            minimum=0,
            maximum=10_000_000_000,
        ),
    },
    render_template_as_native_obj=False,
    tags=[Tag.MAINTENANCE],
)
def retention() -> None:
    plan_policies = PlanPoliciesOperator(task_id="plan_policies")
    report_retention = ReportRetentionOperator(
        task_id="report_retention", lanes=plan_policies.output, trigger_rule=TriggerRule.ALL_DONE
    )
    policy.expand(policy=plan_policies.output) >> report_retention


retention()
