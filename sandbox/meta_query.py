"""What an insights call asks for: its parameters read and refused as the vendor does.

https://developers.facebook.com/docs/marketing-api/insights/parameters
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox import meta_errors as errors
from sandbox.meta_fields import (
    ACTION_BREAKDOWNS,
    ATTRIBUTION_WINDOWS,
    BREAKDOWNS,
    DATE_PRESETS,
    INSIGHTS_FIELDS,
)

LEVELS = ("ad", "adset", "campaign", "account")

RETENTION_MONTHS = 37
"""https://developers.facebook.com/docs/marketing-api/insights : insights go back 37 months."""

DEFAULT_FIELDS = ("impressions", "spend")
"""What Graph answers, beside the object's id and the dates, when no fields are named."""

_NUMBER_OPERATORS = (
    "EQUAL",
    "NOT_EQUAL",
    "GREATER_THAN",
    "GREATER_THAN_OR_EQUAL",
    "LESS_THAN",
    "LESS_THAN_OR_EQUAL",
    "IN_RANGE",
    "NOT_IN_RANGE",
)
OPERATORS = (
    *_NUMBER_OPERATORS,
    "CONTAIN",
    "NOT_CONTAIN",
    "IN",
    "NOT_IN",
    "STARTS_WITH",
    "ENDS_WITH",
    "ANY",
    "ALL",
    "AFTER",
    "BEFORE",
    "ON_OR_AFTER",
    "ON_OR_BEFORE",
    "NONE",
    "TOP",
)

