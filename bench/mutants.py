"""`python -m bench.mutants`: small faults are put into the queues' state machines, error classifiers and renderer, and
into what decides which days are read, one at a time; the share of them that the fast tests notice.

mutmut does it (https://mutmut.readthedocs.io), on a copy of the code, because it wants the sources under `src`. Names
the survivors, with --diffs also what each changes. Exits with 1 below the pass mark. What reads payloads
(`core/calendar_events.py`, `core/recurrence.py`) is tried with generated payloads instead (tests/properties).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from stack.home import PROJECT

PASS_MARK = 0.85
MODULES = (
    "core/lease.py",
    "core/slack_errors.py",
    "core/slack_messages.py",
    "core/templates.py",
    "core/calendar_calls.py",
    "core/windows.py",
    "core/pacing.py",
    "jobs/notifications/courier.py",
    "jobs/platform_etl/planning.py",
)
TESTS = (
    "unit/test_lease.py",
    "unit/test_slack_errors.py",
    "unit/test_slack_messages.py",
    "unit/test_templates.py",
    "unit/test_calendar_calls.py",
    "unit/test_windows.py",
    "unit/test_pacing.py",
    "rooms/test_courier.py",
    "rooms/test_planning.py",
)
COPIED = ("include", "sandbox", "tests")


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.mutants", description=__doc__)
    parser.add_argument("--only", choices=MODULES, action="append", help="these modules alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--diffs", action="store_true", help="show every survivor")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-mutants-") as name:
        folder = Path(name)
        prepare(folder, options.only or MODULES)
        _mutmut(folder, "run", "--max-children", str(options.workers))
        states = results(folder)
        survivors = sorted(mutant for mutant, state in states.items() if state in ("survived", "no tests"))
        for mutant in survivors:
            print(mutant, flush=True)
            if options.diffs:
                print(_mutmut(folder, "show", mutant))
    return report(states)


def prepare(folder: Path, modules: tuple[str, ...] | list[str]) -> None:
    """The tree that mutmut works on."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "plugins" / "penstock", folder / "src" / "penstock", ignore=ignored)
    for name in COPIED:
        shutil.copytree(PROJECT / name, folder / name, ignore=ignored)
    settings = {
        "source_paths": ["src"],
        "only_mutate": [f"src/penstock/{module}" for module in modules],
        "also_copy": list(COPIED),
        "pytest_add_cli_args": ["-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": [f"tests/{test}" for test in TESTS],
    }
    lines = ["[tool.mutmut]", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    lines += ["[tool.pytest.ini_options]", 'pythonpath = ["src", "."]', 'addopts = ["--import-mode=importlib"]']
    lines += ['markers = ["db", "dags", "e2e", "contract", "browser"]']
    (folder / "pyproject.toml").write_text("\n".join(lines) + "\n")


def results(folder: Path) -> dict[str, str]:
    """Mutant -> killed, survived, no tests, timeout."""
    lines = _mutmut(folder, "results", "--all", "true").splitlines()
    pairs = (line.strip().rpartition(": ") for line in lines)
    return {mutant: state for mutant, colon, state in pairs if colon}


def report(states: dict[str, str]) -> int:
    """Prints the score of each module; the exit status."""
    totals: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    for mutant, state in states.items():
        module = mutant.rpartition(".")[0]
        totals[module] += 1
        killed[module] += state in ("killed", "timeout")
    for module, total in sorted(totals.items()):
        print(f"{module:42} {killed[module]:5} of {total:5} killed  {killed[module] / total:6.1%}")
    score = killed.total() / totals.total()
    print(f"{'all':42} {killed.total():5} of {totals.total():5} killed  {score:6.1%}  (pass mark {PASS_MARK:.0%})")
    return 0 if score >= PASS_MARK else 1


def _mutmut(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mutmut {arguments[0]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
