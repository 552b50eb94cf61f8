"""The tasks of the metrics sync: each opens what it needs and makes one call into the jobs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from penstock.core.errors import PenstockError
from penstock.hooks.warehouse import WarehouseHook
from penstock.operators.platform_etl import WarehouseOperator, is_last_try

if TYPE_CHECKING:
    from airflow.sdk import Context

DATABASE = "agency_db"
"""Where the requests and the metrics are; the warehouse, unless somebody gave them a connection of their own."""


class ConnectionSyncFailed(AirflowFailException):
    """The sync of one connection failed, and its log is closed: nothing is left to retry.

    `is_reported`: the same trouble was alerted before and nobody has changed the connection since.
    """

    def __init__(self, cause: PenstockError, *, is_reported: bool) -> None:
        super().__init__(str(cause))
        self.error = cause.as_json()
        self.is_reported = is_reported


class ClaimConnectionsOperator(WarehouseOperator):
    """Claims the connections that are due; each becomes one lane of the mapped group behind it.

    Params of the DAG run: `connections` (account ids or row ids to read whether they are due or not; empty for those
    that are due).

    :param limit: at most so many. (templated)
    """

    template_fields: Sequence[str] = ("limit",)

    def __init__(self, *, limit: int | str, warehouse_conn_id: str = DATABASE, **kwargs: Any) -> None:
        super().__init__(warehouse_conn_id=warehouse_conn_id, **kwargs)
        self.limit = limit

    def execute(self, context: Context) -> list[dict[str, Any]]:
        from penstock.jobs.metrics_sync import claim

        with self.open_warehouse() as warehouse:
            return claim(
                warehouse,
                holder=f"{self.dag_id}/{context['run_id']}",
                limit=int(self.limit),
                connections=context["params"]["connections"],
            )


class SyncConnectionOperator(WarehouseOperator):
    """Reads one claimed connection and brings the metrics of its requests up to date.

    :param claimed: what `ClaimConnectionsOperator` returned for the connection. (templated)
    :param limits_conn_id: the warehouse, whose rate limits all concerns share.
    """

    template_fields: Sequence[str] = ("claimed",)

    def __init__(
        self,
        *,
        claimed: Any,
        warehouse_conn_id: str = DATABASE,
        limits_conn_id: str = WarehouseHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(warehouse_conn_id=warehouse_conn_id, **kwargs)
        self.claimed = claimed
        self.limits_conn_id = limits_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        from penstock.hooks.registry import client_for
        from penstock.hooks.vault import open_vault
        from penstock.jobs.metrics_sync import SyncContext, SyncFailed, SyncWaiting, sync_connection

        # Set before any work: Airflow renders the label again afterwards, and would fail a finished task without it.
        context["label"] = self.claimed["label"]  # type: ignore[typeddict-unknown-key]
        with closing(WarehouseHook(self.limits_conn_id).warehouse) as limits, self.open_warehouse() as warehouse:
            sync = SyncContext(
                warehouse=warehouse,
                vault=open_vault(),
                claimed=self.claimed,
                open_client=partial(client_for, limits),
                days=int(context["params"]["days"]),
                is_dry_run=bool(context["params"]["dry_run"]),
                is_last_try=is_last_try(context),
            )
            try:
                return sync_connection(sync)
            except SyncWaiting as exc:
                raise AirflowSkipException(str(exc)) from exc
            except SyncFailed as exc:
                raise ConnectionSyncFailed(exc.cause, is_reported=exc.is_reported) from exc
            except PenstockError as exc:
                if exc.code == "LEASE_LOST":
                    raise AirflowSkipException(str(exc)) from exc
                raise
