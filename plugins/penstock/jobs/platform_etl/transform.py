"""Staging to core, in one transaction: withdrawn rows leave, facts are replaced by whole days, the vendor's totals are
compared, the cursors move and the run is marked. On any error nothing of it has happened."""

from __future__ import annotations

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from penstock.core import windows
from penstock.core.errors import CATALOGUE, PenstockError, PermissionDenied, error
from penstock.core.windows import DayRange, Window
from penstock.jobs.accounts import load_account
from penstock.jobs.platform_etl.context import (
    SERVICE,
    SQL,
    HeldRun,
    RunContext,
    begin_stage,
    end_run,
    give_up_on_defect,
    give_up_or_retry,
    mark_account_failed,
    require_lease,
)
from penstock.jobs.platform_etl.cursors import cursors_of
from penstock.jobs.platform_etl.planning import carries_on, cursor_after
from penstock.sources.stream import Account, Kind, Slice, Source, Stream
from penstock.warehouse import failures, queries, statements

log = logging.getLogger(__name__)
TASK = "transform"

WITHDRAWN = """
delete from staging_ingest.{table} as staged
using run_windows as w
where
    staged.connection_id = %(connection_id)s and staged.report_key = %(stream)s and w.stream = %(stream)s
    {days}
    and (staged.run_id = %(run_id)s or staged.ingested_at < %(started_at)s)
    and not exists (
        select 1 from run_keys as k where k.key_hash = hashtextextended(staged.record_key, 0)
    )
    and not exists (
        select 1
        from penstock.slices as s
        where
            s.run_id = %(run_id)s and s.stream = %(stream)s and s.rows_rejected > 0
            and (
                s.window_start is null
                or staged.record_date between
                (s.window_start at time zone %(time_zone)s)::date
                and ((s.window_end - interval '1 microsecond') at time zone %(time_zone)s)::date
            )
    )
"""
"""A record that came but cannot be read was not withdrawn: where one was rejected, what is stored stays. Nor was one
that another run (the daily one beside a backfill) has stored since this run began: this one may have looked earlier."""

OF_ITS_DAYS = "and staged.record_date between w.first_day and w.last_day"


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a run has read of one stream: whole days, or the whole listing."""

    stream: Stream
    days: tuple[DayRange, ...]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Failures:
    """The slices of a run that failed for good.

    A stream that the account's key may not read stays so until a person acts. It is told once, stops no cursor but its
    own, and every run tries it again with one call.

    forbidden: the streams that this run was refused. known, not_asked: those that were refused before, all and the ones
    that this run did not try.
    """

    rows: tuple[Mapping[str, Any], ...]
    forbidden: frozenset[str]
    known: frozenset[str]
    not_asked: frozenset[str]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], account: Account) -> Failures:
        failed = tuple(row for row in rows if row["status"] == "FAILED")
        known = frozenset(account.facts.get("forbidden_streams", ()))
        return cls(
            rows=failed,
            forbidden=frozenset(row["stream"] for row in failed if _is_forbidden(row)),
            known=known,
            not_asked=known - {row["stream"] for row in rows},
        )

    @property
    def passing(self) -> list[Mapping[str, Any]]:
        """Those that a later run may read."""
        return [row for row in self.rows if row["stream"] not in self.forbidden]

    @property
    def worth_an_alert(self) -> list[Mapping[str, Any]]:
        return [row for row in self.rows if row["stream"] not in self.forbidden & self.known]

    @property
    def code(self) -> str | None:
        return self.rows[0]["error"]["code"] if self.rows else None

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """One line per forbidden stream, for the run's row."""
        errors = {row["stream"]: row["error"] for row in self.rows if row["stream"] in self.forbidden}
        return [{"stream": stream, **cause} for stream, cause in sorted(errors.items())]


def _is_forbidden(row: Mapping[str, Any]) -> bool:
    spec = CATALOGUE.get((row["error"] or {}).get("code", ""))
    return spec is not None and issubclass(spec.kind, PermissionDenied)


