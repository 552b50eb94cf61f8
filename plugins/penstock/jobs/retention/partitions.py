"""Takes partitions away whole that are older than the cut-off: no row is touched, and the space comes back.

Only where every old row may go: a table with a condition or with `legal_hold` is worked row by row. The parent is
locked for the few milliseconds of a detach; when the lock is not to be had at once we stand back, because everybody
else would queue up behind us. What the database does not let leave whole goes row by row as well.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from penstock.core.retention import Step
from penstock.jobs.retention.statements import Relation, Statements
from penstock.jobs.retention.walk import Batch, Book
from penstock.warehouse import queries
from penstock.warehouse.session import Connection, Warehouse

log = logging.getLogger(__name__)

SQL = queries.load("retention")
LOCK_TIMEOUT = "50ms"
MAX_TRIES = 40
SECONDS_BETWEEN_TRIES = 0.25
UNFIT = (psycopg.IntegrityError, psycopg.NotSupportedError, psycopg.ProgrammingError)
"""How the database says that a partition cannot leave whole, as where the archive has a partition of that time."""
PARTITIONED = "p"

_COLUMN = """
select format_type(a.atttypid, a.atttypmod) as column_type, a.attnotnull as is_not_null
from pg_attribute as a
where a.attrelid = to_regclass(%(relation)s) and a.attname = %(column)s and not a.attisdropped
"""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One partition that holds rows. lower, upper: of a range over the time alone; None when it is split otherwise."""

    schema: str
    name: str
    lower: str | None
    upper: str | None
    upper_at: dt.datetime | None


