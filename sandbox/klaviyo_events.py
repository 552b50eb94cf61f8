"""Klaviyo's events and profiles: read in the order of time, page by page, made as they are asked for."""

from __future__ import annotations

import bisect
import datetime as dt
import itertools
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox import klaviyo_filters as filters
from sandbox.faults import RecordShape, spoil
from sandbox.klaviyo_door import Ask, invalid
from sandbox.klaviyo_objects import (
    METRICS,
    PLACED_ORDER,
    Object,
    metric_id,
    metric_name,
    obj,
    relation,
    sparse,
    text_of,
)
from sandbox.mailings import Message
from sandbox.orders import CUSTOMERS_PER_DAY, Order
from sandbox.shops import FIRST_DAY, Shop, VendorAccount, day_start, digest, instant_of
from sandbox.state import State

EVENT_SHAPE = RecordShape(
    identity=("id",), text=("attributes", "event_properties", "Source Name"), typed=("attributes", "datetime")
)
PROFILE_SHAPE = RecordShape(identity=("id",), text=("attributes", "first_name"), typed=("attributes", "created"))

MESSAGE_METRICS: dict[str, tuple[str, str, str]] = {
    # metric: channel, what it counts, people among it
    "Received Email": ("email", "received", "received"),
    "Opened Email": ("email", "opened", "unique_opened"),
    "Clicked Email": ("email", "clicked", "unique_clicked"),
    "Bounced Email": ("email", "bounced", "bounced"),
    "Unsubscribed from Email Marketing": ("email", "unsubscribed", "unsubscribed"),
    "Received SMS": ("sms", "received", "received"),
    "Clicked SMS": ("sms", "clicked", "unique_clicked"),
    "Received Push": ("mobile_push", "received", "received"),
    "Opened Push": ("mobile_push", "opened", "unique_opened"),
}
"""Metrics of messages, and the columns of MessageDay behind them. Metrics in neither table have no events."""


KEPT_DAYS = 6
"""Days of events held in memory, over all accounts."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event before it is written: of a metric, at an instant, of a customer; caused by an order or a message."""

    at: dt.datetime
    identity: str
    metric: str
    customer: int
    order: Order | None = None
    message: Message | None = None

    @property
    def attributed_to(self) -> Message | None:
        """The message that brought the order."""
        return self.order.message if self.order is not None else None


def profile_id(shop: Shop, customer: int) -> str:
    """The id of a customer's profile; later customers have greater ids."""
    return f"01{shop.key[:4].upper()}{customer:020d}"


# events of one metric and day ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MessageCount:
    """Events of one metric that one message caused on one day: known so far, and in the end. Event n of them
    happens at the part n / final of the day."""

    message: Message
    known: int
    final: int
    known_people: int
    final_people: int


def message_counts(
    state: State, account: VendorAccount, metric: str, day: dt.date, as_of: dt.date
) -> list[MessageCount]:
    """Messages with their numbers of events of the metric on the day."""
    if metric not in MESSAGE_METRICS:
        return []
    channel, column, people = MESSAGE_METRICS[metric]
    final = {row.message.message_id: row for row in state.business.mail.final(account.shop, day)}
    counts = []
    for row in state.business.mail.known(account.shop, day, as_of):
        known = int(getattr(row, column))
        if row.message.channel == channel and known:
            last = final[row.message.message_id]
            final_count, final_people = int(getattr(last, column)), int(getattr(last, people))
            counts.append(MessageCount(row.message, known, final_count, int(getattr(row, people)), final_people))
    return counts


def day_events(state: State, account: VendorAccount, metric: str, day: dt.date, as_of: dt.date) -> Iterator[Event]:
    """The events of the metric on the day."""
    if metric == PLACED_ORDER:
        for order in state.business.told_orders(account.shop, day, as_of):
            yield Event(order.at, order.order_id, metric, order.customer, order=order)
        return
    days = max(1, (day - FIRST_DAY).days)
    for each in message_counts(state, account, metric, day, as_of):
        base = digest(metric, each.message.message_id, day)
        for number in range(each.known):
            at = instant_of(account.shop, day, number / each.final)
            place = (base + number) * 7919
            customer = place % days * CUSTOMERS_PER_DAY + place % 10
            yield Event(at, f"{base:016x}{number:06x}", metric, customer, message=each.message)


