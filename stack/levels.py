"""`make test` and its parts: one process per level, its time, and a table at the end.

python -m stack.levels [lint | browser | compose | contracts | unit | properties | ...]    default: lint and all tests
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stack import chromium
from stack.home import PROJECT
from stack.terminal import complain, end_on_signals, table

Command = Sequence[str]


@dataclass(frozen=True, slots=True)
class Level:
    """Commands that belong together; the level fails when one of them does."""

    name: str
    commands: tuple[Command, ...]


def _program(name: str) -> str:
    """A program of the environment this runs in, whatever PATH says."""
    return str(Path(sys.executable).parent / name)


def _pytest(*arguments: str) -> tuple[Command, ...]:
    return ((sys.executable, "-m", "pytest", "-q", *arguments),)


# Unit tests use no plugin, and importing these takes as long as a good part of the tests.
_BARE = ("-p", "no:hypothesispytest", "-p", "no:anyio")


LINT = Level(
    "lint",
    (
        (_program("ruff"), "check", "."),
        (_program("ruff"), "format", "--check", "."),
        (_program("mypy"),),
        (_program("lint-imports"),),
        (_program("sqlfluff"), "lint", "--processes", "2", "include/sql"),
    ),
)
TESTS = (
    Level("unit", _pytest(*_BARE, "tests/unit")),
    Level("properties", _pytest("tests/properties")),
    Level("simulated, contract", _pytest("tests/simulated", "tests/contract")),
    Level("db, sql", _pytest("tests/db", "tests/sql")),
    Level("dags", _pytest("tests/dags")),
    Level("e2e", _pytest("tests/e2e")),
)
BROWSER = Level("browser", _pytest("tests/browser"))
COMPOSE = Level("compose", _pytest("tests/compose"))
CONTRACTS = Level("contracts", _pytest("tests/contract/vendor"))
GROUPS: Mapping[str, tuple[Level, ...]] = {
    "all": (LINT, *TESTS),
    "lint": (LINT,),
    "browser": (BROWSER,),
    "compose": (COMPOSE,),
    "contracts": (CONTRACTS,),
    **{level.name.split(",")[0]: (level,) for level in TESTS},
}


def environment(values: Mapping[str, str]) -> dict[str, str]:
    """What the levels inherit: bytecode is kept, settings of another Airflow are not."""
    kept = {name: value for name, value in values.items() if not name.startswith(("AIRFLOW", "PYTHONDONTWRITE"))}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(PROJECT / "plugins"), str(PROJECT)])}


def run(levels: Sequence[Level], call: Callable[[Command], int], clock: Callable[[], float] = time.monotonic) -> int:
    """Run every level, also after a failure. Status 0 when all passed.

    pytest answers 5 when it found no tests: that is a failure as well, for nothing was checked.
    """
    rows = [["level", "seconds", "result"]]
    for level in levels:
        began = clock()
        statuses = [call(command) for command in level.commands]
        rows.append([level.name, f"{clock() - began:.1f}", "FAILED" if any(statuses) else "ok"])
    print(f"\n{table(rows, frozenset({1}))}", flush=True)
    return 1 if any(row[2] == "FAILED" for row in rows) else 0


def _call(command: Command) -> int:
    print(f"\n$ {' '.join([Path(command[0]).name, *command[1:]])}", flush=True)
    return subprocess.run(command, cwd=PROJECT, env=environment(os.environ), check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """The exit status. An unknown group is 2."""
    name = arguments[0] if arguments else "all"
    if name not in GROUPS:
        complain(f"unknown group {name}: one of {', '.join(GROUPS)}")
        return 2
    end_on_signals()
    if name == "browser":
        try:
            os.environ[chromium.VARIABLE] = chromium.find_or_install(os.environ)
        except chromium.NoChromium as error:
            complain(str(error))
            return 1
    return run(GROUPS[name], _call)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
