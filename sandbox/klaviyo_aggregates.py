"""Klaviyo's metric aggregates: events counted by the time at which they happened and by dimensions.

https://developers.klaviyo.com/en/docs/using_the_query_metric_aggregates_endpoint
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sandbox import klaviyo_filters as filters
from sandbox.klaviyo_door import (
    MAX_YEAR_DAYS,
    Ask,
    body_attributes,
    decode_cursor,
    encode_cursor,
    field_of,
    invalid,
    missing,
    refuse_unknown,
)
from sandbox.klaviyo_events import Span, message_counts
from sandbox.klaviyo_objects import PLACED_ORDER, Object, metric_name, text_of
from sandbox.mailings import Message
from sandbox.shops import Shop, day_start, digest, moment_of

MAX_AGGREGATE_PAGE = 500
MEASUREMENTS = ("count", "sum_value", "unique")
_BY_DIMENSION = ("equals", "any", "not-equals")
AGGREGATE_FILTERS = {
    "datetime": ("greater-or-equal", "greater-than", "less-than", "less-or-equal"),
    "$message": _BY_DIMENSION,
    "$flow": _BY_DIMENSION,
    "$attributed_message": _BY_DIMENSION,
    "$attributed_flow": _BY_DIMENSION,
    "$attributed_channel": _BY_DIMENSION,
}

_ATTRIBUTED: dict[str, Callable[[Message], str | None]] = {
    "$attributed_message": lambda message: message.message_id,
    "$attributed_flow": lambda message: message.flow_id,
    "$attributed_channel": lambda message: message.channel,
}
_SENT: dict[str, Callable[[Message], str | None]] = {
    "$message": lambda message: message.message_id,
    "$flow": lambda message: message.flow_id,
    "$campaign_channel": lambda message: message.channel if message.campaign_id else None,
    "$flow_channel": lambda message: message.channel if message.flow_id else None,
    "Campaign Name": lambda message: message.name if message.campaign_id else None,
    "Message Name": lambda message: message.name,
}


@dataclass(frozen=True, slots=True)
class _Query:
    metric: str
    measurements: tuple[str, ...]
    interval: str
    by: tuple[str, ...]
    zone: ZoneInfo
    window: Span
    conditions: tuple[filters.Condition, ...]
    page_size: int
    sort: str | None
    start: int


@dataclass(slots=True)
class _Row:
    """Measurements of one combination of dimensions, bucket by bucket."""

    count: list[float]
    sum_value: list[float]
    unique: list[float]

    @classmethod
    def empty(cls, buckets: int) -> _Row:
        return cls([0] * buckets, [0] * buckets, [0] * buckets)

    def measurement(self, name: str) -> list[float]:
        values: list[float] = getattr(self, name)
        return values


def metric_aggregates(ask: Ask) -> Object:
    """Events of one metric, counted by bucket of time and by dimensions."""
    query = _aggregate_query(ask, body_attributes(ask, "metric-aggregate"))
    edges = _edges(query)
    rows = _order_rows(ask, query, edges) if query.metric == PLACED_ORDER else _message_rows(ask, query, edges)
    if not query.by:
        rows.setdefault((), _Row.empty(len(edges) - 1))
    data = [
        {"dimensions": list(key), "measurements": {name: row.measurement(name) for name in query.measurements}}
        for key, row in _in_order(rows, query)
    ]
    shown = data[query.start : query.start + query.page_size]
    url = f"{ask.base_url}/api/metric-aggregates/"
    links = {"self": url}
    if query.start + query.page_size < len(data):
        links["next"] = f"{url}?page_cursor={encode_cursor({'o': query.start + query.page_size})}"
    return {
        "data": {
            "type": "metric-aggregate",
            "id": f"{digest(repr(query)):016x}",
            "attributes": {"dates": [text_of(edge) for edge in edges[:-1]], "data": shown},
            "links": {"self": url},
        },
        "links": links,
    }


_AGGREGATE_FIELDS = frozenset(
    {
        "metric_id",
        "page_cursor",
        "measurements",
        "interval",
        "page_size",
        "by",
        "return_fields",
        "filter",
        "timezone",
        "sort",
    }
)


def _aggregate_query(ask: Ask, body: Mapping[str, Any]) -> _Query:
    refuse_unknown(body, _AGGREGATE_FIELDS)
    metric = metric_name(ask.state, ask.account, str(body.get("metric_id")))
    if metric is None:
        raise missing("metric", str(body.get("metric_id")))
    measurements = body.get("measurements")
    if not isinstance(measurements, list) or not measurements or not set(measurements) <= set(MEASUREMENTS):
        raise invalid(f"'measurements' must be a list of {', '.join(MEASUREMENTS)}.", field_of("measurements"))
    interval = body.get("interval") or "day"
    if interval not in ("hour", "day", "week", "month"):
        raise invalid(f"'{interval}' is not a valid interval.", field_of("interval"))
    page_size = body.get("page_size") or MAX_AGGREGATE_PAGE
    if not isinstance(page_size, int) or not 1 <= page_size <= MAX_AGGREGATE_PAGE:
        raise invalid(f"'page_size' must be between 1 and {MAX_AGGREGATE_PAGE}.", field_of("page_size"))
    zone = _zone(body.get("timezone") or "UTC")
    conditions = _aggregate_conditions(body.get("filter"))
    cursor = body.get("page_cursor") or ask.query.get("page_cursor")
    return _Query(
        metric,
        tuple(measurements),
        interval,
        _dimensions(metric, body.get("by") or []),
        zone,
        _aggregate_window(conditions, zone),
        tuple(each for each in conditions if each.field != "datetime"),
        page_size,
        body.get("sort"),
        int(decode_cursor(cursor).get("o", 0)) if cursor else 0,
    )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise invalid(f"'{name}' is not a valid timezone.", field_of("timezone")) from error


def _aggregate_conditions(texts: Any) -> tuple[filters.Condition, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise invalid("'filter' must be a list of filters.", field_of("filter"))
    try:
        return tuple(itertools.chain.from_iterable(filters.parse(text, AGGREGATE_FILTERS) for text in texts))
    except filters.FilterError as error:
        raise invalid(str(error), field_of("filter")) from error


def _aggregate_window(conditions: Sequence[filters.Condition], zone: ZoneInfo) -> Span:
    """The time range, which must be there and at most a year long; times without a zone are in the query's."""
    ends: dict[str, dt.datetime] = {}
    for condition in conditions:
        if condition.field == "datetime":
            try:
                ends[condition.operator] = filters.instant(condition, zone)
            except filters.FilterError as error:
                raise invalid(str(error), field_of("filter")) from error
    if not {"greater-or-equal", "less-than"} <= set(ends):
        raise invalid("A time range is required: greater-or-equal and less-than on datetime.", field_of("filter"))
    window = Span(ends["greater-or-equal"].astimezone(dt.UTC), ends["less-than"].astimezone(dt.UTC))
    if window.end <= window.start:
        raise invalid("The time range is empty.", field_of("filter"))
    if (window.end - window.start).days > MAX_YEAR_DAYS:
        raise invalid("The time range cannot be longer than one year.", field_of("filter"))
    return window


