"""`make test` and its parts: the time of each level, and a table at the end.

Two levels run at a time, because most of a level is waiting: each has a Postgres and an Airflow of its own. What one of
several levels says is printed when it has ended; a level that runs alone is heard at once.

python -m stack.levels [lint | browser | compose | contracts | unit | properties | ...]    default: lint and all tests
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from stack import chromium
from stack.home import PROJECT
from stack.processes import end_session
from stack.terminal import complain, end_signals, table

TOGETHER = 2
END_SECONDS = 60  # what a level needs at most to stop its servers

Command = Sequence[str]
Call = Callable[[Command], Awaitable[tuple[int, str]]]
"""Runs a command: its exit status, and what it said unless that was printed already."""


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


# These tests use no plugin, look at no log and print next to nothing: all that costs more than the tests themselves.
_BARE = ("--disable-plugin-autoload", "-p", "no:logging", "-p", "no:cacheprovider", "--capture=no")


_FORMAT = (_program("ruff"), "format", "--check", ".")
REMEDIES: Mapping[Command, str] = {_FORMAT: f"{_program('ruff')} format ."}
"""Commands that mend what another found, where that does not say so itself."""

LINT = Level(
    "lint",
    (
        (_program("ruff"), "check", "."),
        _FORMAT,
        (_program("mypy"),),
        (_program("lint-imports"),),
        (_program("sqlfluff"), "lint", "--processes", "2", "include/sql"),
    ),
)
# It takes as long as the others together, so it starts first.
E2E = Level("e2e", _pytest("tests/e2e"))
OTHERS = (
    Level("unit", _pytest(*_BARE, "tests/unit")),  # the pure rooms, core and sources
    Level("rooms", _pytest(*_BARE, "tests/rooms")),  # each other room by itself, doubles at its doors
    Level("properties", _pytest("tests/properties")),
    Level("simulated, contract", _pytest("tests/simulated", "tests/contract")),
    Level("db, sql", _pytest("tests/db", "tests/sql")),
    Level("dags", _pytest("tests/dags")),
)
BROWSER = Level("browser", _pytest("tests/browser"))
COMPOSE = Level("compose", _pytest("tests/compose"))
CONTRACTS = Level("contracts", _pytest("tests/contract/vendor"))
GROUPS: Mapping[str, tuple[Level, ...]] = {
    "all": (E2E, LINT, *OTHERS),
    "lint": (LINT,),
    "browser": (BROWSER,),
    "compose": (COMPOSE,),
    "contracts": (CONTRACTS,),
    **{level.name.split(",")[0]: (level,) for level in (E2E, *OTHERS)},
}


def environment(values: Mapping[str, str]) -> dict[str, str]:
    """What the levels inherit: bytecode is kept, settings of another Airflow are not."""
    kept = {name: value for name, value in values.items() if not name.startswith(("AIRFLOW", "PYTHONDONTWRITE"))}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(PROJECT / "plugins"), str(PROJECT)])}


async def run(levels: Sequence[Level], call: Call, clock: Callable[[], float] = time.monotonic) -> int:
    """Run every level, `TOGETHER` of them at a time, also after a failure. Status 0 when all passed.

    pytest answers 5 when it found no tests: that is a failure as well, for nothing was checked.
    """
    turn = asyncio.Semaphore(TOGETHER)

    async def row(level: Level) -> list[str]:
        async with turn:
            print(f"{level.name} begins", flush=True)
            began = clock()
            answers = [await call(command) for command in level.commands]
            seconds = f"{clock() - began:.1f}"
        for command, (status, said) in zip(level.commands, answers, strict=True):
            print(said, end="", flush=True)
            if status and command in REMEDIES:
                print(f"to mend it: {REMEDIES[command]}", flush=True)
        return [level.name, seconds, "FAILED" if any(status for status, _ in answers) else "ok"]

    began = clock()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(row(level)) for level in levels]
    rows = [task.result() for task in tasks]
    failed = [name for name, _, result in rows if result == "FAILED"]
    whole = ["all", f"{clock() - began:.1f}", "FAILED" if failed else "ok"]
    print(f"\n{table([['level', 'seconds', 'result'], *rows, whole], frozenset({1}))}", flush=True)
    if failed:
        complain(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


async def _heard(command: Command) -> tuple[int, str]:
    print(_line(command), end="", flush=True)
    return await _run(command, None), ""


async def _collected(command: Command) -> tuple[int, str]:
    # A file, not a pipe: a process that outlives the command would keep a pipe open.
    with tempfile.TemporaryFile() as output:
        status = await _run(command, output)
        output.seek(0)
        return status, _line(command) + output.read().decode(errors="replace")


def _line(command: Command) -> str:
    return f"\n$ {' '.join([Path(command[0]).name, *command[1:]])}\n"


async def _run(command: Command, output: IO[bytes] | None) -> int:
    """The exit status. Cancelled, it lets the command stop its servers and ends what is left of it.

    A session of its own keeps the terminal's Ctrl-C from everything below the command: it would come twice.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=PROJECT,
        env=environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,
    )
    try:
        return await process.wait()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.wait(), END_SECONDS)
        end_session(process.pid)
        raise


async def _until_stopped(levels: Sequence[Level]) -> int:
    work = asyncio.create_task(run(levels, _heard if len(levels) == 1 else _collected))

    def stop() -> None:
        if not work.cancelling():  # a second signal changes nothing: the end is under way
            work.cancel()

    for number in end_signals():
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return await work


def main(arguments: Sequence[str]) -> int:
    """The exit status. An unknown group is 2."""
    name = arguments[0] if arguments else "all"
    if name not in GROUPS:
        complain(f"unknown group {name}: one of {', '.join(GROUPS)}")
        return 2
    if name == "browser":
        try:
            os.environ[chromium.VARIABLE] = chromium.find_or_install(os.environ)
        except chromium.NoChromium as error:
            complain(str(error))
            return 1
    try:
        return asyncio.run(_until_stopped(GROUPS[name]))
    except asyncio.CancelledError:
        complain("stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
