"""The tasks of the diamond ingestion: each opens database and vendor and makes one call into the jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk.exceptions import AirflowSkipException

from penstock.alerts import Alert, alert_channel, redacted, safe_text, send
from penstock.core.errors import CATALOGUE, PenstockError
from penstock.hooks.connections import find_connection
from penstock.hooks.nivoda import NivodaHook
from penstock.hooks.warehouse import WarehouseHook
from penstock.operators.platform_etl import RunFailed, WarehouseOperator, is_last_try

if TYPE_CHECKING:
    from airflow.sdk import Context

    from penstock.jobs.nivoda_ingestion import Gate, Ingestion, PlanRequest

BOTH = "both"
RUN = "run"
"""XCom key under which `PlanRunOperator` leaves the run's id."""

DATABASE = "nivoda_db"
WAIT = timedelta(minutes=5)


class NivodaOperator(WarehouseOperator):
    """A stage of one run.

    :param plan_task_id: the task that planned the run.
    :param nivoda_conn_id: the vendor's connection; its extra holds the settings as well.
    :param warehouse_conn_id: the database of the diamonds.
    :param limits_conn_id: the database of the shared rate limits.
    """

    def __init__(
        self,
        *,
        plan_task_id: str | None = None,
        nivoda_conn_id: str = NivodaHook.default_conn_name,
        warehouse_conn_id: str = DATABASE,
        limits_conn_id: str = WarehouseHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(warehouse_conn_id=warehouse_conn_id, **kwargs)
        self.plan_task_id = plan_task_id
        self.nivoda_conn_id = nivoda_conn_id
        self.limits_conn_id = limits_conn_id

    @contextmanager
    def open_ingestion(self, context: Context) -> Iterator[Ingestion]:
        """What the jobs work with, for the time of one task."""
        from penstock.jobs.nivoda_ingestion import Ingestion, Settings

        connection = find_connection(self.nivoda_conn_id)
        settings = Settings.from_extra(connection.extra_dejson if connection else {})
        hook = NivodaHook(self.nivoda_conn_id)
        with self.open_warehouse() as warehouse, WarehouseHook(self.limits_conn_id).warehouse as limits:
            yield Ingestion(
                warehouse=warehouse,
                open_client=lambda: hook.client(limits),
                settings=settings,
                is_last_try=is_last_try(context),
            )

    def run_id(self, context: Context) -> str:
        """The planned run. Skips the task when there is none: the feed was not asked for, or its plan failed."""
        run = planned_run(context, self.plan_task_id)
        if not run or not run["run_id"]:
            raise AirflowSkipException("no run of this feed was planned")
        return str(run["run_id"])

    def tell(self, context: Context, code: str, message: str) -> None:
        """An alert that is no failure of this task."""
        ti = context["ti"]
        alert = Alert(
            dag_id=ti.dag_id,
            task_id=ti.task_id,
            code=code,
            message=message,
            remedy=CATALOGUE[code].remedy,
            log_url=str(getattr(ti, "log_url", "") or ""),
        )
        self.log.error("%s", safe_text(alert))
        send(alert)


class PlanRunOperator(NivodaOperator):
    """Cuts a feed into partitions and stores the plan; each partition becomes one mapped task.

    :param feed: natural or labgrown. A run that the params ask of the other feed leaves nothing to do here.
    """

    def __init__(self, *, feed: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.feed = feed

    def execute(self, context: Context) -> list[dict[str, str]]:
        from penstock.jobs.nivoda_ingestion import plan

        params = context["params"]
        if params["feed"] not in (BOTH, self.feed):
            context["ti"].xcom_push(key=RUN, value={"run_id": None, "text": "not asked for"})
            return []
        with self.open_ingestion(context) as ingestion:
            planned = plan(ingestion, self.feed, self._request(context, params))
        self.log.info("%s", planned.text)
        if not planned.is_covered:
            self.tell(context, "NIVODA_COVERAGE", planned.text)
        context["ti"].xcom_push(key=RUN, value={"run_id": planned.run_id, "text": planned.text})
        return planned.lanes

    def _request(self, context: Context, params: Mapping[str, Any]) -> PlanRequest:
        from penstock.jobs.nivoda_ingestion import PlanRequest

        return PlanRequest(
            run_type=str(params["run_type"]),
            price_from=params["price_from"],
            price_to=params["price_to"],
            partitions=params["partitions"],
            is_dry_run=bool(params["dry_run"]),
            retry_run_id=params["retry_run_id"] or None,
            partition_ids=tuple(params["partition_ids"] or ()),
            dag_id=self.dag_id,
            dag_run_id=context["run_id"],
        )


class IngestPartitionOperator(NivodaOperator):
    """Reads one partition of a feed from its last page down; a retry resumes at the last saved page.

    :param lane: what `PlanRunOperator` returned for the partition. (templated)
    """

    template_fields: Sequence[str] = ("lane",)

    def __init__(self, *, lane: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lane = lane

    def execute(self, context: Context) -> dict[str, Any]:
        from penstock.jobs.nivoda_ingestion import ingest_partition

        # Set before any work: Airflow renders the label again afterwards, and would fail a finished task without it.
        context["label"] = self.lane["label"]  # type: ignore[typeddict-unknown-key]
        try:
            with self.open_ingestion(context) as ingestion:
                return ingest_partition(ingestion, self.lane["run_id"], self.lane["partition_id"])
        except PenstockError as failure:
            if failure.code == "LEASE_LOST":
                raise AirflowSkipException(str(failure)) from failure
            raise


class GateOperator(NivodaOperator):
    """Decides by the share of partitions that were read: consolidate now, after a pause, or only if a person says so.

    :param wait: the pause when some partitions failed; it holds no worker.
    """

    def __init__(self, *, wait: timedelta = WAIT, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wait = wait

    def execute(self, context: Context) -> dict[str, Any]:
        gate = self._judge(context)
        if gate.decision == "consolidate_partial":
            self.log.info("%s; waiting %s for those that are being retried", gate.text, self.wait)
            self.defer(trigger=TimeDeltaTrigger(self.wait), method_name="execute_complete")
        return self._passed(context, gate)

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """After the pause: partitions that were retried meanwhile count as they are now."""
        return self._passed(context, self._judge(context, is_second_look=True))

    def _judge(self, context: Context, *, is_second_look: bool = False) -> Gate:
        from penstock.jobs.nivoda_ingestion import judge_partitions

        run_id = self.run_id(context)
        with self.open_ingestion(context) as ingestion:
            return judge_partitions(ingestion, run_id, is_second_look=is_second_look)

    def _passed(self, context: Context, gate: Gate) -> dict[str, Any]:
        if gate.decision == "blocked":
            self.tell(context, "NIVODA_GATE_BLOCKED", f"{gate.text}: not enough to consolidate")
        return {"run_id": gate.run_id, "decision": gate.decision, "text": gate.text}


class ApproveConsolidationOperator(ApprovalOperator):
    """Asks a person whether to consolidate a run that the gate has blocked; passes at once when it has not.

    Without an answer the run is not consolidated.

    :param gate: what `GateOperator` returned. (templated)
    :param warehouse_conn_id: the database of the diamonds.
    """

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "gate")

    def __init__(self, *, gate: Any, warehouse_conn_id: str = DATABASE, **kwargs: Any) -> None:
        super().__init__(defaults=ApprovalOperator.REJECT, **kwargs)
        self.gate = gate
        self.warehouse_conn_id = warehouse_conn_id

    def execute(self, context: Context) -> Any:
        if self.gate["decision"] != "blocked":
            return {"decision": self.gate["decision"]}
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        answer = super().execute_complete(context, event)
        if self.APPROVE in answer["chosen_options"]:
            self._approve()
        return answer

    def _approve(self) -> None:
        from penstock.jobs.nivoda_ingestion import approve

        with WarehouseHook(self.warehouse_conn_id).warehouse as warehouse:
            approve(warehouse, self.gate["run_id"])


class ConsolidateOperator(NivodaOperator):
    """Carries what was read from the raw table into `diamonds`, set by set."""

    def execute(self, context: Context) -> dict[str, Any]:
        from penstock.jobs.nivoda_ingestion import consolidate

        run_id = self.run_id(context)
        with self.open_ingestion(context) as ingestion:
            return consolidate(ingestion, run_id)


class ReconcileVanishedOperator(NivodaOperator):
    """Marks stones as deleted that the vendor no longer lists, on proof and under a brake."""

    def execute(self, context: Context) -> dict[str, Any]:
        from penstock.jobs.nivoda_ingestion import reconcile_vanished

        run_id = self.run_id(context)
        with self.open_ingestion(context) as ingestion:
            found = reconcile_vanished(ingestion, run_id)
        if found.get("braked"):
            text = f"{found['feed']}: {found['candidates']:,} of {found['active']:,} active stones are missing"
            self.tell(context, "NIVODA_BRAKE", f"{text}, {found['allowed']:,} may be deleted by one run")
        return found


class MoveWatermarkOperator(NivodaOperator):
    """Moves the feed's watermark to the run's end, if nothing is owed and no listed stone was missed."""

    def execute(self, context: Context) -> dict[str, Any]:
        from penstock.jobs.nivoda_ingestion import move_watermark

        run_id = self.run_id(context)
        with self.open_ingestion(context) as ingestion:
            return move_watermark(ingestion, run_id)


class SummariseRunOperator(NivodaOperator):
    """Ends the run, keeps its summary and chart, tells the channel, and fails when partitions did."""

    def execute(self, context: Context) -> dict[str, Any]:
        from penstock.jobs.nivoda_ingestion import summarise, text_of

        if planned_run(context, self.plan_task_id) is None:
            raise RunFailed("the run was not planned: see the failed task", {}, is_reported=True)
        run_id = self.run_id(context)
        with self.open_ingestion(context) as ingestion:
            summary = summarise(ingestion, run_id)
        post(text_of(summary))
        if summary["status"] != "completed":
            # The tasks that failed, or the gate, have told of it already.
            raise RunFailed(text_of(summary), summary.get("error") or {}, is_reported=True)
        return summary


def planned_run(context: Context, plan_task_id: str | None) -> Mapping[str, Any] | None:
    """What the plan has left; None when it failed."""
    found: Mapping[str, Any] | None = context["ti"].xcom_pull(task_ids=plan_task_id, key=RUN)
    return found


def post(text: str) -> None:
    """A message to the channel of the alerts, when Slack is configured. Its failure is no failure of the run."""
    import logging

    from penstock.hooks.slack import SlackAlertHook

    client, channel = SlackAlertHook().client, alert_channel()
    if client is None or not channel:
        return
    try:
        client.post_message(channel, redacted(text))
    except PenstockError as refused:
        logging.getLogger(__name__).warning("Slack did not take the summary: %s", redacted(str(refused)))
