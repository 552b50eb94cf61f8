"""GA4's reports: sums over the visits of a property, whatever the dimensions, so that all of them agree."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.ga4_json import without_defaults
from sandbox.ga4_query import DATE_RANGE, DateRange, OrderBy, ReportQuery, filtered_fields, passes
from sandbox.ga4_schema import Metric
from sandbox.settings import Ga4Settings
from sandbox.shops import Shop, digest, money
from sandbox.visits import Source, VisitCell

CellSource = Callable[[dt.date], Iterable[VisitCell]]
"""The visits of one day, as known today."""

OTHER = "(other)"

_CURRENCIES = {"USD": 1.0, "EUR": 1.09, "CHF": 1.13, "AUD": 0.66, "GBP": 1.27}
"""Dollars for one unit: fixed rates, so that a converted report is the same at any time."""

_CLICK_CENTS = (35, 160)
"""What a click on a search ad costs: from, to."""

# Event name -> how often it comes in a cell. https://support.google.com/analytics/answer/9234069
_EVENTS: Mapping[str, Callable[[VisitCell], int]] = {
    "session_start": lambda cell: cell.sessions,
    "first_visit": lambda cell: cell.new_users,
    "page_view": lambda cell: cell.page_views,
    "user_engagement": lambda cell: cell.engaged_sessions,
    "scroll": lambda cell: cell.page_views // 3,
    "view_item": lambda cell: cell.sessions // 2,
    "add_to_cart": lambda cell: cell.add_to_carts,
    "begin_checkout": lambda cell: cell.checkouts,
    "purchase": lambda cell: cell.purchases,
}
KEY_EVENT = "purchase"

_VALUES: Mapping[str, Callable[[VisitCell], str]] = {
    "date": lambda cell: cell.day.strftime("%Y%m%d"),
    "year": lambda cell: cell.day.strftime("%Y"),
    "month": lambda cell: cell.day.strftime("%m"),
    "yearMonth": lambda cell: cell.day.strftime("%Y%m"),
    "dayOfWeek": lambda cell: str(cell.day.isoweekday() % 7),
    "sessionDefaultChannelGroup": lambda cell: cell.source.channel_group,
    "sessionSource": lambda cell: cell.source.source,
    "sessionMedium": lambda cell: cell.source.medium,
    "sessionSourceMedium": lambda cell: f"{cell.source.source} / {cell.source.medium}",
    "sessionCampaignName": lambda cell: cell.source.campaign,
    "landingPage": lambda cell: cell.landing_page,
    "landingPagePlusQueryString": lambda cell: cell.landing_page,
    "deviceCategory": lambda cell: cell.device,
    "browser": lambda cell: cell.browser,
    "operatingSystem": lambda cell: cell.operating_system,
    "platform": lambda cell: "web",
    "country": lambda cell: cell.country,
    "region": lambda cell: cell.region,
}
_TIME = frozenset({"date", "year", "month", "yearMonth", "dayOfWeek"})


@dataclass(slots=True)
class Sums:
    """One row while it is being summed. Money in cents of the property's currency."""

    sessions: int = 0
    engaged_sessions: int = 0
    new_users: int = 0
    page_views: int = 0
    events: int = 0
    key_events: int = 0
    add_to_carts: int = 0
    checkouts: int = 0
    purchases: int = 0
    purchase_cents: int = 0
    ad_clicks: int = 0
    ad_cents: int = 0
    users: int = 0
    most_users: int = 0
    parts: int = 0

    def add(self, other: Sums) -> None:
        self.sessions += other.sessions
        self.engaged_sessions += other.engaged_sessions
        self.new_users += other.new_users
        self.page_views += other.page_views
        self.events += other.events
        self.key_events += other.key_events
        self.add_to_carts += other.add_to_carts
        self.checkouts += other.checkouts
        self.purchases += other.purchases
        self.purchase_cents += other.purchase_cents
        self.ad_clicks += other.ad_clicks
        self.ad_cents += other.ad_cents
        self.users += other.users
        self.most_users = max(self.most_users, other.most_users)
        self.parts += other.parts

    @property
    def total_users(self) -> int:
        """People. Not additive: the more cells a row holds, the more of them are the same."""
        if self.parts <= 1:
            return self.users
        share = 0.4 + 0.6 / (1 + 0.15 * math.log2(self.parts))
        return max(self.most_users, int(self.users * share))


