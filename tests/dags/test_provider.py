"""Our connection types, as Airflow's connection form shows them."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import penstock_provider


def airflow_schema(name: str) -> dict[str, Any]:
    """A schema file that Airflow brings along."""
    spec = importlib.util.find_spec("airflow")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    found = [Path(folder) / name for folder in spec.submodule_search_locations if (Path(folder) / name).is_file()]
    schema: dict[str, Any] = json.loads(found[0].read_text())
    return schema


@pytest.fixture(scope="module")
def manager() -> Any:
    from airflow.providers_manager import ProvidersManager

    return ProvidersManager()


def test_the_provider_is_what_airflow_expects() -> None:
    jsonschema.validate(penstock_provider.get_provider_info(), airflow_schema("provider_info.schema.json"))


def test_airflow_finds_the_installed_provider(manager: Any) -> None:
    assert "penstock-provider" in manager.providers


@pytest.mark.parametrize(
    ("connection_type", "label"),
    [("meta_ads", "Access token"), ("ga4", "Service account JSON"), ("klaviyo", "Private API key")],
)
def test_the_form_asks_for_the_credential_by_its_name(manager: Any, connection_type: str, label: str) -> None:
    behaviour = manager.field_behaviours[connection_type]

    assert behaviour["relabeling"]["password"] == label
    assert behaviour["relabeling"]["host"] == "Base URL"
    assert behaviour["placeholders"]["host"].startswith("https://")


@pytest.mark.parametrize("item", penstock_provider.get_provider_info()["connection-types"])
def test_each_hook_has_the_conn_type_of_its_form_and_a_test_button(item: dict[str, str]) -> None:
    module, name = item["hook-class-name"].rsplit(".", 1)
    hook = getattr(importlib.import_module(module), name)

    assert hook.conn_type == item["connection-type"]
    assert callable(hook.test_connection)
