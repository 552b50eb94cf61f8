"""What every registered source has. A failure says what is missing and where it belongs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import penstock_provider
from penstock.clients import CLIENTS
from penstock.core.errors import CATALOGUE
from penstock.sources import REGISTRY
from penstock.sources.apps import APP_SOURCES
from penstock.sources.stream import Source
from stack.plan import VENDORS

PROJECT = Path(__file__).resolve().parents[2]
SQL = PROJECT / "include/sql/platform_etl"
PLACES = ("plugins", "include", "sandbox", "tests")
MARK = re.compile(r"FILL IN (\d+): (.*)")

MIGRATIONS = "\n".join(path.read_text(encoding="utf-8") for path in sorted((SQL / "migrations").glob("*.sql")))
SETTINGS: dict[str, Any] = yaml.safe_load((PROJECT / "airflow_settings.yaml").read_text(encoding="utf-8"))["airflow"]
VENDOR_NAMES = sorted({source.name for source in REGISTRY} | {source.vendor for source in APP_SOURCES})

every_source = pytest.mark.parametrize("source", REGISTRY, ids=lambda source: str(source.name))
every_vendor = pytest.mark.parametrize("name", VENDOR_NAMES)


def text_of(path: str) -> str:
    file = PROJECT / path
    assert file.is_file(), f"write {path}"
    return file.read_text(encoding="utf-8")


def open_marks(project: Path, name: str) -> list[str]:
    """What `make source` left to a person, in the order of its numbers."""
    found = []
    for place in PLACES:
        for path in sorted((project / place).rglob(f"*{name}*")):
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() and path.suffix != ".pyc" else []
            for number, line in enumerate(lines, start=1):
                if match := MARK.search(line):
                    found.append((int(match[1]), f"{path.relative_to(project)}:{number}: {match[2]}"))
    return [text for _, text in sorted(found)]


@every_vendor
def test_nothing_is_left_to_fill_in(name: str) -> None:
    left = open_marks(PROJECT, name)
    assert not left, f"next ({len(left)} left): {left[0]} Then remove the words FILL IN."


@every_source
def test_every_stream_has_its_staging_table(source: Source) -> None:
    for table in {f"{source.name}_{stream.table}" for stream in source.streams}:
        assert f"'{table}'" in MIGRATIONS or f"staging_ingest.{table} " in MIGRATIONS, (
            f"no migration in include/sql/platform_etl/migrations creates staging_ingest.{table}"
        )


@every_source
def test_the_run_queue_takes_the_platform(source: Source) -> None:
    assert f"'{source.platform}'" in MIGRATIONS, f"no migration lets etl_runs.platform be {source.platform}"


@every_source
def test_every_transform_is_there_and_its_table_is_documented(source: Source) -> None:
    assert source.transforms, f"{source.name} has no transforms: nothing of it leaves staging"
    model = text_of("docs/model.md")
    for name in source.transforms:
        assert (SQL / "transform" / f"{name}.sql").is_file(), f"write include/sql/platform_etl/transform/{name}.sql"
        table = name.partition("__")[2]
        if table.startswith(("fct_", "dim_")):
            assert table in model, f"docs/model.md says nothing of {table}"


@every_source
def test_there_are_totals_to_reconcile_with(source: Source) -> None:
    assert any(stream.kind == "totals" for stream in source.streams), (
        f"{source.name} has no stream of kind TOTALS: its numbers would be compared with nothing"
    )


@every_source
def test_the_families_of_the_limits_are_those_that_are_asked(source: Source) -> None:
    assert source.limits, f"sources/{source.name}.py: no limits"
    assert all(limits for limits in source.limits.values()), f"sources/{source.name}.py: a family without a limit"


@every_source
def test_there_is_a_client_with_an_error_table(source: Source) -> None:
    assert source.name in CLIENTS, f"enter the client into CLIENTS (plugins/penstock/clients): {source.name}"
    client = importlib.import_module(CLIENTS[source.name].__module__)
    assert {rule.code for rule in client.RULES} <= set(CATALOGUE), "enter the codes into core/errors.py"


@every_source
def test_there_is_a_hook(source: Source) -> None:
    text_of(f"plugins/penstock/hooks/{source.name}.py")
    assert f'"{source.name}":' in text_of("plugins/penstock/hooks/registry.py"), "enter the hook into hooks/registry.py"


@every_source
def test_there_is_a_pool(source: Source) -> None:
    pools = {pool["pool_name"] for pool in SETTINGS["pools"]}
    assert source.name in pools, f"airflow_settings.yaml has no pool {source.name}"


@every_vendor
def test_there_is_a_connection_with_a_form(name: str) -> None:
    connections = {connection["conn_id"] for connection in SETTINGS["connections"]}
    assert name in connections, f"airflow_settings.yaml has no connection {name}"
    forms = {form["connection-type"] for form in penstock_provider.get_provider_info()["connection-types"]}
    assert name in forms, f"penstock_provider has no connection type {name}"


@every_vendor
def test_the_stack_knows_the_vendor_and_the_sandbox_serves_it(name: str) -> None:
    vendor = next((vendor for vendor in VENDORS if vendor.conn_id == name), None)
    assert vendor is not None, f"stack/plan.py: no Vendor {name}"
    assert f'Mount("{vendor.sandbox_path}"' in text_of("sandbox/app.py"), (
        f"sandbox/app.py serves no {vendor.sandbox_path}"
    )
    for variable in filter(None, (vendor.credential, vendor.base_url)):
        assert variable in text_of(".env.example"), f".env.example does not name {variable}"
        assert variable in text_of("docker-compose.yaml"), f"docker-compose.yaml does not hand on {variable}"


@every_vendor
def test_there_are_tests(name: str) -> None:
    assert list((PROJECT / "tests").rglob(f"test_*{name}*.py")), f"no test is named after {name}"
