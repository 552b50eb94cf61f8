"""The rows of an insights call: the account's days summed by level, window and breakdown, written as Graph does."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox.ads import AdDay, AdObject
from sandbox.meta_actions import ActionCounts, actions, counted, valued
from sandbox.meta_breakdowns import Cell, divide, division
from sandbox.meta_query import Condition, DateSpan, InsightsQuery, is_numeric
from sandbox.shops import VendorAccount, money

InsightsRow = dict[str, Any]
DaySource = Callable[[dt.date], Sequence[AdDay]]
"""All rows of the account on one day, as known today."""

ATTRIBUTION_SETTING = "7d_click_1d_view"

_LEVEL_NAMES = ("campaign", "adset", "ad")


@dataclass(slots=True)
class Sums:
    """One row while it is being summed."""

    impressions: int = 0
    reaches: list[int] = field(default_factory=list)
    clicks: int = 0
    link_clicks: int = 0
    landing_page_views: int = 0
    add_to_carts: int = 0
    checkouts: int = 0
    purchases: int = 0
    purchase_cents: int = 0
    spend_cents: int = 0

    def add(self, row: AdDay) -> None:
        self.impressions += row.impressions
        self.reaches.append(row.reach)
        self.clicks += row.clicks
        self.link_clicks += row.link_clicks
        self.landing_page_views += row.landing_page_views
        self.add_to_carts += row.add_to_carts
        self.checkouts += row.checkouts
        self.purchases += row.purchases
        self.purchase_cents += row.purchase_cents
        self.spend_cents += row.spend_cents

    @property
    def reach(self) -> int:
        """People reached at least once. Not additive: the more days and ads, the more of them are the same people."""
        overlap = 0.5 + 0.5 / len(self.reaches) ** 0.5
        return max(max(self.reaches), int(sum(self.reaches) * overlap))


@dataclass(frozen=True, slots=True)
class GroupKey:
    """What a row stands for: its window, its object (ids from campaign down to the level) and its breakdown cell."""

    span: int
    object_ids: tuple[str, ...]
    cell: Cell


class InsightsReport:
    """One checked insights call on one account, on the account's day `as_of`."""

    def __init__(
        self,
        account: VendorAccount,
        query: InsightsQuery,
        days: DaySource,
        objects: Mapping[str, AdObject],
        as_of: dt.date,
    ) -> None:
        self._account = account
        self._query = query
        self._days = days
        self._objects = objects
        self._as_of = as_of

    def rows(self) -> list[InsightsRow]:
        """All rows, in a fixed order: by window, object and cell unless the call sorts."""
        sums = self._summed()
        keys = sorted(sums, key=lambda key: (key.span, key.object_ids, key.cell))
        written = ((sums[key], self._row(key, sums[key])) for key in keys)
        kept = [(each, row) for each, row in written if self._passes_numbers(each)]
        for order in reversed(self._query.sort):
            name, _, direction = order.rpartition("_")
            kept.sort(key=lambda pair: _sort_value(pair[1].get(name)), reverse=direction == "descending")
        return [row for _, row in kept]

    def summary(self) -> InsightsRow:
        """The `summary` of the whole call."""
        total = Sums()
        for _, row in self._parts():
            total.add(row)
        if not total.reaches:
            return {}
        spans = self._query.spans
        whole = DateSpan(min(span.since for span in spans), max(span.until for span in spans))
        wanted = {name: value for name, value in self._metrics(total).items() if name in self._query.fields}
        return {**wanted, "date_start": whole.since.isoformat(), "date_stop": whole.until.isoformat()}

    def _summed(self) -> dict[GroupKey, Sums]:
        sums: dict[GroupKey, Sums] = {}
        for key, row in self._parts():
            sums.setdefault(key, Sums()).add(row)
        return sums

    def _parts(self) -> Iterator[tuple[GroupKey, AdDay]]:
        parts = division(self._account.shop, self._query.breakdowns) if self._query.breakdowns else None
        if self._query.breakdowns and parts is None:
            return
        for number, span in enumerate(self._query.spans):
            for row in self._delivered(span):
                object_ids = self._object_ids(row)
                if parts is None:
                    yield GroupKey(number, object_ids, ()), row
                    continue
                for cell, part in divide(row, parts):
                    yield GroupKey(number, object_ids, cell), part

    def _delivered(self, span: DateSpan) -> Iterator[AdDay]:
        last = min(span.until, self._as_of)
        for offset in range((last - span.since).days + 1):
            for row in self._days(span.since + dt.timedelta(days=offset)):
                if (row.ad_id is not None or self._query.level != "ad") and self._passes_objects(row):
                    yield row

    def _object_ids(self, row: AdDay) -> tuple[str, ...]:
        if self._query.level == "account":
            return ()
        depth = _LEVEL_NAMES.index(self._query.level) + 1
        return (row.campaign_id, row.adset_id, row.ad_id or "")[:depth]

    def _passes_objects(self, row: AdDay) -> bool:
        """Conditions on names, ids and states of the objects; those on numbers wait for the sums."""
        return all(self._object_passes(row, condition) for condition in self._query.filtering)

    def _object_passes(self, row: AdDay, condition: Condition) -> bool:
        kind, _, attribute = condition.field.partition(".")
        if kind not in _LEVEL_NAMES or not attribute:
            return True
        object_id = {"campaign": row.campaign_id, "adset": row.adset_id, "ad": row.ad_id}[kind]
        if object_id is None:
            return False
        known = self._objects[object_id]
        value = {
            "id": object_id,
            "name": known.name,
            "effective_status": effective_status(known, kind, self._objects, self._as_of),
            "objective": known.objective,
        }.get(attribute)
        return value is None or holds(value, condition)

    def _passes_numbers(self, sums: Sums) -> bool:
        metrics = self._metrics(sums)
        for condition in self._query.filtering:
            if "." in condition.field or condition.field == "action_type":
                continue
            value = metrics.get(condition.field)
            if isinstance(value, str) and not holds(value, condition):
                return False
        return True

    def _row(self, key: GroupKey, sums: Sums) -> InsightsRow:
        known = {**self._labels(key), **self._metrics(sums)}
        row = {name: known[name] for name in self._query.fields if known.get(name) not in (None, [])}
        span = self._query.spans[key.span]
        row["date_start"], row["date_stop"] = span.since.isoformat(), span.until.isoformat()
        row.update(zip(self._query.breakdowns, key.cell, strict=True) if key.cell else ())
        return row

    def _labels(self, key: GroupKey) -> InsightsRow:
        shop = self._account.shop
        labels: InsightsRow = {
            "account_id": self._account.account_id,
            "account_name": self._account.name,
            "account_currency": shop.currency,
            "attribution_setting": ATTRIBUTION_SETTING,
        }
        for kind, object_id in zip(_LEVEL_NAMES, key.object_ids, strict=False):
            known = self._objects[object_id]
            labels[f"{kind}_id"], labels[f"{kind}_name"] = object_id, known.name
            labels["objective"], labels["buying_type"] = known.objective, "AUCTION"
            labels["created_time"] = known.first_day.isoformat()
            labels["updated_time"] = known.changed_on(self._as_of).isoformat()
            if kind == "adset":
                labels["optimization_goal"] = "OFFSITE_CONVERSIONS"
        return labels

    def _metrics(self, sums: Sums) -> InsightsRow:
        metrics = _plain_metrics(sums)
        windows, dimensions = self._query.windows, self._query.action_breakdowns
        found = actions(
            ActionCounts(
                sums.link_clicks,
                sums.clicks,
                sums.landing_page_views,
                sums.add_to_carts,
                sums.checkouts,
                sums.purchases,
                sums.purchase_cents,
            )
        )
        wanted = [action for action in found if self._wants(action.action_type)]
        metrics["actions"] = counted(wanted, windows, dimensions)
        metrics["action_values"] = valued(wanted, windows, dimensions)
        metrics["unique_actions"] = metrics["actions"]
        metrics["cost_per_action_type"] = [
            {"action_type": action.action_type, "value": _ratio(sums.spend_cents / 100, action.count)}
            for action in wanted
        ]
        metrics["outbound_clicks"] = _single("outbound_click", str(sums.link_clicks), bool(sums.link_clicks))
        roas = _ratio(sums.purchase_cents, sums.spend_cents)
        metrics["purchase_roas"] = _single("omni_purchase", roas, bool(sums.purchases and sums.spend_cents))
        return metrics

    def _wants(self, action_type: str) -> bool:
        return all(
            holds(action_type, condition) for condition in self._query.filtering if condition.field == "action_type"
        )


