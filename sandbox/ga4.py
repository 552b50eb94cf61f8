"""Google Analytics, mounted under /ga4: the Data API v1beta and the part of the Admin API that tells of a property.

https://developers.google.com/analytics/devguides/reporting/data/v1/rest,
https://developers.google.com/analytics/devguides/config/admin/v1/rest
"""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from sandbox import ga4_errors as errors
from sandbox import ga4_reports as reports
from sandbox.faults import RECORD_ACTIONS, RecordShape, Rule, spoil
from sandbox.ga4_errors import GoogleError
from sandbox.ga4_json import normal, without_defaults
from sandbox.ga4_query import ReportQuery, check_compatible, read_dimensions, read_metrics, read_report
from sandbox.ga4_quota import Quota, cost
from sandbox.ga4_reports import Report, Result
from sandbox.ga4_schema import DIMENSIONS, MAX_BATCH, METRICS, is_compatible
from sandbox.service import Call, json_response, vendor_route
from sandbox.settings import ga4_settings
from sandbox.shops import FIRST_DAY, VendorAccount
from sandbox.state import State
from sandbox.visits import VisitCell

SCOPES = frozenset(
    {
        "https://www.googleapis.com/auth/analytics.readonly",
        "https://www.googleapis.com/auth/analytics",
        "https://analyticsdata.googleapis.com/",
        "https://analyticsadmin.googleapis.com/",
    }
)
"""What a token must be for: a scope, or for a service account's own JWT the API."""
_CACHED_ROWS = 600_000
_COMPATIBLE, _INCOMPATIBLE = "COMPATIBLE", "INCOMPATIBLE"

Work = Callable[[Call, VendorAccount], dict[str, Any]]


class GoogleAnalytics:
    """The vendor: how it names accounts and words its failures."""

    name = "ga4"

    def account_of(self, call: Call) -> str:
        name = str(call.request.path_params.get("property", ""))
        return name if name.isdigit() else ""

    def failure(self, rule: Rule, call: Call) -> Response | None:
        match rule.action:
            case "too_much_data":
                return None
            case "expired_token":
                return _refusal(errors.unauthenticated())
        status = int(rule.params.get("status", 500))
        if status >= 500 and call.account:
            Quota(call.state, call.account).server_error()
        headers = {"retry-after": str(rule.params["retry_after"])} if "retry_after" in rule.params else None
        return _refusal(_fault_error(rule, status), headers)


def _fault_error(rule: Rule, status: int) -> GoogleError:
    """A rule may name the quota that is used up, or a message of its own."""
    if "message" in rule.params:
        return GoogleError(status, str(rule.params["message"]))
    if status == 429:
        return errors.quota_exhausted(str(rule.params.get("quota", "concurrentRequests")))
    match status:
        case 401:
            return errors.unauthenticated()
        case 403:
            return errors.no_permission()
        case 400 | 404:
            return GoogleError(status, "Request contains an invalid argument." if status == 400 else "Not found.")
        case _:
            return errors.server_error(status)


def _refusal(error: GoogleError, headers: Mapping[str, str] | None = None) -> Response:
    extra = dict(headers or {})
    if error.status == 401:
        extra["www-authenticate"] = 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
    return json_response(error.body(), error.status, extra, "application/json; charset=UTF-8")


def routes(state: State) -> list[Route]:
    """The Data API under /v1beta, the Admin API there and under /admin/v1beta; to be mounted under /ga4."""
    vendor, api = GoogleAnalytics(), DataApi(state)

    def route(path: str, endpoint: str, work: Work, method: str = "GET", is_metered: bool = False) -> Route:
        return vendor_route(state, vendor, path, endpoint, _handler(work, is_metered), (method,))

    prefix = "/v1beta/properties/{property}"
    return [
        route(f"{prefix}:runReport", "runReport", api.run_report, "POST", True),
        route(f"{prefix}:batchRunReports", "batchRunReports", api.batch_run_reports, "POST", True),
        route(f"{prefix}:checkCompatibility", "checkCompatibility", api.check_compatibility, "POST"),
        route(f"{prefix}/metadata", "metadata", api.metadata),
        route(prefix, "property", api.admin_property),
        route(f"/admin{prefix}", "property", api.admin_property),
    ]


def _handler(work: Work, is_metered: bool) -> Callable[[Call], Awaitable[Response]]:
    async def handle(call: Call) -> Response:
        try:
            account = _authorised(call)
            with _metered(call, account) if is_metered else contextlib.nullcontext():
                body = await run_in_threadpool(work, call, account)
        except GoogleError as error:
            return _refusal(error)
        return json_response(body, media_type="application/json; charset=UTF-8")

    return handle