def _visit_sums(cell: VisitCell) -> Sums:
    ad_clicks, ad_cents = _ad_click_costs(cell)
    return Sums(
        sessions=cell.sessions,
        engaged_sessions=cell.engaged_sessions,
        new_users=cell.new_users,
        page_views=cell.page_views,
        events=sum(count(cell) for count in _EVENTS.values()),
        key_events=cell.purchases,
        add_to_carts=cell.add_to_carts,
        checkouts=cell.checkouts,
        purchases=cell.purchases,
        purchase_cents=cell.purchase_cents,
        ad_clicks=ad_clicks,
        ad_cents=ad_cents,
        users=cell.users,
        most_users=cell.users,
        parts=1,
    )


def _ad_click_costs(cell: VisitCell) -> tuple[int, int]:
    """Clicks on search ads and their cost in cents: what a linked Google Ads account would tell."""
    if cell.source.medium != "cpc":
        return 0, 0
    low, high = _CLICK_CENTS
    clicks = cell.sessions + cell.sessions // 20
    key = digest(cell.day, cell.source.campaign, cell.landing_page, cell.device, cell.region)
    return clicks, clicks * (low + key % (high - low))


def _event_sums(cell: VisitCell, event: str, count: int) -> Sums:
    """A cell's part in one event: counts of other events are not in it, its sessions and users may be in several."""
    users = min(cell.users, count)
    purchases = count if event == "purchase" else 0
    return Sums(
        sessions=min(cell.sessions, count),
        engaged_sessions=min(cell.engaged_sessions, count),
        new_users=count if event == "first_visit" else 0,
        page_views=count if event == "page_view" else 0,
        events=count,
        key_events=count if event == KEY_EVENT else 0,
        add_to_carts=count if event == "add_to_cart" else 0,
        checkouts=count if event == "begin_checkout" else 0,
        purchases=purchases,
        purchase_cents=cell.purchase_cents if purchases else 0,
        users=users,
        most_users=users,
        parts=1,
    )


_NUMBERS: Mapping[str, Callable[[Sums], float]] = {
    "sessions": lambda sums: sums.sessions,
    "engagedSessions": lambda sums: sums.engaged_sessions,
    "engagementRate": lambda sums: _ratio(sums.engaged_sessions, sums.sessions),
    "bounceRate": lambda sums: _ratio(sums.sessions - sums.engaged_sessions, sums.sessions),
    "sessionKeyEventRate": lambda sums: _ratio(sums.key_events, sums.sessions),
    "totalUsers": lambda sums: sums.total_users,
    "activeUsers": lambda sums: sums.total_users * 19 // 20,
    "newUsers": lambda sums: sums.new_users,
    "screenPageViews": lambda sums: sums.page_views,
    "eventCount": lambda sums: sums.events,
    "eventValue": lambda sums: sums.purchase_cents,
    "keyEvents": lambda sums: sums.key_events,
    "addToCarts": lambda sums: sums.add_to_carts,
    "checkouts": lambda sums: sums.checkouts,
    "ecommercePurchases": lambda sums: sums.purchases,
    "transactions": lambda sums: sums.purchases,
    "purchaseRevenue": lambda sums: sums.purchase_cents,
    "totalRevenue": lambda sums: sums.purchase_cents,
    "averagePurchaseRevenue": lambda sums: _ratio(sums.purchase_cents, sums.purchases),
    "advertiserAdCost": lambda sums: sums.ad_cents,
    "advertiserAdClicks": lambda sums: sums.ad_clicks,
    "advertiserAdImpressions": lambda sums: sums.ad_clicks * 24,
}
"""Metric -> its number; money in cents."""

