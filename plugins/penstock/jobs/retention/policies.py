"""What the policies of a database ask for, and doing it: one policy is one lane of the DAG."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from penstock.core import retention
from penstock.core.errors import PenstockError, error
from penstock.core.retention import Entity, Policy, Step
from penstock.jobs.retention.partitions import PARTITIONED, Leaf, Retirement, leaves
from penstock.jobs.retention.statements import Relation, Statements, regclass
from penstock.jobs.retention.walk import Book, Task, walk
from penstock.sources import REGISTRY
from penstock.warehouse import failures, queries
from penstock.warehouse.session import Warehouse

log = logging.getLogger(__name__)

SQL = queries.load("retention")
SERVICE = "retention"
REFUSED = ("RETENTION_POLICY_INVALID", "RETENTION_TOO_MANY_ROWS", "RETENTION_ARCHIVE_MISMATCH")
_EXISTS = "select to_regclass(%s) is not null"

Homes = Mapping[str, Warehouse]
"""Connection -> database, for entities whose tables are in another database than the policies."""
_ONE_DATABASE: Homes = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Order:
    """What a DAG run asks for. confirm_above: how many rows of one policy it may take away."""

    dag_run_id: str
    requested_by: str
    is_dry_run: bool
    confirm_above: int = retention.DEFAULT_CONFIRM_ABOVE


def registered_entities() -> Mapping[str, Entity]:
    """Every entity type, with the staging tables of every registered source."""
    return retention.entities(f"{source.name}_{stream.table}" for source in REGISTRY for stream in source.streams)


def plan(
    warehouse: Warehouse, order: Order, entity_types: Sequence[str] | None, *, homes: Homes = _ONE_DATABASE
) -> list[dict[str, Any]]:
    """The policies to be enforced, one lane each: entity_type, active_days, archive_days.

    A policy of an unknown entity type, or one whose tables do not exist, makes no lane: it is written down in
    `penstock.retention_runs`. warehouse: the database with the policies. entity_types: only these; None for all.
    """
    known = registered_entities()
    with warehouse.connection() as connection:
        cursor = connection.cursor(row_factory=dict_row)
        rows = cursor.execute(SQL["policies"], {"entity_types": entity_types}).fetchall()
    lanes: list[dict[str, Any]] = []
    for row in rows:
        policy = Policy(row["entity_type"], row["active_retention_days"], row["archive_retention_days"])
        entity = known.get(policy.entity_type)
        if entity is None:
            _note_unknown(warehouse, order, policy, known)
        elif not _present(homes.get(entity.home, warehouse), entity):
            log.info("%s: its tables are not in the database of %s", policy.entity_type, entity.home)
            _note(warehouse, order, policy, "ABSENT", [])
        else:
            lanes.append(asdict(policy))
    return lanes


def enforce(
    warehouse: Warehouse,
    order: Order,
    policy: Policy,
    *,
    homes: Homes = _ONE_DATABASE,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Archives and deletes what the policy says, or counts it when the order is a dry run; returns the counts.

    warehouse: the database with the policies. Tried again after a crash, it goes on where it stopped. Raises
    RETENTION_POLICY_INVALID, RETENTION_TOO_MANY_ROWS and RETENTION_ARCHIVE_MISMATCH before any row is touched, and
    psycopg.Error.
    """
    run = _begin(warehouse, order, policy)
    try:
        return _Run(warehouse, order, policy, run, homes, sleep).do()
    except PenstockError as refused:
        _end(warehouse, run.id, "REFUSED" if refused.code in REFUSED else "FAILED", cause=refused)
        raise
    except psycopg.Error as broken:
        cause = failures.classify(broken)
        if cause.code != "DB_UNAVAILABLE":
            _end(warehouse, run.id, "FAILED", cause=cause)
        raise


def report(warehouse: Warehouse, dag_run_id: str) -> list[dict[str, Any]]:
    """What the DAG run did in this database, one entry per policy."""
    with warehouse.connection() as connection:
        cursor = connection.cursor(row_factory=dict_row)
        return cursor.execute(SQL["report"], {"dag_run_id": dag_run_id}).fetchall()


