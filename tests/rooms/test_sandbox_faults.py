"""Rules of faults: which calls they hit, and what they make of records."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import faults
from sandbox.faults import DEMO, Faults, RecordShape, Rule, parse, spoil

SHAPE = RecordShape(identity=("id",), text=("attributes", "name"), typed=("attributes", "created"))


def hits(rule: dict[str, Any], calls: int = 10, account: str = "a") -> list[int]:
    """The numbers of the calls that the rule hits."""
    given = Faults(parse([rule]), seed=1)
    return [number for number in range(calls) if given.pick("klaviyo", "GET", "/klaviyo/api/lists", account)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, list(range(10))),
        ({"times": 2}, [0, 1]),
        ({"after": 3, "times": 1}, [3]),
        ({"every": 4}, [3, 7]),
        ({"vendor": "meta"}, []),
        ({"method": "POST"}, []),
        ({"account": "b"}, []),
        ({"path": "/lists$", "times": 1}, [0]),
        ({"path": "^/lists"}, []),
    ],
)
def test_a_rule_hits_the_calls_it_names(rule: dict[str, Any], expected: list[int]) -> None:
    assert hits({"action": "drop", **rule}) == expected


def test_times_each_counts_every_account_by_itself() -> None:
    given = Faults(parse([{"action": "drop", "times_each": 1}]))
    picked = [bool(given.pick("ga4", "GET", "/", account)) for account in ("a", "b", "a", "b", "c")]
    assert picked == [True, True, False, False, True]


def test_a_probability_is_drawn_from_the_seed() -> None:
    rule = {"action": "drop", "probability": 0.3}
    assert hits(rule, 200) == hits(rule, 200)
    assert 30 < len(hits(rule, 200)) < 90


def test_new_rules_start_counting_again_and_a_reset_brings_the_first_ones_back() -> None:
    given = Faults(parse([{"action": "drop", "times": 1}]))
    assert given.pick("slack", "POST", "/", "")
    assert not given.pick("slack", "POST", "/", "")
    given.set(parse([{"action": "html"}]))
    assert given.report()[0]["hits"] == 0
    given.reset()
    assert [rule.action for rule in given.pick("slack", "POST", "/", "")] == ["drop"]


@pytest.mark.parametrize("rule", [{"action": "explode"}, {"action": "drop", "colour": "red"}])
def test_a_rule_that_makes_no_sense_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="unknown"):
        parse([rule])


def test_rules_are_read_from_text_or_file(tmp_path: Any) -> None:
    text = '[{"action": "status", "params": {"status": 503}}]'
    file = tmp_path / "faults.json"
    file.write_text(text)
    assert faults.load(text) == faults.load(str(file)) == (Rule("status", params={"status": 503}),)
    assert faults.load("none") == ()
    assert faults.load("demo") == parse(DEMO)


def test_spoiling_adds_a_record_of_its_own_and_leaves_the_good_ones() -> None:
    good = [{"id": "1", "attributes": {"name": "a", "created": "2026-01-01"}}]
    rules = [Rule("missing_id"), Rule("wrong_type"), Rule("nul_character"), Rule("lone_surrogate")]
    spoiled = spoil(good, rules, SHAPE)
    assert spoiled[0] == good[0]
    assert "id" not in spoiled[1]
    assert spoiled[2]["attributes"]["created"] == {"unexpected": "object"}
    assert "\x00" in spoiled[3]["attributes"]["name"]
    assert "\ud800" in spoiled[4]["attributes"]["name"]
    assert len({record.get("id") for record in spoiled}) == 5
    assert good == [{"id": "1", "attributes": {"name": "a", "created": "2026-01-01"}}]


def test_an_empty_page_is_not_spoiled() -> None:
    assert spoil([], [Rule("missing_id")], SHAPE) == []