def transform(context: RunContext) -> dict[str, Any]:
    """Loads what the run has staged and ends it SUCCEEDED, or PARTIAL when some slices failed.

    Returns counts for the task's XCom. Any error rolls everything back; a fault of our SQL or data ends the run
    FAILED, a passing one is left to the next try.
    """
    held = begin_stage(context, is_first=False)
    try:
        with context.warehouse.transaction() as conn:
            return _Load(context, held, conn).run()
    except psycopg.Error as broken:
        cause = failures.classify(broken)
        give_up_or_retry(context, held, cause, task=TASK)
        raise cause from broken
    except PenstockError as cause:
        give_up_or_retry(context, held, cause, task=TASK)
        raise
    except Exception as defect:
        give_up_on_defect(context, held, defect, task=TASK)
        raise


class _Load:
    """The one transaction that turns a run's staging rows into warehouse rows."""

    def __init__(self, context: RunContext, held: HeldRun, conn: psycopg.Connection[Any]) -> None:
        self._context = context
        self._held = held
        self._conn = conn
        self._source = context.source
        self._account = load_account(conn, context.vault, held.connection_id).account
        self._run = {"run_id": held.lease.row_id, "connection_id": held.connection_id}

    @property
    def _read_at(self) -> dt.datetime:
        """When the run began. Not the present: what was read before midnight says nothing of the day that has ended
        since, neither that it is complete nor that an older one was read at a later age."""
        return min(self._held.started_at, self._context.now())

    @property
    def _is_whole(self) -> bool:
        """Whether the run was to read everything that was due."""
        return self._held.streams is None and self._held.window_start is None

    def run(self) -> dict[str, Any]:
        require_lease(self._conn.execute(SQL["lock_lease"], self._held.key).fetchone(), self._held)
        # A server looks for its client between statements only: a killed worker's statement would keep the run locked.
        self._conn.execute(SQL["watch_client"])
        self._conn.execute("set local lock_timeout = '10min'")
        # Two runs of one account (a backfill beside the daily one) load one after the other.
        self._conn.execute(
            "select pg_advisory_xact_lock(hashtextextended('penstock transform ' || %(connection_id)s, 0))", self._run
        )
        rows = self._conn.cursor(row_factory=dict_row).execute(SQL["slices"], self._run).fetchall()
        if self._held.is_dry_run:
            return self._end_dry_run(rows)
        covered = coverage(self._source, rows, self._account)
        failures = Failures.of(rows, self._account)
        self._create_windows(covered)
        withdrawn = self._remove_withdrawn(covered)
        self._run_transforms()
        differences = self._compare_totals()
        if not failures.passing and self._held.job_type != "BACKFILL":
            self._move_cursors([row for row in rows if row["stream"] not in failures.forbidden])
            if self._is_whole and not failures.worth_an_alert:
                self._mirror_cursor()
        self._learn_page_sizes(rows)
        self._conn.execute(SQL["forget_old_keys"], self._run)
        status = self._end(rows, failures)
        return {
            **self._run,
            "status": status,
            "rows_withdrawn": withdrawn,
            "totals_differing": differences,
            "account_findings": self._untold_findings(),
        }

    def _create_windows(self, covered: Sequence[Coverage]) -> None:
        self._conn.execute(SQL["create_run_windows"])
        parameters = [
            {
                "stream": each.stream.name,
                "first_day": days.first_day if days else None,
                "last_day": days.last_day if days else None,
                "is_complete": each.is_complete,
            }
            for each in covered
            for days in (each.days or (None,))
        ]
        self._conn.cursor().executemany(SQL["add_run_window"], parameters)
        # The planner takes a table that it knows nothing of for a thousand windows, and reads all that is staged.
        self._conn.execute("analyze run_windows")

    def _remove_withdrawn(self, covered: Sequence[Coverage]) -> int:
        """Staged rows of covered days that the vendor no longer has. Events are never withdrawn."""
        removed = 0
        for each in covered:
            if each.stream.kind is Kind.EVENT or not each.is_complete:
                continue
            if self._conn.execute(SQL["keys_are_missing"], self._run | {"stream": each.stream.name}).fetchone():
                # A later run of the account has dropped this one's keys: what is gone cannot be told any more.
                log.info("%s: rows the vendor withdrew are left to the next run", each.stream.name)
                continue
            self._conn.execute("drop table if exists run_keys")
            self._conn.execute(SQL["create_run_keys"], self._run | {"stream": each.stream.name})
            table = sql.Identifier(f"{self._source.name}_{each.stream.table}")
            days = sql.SQL(OF_ITS_DAYS if each.days else "")
            statement = sql.SQL(WITHDRAWN).format(table=table, days=days)
            place = {
                "stream": each.stream.name,
                "time_zone": self._account.time_zone,
                "started_at": self._held.started_at,
            }
            removed += self._conn.execute(statement, self._run | place).rowcount
        return removed

    def _run_transforms(self) -> None:
        parameters = self._run | {
            "shop_id": self._held.shop_id,
            "account_id": self._account.account_id,
            "time_zone": self._account.time_zone,
            "currency": self._account.currency,
            "read_at": self._read_at,
        }
        for name in self._source.transforms:
            for statement in statements.split(queries.transform("platform_etl", name)):
                self._conn.execute(statement.text, parameters)

    def _compare_totals(self) -> int:
        """Days on which reporting and the vendor's own totals disagree become findings; the load stands.

        Returns how many of them last, which is worth an alert: a day that the vendor still corrects may have changed
        between the report and the total, and counts only when it differs again.
        """
        parameters = self._run | {"today": self._account.today(self._read_at)}
        rows = self._conn.cursor(row_factory=dict_row).execute(SQL["totals_differ"], parameters).fetchall()
        for row in rows:
            scope = f"{row['metric']} {row['date']}"
            finding = {
                "run_id": self._held.lease.row_id,
                "check_code": "TOTALS_MISMATCH",
                "scope": scope,
                "severity": "WARN",
                "observed": row["reported"],
                "expected": row["vendor_total"],
                "detail": Jsonb({"difference": str(row["difference"])}),
            }
            self._conn.execute(SQL["add_finding"], finding)
            log.warning("TOTALS_MISMATCH: %s: %s, the vendor says %s", scope, row["reported"], row["vendor_total"])
        return sum(row["is_lasting"] for row in rows)

    def _untold_findings(self) -> list[dict[str, str]]:
        """Code and message of what was found of the account and not told in the last month, each once."""
        told = dict(self._conn.execute(SQL["tell_account_findings"], self._run).fetchall())
        return [{"code": code, "message": message} for message, code in sorted(told.items())]

    def _move_cursors(self, rows: Sequence[Mapping[str, Any]]) -> None:
        by_stream: dict[str, list[Slice]] = defaultdict(list)
        for row in rows:
            by_stream[row["stream"]].append(_as_slice(row))
        cursors = cursors_of(self._conn, self._source, self._account, self._held)
        for name, slices in by_stream.items():
            stream = self._source.stream(name)
            is_chosen = self._held.window_start is not None
            if is_chosen and not carries_on(stream, self._account, slices, cursors.get(name), self._read_at):
                continue
            place = {"stream": name, "cursor_at": cursor_after(stream, self._account, slices, self._read_at)}
            self._conn.execute(SQL["move_cursor"], self._run | place)

    def _mirror_cursor(self) -> None:
        last_complete = self._account.today(self._read_at) - dt.timedelta(days=1)
        parameters = {"shop_id": self._held.shop_id, "platform": self._held.platform}
        self._conn.execute(SQL["mirror_cursor"], parameters | {"cursor_value": last_complete.isoformat()})

    def _learn_page_sizes(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The account's next run starts with the page size that this one had to come down to."""
        learned: dict[str, int] = {}
        for row in rows:
            if row["page_size"] is not None:
                learned[row["stream"]] = min(row["page_size"], learned.get(row["stream"], row["page_size"]))
        if learned:
            self._conn.execute(SQL["learn_page_sizes"], self._run | {"page_sizes": Jsonb(learned)})

    def _end(self, rows: Sequence[Mapping[str, Any]], failures: Failures) -> str:
        cause = _slices_failed(failures.worth_an_alert, len(rows)) if failures.worth_an_alert else None
        status = "PARTIAL" if cause else "SUCCEEDED"
        end_run(
            self._conn,
            self._held,
            status,
            failure=cause.as_json() if cause else None,
            warnings=failures.warnings,
            api_calls=0,
        )
        if self._held.job_type != "BACKFILL":
            self._mark_account(cause, failures)
        self._conn.execute(SQL["close_parents"])
        return status

    def _mark_account(self, cause: PenstockError | None, failures: Failures) -> None:
        forbidden = sorted(failures.forbidden | failures.not_asked)
        state = "NEEDS_PERMISSION" if forbidden else None
        if cause:
            mark_account_failed(self._context.rng, self._conn, self._held.connection_id, cause.code, state)
        else:
            parameters = self._run | {
                "is_whole": self._is_whole,
                "state": state,
                "code": failures.code,
                "read_at": self._read_at,
            }
            self._conn.execute(SQL["account_succeeded"], parameters)
        self._conn.execute(SQL["remember_forbidden"], self._run | {"streams": Jsonb(forbidden)})

    def _end_dry_run(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A dry run ends with its plan in `warnings`; no staging row, fact or cursor was touched."""
        planned = [
            {
                "stream": row["stream"],
                "params": row["params"],
                "window_start": row["window_start"].isoformat() if row["window_start"] else None,
                "window_end": row["window_end"].isoformat() if row["window_end"] else None,
            }
            for row in rows
        ]
        end_run(self._conn, self._held, "SUCCEEDED", failure=None, warnings=planned, api_calls=0)
        self._conn.execute(SQL["close_parents"])
        return {**self._run, "status": "SUCCEEDED", "is_dry_run": True, "slices": len(rows)}


def coverage(source: Source, rows: Sequence[Mapping[str, Any]], account: Account) -> list[Coverage]:
    """What the finished slices cover, per stream.

    A day of a daily stream counts only when every slice that touches it is done: a day of which one variant is
    missing would lose rows. An event stream's days are those it touched; its older rows are in staging already.
    """
    by_stream: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["status"] != "SPLIT":
            by_stream[row["stream"]].append(row)
    covered: list[Coverage] = []
    for name, slices in by_stream.items():
        stream = source.stream(name)
        if stream.kind is Kind.ENTITY:
            covered.append(Coverage(stream, (), all(row["status"] == "DONE" for row in slices)))
            continue
        done, missing = _days(slices, account, "DONE"), _missing_days(slices, account)
        days = windows.merge_days(done if stream.kind is Kind.EVENT else done - missing)
        if days:
            covered.append(Coverage(stream, tuple(days), is_complete=True))
    return covered


def _days(slices: Sequence[Mapping[str, Any]], account: Account, status: str) -> set[dt.date]:
    return {
        day
        for row in slices
        if row["status"] == status
        for day in windows.days_of(Window(row["window_start"], row["window_end"]), account.zone)
    }


def _missing_days(slices: Sequence[Mapping[str, Any]], account: Account) -> set[dt.date]:
    return _days(slices, account, "FAILED") | _days(slices, account, "PENDING")


def _as_slice(row: Mapping[str, Any]) -> Slice:
    return Slice(row["slice_no"], row["stream"], row["window_start"], row["window_end"], row["params"])


def _slices_failed(failed: Sequence[Mapping[str, Any]], total: int) -> PenstockError:
    """PARTIAL's error: the first failure's own code, with how many slices it concerns."""
    first = failed[0]["error"] or {}
    streams = ", ".join(sorted({row["stream"] for row in failed}))
    cause = error(
        "SLICES_FAILED",
        f"{len(failed)} of {total} slices failed ({streams}); first: {first.get('code')}: {first.get('message')}",
        service=SERVICE,
        task=TASK,
    )
    cause.context = {"first_code": first.get("code"), "first_operator_action": first.get("operator_action")}
    return cause