@dataclass(frozen=True, slots=True)
class _Begun:
    id: int
    started_at: dt.datetime


def _begin(warehouse: Warehouse, order: Order, policy: Policy) -> _Begun:
    parameters = {"dag_run_id": order.dag_run_id, "requested_by": order.requested_by, "is_dry_run": order.is_dry_run}
    with warehouse.connection() as connection:
        row = connection.execute(SQL["begin_run"], parameters | asdict(policy)).fetchone()
    if row is None:
        raise error("DB_WRITE_ERROR", "the run's row was not written", service=SERVICE)
    return _Begun(row[0], row[1])


def _end(
    warehouse: Warehouse,
    run_id: int,
    status: str,
    *,
    cause: PenstockError | None = None,
    findings: Sequence[Mapping[str, str]] = (),
    rows_left: int = 0,
) -> dict[str, Any]:
    parameters = {
        "id": run_id,
        "status": status,
        "rows_left": rows_left,
        "findings": Jsonb(list(findings)),
        "error": Jsonb(cause.as_json()) if cause else None,
    }
    with warehouse.connection() as connection:
        row = connection.cursor(row_factory=dict_row).execute(SQL["end_run"], parameters).fetchone()
    return row or {}


def _note(
    warehouse: Warehouse, order: Order, policy: Policy, status: str, findings: Sequence[Mapping[str, str]]
) -> None:
    _end(warehouse, _begin(warehouse, order, policy).id, status, findings=findings)


def _note_unknown(warehouse: Warehouse, order: Order, policy: Policy, known: Mapping[str, Entity]) -> None:
    message = f"there is no entity type {policy.entity_type!r}: nothing of it is kept short. Known: {', '.join(known)}"
    log.warning("RETENTION_ENTITY_UNKNOWN: %s", message)
    _note(warehouse, order, policy, "UNKNOWN", [_finding("RETENTION_ENTITY_UNKNOWN", message)])


def _finding(code: str, message: str) -> dict[str, str]:
    return {"check_code": code, "severity": "WARN", "message": message}


def _present(home: Warehouse, entity: Entity) -> list[retention.Table]:
    """The tables of the entity that are in this database, with all that their conditions read."""
    wanted = {name for table in entity.tables for name in _names(table)}
    with home.connection() as connection:
        there = {name for name in wanted if connection.execute(_EXISTS, [name]).fetchone() == (True,)}
    return [table for table in entity.tables if set(_names(table)) <= there]


def _names(table: retention.Table) -> list[str]:
    return [table.name, *table.needs, *(child.table for child in table.children)]


