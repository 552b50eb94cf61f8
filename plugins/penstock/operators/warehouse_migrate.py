"""The task that migrates the warehouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.operators.platform_etl import WarehouseOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

MIGRATION_SETS = ("ops", "accounts", "platform_etl")
"""What the warehouse needs, in the order of their dependencies."""


class MigrateWarehouseOperator(WarehouseOperator):
    """Applies pending migrations of the sets that the params name."""

    def execute(self, context: Context) -> list[str]:
        from penstock.warehouse.migrations import migrate

        with self.open_warehouse() as warehouse, warehouse.connection() as connection:
            applied = migrate(connection, tuple(context["params"]["sets"]))
        return [migration.label for migration in applied]
