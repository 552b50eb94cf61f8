"""What Klaviyo lists: campaigns, flows, audiences, metrics, events, profiles. JSON:API, page after page.

https://developers.klaviyo.com/en/reference/api_overview
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from penstock.core.errors import error
from penstock.sources.fields import Checker, compile_fields, excerpt, expect_list, find, optional, required
from penstock.sources.stream import Account, Kind, Page, Record, Request, Row, Slice, Stream

PLACED_ORDER = "Placed Order"

NO_PAGE_SIZE = 1  # of endpoints that take no wish: there is nothing to halve

# The largest pages that the endpoints allow.
PAGE_SIZES = {
    "campaigns": 100,
    "flows": 50,
    "lists": 10,
    "segments": 10,
    "metrics": NO_PAGE_SIZE,
    "events": 1000,
    "profiles": 100,
}
CHANNELS = ("email", "sms", "mobile_push")  # a campaign listing has to name one
BOTH = ("false", "true")  # archived objects are left out unless asked for


# -- JSON:API ----------------------------------------------------------------------------------------------------


def next_cursor(body: Any) -> str | None:
    """The cursor in `links.next`. Its host is checked by the client; the link itself is not followed."""
    link = find(body, "links", "next") or find(body, "data", "links", "next")
    if link is None:
        return None
    query = parse_qs(urlsplit(str(link)).query)
    values = query.get("page[cursor]") or query.get("page_cursor")
    if not values:
        raise error("SCHEMA_MISMATCH", f"links.next has no page[cursor], got {excerpt(link)}")
    return values[0]


def resource_page(body: Any, request: Request) -> Page:
    records = expect_list(body, "data")
    token = next_cursor(body)
    return Page(records, token)


def listing(family: str, params: Mapping[str, str]) -> Callable[[Account, Slice, str | None], Request]:
    def request(account: Account, window: Slice, token: str | None) -> Request:
        return list_page(family, params, window, token)

    return request


def list_page(family: str, params: Mapping[str, str], window: Slice, token: str | None) -> Request:
    """One page of a listing; its rate-limit family has the name of its path."""
    found = {**params, "page[size]": str(window.page_size or PAGE_SIZES[family])}
    if token:
        found["page[cursor]"] = token
    return Request("GET", f"api/{family}", found, limit=family)


def instant(moment: dt.datetime) -> str:
    """An instant for a filter: in UTC, so that no zone is left to interpretation."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def bounds(window: Slice) -> tuple[dt.datetime, dt.datetime]:
    if window.start is None or window.end is None:
        raise ValueError(f"slice {window.slice_no} of {window.stream} has no window")
    return window.start, window.end


def drop_links(resource: Record) -> None:
    """Takes out the addresses of a resource and of its relations. They repeat its ids and say nothing else; of an event
    they are half, and a new host name or path would make a changed record of every one.

    https://jsonapi.org/format/#document-resource-object-links
    """
    resource.pop("links", None)
    relationships = resource.get("relationships")
    if type(relationships) is dict:
        for relation in relationships.values():
            if type(relation) is dict:
                relation.pop("links", None)


def read_resource(check: Checker, updated: str) -> Callable[[Record, Account], Row]:
    def row(record: Record, account: Account) -> Row:
        check(record)
        drop_links(record)
        return Row(str(record["id"]), None, record["attributes"].get(updated), record)

    return row


def resource_checks(created: str, updated: str) -> Checker:
    return compile_fields(
        (
            *required("id", "id"),
            *required("object", "attributes"),
            *optional("text", "attributes/name", "attributes/status"),
            *optional("boolean", "attributes/archived"),
            *optional("timestamp", f"attributes/{created}", f"attributes/{updated}"),
        )
    )


# -- campaigns, flows, audiences, metrics ------------------------------------------------------------------------


def ask_campaigns(account: Account, window: Slice, token: str | None) -> Request:
    filters = f"equals(messages.channel,'{window.params['channel']}'),equals(archived,{window.params['archived']})"
    params = {"filter": filters, "include": "campaign-messages", "sort": "id"}
    return list_page("campaigns", params, window, token)


