"""Klaviyo's objects as JSON:API: account, campaigns, flows, lists, segments, metrics."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sandbox import klaviyo_filters as filters
from sandbox.faults import RecordShape, spoil
from sandbox.klaviyo_door import Ask, invalid
from sandbox.mailings import PLANNED_DAYS, SEND_HOUR, Flow, MailCampaign, Message
from sandbox.shops import FIRST_DAY, Shop, VendorAccount, day_start, digest, short_id
from sandbox.state import State

Object = dict[str, Any]

PLACED_ORDER = "Placed Order"
METRICS: tuple[tuple[str, str], ...] = (
    (PLACED_ORDER, "Shopify"),
    ("Ordered Product", "Shopify"),
    ("Refunded Order", "Shopify"),
    ("Started Checkout", "Shopify"),
    ("Viewed Product", "API"),
    ("Active on Site", "API"),
    ("Received Email", "Klaviyo"),
    ("Opened Email", "Klaviyo"),
    ("Clicked Email", "Klaviyo"),
    ("Bounced Email", "Klaviyo"),
    ("Marked Email as Spam", "Klaviyo"),
    ("Unsubscribed from Email Marketing", "Klaviyo"),
    ("Subscribed to Email Marketing", "Klaviyo"),
    ("Received SMS", "Klaviyo"),
    ("Clicked SMS", "Klaviyo"),
    ("Received Push", "Klaviyo"),
    ("Opened Push", "Klaviyo"),
)
"""Name and integration of every account's metrics."""

LISTS = (
    "Newsletter", "VIP", "Store events", "Preview list", "Competition 2024", "Competition 2025", "B2B", "Press",
    "Back in stock", "SMS Subscribers", "Loyalty", "Wholesale",
)  # fmt: skip
SEGMENTS = (
    "Engaged 30 days", "Engaged 90 days", "Never ordered", "Ordered once", "Repeat buyers", "High value",
    "At risk", "Lapsed", "Clicked, not ordered", "New this month", "Gift buyers", "Local pickup", "Win-back pool",
)  # fmt: skip

NAMED = RecordShape(identity=("id",), text=("attributes", "name"), typed=("attributes", "created"))
CAMPAIGN_SHAPE = RecordShape(identity=("id",), text=("attributes", "name"), typed=("attributes", "created_at"))


def metric_id(state: State, account: VendorAccount, name: str) -> str:
    """The id of a metric in an account."""
    return short_id(state.seed, account.account_id, "metric", name)


def metric_name(state: State, account: VendorAccount, identity: str) -> str | None:
    """The name of the account's metric with that id."""
    return next((name for name, _ in METRICS if metric_id(state, account, name) == identity), None)


def text_of(instant: dt.datetime) -> str:
    """An instant as Klaviyo writes it."""
    return instant.astimezone(dt.UTC).isoformat(timespec="seconds")


def obj(ask: Ask, kind: str, path: str, identity: str, attributes: Mapping[str, Any]) -> Object:
    """A JSON:API object with its self link."""
    return {
        "type": kind,
        "id": identity,
        "attributes": dict(attributes),
        "links": {"self": f"{ask.base_url}/api/{path}/{identity}/"},
    }


def relation(ask: Ask, path: str, identity: str, name: str, data: Any = None) -> Object:
    """A relationship with its links; with data where it is known."""
    base = f"{ask.base_url}/api/{path}/{identity}"
    links = {"self": f"{base}/relationships/{name}/", "related": f"{base}/{name}/"}
    return {"links": links} if data is None else {"data": data, "links": links}


def sparse(ask: Ask, objects: Iterable[Object]) -> list[Object]:
    """Objects with the attributes that `fields[type]` asks for; all of them without it."""
    return [_thinned(ask.query.get(f"fields[{each['type']}]"), each) for each in objects]


def _thinned(wanted: str | None, each: Object) -> Object:
    if wanted is None:
        return each
    names = {name.split(".")[0] for name in wanted.split(",")}
    return {**each, "attributes": {key: value for key, value in each["attributes"].items() if key in names}}