@contextlib.contextmanager
def _metered(call: Call, account: VendorAccount) -> Iterator[None]:
    """Counts the request as running. Raises GoogleError when a quota is used up."""
    quota = Quota(call.state, account.account_id)
    quota.enter()
    try:
        yield
    finally:
        quota.leave()


def _authorised(call: Call) -> VendorAccount:
    """The property of the call. Raises GoogleError unless the bearer token may read it."""
    kind, _, text = call.request.headers.get("authorization", "").partition(" ")
    tokens = call.state.tokens
    token = (tokens.valid(text) or tokens.from_jwt(text)) if kind.lower() == "bearer" else None
    if token is None:
        raise errors.unauthenticated()
    if not token.scopes & SCOPES:
        raise errors.scope_insufficient()
    name = str(call.request.path_params["property"])
    if not name.isdigit():
        raise errors.not_a_property(name)
    account = call.state.business.account("GA4", name)
    if account is None:
        raise errors.no_permission()
    if ga4_settings(call.state, name).is_api_disabled:
        raise errors.api_disabled(f"{call.state.seed:012d}")
    return account


def _request(call: Call) -> Any:
    try:
        return normal(call.json()) if call.body else {}
    except ValueError:
        raise errors.invalid("Invalid JSON payload received. Unexpected end of string.") from None


