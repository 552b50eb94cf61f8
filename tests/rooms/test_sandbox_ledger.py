"""The sandbox's rate limits and counts."""

from __future__ import annotations

import pytest

from sandbox.ledger import Ledger, Window

BURST, STEADY = Window(3, 1.0, "burst"), Window(5, 60.0, "steady")


def take(ledger: Ledger, *times: float, cost: int = 1) -> list[bool]:
    return [ledger.take("v", "a", "f", (BURST, STEADY), now, cost).is_granted for now in times]


def test_a_hard_window_grants_no_more_than_its_count() -> None:
    assert take(Ledger(), 0, 0.1, 0.2, 0.3) == [True, True, True, False]


def test_a_window_slides() -> None:
    assert take(Ledger(), 0, 0.5, 0.6, 0.9, 0.96, 1.0) == [True, True, True, False, True, False]


def test_the_longest_wait_of_all_windows_is_told() -> None:
    ledger = Ledger()
    take(ledger, 0, 1, 2, 3, 4)
    decision = ledger.take("v", "a", "f", (BURST, STEADY), 5.0)
    assert not decision.is_granted
    assert decision.window == STEADY
    assert decision.retry_after == pytest.approx(52.0)


def test_what_is_left_is_told_of_the_steady_window() -> None:
    decision = Ledger().take("v", "a", "f", (BURST, STEADY), 0.0)
    assert (decision.window, decision.remaining) == (STEADY, 4)
    assert decision.reset == pytest.approx(57.0)


def test_a_cost_takes_several_units() -> None:
    assert take(Ledger(), 0, 0.1, cost=2) == [True, False]


def test_a_cost_above_the_limit_is_never_granted() -> None:
    decision = Ledger().take("v", "a", "f", (BURST,), 0.0, cost=4)
    assert (decision.is_granted, decision.retry_after > 0) == (False, True)


def test_accounts_and_families_have_windows_of_their_own() -> None:
    ledger = Ledger()
    one = (Window(1, 1.0),)
    assert ledger.take("v", "a", "f", one, 0).is_granted
    assert ledger.take("v", "b", "f", one, 0).is_granted
    assert ledger.take("v", "a", "g", one, 0).is_granted
    assert not ledger.take("v", "a", "f", one, 0).is_granted


def test_calls_that_are_a_hair_too_close_are_not_held_against_the_client() -> None:
    assert take(Ledger(), 0, 0.3, 0.6, 0.96) == [True, True, True, True]


def test_the_report_tells_the_fullest_window_refused_calls_included() -> None:
    ledger = Ledger()
    take(ledger, 0, 0.1, 0.2, 0.3, 0.4)
    burst = ledger.calls()["limits"][0]
    assert burst == burst | {"limit": 3, "most_in_window": 5, "most_granted": 3, "rejected": 2, "is_exceeded": True}


def test_answers_are_counted_until_a_reset() -> None:
    ledger = Ledger()
    ledger.record("meta", "1", "insights", 200)
    ledger.record("meta", "1", "insights", 200)
    assert ledger.calls()["answers"] == [
        {"vendor": "meta", "account": "1", "endpoint": "insights", "status": 200, "count": 2}
    ]
    assert ledger.calls()["total"] == 2
    ledger.reset()
    assert ledger.calls() == {"answers": [], "limits": [], "total": 0}


def test_used_units_age() -> None:
    ledger = Ledger()
    take(ledger, 0, 0.1)
    assert ledger.used("v", "a", "f", 60.0, 1.0) == 2
    assert ledger.used("v", "a", "f", 60.0, 57.05) == 1
    assert ledger.used("v", "b", "f", 60.0, 1.0) == 0
