"""Ad accounts, campaigns, ad sets and ads as nodes of the graph."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from sandbox import meta_errors as errors
from sandbox.ads import AdObject
from sandbox.meta_fields import ACCOUNT_FIELDS, AD_FIELDS, ADSET_FIELDS, CAMPAIGN_FIELDS
from sandbox.meta_insights import effective_status, holds
from sandbox.meta_limits import business_id
from sandbox.meta_query import Condition, conditions, names
from sandbox.settings import meta_settings
from sandbox.shops import FIRST_DAY, VendorAccount
from sandbox.state import State

Node = dict[str, Any]

_SHOWN = ("ACTIVE", "PAUSED", "IN_PROCESS", "WITH_ISSUES", "CAMPAIGN_PAUSED", "ADSET_PAUSED")
"""States listed unless the call asks for others: archived and deleted objects are left out."""

_TIMEZONE_IDS = {"America/Los_Angeles": 1, "Europe/Zurich": 33, "Pacific/Kiritimati": 152}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object: its edge of the account, the word Graph has for it, fields and states."""

    edge: str
    level: str
    node_type: str
    fields: frozenset[str]
    statuses: tuple[str, ...]


CAMPAIGN = Kind(
    "campaigns",
    "campaign",
    "Campaign",
    CAMPAIGN_FIELDS,
    ("ACTIVE", "PAUSED", "DELETED", "ARCHIVED", "IN_PROCESS", "WITH_ISSUES"),
)
ADSET = Kind("adsets", "adset", "AdSet", ADSET_FIELDS, (*CAMPAIGN.statuses, "CAMPAIGN_PAUSED"))
AD = Kind(
    "ads",
    "ad",
    "Ad",
    AD_FIELDS,
    (
        *ADSET.statuses,
        "ADSET_PAUSED",
        "DISAPPROVED",
        "PENDING_REVIEW",
        "PREAPPROVED",
        "PENDING_BILLING_INFO",
    ),
)
KINDS = {kind.edge: kind for kind in (CAMPAIGN, ADSET, AD)}


