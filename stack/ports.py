"""Free TCP ports, remembered so that URLs stay the same from one start to the next."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from stack import private_files

HOST = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could listen on the port on every address: some of Airflow's do."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def choose(names: Iterable[str], remembered: Mapping[str, int]) -> dict[str, int]:
    """One port per name: the remembered one while it is free, else a new one. No port is given twice."""
    chosen: dict[str, int] = {}
    missing: list[str] = []
    for name in names:
        port = remembered.get(name)
        if port and port not in chosen.values() and is_free(port):
            chosen[name] = port
        else:
            missing.append(name)
    with ExitStack() as held:  # all held together, so that the system hands out different ones
        for name in missing:
            probe = held.enter_context(socket.socket())
            probe.bind((HOST, 0))
            chosen[name] = int(probe.getsockname()[1])
    return chosen


def remembered(path: Path) -> dict[str, int]:
    """The ports in the file; entries that are no ports are left out."""
    return {name: port for name, port in private_files.read_json(path).items() if isinstance(port, int)}
