from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import penstock_provider
from stack.plan import VENDORS

PROJECT = Path(__file__).resolve().parents[2]
TYPES = penstock_provider.get_provider_info()["connection-types"]


def test_the_entry_point_names_the_function() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())

    entry_points = project["project"]["entry-points"]["apache_airflow_provider"]
    assert entry_points == {"provider_info": "penstock_provider:get_provider_info"}


def test_there_is_a_connection_type_per_vendor() -> None:
    types = {item["connection-type"] for item in TYPES}
    assert {vendor.conn_id for vendor in VENDORS} - types == {"slack"}  # Airflow brings that one along


@pytest.mark.parametrize("item", TYPES, ids=lambda item: str(item["connection-type"]))
def test_each_hook_class_is_where_the_provider_says(item: dict[str, str]) -> None:
    module, name = item["hook-class-name"].rsplit(".", 1)
    source = (PROJECT / "plugins" / Path(*module.split("."))).with_suffix(".py").read_text()

    assert f"class {name}(" in source


@pytest.mark.parametrize("item", TYPES, ids=lambda item: str(item["connection-type"]))
def test_secrets_have_fields_that_hide_what_is_typed(item: dict[str, dict[str, dict[str, dict[str, str]]]]) -> None:
    for name, field in item["conn-fields"].items():
        is_secret = "secret" in name or name in ("refresh_token", "service_account_json")
        assert (field["schema"].get("format") == "password") == is_secret, name
