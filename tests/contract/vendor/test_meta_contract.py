"""The sandbox's Graph API against Meta's own code generation specs (facebook-business-sdk-codegen, api_specs)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from facebook_business.adobjects.adsinsights import AdsInsights

from sandbox import meta_fields, meta_query
from sandbox.meta_breakdowns import SERVED
from sandbox.meta_objects import AD, ADSET, CAMPAIGN, Kind
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.contract

RETIRED_FIELDS = frozenset(
    {
        "age_targeting",
        "gender_targeting",
        "labels",
        "location",
        "estimated_ad_recall_rate_lower_bound",
        "estimated_ad_recall_rate_upper_bound",
        "estimated_ad_recallers_lower_bound",
        "estimated_ad_recallers_upper_bound",
    }
)
"""In the specs, and refused since v19.0: https://developers.facebook.com/docs/graph-api/changelog/version19.0"""

NEVER_IN_THE_SDK = "marketing_messages_website_"
"""Fields of these names left the SDK after the specs."""

Spec = dict[str, str]
WEEK = '{"since": "2026-11-01", "until": "2026-11-07"}'


@pytest.fixture(scope="module")
def meta_specs(contracts: Path) -> Path:
    folder = contracts / "meta"
    assert folder.is_dir(), f"no folder {folder}"
    return folder


@pytest.fixture(scope="module")
def enums(meta_specs: Path) -> Mapping[str, frozenset[str]]:
    listed = json.loads((meta_specs / "enum_types.json").read_text(encoding="utf-8"))
    return {each["name"]: frozenset(each["values"]) for each in listed}


def spec_fields(folder: Path, name: str) -> Spec:
    """Field -> type of one object."""
    fields = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["fields"]
    return {each["name"]: each["type"] for each in fields}


def sdk_values(name: str) -> frozenset[str]:
    """The values of one of the SDK's enumerations of insights."""
    kept = vars(getattr(AdsInsights, name)).items()
    return frozenset(value for key, value in kept if isinstance(value, str) and not key.startswith("__"))


CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "unsigned int": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "float": lambda value: isinstance(value, float),
    "datetime": lambda value: re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", value) is not None,
    "list<string>": lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
}


def assert_typed(record: Mapping[str, Any], spec: Spec, enums: Mapping[str, frozenset[str]]) -> None:
    """Every value of a record is of the type that the spec says; objects must be objects."""
    for name, value in record.items():
        assert name in spec, f"{name} is no field"
        kind = spec[name]
        if kind in enums:
            assert value in enums[kind], f"{name}: {value} is none of {kind}"
        elif kind in CHECKS:
            assert CHECKS[kind](value), f"{name}: {value!r} is no {kind}"
        elif kind.startswith("list<"):
            assert isinstance(value, list), f"{name}: {value!r} is no {kind}"
            assert all(isinstance(each, dict) for each in value), f"{name}: {value!r} is no {kind}"
        else:
            assert isinstance(value, dict), f"{name}: {value!r} is no {kind}"


