"""Where the local stack keeps its state: one folder, ignored by git."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
DEFAULT_HOME = PROJECT / ".penstock"


@dataclass(frozen=True, slots=True)
class Home:
    """The state folder: `.penstock` beside the code, or wherever PENSTOCK_HOME says."""

    root: Path

    @classmethod
    def from_environment(cls, values: Mapping[str, str]) -> Home:
        chosen = values.get("PENSTOCK_HOME")
        return cls(Path(chosen).expanduser().absolute() if chosen else DEFAULT_HOME)

    def create(self) -> Home:
        """Make the folders, closed to others; only the first may be passed through, for under root Postgres runs as
        another user."""
        for folder, mode in ((self.root, 0o711), (self.logs, 0o700), (self.airflow, 0o700)):
            if not folder.exists():
                folder.mkdir(parents=True)
                folder.chmod(mode)
        return self

    @property
    def keys_file(self) -> Path:
        return self.root / "secrets.json"

    @property
    def ports_file(self) -> Path:
        return self.root / "ports.json"

    @property
    def state_file(self) -> Path:
        """What a running stack tells other shells: process ids, URL."""
        return self.root / "stack.json"

    @property
    def lock_file(self) -> Path:
        return self.root / "stack.lock"

    @property
    def env_file(self) -> Path:
        """To be sourced by a shell in which `airflow` should work."""
        return self.root / "env"

    @property
    def imported_file(self) -> Path:
        """What the settings looked like when they were last imported."""
        return self.root / "imported.json"

    @property
    def paused_file(self) -> Path:
        """The DAGs that the demo has paused, until the next `make up` lets them go on."""
        return self.root / "paused-by-demo.json"

    @property
    def report_file(self) -> Path:
        return self.root / "demo-report.json"

    @property
    def passwords_file(self) -> Path:
        return self.root / "passwords.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def airflow(self) -> Path:
        return self.root / "airflow"

    def cluster(self, name: str) -> Path:
        return self.root / "postgres" / name
