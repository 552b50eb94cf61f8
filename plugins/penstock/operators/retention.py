"""The tasks of retention: each opens the databases that it needs and makes one call into the jobs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from penstock.alerts import Alert, send
from penstock.core.errors import CATALOGUE
from penstock.hooks.warehouse import WarehouseHook
from penstock.operators.platform_etl import RunFailed, WarehouseOperator

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import DagRunProtocol

    from penstock.jobs.retention import Homes, Order

POLICIES = "agency_db"
HOMES = (POLICIES, "warehouse", "calendar_db", "apps_db")
"""The databases that the policies are about. Most deployments have one under all these names."""

LATE = dt.timedelta(hours=1)
"""A run of the timetable that begins later only counts. At the first start the scheduler makes up for last Sunday at
once: rows would go before anybody has looked at the policies."""


class RetentionOperator(WarehouseOperator):
    """An operator on the database of the policies, and on those of the rows."""

    def __init__(self, *, warehouse_conn_id: str = POLICIES, **kwargs: Any) -> None:
        super().__init__(warehouse_conn_id=warehouse_conn_id, **kwargs)

    @contextmanager
    def open_homes(self) -> Iterator[Homes]:
        """Connection -> database; where two connections lead to one database, it is the same object."""
        with ExitStack() as opened:
            by_dsn = {(policies := opened.enter_context(self.open_warehouse())).dsn: policies}
            homes = {self.warehouse_conn_id: policies}
            for conn_id in HOMES:
                found = WarehouseHook(conn_id).warehouse
                if found.dsn not in by_dsn:
                    by_dsn[found.dsn] = opened.enter_context(found)
                homes.setdefault(conn_id, by_dsn[found.dsn])
            yield homes


class PlanPoliciesOperator(RetentionOperator):
    """Makes one lane per policy; writes down those that nothing can be done about."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        from penstock.jobs.retention import plan

        wanted = context["params"]["entity_types"] or None
        order = order_of(context)
        self.log.info("%s, entity types: %s", order, wanted or "all")
        with self.open_homes() as homes:
            lanes = plan(homes[POLICIES], order, wanted, homes=homes)
        return [{**lane, "label": lane["entity_type"]} for lane in lanes]


class EnforcePolicyOperator(RetentionOperator):
    """Archives and deletes what one policy says; a retry goes on where the try before it stopped.

    :param policy: what `PlanPoliciesOperator` returned for the policy. (templated)
    """

    template_fields: Sequence[str] = ("policy",)

    def __init__(self, *, policy: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.policy = policy

    def execute(self, context: Context) -> dict[str, Any]:
        from penstock.core.retention import Policy
        from penstock.jobs.retention import enforce

        # Set before any work: Airflow renders the label again afterwards, and would fail a finished task without it.
        context["label"] = self.policy["label"]  # type: ignore[typeddict-unknown-key]
        policy = Policy(*(self.policy[name] for name in ("entity_type", "active_days", "archive_days")))
        with self.open_homes() as homes:
            return enforce(homes[POLICIES], order_of(context), policy, homes=homes)


class ReportRetentionOperator(RetentionOperator):
    """Writes the rows and bytes of every policy into the log, tells Slack of findings, and fails when a policy did.

    :param lanes: what `PlanPoliciesOperator` returned; nothing when it failed. (templated)
    """

    template_fields: Sequence[str] = ("lanes",)

    def __init__(self, *, lanes: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lanes = lanes

    def execute(self, context: Context) -> list[dict[str, Any]]:
        from penstock.jobs.retention import report

        if self.lanes is None:
            raise RunFailed("the policies were not planned", {}, is_reported=True)
        order = order_of(context)
        with self.open_warehouse() as policies:
            rows = report(policies, order.dag_run_id)
        self.log.info("\n%s", as_text(rows))
        if not order.is_dry_run:
            self._tell_findings(rows)
        if missing := not_done(self.lanes, rows):
            raise RunFailed(f"not done: {', '.join(missing)}", {}, is_reported=True)
        return rows

    def _tell_findings(self, rows: Sequence[Mapping[str, Any]]) -> None:
        findings = [(finding["check_code"], finding["message"]) for row in rows for finding in row["findings"]]
        send(*(Alert(self.dag_id, self.task_id, code, told, CATALOGUE[code].remedy) for code, told in findings))


def order_of(context: Context) -> Order:
    """What this DAG run asks for: the timetable means it unless it comes late, whoever triggers it has to say so."""
    from penstock.jobs.retention import Order

    dag_run, params = context["dag_run"], context["params"]
    is_scheduled = str(getattr(dag_run.run_type, "value", dag_run.run_type)) == "scheduled"
    who = getattr(dag_run, "triggering_user_name", None) or "unknown"
    return Order(
        dag_run_id=context["run_id"],
        requested_by="schedule" if is_scheduled else f"trigger:{who}",
        is_dry_run=_is_late(dag_run) if is_scheduled else bool(params["dry_run"]),
        confirm_above=int(params["confirm_above"]),
    )


def _is_late(dag_run: DagRunProtocol) -> bool:
    """Whether a run of the timetable began long after its time, and by itself: a person who clears it means it."""
    if dag_run.clear_number or dag_run.start_date is None:
        return False
    return dag_run.start_date - dag_run.run_after > LATE


def not_done(lanes: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The planned policies that no run has ended well, with how theirs ended."""
    statuses = {row["entity_type"]: row["status"] for row in rows}
    found = {lane["entity_type"]: statuses.get(lane["entity_type"], "never begun") for lane in lanes}
    return [f"{entity_type} ({status})" for entity_type, status in found.items() if status != "SUCCEEDED"]


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The report as a table."""
    head = ("entity type", "status", "found", "MB", "archived", "MB", "deleted", "MB", "left", "batches", "longest ms")
    table = [head] + [
        (
            str(row["entity_type"]),
            f"{row['status']}{' (dry run)' if row['is_dry_run'] else ''}",
            *(
                cell
                for what in ("found", "archived", "purged")
                for cell in (f"{row[f'rows_{what}']:,}", f"{row[f'bytes_{what}'] / 1e6:,.1f}")
            ),
            f"{row['rows_left']:,}",
            str(row["batches"]),
            str(row["longest_batch_ms"]),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    )
