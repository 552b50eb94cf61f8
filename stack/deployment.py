"""Prepares a deployment whose databases exist already: the init service of `docker-compose.yaml` runs this."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.core.databases import WAREHOUSE_VARIABLES
from penstock.warehouse.migrations import migrate_databases
from stack import accounts, imports, plan, private_files, sandbox, settings
from stack.environment import ADMIN
from stack.home import PROJECT

SANDBOX_VARIABLE = "PENSTOCK_SANDBOX_URL"
"""Set, it makes the sandbox stand in for the vendors without credentials; unset, those vendors have none."""


INSTALLATION = "deployment"
ADMINISTRATOR_VARIABLE = "AIRFLOW_ADMIN_PASSWORD"

REMEMBERED = "PENSTOCK_IMPORTED_SECRETS"
"""Airflow variable: what the settings looked like when they were last imported. Airflow shows no value of one whose
name says secret: these are hashes of passwords. Without it everything is imported anew."""


def prepare(say: Callable[[str], None]) -> int:
    """Airflow's schema, connections, pools and variables; the warehouse's schema; the accounts. Repeatable:
    what was edited in the UI stays as it is until the settings themselves change.

    Raises SettingsError when the environment names no warehouse or no keys.
    """
    values = settings.read_environment()
    decided = plan.make(values)
    if decided.warehouse_dsn is None:
        raise settings.SettingsError(f"a deployment needs a warehouse: set {WAREHOUSE_VARIABLES[0]}")
    vault_keys = values.get("PENSTOCK_ENCRYPTION_KEYS")
    if not vault_keys:
        raise settings.SettingsError("a deployment needs PENSTOCK_ENCRYPTION_KEYS (32 bytes in base64)")
    sandbox_url = values.get(SANDBOX_VARIABLE, "").rstrip("/") or None
    for line in decided.lines(has_sandbox=sandbox_url is not None):
        say(line)
    filled_in = decided.settings_values(
        warehouse_dsn=decided.warehouse_dsn,
        vault_keys=vault_keys,
        sandbox=sandbox.values(decided, sandbox_url) if sandbox_url else None,
    )
    filled = settings.load(PROJECT / "airflow_settings.yaml", filled_in, without=decided.given_connections)
    status = import_settings(filled, administrator(values))
    if status:
        return status
    applied = migrate_databases(decided.databases(decided.warehouse_dsn))
    say(f"warehouse: {len(applied)} migrations applied")
    accounts.register(
        decided,
        warehouse_dsn=decided.warehouse_dsn,
        vault_keys=vault_keys,
        sandbox_url=sandbox_url,
        installation=INSTALLATION,
        say=say,
    )
    return 0


def import_settings(filled: settings.Settings, more: Sequence[Sequence[str]] = ()) -> int:
    """Migrate Airflow's database, import what of the settings has changed since the last time, then run `more`.

    Every start of the compose file comes here. Returns the exit status.
    """
    version = importlib.metadata.version("apache-airflow")
    with tempfile.TemporaryDirectory(prefix="penstock-") as name:
        folder = Path(name)
        exported, remembered = folder / "exported.json", folder / "remembered.json"
        status = _run(imports.batch(folder, [imports.MIGRATE, ["variables", "export", str(exported)]]))
        if status:
            return status
        needed = imports.needed(filled, _known(exported) | {"airflow": version}, version)
        private_files.write_json(remembered, {REMEMBERED: dict(needed.remembered)})
        return _run(needed.command(folder, *more, ["variables", "import", str(remembered)]))


def _known(exported: Path) -> dict[str, Any]:
    """What the last import has remembered; nothing where there was none."""
    known = json.loads(exported.read_text()).get(REMEMBERED)
    return known if isinstance(known, dict) else {}


def _run(command: Sequence[str]) -> int:
    return subprocess.run(command, check=False, cwd=PROJECT).returncode


def administrator(values: Mapping[str, str]) -> list[list[str]]:
    """The command that creates the user `admin`, where the auth manager keeps users; one that exists stays as it is."""
    password = values.get(ADMINISTRATOR_VARIABLE)
    if not password or "fab" not in values.get("AIRFLOW__CORE__AUTH_MANAGER", ""):
        return []
    who = ["--username", ADMIN, "--firstname", "Penstock", "--lastname", "Admin", "--email", "admin@localhost"]
    return [["users", "create", *who, "--role", "Admin", "--password", password]]
