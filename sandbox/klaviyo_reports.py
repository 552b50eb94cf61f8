"""Klaviyo's reports on campaigns and flows.

Reports on campaigns count by the day of sending and tell the present state, without an axis of time; what is counted
by the time of the event is in `klaviyo_aggregates`. https://developers.klaviyo.com/en/reference/reporting_api_overview
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox import klaviyo_filters as filters
from sandbox.klaviyo_aggregates import following_bucket
from sandbox.klaviyo_door import (
    MAX_YEAR_DAYS,
    Ask,
    Refusal,
    body_attributes,
    decode_cursor,
    encode_cursor,
    field_of,
    invalid,
    refuse_unknown,
)
from sandbox.klaviyo_objects import PLACED_ORDER, Object, metric_name
from sandbox.mailings import OPEN_DAYS, Flow, MailCampaign, Message, MessageDay
from sandbox.orders import ATTRIBUTION_MAIL_DAYS

REPORT_PAGE = 500
"""Groups on one page of a report."""


@dataclass(slots=True)
class _Sums:
    """What the statistics are made of."""

    received: int = 0
    bounced: int = 0
    opened: int = 0
    unique_opened: int = 0
    clicked: int = 0
    unique_clicked: int = 0
    unsubscribed: int = 0
    orders: int = 0
    order_cents: int = 0

    def add(self, row: MessageDay) -> None:
        for name in _Sums.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(row, name))

    @property
    def recipients(self) -> int:
        return self.received + self.bounced


def _rate(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


STATISTICS: dict[str, Callable[[_Sums], float]] = {
    "average_order_value": lambda s: round(s.order_cents / 100 / s.orders, 2) if s.orders else 0.0,
    "bounce_rate": lambda s: _rate(s.bounced, s.recipients),
    "bounced": lambda s: s.bounced,
    "bounced_or_failed": lambda s: s.bounced,
    "bounced_or_failed_rate": lambda s: _rate(s.bounced, s.recipients),
    "click_rate": lambda s: _rate(s.unique_clicked, s.received),
    "click_to_open_rate": lambda s: _rate(s.unique_clicked, s.unique_opened),
    "clicks": lambda s: s.clicked,
    "clicks_unique": lambda s: s.unique_clicked,
    "conversion_rate": lambda s: _rate(s.orders, s.received),
    "conversion_uniques": lambda s: s.orders,
    "conversion_value": lambda s: s.order_cents / 100,
    "conversions": lambda s: s.orders,
    "delivered": lambda s: s.received,
    "delivery_rate": lambda s: _rate(s.received, s.recipients),
    "failed": lambda s: 0,
    "failed_rate": lambda s: 0.0,
    "message_segment_count_sum": lambda s: 0,
    "open_rate": lambda s: _rate(s.unique_opened, s.received),
    "opens": lambda s: s.opened,
    "opens_unique": lambda s: s.unique_opened,
    "recipients": lambda s: s.recipients,
    "revenue_per_recipient": lambda s: round(s.order_cents / 100 / s.received, 4) if s.received else 0.0,
    "spam_complaint_rate": lambda s: 0.0,
    "spam_complaints": lambda s: 0,
    "text_message_credit_usage_amount": lambda s: 0.0,
    "text_message_roi": lambda s: 0.0,
    "text_message_spend": lambda s: 0.0,
    "unsubscribe_rate": lambda s: _rate(s.unsubscribed, s.received),
    "unsubscribe_uniques": lambda s: s.unsubscribed,
    "unsubscribes": lambda s: s.unsubscribed,
}

SEND_CHANNELS = {"email": "email", "sms": "sms", "mobile_push": "push-notification"}
_DAYS = {"today": 0, "last_7_days": 7, "last_30_days": 30, "last_90_days": 90, "last_365_days": 365}
_INTERVAL_LIMITS = {"hourly": 7, "daily": 60, "weekly": 52 * 7, "monthly": 52 * 7}


@dataclass(frozen=True, slots=True)
class _Report:
    statistics: tuple[str, ...]
    first: dt.date
    last: dt.date  # inclusive, as both ends of a timeframe are
    has_conversions: bool
    group_by: tuple[str, ...]
    conditions: tuple[filters.Condition, ...] = field(default=())
    interval: str = "daily"


_REPORT_FIELDS = frozenset({"statistics", "timeframe", "conversion_metric_id", "group_by", "filter"})


def campaign_values(ask: Ask) -> Object:
    """The present state of campaigns sent within the timeframe."""
    report = _report(
        ask, "campaign-values-report", ("campaign_id", "campaign_message_id"), ("campaign_message_name", "send_channel")
    )
    groups: dict[tuple[str, ...], _Sums] = {}
    for campaign in ask.state.business.mail.campaigns(ask.account.shop, ask.as_of):
        is_sent = campaign.status(ask.as_of) == "Sent" and report.first <= campaign.sent_on <= report.last
        grouping = _campaign_grouping(campaign)
        if is_sent and _matches(grouping, report):
            key = tuple(grouping[name] for name in report.group_by)
            _add_campaign(ask, groups.setdefault(key, _Sums()), campaign)
    rows = [
        {"groupings": dict(zip(report.group_by, key, strict=True)), "statistics": _values(report, sums)}
        for key, sums in groups.items()
    ]
    return _reported(ask, "campaign-values-report", rows, {"campaigns": {}})


def flow_values(ask: Ask) -> Object:
    """Flow messages over the whole timeframe."""
    report = _report(ask, "flow-values-report", ("flow_id", "flow_message_id"), _FLOW_GROUPS)
    rows = [
        {"groupings": dict(zip(report.group_by, key, strict=True)), "statistics": _values(report, _total(days))}
        for key, days in _flow_days(ask, report).items()
    ]
    return _reported(ask, "flow-values-report", rows, {"flows": {}, "flow-messages": {}})


def flow_series(ask: Ask) -> Object:
    """Flow messages over the timeframe, by interval, cut in the account's zone."""
    report = _report(ask, "flow-series-report", ("flow_id", "flow_message_id"), _FLOW_GROUPS, has_interval=True)
    buckets = _buckets(report)
    rows = []
    for key, days in _flow_days(ask, report).items():
        sums = [_total([row for row in days if first <= row.day <= last]) for first, last in buckets]
        if report.interval == "hourly":
            sums = list(itertools.chain.from_iterable(_hours(each) for each in sums))
        values = [_values(report, each) for each in sums]
        statistics = {name: [each[name] for each in values] for name in report.statistics}
        rows.append({"groupings": dict(zip(report.group_by, key, strict=True)), "statistics": statistics})
    zone = ask.account.shop.zone
    midnights = [dt.datetime.combine(first, dt.time(), tzinfo=zone) for first, _ in buckets]
    if report.interval == "hourly":
        midnights = [each.replace(hour=hour) for each in midnights for hour in range(24)]
    body = _reported(ask, "flow-series-report", rows, {"flows": {}, "flow-messages": {}})
    body["data"]["attributes"]["date_times"] = [each.isoformat() for each in midnights]
    return body


