"""`python -m bench.retention`: millions of old rows archived and deleted beside a writer, against one big DELETE.

Every contender gets a copy of the same table, and the same writer inserts and updates beside it every 20 ms, old rows
too. Then a tenth of the old rows goes with other pauses between the batches, to show what they buy. At last the batched
way is killed at random times, and after each kill the live and the archived rows are counted.

Exits with 1 when a row is missing, doubled or left behind. Aims are printed, not enforced.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import multiprocessing
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from bench.machine import SERVER_SETTINGS, BenchError
from penstock.core.retention import Policy
from penstock.jobs import retention
from penstock.jobs.retention import Order
from penstock.warehouse.migrations import migrate
from penstock.warehouse.session import Warehouse
from stack.postgres import EmbeddedPostgres

TEMPLATE = "retention_template"
POLICY = Policy("activity_log", 90, 365)
TENTH = Policy("activity_log", 271, 365)  # of the old rows, which FILL spreads over 91 to 291 days
PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0)  # times those of the job
WRITE_EVERY_SECONDS = 0.02
QUIET_SECONDS = 5.0
AIM_BLOCKED_MS = 100.0
SETTINGS = {**SERVER_SETTINGS, "max_wal_size": "16GB"}

# An activity log of the old application: some 250 bytes a row, in the order in which it was written.
FILL = """
insert into activity_log (user_id, entity_type, entity_id, action, details, created_at)
select
    gen_random_uuid(), 'request', gen_random_uuid(), 'status_changed',
    jsonb_build_object('old_status', 'in_progress', 'new_status', 'needs_review', 'request_title', 'Request ' || n),
    case
        when n <= %(old)s then now() - interval '91 days' - interval '200 days' * (1 - n / %(old)s::float8)
        else now() - interval '80 days' * (1 - (n - %(old)s) / greatest(%(rows)s - %(old)s, 1)::float8)
    end
from generate_series(1, %(rows)s) as n
"""
ONE_DELETE = "delete from activity_log where created_at < now() - interval '90 days'"
ONE_STATEMENT = """
with moved as (
    delete from activity_log where created_at < now() - interval '90 days'
    returning id, user_id, entity_type, entity_id, action, details, created_at
)
insert into archived_activity_log (id, user_id, entity_type, entity_id, action, details, created_at)
select id, user_id, entity_type, entity_id, action, details, created_at from moved
"""
OLD_ROWS = """
select id from activity_log
where created_at < now() - interval '90 days' and id < '01000000-0000-0000-0000-000000000000'
order by id limit 5000
"""
SUMS = """
select
    (select count(*) from activity_log) as live,
    (select count(*) from archived_activity_log) as archived,
    (select count(*) from activity_log inner join archived_activity_log using (id)) as doubled
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Writes:
    """How long a writer's statements took beside a contender, in milliseconds."""

    statements: int
    inserted: int
    median_ms: float
    p99_ms: float
    longest_ms: float
    longest_was: str


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What one contender took."""

    name: str
    seconds: float
    wal_mb: float
    longest_transaction_ms: float
    writes: Writes


class Writer:
    """Inserts a row, updates it, and updates an old one, which may be on its way out; each in a transaction of its
    own, again and again."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._stop = threading.Event()
        self._times: list[tuple[float, str]] = []
        self._inserted = 0
        self._failure: psycopg.Error | None = None
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def writes(self) -> Writes:
        """Once it has stopped. Raises BenchError when it could not write."""
        if self._failure is not None:
            raise BenchError(f"the writer failed: {self._failure}")
        longest, longest_was = max(self._times, default=(0.0, "none"))
        times = sorted(milliseconds for milliseconds, _ in self._times) or [0.0]
        p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
        return Writes(len(times), self._inserted, statistics.median(times), p99, longest, longest_was)

    def _write(self) -> None:
        insert = (
            "insert into activity_log (entity_type, entity_id, action) "
            "values ('request', gen_random_uuid(), 'edited') returning id"
        )
        update = "update activity_log set action = 'seen' where id = %s returning id"
        try:
            with psycopg.connect(self._dsn, autocommit=True) as connection:
                old = itertools.cycle(connection.execute(OLD_ROWS).fetchall() or [(None,)])
                while not self._stop.is_set():
                    row = self._timed("insert", connection, insert, None)
                    self._inserted += 1
                    self._timed("update", connection, update, row)
                    self._timed("update of an old row", connection, update, next(old))
                    self._stop.wait(WRITE_EVERY_SECONDS)
        except psycopg.Error as failure:
            self._failure = failure

    def _timed(self, what: str, connection: psycopg.Connection[Any], statement: str, parameters: Any) -> Any:
        began = time.perf_counter()
        row = connection.execute(statement, parameters).fetchone()
        self._times.append(((time.perf_counter() - began) * 1000, what))
        return row