def page(
    ask: Ask,
    objects: Sequence[Object],
    shape: RecordShape = NAMED,
    included: Callable[[Sequence[Object]], list[Object]] | None = None,
) -> Object:
    """One page of a listing that is known whole."""
    start = int(ask.cursor().get("o", 0))
    size = ask.page_size() or len(objects) or 1
    found = list(objects[start : start + size])
    following = {"o": start + size} if start + size < len(objects) else None
    more = included(found) if included is not None else []
    records = spoil(sparse(ask, found), ask.call.faults if start == 0 else (), shape)
    body: Object = {"data": records, "links": ask.links(following)}
    return body | {"included": sparse(ask, more)} if ask.includes() else body


# accounts -----------------------------------------------------------------------------------------------------------


def accounts(ask: Ask) -> Object:
    """The one account of the key."""
    shop, account = ask.account.shop, ask.account
    attributes = {
        "test_account": False,
        "contact_information": {
            "default_sender_name": shop.name,
            "default_sender_email": f"hello@{shop.domain}",
            "website_url": f"https://{shop.domain}",
            "organization_name": account.name,
            "street_address": {
                "address1": "1 Main Street",
                "address2": "",
                "city": shop.regions[0],
                "region": shop.regions[0],
                "country": shop.country,
                "zip": "10001",
            },
        },
        "industry": "Ecommerce, Apparel and Accessories",
        "timezone": shop.time_zone,
        "preferred_currency": shop.currency,
        "public_api_key": account.account_id,
        "locale": "en-US",
    }
    data = [obj(ask, "account", "accounts", account.account_id, attributes)]
    return {"data": sparse(ask, data), "links": ask.links(None)}


# campaigns ----------------------------------------------------------------------------------------------------------


def campaigns(ask: Ask) -> Object:
    """Campaigns of one channel; archived ones only when the filter asks for them."""
    conditions = ask.conditions()
    channel = next((each.value for each in conditions if each.field == "messages.channel"), None)
    if channel not in ("email", "sms", "mobile_push"):
        raise invalid(
            "A channel filter is required to list campaigns: equals(messages.channel,'email'), 'sms' or 'mobile_push'.",
            {"parameter": "filter"},
        )
    wants_archived = any(each.field == "archived" and each.value is True for each in conditions)
    ask.includes()
    found = [
        each
        for each in ask.state.business.mail.campaigns(ask.account.shop, ask.as_of)
        if each.channel == channel and each.is_archived(ask.as_of) == wants_archived
    ]
    objects = _filtered([_campaign(ask, each) for each in found], conditions, {"messages.channel", "archived"})
    by_id = {each.campaign_id: each for each in found}

    def messages(shown: Sequence[Object]) -> list[Object]:
        if "campaign-messages" not in ask.includes():
            return []
        return [_campaign_message(ask, by_id[each["id"]]) for each in shown]

    return page(ask, _sorted(objects, ask.sort("-created_at")), CAMPAIGN_SHAPE, messages)


def _send_time(shop: Shop, campaign: MailCampaign) -> dt.datetime:
    return day_start(shop.time_zone, campaign.sent_on) + dt.timedelta(hours=SEND_HOUR)


def _campaign(ask: Ask, campaign: MailCampaign) -> Object:
    shop = ask.account.shop
    send_time = _send_time(shop, campaign)
    status = campaign.status(ask.as_of)
    created = day_start(shop.time_zone, campaign.sent_on - dt.timedelta(days=PLANNED_DAYS))
    is_sent = status == "Sent"
    attributes: Object = {
        "name": campaign.name,
        "status": status,
        "archived": campaign.is_archived(ask.as_of),
        "audiences": {"included": [_list_id(ask, "Newsletter")], "excluded": []},
        "send_options": {"use_smart_sending": True},
        "tracking_options": _tracking(campaign.channel),
        "send_strategy": {"method": "static", "datetime": text_of(send_time), "options": {"is_local": False}},
        "created_at": text_of(created),
        "scheduled_at": text_of(created + dt.timedelta(hours=1)),
        "updated_at": text_of(send_time if is_sent else created + dt.timedelta(hours=1)),
        "send_time": text_of(send_time) if status in ("Sent", "Scheduled") else None,
    }
    each = obj(ask, "campaign", "campaigns", campaign.campaign_id, attributes)
    data = [{"type": "campaign-message", "id": campaign.message.message_id}]
    each["relationships"] = {
        "campaign-messages": relation(ask, "campaigns", campaign.campaign_id, "campaign-messages", data),
        "tags": relation(ask, "campaigns", campaign.campaign_id, "tags"),
    }
    return each