_FLOW_GROUPS = ("flow_message_name", "flow_name", "send_channel")


def _report(
    ask: Ask, kind: str, required: tuple[str, ...], optional: tuple[str, ...], *, has_interval: bool = False
) -> _Report:
    body = body_attributes(ask, kind)
    refuse_unknown(body, _REPORT_FIELDS | {"interval"} if has_interval else _REPORT_FIELDS)
    statistics = body.get("statistics")
    if not isinstance(statistics, list) or not statistics or not set(statistics) <= set(STATISTICS):
        raise invalid("'statistics' must be a list of known statistics.", field_of("statistics"))
    group_by = body.get("group_by")
    groups = tuple(group_by) if group_by else (*required, "send_channel")
    if not set(required) <= set(groups) or not set(groups) <= set(required) | set(optional):
        raise invalid(
            f"'group_by' must hold {', '.join(required)} and may hold {', '.join(optional)}.", field_of("group_by")
        )
    first, last = _timeframe(ask, body.get("timeframe"))
    interval = body.get("interval", "daily")
    _check_length(first, last, interval if has_interval else "")
    metric = metric_name(ask.state, ask.account, str(body.get("conversion_metric_id")))
    if metric is None:
        raise Refusal(
            404, "not_found", "Not found.", "The conversion metric does not exist.", field_of("conversion_metric_id")
        )
    return _Report(
        tuple(statistics), first, last, metric == PLACED_ORDER, groups, _report_conditions(body, groups), interval
    )