class _Run:
    """One policy at work."""

    def __init__(
        self,
        warehouse: Warehouse,
        order: Order,
        policy: Policy,
        begun: _Begun,
        homes: Homes,
        sleep: Callable[[float], None],
    ) -> None:
        self._warehouse = warehouse
        self._order = order
        self._policy = policy
        self._id = begun.id
        self._book = Book(warehouse, begun.id)
        self._instants = retention.cut_offs(policy, begun.started_at)
        self._sleep = sleep
        entity = registered_entities()[policy.entity_type]
        self._home = homes.get(entity.home, warehouse)
        present = tuple(_present(self._home, entity))
        self._steps = retention.steps(replace(entity, tables=present), self._instants) if present else []

    def do(self) -> dict[str, Any]:
        self._check_archives()
        found = self._look()
        if self._order.is_dry_run:
            return _end(self._warehouse, self._id, "SUCCEEDED")
        if found > self._order.confirm_above:
            raise error(
                "RETENTION_TOO_MANY_ROWS",
                f"{self._policy.entity_type}: {found:,} rows would go, {self._order.confirm_above:,} are confirmed",
                service=SERVICE,
            )
        left = self._take(archived=True) + self._take(archived=False)
        findings = [_locked_finding(left)] if left else []
        return _end(self._warehouse, self._id, "SUCCEEDED", findings=findings, rows_left=left)

    def _take(self, *, archived: bool) -> int:
        """Does the steps that archive, or those that delete; returns how many rows others held locked.

        Every batch stamps the policy with its own transaction. The stamp at the end is for a run that found nothing
        to do: there was nothing to archive, or to delete, at that time.
        """
        steps = [step for step in self._steps if (step.archive is not None) is archived]
        left = sum(self._work(step) for step in steps)
        if steps and not left:
            stamp = SQL["stamp_archived" if archived else "stamp_purged"]
            with self._warehouse.connection() as connection:
                connection.execute(stamp, {"entity_type": self._policy.entity_type})
        return left

    def _check_archives(self) -> None:
        """Raises RETENTION_ARCHIVE_MISMATCH when an archive has no place for a column."""
        for step in self._steps:
            if step.archive is None:
                continue
            missing = set(self._relation(step.table).columns) - set(self._relation(step.archive).columns)
            if missing:
                names = ", ".join(sorted(missing))
                raise error("RETENTION_ARCHIVE_MISMATCH", f"{step.archive.name} lacks {names}", service=SERVICE)

    def _look(self) -> int:
        """How many rows there are to go, written down in the run with their age and size."""
        rows, stored_bytes = 0, 0
        times: list[dt.datetime] = []
        for step in self._steps:
            statement = Statements(step.table, self._relation(step.table), None).found
            with self._home.connection() as connection:
                row = connection.execute(statement, {"before": step.before}).fetchone() or (0, None, None, 0)
            rows, stored_bytes = rows + row[0], stored_bytes + row[3]
            times += [at for at in row[1:3] if at is not None]
        values = asdict(self._instants) | {
            "id": self._id,
            "rows_found": rows,
            "bytes_found": stored_bytes,
            "oldest_at": min(times, default=None),
            "newest_at": max(times, default=None),
        }
        with self._warehouse.connection() as connection:
            connection.execute(SQL["set_plan"], values)
        return rows

    def _work(self, step: Step) -> int:
        """Moves the old rows of one table; returns how many others held locked."""
        relation = self._relation(step.table)
        if self._describe(relation)["kind"] != PARTITIONED:
            return self._walk(step, relation)
        with self._home.connection() as connection:
            parts = leaves(connection, relation, step.table.time_column)
        return sum(self._work_leaf(step, leaf) for leaf in parts)

    def _work_leaf(self, step: Step, leaf: Leaf) -> int:
        relation = Relation(leaf.schema, leaf.name, self._columns(regclass(leaf.schema, leaf.name)))
        retirement = Retirement(self._home, self._book, step, leaf, relation, sleep=self._sleep)
        return 0 if retirement.run() else self._walk(step, relation)

    def _walk(self, step: Step, relation: Relation) -> int:
        """`relation`: a plain table or one partition. A place on a page is that of a row in one of these alone."""
        archive = self._relation(step.archive) if step.archive else None
        task = Task(
            self._home,
            self._book,
            Statements(step.table, relation, archive),
            step.before,
            is_archived=archive is not None,
            sleep=self._sleep,
        )
        is_indexed = self._is_indexed(relation, step.table.time_column)
        return walk(task, is_indexed=is_indexed, blocks=lambda: int(self._describe(relation)["blocks"]))

    def _is_indexed(self, relation: Relation, time_column: str | None) -> bool:
        parameters = {"relation": relation.full_name, "time_column": time_column}
        with self._home.connection() as connection:
            row = connection.execute(SQL["is_indexed"], parameters).fetchone()
        return bool(row and row[0])

    def _describe(self, relation: Relation) -> dict[str, Any]:
        with self._home.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            row = cursor.execute(SQL["relation"], {"relation": relation.full_name}).fetchone()
        if row is None:
            raise error("MIGRATION_PENDING", f"{relation.full_name} is gone", service=SERVICE)
        return row

    def _relation(self, table: retention.Table) -> Relation:
        return Relation.of(table, self._columns(table.name))

    def _columns(self, name: str) -> tuple[str, ...]:
        with self._home.connection() as connection:
            return tuple(column for (column,) in connection.execute(SQL["columns"], {"relation": name}))


def _locked_finding(rows: int) -> dict[str, str]:
    return _finding(
        "RETENTION_ROWS_LOCKED", f"{rows:,} rows were locked by others to the end and wait for the next run"
    )
