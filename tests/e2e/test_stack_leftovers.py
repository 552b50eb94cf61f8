"""What a stack that was killed has left: its processes are ended, and nobody else's who has their ids by now."""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from stack import commands, private_files, processes
from stack.home import PROJECT, Home
from stack.local import LocalStack, NotRunning
from stack.processes import Service

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
# A leader that leaves its session to a child, as a shell does with what it has put into the background.
LEAVES = f"import subprocess; print(subprocess.Popen({SLEEP!r}, stdout=subprocess.DEVNULL).pid)"
KEEPS_RUNNING = """
import pathlib, sys, time
from stack.home import Home
from stack.local import LocalStack
stack = LocalStack(Home(pathlib.Path(sys.argv[1])), {}, print)
stack._acquire()
stack._ports = {"api": 1}
stack._write_state(is_ready=True)
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PENSTOCK_DOTENV", os.devnull)
    return Home(tmp_path / "state").create()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def stack(home: Home, said: list[str]) -> LocalStack:
    return LocalStack(home, {}, said.append)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody's session, of which a file happens to have the id."""
    process = subprocess.Popen(SLEEP, start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def orphan() -> Iterator[psutil.Process]:
    """The last process of a session whose leader is gone."""
    said = subprocess.run([sys.executable, "-c", LEAVES], start_new_session=True, stdout=subprocess.PIPE, check=True)
    process = psutil.Process(int(said.stdout))
    yield process
    if process.is_running():
        process.kill()


@pytest.fixture
def starting(home: Home) -> Iterator[None]:
    """Another stack holds the folder and has not come to saying anything yet."""
    with home.lock_file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def as_killed(stack: LocalStack, command: list[str]) -> Service:
    """A service of a stack that is killed before it can end it."""
    service = Service("scheduler", command, dict(os.environ), stack.home.logs / "scheduler.log", PROJECT)
    stack.supervisor.start([service])
    stack._ports = {"api": 1}
    stack._write_state(is_ready=True)
    stack.supervisor.services.clear()
    return service


def change_state(home: Home, **values: Any) -> None:
    private_files.write_json(home.state_file, private_files.read_json(home.state_file) | values)


def change_service(home: Home, **values: Any) -> None:
    (service,) = private_files.read_json(home.state_file)["services"]
    change_state(home, services=[service | values])


def end_and_wait(service: Service) -> None:
    assert service.process is not None
    service.process.kill()
    service.process.wait()


def test_a_service_that_was_left_is_ended(stack: LocalStack, said: list[str]) -> None:
    service = as_killed(stack, SLEEP)

    stack.end_leftovers()

    assert not service.is_running
    assert said == [f"ending scheduler of a stack that was killed (process {service.pid})"]


def test_a_session_that_has_the_id_of_a_service_by_now_is_left_alone(
    home: Home, stack: LocalStack, said: list[str], stranger: subprocess.Popen[bytes]
) -> None:
    end_and_wait(as_killed(stack, SLEEP))
    change_service(home, pid=stranger.pid, started_at="earlier")

    stack.end_leftovers()

    assert is_alive(stranger.pid)
    assert said == []


def test_what_is_left_of_a_service_is_ended_although_its_leader_is_gone(
    home: Home, stack: LocalStack, said: list[str], orphan: psutil.Process
) -> None:
    end_and_wait(as_killed(stack, SLEEP))
    change_service(home, pid=os.getsid(orphan.pid))

    stack.end_leftovers()

    assert not is_alive(orphan.pid)
    assert len(said) == 1


def test_after_a_reboot_a_session_without_its_leader_is_left_alone(
    home: Home, stack: LocalStack, said: list[str], orphan: psutil.Process
) -> None:
    end_and_wait(as_killed(stack, SLEEP))
    change_service(home, pid=os.getsid(orphan.pid))
    change_state(home, boot="an earlier one")

    stack.end_leftovers()

    assert is_alive(orphan.pid)
    assert said == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system itself keeps the time of a process's start")
def test_a_process_stays_the_same_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = processes.started_at(os.getpid())
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: 1.0)

    assert processes.started_at(os.getpid()) == before


def test_a_starting_stack_first_takes_away_what_the_killed_one_has_said(
    home: Home, stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    private_files.write_json(home.state_file, {"pid": 1, "is_ready": True, "services": []})
    seen: list[bool] = []
    monkeypatch.setattr(stack, "_start_databases", lambda: seen.append(home.state_file.exists()))
    monkeypatch.setattr(stack, "_prepare", lambda: None)

    with stack.prepared():
        pass

    assert seen == [False]


def test_down_signals_nobody_while_another_stack_is_just_starting(
    home: Home, starting: None, stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "DOWN_SECONDS", 1.0)
    told = {"pid": stranger.pid, "started_at": "earlier", "is_ready": True, "services": []}
    private_files.write_json(home.state_file, told)

    with pytest.raises(NotRunning, match="just starting or stopping"):
        commands.down(argparse.Namespace())

    assert is_alive(stranger.pid)


def test_the_ports_of_a_killed_stack_are_not_taken_for_those_of_one_that_is_starting(
    home: Home, starting: None, stack: LocalStack, stranger: subprocess.Popen[bytes]
) -> None:
    told = {"pid": stranger.pid, "started_at": "earlier", "is_ready": True, "ports": {"metadata": 1, "warehouse": 2}}
    private_files.write_json(home.state_file, told)

    with pytest.raises(NotRunning):
        stack.attach()


def test_down_ends_the_stack_that_runs(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", KEEPS_RUNNING, str(home.root)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"

        assert commands.down(argparse.Namespace()) == 0

        assert running.wait(timeout=10) != 0
    assert "stopped" in capsys.readouterr().out
