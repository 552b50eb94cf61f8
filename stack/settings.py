"""`airflow_settings.yaml`: connections, pools and variables, for every way of starting.

The file has the format of the Astro CLI (https://www.astronomer.io/docs/astro/cli/develop-project), which
is its only reader otherwise: plain Airflow ignores it. Values may name variables, `${NAME}` or
`${NAME:-default}`; `$$` is a dollar. They come from the environment, then from `.env`, then from the stack itself.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values

from stack.home import PROJECT

_VARIABLE = re.compile(r"\$(?:(?P<escape>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})")
_CONNECTION_FIELDS = {
    "conn_type": "conn_type",
    "conn_description": "description",
    "conn_host": "host",
    "conn_login": "login",
    "conn_password": "password",
    "conn_schema": "schema",
    "conn_port": "port",
}


class SettingsError(ValueError):
    """The settings file, or a value in the environment, is wrong; the message says which and how."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One Airflow connection. `fields` are as `airflow connections import` reads them; the repr hides them."""

    conn_id: str
    fields: Mapping[str, Any] = field(repr=False)

    @property
    def variable(self) -> str:
        """The environment variable that overrides this connection in Airflow."""
        return f"AIRFLOW_CONN_{self.conn_id.upper()}"


@dataclass(frozen=True, slots=True)
class Settings:
    """The file with every variable put in."""

    connections: tuple[Connection, ...]
    pools: Mapping[str, Mapping[str, Any]]
    variables: Mapping[str, str]

    def environment(self) -> dict[str, str]:
        """Connections and variables as environment variables, for processes without Airflow's database."""
        values = {connection.variable: json.dumps(connection.fields) for connection in self.connections}
        return values | {f"AIRFLOW_VAR_{name.upper()}": value for name, value in self.variables.items()}

    def imports(self) -> dict[str, dict[str, Any]]:
        """What `airflow connections import`, `pools import` and `variables import` read."""
        return {
            "pools": {name: dict(pool) for name, pool in self.pools.items()},
            "connections": {connection.conn_id: dict(connection.fields) for connection in self.connections},
            "variables": dict(self.variables),
        }


def read_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Everything that `.env` and the environment say; the environment wins unless it is empty there.

    PENSTOCK_DOTENV names another file than `.env` beside the code.
    """
    environment = os.environ if environment is None else environment
    dotenv = Path(environment.get("PENSTOCK_DOTENV") or PROJECT / ".env")
    from_file = dotenv_values(dotenv, interpolate=False) if dotenv.is_file() else {}
    values = {name: value for name, value in from_file.items() if value}
    return values | {name: value for name, value in environment.items() if value or name not in values}


def load(path: Path, values: Mapping[str, str], *, without: frozenset[str] = frozenset()) -> Settings:
    """Read the file with the variables put in.

    without: ids of connections to leave out, because the environment carries them already.
    Raises SettingsError.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from error
    airflow = document.get("airflow") if isinstance(document, dict) else None
    if not isinstance(airflow, dict):
        raise SettingsError(f"{path} has no section `airflow`")
    kept = [item for item in airflow.get("connections") or [] if item.get("conn_id") not in without]
    return Settings(
        connections=tuple(_connection(item, values) for item in kept),
        pools=dict(_pool(item, values) for item in airflow.get("pools") or []),
        variables=dict(_variable(item, values) for item in airflow.get("variables") or []),
    )


def substitute(value: Any, values: Mapping[str, str], where: str) -> Any:
    """Put the variables in, at any depth; anything but text stays as it is. Raises SettingsError."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _replacement(match, values, where), value)
    if isinstance(value, Mapping):
        return {key: substitute(item, values, where) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, values, where) for item in value]
    return value


def _replacement(match: re.Match[str], values: Mapping[str, str], where: str) -> str:
    if match["escape"]:
        return "$"
    value = values.get(match["name"])
    if value:
        return value
    if match["default"] is None:
        raise SettingsError(f"{where} needs the variable {match['name']}: set it in .env")
    return match["default"]


def _connection(item: Mapping[str, Any], values: Mapping[str, str]) -> Connection:
    conn_id = _name(item, "conn_id", "connection")
    where = f"connection {conn_id}"
    unknown = item.keys() - _CONNECTION_FIELDS.keys() - {"conn_id", "conn_extra"}
    if unknown:
        raise SettingsError(f"{where} has unknown fields: {', '.join(sorted(unknown))}")
    filled = {name: substitute(item.get(key), values, where) for key, name in _CONNECTION_FIELDS.items()}
    fields = {name: value for name, value in filled.items() if value not in (None, "")}
    if "port" in fields:
        fields["port"] = _integer(fields["port"], f"the port of {where}")
    extra = _extra(substitute(item.get("conn_extra"), values, where), where)
    if extra:
        fields["extra"] = json.dumps(extra, sort_keys=True)
    return Connection(conn_id, fields)


def _extra(value: Any, where: str) -> dict[str, Any]:
    """The extra as an object without its empty values; it may be written as one, or as JSON text."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise SettingsError(f"the extra of {where} is neither a mapping nor JSON: {error.msg}") from error
    if value in (None, ""):
        return {}
    if not isinstance(value, dict):
        raise SettingsError(f"the extra of {where} is not a mapping")
    return {name: item for name, item in value.items() if item not in (None, "")}


def _pool(item: Mapping[str, Any], values: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    name = _name(item, "pool_name", "pool")
    where = f"pool {name}"
    return name, {
        "slots": _integer(substitute(item.get("pool_slot"), values, where), f"pool_slot of {where}"),
        "description": substitute(item.get("pool_description") or "", values, where),
        "include_deferred": bool(item.get("pool_include_deferred", False)),
    }


def _variable(item: Mapping[str, Any], values: Mapping[str, str]) -> tuple[str, str]:
    name = _name(item, "variable_name", "variable")
    value = substitute(item.get("variable_value"), values, f"variable {name}")
    return name, value if isinstance(value, str) else json.dumps(value)


def _name(item: Mapping[str, Any], key: str, kind: str) -> str:
    name = item.get(key)
    if not isinstance(name, str) or not name:
        raise SettingsError(f"a {kind} has no {key}")
    return name


def _integer(value: Any, where: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{where} is not a number: {value!r}") from error
