"""Faults on demand: rules that say which calls go wrong, and how.

A rule is a JSON object:

    vendor        meta, ga4, klaviyo, google_ads, slack, google, nivoda, steam; "*" for all
    path          regular expression, searched in the path (default: every path)
    method        GET, POST (default: any)
    account       the vendor's account id (default: any)
    action        one of TRANSPORT_ACTIONS, PAGE_ACTIONS, RECORD_ACTIONS or VENDOR_ACTIONS
    times         how many calls it hits (default: no end); counted over all accounts
    times_each    how many calls of every account it hits
    after         leaves that many matching calls alone first
    every         hits every n-th matching call
    probability   hits this share of the matching calls, drawn from the seed
    params        what the action needs: {"status": 503, "retry_after": 2, "seconds": 30, ...}

A record action never touches a vendor's good records: it adds a copy that is spoiled, so that totals stay true
(the exception is `new_field`, which harms nobody).
"""

from __future__ import annotations

import copy
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRANSPORT_ACTIONS = frozenset(
    {
        "status",  # params: status, retry_after (absent: no such header); the vendor's own error body
        "timeout",  # params: seconds (600): nothing comes, then the connection closes
        "drop",  # the connection closes without an answer
        "truncate",  # params: wrong_length (false): half the body, with its own length or the whole one's
        "html",  # params: status (200): a proxy's page instead of JSON
        "expired_token",  # the vendor's answer to a token that is over
        "too_much_data",  # Meta: "reduce the amount of data"; params: above_limit, above_days
        "slow",  # params: seconds: a late but right answer
    }
)
PAGE_ACTIONS = frozenset(
    {
        "repeat_cursor",  # the next page's token is this page's, for ever
        "duplicate_page",  # the same page once more, then on
    }
)
RECORD_ACTIONS = frozenset({"new_field", "wrong_type", "nul_character", "missing_id", "lone_surrogate"})
VENDOR_ACTIONS = frozenset(
    {
        "report_fails",  # Meta, on the POST that makes a report job; params: status (Job Failed), the error_ fields
        "report_hangs",  # Meta, likewise: the job never ends
        "metadata",  # GA4: params are set in the answer's `metadata`
        "stored_then_drop",  # Slack: the message is there, but its sender gets no answer
        "stored_then_status",  # Slack: the message is there, but its sender is told a failure; params: status (500)
    }
)
ACTIONS = TRANSPORT_ACTIONS | PAGE_ACTIONS | RECORD_ACTIONS | VENDOR_ACTIONS


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault. See the module's text for the fields."""

    action: str
    vendor: str = "*"
    path: str = ""
    method: str | None = None
    account: str | None = None
    times: int | None = None
    times_each: int | None = None
    after: int = 0
    every: int | None = None
    probability: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Rule:
        """A rule from its JSON object. Raises ValueError for unknown keys or actions."""
        unknown = set(value) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown keys in a fault rule: {', '.join(sorted(unknown))}")
        rule = cls(**value)
        if rule.action not in ACTIONS:
            raise ValueError(f"unknown action {rule.action!r}; one of {', '.join(sorted(ACTIONS))}")
        re.compile(rule.path)
        return rule

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def matches(self, vendor: str, method: str, path: str, account: str) -> bool:
        return (
            self.vendor in ("*", vendor)
            and self.method in (None, method)
            and self.account in (None, account)
            and re.search(self.path, path) is not None
        )


DEMO: tuple[Mapping[str, Any], ...] = (
    # One of each passing trouble, which a good client gets over within its run.
    {"vendor": "klaviyo", "path": "/api/flows$", "action": "status", "times": 1, "params": {"status": 503}},
    {
        "vendor": "klaviyo",
        "path": "/api/campaigns$",
        "action": "status",
        "times": 1,
        "params": {"status": 429, "retry_after": 2},
    },
    {"vendor": "klaviyo", "path": "/api/metrics$", "action": "truncate", "times": 1},
    {"vendor": "meta", "path": "/adsets$", "action": "status", "times": 1, "params": {"status": 500}},
    {"vendor": "ga4", "path": ":(run|batchRun)Reports?$", "action": "status", "times": 1, "params": {"status": 503}},
    {"vendor": "nivoda", "action": "status", "after": 30, "times": 1, "params": {"status": 503}},
    {"vendor": "nivoda", "action": "expired_token", "after": 60, "times": 1},
    {
        "vendor": "nivoda",
        "action": "status",
        "after": 90,
        "times": 1,
        "params": {"status": 200, "message": "operation timed out"},
    },
    {"vendor": "google_ads", "path": ":searchStream$", "action": "status", "times": 1, "params": {"status": 503}},
    # Records that cannot be read: extra ones, in listings that a run reads once and whole.
    {"vendor": "klaviyo", "path": "/api/lists$", "action": "missing_id"},
    {"vendor": "klaviyo", "path": "/api/segments$", "action": "nul_character"},
    {"vendor": "meta", "path": "/campaigns$", "action": "missing_id"},
    {"vendor": "meta", "path": "/ads$", "action": "nul_character"},
    {"vendor": "klaviyo", "path": "/api/lists$", "action": "new_field"},
)
"""What `python -m sandbox` does unless told otherwise (`--faults none`)."""


