"""Long-running services: started in sessions of their own, watched, restarted, and ended with all their children."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

RESTARTS = 3
RESTART_WINDOW = 300.0  # seconds: more than RESTARTS deaths within it, and the service stays down
STOP_SECONDS = 20.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ServiceError(RuntimeError):
    """A service does not start or does not stay up; the message names its log."""


@dataclass
class Service:
    """One process with its log file. The process leads a session, by which its descendants are found later."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    log_file: Path
    cwd: Path
    process: subprocess.Popen[bytes] | None = None
    deaths: list[float] = field(default_factory=list)

    def start(self) -> None:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                cwd=self.cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log_tail(self, lines: int = 15) -> str:
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])


class Supervisor:
    """Keeps services running until `stop`.

    say: receives a line for people whenever a service dies.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.services: list[Service] = []
        self._say = say
        self._clock = clock

    def start(self, services: Iterable[Service]) -> None:
        for service in services:
            self.services.append(service)
            service.start()

    def check(self) -> None:
        """Start again what died. Raises ServiceError when a service keeps dying."""
        for service in self.services:
            if service.is_running or service.process is None:
                continue
            now = self._clock()
            service.deaths = [moment for moment in service.deaths if now - moment < RESTART_WINDOW] + [now]
            status = service.process.returncode
            end_session(service.process.pid)
            if len(service.deaths) > RESTARTS:
                raise ServiceError(f"{service.name} died {len(service.deaths)} times: read {service.log_file}")
            self._say(f"{service.name} ended with status {status}, starting it again; its log: {service.log_file}")
            service.start()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End every service and whatever it started, also what escaped into process groups of its own."""
        started = [service for service in self.services if service.process is not None]
        for service in started:
            if service.process is not None and service.is_running:
                service.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        for service in started:
            if service.process is not None:
                _wait(service.process, deadline)
        for service in started:
            if service.process is not None:
                end_session(service.process.pid)
                service.process.wait()
        self.services.clear()


def _wait(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return


def session_members(session: int) -> list[psutil.Process]:
    """Every living process of the session. Process groups change, sessions do not, unless asked to."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return members


def end_session(session: int, seconds: float = 3.0) -> None:
    """SIGTERM to all of the session, and SIGKILL to those that stay."""
    members = session_members(session)
    for process in members:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(members, timeout=seconds)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=seconds)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return


def started_at(pid: int) -> str | None:
    """When the process started, as tells a process from any other with the same id; None when there is none.

    To be written down and compared, also after a reboot.
    """
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else _start(process)
    except psutil.Error:
        return None


def boot() -> str | None:
    """Changes with a reboot and when a container is started again: from then on process ids are given out anew.

    None where the first process is hidden from us.
    """
    return started_at(1)


def _start(process: psutil.Process) -> str:
    # Linux counts from the boot. psutil adds when that was, by a clock that is set now and then: the same process
    # would seem to be another.
    try:
        ticks = Path(f"/proc/{process.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        return f"{BOOT_ID.read_text().strip()} {ticks}"
    except OSError:  # macOS has no /proc
        return str(process.create_time())
