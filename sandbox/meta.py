"""Meta's Graph API, mounted under /meta: ad accounts, their objects, insights (at once and as report jobs), batches.

https://developers.facebook.com/docs/graph-api/overview, https://developers.facebook.com/docs/marketing-api/insights
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from sandbox import meta_calls as calls
from sandbox import meta_errors as errors
from sandbox import meta_limits as limits
from sandbox.faults import RecordShape, Rule, spoil
from sandbox.meta_calls import GraphAnswer, GraphRequest
from sandbox.meta_errors import GraphError
from sandbox.meta_fields import REPORT_RUN_FIELDS
from sandbox.meta_insights import InsightsReport, InsightsRow
from sandbox.meta_objects import KINDS, Objects, pick, split_fields
from sandbox.meta_query import Condition, InsightsQuery, read_query
from sandbox.meta_reports import ReportRun, Reports
from sandbox.service import Call, json_response, vendor_route
from sandbox.settings import meta_settings
from sandbox.shops import VendorAccount
from sandbox.state import State

MAX_EDGE_LIMIT = 500
MAX_INSIGHTS_LIMIT = 5_000
MAX_BATCH = 50
"""https://developers.facebook.com/docs/graph-api/batch-requests"""

SCOPES = ("ads_read", "read_insights")

_CACHED_REPORTS = 48
_OBJECT_SHAPE = RecordShape(("id",), ("name",), ("updated_time",))
_REPORT_JOB_FIELDS = (
    "account_id",
    "time_ref",
    "time_completed",
    "async_status",
    "async_percent_completion",
    "error_code",
    "error_subcode",
    "error_message",
    "error_user_title",
    "error_user_msg",
)
"""What a poll without `fields` tells, as far as it has a value."""

_ENDPOINTS = (
    ("/{version}/me/adaccounts", "adaccounts"),
    ("/{version}/me", "me"),
    ("/{version}/debug_token", "debug_token"),
    ("/{version}/act_{account}/campaigns", "campaigns"),
    ("/{version}/act_{account}/adsets", "adsets"),
    ("/{version}/act_{account}/ads", "ads"),
    ("/{version}/act_{account}/insights", "insights"),
    ("/{version}/act_{account}", "account"),
    ("/{version}/{node:int}/insights", "node_insights"),
    ("/{version}/{node:int}", "node"),
    ("/{version}", "batch"),
    ("/{rest:path}", "unknown"),
)
"""Path, also with a slash at its end -> how the ledger calls it. The handler reads the path itself, since it serves
the parts of batches as well."""


class Meta:
    """The vendor: how it names accounts and words its failures."""

    name = "meta"

    def account_of(self, call: Call) -> str:
        request = calls.read(call)
        return request.account_id or _run_account(request)

    def failure(self, rule: Rule, call: Call) -> Response | None:
        request = calls.read(call)
        error = fault_error(rule, request)
        if error is None:
            return None
        answer = calls.refused(error, request)
        account = call.state.business.account("META", call.account)
        if account is not None:
            wait = float(rule.params.get("retry_after", 0))
            usage = limits.Usage(100 if wait else 0, wait)
            answer = answer.with_headers(limits.headers(call.state, account, call.endpoint, usage))
        return _response(answer)


def routes(state: State) -> list[Route]:
    """All paths of the Graph API, to be mounted under /meta."""
    vendor, graph = Meta(), Graph(state)

    async def serve(call: Call) -> Response:
        return _response(await run_in_threadpool(graph.answer, calls.read(call)))

    methods = ("GET", "POST")
    paths = [(path + slash, endpoint) for path, endpoint in _ENDPOINTS for slash in ("", "/")]
    return [vendor_route(state, vendor, path, endpoint, serve, methods) for path, endpoint in paths]


def _run_account(request: GraphRequest) -> str:
    run = Reports(request.state).get(request.parts[0]) if request.parts else None
    return run.account.account_id if run else ""


def _response(answer: GraphAnswer) -> Response:
    return json_response(answer.body, answer.status, dict(answer.headers), "application/json; charset=UTF-8")


