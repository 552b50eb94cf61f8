"""What a report request asks for: read and refused as the Data API does.

https://developers.google.com/analytics/devguides/reporting/data/v1/rest/v1beta/properties/runReport
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox import ga4_errors as errors
from sandbox.ga4_schema import (
    DEFAULT_LIMIT,
    MAX_DATE_RANGES,
    MAX_DIMENSIONS,
    MAX_LIMIT,
    MAX_METRICS,
    Dimension,
    Metric,
    dimension,
    is_compatible,
    metric,
)

DATE_RANGE = "dateRange"
AGGREGATIONS = ("TOTAL", "MINIMUM", "MAXIMUM", "COUNT")

REQUEST_KEYS = frozenset(
    (
        "property",
        "dimensions",
        "metrics",
        "dateRanges",
        "dimensionFilter",
        "metricFilter",
        "offset",
        "limit",
        "metricAggregations",
        "orderBys",
        "currencyCode",
        "cohortSpec",
        "keepEmptyRows",
        "returnPropertyQuota",
        "comparisons",
    )
)
_OLDEST = dt.date(2015, 8, 14)
"""Dates before this one are refused.
https://developers.google.com/analytics/devguides/reporting/data/v1/rest/v1beta/DateRange"""


@dataclass(frozen=True, slots=True)
class DateRange:
    """Days from `start` to `end`, both inclusive."""

    name: str
    start: dt.date
    end: dt.date


@dataclass(frozen=True, slots=True)
class OrderBy:
    """One entry of `orderBys`: a metric or a dimension."""

    name: str
    is_metric: bool
    is_descending: bool
    kind: str = "ALPHANUMERIC"


@dataclass(frozen=True, slots=True)
class ReportQuery:
    """A checked report request.

    asked_dimensions, asked_metrics: the names as the request had them, which the headers repeat.
    """

    asked_dimensions: tuple[str, ...]
    asked_metrics: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    metrics: tuple[Metric, ...]
    ranges: tuple[DateRange, ...]
    order: tuple[OrderBy, ...]
    dimension_filter: Mapping[str, Any]
    metric_filter: Mapping[str, Any]
    aggregations: tuple[str, ...]
    currency: str | None
    limit: int
    offset: int
    keeps_empty_rows: bool
    returns_quota: bool

    @property
    def has_date_range_dimension(self) -> bool:
        """Several ranges are told apart by one more dimension, which comes last."""
        return len(self.ranges) > 1

    @property
    def days(self) -> int:
        return sum((each.end - each.start).days + 1 for each in self.ranges)

    def result_key(self) -> str:
        """Equal for requests that differ in their page only."""
        return repr(
            (
                self.asked_dimensions,
                self.asked_metrics,
                self.ranges,
                self.order,
                self.dimension_filter,
                self.metric_filter,
                self.currency,
                self.keeps_empty_rows,
            )
        )


def read_report(request: Any, today: dt.date) -> ReportQuery:
    """The meaning of a `RunReportRequest` on the property's day `today`. Raises GoogleError."""
    if not isinstance(request, Mapping):
        raise errors.invalid("Invalid JSON payload received. The request must be an object.")
    for name in request:
        if name not in REQUEST_KEYS:
            raise errors.unknown_json_field(str(name))
    dimension_names, dimensions = read_dimensions(request.get("dimensions"))
    metric_names, metrics = read_metrics(request.get("metrics"))
    if not dimensions and not metrics:
        raise errors.invalid("A report requires at least one dimension or metric.")
    check_compatible(dimensions, metrics)
    return ReportQuery(
        asked_dimensions=dimension_names,
        asked_metrics=metric_names,
        dimensions=dimensions,
        metrics=metrics,
        ranges=_ranges(request.get("dateRanges"), today),
        order=_order(request.get("orderBys"), dimension_names, metric_names),
        dimension_filter=_filter(request.get("dimensionFilter"), dimension),
        metric_filter=_filter(request.get("metricFilter"), metric),
        aggregations=_aggregations(request.get("metricAggregations")),
        currency=_currency(request.get("currencyCode")),
        limit=min(_whole(request, "limit", DEFAULT_LIMIT), MAX_LIMIT) or DEFAULT_LIMIT,
        offset=_whole(request, "offset", 0),
        keeps_empty_rows=bool(request.get("keepEmptyRows")),
        returns_quota=bool(request.get("returnPropertyQuota")),
    )


def _entries(value: Any, kind: str) -> Sequence[Mapping[str, Any]]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise errors.invalid(f"Invalid value at '{kind}': a list of objects is needed.")
    return value


