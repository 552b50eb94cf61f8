"""Workers in processes of their own, to be killed or frozen in the middle of a run.

A worker does what an Airflow task does: it opens the warehouse, makes the calls into the jobs and tells how they
ended. It is forked from a server that has imported everything once, so that a hundred of them cost no imports.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any
from unittest import mock

import psycopg
import requests

from penstock.core.errors import PenstockError
from penstock.jobs import platform_etl
from penstock.jobs.platform_etl import RunContext, RunNotComplete, RunWaiting, remote_report, slices
from penstock.warehouse import failures
from penstock.warehouse.session import Warehouse
from tests.pipeline import Pipeline

EXTRACT, TRANSFORM, FINISH = "extract", "transform", "finish"
ALL_STAGES = (EXTRACT, TRANSFORM, FINISH)
STAGES: Mapping[str, Callable[[RunContext], dict[str, Any]]] = {
    EXTRACT: platform_etl.extract,
    TRANSFORM: platform_etl.transform,
    FINISH: platform_etl.finish,
}
RESULT_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """What one worker is to do.

    lane: what `claim` returned. stages: in this order, until one fails.
    batch_seconds: how often a slice saves its pages; 0 after every page, so that there is something to resume at.
    poll_seconds: between two looks at a vendor's report.
    """

    dsn: str
    sandbox_url: str
    lane: Mapping[str, Any]
    stages: tuple[str, ...] = ALL_STAGES
    batch_seconds: float = 0.0
    poll_seconds: float = 0.1
    patience: float = 5.0
    is_last_try: bool = False


@dataclass(frozen=True)
class Result:
    """How a worker ended. code: None when all of its stages were done."""

    code: str | None
    message: str = ""


class Worker:
    """One process at work on one run."""

    def __init__(self, job: Job) -> None:
        self._told, child = _server().Pipe(duplex=False)
        self._process: BaseProcess = _server().Process(target=work, args=(job, child), daemon=True)
        self._process.start()
        child.close()

    @property
    def pid(self) -> int:
        """The process id; also in the `application_name` of its database sessions."""
        return int(self._process.pid or 0)

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> bool:
        """`kill -9`. Whether the worker had not told its result before."""
        self._process.kill()
        self._process.join(RESULT_SECONDS)
        try:
            return not (self._told.poll() and isinstance(self._told.recv(), Result))
        except EOFError:
            return True

    def freeze(self) -> None:
        """Stops it where it stands, unless it has ended meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def result(self, seconds: float = RESULT_SECONDS) -> Result:
        """How it ended. Raises TimeoutError, and EOFError when it died without a word."""
        if not self._told.poll(seconds):
            raise TimeoutError(f"the worker said nothing in {seconds} s")
        result: Result = self._told.recv()
        self._process.join(RESULT_SECONDS)
        return result

    def wait_until(self, is_so: Callable[[], bool], seconds: float = 30.0) -> bool:
        """Waits; False when the worker ended first. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not is_so():
            if not self.is_alive:
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing happened in {seconds} s")
            time.sleep(0.002)
        return True


def work(job: Job, told: Connection) -> None:
    """The process's whole life."""
    slices.BATCH_SECONDS = job.batch_seconds
    remote_report.REPORT_POLL_SECONDS = (job.poll_seconds,)
    name = f"penstock-{os.getpid()}"
    with Warehouse(job.dsn, application_name=name, patience=job.patience) as warehouse:
        told.send(_worked(job, warehouse))


def _worked(job: Job, warehouse: Warehouse) -> Result:
    clock = _sandbox_clock(job.sandbox_url)
    context = Pipeline(warehouse, job.sandbox_url, is_last_try=job.is_last_try, now=clock).context(job.lane)
    try:
        for stage in job.stages:
            STAGES[stage](context)
    except RunWaiting as waiting:
        return Result("WAITING", str(waiting))
    except RunNotComplete as incomplete:
        return Result(incomplete.status, str(incomplete))
    except PenstockError as failure:
        return Result(failure.code, str(failure))
    except psycopg.Error as broken:  # as the operators do
        return Result(failures.classify(broken).code, str(broken))
    return Result(None)


def _sandbox_clock(url: str) -> Callable[[], dt.datetime]:
    told = dt.datetime.fromisoformat(requests.get(f"{url}/sandbox/health", timeout=10).json()["now"])
    ahead = told - dt.datetime.now(dt.UTC)
    return lambda: dt.datetime.now(dt.UTC) + ahead


@functools.cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.crash_worker"])
    # Python 3.11's server knows nothing of our sys.path, and says nothing about a module that it cannot find.
    with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(sys.path)}):
        forkserver.ensure_running()
    return context