def fault_error(rule: Rule, request: GraphRequest) -> GraphError | None:
    """What Graph says for a fault; None: the rule does not concern this call.

    A `status` rule may carry code, subcode and message; without a code the HTTP status decides.
    """
    match rule.action:
        case "expired_token":
            return _token_over(rule, request)
        case "too_much_data":
            return errors.too_much_data() if _is_large(rule, request) else None
    code = rule.params.get("code")
    status = int(rule.params.get("status", 500))
    if code is None:
        error = _by_status(status)
    elif (code, rule.params.get("subcode")) == (100, 33) and request.parts:
        error = errors.unknown_object(request.parts[0])
    else:
        error = errors.by_code(int(code))
    if "status" in rule.params:
        error = replace(error, status=status)
    if "subcode" in rule.params:
        error = replace(error, subcode=int(rule.params["subcode"]))
    return replace(error, message=str(rule.params.get("message", error.message)))


def _token_over(rule: Rule, request: GraphRequest) -> GraphError:
    match rule.params.get("subcode"):
        case 458:
            return errors.revoked_token()
        case 460:
            return errors.password_changed()
        case _:
            return errors.expired_token(request.state.clock.now())


def _is_large(rule: Rule, request: GraphRequest) -> bool:
    """Whether an insights call is above the rule's `above_limit` or `above_days`; without either every one is."""
    if not request.path.endswith("insights"):
        return False
    above_limit, above_days = rule.params.get("above_limit"), rule.params.get("above_days")
    if above_limit is None and above_days is None:
        return True
    if above_limit is not None and request.limit(MAX_INSIGHTS_LIMIT) > int(above_limit):
        return True
    account = request.state.business.account("META", request.account_id)
    if above_days is None or account is None:
        return False
    return read_query(request.params, request.state.as_of(account)).days > int(above_days)


def _by_status(status: int) -> GraphError:
    match status:
        case 401:
            return errors.malformed_token()
        case 403:
            return errors.permission_missing()
        case 429:
            return errors.app_limit()
        case 400 | 404:
            return errors.invalid_parameter("Invalid parameter")
        case 500:
            return errors.unknown_error()
        case _:
            return replace(errors.service_unavailable(), status=status)


