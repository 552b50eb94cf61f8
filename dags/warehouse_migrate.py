"""Brings the warehouse's schema up to date.

## What it does

`migrate_warehouse` applies the migrations of `include/sql` that the ledger `penstock.migrations` does not have yet, in
order, each in its own transaction and under an advisory lock, so that two deployments at once do no harm. Then it
makes the views anew that have changed. Tables of the old workers are kept, with their names and columns. A concern
with a database of its own (connections `agency_db`, `apps_db`, `calendar_db`, `nivoda_db`) gets its sets there.

## When it runs

On deploy, or by hand. There is no timetable: `make up`, `make demo` and the compose file run the same migrations
before they start anything else.

## Parameters

`sets` names the migration sets; the default is all that this deployment needs.

    airflow dags trigger warehouse_migrate

## When it fails

The database is as it was before the migration that failed: each is one transaction. The message names the file and
what Postgres said. `MIGRATION_PENDING` elsewhere means that this DAG has not run yet.

## Run it again

At any time: what is applied is not applied twice.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag

from penstock.core.databases import ALL_SETS
from penstock.dag_defaults import DEFAULT_ARGS, START_DATE, Tag
from penstock.operators.warehouse_migrate import MigrateWarehouseOperator


@dag(
    dag_id="warehouse_migrate",
    dag_display_name="Warehouse: migrate",
    description="Applies pending migrations and changed views",
    doc_md=__doc__,
    schedule=None,
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    max_active_tasks=1,
    max_consecutive_failed_dag_runs=0,
    dagrun_timeout=timedelta(hours=2),
    default_args=DEFAULT_ARGS,
    params={
        "sets": Param(
            list(ALL_SETS),
            title="Sets",
            description="Migration sets, in this order.",
            type="array",
            items={"type": "string", "enum": list(ALL_SETS)},
            examples=list(ALL_SETS),
        )
    },
    render_template_as_native_obj=False,
    tags=[Tag.MAINTENANCE],
)
def warehouse_migrate() -> None:
    MigrateWarehouseOperator(task_id="migrate_warehouse")


warehouse_migrate()
