"""The sandbox's Google Analytics against Google's own discovery documents, which googleapiclient carries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jsonschema
import pytest
import requests

from sandbox import ga4_errors, settings
from sandbox.ga4_json import ENUMS
from sandbox.ga4_query import REQUEST_KEYS
from sandbox.ga4_schema import METRICS
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.contract

SCOPE = "https://www.googleapis.com/auth/analytics.readonly"
RANGE = {"startDate": "2026-11-01", "endDate": "2026-11-07"}
METRIC_NAMES = ("sessions", "totalUsers", "keyEvents", "purchaseRevenue")


def document(name: str) -> Mapping[str, Any]:
    """A discovery document of the installed googleapiclient."""
    text = (resources.files("googleapiclient.discovery_cache") / "documents" / f"{name}.json").read_text("utf-8")
    loaded: Mapping[str, Any] = json.loads(text)
    return loaded


@pytest.fixture(scope="module")
def data_api() -> Mapping[str, Any]:
    return document("analyticsdata.v1beta")


def strict(schema: Any) -> Any:
    """A discovery schema as JSON Schema: references resolve, unknown properties are refused, enums hold."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": f"#/definitions/{schema['$ref']}"}
    kept = {name: strict(each) for name, each in schema.items() if name in ("type", "items", "enum")}
    if "properties" in schema:
        kept["properties"] = {name: strict(each) for name, each in schema["properties"].items()}
        kept["additionalProperties"] = False
    if schema.get("format") == "int64":
        kept["pattern"] = r"^-?\d+$"
    return kept


def assert_valid(message: Any, name: str, api: Mapping[str, Any]) -> None:
    """The message is a whole, right one of that name."""
    definitions = {each: strict(schema) for each, schema in api["schemas"].items()}
    schema = {"$ref": f"#/definitions/{name}", "definitions": definitions}
    jsonschema.Draft7Validator(schema).validate(message)


