"""Klaviyo's OpenAPI file against the sandbox: what it allows, and every answer it gives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests

from sandbox.klaviyo import ENDPOINTS
from sandbox.klaviyo_door import Endpoint
from tests.sandbox_fixture import Sandbox

Json = dict[str, Any]
REVISION = "2026-07-15"
PERIODS = {"s": 1.0, "m": 60.0, "d": 86_400.0}


@pytest.fixture(scope="module")
def openapi(contracts: Path) -> Json:
    contract: Json = json.loads((contracts / "klaviyo_openapi.json").read_text())
    return contract


@pytest.fixture(scope="module")
def json_schemas(openapi: Json) -> Json:
    """The contract's schemas as JSON Schema that refuses keys which it does not name."""
    translated = _translated(openapi["components"]["schemas"], is_strict=True)
    assert isinstance(translated, dict)
    return translated


def _translated(schema: Any, *, is_strict: bool) -> Any:
    """OpenAPI 3.0 in JSON Schema's words: `nullable` becomes a type, alternatives may overlap."""
    if isinstance(schema, list):
        return [_translated(each, is_strict=is_strict) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result: Json = {}
    for key, value in schema.items():
        # Parts of an allOf see the whole object, so none of them may refuse the others' keys.
        inner_strict = is_strict and key != "allOf"
        name = "anyOf" if key == "oneOf" else key
        result[name] = value if key in ("enum", "example", "required") else _translated(value, is_strict=inner_strict)
    if is_strict and isinstance(result.get("properties"), dict) and result.get("type") == "object":
        result.setdefault("additionalProperties", False)
    if result.pop("nullable", False):
        return {"anyOf": [result, {"type": "null"}]}
    return result


class Validator:
    """Validates bodies against a named schema of the contract."""

    def __init__(self, schemas: Json) -> None:
        self._schemas = schemas

    def check(self, name: str, body: Any) -> None:
        root = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": self._schemas}}
        errors = sorted(jsonschema.Draft202012Validator(root).iter_errors(body), key=lambda error: list(error.path))
        found = [f"{error.json_path}: {error.message[:300]}" for error in errors[:5]]
        assert not found, f"{name}: {found}"


@pytest.fixture(scope="module")
def validator(json_schemas: Json) -> Validator:
    return Validator(json_schemas)


Caller = Callable[..., requests.Response]


@pytest.fixture
def call(sandbox: Sandbox) -> Caller:
    """Calls the Klaviyo part of the sandbox with the contract's revision."""
    account = sandbox.account("KLAVIYO")
    headers = {"Authorization": f"Klaviyo-API-Key {account.credentials['api_key']}", "revision": REVISION}

    def send(method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, f"{sandbox.base_url('klaviyo')}{path}", headers=headers, timeout=10, **options)

    return send


def _operation(openapi: Json, method: str, endpoint: Endpoint) -> Json:
    operation: Json = openapi["paths"][f"/api/{endpoint.name}"][method.lower()]
    return operation


def _answer_schema(operation: Json) -> str:
    schema = operation["responses"]["200"]["content"]["application/vnd.api+json"]["schema"]
    return str(schema["$ref"]).rpartition("/")[2]


ALL_ENDPOINTS = pytest.mark.parametrize(
    ("method", "endpoint"), [(method, endpoint) for method, endpoint, _ in ENDPOINTS], ids=lambda value: str(value)[:40]
)


@ALL_ENDPOINTS
def test_limits_and_scope_are_those_of_the_contract(openapi: Json, method: str, endpoint: Endpoint) -> None:
    operation = _operation(openapi, method, endpoint)
    told = {name: text.split("/") for name, text in operation["x-klaviyo-ratelimit"].items()}
    assert {window.name: (window.count, window.period) for window in endpoint.limits} == {
        name: (int(count), PERIODS[unit]) for name, (count, unit) in told.items()
    }
    assert [endpoint.scope] == operation["x-klaviyo-scopes"]


@ALL_ENDPOINTS
def test_every_parameter_of_the_sandbox_is_in_the_contract(openapi: Json, method: str, endpoint: Endpoint) -> None:
    parameters = {each["name"]: each for each in _operation(openapi, method, endpoint)["parameters"]}
    # The contract shows metric aggregates' cursor in the body only, while its links carry it in the query.
    assert set(endpoint.parameters) - {"page_cursor"} <= set(parameters)
    if "page[size]" in parameters:
        schema = parameters["page[size]"]["schema"]
        assert (endpoint.page_size, endpoint.max_page_size) == (schema["default"], schema["maximum"])
    if endpoint.sorts:
        assert set(endpoint.sorts) <= {name.lstrip("-") for name in parameters["sort"]["schema"]["enum"]}
    if endpoint.includes:
        assert set(endpoint.includes) <= set(parameters["include"]["schema"]["items"]["enum"])


@ALL_ENDPOINTS
def test_every_filter_of_the_sandbox_is_in_the_contract(openapi: Json, method: str, endpoint: Endpoint) -> None:
    parameters = {each["name"]: each for each in _operation(openapi, method, endpoint)["parameters"]}
    text = parameters.get("filter", {}).get("description", "")
    told = {
        name: set(re.findall(r"`([\w-]+)`", operators)) for name, operators in re.findall(r"`([\w.]+)`: ([^<]*)", text)
    }
    for name, operators in endpoint.filters.items():
        assert set(operators) <= told[name], f"{endpoint.name}: {name}"


LISTINGS: Mapping[str, Mapping[str, str]] = {
    "accounts": {},
    "campaigns": {"filter": "equals(messages.channel,'email')", "include": "campaign-messages"},
    "flows": {},
    "lists": {},
    "segments": {},
    "profiles": {"page[size]": "100"},
    "metrics": {},
    "events": {"include": "attributions,metric,profile", "page[size]": "300", "sort": "-datetime"},
}


@pytest.mark.parametrize("name", LISTINGS)
def test_listings_validate(openapi: Json, validator: Validator, call: Caller, name: str) -> None:
    answer = call("GET", f"/api/{name}", params=LISTINGS[name])
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/vnd.api+json"
    body = answer.json()
    assert body["data"]
    schema = _answer_schema(openapi["paths"][f"/api/{name}"]["get"])
    # The contract does not mark `next` and `prev` as nullable, though the vendor sends null on the last page.
    body["links"] = {key: value for key, value in body["links"].items() if value is not None}
    validator.check(schema, body)


@pytest.mark.parametrize("channel", ["email", "sms", "mobile_push"])
@pytest.mark.parametrize("archived", ["true", "false"])
def test_campaigns_of_every_channel_validate(validator: Validator, call: Caller, channel: str, archived: str) -> None:
    condition = f"equals(messages.channel,'{channel}'),equals(archived,{archived})"
    body = call("GET", "/api/campaigns", params={"filter": condition, "include": "campaign-messages"}).json()
    assert body["data"]
    body["links"] = {"self": body["links"]["self"]}
    validator.check("GetCampaignResponseCollectionCompoundDocument", body)


def _metric(call: Caller, name: str) -> str:
    data = call("GET", "/api/metrics").json()["data"]
    return next(str(each["id"]) for each in data if each["attributes"]["name"] == name)


STATISTICS = ["recipients", "delivered", "opens_unique", "clicks_unique", "conversions", "conversion_value"]
DAYS = {"start": "2026-11-01T00:00:00+00:00", "end": "2026-11-17T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("campaign-values-report", {}),
        ("flow-values-report", {}),
        ("flow-series-report", {"interval": "daily"}),
    ],
)
def test_reports_validate(openapi: Json, validator: Validator, call: Caller, kind: str, more: Json) -> None:
    operation = openapi["paths"][f"/api/{kind}s"]["post"]
    attributes = {
        "statistics": STATISTICS,
        "timeframe": DAYS,
        "conversion_metric_id": _metric(call, "Placed Order"),
        **more,
    }
    request = {"data": {"type": kind, "attributes": attributes}}
    wanted = operation["requestBody"]["content"]["application/vnd.api+json"]["schema"]["$ref"].rpartition("/")[2]
    validator.check(wanted, request)
    answer = call("POST", f"/api/{kind}s", json=request)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["data"]["attributes"]["results"]
    del body["data"]["links"]
    validator.check(_answer_schema(operation), body)


