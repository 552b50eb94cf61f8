"""Drains of the calendar outbox in processes of their own, to be killed."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import random
from typing import Any

from bench.postgres_faults import failing_statements
from penstock.jobs.calendar_outbox import CalendarStore, Orders
from penstock.warehouse.session import Warehouse
from tests.calendar_scene import WIDE_LIMITS, Scene

LEASE_S = 2.0
RESIDENT = Orders(residence=3600.0, threads=2, late_after=1e9)


def work(dsn: str, sandbox_url: str, number: int, has_failing_statements: bool) -> None:
    """A worker's whole life: it is killed."""
    with contextlib.ExitStack() as stack:
        if has_failing_statements:
            stack.enter_context(failing_statements(CalendarStore, "_patiently", random.Random(number)))
        warehouse = stack.enter_context(Warehouse(dsn, application_name=f"worker {number}", patience=60))
        scene = Scene(warehouse, sandbox_url, limits=dict(WIDE_LIMITS))
        while True:
            scene.run(RESIDENT, holder=f"worker {number}", lease=LEASE_S)


class Workers:
    """Some processes that drain; one of them can be killed, and another one takes its place."""

    def __init__(self, dsn: str, sandbox_url: str, count: int, *, has_failing_statements: bool = False) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["bench.calendar_workers", "bench.soak"])
        self._job = (dsn, sandbox_url)
        self._has_failing_statements = has_failing_statements
        self._numbers = itertools.count(1)
        self._running = [self._start() for _ in range(count)]

    def _start(self) -> Any:
        told = (*self._job, next(self._numbers), self._has_failing_statements)
        process = self._context.Process(target=work, args=told, daemon=True)
        process.start()
        return process

    def kill_one(self, rng: random.Random) -> None:
        """`kill -9`, and a new one."""
        place = rng.randrange(len(self._running))
        self._running[place].kill()
        self._running[place].join()
        self._running[place] = self._start()

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.join()