def _timeframe(ask: Ask, value: Any) -> tuple[dt.date, dt.date]:
    """First and last day, in the account's zone. Raises Refusal."""
    if not isinstance(value, dict):
        raise invalid("'timeframe' must hold a key, or start and end.", field_of("timeframe"))
    if "key" in value:
        return _named_timeframe(ask.as_of, str(value["key"]))
    try:
        # "Offset is ignored and the company timezone is used", says the contract.
        first, last = (dt.datetime.fromisoformat(value[name]).date() for name in ("start", "end"))
    except (KeyError, TypeError, ValueError) as error:
        raise invalid("'timeframe' needs start and end as datetimes.", field_of("timeframe")) from error
    if last < first:
        raise invalid("The timeframe's end is before its start.", field_of("timeframe"))
    return first, last


def _named_timeframe(today: dt.date, key: str) -> tuple[dt.date, dt.date]:
    month = today.replace(day=1)
    monday = today - dt.timedelta(days=today.weekday())
    year = today.replace(month=1, day=1)
    day = dt.timedelta(days=1)
    last_month = (month - day).replace(day=1)
    named = {
        "yesterday": (today - day, today - day),
        "this_week": (monday, today),
        "last_week": (monday - 7 * day, monday - day),
        "this_month": (month, today),
        "last_month": (last_month, month - day),
        "last_3_months": (today - 90 * day, today),
        "last_12_months": (today - 365 * day, today),
        "this_year": (year, today),
        "last_year": (year.replace(year=year.year - 1), year - day),
    }
    if key in _DAYS:
        return today - dt.timedelta(days=_DAYS[key]), today
    if key not in named:
        raise invalid(f"'{key}' is not a valid timeframe.", field_of("timeframe"))
    return named[key]


def _check_length(first: dt.date, last: dt.date, interval: str) -> None:
    days = (last - first).days + 1
    if days > MAX_YEAR_DAYS:
        raise invalid("The timeframe cannot be longer than one year.", field_of("timeframe"))
    if not interval:
        return
    if interval not in _INTERVAL_LIMITS:
        raise invalid(f"'{interval}' is not a valid interval.", field_of("interval"))
    # Both ends count, so that the longest timeframe touches one day more than its length.
    if days > _INTERVAL_LIMITS[interval] + 1:
        raise invalid(
            f"The timeframe for a {interval} interval cannot be longer than {_INTERVAL_LIMITS[interval]} days.",
            field_of("timeframe"),
        )


def _report_conditions(body: Mapping[str, Any], groups: Sequence[str]) -> tuple[filters.Condition, ...]:
    text = body.get("filter")
    if not text:
        return ()
    try:
        return filters.parse(str(text), dict.fromkeys(groups, ("equals", "contains-any")))
    except filters.FilterError as error:
        raise invalid(str(error), field_of("filter")) from error


def _matches(grouping: Mapping[str, str], report: _Report) -> bool:
    for condition in report.conditions:
        wanted = condition.value if isinstance(condition.value, tuple) else (condition.value,)
        if grouping[condition.field] not in wanted:
            return False
    return True


def _campaign_grouping(campaign: MailCampaign) -> dict[str, str]:
    return {
        "campaign_id": campaign.campaign_id,
        "campaign_message_id": campaign.message.message_id,
        "campaign_message_name": campaign.message.name,
        "send_channel": SEND_CHANNELS[campaign.channel],
    }


