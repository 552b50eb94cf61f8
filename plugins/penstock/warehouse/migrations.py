"""Versioned migrations and views: `python -m penstock.warehouse.migrations --dsn ...`.

A set is a folder `include/sql/<set>/`. Its `migrations/NNNN_verb_noun.sql` are applied once each, in order,
one transaction per file, and never edited afterwards. Its `views/<view>.sql` are applied again whenever their text
changes; a line `-- after: <view>, <view>` names the views they read.

The ledger is `penstock.migrations`. A transaction-level advisory lock lets one process migrate at a time; the others
wait and find everything done. Session-level locks would be lost behind a transaction pooler.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import psycopg

from penstock.core.databases import ALL_SETS, DSN_VARIABLES, dsn_of_environment, sets_by_database
from penstock.core.errors import PenstockError, error
from penstock.warehouse.failures import classify
from penstock.warehouse.queries import sql_root
from penstock.warehouse.session import Connection, plain_dsn
from penstock.warehouse.statements import Statement, split

log = logging.getLogger(__name__)

LOCK_KEY = 0x70656E73746F636B  # "penstock" in ASCII
LOCK_TIMEOUT = "60s"  # a change that waits behind a long transaction makes everybody else wait behind it

_FILE_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_AFTER = re.compile(r"^--\s*after:(?P<names>.*)$", re.MULTILINE)
_VIEW = re.compile(r'^create\s+(?:or\s+replace\s+)?(?:materialized\s+)?view\s+(?:if\s+not\s+exists\s+)?([\w."]+)', re.I)

_LEDGER = """
create schema if not exists penstock;
create table if not exists penstock.migrations (
    "set" text not null,
    version integer not null,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default clock_timestamp(),
    primary key ("set", version)
);
create table if not exists penstock.applied_views (
    "set" text not null,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default clock_timestamp(),
    primary key ("set", name)
);
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of a set. `version` is None for a view."""

    set_name: str
    version: int | None
    name: str
    path: Path

    @property
    def label(self) -> str:
        return f"{self.set_name}/{'views' if self.version is None else 'migrations'}/{self.path.name}"

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8").replace("\r\n", "\n")

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrate(target: str | Connection, sets: Sequence[str] = ALL_SETS) -> list[Migration]:
    """Apply what is missing, in the order of the sets; returns what was applied, views last.

    Raises CONFIG_INVALID when a landed file has changed or a file's name is wrong, DB_WRITE_ERROR or DB_UNAVAILABLE
    with file and line when a statement fails. What was applied before that stays; the failed file left nothing.
    """
    files = [migration for set_name in sets for migration in migration_files(set_name)]
    views = [view for set_name in sets for view in view_files(set_name)]
    with _connected(target) as connection:
        with _locked(connection):
            connection.execute(_LEDGER)
        applied = [migration for migration in files if _apply_once(connection, migration)]
        return applied + _apply_views(connection, views)


def migrate_databases(databases: Mapping[str, str], sets: Collection[str] = ALL_SETS) -> list[Migration]:
    """Apply what is missing of `sets`, each where its concern lives; returns what was applied. Raises like `migrate`.

    databases: connection id -> connection string, as in `core.databases.sets_by_database`.
    """
    applied = []
    for dsn, needed in sets_by_database(databases).items():
        applied += migrate(dsn, [name for name in needed if name in sets])
    return applied


def pending(target: str | Connection, sets: Sequence[str] = ALL_SETS) -> list[Migration]:
    """What `migrate` would apply, without a lock and without a change. Raises like it."""
    files = [file for set_name in sets for file in (*migration_files(set_name), *view_files(set_name))]
    with _connected(target) as connection:
        row = connection.execute("select to_regclass('penstock.migrations') is not null").fetchone()
        if row is None or not row[0]:
            return files
        return [file for file in files if _is_pending(connection, file)]


def migration_files(set_name: str) -> list[Migration]:
    """The migrations of a set in order. Raises CONFIG_INVALID for a wrong name or a version used twice."""
    folder = sql_root() / set_name / "migrations"
    found: dict[int, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise error("CONFIG_INVALID", f"{path}: a migration is named NNNN_verb_noun.sql")
        version = int(match["version"])
        if version in found:
            raise error("CONFIG_INVALID", f"{path}: version {version} is taken by {found[version].path.name}")
        found[version] = Migration(set_name, version, match["name"], path)
    if not found and not (sql_root() / set_name).is_dir():
        raise error("CONFIG_INVALID", f"there is no migration set {set_name} in {sql_root()}")
    return [found[version] for version in sorted(found)]


def view_files(set_name: str) -> list[Migration]:
    """The views of a set, each after those it reads. Raises CONFIG_INVALID when they read each other in a circle."""
    paths = sorted((sql_root() / set_name / "views").glob("*.sql"))
    views = {path.stem: Migration(set_name, None, path.stem, path) for path in paths}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name, view in views.items():
        named = [other for match in _AFTER.finditer(view.text) for other in re.findall(r"\w+", match["names"])]
        unknown = sorted(set(named) - views.keys())
        if unknown:
            raise error("CONFIG_INVALID", f"{view.label}: there is no view file {', '.join(unknown)}")
        sorter.add(name, *named)
    try:
        return [views[name] for name in sorter.static_order()]
    except CycleError as circle:
        raise error("CONFIG_INVALID", f"{set_name}: views read each other: {' -> '.join(circle.args[1])}") from circle


@contextmanager
def _connected(target: str | Connection) -> Iterator[Connection]:
    if isinstance(target, psycopg.Connection):
        yield target
        return
    dsn = plain_dsn(target)
    try:
        with psycopg.connect(dsn, autocommit=True, application_name="penstock-migrate", connect_timeout=10) as opened:
            opened.prepare_threshold = None
            opened.add_notice_handler(lambda notice: log.info("%s", notice.message_primary))
            yield opened
    except psycopg.OperationalError as exc:
        raise classify(exc) from exc


@contextmanager
def _locked(connection: Connection) -> Iterator[None]:
    """A transaction in which nobody else migrates."""
    with connection.transaction():
        connection.execute("set local statement_timeout = 0; set local lock_timeout = 0; set local timezone = 'UTC'")
        # Not "$user": a user named like one of our schemas would get every table without a schema put there.
        connection.execute("set local search_path = public")
        connection.execute("select pg_advisory_xact_lock(%s)", [LOCK_KEY])
        connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
        yield


def _is_pending(connection: Connection, file: Migration) -> bool:
    """Whether the file is still to be applied. Raises CONFIG_INVALID when it has changed since it was."""
    if file.version is None:
        statement = 'select checksum, applied_at from penstock.applied_views where "set" = %s and name = %s'
        row = connection.execute(statement, [file.set_name, file.name]).fetchone()
        return row is None or row[0] != file.checksum
    statement = 'select checksum, applied_at from penstock.migrations where "set" = %s and version = %s'
    row = connection.execute(statement, [file.set_name, file.version]).fetchone()
    if row is not None and row[0] != file.checksum:
        message = f"{file.label} has changed since it was applied at {row[1]:%Y-%m-%d %H:%M}"
        remedy = "restore it, and put the change into a new migration (`make reset` deletes an embedded warehouse)"
        raise error("CONFIG_INVALID", f"{message}: {remedy}")
    return row is None


def _apply_once(connection: Connection, migration: Migration) -> bool:
    with _locked(connection):
        if not _is_pending(connection, migration):
            return False
        _run(connection, migration)
        connection.execute(
            'insert into penstock.migrations ("set", version, name, checksum) values (%s, %s, %s, %s)',
            [migration.set_name, migration.version, migration.name, migration.checksum],
        )
    log.info("applied %s", migration.label)
    return True


def _apply_views(connection: Connection, views: Sequence[Migration]) -> list[Migration]:
    """All changed views in one transaction, so that nobody sees half of them."""
    if not any(_is_pending(connection, view) for view in views):
        return []
    with _locked(connection):
        changed = [view for view in views if _is_pending(connection, view)]
        for view in changed:
            _apply_view(connection, view)
        # What a migration set aside and could not bring back may be back under its name now.
        connection.execute("delete from penstock.views_set_aside where to_regclass(view_name) is not null")
    return changed


def _apply_view(connection: Connection, view: Migration) -> None:
    """Replaced in place where Postgres allows it, which keeps grants; otherwise dropped and made again together
    with the views, ours or anybody's, that read it."""
    try:
        with connection.transaction():
            _run(connection, view)
    except PenstockError as refused:
        if not isinstance(refused.__cause__, _NEEDS_DROP):
            raise
        names = [match[1] for statement in split(view.text) if (match := _VIEW.match(statement.text))]
        for name in reversed(names):
            connection.execute("select penstock.set_aside_views(%s, true)", [name])
        _run(connection, view)
        connection.execute("select penstock.restore_views()")
    connection.execute(
        """
        insert into penstock.applied_views ("set", name, checksum) values (%s, %s, %s)
        on conflict ("set", name) do update set checksum = excluded.checksum, applied_at = clock_timestamp()
        """,
        [view.set_name, view.name, view.checksum],
    )
    log.info("applied %s", view.label)