def leaves(connection: Connection, parent: Relation, time_column: str | None) -> Sequence[Leaf]:
    """The partitions of a table, oldest first. Their ranges are told only where it is split by the time alone."""
    table = parent.full_name
    relation = connection.cursor(row_factory=dict_row).execute(SQL["relation"], {"relation": table}).fetchone() or {}
    is_by_time = relation.get("partition_key") == f"RANGE ({time_column})"
    rows = connection.cursor(row_factory=dict_row).execute(SQL["leaves"], {"relation": table, "is_by_time": is_by_time})
    return [
        Leaf(row["schema_name"], row["table_name"], row["lower_text"], row["upper_text"], row["upper_at"])
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Retirement:
    """One whole partition to be moved to the archive or dropped, for one run."""

    warehouse: Warehouse
    book: Book
    step: Step
    leaf: Leaf
    relation: Relation
    sleep: Callable[[float], None] = time.sleep

    def run(self) -> bool:
        """Whether it was done; False when its rows must go one by one, or the table was too busy."""
        if not self._is_whole():
            return False
        archive = self.step.archive
        if archive is None:
            return self._retire(self._drop, is_archived=False)
        with self.warehouse.connection() as connection:
            added = self._columns_to_add(connection, archive.name)
            if added is None or not self._can_be_attached(connection, archive.name):
                return False
            self._prove_range(connection)
        return self._retire(lambda connection: self._attach(connection, archive.name, added), is_archived=True)

    def _is_whole(self) -> bool:
        is_old = self.leaf.upper_at is not None and self.leaf.upper_at <= self.step.before
        return is_old and not (self.step.table.may_go or self.step.table.children or self.relation.has_legal_hold)

    def _retire(self, take_away: Callable[[Connection], None], *, is_archived: bool) -> bool:
        statements = Statements(self.step.table, self.relation, None)
        with self.warehouse.connection() as connection:
            # Counted before the lock: a late row that comes meanwhile is old as well, and goes with the others.
            found = connection.execute(statements.found, {"before": self.step.before}).fetchone() or (0, None, None, 0)
        for attempt in range(MAX_TRIES):
            if attempt:
                self.sleep(SECONDS_BETWEEN_TRIES)
            began = time.monotonic()
            try:
                with self.warehouse.transaction() as connection:
                    connection.execute("select set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
                    self._detach(connection)
                    take_away(connection)
                    rows, oldest_at, newest_at, stored_bytes = found
                    batch = Batch(rows, oldest_at, newest_at, stored_bytes, time.monotonic() - began)
                    name = f"{self.leaf.schema}.{self.leaf.name}"
                    self.book.add(batch, is_archived=is_archived, partition=name)
                return True
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                log.info("%s is in use", self.step.table.name)
            except UNFIT as refusal:
                log.warning("%s cannot leave whole, its rows go one by one: %s", self.relation.full_name, refusal)
                return False
        log.warning("%s was in use for too long: its rows go one by one", self.relation.full_name)
        return False

    def _detach(self, connection: Connection) -> None:
        parent = sql.Identifier(*self.step.table.name.split("."))
        statement = sql.SQL("alter table {parent} detach partition {leaf}")
        connection.execute(statement.format(parent=parent, leaf=self.relation.identifier))

    def _drop(self, connection: Connection) -> None:
        connection.execute(sql.SQL("drop table {leaf}").format(leaf=self.relation.identifier))

    def _attach(self, connection: Connection, archive: str, added: Mapping[str, sql.Composed]) -> None:
        for definition in added.values():
            connection.execute(
                sql.SQL("alter table {leaf} add column {definition}").format(
                    leaf=self.relation.identifier, definition=definition
                )
            )
        statement = sql.SQL("alter table {archive} attach partition {leaf} for values from ({lower}) to ({upper})")
        connection.execute(
            statement.format(
                archive=sql.Identifier(*archive.split(".")),
                leaf=self.relation.identifier,
                lower=_bound(self.leaf.lower),
                upper=_bound(self.leaf.upper),
            )
        )
        connection.execute(
            sql.SQL("alter table {leaf} drop constraint {name}").format(
                leaf=self.relation.identifier, name=self._range_name
            )
        )

    def _columns_to_add(self, connection: Connection, archive: str) -> dict[str, sql.Composed] | None:
        """What the archive has more; None when it lacks a column of ours, or wants one that we have no value for."""
        theirs = [name for (name,) in connection.execute(SQL["columns"], {"relation": archive})]
        if set(self.relation.columns) - set(theirs) or set(theirs) - set(self.relation.columns) - {"archived_at"}:
            return None
        if "archived_at" not in theirs or "archived_at" in self.relation.columns:
            return {}
        row = connection.execute(_COLUMN, {"relation": archive, "column": "archived_at"}).fetchone()
        column_type, is_not_null = row or ("timestamptz", False)
        suffix = " not null" if is_not_null else ""
        return {"archived_at": sql.SQL(f"archived_at {column_type} default now(){suffix}").format()}

    def _can_be_attached(self, connection: Connection, archive: str) -> bool:
        """Whether the archive is split by the same time, and nothing would have to be done under the lock: no index
        built, no default partition searched for rows of our time."""
        described = connection.cursor(row_factory=dict_row)
        theirs = described.execute(SQL["relation"], {"relation": archive}).fetchone()
        if theirs is None or theirs["partition_key"] != f"RANGE ({self.step.table.time_column})":
            return False
        if _has_filled_default(connection, archive):
            return False
        wanted = _indexes(connection, archive)
        return wanted <= _indexes(connection, self.relation.full_name)

    @property
    def _range_name(self) -> sql.Identifier:
        return sql.Identifier(f"{self.leaf.name[:40]}_retention_range")

    def _prove_range(self, connection: Connection) -> None:
        """A checked constraint, so that attaching need not read the rows under the lock."""
        name = self._range_name
        time_column = sql.Identifier(self.step.table.time_column or "")
        conditions = [sql.SQL("{time} is not null").format(time=time_column)]
        if self.leaf.lower not in (None, "MINVALUE"):
            conditions.append(sql.SQL("{time} >= {at}").format(time=time_column, at=_bound(self.leaf.lower)))
        conditions.append(sql.SQL("{time} < {at}").format(time=time_column, at=_bound(self.leaf.upper)))
        leaf = self.relation.identifier
        with self.warehouse.transaction():
            connection.execute("select set_config('lock_timeout', '2s', true)")
            connection.execute(
                sql.SQL("alter table {leaf} drop constraint if exists {name}").format(leaf=leaf, name=name)
            )
            connection.execute(
                sql.SQL("alter table {leaf} add constraint {name} check ({condition}) not valid").format(
                    leaf=leaf, name=name, condition=sql.SQL(" and ").join(conditions)
                )
            )
        connection.execute(sql.SQL("alter table {leaf} validate constraint {name}").format(leaf=leaf, name=name))


def _bound(text: str | None) -> sql.Composable:
    return sql.SQL("minvalue") if text in (None, "MINVALUE") else sql.Literal(text)


def _has_filled_default(connection: Connection, table: str) -> bool:
    row = connection.execute(SQL["default_partition"], {"relation": table}).fetchone()
    if row is None:
        return False
    is_filled = sql.SQL("select exists(select 1 from {default})").format(default=sql.Identifier(*row))
    return connection.execute(is_filled).fetchone() == (True,)


def _indexes(connection: Connection, table: str) -> set[tuple[Any, ...]]:
    rows = connection.execute(SQL["indexes"], {"relation": table})
    return set(rows)
