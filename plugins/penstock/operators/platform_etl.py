"""The tasks of the platform ETL: each reads its context, opens the warehouse and makes one call into the jobs."""

from __future__ import annotations

import datetime as dt
import gc
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, BaseOperatorLink, conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from penstock.alerts import alert_of, send
from penstock.core.errors import PenstockError, error
from penstock.hooks.warehouse import WarehouseHook
from penstock.operators.run_request import RunOrigin, run_request

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import TaskInstanceKey

    from penstock.jobs.platform_etl import RunContext
    from penstock.warehouse.session import Warehouse


class RunFailed(AirflowFailException):
    """The claimed run ended FAILED or PARTIAL. Nothing is left to retry: the run itself is closed.

    `is_reported`: an alert about this run was sent already.
    """

    def __init__(self, message: str, stored_error: Mapping[str, Any], *, is_reported: bool) -> None:
        super().__init__(message)
        self.error = dict(stored_error)
        self.is_reported = is_reported


class RunLink(BaseOperatorLink):
    """From a task to the run that it worked on, on Penstock's operations page."""

    @property
    def name(self) -> str:
        return "Run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        claimed = getattr(operator, "claimed", None)
        if not isinstance(claimed, Mapping):
            return ""
        return f"{conf.get('api', 'base_url', fallback='').rstrip('/')}/penstock/runs/{claimed['run_id']}"