def _dimensions(metric: str, by: Any) -> tuple[str, ...]:
    known = _ATTRIBUTED if metric == PLACED_ORDER else _SENT
    if not isinstance(by, list) or not set(by) <= set(_ATTRIBUTED) | set(_SENT):
        raise invalid(f"'by' may hold {', '.join([*_ATTRIBUTED, *_SENT])}.", field_of("by"))
    unfit = set(by) - set(known)
    if unfit:
        raise invalid(f"'{min(unfit)}' is not a dimension of this metric.", field_of("by"))
    return tuple(by)


def _edges(query: _Query) -> list[dt.datetime]:
    """The instants at which buckets begin, and the end of the last one, cut in the query's zone."""
    start = query.window.start.astimezone(query.zone)
    if query.interval == "hour":
        first = query.window.start.replace(minute=0, second=0, microsecond=0)
        count = -(-int((query.window.end - first).total_seconds()) // 3600)
        return [first + dt.timedelta(hours=number) for number in range(count)] + [query.window.end]
    day = start.date()
    if query.interval == "week":
        day -= dt.timedelta(days=day.weekday())
    if query.interval == "month":
        day = day.replace(day=1)
    edges = []
    while day_start(query.zone.key, day) < query.window.end:
        edges.append(day_start(query.zone.key, day))
        day = following_bucket(day, query.interval)
    return [*edges, query.window.end]


def _shop_days(ask: Ask, window: Span) -> Iterator[dt.date]:
    """The shop's days that the window touches and that have begun."""
    zone = ask.account.shop.zone
    day = window.start.astimezone(zone).date()
    while day <= ask.as_of and day_start(zone.key, day) < window.end:
        yield day
        day += dt.timedelta(days=1)


def _key(
    query: _Query, message: Message | None, table: Mapping[str, Callable[[Message], str | None]]
) -> tuple[str, ...]:
    """The dimensions of an event; an empty text where it has none."""
    return tuple((table[name](message) or "") if message is not None else "" for name in query.by)


def _is_wanted(query: _Query, message: Message | None) -> bool:
    for condition in query.conditions:
        table = _ATTRIBUTED if condition.field in _ATTRIBUTED else _SENT
        value = (table[condition.field](message) or "") if message is not None else ""
        wanted = condition.value if isinstance(condition.value, tuple) else (condition.value,)
        is_in = value in wanted
        if is_in == (condition.operator == "not-equals"):
            return False
    return True


def _order_rows(ask: Ask, query: _Query, edges: Sequence[dt.datetime]) -> dict[tuple[str, ...], _Row]:
    rows: dict[tuple[str, ...], _Row] = {}
    people: defaultdict[tuple[tuple[str, ...], int], set[int]] = defaultdict(set)
    bucket = 0
    for day in _shop_days(ask, query.window):
        for order in ask.state.business.told_orders(ask.account.shop, day, ask.as_of):
            if not query.window.holds(order.at) or not _is_wanted(query, order.message):
                continue
            while order.at >= edges[bucket + 1]:
                bucket += 1
            key = _key(query, order.message, _ATTRIBUTED)
            row = rows.setdefault(key, _Row.empty(len(edges) - 1))
            row.count[bucket] += 1
            row.sum_value[bucket] = round(row.sum_value[bucket] + order.cents / 100, 2)
            people[(key, bucket)].add(order.customer)
    for (key, index), customers in people.items():
        rows[key].unique[index] = len(customers)
    return rows


def _message_rows(ask: Ask, query: _Query, edges: Sequence[dt.datetime]) -> dict[tuple[str, ...], _Row]:
    rows: dict[tuple[str, ...], _Row] = {}
    for day in _shop_days(ask, query.window):
        parts = list(_parts(ask.account.shop, day, query.window, edges))
        for each in message_counts(ask.state, ask.account, query.metric, day, ask.as_of):
            if not _is_wanted(query, each.message):
                continue
            entry = rows.setdefault(_key(query, each.message, _SENT), _Row.empty(len(edges) - 1))
            for bucket, begin, end in parts:
                entry.count[bucket] += _between(each.known, each.final, begin, end)
                entry.unique[bucket] += _between(each.known_people, each.final_people, begin, end)
    return rows


def _between(known: int, final: int, begin: float, end: float) -> int:
    """How many of the known events, spread over the day as all of the final ones are, fall between two moments."""
    return min(known, math.ceil(final * end)) - min(known, math.ceil(final * begin))


def _parts(shop: Shop, day: dt.date, window: Span, edges: Sequence[dt.datetime]) -> Iterator[tuple[int, float, float]]:
    """Buckets that the day shares in: number, and the moments (0 to 1) at which the shared part begins and ends."""
    start = day_start(shop.time_zone, day)
    following = day_start(shop.time_zone, day + dt.timedelta(days=1))
    for bucket, (begin, end) in enumerate(itertools.pairwise(edges)):
        first, last = max(begin, window.start, start), min(end, window.end, following)
        if first < last:
            yield bucket, moment_of(shop, day, first), moment_of(shop, day, last)


def _in_order(rows: Mapping[tuple[str, ...], _Row], query: _Query) -> list[tuple[tuple[str, ...], _Row]]:
    items = sorted(rows.items(), key=lambda item: item[0])
    if not query.sort:
        return items
    name, is_descending = query.sort.lstrip("-"), query.sort.startswith("-")
    if name in MEASUREMENTS:
        return sorted(items, key=lambda item: sum(item[1].measurement(name)), reverse=is_descending)
    if name not in query.by:
        raise invalid(f"'{query.sort}' is not a valid sort key.", field_of("sort"))
    place = query.by.index(name)
    return sorted(items, key=lambda item: item[0][place], reverse=is_descending)


def following_bucket(day: dt.date, interval: str) -> dt.date:
    if interval == "month":
        return (day.replace(day=1) + dt.timedelta(days=32)).replace(day=1)
    return day + dt.timedelta(days=7 if interval == "week" else 1)
