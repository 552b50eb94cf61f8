"""Airflow is set up before any test module of this folder imports it."""

from __future__ import annotations

from tests import airflow_home

airflow_home.prepare()

import pytest  # noqa: E402
from airflow.dag_processing.dagbag import DagBag  # noqa: E402

DAGS_FOLDER = airflow_home.PROJECT / "dags"


@pytest.fixture(scope="session")
def dag_bag() -> DagBag:
    """Every DAG of the project, parsed once."""
    assert DAGS_FOLDER.is_dir(), "a wrong folder gives an empty bag without any error"
    return DagBag(str(DAGS_FOLDER))