class Api:
    """Plain calls of one property."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.account = sandbox.account("GA4", "borealis")
        token = sandbox.state.tokens.issue("reader@example.com", frozenset({SCOPE}))
        self._headers = {"Authorization": f"Bearer {token}"}
        self.url = f"{sandbox.base_url('ga4')}"
        self.property = f"properties/{self.account.account_id}"

    def post(self, method: str, body: Any, status: int = 200) -> Any:
        url = f"{self.url}/v1beta/{self.property}:{method}"
        answer = requests.post(url, json=body, headers=self._headers, timeout=20)
        assert answer.status_code == status, answer.text
        return answer.json()

    def get(self, path: str) -> Any:
        answer = requests.get(f"{self.url}/{path}", headers=self._headers, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def api(sandbox: Sandbox) -> Api:
    return Api(sandbox)


def request(*dimensions: str, **more: Any) -> dict[str, Any]:
    return {
        "dateRanges": [RANGE],
        "dimensions": [{"name": name} for name in dimensions],
        "metrics": [{"name": name} for name in METRIC_NAMES],
        "returnPropertyQuota": True,
        **more,
    }


REQUESTS: Mapping[str, dict[str, Any]] = {
    "property": request(),
    "daily": request("date", limit="3"),
    "traffic": request("date", "sessionDefaultChannelGroup", "sessionSource", "sessionMedium", "sessionCampaignName"),
    "events": request("eventName", metricAggregations=["TOTAL", "MINIMUM", "MAXIMUM"]),
    "two ranges": request("country", dateRanges=[RANGE, {**RANGE, "name": "again"}], metricAggregations=["TOTAL"]),
    "nothing": request("date", dateRanges=[{"startDate": "2022-01-01", "endDate": "2022-01-02"}]),
    "filtered": request(
        "landingPage",
        dimensionFilter={"filter": {"fieldName": "landingPage", "stringFilter": {"value": "/"}}},
        orderBys=[{"metric": {"metricName": "sessions"}, "desc": True}],
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_reports_fit_the_discovery_document(api: Api, data_api: Mapping[str, Any], name: str) -> None:
    asked = REQUESTS[name]
    assert_valid(asked, "RunReportRequest", data_api)
    response = api.post("runReport", asked)

    assert_valid(response, "RunReportResponse", data_api)
    assert response.get("rowCount", 0) >= len(response.get("rows", ()))
    for row in response.get("rows", ()):
        assert len(row.get("dimensionValues", ())) == len(response.get("dimensionHeaders", ()))
        assert len(row["metricValues"]) == len(METRIC_NAMES)


def test_batches_fit_the_discovery_document(api: Api, data_api: Mapping[str, Any]) -> None:
    response = api.post("batchRunReports", {"requests": list(REQUESTS.values())[:5]})

    assert_valid(response, "BatchRunReportsResponse", data_api)
    assert response["kind"] == "analyticsData#batchRunReports"


def test_quality_flags_fit_the_discovery_document(sandbox: Sandbox, api: Api, data_api: Mapping[str, Any]) -> None:
    switches = {
        "other_row_after": 2,
        "withholds_below": 5,
        "restricted": ["REVENUE_DATA", "COST_DATA"],
        "metadata": {
            "samplingMetadatas": [{"samplesReadCount": "1", "samplingSpaceSize": "2"}],
            "emptyReason": "NO_DATA",
            "dataTruncationReasons": [{"dataTruncationType": "DATA_TRUNCATION_TYPE_DATE_RANGE"}],
        },
    }
    settings.change(sandbox.state, "ga4", api.account.account_id, switches)
    response = api.post("runReport", REQUESTS["traffic"])

    assert_valid(response, "RunReportResponse", data_api)
    assert response["metadata"]["dataLossFromOtherRow"] is True
    assert response["metadata"]["schemaRestrictionResponse"]["activeMetricRestrictions"]


def test_metadata_and_compatibility_fit_the_discovery_document(api: Api, data_api: Mapping[str, Any]) -> None:
    asked = {"dimensions": [{"name": "browser"}], "metrics": [{"name": "sessions"}]}
    assert_valid(asked, "CheckCompatibilityRequest", data_api)

    assert_valid(api.get(f"v1beta/{api.property}/metadata"), "Metadata", data_api)
    assert_valid(api.post("checkCompatibility", asked), "CheckCompatibilityResponse", data_api)


def test_the_property_fits_the_admin_apis_document(api: Api) -> None:
    admin = document("analyticsadmin.v1beta")

    for path in (f"v1beta/{api.property}", f"admin/v1beta/{api.property}"):
        assert_valid(api.get(path), "GoogleAnalyticsAdminV1betaProperty", admin)


def test_requests_take_exactly_the_documents_fields(data_api: Mapping[str, Any]) -> None:
    assert set(data_api["schemas"]["RunReportRequest"]["properties"]) == REQUEST_KEYS


def test_enums_are_the_documents(data_api: Mapping[str, Any]) -> None:
    schemas = data_api["schemas"]
    in_document = {
        "metricAggregations": schemas["RunReportRequest"]["properties"]["metricAggregations"]["items"]["enum"],
        "orderType": schemas["DimensionOrderBy"]["properties"]["orderType"]["enum"],
        "matchType": schemas["StringFilter"]["properties"]["matchType"]["enum"],
        "operation": schemas["NumericFilter"]["properties"]["operation"]["enum"],
        "compatibilityFilter": schemas["CheckCompatibilityRequest"]["properties"]["compatibilityFilter"]["enum"],
    }

    assert {name: set(values) for name, values in in_document.items()} == {
        name: set(values.values()) for name, values in ENUMS.items()
    }
    types = set(schemas["MetricMetadata"]["properties"]["type"]["enum"])
    assert {metric.kind for metric in METRICS.values()} <= types


def test_quotas_are_the_documents(data_api: Mapping[str, Any]) -> None:
    assert set(ga4_errors.QUOTA_TEXTS) == set(data_api["schemas"]["PropertyQuota"]["properties"])


def test_errors_have_googles_envelope(api: Api) -> None:
    error = api.post("runReport", {"metrics": [{"name": "visits"}]}, status=400)["error"]

    assert set(error) <= {"code", "message", "status", "details"}
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