_MONEY = frozenset({"eventValue", "purchaseRevenue", "totalRevenue", "averagePurchaseRevenue", "advertiserAdCost"})


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom else 0.0


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One row as it is sent: dimension values, then metric values."""

    values: tuple[str, ...]
    numbers: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {}
        if self.values:
            row["dimensionValues"] = [{"value": value} for value in self.values]
        row["metricValues"] = [{"value": number} for number in self.numbers]
        return row


@dataclass(frozen=True, slots=True)
class Result:
    """A whole report before it is cut into pages.

    aggregates: rows of `totals`, `minimums` and `maximums`. flags: what `metadata` says of the data's quality.
    """

    rows: tuple[ResultRow, ...]
    aggregates: Mapping[str, tuple[ResultRow, ...]]
    flags: Mapping[str, Any]


Key = tuple[str, ...]
Numbers = tuple[float, ...]
_Line = tuple[Key, Numbers]
"""A row's dimension values and its metrics' numbers."""


class Report:
    """One checked request on one property."""

    def __init__(self, shop: Shop, query: ReportQuery, cells: CellSource, settings: Ga4Settings) -> None:
        self._shop = shop
        self._query = query
        self._cells = cells
        self._settings = settings
        asked = {each.name for each in query.dimensions}
        self._has_events = "eventName" in asked | filtered_fields(query.dimension_filter)
        self._flags: dict[str, Any] = {}

    def result(self) -> Result:
        """All rows, filtered and in order, with their aggregates and flags."""
        rows: list[_Line] = []
        totals: list[ResultRow] = []
        for each in self._query.ranges:
            sums = [(key, part, self._numbers(part)) for key, part in self._with_other_row(self._summed(each))]
            kept = [(key, part, numbers) for key, part, numbers in sums if self._keeps(part, numbers)]
            rows += [(self._with_range(key, each), numbers) for key, _, numbers in kept]
            if "TOTAL" in self._query.aggregations and kept:
                label = ("RESERVED_TOTAL",) * len(self._query.dimensions)
                numbers = self._numbers(_merged(part for _, part, _ in kept))
                totals.append(ResultRow(self._with_range(label, each), self._written(numbers)))
        self._sort(rows)
        written = tuple(ResultRow(key, self._written(numbers)) for key, numbers in rows)
        return Result(written, {"totals": tuple(totals), **self._extremes(rows)}, self._all_flags())

    def _summed(self, each: DateRange) -> dict[Key, Sums]:
        """Sums by dimension values for one date range."""
        sums: dict[Key, Sums] = {}
        getters = [_VALUES.get(dimension.name) for dimension in self._query.dimensions]
        for offset in range((each.end - each.start).days + 1):
            for cell, event, part in self._parts(each.start + dt.timedelta(days=offset)):
                key = tuple([event if getter is None else getter(cell) for getter in getters])
                known = sums.get(key)
                if known is None:
                    sums[key] = part
                else:
                    known.add(part)
        return sums

    def _parts(self, day: dt.date) -> Iterator[tuple[VisitCell, str, Sums]]:
        for cell in self._cells(day):
            if not self._has_events:
                if self._passes(cell, ""):
                    yield cell, "", _visit_sums(cell)
                continue
            for event, count in _EVENTS.items():
                times = count(cell)
                if times and self._passes(cell, event):
                    yield cell, event, _event_sums(cell, event, times)

    def _passes(self, cell: VisitCell, event: str) -> bool:
        expression = self._query.dimension_filter
        if not expression:
            return True
        looked_at = filtered_fields(expression)
        return passes(expression, {name: event if name == "eventName" else _VALUES[name](cell) for name in looked_at})

    def _with_other_row(self, sums: dict[Key, Sums]) -> Iterable[tuple[Key, Sums]]:
        """The rows; those beyond the day's limit fall into one "(other)" row."""
        most = self._settings.other_row_after
        places = [number for number, each in enumerate(self._query.dimensions) if each.name not in _TIME]
        if most is None or not places:
            return sums.items()
        by_time: dict[Key, list[tuple[Key, Sums]]] = {}
        for key, part in sums.items():
            time = tuple(value for number, value in enumerate(key) if number not in places)
            by_time.setdefault(time, []).append((key, part))
        result: list[tuple[Key, Sums]] = []
        for found in by_time.values():
            found.sort(key=lambda pair: (-pair[1].sessions, pair[0]))
            result += found[:most]
            if len(found) > most:
                self._flags["dataLossFromOtherRow"] = True
                first = found[most][0]
                other = tuple(OTHER if number in places else value for number, value in enumerate(first))
                result.append((other, _merged(part for _, part in found[most:])))
        return result

    def _keeps(self, sums: Sums, numbers: Numbers) -> bool:
        if sums.total_users < self._settings.withholds_below:
            self._flags["subjectToThresholding"] = True
            return False
        if not self._query.keeps_empty_rows and numbers and not any(numbers):
            return False
        expression = self._query.metric_filter
        if not expression:
            return True
        looked_at = filtered_fields(expression)
        values = {name: _NUMBERS[name](sums) / (100 if name in _MONEY else 1) for name in looked_at}
        return passes(expression, values)

    def _with_range(self, key: Key, each: DateRange) -> Key:
        return (*key, each.name) if self._query.has_date_range_dimension else key

    def _number(self, metric: Metric, sums: Sums) -> float:
        """A metric's number in the report's currency; hidden ones are 0."""
        if metric.restriction is not None and metric.restriction in self._settings.restricted:
            return 0
        number = _NUMBERS[metric.name](sums)
        asked = self._query.currency
        if metric.name not in _MONEY or asked in (None, self._shop.currency):
            return number
        return number * _CURRENCIES.get(self._shop.currency, 1.0) / _CURRENCIES.get(str(asked), 1.0)

    def _numbers(self, sums: Sums) -> Numbers:
        return tuple([self._number(each, sums) for each in self._query.metrics])

    def _written(self, numbers: Numbers) -> tuple[str, ...]:
        return tuple([_text(each, number) for each, number in zip(self._query.metrics, numbers, strict=True)])

    def _sort(self, rows: list[_Line]) -> None:
        """By `orderBys`; without any by the first metric, highest first. Equal rows follow their dimensions."""
        rows.sort(key=lambda row: row[0])
        order = self._query.order
        if not order and self._query.metrics:
            order = (OrderBy(self._query.asked_metrics[0], True, True),)
        for each in reversed(order):
            rows.sort(key=self._sort_key(each), reverse=each.is_descending)

    def _sort_key(self, each: OrderBy) -> Callable[[_Line], Any]:
        if each.is_metric:
            column = self._query.asked_metrics.index(each.name)
            return lambda row: row[1][column]
        place = -1 if each.name == DATE_RANGE else self._query.asked_dimensions.index(each.name)
        if each.kind == "NUMERIC":
            return lambda row: float(row[0][place]) if row[0][place].isdigit() else 0.0
        if each.kind == "CASE_INSENSITIVE_ALPHANUMERIC":
            return lambda row: row[0][place].lower()
        return lambda row: row[0][place]

    def _extremes(self, rows: Sequence[_Line]) -> dict[str, tuple[ResultRow, ...]]:
        found: dict[str, tuple[ResultRow, ...]] = {}
        width = len(self._query.dimensions) + self._query.has_date_range_dimension
        for name, title, choose in (("MINIMUM", "minimums", min), ("MAXIMUM", "maximums", max)):
            if name in self._query.aggregations and rows:
                numbers = tuple(choose(column) for column in zip(*(row[1] for row in rows), strict=True))
                found[title] = (ResultRow((f"RESERVED_{name[:3]}",) * width, self._written(numbers)),)
        return found

    def _all_flags(self) -> dict[str, Any]:
        hidden = [
            {"metricName": each.name, "restrictedMetricTypes": [each.restriction]}
            for each in self._query.metrics
            if each.restriction in self._settings.restricted
        ]
        if hidden:
            self._flags["schemaRestrictionResponse"] = {"activeMetricRestrictions": hidden}
        return self._flags


