"""docker-compose.yaml against the Compose specification, and its commands against what they start."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from penstock.core.databases import CONCERN_SETS, WAREHOUSE_VARIABLES
from stack import deployment, plan
from tests.compose_values import filled

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / "docker-compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>[A-Z0-9_]+)(?P<rule>:[-?][^}]*)?\}")
SECRETS = {
    *("AIRFLOW_DB_PASSWORD", "REDIS_PASSWORD", "AIRFLOW_FERNET_KEY", "AIRFLOW_JWT_SECRET", "AIRFLOW_API_SECRET_KEY"),
    *("AIRFLOW_ADMIN_PASSWORD", "PENSTOCK_ENCRYPTION_KEYS"),
}

PARSE_COMMANDS = """
import json, sys
from airflow.cli.cli_parser import get_parser
for command in json.loads(sys.argv[1]):
    arguments = get_parser().parse_args(command)
    print(arguments.func.__name__ if hasattr(arguments.func, "__name__") else arguments.subcommand)
"""


def texts(value: Any) -> Iterator[str]:
    """Every text in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def test_the_file_is_valid_by_the_compose_specification() -> None:
    schema = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"

    jsonschema.validate(COMPOSE, json.loads(schema.read_text()))


def test_it_runs_celery_with_redis_and_postgres() -> None:
    assert SERVICES["worker"]["environment"]["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert SERVICES["redis"]["image"].startswith("redis:")
    assert SERVICES["postgres"]["image"].startswith("postgres:")


def test_the_image_is_the_official_one_of_the_pinned_version() -> None:
    dockerfile = (PROJECT / "Dockerfile").read_text()
    pinned = re.search(r"^apache-airflow==(\S+)$", (PROJECT / "requirements.txt").read_text(), re.MULTILINE)

    assert pinned is not None
    assert f"FROM apache/airflow:{pinned[1]}-python3.11\n" in dockerfile


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_restarts_and_says_whether_it_is_well(name: str) -> None:
    service = SERVICES[name]
    if name == "init":
        assert service["restart"] == "no"
        return
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


@pytest.mark.parametrize("name", ["api-server", "scheduler", "dag-processor", "triggerer", "worker"])
def test_airflow_waits_until_the_deployment_is_prepared(name: str) -> None:
    assert SERVICES[name]["depends_on"]["init"]["condition"] == "service_completed_successfully"


def test_secrets_come_from_the_environment_and_a_missing_one_stops_the_start() -> None:
    rules: dict[str, set[str]] = {}
    for text in texts(COMPOSE):
        for match in VARIABLE.finditer(text):
            rules.setdefault(match["name"], set()).add((match["rule"] or "")[:2])

    assert {name for name, found in rules.items() if ":?" in found} == SECRETS
    assert all(":-" not in rules[name] for name in SECRETS)


def test_every_variable_is_explained_in_the_example() -> None:
    example = (PROJECT / ".env.example").read_text()
    used = {match["name"] for text in texts(COMPOSE) for match in VARIABLE.finditer(text)}

    assert used
    assert {name for name in used if f"#{name}=" not in example} == set()


def test_the_init_service_hands_on_every_variable_of_a_vendor_and_of_the_settings() -> None:
    given = SERVICES["init"]["environment"]
    wanted = {
        name
        for vendor in plan.VENDORS
        for name in (vendor.credential, vendor.account, vendor.base_url)
        if name is not None
    }
    settings_file = yaml.safe_load((PROJECT / "airflow_settings.yaml").read_text())
    settings = {match["name"] for text in texts(settings_file) for match in VARIABLE.finditer(text)}
    from_the_url = {f"WAREHOUSE_{field.upper()}" for field in (*plan.LIBPQ_FIELDS.values(), "extra")}

    assert (wanted | settings) - from_the_url - given.keys() == set()
    assert deployment.SANDBOX_VARIABLE in given
    assert SERVICES["init"]["command"] == ["python", "-m", "stack", "init"]


def test_the_warehouse_may_have_the_name_that_the_old_workers_gave_it() -> None:
    url = SERVICES["init"]["environment"]["WAREHOUSE_URL"]
    own = "postgresql://penstock:pw@warehouse:5432/warehouse"

    assert filled(url, {"WAREHOUSE_PASSWORD": "pw"}) == own
    for place, name in enumerate(WAREHOUSE_VARIABLES):
        later = dict.fromkeys(WAREHOUSE_VARIABLES[place:], "another")
        assert filled(url, later | {name: "postgresql://one", "WAREHOUSE_PASSWORD": "pw"}) == "postgresql://one", name


@pytest.mark.parametrize("name", ["init", "api-server", "scheduler", "dag-processor", "triggerer", "worker"])
def test_a_database_of_a_concerns_own_is_the_same_for_migrations_tasks_and_triggers(name: str) -> None:
    """Who did not hear of it would work on the warehouse, where nobody looks."""
    given = SERVICES[name].get("environment", COMPOSE["x-airflow"]["environment"])
    variables = [f"AIRFLOW_CONN_{conn_id.upper()}" for conn_id in CONCERN_SETS if conn_id != "warehouse"]

    url = "postgresql://user:password@elsewhere:5432/own"
    assert {filled(given[variable], {variable: url}) for variable in variables} == {url}
    empty = {variable: filled(given[variable], {}) for variable in variables}
    assert plan.make(empty).given_connections == frozenset()


@pytest.mark.parametrize("name", ["scheduler", "triggerer", "worker"])
def test_whoever_runs_tasks_has_the_variables_that_tasks_read(name: str) -> None:
    read = {
        variable
        for file in (PROJECT / "plugins" / "penstock" / "operators").glob("*.py")
        for variable in re.findall(r'_VARIABLE = "([A-Z_]+)"', file.read_text())
    }

    given = SERVICES[name].get("environment", COMPOSE["x-airflow"]["environment"])

    assert "CALENDAR_SYNC_BATCH_SIZE" in read
    assert read - given.keys() == set()


def test_the_sandbox_has_a_profile_of_its_own() -> None:
    assert SERVICES["sandbox"]["profiles"] == ["sandbox"]
    assert all("sandbox" not in service.get("profiles", []) for name, service in SERVICES.items() if name != "sandbox")


def test_airflow_knows_every_command() -> None:
    commands = [service["command"][1:] for service in SERVICES.values() if service.get("command", [""])[0] == "airflow"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")}
    environment |= {"AIRFLOW__CORE__EXECUTOR": SERVICES["worker"]["environment"]["AIRFLOW__CORE__EXECUTOR"]}

    result = subprocess.run(
        [sys.executable, "-c", PARSE_COMMANDS, json.dumps(commands)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) == len(commands) == 5


def test_the_administrator_is_created_where_the_auth_manager_keeps_users() -> None:
    manager = SERVICES["init"]["environment"]["AIRFLOW__CORE__AUTH_MANAGER"]

    commands = deployment.administrator({"AIRFLOW_ADMIN_PASSWORD": "pw", "AIRFLOW__CORE__AUTH_MANAGER": manager})

    assert [command[:2] for command in commands] == [["users", "create"]]
    assert deployment.administrator({"AIRFLOW_ADMIN_PASSWORD": "pw"}) == []
    assert deployment.administrator({"AIRFLOW__CORE__AUTH_MANAGER": manager}) == []
