"""What ages, how long it is kept, and how it is taken away: the allow-list of entity types, cut-offs, batch sizes.

A row of `retention_policies` names an entity type and nothing else: tables, columns and conditions come from `ENTITIES`
alone, so that nobody who may write a policy can name a table.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from penstock.core.errors import error

LEGAL_HOLD = "legal_hold"
"""A boolean column of this name, where a table has it, keeps a row for as long as it is true."""

MAX_DAYS = 36_500
DEFAULT_CONFIRM_ABOVE = 5_000_000
"""Rows of one policy beyond which a run wants a person's word: a policy of 9 days instead of 90 shows here."""

AIM_SECONDS = 0.03
"""Of one batch. A writer that wants a row of it waits as long, and some take twice the time of the one before."""

FIRST_BATCH, SMALLEST_BATCH, LARGEST_BATCH = 500, 100, 20_000  # rows
FIRST_BLOCKS, SMALLEST_BLOCKS, LARGEST_BLOCKS = 16, 1, 2_048  # pages of 8 kB
LARGEST_STEP = 2.0  # how much a batch may grow at once; one quick batch proves little
PAUSE_SHARE = 0.25  # of the batch's own time: four fifths of the time is work
SHORTEST_PAUSE, LONGEST_PAUSE = 0.002, 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Child:
    """Rows of another table without a foreign key that go with the row: equal values in `keys` of both tables."""

    table: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose rows age.

    name: with its schema. time: the column that tells a row's age, or SQL (the row is `t`). may_go: SQL, the condition
    of rows that may leave once they are old enough; empty: all of them. needs: other tables that the condition reads.
    """

    name: str
    time: str
    may_go: str = ""
    needs: tuple[str, ...] = ()
    children: tuple[Child, ...] = ()

    @property
    def time_column(self) -> str | None:
        """The one column that tells the age, where an index or partitions can be by it."""
        return None if "." in self.time else self.time


@dataclass(frozen=True, slots=True)
class Entity:
    """What a policy is about.

    archive: where rows go before they are deleted; None: they are deleted after the active time at once. home: the
    connection of the database that has the tables, which may be another one than that of the policies.
    """

    name: str
    tables: tuple[Table, ...]
    archive: Table | None = None
    home: str = "agency_db"


# A failed or succeeded run can be cleared and worked again: it would load days from staging that it does not read once
# more. So staging rows stay for as long as a run in flight or the slices of any run know of them.
_STAGED = """
t.connection_id <> all(array(
    select r.connection_id from core_warehouse.etl_runs as r
    where r.status in ('QUEUED', 'IN_PROGRESS') and r.connection_id is not null
))
and not exists (
    select 1
    from penstock.slices as s
    inner join core_warehouse.etl_runs as r on s.run_id = r.id
    where
        r.connection_id = t.connection_id and s.stream = t.report_key
        and (
            s.window_start is null or t.record_date is null
            or t.record_date between
            (s.window_start - interval '1 day')::date and (s.window_end + interval '1 day')::date
        )
)
"""
# The old worker deleted what was sent; what had failed for good stayed for ever, whether anybody had marked it or not.
_NOTIFIED = """
(
    t.state in ('sent', 'dead', 'cancelled')
    or (t.state = 'queued' and t.attempts >= t.max_attempts and coalesce(t.leased_until < now(), true))
)
"""
_RUN_ENDED = """
not exists (
    select 1 from core_warehouse.etl_runs as r where r.id = t.run_id and r.status in ('QUEUED', 'IN_PROGRESS')
)
"""
_RUNS = "core_warehouse.etl_runs"


def entities(staging_tables: Iterable[str]) -> Mapping[str, Entity]:
    """Every entity type that a policy may name. `staging_tables`: those of the registered sources, without schema."""
    found = [
        Entity(
            "activity_log",
            (Table("public.activity_log", "created_at"),),
            archive=Table("public.archived_activity_log", "created_at"),
        ),
        Entity(
            "notification_queue",
            (Table("public.notification_queue", "coalesce(t.finished_at, t.processed_at, t.created_at)", _NOTIFIED),),
        ),
        Entity(
            "sync_outbox",
            # As text: an outbox of the old worker does not know every state.
            (
                Table(
                    "public.sync_outbox",
                    "updated_at",
                    "t.status::text in ('COMPLETED', 'DEAD_LETTER', 'SUPERSEDED')",
                ),
            ),
            home="calendar_db",
        ),
        # A job or a log that says for a week that it runs was left behind by a worker that died.
        Entity(
            "sync_jobs",
            (
                Table(
                    "public.sync_jobs",
                    "started_at",
                    "(t.status <> 'running' or t.started_at < now() - interval '7 days')",
                ),
            ),
            home="apps_db",
        ),
        Entity(
            "metric_sync_logs",
            (
                Table(
                    "public.metric_sync_logs",
                    "start_time",
                    "(t.status <> 'in_progress' or t.start_time < now() - interval '7 days')",
                ),
            ),
        ),
        Entity(
            "run_slices",
            (
                Table(
                    "penstock.slices",
                    "updated_at",
                    _RUN_ENDED,
                    needs=(_RUNS,),
                    children=(Child("penstock.slice_keys", ("run_id", "slice_no")),),
                ),
            ),
            home="warehouse",
        ),
        Entity(
            "staging",
            tuple(
                Table(f"staging_ingest.{name}", "ingested_at", _STAGED, needs=(_RUNS, "penstock.slices"))
                for name in dict.fromkeys(staging_tables)
            ),
            home="warehouse",
        ),
        Entity(
            "rejected_records",
            (Table("staging_ingest.rejected_records", "last_seen_at", _RUN_ENDED, needs=(_RUNS,)),),
            home="warehouse",
        ),
    ]
    return MappingProxyType({entity.name: entity for entity in found})


@dataclass(frozen=True, slots=True)
class Policy:
    """How long the rows of an entity type are kept: in the live table, and, counted from the same instant, at all."""

    entity_type: str
    active_days: int
    archive_days: int

    def check(self) -> None:
        """Raises RETENTION_POLICY_INVALID for a policy that would delete what is new, or archive what it deletes."""
        if not 1 <= self.active_days <= MAX_DAYS:
            raise self._invalid(f"active_retention_days is {self.active_days}: 1 to {MAX_DAYS} are allowed")
        if not self.active_days <= self.archive_days <= MAX_DAYS:
            raise self._invalid(
                f"archive_retention_days is {self.archive_days}: "
                f"active_retention_days ({self.active_days}) to {MAX_DAYS} are allowed"
            )

    def _invalid(self, message: str) -> Exception:
        return error("RETENTION_POLICY_INVALID", f"{self.entity_type}: {message}", service="retention")


@dataclass(frozen=True, slots=True)
class CutOffs:
    """Live rows of before `archive_before` leave the live table; archived ones of before `purge_before` are deleted."""

    archive_before: dt.datetime
    purge_before: dt.datetime


@dataclass(frozen=True, slots=True)
class Step:
    """One table to be worked: its rows of before `before` go into `archive`, or nowhere."""

    table: Table
    before: dt.datetime
    archive: Table | None


def cut_offs(policy: Policy, now: dt.datetime) -> CutOffs:
    """The policy's instants, counted back from `now` (aware). Raises RETENTION_POLICY_INVALID."""
    policy.check()
    return CutOffs(now - dt.timedelta(days=policy.active_days), now - dt.timedelta(days=policy.archive_days))


def steps(entity: Entity, instants: CutOffs) -> Sequence[Step]:
    """What to do, in this order: a row that is older than both times is archived, then deleted from the archive."""
    live = [Step(table, instants.archive_before, entity.archive) for table in entity.tables]
    return live if entity.archive is None else [*live, Step(entity.archive, instants.purge_before, None)]


def next_size(size: int, seconds: float, *, smallest: int, largest: int, aim: float = AIM_SECONDS) -> int:
    """The size of the next batch, after one of `size` took so long: towards the aim, at most twice as large."""
    wanted = size * min(LARGEST_STEP, aim / max(seconds, 1e-6))
    return max(smallest, min(largest, math.floor(wanted)))


def pause(seconds: float) -> float:
    """Seconds to leave the database to others after a batch that took so long."""
    return max(SHORTEST_PAUSE, min(LONGEST_PAUSE, seconds * PAUSE_SHARE))
