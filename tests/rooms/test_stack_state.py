from __future__ import annotations

import base64
import socket
import stat
from pathlib import Path

import pytest

from stack import environment, keys, ports, private_files
from stack.home import Home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "state").create()


def test_the_state_folder_moves_with_penstock_home(tmp_path: Path) -> None:
    assert Home.from_environment({"PENSTOCK_HOME": str(tmp_path)}).root == tmp_path
    assert Home.from_environment({}).root.name == ".penstock"


def test_logs_are_closed_to_others(home: Home) -> None:
    assert mode(home.root) == 0o711
    assert mode(home.logs) == 0o700


def test_keys_are_made_once_and_readable_by_their_owner_alone(home: Home) -> None:
    made = keys.load_or_make(home.keys_file)

    assert keys.load_or_make(home.keys_file) == made
    assert mode(home.keys_file) == 0o600
    assert len(base64.urlsafe_b64decode(made.vault_key)) == 32
    assert len(base64.urlsafe_b64decode(made.fernet_key)) == 32
    assert made.admin_password not in repr(made)


def test_a_key_that_a_newer_version_needs_is_added_and_the_others_stay(home: Home) -> None:
    private_files.write_json(home.keys_file, {"fernet_key": "kept", "of_another_version": "kept as well"})

    made = keys.load_or_make(home.keys_file)

    assert made.fernet_key == "kept"
    assert made.vault_key
    assert private_files.read_json(home.keys_file)["of_another_version"] == "kept as well"


def test_a_file_that_is_no_json_object_reads_as_empty(tmp_path: Path) -> None:
    for number, text in enumerate(("", "{", "[1]")):
        path = tmp_path / str(number)
        path.write_text(text)
        assert private_files.read_json(path) == {}
    assert private_files.read_json(tmp_path / "missing") == {}


def test_ports_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"

    first = ports.choose(("api", "sandbox"), {})
    private_files.write_json(path, first)

    assert len(set(first.values())) == 2
    assert ports.choose(("api", "sandbox"), ports.remembered(path)) == first


def test_a_taken_port_is_replaced_and_the_others_stay() -> None:
    free = ports.choose(("api",), {})["api"]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = int(other.getsockname()[1])

        chosen = ports.choose(("sandbox", "api"), {"sandbox": taken, "api": free})

    assert chosen["api"] == free
    assert chosen["sandbox"] not in (taken, free)


def test_one_remembered_port_is_not_given_twice() -> None:
    free = ports.choose(("api",), {})["api"]

    chosen = ports.choose(("api", "sandbox"), {"api": free, "sandbox": free})

    assert chosen["api"] == free
    assert chosen["sandbox"] != free


def airflow_environment(home: Home, base: dict[str, str]) -> dict[str, str]:
    return environment.airflow(
        home,
        base=base,
        keys=keys.load_or_make(home.keys_file),
        ports=environment.AirflowPorts(api=8080, worker_logs=8793, trigger_logs=8794),
        metadata_dsn="postgresql://penstock:pw@127.0.0.1:5432/airflow",
    )


def test_airflow_inherits_neither_another_airflow_nor_a_ban_on_bytecode(home: Home) -> None:
    values = airflow_environment(
        home,
        {
            "PYTHONDONTWRITEBYTECODE": "1",
            "AIRFLOW_HOME": "/elsewhere",
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW_CONN_KLAVIYO": "klaviyo://",
            "ENCRYPTION_KEY": "old",
        },
    )

    assert "PYTHONDONTWRITEBYTECODE" not in values
    assert values["AIRFLOW_HOME"] == str(home.airflow)
    assert values["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert values["AIRFLOW_CONN_KLAVIYO"] == "klaviyo://"
    assert values["ENCRYPTION_KEY"] == "old"


def test_airflow_listens_on_this_machine_alone(home: Home) -> None:
    values = airflow_environment(home, {})

    assert values["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert values["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8080/execution/"
    assert values["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "postgresql+psycopg2://penstock:pw@127.0.0.1:5432/airflow"


def test_the_file_for_shells_holds_our_variables_quoted_and_is_private(home: Home) -> None:
    environment.write_shell_file(home, {"AIRFLOW_HOME": "/a b", "PENSTOCK_HOME": "it's", "HOME": "/root"})

    text = home.env_file.read_text()
    assert "export AIRFLOW_HOME='/a b'\n" in text
    assert "export PENSTOCK_HOME='it'\"'\"'s'\n" in text
    assert "export HOME=" not in text
    assert text.startswith("unset PYTHONDONTWRITEBYTECODE")
    assert mode(home.env_file) == 0o600