def _single(action_type: str, value: str, is_there: bool) -> list[dict[str, str]]:
    return [{"action_type": action_type, "value": value}] if is_there else []


def _plain_metrics(sums: Sums) -> InsightsRow:
    """The numbers, all of them strings, as Graph sends them. Ratios without a divisor are left out."""
    reach = sums.reach
    spend = sums.spend_cents / 100
    ratios = {
        "frequency": (sums.impressions, reach, 1),
        "ctr": (sums.clicks, sums.impressions, 100),
        "cpc": (spend, sums.clicks, 1),
        "cpm": (spend, sums.impressions, 1000),
        "cpp": (spend, reach, 1000),
        "inline_link_click_ctr": (sums.link_clicks, sums.impressions, 100),
        "cost_per_inline_link_click": (spend, sums.link_clicks, 1),
        "unique_ctr": (sums.clicks * 0.95, reach, 100),
        "cost_per_unique_click": (spend, sums.clicks * 0.95, 1),
    }
    return {
        "impressions": str(sums.impressions),
        "reach": str(reach),
        "clicks": str(sums.clicks),
        "inline_link_clicks": str(sums.link_clicks),
        "inline_post_engagement": str(sums.clicks),
        "unique_clicks": str(int(sums.clicks * 0.95)),
        "unique_inline_link_clicks": str(int(sums.link_clicks * 0.95)),
        "spend": money(sums.spend_cents),
        "social_spend": "0",
        **{name: _ratio(top * scale, bottom) for name, (top, bottom, scale) in ratios.items() if bottom},
    }