def read_dimensions(value: Any) -> tuple[tuple[str, ...], tuple[Dimension, ...]]:
    """The names as asked, and the dimensions. Raises GoogleError."""
    entries = _entries(value, "dimensions")
    if len(entries) > MAX_DIMENSIONS:
        raise errors.too_many("dimensions", MAX_DIMENSIONS, len(entries))
    names = tuple(str(entry.get("name", "")) for entry in entries)
    found = []
    for name in names:
        known = dimension(name)
        if known is None:
            raise errors.unknown_field("dimension", name)
        found.append(known)
    return names, tuple(found)


def read_metrics(value: Any) -> tuple[tuple[str, ...], tuple[Metric, ...]]:
    """The names as asked, and the metrics. Expressions over metrics are not served. Raises GoogleError."""
    entries = _entries(value, "metrics")
    if len(entries) > MAX_METRICS:
        raise errors.too_many("metrics", MAX_METRICS, len(entries))
    names, found = [], []
    for entry in entries:
        if entry.get("expression"):
            raise errors.invalid("The sandbox serves no metric expressions.")
        name = str(entry.get("name", ""))
        known = metric(name)
        if known is None:
            raise errors.unknown_field("metric", name)
        names.append(name)
        found.append(known)
    return tuple(names), tuple(found)


def check_compatible(dimensions: Sequence[Dimension], metrics: Sequence[Metric]) -> None:
    """Raises GoogleError when a metric cannot stand beside a dimension."""
    wrong = [each.name for each in dimensions if any(not is_compatible(each.name, one.name) for one in metrics)]
    if wrong:
        raise errors.incompatible(wrong)


def _ranges(value: Any, today: dt.date) -> tuple[DateRange, ...]:
    entries = _entries(value, "dateRanges")
    if not entries:
        raise errors.invalid("A dateRange is required.")
    if len(entries) > MAX_DATE_RANGES:
        raise errors.too_many("dateRanges", MAX_DATE_RANGES, len(entries))
    return tuple(_range(number, entry, today) for number, entry in enumerate(entries))


def _range(number: int, entry: Mapping[str, Any], today: dt.date) -> DateRange:
    name = str(entry.get("name") or f"date_range_{number}")
    if entry.get("name") and name.startswith(("date_range_", "RESERVED_")):
        raise errors.invalid(f"Date range name {name} cannot begin with date_range_ or RESERVED_.")
    start, end = _day(entry.get("startDate"), "startDate", today), _day(entry.get("endDate"), "endDate", today)
    if start > end:
        raise errors.invalid(f"Invalid startDate : {start}. startDate cannot be after endDate.")
    return DateRange(name, start, end)


def _day(value: Any, key: str, today: dt.date) -> dt.date:
    text = str(value or "")
    if text in ("today", "yesterday"):
        return today - dt.timedelta(days=int(text == "yesterday"))
    ago = re.fullmatch(r"(\d+)daysAgo", text)
    if ago:
        return today - dt.timedelta(days=int(ago[1]))
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        message = f"Invalid {key} : {text}. Dates should be in the format YYYY-MM-DD, NdaysAgo, yesterday, or today."
        raise errors.invalid(message) from None
    if day < _OLDEST:
        raise errors.invalid(f"Invalid {key} : {text}. Dates should be on or after {_OLDEST}.")
    return day


def _order(value: Any, dimensions: Sequence[str], metrics: Sequence[str]) -> tuple[OrderBy, ...]:
    order = []
    for entry in _entries(value, "orderBys"):
        is_descending = bool(entry.get("desc"))
        if "metric" in entry:
            name = str(entry["metric"].get("metricName", ""))
            if name not in metrics:
                raise errors.invalid(f"The orderBy metric {name} is not one of the request's metrics.")
            order.append(OrderBy(name, True, is_descending))
        elif "dimension" in entry:
            name = str(entry["dimension"].get("dimensionName", ""))
            if name not in (*dimensions, DATE_RANGE):
                raise errors.invalid(f"The orderBy dimension {name} is not one of the request's dimensions.")
            kind = str(entry["dimension"].get("orderType", "ALPHANUMERIC"))
            order.append(OrderBy(name, False, is_descending, kind))
        else:
            raise errors.invalid("An orderBy requires a metric or a dimension.")
    return tuple(order)