def _properties(account: VendorAccount, event: Event) -> Object:
    order, message = event.order, event.message
    if order is not None:
        return {
            "$event_id": order.order_id,
            "$value": order.cents / 100,
            "$currency_code": account.shop.currency,
            "OrderId": order.order_id,
            "Items": list(order.items),
            "Item Count": len(order.items),
            "Source Name": "web",
            "Is First Order": order.is_new,
        }
    return {
        "$event_id": event.identity,
        "$message": message.message_id if message is not None else None,
        "$flow": message.flow_id if message is not None else None,
        "Campaign Name": message.name if message is not None else None,
        "Email Domain": "example.com",
        "Source Name": "klaviyo",
    }


# GET /api/events ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open span of time, both ends aware."""

    start: dt.datetime
    end: dt.datetime

    def holds(self, instant: dt.datetime) -> bool:
        return self.start <= instant < self.end


_TICK = dt.timedelta(microseconds=1)


def span(ask: Ask, conditions: Sequence[filters.Condition], names: Sequence[str]) -> Span:
    """What the conditions on the time fields leave of all time. Raises Refusal."""
    zone = ask.account.shop.time_zone
    start = day_start(zone, FIRST_DAY)
    end = day_start(zone, ask.as_of + dt.timedelta(days=1))
    for condition in conditions:
        if condition.field not in names:
            continue
        limit = _limit(condition)
        match condition.operator:
            case "greater-or-equal":
                start = max(start, limit)
            case "greater-than":
                start = max(start, limit + _TICK)
            case "less-than":
                end = min(end, limit)
            case "less-or-equal":
                end = min(end, limit + _TICK)
    return Span(start, end)


def _limit(condition: filters.Condition) -> dt.datetime:
    if condition.field == "timestamp":
        text = str(condition.value)
        if not text.lstrip("-").isdecimal():
            raise invalid("'timestamp' needs seconds since 1970.", {"parameter": "filter"})
        return dt.datetime.fromtimestamp(int(text), tz=dt.UTC)
    try:
        return filters.instant(condition)
    except filters.FilterError as error:
        raise invalid(str(error), {"parameter": "filter"}) from error


def events(ask: Ask) -> Object:
    """Events by time; of one metric or of all, of one profile or of all."""
    conditions = ask.conditions()
    ask.includes()
    key = ask.sort("-datetime")
    is_descending = key.startswith("-")
    window = span(ask, conditions, ("datetime", "timestamp"))
    metrics = _metrics(ask, conditions)
    wanted = next((str(each.value) for each in conditions if each.field == "profile_id"), None)
    found, following = _read(ask, metrics, window, is_descending, wanted, ask.page_size())
    here = ask.cursor()
    records = spoil(sparse(ask, (_written(ask, each) for each in found)), () if here else ask.call.faults, EVENT_SHAPE)
    body: Object = {"data": records, "links": ask.links(following)}
    return body | {"included": sparse(ask, _included(ask, found))} if ask.includes() else body


def _metrics(ask: Ask, conditions: Sequence[filters.Condition]) -> list[str]:
    wanted = next((each for each in conditions if each.field == "metric_id"), None)
    if wanted is None:
        return [name for name, _ in METRICS]
    name = metric_name(ask.state, ask.account, str(wanted.value))
    return [name] if name is not None else []


def _read(
    ask: Ask, metrics: Sequence[str], window: Span, is_descending: bool, profile: str | None, size: int
) -> tuple[list[Event], Object | None]:
    """One page of events, and the cursor of the next one: a day and a place in it."""
    cursor = ask.cursor()
    shop = ask.account.shop
    first = window.start.astimezone(shop.zone).date()
    last = min((window.end - _TICK).astimezone(shop.zone).date(), ask.as_of)
    day = dt.date.fromordinal(int(cursor["d"])) if "d" in cursor else (last if is_descending else first)
    skip = int(cursor.get("i", 0))
    step = dt.timedelta(days=-1 if is_descending else 1)
    found: list[Event] = []
    while first <= day <= last:
        of_day = _of_day(ask, metrics, day, window, is_descending, profile)
        part = of_day[skip : skip + size - len(found)]
        found += part
        if skip + len(part) < len(of_day):
            return found, {"d": day.toordinal(), "i": skip + len(part)}
        skip = 0
        day += step
        if len(found) == size:
            return found, {"d": day.toordinal(), "i": 0} if _has_more(
                ask, metrics, day, step, window, profile
            ) else None
    return found, None


