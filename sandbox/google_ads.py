"""The Google Ads API over REST, mounted under /google_ads: searchStream, search, listAccessibleCustomers.

https://developers.google.com/google-ads/api/rest/overview
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from sandbox import google_ads_errors as errors
from sandbox.faults import RecordShape, Rule, spoil
from sandbox.google_ads_business import Customer, SearchDay, SearchModel
from sandbox.google_ads_errors import AdsError
from sandbox.google_ads_query import FIELDS, Query, read_query
from sandbox.ledger import Window
from sandbox.service import Call, Handler, json_response, vendor_route
from sandbox.shops import digest
from sandbox.state import State

SCOPE = "https://www.googleapis.com/auth/adwords"
OLDEST_VERSION = 23
NEWEST_VERSION = 26
BATCH_ROWS = 10_000
PER_SECOND = Window(10, 1.0, "requests per customer")
PER_DAY = Window(15_000, 86_400.0, "operations per developer token")
"""Basic access: https://developers.google.com/google-ads/api/docs/access-levels"""

Work = Callable[[Call], Response]

_CONTENT = "application/json; charset=UTF-8"
_SHAPE = RecordShape(("adGroupAd", "ad", "id"), ("adGroupAd", "ad", "name"), ("metrics", "costMicros"))
_numbers = itertools.count(1)


class GoogleAds:
    """The vendor: how it names accounts and words its failures."""

    name = "google_ads"

    def account_of(self, call: Call) -> str:
        return str(call.request.path_params.get("customer", ""))

    def failure(self, rule: Rule, call: Call) -> Response | None:
        match rule.action:
            case "too_much_data":
                error = errors.internal(504)
            case "expired_token":
                error = errors.revoked()
            case _:
                error = _fault_error(rule)
        headers = {"retry-after": str(rule.params["retry_after"])} if "retry_after" in rule.params else {}
        return _refusal(error, call, headers)


def _fault_error(rule: Rule) -> AdsError:
    """A rule may name the error it wants, or how long a used-up quota lasts."""
    status = int(rule.params.get("status", 500))
    if "kind" in rule.params:
        message = str(rule.params.get("message", "Refused."))
        return AdsError(status, message, str(rule.params["kind"]), str(rule.params["name"]))
    if status == 429:
        seconds = float(rule.params.get("retry_delay", 30))
        return errors.exhausted(seconds, str(rule.params.get("scope", "DEVELOPER")))
    named = {401: errors.unauthenticated, 403: errors.no_permission}
    return named[status]() if status in named else errors.internal(status)


def routes(state: State) -> list[Route]:
    """To be mounted under /google_ads."""
    vendor = GoogleAds()

    def route(path: str, endpoint: str, work: Work, method: str = "POST") -> Route:
        return vendor_route(state, vendor, path, endpoint, _handler(work), (method,))

    return [
        route("/{version}/customers:listAccessibleCustomers", "listAccessibleCustomers", _accessible, "GET"),
        route("/{version}/customers/{customer}/googleAds:searchStream", "searchStream", _search_stream),
        route("/{version}/customers/{customer}/googleAds:search", "search", _search),
    ]


def model_of(state: State) -> SearchModel:
    """The customers and their ads."""
    memory = state.remembered("google_ads")
    if "model" not in memory:
        memory["model"] = SearchModel(state.business)
    model: SearchModel = memory["model"]
    return model


def developer_token(state: State) -> str:
    return f"{digest(state.seed, 'developer token'):022d}"[-22:]


def switches(state: State, customer_id: str) -> dict[str, Any]:
    """What a test has changed of a customer: `status`, `manager`."""
    found: dict[str, Any] = state.remembered("google_ads").setdefault("switches", {}).setdefault(customer_id, {})
    return found


def _handler(work: Work) -> Handler:
    async def serve(call: Call) -> Response:
        try:
            return await run_in_threadpool(work, call)
        except AdsError as error:
            return _refusal(error, call)

    return serve


def _refusal(error: AdsError, call: Call, headers: Mapping[str, str] | None = None) -> Response:
    request_id = f"sandbox-{next(_numbers)}"
    body: Any = error.body(request_id)
    if call.endpoint == "searchStream":
        body = [body]
    return json_response(body, error.status, {"request-id": request_id, **(headers or {})}, _CONTENT)


def _accessible(call: Call) -> Response:
    _enter(call)
    model = model_of(call.state)
    direct = [each.account.account_id for each in model.customers if each.is_direct]
    names = [f"customers/{customer_id}" for customer_id in (*direct, model.manager_id)]
    return json_response({"resourceNames": names}, 200, {"request-id": f"sandbox-{next(_numbers)}"}, _CONTENT)


