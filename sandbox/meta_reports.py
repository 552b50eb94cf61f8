"""Insights report jobs: made by a POST, polled until they are ready, read page by page.

https://developers.facebook.com/docs/marketing-api/insights/best-practices#asynchronous
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from sandbox.faults import Rule
from sandbox.meta_insights import InsightsRow
from sandbox.meta_query import InsightsQuery
from sandbox.shops import VendorAccount, digest
from sandbox.state import State

FAILED, SKIPPED, COMPLETED, RUNNING, NOT_STARTED = (
    "Job Failed",
    "Job Skipped",
    "Job Completed",
    "Job Running",
    "Job Not Started",
)

_lock = threading.Lock()


@dataclass(slots=True)
class ReportRun:
    """One report job.

    fate: the status it ends with; RUNNING means that it never ends. polls: how many have found it at work so far,
    of `polls_needed`. rows: its result, fixed when the job was made.
    """

    run_id: str
    account: VendorAccount
    rows: list[InsightsRow]
    query: InsightsQuery
    made_at: int
    polls_needed: int
    fate: str = COMPLETED
    error: dict[str, Any] = field(default_factory=dict)
    polls: int = 0

    @property
    def is_over(self) -> bool:
        return self.fate != RUNNING and self.polls > self.polls_needed

    @property
    def is_readable(self) -> bool:
        return self.is_over and self.fate == COMPLETED

    def poll(self) -> dict[str, Any]:
        """The job's own fields, as of one more poll."""
        with _lock:
            self.polls += 1
        status, percent = self._progress()
        state: dict[str, Any] = {
            "id": self.run_id,
            "account_id": self.account.account_id,
            "time_ref": self.made_at,
            "async_status": status,
            "async_percent_completion": percent,
            "is_running": not self.is_over,
        }
        if self.is_over:
            state["time_completed"] = self.made_at + self.polls
        return {**state, **self.error} if status in (FAILED, SKIPPED) else state

    def _progress(self) -> tuple[str, int]:
        if self.is_over:
            return self.fate, 100 if self.fate == COMPLETED else 40
        if self.polls <= 1 and self.polls_needed > 1:
            return NOT_STARTED, 0
        return RUNNING, min(95, 100 * self.polls // (self.polls_needed + 1))


def failure_fields(rule: Rule) -> dict[str, Any]:
    """What a failed job says of itself since v25.0; the rule's params may say otherwise."""
    told = {
        "error_code": -2,
        "error_subcode": 2490547,
        "error_message": "Report run failed",
        "error_user_title": "Report could not be created",
        "error_user_msg": "Something went wrong while this report was made. Please create it again.",
    }
    return {**told, **{name: value for name, value in rule.params.items() if name in told}}


class Reports:
    """All jobs of one sandbox, until a reset."""

    def __init__(self, state: State) -> None:
        self._state = state

    def add(
        self,
        account: VendorAccount,
        rows: list[InsightsRow],
        query: InsightsQuery,
        polls_needed: int,
        fault: Rule | None,
    ) -> ReportRun:
        """A new job. A `report_fails` or `report_hangs` fault decides its fate."""
        with _lock:
            runs = self._runs()
            number = len(runs)
            run_id = str(10**15 + digest(self._state.seed, "report", account.account_id, number) % 10**14)
            made_at = int(self._state.clock.now().timestamp())
            run = ReportRun(run_id, account, rows, query, made_at, polls_needed)
            if fault is not None and fault.action == "report_hangs":
                run.fate = RUNNING
            elif fault is not None:
                run.fate = str(fault.params.get("status", FAILED))
                run.error = failure_fields(fault)
            runs[run_id] = run
        return run

    def get(self, run_id: str) -> ReportRun | None:
        return self._runs().get(run_id)

    def _runs(self) -> dict[str, ReportRun]:
        runs: dict[str, ReportRun] = self._state.remembered("meta_reports")
        return runs