class Graph:
    """The API over one state."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._reports = Reports(state)
        self._cache: OrderedDict[tuple[object, ...], list[InsightsRow]] = OrderedDict()
        self._cache_lock = threading.Lock()

    def answer(self, request: GraphRequest) -> GraphAnswer:
        """What Graph says to one call; refusals are answers too."""
        version = {"facebook-api-version": request.version}
        try:
            calls.check_version(request)
            owner = calls.authenticate(request)
            return self._authorised(request, owner).with_headers(version)
        except GraphError as error:
            return calls.refused(error, request).with_headers(version)

    def _authorised(self, request: GraphRequest, owner: VendorAccount) -> GraphAnswer:
        match request.method, request.parts:
            case "POST", []:
                return GraphAnswer(200, self._batch(request))
            case "GET", ["me"]:
                asked = split_fields(request.params.get("fields")) or {"name": ()}
                return self._plain(pick(_user(owner), asked))
            case "GET", ["me", "adaccounts"]:
                nodes = [Objects(self._state, owner).account(request.params.get("fields"))]
                return self._plain(calls.page(request, nodes, request.limit(MAX_EDGE_LIMIT)))
            case "GET", ["debug_token"]:
                return self._plain(self._debug_token(request.params.get("input_token", "")))
            case _, [first, *_] if first.startswith("act_"):
                return self._of_account(request, owner)
            case _, [first, *_] if first.isdigit():
                return self._counted(request, owner, request.parts)
            case _:
                raise errors.unknown_path(request.path)

    def _plain(self, body: Any) -> GraphAnswer:
        return GraphAnswer(200, body, limits.app_header(limits.app_percent(self._state)))

    def _of_account(self, request: GraphRequest, owner: VendorAccount) -> GraphAnswer:
        account = self._state.business.account("META", request.account_id)
        if account is None:
            raise errors.unknown_object(request.parts[0], request.method.lower())
        if account != owner:
            raise errors.no_permission()
        return self._counted(request, account, request.parts)

    def _counted(self, request: GraphRequest, account: VendorAccount, parts: list[str]) -> GraphAnswer:
        """A call that the account's limit counts, with the usage headers."""
        endpoint = self._endpoint(parts)
        usage, over = limits.take(self._state, account, endpoint)
        headers = limits.headers(self._state, account, endpoint, usage)
        if over is not None:
            return calls.refused(over, request).with_headers(headers)
        try:
            body = self._served(request, account, parts)
        except GraphError as error:
            return calls.refused(error, request).with_headers(headers)
        return GraphAnswer(200, body, headers)

    def _endpoint(self, parts: list[str]) -> str:
        if len(parts) > 1:
            return parts[1]
        return "report_run" if self._reports.get(parts[0]) else "node"

    def _served(self, request: GraphRequest, account: VendorAccount, parts: list[str]) -> Any:
        match request.method, parts:
            case "GET", [first] if first.startswith("act_"):
                return Objects(self._state, account).account(request.params.get("fields"))
            case "GET", [first, edge] if first.startswith("act_") and edge in KINDS:
                return self._edge(request, account, edge)
            case "GET", [first, "insights"] if first.startswith("act_"):
                return self._insights(request, account)
            case "POST", [first, "insights"] if first.startswith("act_"):
                return self._make_report(request, account)
            case "GET", [node] if self._reports.get(node):
                return self._poll(request, self._report(node, account))
            case "GET", [node, "insights"] if self._reports.get(node):
                return self._report_rows(request, self._report(node, account))
            case "GET", [node, "insights"]:
                return self._insights(request, account, scope=node)
            case "GET", [node]:
                found = Objects(self._state, account).node(node, request.params.get("fields"))
                if found is not None:
                    return found
        raise errors.unknown_object(parts[0], request.method.lower())

    # Objects

    def _edge(self, request: GraphRequest, account: VendorAccount, edge: str) -> dict[str, Any]:
        nodes = Objects(self._state, account).listing(KINDS[edge], request.params)
        body = calls.page(request, nodes, request.limit(MAX_EDGE_LIMIT))
        if request.params.get("summary") in ("true", "1", '["total_count"]', "total_count"):
            body["summary"] = {"total_count": len(nodes)}
        return self._spoiled(request, body, _OBJECT_SHAPE)

    @staticmethod
    def _spoiled(request: GraphRequest, body: dict[str, Any], shape: RecordShape) -> dict[str, Any]:
        if request.faults and not request.params.get("after"):
            body["data"] = spoil(body["data"], request.faults, shape)
        return body

    def _debug_token(self, token: str) -> dict[str, Any]:
        owner = calls.owner_of(self._state, token)
        if owner is None:
            error = {"code": 190, "message": "Invalid OAuth access token."}
            return {"data": {"error": error, "is_valid": False, "scopes": []}}
        return {
            "data": {
                "app_id": owner.credentials["app_id"],
                "type": "SYSTEM_USER",
                "application": "Sandbox",
                "data_access_expires_at": 0,
                "expires_at": 0,
                "is_valid": True,
                "issued_at": int(self._state.clock.now().timestamp()) - 86_400,
                "scopes": list(SCOPES),
                "user_id": _user(owner)["id"],
            }
        }

    # Insights

    def _query(self, request: GraphRequest, account: VendorAccount, scope: str | None) -> InsightsQuery:
        forbidden = meta_settings(self._state, account.account_id).forbidden_fields
        objects = Objects(self._state, account)
        if scope is None:
            return read_query(request.params, objects.as_of, forbidden)
        item = objects.by_id.get(scope)
        if item is None:
            raise errors.unknown_object(scope)
        level = objects.kind_of(item).level
        query = read_query({"level": level, **request.params}, objects.as_of, forbidden)
        return replace(query, filtering=(*query.filtering, Condition(f"{level}.id", "EQUAL", scope)))

    def _rows(self, account: VendorAccount, query: InsightsQuery) -> list[InsightsRow]:
        """All rows of a query; the last ones asked for are kept, since pages of one query come one after the other."""
        as_of = self._state.as_of(account)
        key = (account.account_id, as_of, query.cache_key)
        with self._cache_lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        rows = self._report_of(account, query).rows()
        with self._cache_lock:
            self._cache[key] = rows
            while len(self._cache) > _CACHED_REPORTS:
                self._cache.popitem(last=False)
        return rows

    def _report_of(self, account: VendorAccount, query: InsightsQuery) -> InsightsReport:
        objects = Objects(self._state, account)
        ad_days = self._state.business.ad_days
        return InsightsReport(
            account, query, lambda day: ad_days(account, day, objects.as_of), objects.by_id, objects.as_of
        )

    def _insights(self, request: GraphRequest, account: VendorAccount, scope: str | None = None) -> dict[str, Any]:
        query = self._query(request, account, scope)
        rows = self._rows(account, query)
        body = self._insights_page(request, account, rows, len(query.fields), query.days)
        if query.has_summary:
            body["summary"] = self._report_of(account, query).summary()
        return self._spoiled(request, body, _insights_shape(query.level))

    def _insights_page(
        self, request: GraphRequest, account: VendorAccount, rows: list[InsightsRow], fields: int, days: int
    ) -> dict[str, Any]:
        limit = request.limit(MAX_INSIGHTS_LIMIT)
        body = calls.page(request, rows, limit)
        if len(body["data"]) * fields * days > meta_settings(self._state, account.account_id).data_threshold:
            raise errors.too_much_data()
        return body

    # Report jobs

    def _make_report(self, request: GraphRequest, account: VendorAccount) -> dict[str, str]:
        query = self._query(request, account, None)
        run = self._reports.add(
            account,
            self._rows(account, query),
            query,
            meta_settings(self._state, account.account_id).report_polls,
            request.fault("report_fails", "report_hangs"),
        )
        return {"report_run_id": run.run_id}

    def _report(self, run_id: str, account: VendorAccount) -> ReportRun:
        run = self._reports.get(run_id)
        if run is None or run.account != account:
            raise errors.unknown_object(run_id)
        return run

    @staticmethod
    def _poll(request: GraphRequest, run: ReportRun) -> dict[str, Any]:
        asked = split_fields(request.params.get("fields"))
        for name in asked:
            if name not in REPORT_RUN_FIELDS:
                raise errors.unknown_node_field(name, "AdReportRun")
        return pick(run.poll(), asked or dict.fromkeys(_REPORT_JOB_FIELDS, ()))

    def _report_rows(self, request: GraphRequest, run: ReportRun) -> dict[str, Any]:
        if not run.is_readable:
            raise errors.by_code(2601)
        if request.params.get("summary") == "true":
            raise errors.invalid_parameter(
                "Cannot include true in summary param because they weren't there while creating the report run"
            )
        body = self._insights_page(request, run.account, run.rows, len(run.query.fields), 1)
        return self._spoiled(request, body, _insights_shape(run.query.level))

    # Batches: https://developers.facebook.com/docs/graph-api/batch-requests

    def _batch(self, request: GraphRequest) -> list[dict[str, Any] | None]:
        if "batch" not in request.params:
            raise errors.unknown_path("")
        entries = _batch_entries(request.params["batch"])
        with_headers = request.params.get("include_headers", "true") != "false"
        return [self._batch_part(request, entry, with_headers) for entry in entries]

    def _batch_part(self, request: GraphRequest, entry: Mapping[str, Any], with_headers: bool) -> dict[str, Any]:
        part = _sub_request(request, entry)
        answer = self._faulted(part) or self.answer(part)
        result: dict[str, Any] = {"code": answer.status, "body": json.dumps(answer.body, separators=(",", ":"))}
        if with_headers:
            result["headers"] = [{"name": name, "value": value} for name, value in answer.headers.items()]
        return result

    @staticmethod
    def _faulted(part: GraphRequest) -> GraphAnswer | None:
        for rule in part.faults:
            if rule.action in ("status", "expired_token", "too_much_data"):
                error = fault_error(rule, part)
                if error is not None:
                    return calls.refused(error, part)
        return None