def _flow_grouping(flow: Flow, message: Message) -> dict[str, str]:
    return {
        "flow_id": flow.flow_id,
        "flow_name": flow.name,
        "flow_message_id": message.message_id,
        "flow_message_name": message.name,
        "send_channel": SEND_CHANNELS[message.channel],
    }


def _add_campaign(ask: Ask, sums: _Sums, campaign: MailCampaign) -> None:
    """All that a campaign has done so far: its mail goes out on one day, people answer for some days."""
    for back in range(max(len(OPEN_DAYS), ATTRIBUTION_MAIL_DAYS)):
        day = campaign.sent_on + dt.timedelta(days=back)
        if day > ask.as_of:
            return
        for row in ask.state.business.message_days(ask.account, day, ask.as_of):
            if row.message.message_id == campaign.message.message_id:
                sums.add(row)


def _flow_days(ask: Ask, report: _Report) -> dict[tuple[str, ...], list[MessageDay]]:
    """Flow messages' days within the timeframe, by group."""
    groups = {
        message.message_id: _flow_grouping(flow, message)
        for flow in ask.state.business.mail.flows(ask.account.shop)
        for message in flow.messages
    }
    found: defaultdict[tuple[str, ...], list[MessageDay]] = defaultdict(list)
    day = report.first
    while day <= min(report.last, ask.as_of):
        for row in ask.state.business.message_days(ask.account, day, ask.as_of):
            grouping = groups.get(row.message.message_id)
            if grouping is not None and _matches(grouping, report):
                found[tuple(grouping[name] for name in report.group_by)].append(row)
        day += dt.timedelta(days=1)
    return found


def _buckets(report: _Report) -> list[tuple[dt.date, dt.date]]:
    """First and last day of every bucket within the timeframe."""
    interval = {"weekly": "week", "monthly": "month"}.get(report.interval, "day")
    buckets = []
    day = report.first
    while day <= report.last:
        begin = day - dt.timedelta(days=day.weekday()) if interval == "week" else day
        following = following_bucket(begin, interval)
        buckets.append((day, min(report.last, following - dt.timedelta(days=1))))
        day = following
    return buckets


def _total(rows: Sequence[MessageDay]) -> _Sums:
    sums = _Sums()
    for row in rows:
        sums.add(row)
    return sums


def _hours(day: _Sums) -> list[_Sums]:
    """A day's sums cut into its 24 hours."""
    names = list(_Sums.__dataclass_fields__)
    return [
        _Sums(**{name: getattr(day, name) * (hour + 1) // 24 - getattr(day, name) * hour // 24 for name in names})
        for hour in range(24)
    ]


def _values(report: _Report, sums: _Sums) -> dict[str, float]:
    if not report.has_conversions:
        sums.orders = sums.order_cents = 0
    return {name: STATISTICS[name](sums) for name in report.statistics}


def _reported(ask: Ask, kind: str, rows: list[Object], relationships: Mapping[str, Any]) -> Object:
    """One page of a report; the cursor of the next is in `links.next`."""
    cursor = ask.query.get("page_cursor", "")
    start = int(decode_cursor(cursor).get("o", 0)) if cursor else 0
    url = f"{ask.base_url}/api/{kind}s/"
    shown = rows[start : start + REPORT_PAGE]
    links = {"self": url}
    if start + REPORT_PAGE < len(rows):
        links["next"] = f"{url}?page_cursor={encode_cursor({'o': start + REPORT_PAGE})}"
    related = {
        name: {"data": _ids(name, shown), "links": {"self": f"{url}relationships/{name}/", "related": f"{url}{name}/"}}
        for name in relationships
    }
    return {
        "data": {"type": kind, "attributes": {"results": shown}, "relationships": related, "links": {"self": url}},
        "links": links,
    }


def _ids(name: str, rows: Sequence[Object]) -> list[Object]:
    kind = name.removesuffix("s")
    column = kind.replace("-", "_") + "_id"
    return [{"type": kind, "id": each} for each in dict.fromkeys(row["groupings"][column] for row in rows)]