# Breakdowns that may stand together: https://developers.facebook.com/docs/marketing-api/insights/breakdowns
_COMBINABLE: tuple[frozenset[str], ...] = (
    frozenset({"age", "gender"}),
    frozenset({"country", "region"}),
    frozenset({"publisher_platform", "platform_position", "device_platform", "impression_device"}),
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of `filtering`."""

    field: str
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class DateSpan:
    """Days from `since` to `until`, both inclusive, that make one row."""

    since: dt.date
    until: dt.date

    @property
    def days(self) -> int:
        return (self.until - self.since).days + 1


@dataclass(frozen=True, slots=True)
class InsightsQuery:
    """A checked insights call. `spans` has one entry per row of an object."""

    level: str
    fields: tuple[str, ...]
    spans: tuple[DateSpan, ...]
    breakdowns: tuple[str, ...]
    action_breakdowns: tuple[str, ...]
    windows: tuple[str, ...]
    filtering: tuple[Condition, ...]
    sort: tuple[str, ...]
    has_summary: bool

    @property
    def days(self) -> int:
        return sum(span.days for span in self.spans)

    @property
    def cache_key(self) -> str:
        return repr(self)


def names(value: str | None) -> tuple[str, ...]:
    """A list parameter: JSON, or names joined by commas. Raises GraphError for broken JSON."""
    if not value:
        return ()
    if value.lstrip().startswith("["):
        decoded = _decoded(value, "fields")
        return tuple(str(item) for item in decoded)
    return tuple(item.strip() for item in value.split(",") if item.strip())


def conditions(value: str | None) -> tuple[Condition, ...]:
    """The `filtering` parameter. Raises GraphError."""
    if not value:
        return ()
    entries = _decoded(value, "filtering")
    if not isinstance(entries, list):
        raise errors.invalid_parameter("param filtering must be an array.")
    return tuple(_condition(number, entry) for number, entry in enumerate(entries))


def _condition(number: int, entry: Any) -> Condition:
    if not isinstance(entry, dict) or not {"field", "operator"} <= set(entry):
        raise errors.invalid_parameter(f"param filtering[{number}] must have the keys field, operator and value.")
    operator = "CONTAIN" if entry["operator"] == "CONTAINS" else str(entry["operator"])
    if operator not in OPERATORS:
        raise errors.invalid_choice(f"filtering[{number}][operator]", OPERATORS)
    value = entry.get("value")
    if operator in ("IN", "NOT_IN") and not isinstance(value, list):
        raise errors.invalid_parameter(f"param filtering[{number}][value] must be an array.")
    if operator in _NUMBER_OPERATORS[2:] and not is_numeric(value):
        raise errors.invalid_parameter(f"param filtering[{number}][value] must be a number.")
    return Condition(str(entry["field"]), operator, value)


def is_numeric(value: Any) -> bool:
    """Whether the value, or every one of a list, is a number."""
    listed = value if isinstance(value, list) else [value]
    return bool(listed) and all(re.fullmatch(r"-?\d+(\.\d+)?", str(item)) for item in listed)


def read_query(params: Mapping[str, str], today: dt.date, forbidden: Sequence[str] = ()) -> InsightsQuery:
    """The call's meaning on the account's day `today`. Raises GraphError.

    forbidden: fields that this account's token may not read; one of them refuses the whole call.
    """
    fields = names(params.get("fields")) or DEFAULT_FIELDS
    unknown = [name for name in fields if name not in INSIGHTS_FIELDS]
    if unknown:
        raise errors.unknown_insights_fields(unknown)
    for name in fields:
        if name in forbidden:
            raise errors.field_forbidden(name)
    level = _choice(params, "level", LEVELS, "account")
    _choice(params, "action_report_time", ("conversion", "impression", "lifetime", "mixed"), "mixed")
    return InsightsQuery(
        level=level,
        fields=fields,
        spans=_spans(params, today),
        breakdowns=_breakdowns(params),
        action_breakdowns=_members(params, "action_breakdowns", ACTION_BREAKDOWNS) or ("action_type",),
        windows=_members(params, "action_attribution_windows", ATTRIBUTION_WINDOWS),
        filtering=conditions(params.get("filtering")),
        sort=_sort(params),
        has_summary=params.get("default_summary") == "true" or bool(params.get("summary")),
    )


def _breakdowns(params: Mapping[str, str]) -> tuple[str, ...]:
    asked = _members(params, "breakdowns", BREAKDOWNS)
    if len(asked) > 1 and not any(set(asked) <= group for group in _COMBINABLE):
        raise errors.breakdown_combination(asked)
    return asked


def _sort(params: Mapping[str, str]) -> tuple[str, ...]:
    asked = names(params.get("sort"))
    for item in asked:
        field, _, direction = item.rpartition("_")
        if direction not in ("ascending", "descending") or field not in INSIGHTS_FIELDS:
            raise errors.invalid_parameter(f"sort has an invalid value {item}.")
    return asked


def _choice(params: Mapping[str, str], name: str, choices: Sequence[str], default: str) -> str:
    value = params.get(name) or default
    if value not in choices:
        raise errors.invalid_choice(name, choices)
    return value


def _members(params: Mapping[str, str], name: str, choices: frozenset[str]) -> tuple[str, ...]:
    asked = names(params.get(name))
    for number, item in enumerate(asked):
        if item not in choices:
            raise errors.invalid_choice(f"{name}[{number}]", sorted(choices))
    return tuple(dict.fromkeys(asked))


def _spans(params: Mapping[str, str], today: dt.date) -> tuple[DateSpan, ...]:
    """The row windows. `time_ranges` overrules the rest, as documented."""
    if params.get("time_ranges"):
        ranges = _decoded(params["time_ranges"], "time_ranges")
        if not isinstance(ranges, list) or not ranges:
            raise errors.invalid_parameter("param time_ranges must be a non-empty array.")
        return tuple(_span(entry, "time_ranges", today) for entry in ranges)
    whole = _whole_span(params, today)
    increment = _increment(params.get("time_increment", "all_days"))
    if increment == "all_days":
        return (whole,)
    if increment == "monthly":
        return _monthly(whole)
    step = int(increment)
    return tuple(
        DateSpan(start, min(start + dt.timedelta(days=step - 1), whole.until))
        for start in (whole.since + dt.timedelta(days=offset) for offset in range(0, whole.days, step))
    )


def _increment(value: str) -> str:
    if value in ("all_days", "monthly"):
        return value
    if value.isdigit() and 1 <= int(value) <= 90:
        return value
    raise errors.invalid_parameter("time_increment must be an integer from 1 to 90, monthly or all_days.")


def _whole_span(params: Mapping[str, str], today: dt.date) -> DateSpan:
    if params.get("time_range"):
        return _span(_decoded(params["time_range"], "time_range"), "time_range", today)
    preset = _choice(params, "date_preset", sorted(DATE_PRESETS), "last_30d")
    return _preset(preset, today)


def _span(entry: Any, name: str, today: dt.date) -> DateSpan:
    if not isinstance(entry, dict):
        raise errors.invalid_parameter(f"param {name} must be an object with since and until.")
    if "since" not in entry or "until" not in entry:
        raise errors.invalid_parameter(f"param {name} must be non-empty.")
    since, until = _day(entry["since"], name, "since"), _day(entry["until"], name, "until")
    if since > until:
        raise errors.invalid_parameter("time range must have the start date (since) before the end date (until).")
    if since < oldest_day(today):
        raise errors.range_too_old()
    return DateSpan(since, until)


def _day(value: Any, name: str, key: str) -> dt.date:
    try:
        return dt.date.fromisoformat(str(value))
    except ValueError:
        raise errors.invalid_parameter(f"param {name}[{key}] must be a date of the form YYYY-MM-DD.") from None


def oldest_day(today: dt.date) -> dt.date:
    """The first day that insights still answer for, in the account's own calendar."""
    months = today.year * 12 + today.month - 1 - RETENTION_MONTHS
    year, month = divmod(months, 12)
    return dt.date(year, month + 1, min(today.day, _month_length(year, month + 1)))


def _month_length(year: int, month: int) -> int:
    following = dt.date(year + month // 12, month % 12 + 1, 1)
    return (following - dt.timedelta(days=1)).day


def _monthly(whole: DateSpan) -> tuple[DateSpan, ...]:
    spans: list[DateSpan] = []
    start = whole.since
    while start <= whole.until:
        end = start.replace(day=_month_length(start.year, start.month))
        spans.append(DateSpan(start, min(end, whole.until)))
        start = end + dt.timedelta(days=1)
    return tuple(spans)


def _preset(preset: str, today: dt.date) -> DateSpan:
    one = dt.timedelta(days=1)
    yesterday = today - one
    monday = today - dt.timedelta(days=today.weekday())
    sunday = today - dt.timedelta(days=(today.weekday() + 1) % 7)
    month = today.replace(day=1)
    quarter = today.replace(month=3 * ((today.month - 1) // 3) + 1, day=1)
    year = today.replace(month=1, day=1)
    if preset.startswith("last_") and preset.endswith("d"):
        return DateSpan(today - dt.timedelta(days=int(preset[5:-1])), yesterday)
    last_quarter = (quarter - one).replace(day=1)
    spans = {
        "today": DateSpan(today, today),
        "yesterday": DateSpan(yesterday, yesterday),
        "this_month": DateSpan(month, today),
        "last_month": DateSpan((month - one).replace(day=1), month - one),
        "this_quarter": DateSpan(quarter, today),
        "last_quarter": DateSpan(last_quarter.replace(month=last_quarter.month - 2), quarter - one),
        "this_year": DateSpan(year, today),
        "last_year": DateSpan(year.replace(year=year.year - 1), year - one),
        "this_week_mon_today": DateSpan(monday, today),
        "this_week_sun_today": DateSpan(sunday, today),
        "last_week_mon_sun": DateSpan(monday - 7 * one, monday - one),
        "last_week_sun_sat": DateSpan(sunday - 7 * one, sunday - one),
    }
    return spans.get(preset) or DateSpan(oldest_day(today), today)


def _decoded(value: str, name: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        raise errors.invalid_parameter(f"param {name} must be valid JSON.") from None
