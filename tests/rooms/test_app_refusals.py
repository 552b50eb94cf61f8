"""Whose a refusal is: decided by what happened to the others meanwhile."""

from __future__ import annotations

from penstock.jobs.app_sync.refusals import REFUSALS_OF_AN_ITEM, WRONG_CALLS_IN_A_ROW, Refusals


def test_a_storm_that_hits_everybody_is_nobodys_fault() -> None:
    refusals = Refusals()
    refusals.answered()
    assert not any(refusals.is_own_limit(appid) for _ in range(100) for appid in (1, 2, 3))


def test_a_limit_that_one_item_alone_meets_is_its_own_in_the_end() -> None:
    refusals = Refusals()
    verdicts = []
    for _ in range(REFUSALS_OF_AN_ITEM):
        verdicts.append(refusals.is_own_limit(1))
        refusals.answered()
    assert verdicts == [False] * (REFUSALS_OF_AN_ITEM - 1) + [True]


def test_a_wrong_call_is_the_items_own_when_others_are_answered_in_between() -> None:
    refusals = Refusals()
    assert not refusals.is_own_wrong_call(1)
    assert not refusals.is_every_call_wrong(1)
    refusals.answered()
    assert refusals.is_own_wrong_call(1)


def test_calls_are_wrong_when_several_items_in_a_row_are_refused_or_the_only_one_again() -> None:
    several, single = Refusals(), Refusals()
    assert [several.is_every_call_wrong(appid) for appid in range(WRONG_CALLS_IN_A_ROW)] == [False, False, True]
    assert [single.is_every_call_wrong(1), single.is_every_call_wrong(1)] == [False, True]


def test_wrong_calls_with_answers_in_between_are_not_in_a_row() -> None:
    refusals = Refusals()
    for appid in range(10):
        assert not refusals.is_every_call_wrong(appid)
        refusals.answered()