class DataApi:
    """The API over one state."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._cache: OrderedDict[tuple[object, ...], Result] = OrderedDict()
        self._cache_lock = threading.Lock()

    def run_report(self, call: Call, account: VendorAccount) -> dict[str, Any]:
        """properties.runReport"""
        query = read_report(_request(call), self._state.as_of(account))
        return {**self._report(call, account, query), "kind": "analyticsData#runReport"}

    def batch_run_reports(self, call: Call, account: VendorAccount) -> dict[str, Any]:
        """properties.batchRunReports"""
        body = _request(call)
        requests = body.get("requests", []) if isinstance(body, Mapping) else []
        if not 1 <= len(requests) <= MAX_BATCH:
            raise errors.invalid(f"A batch requires 1 to {MAX_BATCH} requests. This batch has {len(requests)}.")
        today = self._state.as_of(account)
        queries = [read_report(request, today) for request in requests]
        each = [{**self._report(call, account, query), "kind": "analyticsData#runReport"} for query in queries]
        return {"reports": each, "kind": "analyticsData#batchRunReports"}

    def _report(self, call: Call, account: VendorAccount, query: ReportQuery) -> dict[str, Any]:
        result = self._result(account, query)
        every = [row.as_json() for row in result.rows]
        if any(rule.action in RECORD_ACTIONS for rule in call.faults):
            every = _spoiled(every, call, query)
        rows = every[query.offset : query.offset + query.limit]
        body = {
            **reports.headers(query),
            "rows": rows,
            **{name: [row.as_json() for row in found] for name, found in result.aggregates.items()},
            "rowCount": len(every),
            "metadata": self._metadata_of(call, account, query, result),
        }
        columns = len(query.dimensions) + len(query.metrics)
        quota = Quota(self._state, account.account_id)
        if ga4_settings(self._state, account.account_id).withholds_below:
            quota.thresholded()
        status = quota.spend(cost(query.days, columns, len(rows)))
        return without_defaults({**body, "propertyQuota": status if query.returns_quota else None})

    def _result(self, account: VendorAccount, query: ReportQuery) -> Result:
        """The whole report. Those asked for last are kept, since the pages of one come one after the other."""
        settings, as_of = ga4_settings(self._state, account.account_id), self._state.as_of(account)
        key = (account.account_id, as_of, repr(settings), query.result_key())
        with self._cache_lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        result = Report(account.shop, query, self._cells(account), settings).result()
        with self._cache_lock:
            self._cache[key] = result
            while len(self._cache) > 1 and sum(len(each.rows) for each in self._cache.values()) > _CACHED_ROWS:
                self._cache.popitem(last=False)
        return result

    def _cells(self, account: VendorAccount) -> Callable[[dt.date], Iterable[VisitCell]]:
        as_of = self._state.as_of(account)
        extra = ga4_settings(self._state, account.account_id).extra_rows

        def cells(day: dt.date) -> Iterable[VisitCell]:
            known = self._state.business.visit_cells(account, day, as_of)
            return chain(known, reports.extra_cells(account.shop, day, extra)) if extra and known else known

        return cells

    @staticmethod
    def _metadata_of(call: Call, account: VendorAccount, query: ReportQuery, result: Result) -> dict[str, Any]:
        fault = call.fault("metadata")
        return without_defaults(
            {
                "currencyCode": query.currency or account.shop.currency,
                "timeZone": account.shop.time_zone,
                **result.flags,
                **ga4_settings(call.state, account.account_id).metadata,
                **(fault.params if fault is not None else {}),
            }
        )

    def check_compatibility(self, call: Call, account: VendorAccount) -> dict[str, Any]:
        """properties.checkCompatibility: which fields could be added to the named ones."""
        body = _request(call)
        _, dimensions = read_dimensions(body.get("dimensions"))
        _, metrics = read_metrics(body.get("metrics"))
        check_compatible(dimensions, metrics)
        asked = body.get("compatibilityFilter")
        beside = [
            {
                "dimensionMetadata": each.metadata(),
                "compatibility": _word(all(is_compatible(each.name, one.name) for one in metrics)),
            }
            for each in DIMENSIONS.values()
        ]
        measured = [
            {
                "metricMetadata": each.metadata(),
                "compatibility": _word(all(is_compatible(one.name, each.name) for one in dimensions)),
            }
            for each in METRICS.values()
        ]
        wanted = (_COMPATIBLE, _INCOMPATIBLE) if asked in (None, "COMPATIBILITY_UNSPECIFIED") else (asked,)
        return {
            "dimensionCompatibilities": [entry for entry in beside if entry["compatibility"] in wanted],
            "metricCompatibilities": [entry for entry in measured if entry["compatibility"] in wanted],
        }

    def metadata(self, call: Call, account: VendorAccount) -> dict[str, Any]:
        """properties.getMetadata"""
        restricted = ga4_settings(self._state, account.account_id).restricted
        metrics = []
        for each in METRICS.values():
            entry = each.metadata()
            if each.restriction in restricted:
                entry["blockedReasons"] = [
                    "NO_COST_METRICS" if each.restriction == "COST_DATA" else "NO_REVENUE_METRICS"
                ]
            metrics.append(entry)
        return {
            "name": f"properties/{account.account_id}/metadata",
            "dimensions": [each.metadata() for each in DIMENSIONS.values()],
            "metrics": metrics,
        }

    @staticmethod
    def admin_property(call: Call, account: VendorAccount) -> dict[str, Any]:
        """The Admin API's properties.get"""
        made = f"{FIRST_DAY.isoformat()}T00:00:00Z"
        return {
            "name": f"properties/{account.account_id}",
            "parent": f"accounts/{account.account_id[:8]}",
            "account": f"accounts/{account.account_id[:8]}",
            "createTime": made,
            "updateTime": made,
            "displayName": account.name,
            "industryCategory": "SHOPPING",
            "timeZone": account.shop.time_zone,
            "currencyCode": account.shop.currency,
            "serviceLevel": "GOOGLE_ANALYTICS_STANDARD",
            "propertyType": "PROPERTY_TYPE_ORDINARY",
        }


def _word(is_fit: bool) -> str:
    return _COMPATIBLE if is_fit else _INCOMPATIBLE


def _spoiled(rows: list[dict[str, Any]], call: Call, query: ReportQuery) -> list[dict[str, Any]]:
    """The rows with what record faults make of them: flat records for the moment of spoiling, rows again after it."""
    dimensions = [*query.asked_dimensions, *(("dateRange",) if query.has_date_range_dimension else ())]
    metrics = list(query.asked_metrics)
    if not rows or not dimensions or not metrics:
        return rows
    flat = [
        dict(
            zip(
                (*dimensions, *metrics),
                (each["value"] for each in (*row["dimensionValues"], *row["metricValues"])),
                strict=True,
            )
        )
        for row in rows
    ]
    text = next((name for name in reversed(dimensions) if name != "date"), dimensions[-1])
    shape = RecordShape((text,), (text,), (metrics[0],))
    return [_unflattened(record, dimensions, metrics) for record in spoil(flat, call.faults, shape)]


def _unflattened(record: dict[str, Any], dimensions: list[str], metrics: list[str]) -> dict[str, Any]:
    extra = {name: value for name, value in record.items() if name not in dimensions and name not in metrics}
    return {
        "dimensionValues": [{"value": record[name]} for name in dimensions if name in record],
        "metricValues": [{"value": record[name]} for name in metrics if name in record],
        **extra,
    }
