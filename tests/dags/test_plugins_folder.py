"""What Airflow may load from `plugins/`, and what must import for a deployment to start at all."""

from __future__ import annotations

import importlib
import sys

import pytest
from airflow._shared.module_loading.file_discovery import find_path_from_directory

from tests.airflow_home import PROJECT

pytestmark = pytest.mark.dags

PLUGINS = PROJECT / "plugins"


def test_airflow_loads_one_file_and_no_module_of_the_package() -> None:
    # It would put every module into sys.modules under its bare name, and so replace the standard library's.
    loaded = [path for path in find_path_from_directory(str(PLUGINS), ".airflowignore", "glob") if path.endswith(".py")]
    assert loaded == [str(PLUGINS / "penstock_plugin.py")]


def test_no_module_shadows_the_standard_library() -> None:
    forbidden = set(sys.stdlib_module_names) | {"calendar", "http", "queue", "email", "secrets", "types", "logging"}
    stems = {path.stem for path in PLUGINS.rglob("*.py") if path.stem != "__init__"}
    assert stems & forbidden == set()


def test_the_plugin_is_found_by_airflow() -> None:
    from airflow import plugins_manager

    plugins, errors = plugins_manager._get_plugins()
    assert {name: text for name, text in errors.items() if "penstock" in name} == {}
    assert "penstock" in {plugin.name for plugin in plugins}


def test_the_celery_executor_imports() -> None:
    # celery 5.7 resolves and passes `pip check`, and no worker starts with it.
    module = importlib.import_module("airflow.providers.celery.executors.celery_executor")
    assert module.CeleryExecutor.__name__ == "CeleryExecutor"
