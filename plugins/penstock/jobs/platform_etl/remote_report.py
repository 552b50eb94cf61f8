"""Reports that a vendor works out on its side, in minutes: Meta's insights over long windows."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from psycopg.types.json import Jsonb

from penstock.core.errors import TooMuchData
from penstock.jobs.platform_etl.context import SQL, HeldRun, RunContext, Stopped, require_lease
from penstock.sources.stream import Request

log = logging.getLogger(__name__)

REPORT_POLL_SECONDS = (2.0, 5.0, 10.0, 20.0, 30.0)
REPORT_TIMEOUT = dt.timedelta(minutes=60)
REPORT_STALL = dt.timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class RemoteReport:
    """One of them. Its id is kept in the database: a worker that takes the run over, or asks the same question again,
    finds the running report instead of starting another.

    client: one with `submit_report` and `poll_report`. request: the question. stop: the run ends early.
    """

    context: RunContext
    held: HeldRun
    client: Any
    stream: str
    slice_no: int
    request: Request
    stop: threading.Event
    sleep: Callable[[float], None]

    @property
    def _key(self) -> dict[str, Any]:
        question = [self.request.method, self.request.path, dict(self.request.params), self.request.body]
        return {
            "connection_id": self.held.connection_id,
            "request_hash": hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest(),
        }

    def ready(self) -> str:
        """The id of the finished report. Asks once more when it failed; then raises TooMuchData, so that it splits."""
        for _ in range(2):
            remote_id = self._running() or self._submit()
            if self._finished(remote_id):
                return remote_id
        raise TooMuchData("META_REPORT_TIMEOUT", f"{self.stream}: the vendor's report failed twice")

    def _running(self) -> str | None:
        with self.context.warehouse.connection() as conn:
            row = conn.execute(SQL["remote_job"], self._key | {"run_id": self.held.lease.row_id}).fetchone()
        return str(row[0]) if row else None

    def _submit(self) -> str:
        """Asks for the report. A worker that dies before its id is stored asks for another one when it is back: Meta
        takes no key that would make the two the same, and lists no reports. It costs a call and changes no row."""
        remote_id: str = self.client.submit_report(self.request)
        place = {"run_id": self.held.lease.row_id, "slice_no": self.slice_no}
        with self.context.warehouse.transaction() as conn:
            # A worker that lost the run must not put its own report over its successor's.
            require_lease(conn.execute(SQL["share_lease"], self.held.key).fetchone(), self.held)
            conn.execute(SQL["save_remote_job"], self._key | place | {"remote_id": remote_id})
        log.info("%s: report %s started at the vendor", self.stream, remote_id)
        return remote_id

    def _finished(self, remote_id: str) -> bool:
        """Waits for the report; False when it failed. Raises TooMuchData when it takes too long or stands still."""
        pauses = itertools.chain(REPORT_POLL_SECONDS, itertools.repeat(REPORT_POLL_SECONDS[-1]))
        while (has_succeeded := self._look(remote_id)) is None:
            self.sleep(next(pauses))
        return has_succeeded

    def _look(self, remote_id: str) -> bool | None:
        """Whether the report has succeeded; None while it is worked out."""
        if self.stop.is_set():
            raise Stopped
        status = self.client.poll_report(remote_id)
        parameters = {
            "status": status.state,
            "percent": status.percent,
            "error": Jsonb(status.error.as_json()) if status.error else None,
        }
        with self.context.warehouse.transaction() as conn:
            require_lease(conn.execute(SQL["share_lease"], self.held.key).fetchone(), self.held)
            ages = conn.execute(SQL["update_remote_job"], self._key | parameters).fetchone()
        if status.state == "COMPLETED":
            return True
        if status.state == "FAILED":
            log.warning("%s: report %s failed: %s", self.stream, remote_id, status.error)
            return False
        if ages is not None and (ages[0] > REPORT_TIMEOUT or ages[1] > REPORT_STALL):
            self._give_up(remote_id)
        return None

    def _give_up(self, remote_id: str) -> NoReturn:
        with self.context.warehouse.connection() as conn:
            conn.execute(SQL["forget_remote_job"], self._key)
        raise TooMuchData("META_REPORT_TIMEOUT", f"{self.stream}: report {remote_id} does not finish")