def _user(owner: VendorAccount) -> dict[str, str]:
    return {"id": f"1000{owner.account_id[-11:]}", "name": f"{owner.shop.name} system user"}


def _insights_shape(level: str) -> RecordShape:
    return RecordShape((f"{level}_id",), (f"{level}_name",), ("spend",))


def _batch_entries(text: str) -> list[Mapping[str, Any]]:
    try:
        entries = json.loads(text)
    except ValueError:
        raise errors.invalid_parameter("batch parameter must be a JSON array") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise errors.invalid_parameter("batch parameter must be a JSON array")
    if len(entries) > MAX_BATCH:
        raise errors.batch_too_large(MAX_BATCH)
    return entries


def _sub_request(request: GraphRequest, entry: Mapping[str, Any]) -> GraphRequest:
    """One call of a batch. It takes the batch's token unless it has its own, and the version of its own path if any."""
    url = urlsplit(str(entry.get("relative_url", "")))
    path = url.path.strip("/")
    first, _, rest = path.partition("/")
    version, path = (first, rest) if first.startswith("v") and "." in first else (request.version, path)
    params = {name: value for name, value in request.params.items() if name in ("access_token", "appsecret_proof")}
    params |= calls.form_params(url.query) | calls.form_params(str(entry.get("body", "")))
    method = str(entry.get("method", "GET")).upper()
    part = GraphRequest(request.state, request.base_url, method, version, path, params)
    account = part.account_id or _run_account(part)
    part.faults = request.state.faults.pick("meta", method, f"/meta/{version}/{path}", account)
    return part