class WarehouseOperator(BaseOperator):
    """An operator that works on the warehouse.

    :param warehouse_conn_id: Postgres connection of the warehouse.
    """

    def __init__(self, *, warehouse_conn_id: str = WarehouseHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.warehouse_conn_id = warehouse_conn_id

    @contextmanager
    def open_warehouse(self) -> Iterator[Warehouse]:
        """The warehouse for the time of one task. Raises the catalogue's errors in place of psycopg's."""
        import psycopg

        from penstock.warehouse.failures import classify

        warehouse = WarehouseHook(self.warehouse_conn_id).warehouse
        try:
            yield warehouse
        except psycopg.Error as exc:
            raise classify(exc) from exc
        finally:
            warehouse.close()


class EnqueueRunsOperator(WarehouseOperator):
    """Writes one run per account of a source, as the params and the way the DAG run was started ask for it.

    :param source: registry name of the source. (templated)
    """

    template_fields: Sequence[str] = ("source",)

    def __init__(self, *, source: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    def execute(self, context: Context) -> list[str]:
        from penstock.jobs.platform_etl import enqueue_scheduled

        request = run_request(context["params"], run_origin(context))
        self.log.info("%s", request)
        with self.open_warehouse() as warehouse:
            return enqueue_scheduled(
                warehouse,
                self.source,
                window_start=request.window_start,
                window_end=request.window_end,
                job_type=request.job_type,
                accounts=request.accounts,
                streams=request.streams,
                is_dry_run=request.is_dry_run,
                requested_by=request.requested_by,
                dag_id=self.dag_id,
                dag_run_id=context["run_id"],
            )


class EnqueueDueAccountsOperator(WarehouseOperator):
    """Writes a run for every account whose `sync_frequency` is due."""

    def execute(self, context: Context) -> list[str]:
        from penstock.jobs.platform_etl import enqueue_due

        with self.open_warehouse() as warehouse:
            return enqueue_due(warehouse, dag_id=self.dag_id, dag_run_id=context["run_id"])


class ClaimRunsOperator(WarehouseOperator):
    """Claims runs for this DAG run; each becomes one lane of the mapped group behind it.

    :param run_ids: the runs that this DAG run enqueued. (templated)
    :param source: only runs of this source; None for any. (templated)
    :param limit: at most so many; the next DAG run takes the rest. (templated)
    """

    template_fields: Sequence[str] = ("run_ids", "source", "limit")

    def __init__(self, *, run_ids: Any, source: str | None, limit: int | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_ids = run_ids
        self.source = source
        self.limit = limit

    def execute(self, context: Context) -> list[dict[str, Any]]:
        from penstock.jobs.platform_etl import claim

        with self.open_warehouse() as warehouse:
            return claim(
                warehouse,
                source=self.source,
                dag_id=self.dag_id,
                dag_run_id=context["run_id"],
                limit=int(self.limit),
                run_ids=self.run_ids,
            )


class RunStageOperator(WarehouseOperator):
    """One stage of a claimed run.

    :param claimed: what `ClaimRunsOperator` returned for the run. (templated)
    """

    template_fields: Sequence[str] = ("claimed",)
    operator_extra_links = (RunLink(),)

    def __init__(self, *, claimed: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.claimed = claimed

    @abstractmethod
    def run_stage(self, run: RunContext) -> dict[str, Any]:
        """The one call into the jobs."""

    def execute(self, context: Context) -> dict[str, Any]:
        from penstock.hooks.registry import run_context
        from penstock.jobs.platform_etl import RunNotComplete, RunWaiting

        # Set before any work: Airflow renders the label again afterwards, and would fail a finished task without it.
        context["label"] = self.claimed["label"]  # type: ignore[typeddict-unknown-key]
        try:
            with self.open_warehouse() as warehouse:
                return self.run_stage(run_context(warehouse, self.claimed, is_last_try=is_last_try(context)))
        except RunWaiting as exc:
            raise AirflowSkipException(str(exc)) from exc
        except RunNotComplete as exc:
            is_reported = exc.is_reported or lane_has_failed(context)
            raise RunFailed(str(exc), exc.error, is_reported=is_reported) from exc
        except PenstockError as exc:
            if exc.code == "LEASE_LOST":
                raise AirflowSkipException(str(exc)) from exc
            raise


class ExtractRunOperator(RunStageOperator):
    """Reads the open slices of the run into staging; a retry resumes at the last saved page."""

    def run_stage(self, run: RunContext) -> dict[str, Any]:
        from penstock.jobs.platform_etl import extract
        from penstock.jobs.platform_etl.slices import COLLECTOR_THRESHOLD

        gc.set_threshold(COLLECTOR_THRESHOLD)  # this process is the task's own
        return extract(run)


class TransformRunOperator(RunStageOperator):
    """Carries what was read into the core tables, moves the cursors and ends the run, in one transaction.

    Figures that differ from the vendor's own totals are loaded all the same; one alert tells of those that last. So
    it does of what `extract` found out about the account.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        counts = super().execute(context)
        told = [error(each["code"], each["message"]) for each in counts.get("account_findings", ())]
        if differing := counts.get("totals_differing"):
            message = f"{differing} daily totals differ from the vendor's own; reporting.data_quality names them"
            told.append(error("TOTALS_MISMATCH", message))
        if told:
            send(*(alert_of({**context, "exception": each}) for each in told))
        return counts

    def run_stage(self, run: RunContext) -> dict[str, Any]:
        from penstock.jobs.platform_etl import transform

        return transform(run)


class FinishRunOperator(RunStageOperator):
    """Closes what is left open and fails when the run did."""

    def run_stage(self, run: RunContext) -> dict[str, Any]:
        from penstock.jobs.platform_etl import finish

        return finish(run)


def run_origin(context: Context) -> RunOrigin:
    """How this DAG run came about."""
    dag_run = context["dag_run"]
    return RunOrigin(
        run_type=str(getattr(dag_run.run_type, "value", dag_run.run_type)),
        interval_start=dag_run.data_interval_start,
        interval_end=dag_run.data_interval_end,
        logical_date=dag_run.logical_date,
        now=dt.datetime.now(dt.UTC),
    )


def is_last_try(context: Context) -> bool:
    """Whether a failure of this try is final: then the job marks the run failed instead of leaving it to the next."""
    ti = context["ti"]
    return ti.try_number > (ti.max_tries or 0)


def lane_has_failed(context: Context) -> bool:
    """Whether another task of this mapped lane has failed, and so has sent the alert."""
    ti = context["ti"]
    group_id = getattr(ti.task.task_group, "group_id", None)
    states = ti.get_task_states(dag_id=ti.dag_id, task_group_id=group_id, run_ids=[ti.run_id], map_index=ti.map_index)
    return any(state == "failed" for lane in states.values() for state in lane.values())