@pytest.mark.parametrize(
    ("name", "by"),
    [("Placed Order", []), ("Placed Order", ["$attributed_message"]), ("Opened Email", ["$message"])],
)
def test_metric_aggregates_validate(validator: Validator, call: Caller, name: str, by: list[str]) -> None:
    attributes = {
        "metric_id": _metric(call, name),
        "measurements": ["count", "sum_value", "unique"],
        "interval": "day",
        "by": by,
        "timezone": "Europe/Zurich",
        "filter": ["greater-or-equal(datetime,2026-11-10T00:00:00)", "less-than(datetime,2026-11-13T00:00:00)"],
    }
    request = {"data": {"type": "metric-aggregate", "attributes": attributes}}
    validator.check("MetricAggregateQuery", request)
    body = call("POST", "/api/metric-aggregates", json=request).json()
    assert len(body["data"]["attributes"]["dates"]) == 3
    validator.check("PostMetricAggregateResponse", body)


def test_errors_validate(openapi: Json, call: Caller) -> None:
    schema = openapi["components"]["responses"]["ClientError"]["content"]["application/vnd.api+json"]["schema"]
    answer = call("GET", "/api/events", params={"page[size]": "1001"})
    assert answer.status_code == 400
    jsonschema.validate(answer.json(), schema)


def test_the_benchmark_events_validate(validator: Validator, sandbox: Sandbox) -> None:
    account = next(each for each in sandbox.accounts() if each["account_id"] == "BENCH1")
    headers = {"Authorization": f"Klaviyo-API-Key {account['credentials']['api_key']}", "revision": REVISION}
    body = requests.get(
        f"{sandbox.base_url('klaviyo')}/api/events", params={"page[size]": "500"}, headers=headers, timeout=10
    ).json()
    assert len(body["data"]) == 500
    body["links"] = {"self": body["links"]["self"]}
    validator.check("GetEventResponseCollectionCompoundDocument", body)