def load(text: str) -> tuple[Rule, ...]:
    """Rules from "demo", "none", a JSON list, or the path of a file with one. Raises ValueError or OSError."""
    if text == "none":
        return ()
    if text == "demo":
        return parse(DEMO)
    content = text if text.lstrip().startswith("[") else Path(text).read_text(encoding="utf-8")
    return parse(json.loads(content))


def parse(values: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """Rules from decoded JSON. Raises ValueError."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError("fault rules are a JSON list")
    return tuple(Rule.from_json(value) for value in values)


class Faults:
    """The rules in force and how often each has matched. Thread-safe."""

    def __init__(self, rules: Sequence[Rule] = (), seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._seed = seed
        self._first = tuple(rules)
        self.set(rules)

    def set(self, rules: Sequence[Rule]) -> None:
        """Replace the rules; all counts start again."""
        with self._lock:
            self._rules = tuple(rules)
            self._seen: Counter[int] = Counter()
            self._hits: Counter[int] = Counter()
            self._hits_each: Counter[tuple[int, str]] = Counter()
            self._rng = random.Random(f"faults:{self._seed}")

    def reset(self) -> None:
        """Back to the rules of the start."""
        self.set(self._first)

    def pick(self, vendor: str, method: str, path: str, account: str) -> tuple[Rule, ...]:
        """The rules that hit this call; the counts move on."""
        with self._lock:
            return tuple(
                rule
                for number, rule in enumerate(self._rules)
                if rule.matches(vendor, method, path, account) and self._is_due(number, rule, account)
            )

    def _is_due(self, number: int, rule: Rule, account: str) -> bool:
        self._seen[number] += 1
        seen = self._seen[number] - rule.after
        if seen <= 0:
            return False
        if rule.times is not None and self._hits[number] >= rule.times:
            return False
        if rule.times_each is not None and self._hits_each[(number, account)] >= rule.times_each:
            return False
        if rule.every is not None and seen % rule.every:
            return False
        if rule.probability is not None and self._rng.random() >= rule.probability:
            return False
        self._hits[number] += 1
        self._hits_each[(number, account)] += 1
        return True

    def report(self) -> list[dict[str, Any]]:
        """The rules with the number of calls that each has hit."""
        with self._lock:
            return [{**rule.to_json(), "hits": self._hits[number]} for number, rule in enumerate(self._rules)]


@dataclass(frozen=True, slots=True)
class RecordShape:
    """Where a vendor's record keeps what a fault spoils; each a path of keys.

    identity: key that is altered so that the extra record is one of its own, and removed by `missing_id`.
    text: a free text. typed: a value that must be a number or a time stamp.
    """

    identity: tuple[str, ...]
    text: tuple[str, ...]
    typed: tuple[str, ...]


def spoil(records: list[dict[str, Any]], rules: Sequence[Rule], shape: RecordShape) -> list[dict[str, Any]]:
    """`records` as the record rules among `rules` would have them sent: new fields inside, malformed copies behind.

    Call it on the first page of a listing only: a rule stands for one extra record.
    """
    result = records
    for number, rule in enumerate(rules):
        if rule.action not in RECORD_ACTIONS or not records:
            continue
        if rule.action == "new_field":
            result = [{**record, "sandbox_new_field": {"since": "today"}} for record in result]
        else:
            result = [*result, _malformed(records[0], rule, shape, number)]
    return result


def _malformed(sample: Mapping[str, Any], rule: Rule, shape: RecordShape, number: int) -> dict[str, Any]:
    record: dict[str, Any] = copy.deepcopy(dict(sample))
    _put(record, shape.identity, f"99{number}{_get(record, shape.identity)}")
    match rule.action:
        case "missing_id":
            _remove(record, shape.identity)
        case "wrong_type":
            _put(record, shape.typed, rule.params.get("value", {"unexpected": "object"}))
        case "nul_character":
            _put(record, shape.text, f"before\x00after {_get(record, shape.text)}")
        case "lone_surrogate":
            _put(record, shape.text, f"before\ud800after {_get(record, shape.text)}")
    return record


def _get(record: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = record
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _put(record: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        record = record.setdefault(key, {})
    record[path[-1]] = value


def _remove(record: dict[str, Any], path: Sequence[str]) -> None:
    for key in path[:-1]:
        record = record.setdefault(key, {})
    record.pop(path[-1], None)