def _of_day(
    ask: Ask, metrics: Sequence[str], day: dt.date, window: Span, is_descending: bool, profile: str | None
) -> list[Event]:
    found = _whole_day(ask, metrics, day)
    first = bisect.bisect_left(found, window.start, key=lambda each: each.at)
    last = bisect.bisect_left(found, window.end, key=lambda each: each.at)
    found = found[first:last]
    if profile is not None:
        found = [each for each in found if profile_id(ask.account.shop, each.customer) == profile]
    return found[::-1] if is_descending else found


def _whole_day(ask: Ask, metrics: Sequence[str], day: dt.date) -> list[Event]:
    """All events of a day in the order of time. The last few days asked for are kept, for their next pages."""
    kept: dict[str, list[Event]] = ask.state.remembered("klaviyo_events")
    key = "|".join((ask.account.account_id, day.isoformat(), ask.as_of.isoformat(), *metrics))
    if key not in kept:
        streams = (day_events(ask.state, ask.account, metric, day, ask.as_of) for metric in metrics)
        found = sorted(itertools.chain.from_iterable(streams), key=lambda each: (each.at, each.identity))
        while len(kept) >= KEPT_DAYS:
            del kept[next(iter(kept))]
        kept[key] = found
    return kept[key]


def _has_more(
    ask: Ask, metrics: Sequence[str], day: dt.date, step: dt.timedelta, window: Span, profile: str | None
) -> bool:
    """Whether any event is left from `day` on: a page that is exactly full may be the last."""
    shop = ask.account.shop
    first = window.start.astimezone(shop.zone).date()
    last = min((window.end - _TICK).astimezone(shop.zone).date(), ask.as_of)
    while first <= day <= last:
        if _of_day(ask, metrics, day, window, False, profile):
            return True
        day += step
    return False


def _written(ask: Ask, event: Event) -> Object:
    shop = ask.account.shop
    identity = f"{digest(ask.account.account_id, event.metric, event.identity):016x}"
    attributes = {
        "timestamp": int(event.at.timestamp()),
        "event_properties": _properties(ask.account, event),
        "datetime": text_of(event.at),
        "uuid": str(uuid.UUID(int=int(identity, 16) << 64 | 0x4000_8000_0000_0000)),
    }
    each = obj(ask, "event", "events", identity, attributes)
    profile = {"type": "profile", "id": profile_id(shop, event.customer)}
    metric = {"type": "metric", "id": metric_id(ask.state, ask.account, event.metric)}
    attributions = [{"type": "attribution", "id": identity}] if event.attributed_to is not None else []
    wants_attributions = "attributions" in ask.includes()
    each["relationships"] = {
        "profile": relation(ask, "events", identity, "profile", profile),
        "metric": relation(ask, "events", identity, "metric", metric),
        "attributions": relation(ask, "events", identity, "attributions", attributions if wants_attributions else None),
    }
    return each


def _included(ask: Ask, found: Sequence[Event]) -> list[Object]:
    """The objects that `include` asks for, each once."""
    wanted = ask.includes()
    included: dict[tuple[str, str], Object] = {}
    for event in found:
        for each in _related(ask, event, wanted):
            included.setdefault((each["type"], each["id"]), each)
    return list(included.values())


def _related(ask: Ask, event: Event, wanted: frozenset[str]) -> Iterator[Object]:
    if "metric" in wanted:
        yield _metric(ask, event.metric)
    if "profile" in wanted:
        yield _profile(ask, event.customer, event.at)
    if "attributions" in wanted and event.attributed_to is not None:
        yield _attribution(ask, event)


def _metric(ask: Ask, name: str) -> Object:
    integration = dict(METRICS)[name]
    created = text_of(day_start(ask.account.shop.time_zone, FIRST_DAY))
    attributes = {"name": name, "created": created, "updated": created, "integration": {"name": integration}}
    return obj(ask, "metric", "metrics", metric_id(ask.state, ask.account, name), attributes)