class Graph:
    """Plain calls of one account."""

    def __init__(self, sandbox: Sandbox) -> None:
        account = sandbox.account("META", "borealis")
        self.root = f"{sandbox.base_url('meta')}/v26.0"
        self.node = f"act_{account.account_id}"
        self.params = {"access_token": account.credentials["access_token"]}

    def get(self, path: str, **params: str) -> Any:
        answer = requests.get(f"{self.root}/{path}", params={**self.params, **params}, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, **params: str) -> Any:
        answer = requests.post(f"{self.root}/{path}", params=self.params, data=params, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def graph(sandbox: Sandbox) -> Graph:
    return Graph(sandbox)


# -- what may be asked for ---------------------------------------------------------------------------------------


def test_insights_fields_are_those_of_specs_and_sdk(meta_specs: Path) -> None:
    in_specs = {name for name in spec_fields(meta_specs, "AdsInsights") if not name.startswith(NEVER_IN_THE_SDK)}

    assert in_specs - meta_fields.INSIGHTS_FIELDS == RETIRED_FIELDS
    assert in_specs | sdk_values("Field") == meta_fields.INSIGHTS_FIELDS | RETIRED_FIELDS


@pytest.mark.parametrize(
    ("ours", "object_name"),
    [
        (meta_fields.ACCOUNT_FIELDS, "AdAccount"),
        (meta_fields.CAMPAIGN_FIELDS, "Campaign"),
        (meta_fields.ADSET_FIELDS, "AdSet"),
        (meta_fields.AD_FIELDS, "Ad"),
        (meta_fields.REPORT_RUN_FIELDS, "AdReportRun"),
    ],
)
def test_node_fields_are_those_of_the_specs(meta_specs: Path, ours: frozenset[str], object_name: str) -> None:
    assert ours == frozenset(spec_fields(meta_specs, object_name))


@pytest.mark.parametrize(
    ("ours", "enum", "sdk_enum", "retired"),
    [
        (meta_fields.BREAKDOWNS, "breakdowns", "Breakdowns", {"dma"}),
        (meta_fields.ACTION_BREAKDOWNS, "action_breakdowns", "ActionBreakdowns", set()),
        (meta_fields.DATE_PRESETS, "date_preset", "DatePreset", set()),
        (frozenset(meta_query.LEVELS), "level", "Level", set()),
        (
            meta_fields.ATTRIBUTION_WINDOWS,
            "action_attribution_windows",
            "ActionAttributionWindows",
            {f"{days}d_view{suffix}" for days in (7, 28) for suffix in ("", "_all_conversions", "_first_conversion")},
        ),
    ],
)
def test_enumerated_parameters_take_the_specs_values_but_for_retired_ones(
    enums: Mapping[str, frozenset[str]], ours: frozenset[str], enum: str, sdk_enum: str, retired: set[str]
) -> None:
    in_specs = enums[f"adaccountinsights_{enum}_enum_param"]

    assert in_specs - ours == retired
    assert ours == (in_specs | sdk_values(sdk_enum)) - retired


def test_served_breakdowns_are_valid_ones() -> None:
    assert SERVED <= meta_fields.BREAKDOWNS


@pytest.mark.parametrize(
    ("kind", "object_name"), [(CAMPAIGN, "Campaign"), (ADSET, "AdSet"), (AD, "Ad")], ids=lambda value: str(value)[:8]
)
def test_states_are_those_of_the_specs(enums: Mapping[str, frozenset[str]], kind: Kind, object_name: str) -> None:
    assert frozenset(kind.statuses) == enums[f"{object_name}_effective_status"]


def test_the_parameters_of_insights_are_known_to_the_specs(meta_specs: Path) -> None:
    apis = json.loads((meta_specs / "AdAccount.json").read_text(encoding="utf-8"))["apis"]
    [insights] = [each for each in apis if each.get("endpoint") == "insights" and each["method"] == "GET"]

    assert {
        "action_attribution_windows",
        "action_breakdowns",
        "action_report_time",
        "breakdowns",
        "date_preset",
        "default_summary",
        "fields",
        "filtering",
        "level",
        "limit",
        "sort",
        "summary",
        "time_increment",
        "time_range",
        "time_ranges",
    } <= {each["name"] for each in insights["params"]}


# -- what is answered --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", meta_query.LEVELS)
@pytest.mark.parametrize("breakdowns", ["", "age,gender", "country", "publisher_platform,platform_position"])
def test_insights_rows_fit_the_specs(
    graph: Graph, meta_specs: Path, enums: Mapping[str, frozenset[str]], level: str, breakdowns: str
) -> None:
    spec = spec_fields(meta_specs, "AdsInsights")
    every = sorted(set(spec) & meta_fields.INSIGHTS_FIELDS)
    asked = {"level": level, "time_range": WEEK, "time_increment": "1", "fields": ",".join(every), "limit": "60"}
    if breakdowns:
        asked["breakdowns"] = breakdowns
    rows = graph.get(f"{graph.node}/insights", action_attribution_windows='["1d_click","7d_click","1d_view"]', **asked)

    assert rows["data"]
    stats = spec_fields(meta_specs, "AdsActionStats")
    for row in rows["data"]:
        for name in filter(None, breakdowns.split(",")):
            assert isinstance(row.pop(name), str)
        assert_typed(row, spec, enums)
        for name in ("actions", "action_values", "cost_per_action_type", "outbound_clicks", "purchase_roas"):
            for entry in row.get(name, ()):
                assert_typed(entry, stats, enums)
                assert {"action_type", "value"} <= set(entry)
        assert {"account_id", "date_start", "date_stop", "spend", "impressions"} <= set(row)


@pytest.mark.parametrize(
    ("kind", "object_name"), [(CAMPAIGN, "Campaign"), (ADSET, "AdSet"), (AD, "Ad")], ids=lambda value: str(value)[:8]
)
def test_objects_fit_the_specs(
    graph: Graph, meta_specs: Path, enums: Mapping[str, frozenset[str]], kind: Kind, object_name: str
) -> None:
    nodes = graph.get(
        f"{graph.node}/{kind.edge}",
        fields=",".join(sorted(kind.fields)),
        limit="500",
        effective_status=json.dumps(kind.statuses),
    )["data"]

    assert len(nodes) > 5
    for node in nodes:
        assert_typed(node, spec_fields(meta_specs, object_name), enums)


def test_the_account_fits_the_specs(graph: Graph, meta_specs: Path, enums: Mapping[str, frozenset[str]]) -> None:
    forbidden = {"owner", "funding_source_details", "is_prepay_account", "tos_accepted"}
    account = graph.get(graph.node, fields=",".join(sorted(meta_fields.ACCOUNT_FIELDS - forbidden)))

    assert_typed(account, spec_fields(meta_specs, "AdAccount"), enums)
    assert {"name", "currency", "timezone_name", "account_status", "business"} <= set(account)


def test_report_jobs_fit_the_specs(
    sandbox: Sandbox, graph: Graph, meta_specs: Path, enums: Mapping[str, frozenset[str]]
) -> None:
    spec = spec_fields(meta_specs, "AdReportRun")
    sandbox.faults({"vendor": "meta", "method": "POST", "action": "report_fails", "times": 1})
    runs = [graph.post(f"{graph.node}/insights", time_range=WEEK)["report_run_id"] for _ in range(2)]
    states = [graph.get(run, fields=",".join(sorted(meta_fields.REPORT_RUN_FIELDS))) for run in runs * 2]

    for state in states:
        assert_typed(state, spec, enums)
    assert {"error_code", "error_subcode", "error_message", "error_user_title", "error_user_msg"} <= set(states[2])
    assert states[3]["async_percent_completion"] == 100