def _tracking(channel: str) -> Object:
    if channel == "email":
        return {
            "add_tracking_params": True,
            "custom_tracking_params": [],
            "is_tracking_clicks": True,
            "is_tracking_opens": True,
        }
    return {"add_tracking_params": True, "custom_tracking_params": []}


def _campaign_message(ask: Ask, campaign: MailCampaign) -> Object:
    shop, message = ask.account.shop, campaign.message
    created = day_start(shop.time_zone, campaign.sent_on - dt.timedelta(days=PLANNED_DAYS))
    attributes = {
        "definition": _definition(shop, message),
        "send_times": [{"datetime": text_of(_send_time(shop, campaign)), "is_local": False}],
        "created_at": text_of(created),
        "updated_at": text_of(created + dt.timedelta(hours=1)),
    }
    each = obj(ask, "campaign-message", "campaign-messages", message.message_id, attributes)
    data = {"type": "campaign", "id": campaign.campaign_id}
    each["relationships"] = {
        "campaign": relation(ask, "campaign-messages", message.message_id, "campaign", data),
        "template": relation(ask, "campaign-messages", message.message_id, "template"),
        "image": relation(ask, "campaign-messages", message.message_id, "image"),
    }
    return each


def _definition(shop: Shop, message: Message) -> Object:
    match message.channel:
        case "email":
            content = {
                "subject": message.name[11:],
                "preview_text": f"From {shop.name}",
                "from_email": f"hello@{shop.domain}",
                "from_label": shop.name,
                "reply_to_email": None,
                "cc_email": None,
                "bcc_email": None,
            }
            return {"channel": "email", "label": message.name, "content": content}
        case "sms":
            return {
                "channel": "sms",
                "content": {"body": f"{message.name[11:]} https://{shop.domain}", "media_url": None},
                "render_options": {
                    "shorten_links": True,
                    "add_org_prefix": True,
                    "add_info_link": True,
                    "add_opt_out_language": False,
                },
            }
        case _:
            return {
                "channel": "mobile_push",
                "notification_type": "standard",
                "content": {"title": message.name[11:], "body": shop.name, "dynamic_image": None},
                "kv_pairs": {},
            }


# flows, lists, segments, metrics ------------------------------------------------------------------------------------


def flows(ask: Ask) -> Object:
    """Flows; archived ones only when the filter asks for them."""
    conditions = ask.conditions()
    wants_archived = any(each.field == "archived" and each.value is True for each in conditions)
    found = [each for each in ask.state.business.mail.flows(ask.account.shop) if each.is_archived == wants_archived]
    objects = _filtered([_flow(ask, each) for each in found], conditions, {"archived"})
    return page(ask, _sorted(objects, ask.sort("-updated")))


def _flow(ask: Ask, flow: Flow) -> Object:
    created = day_start(ask.account.shop.time_zone, flow.first_day)
    attributes = {
        "name": flow.name,
        "status": flow.status,
        "archived": flow.is_archived,
        "created": text_of(created),
        "updated": text_of(created + dt.timedelta(days=30)),
        "trigger_type": flow.trigger_type,
    }
    each = obj(ask, "flow", "flows", flow.flow_id, attributes)
    each["relationships"] = {name: relation(ask, "flows", flow.flow_id, name) for name in ("flow-actions", "tags")}
    return each


def _list_id(ask: Ask, name: str) -> str:
    return short_id(ask.state.seed, ask.account.account_id, "list", name)


def lists(ask: Ask) -> Object:
    objects = [_audience(ask, "list", name, {"opt_in_process": "single_opt_in"}) for name in LISTS]
    return page(ask, _sorted(_filtered(objects, ask.conditions(), frozenset()), ask.sort("-created")))


