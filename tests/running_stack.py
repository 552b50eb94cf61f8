"""`make up` in a process of its own, for tests that look at what it starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from stack.home import PROJECT

START_SECONDS = 240

Found = TypeVar("Found")


def environment(home: Path, **more: str) -> dict[str, str]:
    """Without the machine's own settings and without .env: every vendor is played by the sandbox.

    more: variables besides.
    """
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    path = os.pathsep.join([str(PROJECT / "plugins"), str(PROJECT)])
    return {**kept, "PENSTOCK_HOME": str(home), "PYTHONPATH": path, "PENSTOCK_DOTENV": os.devnull, **more}


def dags_folder(home: Path, *names: str) -> str:
    """A folder with these DAG files alone: two cores are not enough to run all of them beside a test."""
    folder = home / "dags"
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(PROJECT / "dags" / name, folder / name)
    return str(folder)


def start_up(home: Path, **more: str) -> tuple[subprocess.Popen[bytes], Path]:
    """The process of `up` in this folder, and the file that it writes into."""
    log = home / "up.log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "stack", "up"]
        process = subprocess.Popen(
            command, env=environment(home, **more), cwd=PROJECT, stdout=output, stderr=subprocess.STDOUT
        )
    return process, log


def wait_for(process: subprocess.Popen[bytes], log: Path, find: Callable[[str], Found | None]) -> Found:
    """What `find` sees in the process's output, as soon as it sees something."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        said = log.read_text()
        found = find(said)
        if found:
            return found
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.5)