def _attribution(ask: Ask, event: Event) -> Object:
    message = event.attributed_to
    identity = f"{digest(ask.account.account_id, event.metric, event.identity):016x}"
    each: Object = {
        "type": "attribution",
        "id": identity,
        "relationships": {"event": relation(ask, "events", identity, "event", {"type": "event", "id": identity})},
        "links": {"self": f"{ask.base_url}/api/attributions/{identity}/"},
    }
    if message is not None and message.campaign_id is not None:
        each["relationships"]["campaign"] = {"data": {"type": "campaign", "id": message.campaign_id}}
        each["relationships"]["campaign-message"] = {"data": {"type": "campaign-message", "id": message.message_id}}
    elif message is not None:
        each["relationships"]["flow"] = {"data": {"type": "flow", "id": message.flow_id}}
        each["relationships"]["flow-message"] = {"data": {"type": "flow-message", "id": message.message_id}}
    return each


# GET /api/profiles --------------------------------------------------------------------------------------------------


def profiles(ask: Ask) -> Object:
    """Profiles in the order in which they came; every sort key has that order."""
    conditions = ask.conditions()
    window = span(ask, conditions, ("created", "updated"))
    size, cursor = ask.page_size(), ask.cursor()
    is_descending = ask.sort("-updated").startswith("-")
    found: list[tuple[int, dt.datetime]] = []
    following: Object | None = None
    shop = ask.account.shop
    first, last = (
        window.start.astimezone(shop.zone).date(),
        min((window.end - _TICK).astimezone(shop.zone).date(), ask.as_of),
    )
    day = dt.date.fromordinal(int(cursor["d"])) if "d" in cursor else (last if is_descending else first)
    skip = int(cursor.get("i", 0))
    while first <= day <= last and following is None:
        of_day = _newcomers(ask, day, window, conditions, is_descending)
        part = of_day[skip : skip + size - len(found)]
        found += part
        if skip + len(part) < len(of_day):
            following = {"d": day.toordinal(), "i": skip + len(part)}
        skip = 0
        day += dt.timedelta(days=-1 if is_descending else 1)
    records = [_profile(ask, customer, at) for customer, at in found]
    data = spoil(sparse(ask, records), () if cursor else ask.call.faults, PROFILE_SHAPE)
    return {"data": data, "links": ask.links(following)}


def _newcomers(
    ask: Ask, day: dt.date, window: Span, conditions: Sequence[filters.Condition], is_descending: bool
) -> list[tuple[int, dt.datetime]]:
    shop = ask.account.shop
    orders = ask.state.business.told_orders(shop, day, ask.as_of)
    found = [(order.customer, order.at) for order in orders if order.is_new and window.holds(order.at)]
    for condition in conditions:
        if condition.field in ("id", "email", "external_id"):
            wanted = condition.value if isinstance(condition.value, tuple) else (condition.value,)
            found = [pair for pair in found if _identities(shop, pair[0])[condition.field] in wanted]
    return sorted(found, reverse=is_descending)


def _identities(shop: Shop, customer: int) -> dict[str, str]:
    return {
        "id": profile_id(shop, customer),
        "email": f"customer{customer:09d}@example.com",
        "external_id": f"{shop.key}-{customer}",
    }


def _profile(ask: Ask, customer: int, at: dt.datetime) -> Object:
    shop = ask.account.shop
    identities = _identities(shop, customer)
    attributes: dict[str, Any] = {
        "email": identities["email"],
        "phone_number": None,
        "external_id": identities["external_id"],
        "first_name": ("Anna", "Zoë", "José", "Li", "Omar", "Ngaire")[customer % 6],
        "last_name": f"Nr. {customer}",
        "organization": None,
        "locale": "en-US",
        "title": None,
        "image": None,
        "created": text_of(at),
        "updated": text_of(at),
        "last_event_date": text_of(at),
        "location": {"country": shop.country, "region": shop.regions[customer % len(shop.regions)]},
        "properties": {},
    }
    each = obj(ask, "profile", "profiles", identities["id"], attributes)
    each["relationships"] = {
        name: relation(ask, "profiles", identities["id"], name) for name in ("lists", "segments", "push-tokens")
    }
    return each
