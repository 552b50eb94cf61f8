"""GAQL: what a query asks, checked as the vendor checks it.

https://developers.google.com/google-ads/api/docs/query/grammar
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.google_ads_errors import bad_query

RESOURCES = ("customer", "campaign", "ad_group", "ad_group_ad", "customer_client")
"""A resource may be asked for itself and for those above it."""

ABOVE: Mapping[str, tuple[str, ...]] = {
    "customer": ("customer",),
    "campaign": ("customer", "campaign"),
    "ad_group": ("customer", "campaign", "ad_group"),
    "ad_group_ad": ("customer", "campaign", "ad_group", "ad_group_ad"),
    "customer_client": ("customer", "customer_client"),
}

# field -> JSON type of its values: int64 comes as text
FIELDS: Mapping[str, str] = {
    "customer.id": "int64",
    "customer.descriptive_name": "string",
    "customer.currency_code": "string",
    "customer.time_zone": "string",
    "customer.manager": "bool",
    "customer.status": "enum",
    "campaign.id": "int64",
    "campaign.name": "string",
    "ad_group.id": "int64",
    "ad_group.name": "string",
    "ad_group_ad.ad.id": "int64",
    "ad_group_ad.ad.name": "string",
    "ad_group_ad.status": "enum",
    "customer_client.id": "int64",
    "customer_client.manager": "bool",
    "customer_client.level": "int64",
    "customer_client.descriptive_name": "string",
    "customer_client.status": "enum",
    "segments.date": "string",
    "metrics.impressions": "int64",
    "metrics.clicks": "int64",
    "metrics.cost_micros": "int64",
    "metrics.conversions": "double",
    "metrics.conversions_value": "double",
}

_QUERY = re.compile(
    r"\s*SELECT\s+(?P<fields>.+?)\s+FROM\s+(?P<resource>\w+)(?:\s+WHERE\s+(?P<where>.+?))?"
    r"(?:\s+ORDER\s+BY\s+(?P<order>.+?))?(?:\s+LIMIT\s+(?P<limit>\d+))?(?:\s+PARAMETERS\s+.+?)?\s*",
    re.IGNORECASE | re.DOTALL,
)
_AND = re.compile(r"\s+AND\s+(?=[\w.]+\s*(?:=|!=|<|>|\bIN\b|\bNOT\b|\bBETWEEN\b|\bDURING\b|\bLIKE\b))", re.IGNORECASE)
_BETWEEN = re.compile(r"(?P<field>[\w.]+)\s+BETWEEN\s+'?(?P<low>[^']+?)'?\s+AND\s+'?(?P<high>[^']+?)'?", re.IGNORECASE)
_LISTED = re.compile(r"(?P<field>[\w.]+)\s+(?P<operator>IN|NOT\s+IN)\s*\((?P<values>[^)]*)\)", re.IGNORECASE)
_COMPARED = re.compile(r"(?P<field>[\w.]+)\s*(?P<operator>=|!=|<=|>=|<|>)\s*'?(?P<value>[^']*?)'?")

Test = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Query:
    """A checked query. first, last: its days, None where it has no date condition."""

    fields: tuple[str, ...]
    resource: str
    tests: tuple[tuple[str, Test], ...]
    first: dt.date | None
    last: dt.date | None
    limit: int | None

    @property
    def has_metrics(self) -> bool:
        return any(name.startswith("metrics.") for name in self.fields)

    @property
    def is_by_day(self) -> bool:
        return "segments.date" in self.fields


def read_query(text: Any) -> Query:
    """Raises AdsError."""
    match = _QUERY.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise bad_query("UNEXPECTED_INPUT", "Error in query: unexpected input.")
    resource = match["resource"].lower()
    if resource not in RESOURCES:
        raise bad_query("BAD_RESOURCE_TYPE_IN_FROM_CLAUSE", f"Error in query: resource '{resource}' is not recognized.")
    fields = tuple(name.strip() for name in match["fields"].split(","))
    for name in fields:
        _check_field(name, resource)
    tests, days = _conditions(match["where"] or "", resource)
    first, last = days.get("first"), days.get("last")
    if "segments.date" in fields and (first is None or last is None):
        raise bad_query(
            "INVALID_DATE_RANGE_FOR_FILTER" if days else "MISALIGNED_DATE_FOR_FILTER",
            "Error in query: a finite date range must be given when segments.date is selected.",
        )
    return Query(fields, resource, tuple(tests), first, last, int(match["limit"]) if match["limit"] else None)


def _check_field(name: str, resource: str) -> None:
    if name not in FIELDS:
        raise bad_query("UNRECOGNIZED_FIELD", f"Error in query: unrecognized field '{name}'.")
    owner = name.partition(".")[0]
    if owner not in (*ABOVE[resource], "segments", "metrics"):
        raise bad_query(
            "PROHIBITED_RESOURCE_TYPE_IN_SELECT_CLAUSE",
            f"The following field must not be present in SELECT clause for resource {resource}: '{name}'.",
        )
    if resource == "customer_client" and owner in ("segments", "metrics"):
        raise bad_query("PROHIBITED_METRIC_IN_SELECT_OR_WHERE_CLAUSE", f"{resource} has no field '{name}'.")


def _conditions(where: str, resource: str) -> tuple[list[tuple[str, Test]], dict[str, dt.date]]:
    tests: list[tuple[str, Test]] = []
    days: dict[str, dt.date] = {}
    for text in _AND.split(where.strip()) if where.strip() else []:
        field, test, bounds = _condition(text.strip())
        _check_field(field, resource)
        tests.append((field, test))
        if field == "segments.date":
            days |= bounds
    return tests, days


def _condition(text: str) -> tuple[str, Test, dict[str, dt.date]]:
    if match := _BETWEEN.fullmatch(text):
        low, high = match["low"], match["high"]
        bounds = _days(match["field"], low, high)
        return match["field"], lambda value: low <= str(value) <= high, bounds
    if match := _LISTED.fullmatch(text):
        values = {item.strip().strip("'\"") for item in match["values"].split(",")}
        is_in = match["operator"].upper() == "IN"
        return match["field"], lambda value: (str(value) in values) == is_in, {}
    if match := _COMPARED.fullmatch(text):
        return _comparison(match["field"], match["operator"], match["value"].strip())
    raise bad_query("BAD_OPERATOR", f"Error in WHERE clause: invalid condition '{text}'.")


def _comparison(field: str, operator: str, value: str) -> tuple[str, Test, dict[str, dt.date]]:
    def ordered(item: Any) -> Any:
        return item if FIELDS.get(field) == "string" else float(item)

    compared = value if FIELDS.get(field) in ("string", "enum", "bool") else float(value)
    tests: Mapping[str, Test] = {
        "=": lambda item: str(item).lower() == value.lower(),
        "!=": lambda item: str(item).lower() != value.lower(),
        "<": lambda item: ordered(item) < compared,
        "<=": lambda item: ordered(item) <= compared,
        ">": lambda item: ordered(item) > compared,
        ">=": lambda item: ordered(item) >= compared,
    }
    bounds: dict[str, dt.date] = {}
    if field == "segments.date":
        day = _day(value)
        bounds = {"=": {"first": day, "last": day}, ">=": {"first": day}, "<=": {"last": day}}.get(operator, {})
    return field, tests[operator], bounds


def _days(field: str, low: str, high: str) -> dict[str, dt.date]:
    return {"first": _day(low), "last": _day(high)} if field == "segments.date" else {}


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise bad_query("INVALID_VALUE_WITH_BETWEEN_OPERATOR", f"Invalid date '{text}' in WHERE clause.") from None