# A column is gone or has another type; `create view` met the old one; it was another kind of object.
_NEEDS_DROP = (psycopg.errors.InvalidTableDefinition, psycopg.errors.DuplicateTable, psycopg.errors.WrongObjectType)


def _run(connection: Connection, migration: Migration) -> None:
    try:
        statements = split(migration.text)
    except PenstockError as unreadable:
        raise error("CONFIG_INVALID", f"{migration.label}, {unreadable.message}") from unreadable
    for statement in statements:
        try:
            connection.execute(statement.text)
        except psycopg.Error as exc:
            failure = classify(exc)
            code = "DB_UNAVAILABLE" if failure.code == "DB_UNAVAILABLE" else "DB_WRITE_ERROR"
            raise error(code, _describe(migration, statement, exc), service="migrations") from exc


def _describe(migration: Migration, statement: Statement, exc: psycopg.Error) -> str:
    position = exc.diag.statement_position
    line = statement.line_of(int(position)) if position else statement.line
    parts = [exc.diag.message_primary or str(exc), exc.diag.message_detail, exc.diag.context]
    return f"{migration.label}, line {line}: " + "; ".join(" ".join(part.split()) for part in parts if part)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m penstock.warehouse.migrations", description=__doc__)
    parser.add_argument("--dsn", default=dsn_of_environment(os.environ), help=f"default: {', '.join(DSN_VARIABLES)}")
    parser.add_argument("--sets", nargs="+", default=list(ALL_SETS), metavar="SET")
    parser.add_argument("--pending", action="store_true", help="only say what is missing; exit 1 when something is")
    options = parser.parse_args(arguments)
    if not options.dsn:
        parser.error(f"no database: give --dsn or set {DSN_VARIABLES[0]}")
    try:
        files = (pending if options.pending else migrate)(options.dsn, options.sets)
    except PenstockError as failure:
        sys.stderr.write(f"{failure}\n{failure.remedy}\n")
        return 2
    word = "pending" if options.pending else "applied"
    sys.stdout.writelines(f"{word} {file.label}\n" for file in files)
    sys.stdout.write(f"{len(files)} {word}\n" if files else "nothing to apply\n")
    return 1 if options.pending and files else 0


if __name__ == "__main__":
    sys.exit(main())
