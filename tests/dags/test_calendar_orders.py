"""How a run of `calendar_outbox` drains, by the way it was started, and what its params ask for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.dags
NOTHING = {"replay": None, "items": None, "workspace": None}


def orders(run_type: str) -> Any:
    from penstock.operators.calendar_outbox import orders as made

    context: Any = {"dag_run": SimpleNamespace(run_type=run_type), "params": {"late_after_minutes": 90}}
    return made(context)


def test_only_the_timetable_s_runs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALENDAR_SYNC_BATCH_SIZE", raising=False)
    assert (orders("scheduled").residence, orders("asset_triggered").residence, orders("manual").residence) == (
        55.0,
        0.0,
        0.0,
    )
    assert (orders("manual").horizon, orders("asset_triggered").horizon, orders("manual").batch) == (15.0, 0.0, 50)


def test_a_param_says_from_when_on_items_are_late() -> None:
    assert orders("scheduled").late_after == 5400.0


@pytest.mark.parametrize(("value", "batch"), [("10", 10), ("500", 50), ("0", 1), ("many", 50)])
def test_the_old_worker_s_batch_size_holds_within_bounds(
    monkeypatch: pytest.MonkeyPatch, value: str, batch: int
) -> None:
    monkeypatch.setenv("CALENDAR_SYNC_BATCH_SIZE", value)
    assert orders("scheduled").batch == batch


def test_a_replay_is_asked_for_by_reason_or_by_items() -> None:
    from penstock.jobs.calendar_outbox import Choice
    from penstock.operators.calendar_outbox import replay_choice

    assert replay_choice(NOTHING) is None
    assert replay_choice({**NOTHING, "replay": "ALL"}) == Choice()
    assert replay_choice({**NOTHING, "replay": "X", "workspace": "w"}) == Choice(reason="X", workspace_id="w")
    assert replay_choice({**NOTHING, "items": ["i"]}) == Choice(item_ids=["i"])
