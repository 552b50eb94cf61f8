"""The DAG runs that the documentation tells people to trigger are runs that the DAGs take."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

pytestmark = pytest.mark.dags

PROJECT = Path(__file__).resolve().parents[2]
PLACES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md")), *sorted((PROJECT / "dags").glob("*.py"))]

_COMMAND = re.compile(r"airflow dags trigger (\w+)(?: --conf '([^']*)')?")
_PLACEHOLDER = re.compile(r"\.\.\.|<\w+>")


def commands() -> list[tuple[str, str]]:
    """DAG and conf of every command."""
    return [found for place in PLACES for found in _COMMAND.findall(place.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("dag_id", "conf"), sorted(set(commands())))
def test_a_documented_run_is_one_that_the_dag_takes(dag_bag: DagBag, dag_id: str, conf: str) -> None:
    dag = dag_bag.dags[dag_id]
    values = json.loads(conf or "{}")
    assert values.keys() <= set(dag.params)
    if not _PLACEHOLDER.search(conf):
        params = copy.deepcopy(dag.params)
        params.update(values)
        params.validate()
