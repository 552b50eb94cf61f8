"""Which parts of the settings Airflow's database lacks, and the commands that bring them in.

A connection that was edited in the UI keeps its edits until the settings themselves change.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack import private_files
from stack.settings import Settings

MIGRATE = ["db", "migrate"]


@dataclass(frozen=True, slots=True)
class Needed:
    """What to import. `remembered`: what to store once that has succeeded, for the next comparison."""

    has_to_migrate: bool
    items: Mapping[str, Mapping[str, Any]]
    remembered: Mapping[str, str]

    @property
    def is_empty(self) -> bool:
        return not self.has_to_migrate and not any(self.items.values())

    def command(self, folder: Path, *more: Sequence[str]) -> list[str]:
        """The command line that does it, and `more` after it; the files that it reads are written into the folder."""
        return batch(folder, [*self._commands(folder), *more])

    def _commands(self, folder: Path) -> list[list[str]]:
        commands = [MIGRATE] if self.has_to_migrate else []
        for kind, items in self.items.items():
            if items:
                file = folder / f"{kind}.json"
                private_files.write_json(file, dict(items))
                overwrite = ["--overwrite"] if kind == "connections" else []  # the others overwrite anyway
                commands.append([kind, "import", *overwrite, str(file)])
        return commands


def batch(folder: Path, commands: Sequence[Sequence[str]]) -> list[str]:
    """The command line that runs these `airflow` commands; they are written into the folder."""
    file = folder / "commands.json"
    private_files.write_json(file, commands)
    return [sys.executable, "-m", "stack.airflow_batch", str(file)]


def needed(settings: Settings, known: Mapping[str, Any], version: str) -> Needed:
    """What differs from what was imported last.

    known: `Needed.remembered` of the last import; empty for a new database. version: Airflow's.
    """
    rendered = settings.imports()
    hashes = {
        f"{kind}.{name}": hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()
        for kind, items in rendered.items()
        for name, item in items.items()
    }
    changed = {
        kind: {name: item for name, item in items.items() if known.get(f"{kind}.{name}") != hashes[f"{kind}.{name}"]}
        for kind, items in rendered.items()
    }
    return Needed(
        has_to_migrate=known.get("airflow") != version,
        items=changed,
        remembered={**hashes, "airflow": version},
    )
