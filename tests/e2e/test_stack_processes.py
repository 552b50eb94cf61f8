"""Services that die, escape and refuse to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from stack import processes
from stack.home import PROJECT
from stack.memory import PeakMemory
from stack.processes import Service, ServiceError, Supervisor

SLEEP = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
# A child in a process group of its own, as Airflow's dag-processor has: a signal to the parent's group misses it.
FAMILY = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], process_group=0)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(said: list[str]) -> Iterator[Supervisor]:
    started = Supervisor(said.append)
    yield started
    started.stop(seconds=0.2)


@pytest.fixture
def service(tmp_path: Path) -> Callable[[str], Service]:
    def make(code: str) -> Service:
        return Service("worker", [sys.executable, "-c", code], dict(os.environ), tmp_path / "worker.log", tmp_path)

    return make


def eventually(is_true: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_service_that_dies_is_started_again_and_people_are_told_where_to_look(
    supervisor: Supervisor, service: Callable[[str], Service], said: list[str]
) -> None:
    sleeper = service(SLEEP)
    supervisor.start([sleeper])
    first = sleeper.pid
    assert first is not None
    psutil.Process(first).kill()
    assert eventually(lambda: not sleeper.is_running)

    supervisor.check()

    assert sleeper.is_running
    assert sleeper.pid != first
    assert said == [f"worker ended with status -9, starting it again; its log: {sleeper.log_file}"]


def test_a_service_that_keeps_dying_ends_the_stack_and_names_its_log(
    supervisor: Supervisor, service: Callable[[str], Service]
) -> None:
    broken = service("raise SystemExit('no such setting')")
    supervisor.start([broken])
    for _ in range(processes.RESTARTS):
        assert eventually(lambda: not broken.is_running)
        supervisor.check()
    assert eventually(lambda: not broken.is_running)

    with pytest.raises(ServiceError, match=r"worker died 4 times: read .*worker\.log"):
        supervisor.check()

    assert "no such setting" in broken.log_tail()


def test_deaths_long_ago_do_not_count(said: list[str], service: Callable[[str], Service]) -> None:
    now = 0.0
    supervisor = Supervisor(said.append, clock=lambda: now)
    broken = service("raise SystemExit(1)")
    supervisor.start([broken])
    for _ in range(6):
        assert eventually(lambda: not broken.is_running)
        now += processes.RESTART_WINDOW
        supervisor.check()
    supervisor.stop()

    assert len(said) == 6


def test_stopping_ends_children_in_other_process_groups(
    supervisor: Supervisor, service: Callable[[str], Service]
) -> None:
    parent = service(FAMILY)
    supervisor.start([parent])
    assert eventually(lambda: bool(parent.log_tail()))
    child = int(parent.log_tail())
    assert os.getpgid(child) != parent.pid

    supervisor.stop(seconds=0.2)

    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert not parent.is_running


def test_stopping_ends_what_ignores_sigterm(supervisor: Supervisor, service: Callable[[str], Service]) -> None:
    stubborn = service(STUBBORN)
    supervisor.start([stubborn])
    assert eventually(lambda: "up" in stubborn.log_tail())
    assert stubborn.pid is not None

    supervisor.stop(seconds=0.2)

    assert processes.started_at(stubborn.pid) is None


def test_a_process_is_told_from_a_later_one_with_the_same_id(
    service: Callable[[str], Service], supervisor: Supervisor
) -> None:
    later = service(SLEEP)
    supervisor.start([later])

    assert later.pid is not None
    assert processes.started_at(later.pid) == processes.started_at(later.pid) != processes.started_at(os.getpid())
    assert processes.started_at(2**22 - 1) is None


def test_peak_memory_counts_descendants(service: Callable[[str], Service], supervisor: Supervisor) -> None:
    hungry = service(
        "import subprocess, sys; subprocess.run([sys.executable, '-c', "
        "'import time; held = bytearray(b\"x\" * 80_000_000); print(1, flush=True); time.sleep(60)'])"
    )
    supervisor.start([hungry])
    assert eventually(lambda: bool(hungry.log_tail()))

    memory = PeakMemory(lambda: {"hungry": hungry.pid or 0, "gone": 2**22 - 1})
    memory.sample()

    assert memory.megabytes["hungry"] >= 80
    assert memory.megabytes["gone"] == 0
    assert memory.megabytes["all"] == memory.megabytes["hungry"]


# A level that takes a moment to stop what it started, as pytest does, and leaves a stubborn process behind.
TEARDOWN = f"""
import pathlib, subprocess, sys, time
left = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], stdout=subprocess.PIPE)
left.stdout.readline()
here = pathlib.Path(sys.argv[1])
here.write_text(str(left.pid))
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.3)
    here.with_suffix(".stopped").touch()
"""
LEVELS = f"""
import sys
from stack import levels
levels.GROUPS = {{
    "all": [levels.Level(name, ((sys.executable, "-c", {TEARDOWN!r}, name),)) for name in sys.argv[1:]]
}}
sys.exit(levels.main([]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_levels_that_are_stopped_stop_what_they_started_and_leave_nothing_running(
    tmp_path: Path, number: signal.Signals
) -> None:
    files = [tmp_path / "first.pid", tmp_path / "second.pid"]
    process = subprocess.Popen([sys.executable, "-c", LEVELS, *map(str, files)], cwd=PROJECT)
    assert eventually(lambda: all(file.exists() and file.read_text() for file in files))

    process.send_signal(number)
    process.send_signal(number)

    assert process.wait(timeout=20) == 130
    assert all(file.with_suffix(".stopped").exists() for file in files)
    assert not any(psutil.pid_exists(int(file.read_text())) for file in files)
