"""The statements that count, move and delete rows. Their identifiers come from `core.retention` and the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from penstock.core.retention import LEGAL_HOLD, Child, Table

# The rows are locked by the inner query and deleted by their place, which nobody can change meanwhile. One statement:
# a row is in one of the two tables at every instant, whenever the process dies.
_MOVE = """
with gone as (
    delete from {relation} as t
    where t.ctid = any(array({rows}))
    returning {columns}, {time} as aged_at, {stored_bytes} as stored_bytes
){further}
select
    count(*), min(aged_at) filter (where isfinite(aged_at)), max(aged_at) filter (where isfinite(aged_at)),
    coalesce(sum(stored_bytes), 0)::bigint
from gone
"""
_KEEP = """,
kept as (
    insert into {archive} ({columns}) overriding system value select {columns} from gone {on_conflict}
)"""
_ON_CONFLICT = "on conflict do nothing"
_CHILD = """,
{name} as (
    delete from {child} as c using gone where {matches}
)"""
_ALONG_TIME = """
select t.ctid from {relation} as t
where {time} >= %(from_time)s and {old}
order by {time} limit %(size)s
for update of t skip locked
"""
_THROUGH_PAGES = """
select t.ctid from {relation} as t
where t.ctid >= %(first)s::tid and t.ctid < %(end)s::tid and {old}
for update of t skip locked
"""
_FOUND = """
select
    count(*), min({time}) filter (where isfinite({time})), max({time}) filter (where isfinite({time})),
    coalesce(sum({stored_bytes}), 0)::bigint
from {relation} as t where {old}
"""
# As text: Python has no instant for -infinity.
_FIRST = "select min({time})::text from {relation} as t where {old}"
_LEFT = "select count(*) from {relation} as t where {old}"

TUPLE_HEADER_BYTES = 24  # https://www.postgresql.org/docs/current/storage-page-layout.html, with its padding


def regclass(schema: str, name: str) -> str:
    """The name that `to_regclass` reads, quoted."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name))


@dataclass(frozen=True, slots=True)
class Relation:
    """One plain table or partition: its name by parts, and the columns of which values can be given."""

    schema: str
    name: str
    columns: tuple[str, ...]

    @classmethod
    def of(cls, table: Table, columns: Sequence[str]) -> Relation:
        """A table of the allow-list."""
        schema, _, name = table.name.partition(".")
        return cls(schema, name, tuple(columns))

    @property
    def full_name(self) -> str:
        """As `to_regclass` reads it, whatever characters the name of a partition has."""
        return regclass(self.schema, self.name)

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    @property
    def has_legal_hold(self) -> bool:
        return LEGAL_HOLD in self.columns


@dataclass(frozen=True, slots=True)
class Move:
    """A batch's statement in two forms.

    plain: refuses the batch when the archive has one of its rows already. careful: keeps the archive's copy of such a
    row, which an old worker made before it died. Few archives have one, and to look for it costs a fifth of the time.
    """

    plain: sql.Composed
    careful: sql.Composed


class Statements:
    """The SQL of one step on one plain table or partition.

    Parameters are `before` (of all), `from_time` and `size`, or `first` and `end` (of the batches).
    """

    def __init__(self, table: Table, relation: Relation, archive: Relation | None) -> None:
        self._table = table
        self._relation = relation
        self._archive = archive
        column = table.time_column
        self._time: sql.Composable = sql.Identifier("t", column) if column else sql.SQL(table.time)

    @property
    def along_time(self) -> Move:
        """The next `size` rows from `from_time` on; wants an index on the time."""
        return self._move(_ALONG_TIME)

    @property
    def through_pages(self) -> Move:
        """The rows on the pages from `first` to before `end`; wants no index."""
        return self._move(_THROUGH_PAGES)

    @property
    def found(self) -> sql.Composed:
        """How many rows there are to be moved, their least and greatest time, and their bytes."""
        return self._over_old_rows(_FOUND)

    @property
    def first(self) -> sql.Composed:
        """The least time of the rows to be moved, as text."""
        return self._over_old_rows(_FIRST)

    @property
    def left(self) -> sql.Composed:
        """How many rows there are to be moved."""
        return self._over_old_rows(_LEFT)

    def _over_old_rows(self, template: str) -> sql.Composed:
        return sql.SQL(template).format(
            relation=self._relation.identifier, time=self._time, stored_bytes=self._stored_bytes, old=self._old
        )

    def _move(self, rows: str) -> Move:
        return Move(plain=self._statement(rows, ""), careful=self._statement(rows, _ON_CONFLICT))

    def _statement(self, rows: str, on_conflict: str) -> sql.Composed:
        inner = sql.SQL(rows).format(relation=self._relation.identifier, time=self._time, old=self._old)
        return sql.SQL(_MOVE).format(
            relation=self._relation.identifier,
            rows=inner,
            columns=self._columns("t"),
            time=self._time,
            stored_bytes=self._stored_bytes,
            further=sql.SQL("").join([*self._keep(on_conflict), *self._remove_children()]),
        )

    def _keep(self, on_conflict: str) -> list[sql.Composable]:
        if self._archive is None:
            return []
        keep = sql.SQL(_KEEP).format(
            archive=self._archive.identifier, columns=self._columns(), on_conflict=sql.SQL(on_conflict)
        )
        return [keep]

    def _remove_children(self) -> list[sql.Composable]:
        return [
            sql.SQL(_CHILD).format(
                name=sql.Identifier(f"child_{number}"),
                child=sql.Identifier(*child.table.split(".")),
                matches=_equal_keys(child),
            )
            for number, child in enumerate(self._table.children)
        ]

    def _columns(self, *prefix: str) -> sql.Composed:
        """All columns for the archive, else those that find the children."""
        keys = [key for child in self._table.children for key in child.keys]
        names = self._relation.columns if self._archive is not None else (keys or self._relation.columns[:1])
        return sql.SQL(", ").join(sql.Identifier(*prefix, name) for name in names)

    @property
    def _old(self) -> sql.Composed:
        parts: list[sql.Composable] = [sql.SQL("{time} < %(before)s").format(time=self._time)]
        if self._table.may_go:
            parts.append(sql.SQL(self._table.may_go))
        if self._relation.has_legal_hold:
            parts.append(sql.SQL("{held} is not true").format(held=sql.Identifier("t", LEGAL_HOLD)))
        return sql.SQL(" and ").join(parts)

    @property
    def _stored_bytes(self) -> sql.Composed:
        """Of the row as stored: a large value counts compressed, and is not read for that."""
        sizes = [
            sql.SQL("coalesce(pg_column_size({column}), 0)").format(column=sql.Identifier("t", name))
            for name in self._relation.columns
        ]
        return sql.SQL(" + ").join([sql.Literal(TUPLE_HEADER_BYTES), *sizes])


def _equal_keys(child: Child) -> sql.Composed:
    return sql.SQL(" and ").join(sql.SQL("c.{key} = gone.{key}").format(key=sql.Identifier(key)) for key in child.keys)