def _search_stream(call: Call) -> Response:
    """An array of batches; nothing found is an empty array."""
    query, rows = _answered(call)
    request_id = f"sandbox-{next(_numbers)}"
    batches: list[dict[str, Any]] = [
        {"results": rows[start : start + BATCH_ROWS], "fieldMask": _mask(query), "requestId": request_id}
        for start in range(0, len(rows), BATCH_ROWS)
    ]
    broken = call.fault("metadata")
    if broken is not None and batches:  # the stream breaks off after it has begun: the status was 200 long ago
        batches[-1] = {"results": rows[: len(rows) // 2], "fieldMask": _mask(query), "requestId": request_id}
        batches.append(errors.internal(int(broken.params.get("status", 500))).body(request_id))
    if batches and "error" not in batches[-1]:
        batches[-1]["queryResourceConsumption"] = str(len(rows) * 3)
    return json_response(batches, 200, {"request-id": request_id}, _CONTENT)


def _search(call: Call) -> Response:
    """Pages of 10,000, which nobody may change."""
    if "pageSize" in call.json():
        message = "Setting the page size is not supported. Search Responses will have fixed page size of '10000' rows."
        raise AdsError(400, message, "requestError", "PAGE_SIZE_NOT_SUPPORTED")
    query, rows = _answered(call)
    start = int(call.json().get("pageToken") or 0)
    body: dict[str, Any] = {"results": rows[start : start + BATCH_ROWS], "fieldMask": _mask(query)}
    if start + BATCH_ROWS < len(rows):
        body["nextPageToken"] = str(start + BATCH_ROWS)
    return json_response(body, 200, {"request-id": f"sandbox-{next(_numbers)}"}, _CONTENT)


def _answered(call: Call) -> tuple[Query, list[dict[str, Any]]]:
    customer = _enter(call)
    try:
        body = call.json()
    except ValueError as error:
        raise AdsError(400, "Invalid JSON payload received.") from error
    query = read_query(body.get("query") if isinstance(body, dict) else None)
    rows = list(_rows(call.state, customer, query))
    rows = spoil(rows, call.faults, _SHAPE) if query.resource == "ad_group_ad" else rows
    return query, rows[: query.limit] if query.limit else rows


# -- the door


def _enter(call: Call) -> Customer | None:
    """Who calls, for whom, how often. Raises AdsError. None: the manager account itself, or no customer at all."""
    request, state = call.request, call.state
    version = str(request.path_params["version"])
    if not re.fullmatch(r"v\d+", version) or not OLDEST_VERSION <= int(version[1:]) <= NEWEST_VERSION:
        raise errors.unsupported_version(version)
    _authenticate(call)
    given = request.headers.get("developer-token", "")
    if not given:
        raise errors.developer_token_missing()
    if given != developer_token(state):
        raise errors.developer_token_invalid()
    _count(call, given)
    return _customer(call) if call.account else None


def _authenticate(call: Call) -> None:
    scheme, _, token = call.request.headers.get("authorization", "").partition(" ")
    found = call.state.tokens.valid(token) if scheme == "Bearer" else None
    if found is None:
        raise errors.unauthenticated()
    if SCOPE not in found.scopes:
        raise AdsError(403, "Request had insufficient authentication scopes.")


def _count(call: Call, given: str) -> None:
    ledger, now = call.state.ledger, call.state.clock.monotonic()
    of_day = ledger.take("google_ads", given, "operations", (PER_DAY,), now)
    if not of_day.is_granted:
        raise errors.exhausted(of_day.retry_after)
    of_second = ledger.take("google_ads", call.account, "requests", (PER_SECOND,), now)
    if not of_second.is_granted:
        raise errors.too_fast(of_second.retry_after)


def _customer(call: Call) -> Customer | None:
    model = model_of(call.state)
    manager = call.request.headers.get("login-customer-id", "")
    if manager and not manager.isdigit():
        raise AdsError(400, "The login customer id is not valid.", "headerError", "INVALID_LOGIN_CUSTOMER_ID")
    if call.account == model.manager_id:
        return None
    customer = model.customer(call.account)
    if customer is None:
        raise errors.unknown_customer(call.account)
    if manager != model.manager_id and not (customer.is_direct and manager in ("", call.account)):
        raise errors.no_permission()
    if switches(call.state, call.account).get("status", "ENABLED") != "ENABLED":
        raise errors.not_enabled()
    return customer


# -- rows


def _rows(state: State, customer: Customer | None, query: Query) -> Iterator[dict[str, Any]]:
    if customer is None and query.has_metrics:
        raise errors.bad_query(
            "REQUESTED_METRICS_FOR_MANAGER",
            "Metrics cannot be requested for a manager account. To retrieve metrics, issue separate requests against "
            "each client account under the manager account.",
        )
    for values in _values(state, customer, query):
        if all(test(values[field]) for field, test in query.tests):
            yield _row(values, query)


def _values(state: State, customer: Customer | None, query: Query) -> Iterator[dict[str, Any]]:
    """What each row knows, by field."""
    model = model_of(state)
    if query.resource == "customer_client":
        yield from _clients(state, model, customer)
        return
    head = _head(state, model, customer)
    if customer is None or not (query.has_metrics or query.is_by_day):
        if query.resource == "customer":
            yield head
        return
    depth = {"customer": 0, "campaign": 1, "ad_group": 2, "ad_group_ad": 3}[query.resource]
    sums: dict[tuple[Any, ...], list[SearchDay]] = {}
    for day in _delivered(state, model, customer, query):
        ids = (day.ad.campaign_id, day.ad.ad_group_id, day.ad.ad_id)[:depth]
        sums.setdefault(((day.day,) if query.is_by_day else ()) + ids, []).append(day)
    as_of = state.as_of(customer.account)
    for key in sorted(sums):
        ad = sums[key][0].ad
        yield (
            head
            | _measured(sums[key])
            | {
                "segments.date": sums[key][0].day.isoformat(),
                "campaign.id": ad.campaign_id,
                "campaign.name": ad.campaign_name,
                "ad_group.id": ad.ad_group_id,
                "ad_group.name": ad.ad_group_name,
                "ad_group_ad.ad.id": ad.ad_id,
                "ad_group_ad.ad.name": ad.ad_name,
                "ad_group_ad.status": ad.status(as_of),
            }
        )


def _delivered(state: State, model: SearchModel, customer: Customer, query: Query) -> Iterator[SearchDay]:
    as_of = state.as_of(customer.account)
    first, last = query.first or as_of, min(query.last or as_of, as_of)
    for number in range((last - first).days + 1):
        day = first.fromordinal(first.toordinal() + number)
        yield from model.days(customer.account.account_id, day, as_of)


def _measured(days: list[SearchDay]) -> dict[str, Any]:
    return {
        "metrics.impressions": sum(day.impressions for day in days),
        "metrics.clicks": sum(day.clicks for day in days),
        "metrics.cost_micros": sum(day.cost_micros for day in days),
        "metrics.conversions": round(sum(day.conversions for day in days), 2),
        "metrics.conversions_value": round(sum(day.conversions_value for day in days), 2),
    }


def _head(state: State, model: SearchModel, customer: Customer | None) -> dict[str, Any]:
    if customer is None:
        shop, customer_id, name = state.business.shops[0], model.manager_id, "Sandbox manager"
    else:
        shop, customer_id, name = customer.account.shop, customer.account.account_id, customer.account.name
    changed = switches(state, customer_id)
    return {
        "customer.id": int(customer_id),
        "customer.descriptive_name": name,
        "customer.currency_code": shop.currency,
        "customer.time_zone": shop.time_zone,
        "customer.manager": customer is None or bool(changed.get("manager")),
        "customer.status": changed.get("status", "ENABLED"),
    }


def _clients(state: State, model: SearchModel, asked: Customer | None) -> Iterator[dict[str, Any]]:
    """The account that is asked, and those below it: a customer has none."""
    below = [] if asked is not None else [(1, each) for each in model.customers]
    for level, customer in [(0, asked), *below]:
        head = _head(state, model, customer)
        yield _head(state, model, asked) | {
            "customer_client.id": head["customer.id"],
            "customer_client.manager": head["customer.manager"],
            "customer_client.level": level,
            "customer_client.descriptive_name": head["customer.descriptive_name"],
            "customer_client.status": head["customer.status"],
        }


def _row(values: Mapping[str, Any], query: Query) -> dict[str, Any]:
    """The asked fields as nested JSON in camel case, with the resource names that the vendor always adds."""
    row: dict[str, Any] = {}
    customer = f"customers/{values['customer.id']}"
    for field in query.fields:
        holder = row
        *parents, last = [_camel(part) for part in field.split(".")]
        for parent in parents:
            holder = holder.setdefault(parent, {})
        holder[last] = str(values[field]) if FIELDS[field] == "int64" else values[field]
    names = {
        "customer": customer,
        "campaign": f"{customer}/campaigns/{values.get('campaign.id')}",
        "adGroup": f"{customer}/adGroups/{values.get('ad_group.id')}",
        "adGroupAd": f"{customer}/adGroupAds/{values.get('ad_group.id')}~{values.get('ad_group_ad.ad.id')}",
        "customerClient": f"{customer}/customerClients/{values.get('customer_client.id')}",
    }
    for name in names.keys() & row.keys():
        row[name] = {"resourceName": names[name], **row[name]}
    if "ad" in row.get("adGroupAd", {}):
        row["adGroupAd"]["ad"]["resourceName"] = f"{customer}/ads/{values['ad_group_ad.ad.id']}"
    return row


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _mask(query: Query) -> str:
    return ",".join(".".join(_camel(part) for part in field.split(".")) for field in query.fields)