class Ground:
    """One Postgres with a filled table to copy."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self._numbers = itertools.count(1)

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The DSN of a copy of the table, gone at the end."""
        name = f"retention_{next(self._numbers)}"
        dsn = self._server.create_database(name, template=TEMPLATE)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("checkpoint")
        try:
            yield dsn
        finally:
            self._server.drop_database(name)


@contextlib.contextmanager
def ground(rows: int, old: int) -> Iterator[Ground]:
    """A server whose template holds `rows` rows, `old` of them older than the policy."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    folder.chmod(0o711)  # the server's own user must get through
    server = EmbeddedPostgres(folder / "postgres", durable=True, settings=SETTINGS)
    try:
        server.start()
        dsn = server.create_database(TEMPLATE)
        migrate(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(FILL, {"rows": rows, "old": old})
            connection.execute("vacuum analyze activity_log")
        yield Ground(server)
    finally:
        server.stop(immediate=True)
        shutil.rmtree(folder, ignore_errors=True)


def one_delete(dsn: str) -> None:
    """What a person would type; nothing is archived."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(ONE_DELETE)


def one_statement(dsn: str) -> None:
    """Archived and deleted at once."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(ONE_STATEMENT)


def ours(dsn: str, policy: Policy = POLICY, pauses: float = 1.0) -> None:
    """The job of the DAG. pauses: how long they are, times what the job thinks right."""
    order = Order("bench", "bench", is_dry_run=False, confirm_above=10**9)
    with Warehouse(dsn, application_name="penstock-retention") as warehouse:
        retention.enforce(warehouse, order, policy, sleep=lambda seconds: time.sleep(seconds * pauses))


CONTENDERS: dict[str, Callable[[str], None]] = {
    "one DELETE, no archive": one_delete,
    "archive + DELETE, one statement": one_statement,
    "Penstock": ours,
}


def measure(dsn: str, name: str, work: Callable[[str], None]) -> Result:
    """One contender in a process of its own, beside the writer. Raises BenchError."""
    with psycopg.connect(dsn, autocommit=True) as connection, Writer(dsn) as writer:
        before = connection.execute("select pg_current_wal_lsn()::text").fetchone()
        began = time.perf_counter()
        worker = multiprocessing.get_context("spawn").Process(target=work, args=(dsn,))
        worker.start()
        longest = _watch(connection, worker)
        seconds = time.perf_counter() - began
        wal = connection.execute("select pg_wal_lsn_diff(pg_current_wal_lsn(), %s::pg_lsn)", before).fetchone()
        if worker.exitcode:
            raise BenchError(f"{name} ended with {worker.exitcode}")
    return Result(name, seconds, float(wal[0] if wal else 0) / 1e6, longest, writer.writes)


def _watch(connection: psycopg.Connection[Any], worker: Any) -> float:
    """Until the worker ends; the age of its oldest transaction that was seen, in milliseconds."""
    ages = (
        "select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8 from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid() and query not like '%penstock.retention%'"
    )
    longest = 0.0
    while worker.is_alive():
        row = connection.execute(ages).fetchone()
        longest = max(longest, row[0] if row else 0.0)
        worker.join(0.01)
    return longest * 1000


def quiet(dsn: str) -> Writes:
    """The writer alone: what the machine itself makes it wait."""
    with Writer(dsn) as writer:
        time.sleep(QUIET_SECONDS)
    return writer.writes


def kill(dsn: str, rows: int, kills: int, seconds: float) -> tuple[int, int]:
    """Ours, killed `kills` times within about the time that it takes; returns the kills at work and those after which
    the sums were wrong. Raises BenchError when it does not end well at last."""
    rng, hits, wrong, inserted = random.Random(13), 0, 0, 0
    for number in range(kills + 1):
        with Writer(dsn) as writer:
            worker = multiprocessing.get_context("spawn").Process(target=ours, args=(dsn,))
            worker.start()
            if number < kills:
                worker.join(rng.uniform(1.0, 1.0 + 1.6 * seconds / max(kills, 1)))
                hits += worker.is_alive()
                worker.kill()
            worker.join()
        inserted += writer.writes.inserted
        live, archived, doubled = _sums(dsn)
        is_right = live + archived == rows + inserted and doubled == 0
        wrong += not is_right
        print(f"  kill {number + 1}: live {live:,} + archived {archived:,}, {'right' if is_right else 'WRONG'}")
    if worker.exitcode:
        raise BenchError(f"the last run ended with {worker.exitcode}")
    return hits, wrong


def _sums(dsn: str) -> tuple[int, int, int]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(SUMS).fetchone()
    if row is None:
        raise BenchError("the tables cannot be counted")
    return row[0], row[1], row[2]


def _line(name: str, writes: Writes, more: str = "") -> str:
    return (
        f"{name:34} {more:42} writer median {writes.median_ms:6.1f} ms, p99 {writes.p99_ms:6.1f} ms, "
        f"longest {writes.longest_ms:7.1f} ms ({writes.longest_was}; {writes.statements:,} statements)"
    )


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.retention", description=__doc__)
    parser.add_argument("--rows", type=int, default=6_000_000, help="rows of the table (default 6,000,000)")
    parser.add_argument("--old", type=int, default=5_000_000, help="of them older than the policy (default 5,000,000)")
    parser.add_argument("--kills", type=int, default=10, help="times that ours is killed at random (default 10)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    figures: dict[str, Any] = {"rows": options.rows, "old": options.old}
    with ground(options.rows, options.old) as prepared:
        results = [_contend(prepared, name, figures) for name in CONTENDERS]
        figures["pauses"] = [_pausing(prepared, pauses) for pauses in PAUSES]
        with prepared.database() as dsn:
            hits, wrong = kill(dsn, options.rows, options.kills, results[-1].seconds)
            left = _old_rows(dsn)
    figures |= {"kills_at_work": hits, "wrong_sums": wrong, "old_rows_left": left}
    print(f"{hits} of {options.kills} kills hit it at work; {wrong} wrong sums; {left} old rows left behind")
    first, last = results[0], results[-1]
    print(
        f"Penstock took {last.seconds / first.seconds:.1f} x the time of one DELETE and archived as well; the writer's "
        f"longest wait was {last.writes.longest_ms:.0f} ms (aim: below {AIM_BLOCKED_MS:.0f})"
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if wrong or left else 0


def _contend(prepared: Ground, name: str, figures: dict[str, Any]) -> Result:
    with prepared.database() as dsn:
        if not figures.get("quiet"):
            figures["quiet"] = dataclasses.asdict(alone := quiet(dsn))
            print(_line("nobody", alone), flush=True)
        result = measure(dsn, name, CONTENDERS[name])
        if _old_rows(dsn):
            raise BenchError(f"{name} left old rows behind")
    figures[name] = dataclasses.asdict(result)
    _print(result)
    return result


def _pausing(prepared: Ground, pauses: float) -> dict[str, Any]:
    with prepared.database() as dsn:
        result = measure(dsn, f"  a tenth, pauses x {pauses:g}", functools.partial(ours, policy=TENTH, pauses=pauses))
    _print(result)
    return dataclasses.asdict(result)


def _print(result: Result) -> None:
    more = f"{result.seconds:6.1f} s, WAL {result.wal_mb:7,.0f} MB, transaction {result.longest_transaction_ms:,.0f} ms"
    print(_line(result.name, result.writes, more), flush=True)


def _old_rows(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "select count(*) from activity_log where created_at < now() - interval '90 days 1 hour'"
        ).fetchone()
    return int(row[0]) if row else -1


if __name__ == "__main__":
    sys.exit(main())