def split_fields(fields: str | None) -> dict[str, tuple[str, ...]]:
    """Name -> names asked of the object inside: `id,creative{name}` is {"id": (), "creative": ("name",)}."""
    if not fields or fields.lstrip().startswith("["):
        return dict.fromkeys(names(fields), ())
    depth, parts = 0, [""]
    for letter in fields:
        depth += (letter in "{(") - (letter in "})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    found: dict[str, tuple[str, ...]] = {}
    for part in parts:
        name, brace, inner = part.strip().partition("{")
        if name:
            found[re.split(r"[.(]", name)[0].strip()] = names(inner.rstrip("}")) if brace else ()
    return found


def pick(node: Node, fields: Mapping[str, Sequence[str]]) -> Node:
    """The asked fields that have a value, and the id, which Graph always sends. Of an object inside, the id and what
    was asked of it."""
    picked: Node = {}
    for name in dict.fromkeys((*fields, "id")):
        value = node.get(name)
        if isinstance(value, dict) and "id" in value:
            inner = fields.get(name) or ()
            value = {key: each for key, each in value.items() if key == "id" or key in inner}
        if value is not None:
            picked[name] = value
    return picked


class Objects:
    """One account's objects, as its day `as_of` knows them."""

    def __init__(self, state: State, account: VendorAccount) -> None:
        self._state = state
        self._account = account
        self.as_of = state.as_of(account)
        catalogue = state.business.ads.catalogue(account.account_id)
        everything = (*catalogue.campaigns, *catalogue.adsets, *catalogue.ads)
        self.by_id: Mapping[str, AdObject] = {item.object_id: item for item in everything}

    def account(self, fields: str | None) -> Node:
        """The account's own node. Raises GraphError for a field that is unknown or forbidden."""
        asked = split_fields(fields)
        settings = meta_settings(self._state, self._account.account_id)
        _known(asked, ACCOUNT_FIELDS, "AdAccount")
        for name in asked:
            if name in settings.forbidden_fields:
                raise errors.field_forbidden(name)
        return pick(self._account_node(settings.account_status), asked or {"account_id": ()})

    def _account_node(self, status: int) -> Node:
        account, shop = self._account, self._account.shop
        now = self._state.clock.now()
        offset = now.astimezone(shop.zone).utcoffset() or dt.timedelta()
        business = {"id": business_id(self._state, account), "name": shop.name}
        return {
            "id": f"act_{account.account_id}",
            "account_id": account.account_id,
            "name": account.name,
            "account_status": status,
            "age": float((self.as_of - FIRST_DAY).days),
            "amount_spent": "0",
            "balance": "0",
            "business": business,
            "business_country_code": "",
            "business_name": shop.name,
            "created_time": _stamp(FIRST_DAY, shop.zone),
            "currency": shop.currency,
            "disable_reason": 0 if status == 1 else 1,
            "is_personal": 0,
            "min_daily_budget": 100,
            "spend_cap": "0",
            "timezone_id": _TIMEZONE_IDS.get(shop.time_zone, 1),
            "timezone_name": shop.time_zone,
            "timezone_offset_hours_utc": offset.total_seconds() / 3600,
            "owner": business["id"],
            "is_prepay_account": False,
            "tos_accepted": {"web_custom_audience_tos": 1},
            "funding_source_details": {"id": business["id"], "display_string": "", "type": 1},
            "user_tasks": ["ANALYZE"],
        }

    def listing(self, kind: Kind, params: Mapping[str, str]) -> list[Node]:
        """An edge of the account, oldest first. Raises GraphError."""
        asked = split_fields(params.get("fields"))
        _known(asked, kind.fields, kind.node_type)
        passes = self._filter(kind, params)
        found = self._state.business.ad_objects(self._account, kind.edge, self.as_of)
        return [pick(self._node(item, kind), asked) for item in found if passes(item)]

    def node(self, object_id: str, fields: str | None) -> Node | None:
        """One object by its id; None when the account has no such one."""
        item = self.by_id.get(object_id)
        if item is None or item.first_day > self.as_of:
            return None
        kind = self.kind_of(item)
        asked = split_fields(fields)
        _known(asked, kind.fields, kind.node_type)
        return pick(self._node(item, kind), asked)

    def kind_of(self, item: AdObject) -> Kind:
        """What an object is."""
        if item.object_id == item.campaign_id:
            return CAMPAIGN
        return ADSET if item.object_id == item.adset_id else AD

    def _filter(self, kind: Kind, params: Mapping[str, str]) -> Callable[[AdObject], bool]:
        wanted = list(conditions(params.get("filtering")))
        if params.get("effective_status"):
            wanted.append(Condition("effective_status", "IN", list(names(params["effective_status"]))))
        attributes = [self._attribute(kind, condition) for condition in wanted]
        for attribute, condition in zip(attributes, wanted, strict=True):
            if attribute == "effective_status":
                _known_statuses(kind, condition)
        if "effective_status" not in attributes and "id" not in attributes:
            wanted.append(Condition("effective_status", "IN", list(_SHOWN)))
            attributes.append("effective_status")
        since = params.get("updated_since")
        if since is not None and not since.isdigit():
            raise errors.invalid_parameter("Param updated_since must be a UNIX timestamp")
        if since is not None:
            wanted.append(Condition("updated_time", "GREATER_THAN_OR_EQUAL", int(since)))
            attributes.append("updated_time")

        def passes(item: AdObject) -> bool:
            return all(
                holds(self._value(item, kind, attribute), condition)
                for attribute, condition in zip(attributes, wanted, strict=True)
            )

        return passes

    def _attribute(self, kind: Kind, condition: Condition) -> str:
        prefix, _, name = condition.field.rpartition(".")
        if prefix not in ("", kind.level) or name not in ("id", "name", "effective_status", "updated_time"):
            raise errors.invalid_parameter(f"Filtering field {condition.field} is invalid")
        return name

    def _value(self, item: AdObject, kind: Kind, attribute: str) -> str:
        match attribute:
            case "id":
                return item.object_id
            case "name":
                return item.name
            case "effective_status":
                return effective_status(item, kind.level, self.by_id, self.as_of)
            case _:
                changed = _instant(item.changed_on(self.as_of), self._account.shop.zone)
                return str(int(changed.timestamp()))

    def _node(self, item: AdObject, kind: Kind) -> Node:
        zone = self._account.shop.zone
        status = item.status(self.as_of)
        node: Node = {
            "id": item.object_id,
            "account_id": self._account.account_id,
            "name": item.name,
            "status": status,
            "configured_status": status,
            "effective_status": effective_status(item, kind.level, self.by_id, self.as_of),
            "created_time": _stamp(item.first_day, zone),
            "updated_time": _stamp(item.changed_on(self.as_of), zone),
        }
        return {**node, **self._more(item, kind)}

    def _more(self, item: AdObject, kind: Kind) -> Node:
        zone = self._account.shop.zone
        start = _stamp(item.first_day, zone)
        stop = _stamp(item.last_day + dt.timedelta(days=1), zone) if item.last_day else None
        budget = str(self._account.shop.cost_per_order_cents * 10)
        if kind is CAMPAIGN:
            return {
                "objective": item.objective,
                "buying_type": "AUCTION",
                "bid_strategy": "LOWEST_COST_WITHOUT_CAP",
                "daily_budget": budget,
                "budget_remaining": budget,
                "special_ad_categories": [],
                "start_time": start,
                "stop_time": stop,
            }
        campaign = {"id": item.campaign_id}
        if kind is ADSET:
            return {
                "campaign_id": item.campaign_id,
                "campaign": campaign,
                "optimization_goal": "OFFSITE_CONVERSIONS",
                "billing_event": "IMPRESSIONS",
                "attribution_spec": [
                    {"event_type": "CLICK_THROUGH", "window_days": 7},
                    {"event_type": "VIEW_THROUGH", "window_days": 1},
                ],
                "start_time": start,
                "end_time": stop,
            }
        return {
            "campaign_id": item.campaign_id,
            "campaign": campaign,
            "adset_id": item.adset_id,
            "adset": {"id": item.adset_id},
            "creative": {
                "id": f"9{item.object_id}",
                "name": f"{item.name} creative",
                "thumbnail_url": f"https://{self._account.shop.domain}/creatives/{item.object_id}.jpg",
            },
        }


def _known(asked: Iterable[str], fields: frozenset[str], node_type: str) -> None:
    for name in asked:
        if name not in fields:
            raise errors.unknown_node_field(name, node_type)


def _known_statuses(kind: Kind, condition: Condition) -> None:
    listed = condition.value if isinstance(condition.value, list) else [condition.value]
    for number, status in enumerate(listed):
        if status not in kind.statuses:
            raise errors.invalid_choice(f"effective_status[{number}]", kind.statuses)


def _instant(day: dt.date, zone: ZoneInfo) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(9, 30), tzinfo=zone)


def _stamp(day: dt.date, zone: ZoneInfo) -> str:
    """A time stamp as Graph writes it: 2026-11-01T09:30:00+0100."""
    return _instant(day, zone).strftime("%Y-%m-%dT%H:%M:%S%z")