def _ratio(top: float, bottom: float) -> str:
    """A quotient with up to six places, as Graph writes them."""
    return f"{top / bottom:.6f}".rstrip("0").rstrip(".") if bottom else "0"


def _sort_value(value: Any) -> tuple[int, float, str]:
    if value is None:
        return 0, 0.0, ""
    try:
        return 1, float(value), ""
    except (TypeError, ValueError):
        return 2, 0.0, str(value)


def effective_status(item: AdObject, kind: str, objects: Mapping[str, AdObject], as_of: dt.date) -> str:
    """The state that counts: an object's own, or that of the parent that keeps it from running.

    kind: campaign, adset or ad. https://developers.facebook.com/docs/marketing-api/reference/adgroup
    """
    own = item.status(as_of)
    if own != "ACTIVE" or kind == "campaign":
        return own
    if objects[item.campaign_id].status(as_of) != "ACTIVE":
        return "CAMPAIGN_PAUSED"
    if kind == "ad" and item.adset_id is not None and objects[item.adset_id].status(as_of) != "ACTIVE":
        return "ADSET_PAUSED"
    return own


def holds(value: str, condition: Condition) -> bool:
    """Whether a condition of `filtering` holds for this value. Conditions on several values take any of them."""
    wanted = condition.value
    listed = [str(item) for item in wanted] if isinstance(wanted, list) else [str(wanted)]
    match condition.operator:
        case "EQUAL" | "IN" | "ANY":
            return value in listed
        case "NOT_EQUAL" | "NOT_IN" | "NONE":
            return value not in listed
        case "CONTAIN":
            return any(item.lower() in value.lower() for item in listed)
        case "NOT_CONTAIN":
            return not any(item.lower() in value.lower() for item in listed)
        case "STARTS_WITH":
            return any(value.startswith(item) for item in listed)
        case "ENDS_WITH":
            return any(value.endswith(item) for item in listed)
        case _ if not is_numeric(value):
            return False
        case _:
            return _number_holds(float(value), condition.operator, [float(item) for item in listed])


def _number_holds(value: float, operator: str, wanted: Sequence[float]) -> bool:
    match operator:
        case "GREATER_THAN" | "AFTER":
            return value > wanted[0]
        case "GREATER_THAN_OR_EQUAL" | "ON_OR_AFTER":
            return value >= wanted[0]
        case "LESS_THAN" | "BEFORE":
            return value < wanted[0]
        case "LESS_THAN_OR_EQUAL" | "ON_OR_BEFORE":
            return value <= wanted[0]
        case "IN_RANGE":
            return min(wanted) <= value <= max(wanted)
        case "NOT_IN_RANGE":
            return not min(wanted) <= value <= max(wanted)
        case _:
            return True
