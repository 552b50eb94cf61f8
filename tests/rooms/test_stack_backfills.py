"""`make backfill`: what it says of the days that Airflow leaves out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from stack import backfills
from stack.local import LocalStack

FIRST, LAST = dt.date(2026, 11, 28), dt.date(2026, 11, 29)


@dataclass
class Api:
    """Airflow, with a backfill whose runs are of these days and in these states."""

    states: dict[str, str]

    def dags(self) -> list[dict[str, Any]]:
        return [{"dag_id": "platform_etl__klaviyo"}]

    def unpause(self, dag_id: str) -> None: ...

    def close(self) -> None: ...

    def create_backfill(self, *arguments: Any) -> int:
        return 1

    def dag_runs(self, *arguments: Any, **more: Any) -> list[dict[str, Any]]:
        return [{"logical_date": f"{day}T02:15:00Z", "state": state} for day, state in self.states.items()]


@dataclass
class Stack:
    """The parts of a running stack that a backfill uses."""

    served: Api
    said: list[str] = field(default_factory=list)
    url: str = "http://127.0.0.1:8080"

    def api(self) -> Api:
        return self.served

    def say(self, line: str) -> None:
        self.said.append(line)


@contextmanager
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails instead of waiting for what never comes."""

    def refuse(seconds: float) -> None:
        pytest.fail("it waits for a run that Airflow has not made")

    with monkeypatch.context() as patched:
        patched.setattr(backfills.time, "sleep", refuse)
        yield


def backfill(states: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """The exit status of a backfill of both days, and its last line."""
    stack = Stack(Api(states))
    with impatient(monkeypatch):
        status = backfills.run(cast("LocalStack", stack), "klaviyo", FIRST, LAST)
    return status, stack.said


def test_all_days_done_is_success(monkeypatch: pytest.MonkeyPatch) -> None:
    status, said = backfill({"2026-11-28": "success", "2026-11-29": "success"}, monkeypatch)
    assert (status, said[-1]) == (0, "platform_etl__klaviyo: 2 success")


def test_days_that_airflow_left_out_are_named_and_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler's own run of the day is at work, or the day is not over: Airflow makes no run and says nothing."""
    status, said = backfill({"2026-11-28": "success"}, monkeypatch)
    assert status == 1
    assert "2026-11-29" in said[-1]
    assert "2026-11-28" not in said[-1]


def test_a_backfill_of_no_day_at_all_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    status, said = backfill({}, monkeypatch)
    assert status == 1
    assert "2026-11-28, 2026-11-29" in said[-1]


def test_runs_of_other_days_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody clears a run of an earlier backfill meanwhile."""
    states = {"2026-10-01": "failed", "2026-11-28": "success", "2026-11-29": "success"}
    assert backfill(states, monkeypatch)[0] == 0
