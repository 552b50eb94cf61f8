"""The local stack: databases, sandbox and Airflow, started in order, watched, and ended without a trace."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import importlib.metadata
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psycopg
import requests

from penstock.warehouse.migrations import migrate_databases
from stack import accounts, environment, imports, keys, plan, ports, private_files, processes, sandbox, settings
from stack.airflow_api import AirflowApi
from stack.home import PROJECT, Home
from stack.postgres import SHARED_STATE, EmbeddedPostgres
from stack.processes import Service, ServiceError, Supervisor

METADATA = "metadata"
WAREHOUSE = "warehouse"
AIRFLOW_SERVICES = ("api-server", "scheduler", "dag-processor", "triggerer")
PORT_NAMES = ("metadata", "warehouse", "sandbox", "api", "worker_logs", "trigger_logs")
HEALTHY_SECONDS = 240.0
SANDBOX_SECONDS = 60.0


class AlreadyRunning(RuntimeError):
    """Another stack works in the same folder; the message says where."""


class NotRunning(RuntimeError):
    """The command needs a running stack; the message says how to start one."""


@dataclass
class LocalStack:
    """One stack in one state folder.

    Parameters
    ----------
    values: the environment with `.env`. PENSTOCK_DAGS_DIR in it names another folder of DAG files than the project's.
    say: receives lines for people.
    """

    home: Home
    values: Mapping[str, str] = field(repr=False)
    say: Callable[[str], None]
    accounts: list[accounts.Registered] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home.create()
        self.plan = plan.make(self.values)
        self.dags_folder = Path(self.values.get("PENSTOCK_DAGS_DIR") or PROJECT / "dags")
        self.keys = keys.load_or_make(self.home.keys_file)
        self.supervisor = Supervisor(self.say)
        self.started_at = dt.datetime.now(dt.UTC)
        self._ports: dict[str, int] = {}
        self._lock: IO[str] | None = None
        self._clusters: dict[str, EmbeddedPostgres] = {}

    # -- what others ask ------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://{ports.HOST}:{self._ports['api']}"

    @property
    def sandbox_url(self) -> str:
        return f"http://{ports.HOST}:{self._ports['sandbox']}"

    @property
    def warehouse_dsn(self) -> str:
        """A libpq connection string with the password inside: never log it."""
        return self.plan.warehouse_dsn or self._clusters[WAREHOUSE].dsn(WAREHOUSE)

    @property
    def metadata_dsn(self) -> str:
        return self._clusters[METADATA].dsn("airflow")

    @property
    def vault_keys(self) -> str:
        """Keys of stored credentials, newest first: those of the environment, else ours."""
        return self.plan.values.get("PENSTOCK_ENCRYPTION_KEYS") or self.keys.vault_key

    def api(self) -> AirflowApi:
        return AirflowApi(self.url, environment.ADMIN, self.keys.admin_password)

    def settings(self) -> settings.Settings:
        """`airflow_settings.yaml` as this stack fills it in."""
        values = self.plan.settings_values(
            warehouse_dsn=self.warehouse_dsn,
            vault_keys=self.vault_keys,
            sandbox=sandbox.values(self.plan, self.sandbox_url) if self.plan.sandboxed else None,
        )
        return settings.load(PROJECT / "airflow_settings.yaml", values, without=self.plan.given_connections)

    def airflow_environment(self) -> dict[str, str]:
        """What an `airflow` process of this stack inherits."""
        return environment.airflow(
            self.home,
            base=self.plan.values,
            keys=self.keys,
            ports=environment.AirflowPorts(
                api=self._ports["api"],
                worker_logs=self._ports["worker_logs"],
                trigger_logs=self._ports["trigger_logs"],
            ),
            metadata_dsn=self.metadata_dsn,
            dags_folder=self.dags_folder,
        )

    def processes(self) -> Mapping[str, int]:
        """Name -> process id of everything that runs."""
        running = {service.name: service.pid for service in self.supervisor.services if service.is_running}
        running |= {f"postgres ({name})": cluster.pid for name, cluster in self._clusters.items()}
        return {name: pid for name, pid in running.items() if pid is not None}

    # -- starting -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def prepared(self) -> Iterator[LocalStack]:
        """Databases, migrations, settings, sandbox and accounts, without Airflow's services."""
        self._acquire()
        try:
            self._end_leftovers()
            self._start_databases()
            self._prepare()
            yield self
        finally:
            self._stop()

    @contextlib.contextmanager
    def running(self) -> Iterator[LocalStack]:
        """Everything, healthy and warm; ended on the way out, whatever happened."""
        with self.prepared():
            self._start_airflow()
            yield self

    def attach(self) -> LocalStack:
        """Speak with the stack that another process keeps running. Raises NotRunning."""
        state = self.told_elsewhere()
        if not self.is_running_elsewhere() or not state.get("is_ready"):
            raise NotRunning("the stack is not running: start it with `make up`")
        self._ports = {name: int(port) for name, port in state["ports"].items()}
        self._make_clusters()
        return self

    def told_elsewhere(self) -> dict[str, Any]:
        """What the stack that another process keeps running says of itself; empty until it has said something.

        A stack that was killed leaves its file, and its process id may be anybody's by now.
        """
        state = private_files.read_json(self.home.state_file)
        started = state.get("started_at")
        return state if started is not None and processes.started_at(state["pid"]) == started else {}

    def is_running_elsewhere(self) -> bool:
        """Whether another process holds the folder."""
        with self.home.lock_file.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def run_airflow(self, arguments: Sequence[str]) -> list[str]:
        """The command line of an `airflow` command."""
        return [sys.executable, "-m", "airflow", *arguments]

    def check(self) -> None:
        """Start again what died. Raises ServiceError when that does not help."""
        self.supervisor.check()
        for name, cluster in self._clusters.items():
            if not cluster.running:
                self.say(f"postgres ({name}) ended, starting it again; its log: {cluster.log_file}")
                cluster.start()
        self._write_state(is_ready=True)

    def end_leftovers(self) -> None:
        """Stop what a stack that was killed has left running, its databases included."""
        self._acquire()
        try:
            self._end_leftovers()
            self._ports = ports.choose(PORT_NAMES, {})
            self._make_clusters()
        finally:
            self._stop()

    def forget(self) -> None:
        """Delete the state folder with everything in it."""
        self.end_leftovers()
        for name in self._clusters:
            folder = self.home.cluster(name)
            if folder.is_symlink():  # the data are where Postgres' own user can reach them, in a folder of their own
                place = folder.resolve()
                shutil.rmtree(place if place.parent.parent == SHARED_STATE else place.parent, ignore_errors=True)
        shutil.rmtree(self.home.root)

    def _acquire(self) -> None:
        lock = self.home.lock_file.open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            state = self.told_elsewhere()
            where = f"process {state['pid']}, {state['url']}" if state else "just starting or stopping"
            raise AlreadyRunning(
                f"a stack runs in {self.home.root} already ({where}): "
                "stop it with `make down`, or give this one another folder with PENSTOCK_HOME"
            ) from error
        self._lock = lock

    def _end_leftovers(self) -> None:
        """What a stack that was killed has left running would hold ports and work on the same database."""
        state = private_files.read_json(self.home.state_file)
        boot = processes.boot()
        is_same_boot = boot is not None and boot == state.get("boot")
        for service in state.get("services", []):
            pid, started = int(service["pid"]), processes.started_at(int(service["pid"]))
            # Of a session whose leader is gone there is the id alone, which is somebody else's after a reboot.
            is_ours = is_same_boot if started is None else started == service["started_at"]
            if is_ours and processes.session_members(pid):
                self.say(f"ending {service['name']} of a stack that was killed (process {pid})")
                processes.end_session(pid)
        self.home.state_file.unlink(missing_ok=True)  # other shells would take it for ours while we start

    def _make_clusters(self) -> None:
        wanted = {METADATA: self.keys.metadata_password}
        if self.plan.warehouse_dsn is None:
            wanted[WAREHOUSE] = self.keys.warehouse_password
        self._clusters = {
            name: EmbeddedPostgres(self.home.cluster(name), self._ports[name], durable=True, password=password)
            for name, password in wanted.items()
        }

    def _start_databases(self) -> None:
        known = ports.remembered(self.home.ports_file)
        self._ports = ports.choose(PORT_NAMES, known)
        self._make_clusters()
        for name, database in ((METADATA, "airflow"), (WAREHOUSE, WAREHOUSE)):
            cluster = self._clusters.get(name)
            if cluster is None:
                continue
            # A server that outlived its stack is taken as it is, with the port that it has.
            self._ports[name] = cluster.start().port
            cluster.create_database(database)
            if cluster.note:
                self.say(cluster.note)
        private_files.write_json(self.home.ports_file, known | self._ports)

    def _prepare(self) -> None:
        for line in self.plan.lines():
            self.say(line)
        environment.write_passwords(self.home, self.keys)
        airflow = self.airflow_environment()
        environment.write_shell_file(self.home, airflow)
        if self.plan.sandboxed:
            self._start_sandbox()
        importing = self._start_import(airflow)
        try:
            applied = migrate_databases(self.plan.databases(self.warehouse_dsn))
            self.say(f"warehouse: {len(applied)} migrations applied" if applied else "warehouse: up to date")
            self._register_accounts()
        except BaseException:
            self._abandon(importing)
            raise
        self._finish_import(importing)
        self._write_state(is_ready=False)

    def _register_accounts(self) -> None:
        self.accounts = accounts.register(
            self.plan,
            warehouse_dsn=self.warehouse_dsn,
            vault_keys=self.vault_keys,
            sandbox_url=self.sandbox_url if self.plan.sandboxed else None,
            installation=self.keys.installation_id,
            say=self.say,
        )

    # -- Airflow's database ---------------------------------------------------------------------------------------

    def _start_import(self, airflow: Mapping[str, str]) -> _Import | None:
        """`airflow db migrate` and the import of the settings, as far as they changed, beside everything else."""
        known = private_files.read_json(self.home.imported_file) if self._has_airflow_tables() else {}
        needed = imports.needed(self.settings(), known, importlib.metadata.version("apache-airflow"))
        if needed.is_empty:
            return None
        folder = self.home.root / "import"
        folder.mkdir(mode=0o700, exist_ok=True)
        service = self._service("airflow-import", needed.command(folder), airflow)
        service.start()
        return _Import(service, needed, folder)

    def _finish_import(self, importing: _Import | None) -> None:
        if importing is None or importing.service.process is None:
            return
        try:
            status = importing.service.process.wait()
        finally:
            self._abandon(importing)
        if status:
            log_file = importing.service.log_file
            raise ServiceError(
                f"Airflow's database could not be prepared: read {log_file}\n{importing.service.log_tail()}"
            )
        private_files.write_json(self.home.imported_file, importing.needed.remembered)

    def _abandon(self, importing: _Import | None) -> None:
        """End the import if it still runs; its files hold passwords."""
        if importing is None or importing.service.process is None:
            return
        processes.end_session(importing.service.process.pid)
        importing.service.process.wait()
        shutil.rmtree(importing.folder, ignore_errors=True)

    def _has_airflow_tables(self) -> bool:
        with psycopg.connect(self.metadata_dsn) as connection:
            row = connection.execute("select to_regclass('public.alembic_version') is not null").fetchone()
        return bool(row and row[0])

    # -- services -------------------------------------------------------------------------------------------------

    def _service(self, name: str, command: Sequence[str], values: Mapping[str, str]) -> Service:
        # Airflow finds our modules through its plugins folder; the stack's own need the path.
        path = os.pathsep.join([str(PROJECT / "plugins"), str(PROJECT)])
        return Service(
            name=name,
            command=command,
            environment={**values, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            log_file=self.home.logs / f"{name}.log",
            cwd=PROJECT,
        )

    def _start_sandbox(self) -> None:
        command = [sys.executable, "-m", "sandbox", "--port", str(self._ports["sandbox"])]
        service = self._service("sandbox", command, environment.inherited(self.plan.values))
        self.supervisor.start([service])
        self._wait_until(lambda: sandbox.answers(self.sandbox_url), "the sandbox", SANDBOX_SECONDS)
        self.say(f"sandbox: {self.sandbox_url}")

    def _start_airflow(self) -> None:
        values = self.airflow_environment()
        self.supervisor.start(self._service(name, self.run_airflow([name]), values) for name in AIRFLOW_SERVICES)
        self._write_state(is_ready=False)
        api = self.api()
        with contextlib.closing(api):
            self._wait_until(lambda: _is_healthy(api), "Airflow", HEALTHY_SECONDS)
            api.warm()
        self._write_state(is_ready=True)

    def _wait_until(self, is_true: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_true():
            self.supervisor.check()
            if time.monotonic() > deadline:
                raise ServiceError(f"{what} did not answer within {seconds:.0f} s: read {self.home.logs}/")
            time.sleep(0.5)

    def _write_state(self, *, is_ready: bool) -> None:
        services = [
            {
                "name": service.name,
                "pid": service.pid,
                "started_at": processes.started_at(service.pid) if service.pid else None,
                "log": str(service.log_file),
            }
            for service in self.supervisor.services
        ]
        state: dict[str, Any] = {
            "pid": os.getpid(),
            "started_at": processes.started_at(os.getpid()),
            "boot": processes.boot(),
            "is_ready": is_ready,
            "url": self.url,
            "ports": self._ports,
            "services": services,
        }
        if state != private_files.read_json(self.home.state_file):
            private_files.write_json(self.home.state_file, state)

    def _stop(self) -> None:
        self.supervisor.stop()
        for cluster in self._clusters.values():
            cluster.stop()
        self.home.state_file.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


@dataclass
class _Import:
    """A running import, and what to remember once it has succeeded."""

    service: Service
    needed: imports.Needed
    folder: Path


def _is_healthy(api: AirflowApi) -> bool:
    try:
        health = api.health()
    except requests.RequestException:
        return False
    return bool(health) and all(status == "healthy" for status in health.values())