def _aggregations(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    listed = value if isinstance(value, list) else [value]
    for name in listed:
        if name not in AGGREGATIONS:
            raise errors.invalid(f"Invalid value at 'metric_aggregations': {name}")
    return tuple(listed)


def _currency(value: Any) -> str | None:
    if value in (None, ""):
        return None
    if not re.fullmatch(r"[A-Z]{3}", str(value)):
        raise errors.invalid(f"Invalid currency code: {value}.")
    return str(value)


def _whole(request: Mapping[str, Any], name: str, default: int) -> int:
    value = request.get(name, default)
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise errors.invalid(f"Invalid value at '{name}' (TYPE_INT64), {value!r}") from None
    if number < 0:
        raise errors.invalid(f"{name} must not be negative, but was {number}.")
    return number


# Filters: https://developers.google.com/analytics/devguides/reporting/data/v1/rest/v1beta/FilterExpression


def _filter(value: Any, known: Callable[[str], Dimension | Metric | None]) -> Mapping[str, Any]:
    """A filter expression whose field names are present API names. Raises GoogleError."""
    if not value:
        return {}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise errors.invalid("A filter expression requires exactly one of andGroup, orGroup, notExpression and filter.")
    kind, content = next(iter(value.items()))
    match kind:
        case "andGroup" | "orGroup":
            return {kind: {"expressions": [_filter(each, known) for each in content.get("expressions", ())]}}
        case "notExpression":
            return {kind: _filter(content, known)}
        case "filter":
            name = str(content.get("fieldName", ""))
            field = known(name)
            if field is None:
                raise errors.unknown_field("dimension" if known is dimension else "metric", name)
            return {kind: {**content, "fieldName": field.name}}
        case _:
            raise errors.unknown_json_field(kind)


def passes(expression: Mapping[str, Any], values: Mapping[str, str | float]) -> bool:
    """Whether a row's values, by API name, pass a checked filter."""
    if not expression:
        return True
    kind, content = next(iter(expression.items()))
    match kind:
        case "andGroup":
            return all(passes(each, values) for each in content["expressions"])
        case "orGroup":
            return any(passes(each, values) for each in content["expressions"])
        case "notExpression":
            return not passes(content, values)
        case _:
            return _holds(content, values[content["fieldName"]])


def filtered_fields(expression: Mapping[str, Any]) -> frozenset[str]:
    """The API names that a checked filter looks at."""
    if not expression:
        return frozenset()
    kind, content = next(iter(expression.items()))
    match kind:
        case "andGroup" | "orGroup":
            return frozenset().union(*(filtered_fields(each) for each in content["expressions"]))
        case "notExpression":
            return filtered_fields(content)
        case _:
            return frozenset((content["fieldName"],))


def _holds(condition: Mapping[str, Any], value: str | float) -> bool:
    if "stringFilter" in condition:
        return _string_holds(condition["stringFilter"], str(value))
    if "inListFilter" in condition:
        content = condition["inListFilter"]
        listed = [str(each) for each in content.get("values", ())]
        if content.get("caseSensitive"):
            return str(value) in listed
        return str(value).lower() in [each.lower() for each in listed]
    if "numericFilter" in condition:
        return _number_holds(condition["numericFilter"], float(value))
    if "betweenFilter" in condition:
        content = condition["betweenFilter"]
        return _number(content["fromValue"]) <= float(value) <= _number(content["toValue"])
    if "emptyFilter" in condition:
        return value in ("", "(not set)")
    raise errors.invalid("A filter requires one of stringFilter, inListFilter, numericFilter and betweenFilter.")


def _string_holds(content: Mapping[str, Any], value: str) -> bool:
    wanted = str(content.get("value", ""))
    kind = content.get("matchType", "EXACT")
    if kind in ("FULL_REGEXP", "PARTIAL_REGEXP"):
        flags = 0 if content.get("caseSensitive") else re.IGNORECASE
        search = re.fullmatch if kind == "FULL_REGEXP" else re.search
        return search(wanted, value, flags) is not None
    if not content.get("caseSensitive"):
        wanted, value = wanted.lower(), value.lower()
    match kind:
        case "BEGINS_WITH":
            return value.startswith(wanted)
        case "ENDS_WITH":
            return value.endswith(wanted)
        case "CONTAINS":
            return wanted in value
        case _:
            return value == wanted


def _number_holds(content: Mapping[str, Any], value: float) -> bool:
    wanted = _number(content.get("value", {}))
    match content.get("operation", "EQUAL"):
        case "LESS_THAN":
            return value < wanted
        case "LESS_THAN_OR_EQUAL":
            return value <= wanted
        case "GREATER_THAN":
            return value > wanted
        case "GREATER_THAN_OR_EQUAL":
            return value >= wanted
        case _:
            return value == wanted


def _number(value: Mapping[str, Any]) -> float:
    return float(value.get("int64Value", value.get("doubleValue", 0)))
