"""The tasks of the keyed-entity worker: each opens its databases and makes one call into the jobs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock.core.errors import CATALOGUE
from penstock.hooks.warehouse import WarehouseHook
from penstock.operators.platform_etl import WarehouseOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from penstock.jobs.app_sync import DisabledApp

APPS_CONNECTION = "apps_db"
"""Falls back to the warehouse."""

GIVEN_UP = "APPS_GIVEN_UP"
NAMED_IN_ALERT = 10


class AppsOperator(WarehouseOperator):
    """An operator on the database of the apps."""

    def __init__(self, *, warehouse_conn_id: str = APPS_CONNECTION, **kwargs: Any) -> None:
        super().__init__(warehouse_conn_id=warehouse_conn_id, **kwargs)


class RefreshPrioritiesOperator(AppsOperator):
    """Scores every app anew once a night, or when the param `refresh_priorities` says so."""

    def execute(self, context: Context) -> int:
        from penstock.jobs.app_sync import refresh_priorities

        wish = context["params"]["refresh_priorities"]
        if wish == "NEVER" or context["params"]["dry_run"]:
            return 0
        with self.open_warehouse() as warehouse:
            return refresh_priorities(warehouse, is_forced=wish == "ALWAYS")


class PlanLanesOperator(AppsOperator):
    """One lane per worker of each source with something due."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        from dataclasses import asdict

        from penstock.jobs.app_sync import plan_lanes
        from penstock.sources.apps import APP_SOURCES, by_name

        params = context["params"]
        sources = [by_name(params["source"])] if params["source"] else list(APP_SOURCES)
        with self.open_warehouse() as warehouse:
            lanes = plan_lanes(
                warehouse,
                sources,
                batch_size=params["batch_size"],
                partitions=params["partitions"],
                is_dry_run=params["dry_run"],
            )
        return [asdict(lane) for lane in lanes]


class SyncItemsOperator(AppsOperator):
    """One worker's job. SIGTERM lets it finish the items in hand, give back the rest and end its job.

    :param lane: what `PlanLanesOperator` returned for it. (templated)
    :param limits_conn_id: the database of the limits that all workers share.
    """

    template_fields: Sequence[str] = ("lane",)

    def __init__(self, *, lane: Any, limits_conn_id: str = WarehouseHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lane = lane
        self.limits_conn_id = limits_conn_id
        self._stop: threading.Event | None = None

    def execute(self, context: Context) -> dict[str, int]:
        from penstock.hooks.app_sources import sync_context
        from penstock.jobs.app_sync import Lane, report_disabled, sync

        lane = Lane(**self.lane)
        # Set before any work: Airflow renders the label again afterwards, and would fail a finished task without it.
        context["label"] = lane.label  # type: ignore[typeddict-unknown-key]
        run_id = context["run_id"]
        self._stop = stop = threading.Event()
        shared = WarehouseHook(self.limits_conn_id).warehouse
        holder = f"{self.dag_id}/{run_id}/{lane.source}/{lane.lane}"
        with (
            shared,
            self.open_warehouse() as apps,
            sync_context(apps, shared, lane, holder=holder, run_id=run_id, stop=stop) as job,
        ):
            try:
                return sync(job).as_dict()
            finally:
                report_disabled(apps, lambda disabled: self._tell(context, disabled))

    def on_kill(self) -> None:
        """Airflow calls it on SIGTERM, while `execute` runs."""
        if self._stop is not None:
            self._stop.set()

    def _tell(self, context: Context, disabled: Sequence[DisabledApp]) -> None:
        """One alert for the apps that were given up since the last one."""
        from penstock.alerts import Alert, send

        named = "; ".join(f"{app.appid} {app.name} ({app.source}: {app.message})" for app in disabled[:NAMED_IN_ALERT])
        more = f"; and {len(disabled) - NAMED_IN_ALERT} more" if len(disabled) > NAMED_IN_ALERT else ""
        message = f"Failed ten times in a row, and read no more: {named}{more}"
        self.log.warning("%s", message)
        remedy = CATALOGUE[GIVEN_UP].remedy
        send(Alert(self.dag_id, self.task_id, GIVEN_UP, message, remedy, log_url=str(context["ti"].log_url)))
