from __future__ import annotations

import json
from pathlib import Path

import pytest

from stack import imports, settings
from stack.settings import SettingsError

PROJECT = Path(__file__).resolve().parents[2]
FILE = """
airflow:
  connections:
    - conn_id: warehouse
      conn_type: postgres
      conn_host: ${HOST}
      conn_port: ${PORT:-5432}
      conn_login: ${LOGIN:-}
      conn_password: ${PASSWORD:-}
      conn_extra: ${EXTRA:-}
    - conn_id: slack
      conn_type: slack
      conn_extra:
        base_url: ${SLACK_BASE_URL:-https://slack.com/api/}
        timeout: 5
        proxy: ${PROXY:-}
  pools:
    - pool_name: klaviyo
      pool_slot: ${SLOTS:-4}
      pool_description: Accounts of ${VENDOR:-Klaviyo}
  variables:
    - variable_name: channel
      variable_value: ${CHANNEL:-#alerts}
    - variable_name: price
      variable_value: $$5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "airflow_settings.yaml"
    path.write_text(FILE)
    return path


def test_variables_are_put_in_and_empty_values_left_out(file: Path) -> None:
    loaded = settings.load(file, {"HOST": "db.example", "LOGIN": "me", "EXTRA": '{"sslmode": "require"}'})

    assert loaded.imports() == {
        "pools": {"klaviyo": {"slots": 4, "description": "Accounts of Klaviyo", "include_deferred": False}},
        "connections": {
            "warehouse": {
                "conn_type": "postgres",
                "host": "db.example",
                "port": 5432,
                "login": "me",
                "extra": '{"sslmode": "require"}',
            },
            "slack": {"conn_type": "slack", "extra": '{"base_url": "https://slack.com/api/", "timeout": 5}'},
        },
        "variables": {"channel": "#alerts", "price": "$5"},
    }


def test_the_same_settings_become_environment_variables(file: Path) -> None:
    values = settings.load(file, {"HOST": "db.example", "PORT": "6543"}).environment()

    assert json.loads(values["AIRFLOW_CONN_WAREHOUSE"]) == {"conn_type": "postgres", "host": "db.example", "port": 6543}
    assert values["AIRFLOW_VAR_CHANNEL"] == "#alerts"


def test_a_connection_that_the_environment_carries_is_left_out(file: Path) -> None:
    loaded = settings.load(file, {}, without=frozenset({"warehouse"}))

    assert [connection.conn_id for connection in loaded.connections] == ["slack"]


def test_a_value_with_dollars_and_braces_is_not_substituted_again(file: Path) -> None:
    loaded = settings.load(file, {"HOST": "db", "PASSWORD": "a${HOST}$$b"})

    assert loaded.connections[0].fields["password"] == "a${HOST}$$b"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "connection warehouse needs the variable HOST"),
        ({"HOST": "db", "PORT": "x"}, "the port of connection warehouse is not a number: 'x'"),
        ({"HOST": "db", "EXTRA": "sslmode"}, "the extra of connection warehouse is neither a mapping nor JSON"),
        ({"HOST": "db", "EXTRA": "[1]"}, "the extra of connection warehouse is not a mapping"),
    ],
)
def test_a_wrong_value_is_named(file: Path, values: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings.load(file, values)


@pytest.mark.parametrize("text", ["", "- a list", "airflow: 1", "a: [b"])
def test_a_file_without_the_section_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)

    with pytest.raises(SettingsError, match=r"broken\.yaml"):
        settings.load(path, {})


def test_a_misspelt_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("airflow:\n  connections:\n    - conn_id: a\n      conn_pasword: b\n")

    with pytest.raises(SettingsError, match="connection a has unknown fields: conn_pasword"):
        settings.load(path, {})


def test_the_environment_wins_over_dotenv_unless_it_is_empty(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text('A=file\nB=file\nC=\nGA4_CREDENTIALS_JSON=\'{"type": "service_account", "a": "${x}"}\'\n')

    values = settings.read_environment({"A": "environment", "B": "", "PENSTOCK_DOTENV": str(dotenv)})

    assert values == {
        "A": "environment",
        "B": "file",
        "PENSTOCK_DOTENV": str(dotenv),
        "GA4_CREDENTIALS_JSON": '{"type": "service_account", "a": "${x}"}',
    }


def test_the_repr_of_a_connection_hides_its_fields(file: Path) -> None:
    loaded = settings.load(file, {"HOST": "db", "PASSWORD": "hunter2"})

    assert "hunter2" not in repr(loaded)


def test_the_projects_own_file_has_the_connections_that_people_rely_on() -> None:
    loaded = settings.load(
        PROJECT / "airflow_settings.yaml",
        {"WAREHOUSE_HOST": "db", "WAREHOUSE_SCHEMA": "warehouse", "PENSTOCK_ENCRYPTION_KEYS": "key"},
    )

    assert {connection.conn_id for connection in loaded.connections} >= {
        *("warehouse", "vault", "meta_ads", "ga4", "klaviyo", "google_ads", "steam", "nivoda", "slack")
    }
    assert set(loaded.pools) >= {"platform_etl", "meta_ads", "ga4", "klaviyo", "metrics_sync", "app_sync"}


def test_only_what_changed_is_imported_again(file: Path, tmp_path: Path) -> None:
    first = imports.needed(settings.load(file, {"HOST": "one"}), {}, "3.3.2")
    same = imports.needed(settings.load(file, {"HOST": "one"}), first.remembered, "3.3.2")
    moved = imports.needed(settings.load(file, {"HOST": "two"}), first.remembered, "3.3.2")

    assert first.has_to_migrate
    assert {kind: set(items) for kind, items in first.items.items()} == {
        "pools": {"klaviyo"},
        "connections": {"warehouse", "slack"},
        "variables": {"channel", "price"},
    }
    assert same.is_empty
    assert not moved.has_to_migrate
    assert {kind: set(items) for kind, items in moved.items.items()} == {
        "pools": set(),
        "connections": {"warehouse"},
        "variables": set(),
    }
    command = moved.command(tmp_path, ["users", "list"])
    assert json.loads(Path(command[-1]).read_text()) == [
        ["connections", "import", "--overwrite", str(tmp_path / "connections.json")],
        ["users", "list"],
    ]


def test_a_new_version_of_airflow_migrates_its_database(file: Path) -> None:
    loaded = settings.load(file, {"HOST": "one"})
    known = imports.needed(loaded, {}, "3.3.2").remembered

    assert imports.needed(loaded, known, "3.4.0").has_to_migrate