def _merged(parts: Iterable[Sums]) -> Sums:
    total = Sums()
    for part in parts:
        total.add(part)
    return total


def _text(metric: Metric, number: float) -> str:
    """A number as the API writes it: no needless zeros."""
    if metric.name in _MONEY:
        text = money(number) if isinstance(number, int) else f"{number / 100:.6f}"
    else:
        text = str(number) if isinstance(number, int) else f"{number:.16g}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def extra_cells(shop: Shop, day: dt.date, count: int) -> Iterator[VisitCell]:
    """`count` visits of one session each, every one on a landing page of its own: a long tail for tests of paging."""
    source = Source("Direct", "(direct)", "(none)", "(direct)")
    place = ("desktop", "Chrome", "Windows", shop.country, shop.regions[0])
    sessions_to_cents = (1, 1, 1, 0, 1, 0, 0, 0, 0)
    for number in range(count):
        yield VisitCell(day, source, f"/archive/{number:06d}", *place, *sessions_to_cents)


def headers(query: ReportQuery) -> dict[str, Any]:
    """`dimensionHeaders` and `metricHeaders`, with the names that the request used."""
    names = [*query.asked_dimensions, *((DATE_RANGE,) if query.has_date_range_dimension else ())]
    return without_defaults(
        {
            "dimensionHeaders": [{"name": name} for name in names],
            "metricHeaders": [
                {"name": name, "type": metric.kind}
                for name, metric in zip(query.asked_metrics, query.metrics, strict=True)
            ],
        }
    )
