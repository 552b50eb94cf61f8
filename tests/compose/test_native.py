"""Every command of docker-compose.yaml, run without containers: two Celery workers, and one DAG run through them.

What stays untried here is what only a container engine can try: volumes, networks, health checks.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
import yaml

from stack import keys, ports, sandbox
from stack.airflow_api import FINISHED, AirflowApi
from stack.home import PROJECT
from stack.postgres import EmbeddedPostgres
from stack.processes import Service, Supervisor
from tests.compose_values import filled

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((PROJECT / "docker-compose.yaml").read_text())["services"]
AIRFLOW_SERVICES = ("api-server", "scheduler", "dag-processor", "triggerer")
WORKERS = ("worker-1", "worker-2")
START_SECONDS = 300
RUN_SECONDS = 300
PASSWORD = "pw"


@dataclass
class Deployment:
    """The running services, and where they are."""

    home: Path
    values: Mapping[str, str]
    hosts: Mapping[str, str]
    supervisor: Supervisor
    warehouse: EmbeddedPostgres
    url: str

    def environment(self, service: str) -> dict[str, str]:
        """What compose gives the service, with addresses of this machine for names of its network."""
        given = SERVICES[service].get("environment", {})
        own = {name: self.address(filled(str(value), self.values)) for name, value in given.items()}
        image = {  # what the image sets
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "HOME": str(self.home),
            "AIRFLOW_HOME": str(self.home / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
            "PYTHONPATH": os.pathsep.join([str(PROJECT / "plugins"), str(PROJECT)]),
            "PENSTOCK_DOTENV": os.devnull,
        }
        machine = {  # in containers every service has these ports to itself
            "AIRFLOW__API__PORT": self.values["API_PORT"],
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": self.values["HEALTH_PORT"],
        }
        return {**image, **own, **machine}

    def address(self, text: str) -> str:
        for name, address in self.hosts.items():
            text = text.replace(name, address)
        return text

    def service(self, name: str, **more: str) -> Service:
        definition = SERVICES[name.rstrip("-12")]
        command = [self.address(filled(word, self.values)) for word in definition["command"]]
        values = {**self.environment(name.rstrip("-12")), **more}
        return Service(name, command, values, self.home / f"{name}.log", PROJECT)


def wait_until(is_true: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)


def listens(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


@pytest.fixture(scope="module")
def redis_server() -> str:
    found = shutil.which("redis-server")
    if found is None:
        pytest.fail("redis-server is needed: apt-get install redis-server")
    return found


@pytest.fixture(scope="module")
def deployment(redis_server: str) -> Iterator[Deployment]:
    home = Path(tempfile.mkdtemp(prefix="penstock-compose-"))
    home.chmod(0o711)
    chosen = {name: str(port) for name, port in ports.choose(("REDIS", "SANDBOX", "API", "HEALTH"), {}).items()}
    metadata = EmbeddedPostgres(home / "metadata", durable=False, password=PASSWORD).start()
    warehouse = EmbeddedPostgres(home / "warehouse", durable=False, password=PASSWORD).start()
    for cluster, user, database in ((metadata, "airflow", "airflow"), (warehouse, "penstock", "warehouse")):
        if user != "penstock":
            with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
                connection.execute("create role airflow superuser login password 'pw'")
        cluster.create_database(database)
    made = keys.load_or_make(home / "keys.json")
    values = {
        "AIRFLOW_DB_PASSWORD": PASSWORD,
        "REDIS_PASSWORD": PASSWORD,
        "WAREHOUSE_PASSWORD": PASSWORD,
        "AIRFLOW_FERNET_KEY": made.fernet_key,
        "AIRFLOW_JWT_SECRET": made.jwt_secret,
        "AIRFLOW_API_SECRET_KEY": made.api_secret_key,
        "AIRFLOW_ADMIN_PASSWORD": made.admin_password,
        "PENSTOCK_ENCRYPTION_KEYS": made.vault_key,
        "PENSTOCK_SANDBOX_URL": "http://sandbox:8099",
        "WORKER_CONCURRENCY": "2",
        "API_PORT": chosen["API"],
        "HEALTH_PORT": chosen["HEALTH"],
    }
    hosts = {
        "@postgres:5432": f"@127.0.0.1:{metadata.port}",
        "@warehouse:5432": f"@127.0.0.1:{warehouse.port}",
        "@redis:6379": f"@127.0.0.1:{chosen['REDIS']}",
        "sandbox:8099": f"127.0.0.1:{chosen['SANDBOX']}",
        "api-server:8080": f"127.0.0.1:{chosen['API']}",
        "8099": chosen["SANDBOX"],
        "0.0.0.0": "127.0.0.1",
    }
    supervisor = Supervisor(lambda line: None)
    made_deployment = Deployment(home, values, hosts, supervisor, warehouse, f"http://127.0.0.1:{chosen['API']}")
    try:
        redis = made_deployment.service("redis")
        redis.command = [*redis.command, "--port", chosen["REDIS"], "--bind", "127.0.0.1", "--save", ""]
        supervisor.start([redis, made_deployment.service("sandbox")])
        wait_until(lambda: listens(chosen["REDIS"]), 30, redis.log_tail)
        wait_until(lambda: sandbox.answers(f"http://127.0.0.1:{chosen['SANDBOX']}"), 60, lambda: "no sandbox")
        yield made_deployment
    finally:
        supervisor.stop()
        metadata.stop(immediate=True)
        warehouse.stop(immediate=True)
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def prepared(deployment: Deployment) -> subprocess.CompletedProcess[str]:
    init = deployment.service("init")
    return subprocess.run(
        init.command, env=init.environment, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def running(deployment: Deployment, prepared: subprocess.CompletedProcess[str]) -> Iterator[AirflowApi]:
    log_ports = iter(ports.choose(("scheduler", "triggerer", *WORKERS), {}).values())
    services = [
        deployment.service(
            name,
            AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT=str(next(log_ports)) if name == "scheduler" else "0",
            AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT=str(next(log_ports)) if name == "triggerer" else "0",
        )
        for name in AIRFLOW_SERVICES
    ]
    for name in WORKERS:
        worker = deployment.service(name, AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT=str(next(log_ports)))
        worker.command = [*worker.command, "--celery-hostname", f"{name}@localhost"]  # in containers: the host's name
        services.append(worker)
    deployment.supervisor.start(services)
    api = AirflowApi(deployment.url, "admin", deployment.values["AIRFLOW_ADMIN_PASSWORD"])

    def is_up() -> bool:
        deployment.supervisor.check()
        try:
            return set(api.health().values()) == {"healthy"}
        except requests.RequestException:
            return False

    def tails() -> str:
        return "\n".join(f"{service.name}: {service.log_tail()}" for service in services)

    wait_until(is_up, START_SECONDS, tails)
    wait_until(
        lambda: all("ready" in (deployment.home / f"{name}.log").read_text() for name in WORKERS), START_SECONDS, tails
    )
    api.warm()
    yield api
    api.close()


def test_init_prepares_the_deployment(deployment: Deployment, prepared: subprocess.CompletedProcess[str]) -> None:
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    assert "Klaviyo: sandbox (KLAVIYO_API_KEY is not set)" in prepared.stdout
    with psycopg.connect(deployment.warehouse.dsn("warehouse")) as connection:
        rows = connection.execute(
            "select platform, count(*) from public.platform_connections where is_active group by platform"
        ).fetchall()
    assert dict(rows) == dict.fromkeys(("META", "GA4", "KLAVIYO", "GOOGLE_ADS"), 3)


def test_init_can_be_repeated(deployment: Deployment, prepared: subprocess.CompletedProcess[str]) -> None:
    init = deployment.service("init")

    again = subprocess.run(
        init.command, env=init.environment, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=300
    )

    assert again.returncode == 0, again.stdout + again.stderr
    assert "0 migrations applied" in again.stdout


def test_two_workers_share_a_dag_run(deployment: Deployment, running: AirflowApi) -> None:
    dag_ids = ("platform_etl__klaviyo", "platform_etl__meta_ads")
    wait_until(lambda: {dag["dag_id"] for dag in running.dags()} >= set(dag_ids), 120, lambda: "no DAGs")
    triggered = {(dag_id, running.trigger(dag_id)) for dag_id in dag_ids}

    def states() -> dict[tuple[str, str], str]:
        return {(run["dag_id"], run["dag_run_id"]): run["state"] for run in running.dag_runs()}

    def of_both() -> dict[tuple[str, str], str]:
        return {run: state for run, state in states().items() if run[0] in dag_ids}

    # Accounts that a scheduled run reads at that moment are left to it: only together are all of them done.
    wait_until(lambda: set(of_both().values()) <= FINISHED, RUN_SECONDS, lambda: str(states()))

    assert set(of_both().values()) == {"success"}, states()
    assert triggered <= of_both().keys()
    assert "failed" not in states().values(), states()  # the other DAGs' runs: a drain is always under way
    done = {name: (deployment.home / f"{name}.log").read_text().count("succeeded in") for name in WORKERS}
    assert all(done.values()), done
    with psycopg.connect(deployment.warehouse.dsn("warehouse")) as connection:
        rows = connection.execute(
            "select platform, count(*) from core_warehouse.etl_runs "
            "where status = 'SUCCEEDED' and connection_id is not null group by platform"
        ).fetchall()
    counts = dict(rows)
    assert counts["KLAVIYO"] >= 3
    assert counts["META"] >= 3


def test_the_health_checks_that_a_container_would_run_are_answered(deployment: Deployment, running: AirflowApi) -> None:
    answers = {
        "api-server": f"{deployment.url}/api/v2/version",
        "scheduler": f"http://127.0.0.1:{deployment.values['HEALTH_PORT']}/health",
        "sandbox": deployment.address("http://sandbox:8099/sandbox/health"),
    }
    for name, url in answers.items():
        path = url.split("/", 3)[3]
        assert SERVICES[name]["healthcheck"]["test"][-1].endswith(f"/{path}")
        assert requests.get(url, timeout=30).ok, name


@pytest.mark.parametrize("name", ["dag-processor", "triggerer"])
def test_the_job_checks_that_a_container_would_run_succeed(
    deployment: Deployment, running: AirflowApi, name: str
) -> None:
    check = filled(SERVICES[name]["healthcheck"]["test"][1], {})
    environment = deployment.environment(name)

    result = subprocess.run(
        ["bash", "-c", check], env=environment, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_both_workers_answer_the_ping(deployment: Deployment, running: AirflowApi) -> None:
    command = filled(SERVICES["worker"]["healthcheck"]["test"][1], {})
    for name in WORKERS:
        result = subprocess.run(
            ["bash", "-c", command.replace("celery@${HOSTNAME}", f"{name}@localhost")],
            env=deployment.environment("worker"),
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert "1 node online" in result.stdout