def segments(ask: Ask) -> Object:
    objects = []
    for number, name in enumerate(SEGMENTS):
        definition = {"condition_groups": [{"conditions": [_member_of(_list_id(ask, "Newsletter"))]}]}
        more = {
            "definition": definition,
            "is_active": True,
            "is_processing": False,
            "is_starred": number < 2,
        }
        objects.append(_audience(ask, "segment", name, more))
    return page(ask, _sorted(_filtered(objects, ask.conditions(), frozenset()), ask.sort("-created")))


def _member_of(list_id: str) -> Object:
    return {
        "type": "profile-group-membership",
        "is_member": True,
        "group_ids": [list_id],
        "timeframe_filter": {"type": "date", "operator": "in-the-last", "unit": "day", "quantity": 30},
    }


def _audience(ask: Ask, kind: str, name: str, more: Mapping[str, Any]) -> Object:
    identity = short_id(ask.state.seed, ask.account.account_id, kind, name)
    offset = dt.timedelta(seconds=digest(identity) % (300 * 86_400))
    created = day_start(ask.account.shop.time_zone, FIRST_DAY) + offset
    attributes = {
        "name": name,
        "created": text_of(created),
        "updated": text_of(created + dt.timedelta(days=3)),
        **more,
    }
    each = obj(ask, kind, f"{kind}s", identity, attributes)
    each["relationships"] = {
        related: relation(ask, f"{kind}s", identity, related) for related in ("profiles", "tags", "flow-triggers")
    }
    return each


def metrics(ask: Ask) -> Object:
    created = day_start(ask.account.shop.time_zone, FIRST_DAY)
    objects = []
    for name, integration in METRICS:
        attributes = {
            "name": name,
            "created": text_of(created),
            "updated": text_of(created + dt.timedelta(days=1)),
            "integration": {
                "object": "integration",
                "id": short_id("integration", integration),
                "key": integration.lower(),
                "name": integration,
                "category": "eCommerce" if integration == "Shopify" else integration,
            },
        }
        objects.append(obj(ask, "metric", "metrics", metric_id(ask.state, ask.account, name), attributes))
        objects[-1]["relationships"] = {
            "flow-triggers": relation(ask, "metrics", objects[-1]["id"], "flow-triggers"),
        }
    return page(ask, _filtered(objects, ask.conditions(), frozenset()))


# filtering and sorting ----------------------------------------------------------------------------------------------


def _filtered(
    objects: list[Object], conditions: Sequence[filters.Condition], handled: frozenset[str] | set[str]
) -> list[Object]:
    """The objects for which all conditions hold, except those on fields that are `handled` already."""
    for condition in conditions:
        if condition.field not in handled:
            objects = [each for each in objects if _holds(each, condition)]
    return objects


def _holds(each: Object, condition: filters.Condition) -> bool:
    value = each["id"] if condition.field == "id" else each["attributes"]
    for key in () if condition.field == "id" else condition.field.split("."):
        value = value[key]
    match condition.operator:
        case "equals":
            return bool(value == condition.value)
        case "any":
            return isinstance(condition.value, tuple) and value in condition.value
        case "contains":
            return str(condition.value).lower() in str(value).lower()
        case "starts-with":
            return str(value).startswith(str(condition.value))
        case "ends-with":
            return str(value).endswith(str(condition.value))
        case operator:
            return _compares(str(value), operator, condition)


def _compares(value: str, operator: str, condition: filters.Condition) -> bool:
    try:
        limit = filters.instant(condition)
    except filters.FilterError as error:
        raise invalid(str(error), {"parameter": "filter"}) from error
    instant = dt.datetime.fromisoformat(value)
    return {
        "greater-than": instant > limit,
        "greater-or-equal": instant >= limit,
        "less-than": instant < limit,
        "less-or-equal": instant <= limit,
    }[operator]


def _sorted(objects: list[Object], key: str) -> list[Object]:
    name = key.lstrip("-")

    def value(each: Object) -> tuple[str, str]:
        return str(each["id"] if name == "id" else each["attributes"][name]), str(each["id"])

    return sorted(objects, key=value, reverse=key.startswith("-"))
