"""The task that migrates the databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class MigrateWarehouseOperator(BaseOperator):
    """Applies pending migrations of the sets that the params name, each set in the database of its concern."""

    def execute(self, context: Context) -> list[str]:
        import psycopg

        from penstock.hooks.warehouse import databases
        from penstock.warehouse.failures import classify
        from penstock.warehouse.migrations import migrate_databases

        try:
            applied = migrate_databases(databases(), context["params"]["sets"])
        except psycopg.Error as exc:
            raise classify(exc) from exc
        return [migration.label for migration in applied]
