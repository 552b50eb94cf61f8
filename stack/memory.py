"""Peak memory of the stack's processes, sampled while they work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import psutil

INTERVAL = 2.0  # seconds
MEGABYTE = 1024 * 1024


def proportional_bytes(pid: int) -> int:
    """The process's share of memory: pages shared by n processes count 1/n (PSS), so that a sum is true.

    Where the system does not tell (other users' processes, other systems), the resident size stands in.
    """
    process = psutil.Process(pid)
    try:
        return int(process.memory_full_info().pss)
    except (psutil.AccessDenied, AttributeError):
        return int(process.memory_info().rss)


def tree_bytes(pid: int) -> int:
    """The memory of the process and its descendants; 0 when it is gone."""
    try:
        process = psutil.Process(pid)
        members = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for member in members:
        try:
            total += proportional_bytes(member.pid)
        except psutil.Error:
            continue
    return total


class PeakMemory:
    """Samples in a thread; `megabytes` has the peak per process name and of the sum.

    processes: name -> process id, asked anew for every sample.
    """

    def __init__(self, processes: Callable[[], Mapping[str, int]], interval: float = INTERVAL) -> None:
        self._processes = processes
        self._interval = interval
        self._peaks: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def megabytes(self) -> dict[str, int]:
        return {name: round(peak / MEGABYTE) for name, peak in sorted(self._peaks.items())}

    def sample(self) -> None:
        """Take one sample now."""
        sizes = {name: tree_bytes(pid) for name, pid in self._processes().items()}
        for name, size in (*sizes.items(), ("all", sum(sizes.values()))):
            self._peaks[name] = max(self._peaks.get(name, 0), size)

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            self.sample()
