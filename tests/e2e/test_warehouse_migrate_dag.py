"""`warehouse_migrate` on a database that knows nothing of Penstock."""

from __future__ import annotations

import psycopg
import pytest

from tests.e2e.conftest import Deployment

pytestmark = [
    pytest.mark.dags,
    pytest.mark.db,
    pytest.mark.e2e,
    # Here Airflow itself runs, and it and its libraries warn about each other.
    pytest.mark.filterwarnings("default"),
]


def test_it_migrates_an_empty_database_and_finds_nothing_to_do_afterwards(
    deployment: Deployment, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_URL", empty_database)
    assert deployment.run("warehouse_migrate").state == "success"
    with psycopg.connect(empty_database, autocommit=True) as connection:
        applied = connection.execute("select count(*), max(applied_at) from penstock.migrations").fetchone()
        views = connection.execute("select to_regclass('reporting.sync_status') is not null").fetchone()
    assert applied is not None
    assert applied[0] > 0
    assert views == (True,)
    assert deployment.run("warehouse_migrate").state == "success"
    with psycopg.connect(empty_database, autocommit=True) as connection:
        again = connection.execute("select count(*), max(applied_at) from penstock.migrations").fetchone()
    assert again == applied


def test_a_run_before_the_migration_says_that_it_is_pending(
    deployment: Deployment, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_URL", empty_database)
    ended = deployment.run("platform_etl__klaviyo")
    assert ended.state == "failed"
    assert ended.tries["enqueue_runs"] == [1]
    (alert,) = deployment.alerts
    assert "*MIGRATION_PENDING*" in alert["text"]
    assert "Run the DAG warehouse_migrate" in alert["text"]


def test_a_concern_with_a_database_of_its_own_is_migrated_there(
    deployment: Deployment, empty_database: str, fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = psycopg.conninfo.conninfo_to_dict(empty_database)
    url = f"postgres://{own['user']}:{own.get('password', '')}@{own['host']}:{own['port']}/{own['dbname']}"
    monkeypatch.setenv("AIRFLOW_CONN_APPS_DB", url)
    monkeypatch.setenv("WAREHOUSE_URL", fresh_database)
    assert deployment.run("warehouse_migrate").state == "success"
    with psycopg.connect(empty_database, autocommit=True) as connection:
        sets = connection.execute('select array_agg(distinct "set" order by "set") from penstock.migrations')
        assert sets.fetchone() == (["accounts", "apps", "ops"],)