def parse_campaigns(body: Any, request: Request) -> Page:
    page = resource_page(body, request)
    included = {item.get("id"): item for item in find(body, "included") or () if type(item) is dict}
    for message in included.values():
        drop_links(message)
    for record in page.records:
        links = find(record, "relationships", "campaign-messages", "data") or ()
        if type(record) is dict:
            record["campaign_messages"] = [
                included[link["id"]] for link in links if type(link) is dict and link.get("id") in included
            ]
    return page


def ask_flows(account: Account, window: Slice, token: str | None) -> Request:
    params = {"filter": f"equals(archived,{window.params['archived']})", "sort": "id"}
    return list_page("flows", params, window, token)


def ask_metrics(account: Account, window: Slice, token: str | None) -> Request:
    """The one listing without a page size."""
    return Request("GET", "api/metrics", {"page[cursor]": token} if token else {}, limit="metrics")


check_campaign = compile_fields(
    (
        *required("id", "id"),
        *required("object", "attributes"),
        *optional("text", "attributes/name", "attributes/status"),
        *optional("boolean", "attributes/archived"),
        *optional(
            "timestamp",
            "attributes/created_at",
            "attributes/updated_at",
            "attributes/scheduled_at",
            "attributes/send_time",
        ),
    )
)


def campaign_variants(account: Account) -> Sequence[Mapping[str, str]]:
    return tuple({"channel": channel, "archived": archived} for channel in CHANNELS for archived in BOTH)


def archived_variants(account: Account) -> Sequence[Mapping[str, str]]:
    return tuple({"archived": archived} for archived in BOTH)


def entity_stream(
    name: str,
    request: Callable[[Account, Slice, str | None], Request],
    *,
    is_default: bool = True,
    variants: Callable[[Account], Sequence[Mapping[str, str]]] = lambda account: ({},),
) -> Stream:
    return Stream(
        name=name,
        table=name,
        kind=Kind.ENTITY,
        request=request,
        parse=resource_page,
        row=read_resource(resource_checks("created", "updated"), "updated"),
        page_size=PAGE_SIZES[name],
        variants=variants,
        is_default=is_default,
    )


# -- events and profiles -----------------------------------------------------------------------------------------


def metric_id(account: Account, name: str) -> str | None:
    """The account's id of a metric that we know by this name; None when it has none yet.

    Orders and revenue are counted by the metric that the account has chosen, whatever it is called there.
    """
    chosen = account.settings.get("conversion_metric_id") if name == PLACED_ORDER else None
    found = chosen or (account.facts.get("metrics") or {}).get(name)
    return None if found is None else str(found)


def event_variants(account: Account) -> Sequence[Mapping[str, str]]:
    """One slice per chosen metric that this account has, and always one of the orders: they are checked against the
    vendor's own total. A metric that goes by two names is read once."""
    chosen = account.settings.get("event_metrics") or ()
    names = {metric_id(account, name): name for name in (*chosen, PLACED_ORDER)}
    return tuple({"metric": name} for identity, name in names.items() if identity)


def ask_events(account: Account, window: Slice, token: str | None) -> Request:
    start, end = bounds(window)
    filters = (
        f"equals(metric_id,'{metric_id(account, window.params['metric'])}'),"
        f"greater-or-equal(datetime,{instant(start)}),less-than(datetime,{instant(end)})"
    )
    params = {"filter": filters, "sort": "datetime"}
    return replace(list_page("events", params, window, token), unread="data")


check_event = compile_fields(
    (
        *required("id", "id"),
        *required("timestamp", "attributes/datetime"),
        *required("id", "relationships/metric/data/id"),
        *optional("id", "relationships/profile/data/id"),
        *optional("object", "attributes/event_properties"),
        *optional("decimal", "attributes/event_properties/$value"),
    )
)


def read_event(record: Record, account: Account) -> Row:
    check_event(record)
    drop_links(record)
    moment = record["attributes"]["datetime"]
    day = dt.datetime.fromisoformat(moment).astimezone(account.zone).date()
    return Row(str(record["id"]), day, moment, record)


# Names, addresses and phone numbers stay at the vendor.
PROFILE_FIELDS = "created,updated,last_event_date,external_id,location.country,location.region"
