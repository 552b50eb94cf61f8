"""A Chromium from the system's packages, for the browser tests: playwright's own download needs another host."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping

VARIABLE = "PENSTOCK_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends", "chromium")


class NoChromium(RuntimeError):
    """There is no Chromium and none can be installed; the message has the command to run."""


def find(environment: Mapping[str, str], which: Callable[[str], str | None] = shutil.which) -> str | None:
    """The program that PENSTOCK_CHROMIUM names, else the first on PATH."""
    chosen = environment.get(VARIABLE)
    return chosen or next((path for path in map(which, NAMES) if path), None)


def find_or_install(
    environment: Mapping[str, str],
    which: Callable[[str], str | None] = shutil.which,
    call: Callable[[tuple[str, ...]], int] = subprocess.call,
    is_root: Callable[[], bool] = lambda: os.geteuid() == 0,
) -> str:
    """The path of a Chromium, installed first where that is possible. Raises NoChromium."""
    found = find(environment, which)
    if found is None and which("apt-get") and is_root():
        print("installing Chromium from the system's packages", flush=True)
        if call(INSTALL) != 0 and call(("apt-get", "update")) == 0:
            call(INSTALL)
        found = find(environment, which)
    if found is None:
        raise NoChromium(
            "the browser tests need Chromium: run `sudo apt-get install chromium` "
            f"(or your system's equivalent), or name one with {VARIABLE}=/path/to/chromium"
        )
    return found
