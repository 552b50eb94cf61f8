"""The rules that every DAG keeps, read off the parsed DAGs."""

from __future__ import annotations

import ast
import datetime as dt
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.mappedoperator import MappedOperator

from penstock import dag_docs
from penstock.alerts import alert_failure
from penstock.dag_defaults import DOC_HEADINGS, RETRY_POLICY, Tag
from penstock.sources import REGISTRY
from tests.airflow_home import PROJECT

pytestmark = pytest.mark.dags

DAG_FILES = sorted((PROJECT / "dags").glob("*.py"))
DAG_IDS = {f"platform_etl__{source.name}" for source in REGISTRY} | {
    "app_sync",
    "calendar_outbox",
    "metrics_sync",
    "nivoda_ingestion",
    "notification_drain",
    "platform_etl_queue",
    "retention",
    "warehouse_migrate",
}
EXPLICIT = {
    "dag_id",
    "description",
    "doc_md",
    "schedule",
    "start_date",
    "catchup",
    "max_active_runs",
    "max_active_tasks",
    "dagrun_timeout",
    "default_args",
    "params",
    "tags",
}
HEAVY = {
    "airflow.providers.google",
    "cryptography",
    "facebook_business",
    "google.analytics",
    "google.auth",
    "orjson",
    "psycopg",
    "slack_sdk",
}
LANE = {
    "sync_account.extract": {"sync_account.transform"},
    "sync_account.transform": {"sync_account.finish"},
    "sync_account.finish": set(),
}
DIAMOND_STAGES = (
    "partition.ingest_partition",
    "gate",
    "approve_consolidation",
    "consolidate",
    "reconcile_vanished",
    "move_watermark",
    "summarise",
)
FEED_STAGES = {
    feed: {
        f"{feed}.{stage}": {f"{feed}.{following}"}
        for stage, following in zip(("plan", *DIAMOND_STAGES), DIAMOND_STAGES, strict=False)
    }
    | {f"{feed}.summarise": set()}
    for feed in ("natural", "labgrown")
}
FEED_STAGES["natural"]["natural.gate"].add("labgrown.plan")
GRAPHS = {
    "source": {"enqueue_runs": {"claim_runs"}, "claim_runs": set(LANE), **LANE},
    "platform_etl_queue": {"enqueue_due_accounts": {"claim_runs"}, "claim_runs": set(LANE), **LANE},
    "notification_drain": {"drain": set()},
    "calendar_outbox": {"drain": set()},
    "warehouse_migrate": {"migrate_warehouse": set()},
    "app_sync": {
        "refresh_priorities": {"plan_lanes"},
        "plan_lanes": {"sync_lane.sync_items"},
        "sync_lane.sync_items": set(),
    },
    "retention": {
        "plan_policies": {"policy.enforce_policy", "report_retention"},
        "policy.enforce_policy": {"report_retention"},
        "report_retention": set(),
    },
    "nivoda_ingestion": FEED_STAGES["natural"] | FEED_STAGES["labgrown"],
    "metrics_sync": {"claim_connections": {"sync_connection.sync"}, "sync_connection.sync": set()},
}


@pytest.fixture(params=sorted(DAG_IDS))
def dag(request: pytest.FixtureRequest, dag_bag: DagBag) -> Any:
    return dag_bag.dags[request.param]


def test_the_dags_are_those_of_the_registry_and_no_others(dag_bag: DagBag) -> None:
    assert set(dag_bag.dags) == DAG_IDS


def test_every_file_imports_without_errors_or_warnings(dag_bag: DagBag) -> None:
    assert dag_bag.import_errors == {}
    assert dag_bag.captured_warnings == {}


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.name)
def test_a_file_parses_in_less_than_a_second_beyond_importing_airflow(path: Path) -> None:
    assert float(_parsed(path, "print(time.process_time() - began)")) < 1.0


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.name)
def test_parsing_imports_no_vendor_sdk_and_no_database_driver(path: Path) -> None:
    assert _parsed(path, f"print(sorted(({HEAVY!r} & set(sys.modules)) - before))") == "[]"


def test_the_page_has_the_headings_in_their_order(dag: Any) -> None:
    headings = [line.removeprefix("## ") for line in dag.doc_md.splitlines() if line.startswith("## ")]
    assert tuple(headings[: len(DOC_HEADINGS)]) == DOC_HEADINGS


def test_the_page_of_a_source_lists_all_its_streams(dag_bag: DagBag) -> None:
    for source in REGISTRY:
        page = dag_bag.dags[f"platform_etl__{source.name}"].doc_md
        assert [stream.name for stream in source.streams if f"| `{stream.name}` |" not in page] == []


def test_tags_come_from_the_enum_or_the_registry(dag: Any) -> None:
    assert dag.tags
    assert set(dag.tags) <= set(Tag) | {source.name for source in REGISTRY}


def test_every_task_has_the_retry_policy_two_retries_and_the_alert(dag: Any) -> None:
    for task in dag.tasks:
        assert task.retry_policy is RETRY_POLICY or task.retry_policy.serialize() == RETRY_POLICY.serialize()
        assert task.retries == 2
        assert [callback.__name__ for callback in task.on_failure_callback] == [alert_failure.__name__]
        assert task.execution_timeout is not None


def test_the_schedule_is_bounded_and_does_not_catch_up(dag: Any) -> None:
    assert dag.catchup is False
    assert dag.max_active_runs >= 1
    assert dag.start_date.tzinfo is not None
    assert dag.start_date.utcoffset() == dt.timedelta(0)


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.name)
def test_a_dag_names_every_argument(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dag"
    ]
    assert calls, "no @dag in this file"
    for call in calls:
        assert {keyword.arg for keyword in call.keywords} >= EXPLICIT


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.name)
def test_a_dag_file_only_wires(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    imported = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else node.names[0].name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom | ast.Import)
    }
    assert imported <= {"__future__", "datetime", "airflow", "penstock"}
    assert "now()" not in text
    assert "Variable" not in text


def test_every_param_is_typed_described_and_valid_by_default(dag: Any) -> None:
    for name in dag.params:
        param = dag.params.get_param(name)
        assert param.description, f"{dag.dag_id}: {name} has no description"
        assert "type" in param.schema, f"{dag.dag_id}: {name} has no type"
        param.resolve()


def test_every_pool_is_in_the_settings_file(dag: Any) -> None:
    settings = yaml.safe_load((PROJECT / "airflow_settings.yaml").read_text(encoding="utf-8"))
    known = {pool["pool_name"] for pool in settings["airflow"]["pools"]} | {"default_pool"}
    assert {task.pool for task in dag.tasks} <= known


def test_mapping_goes_by_whole_groups_and_every_lane_has_a_label(dag: Any) -> None:
    assert [task.task_id for task in dag.tasks if isinstance(task, MappedOperator)] == []
    for task in dag.tasks:
        group = task.get_closest_mapped_task_group()
        if group is not None:
            assert task.map_index_template == "{{ label }}"
            assert group.tooltip.startswith(dag_docs.LANE), "docs/DAGS.md says what each lane is one of"


def test_tasks_and_edges_are_as_drawn(dag: Any) -> None:
    drawn = GRAPHS.get(dag.dag_id, GRAPHS["source"])
    assert {task.task_id: set(task.downstream_task_ids) for task in dag.tasks} == drawn


def test_the_extraction_of_a_source_waits_in_the_pool_of_the_source(dag_bag: DagBag) -> None:
    for source in REGISTRY:
        task = dag_bag.dags[f"platform_etl__{source.name}"].get_task("sync_account.extract")
        assert task.pool == source.name


def test_a_dag_serialises_with_its_policy_and_its_watcher(dag: Any) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    restored = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert restored.dag_id == dag.dag_id
    assert set(restored.task_ids) == set(dag.task_ids)


def test_the_generated_page_is_up_to_date(dag_bag: DagBag) -> None:
    dags = [dag_bag.dags[dag_id] for dag_id in sorted(dag_bag.dags)]
    assert dag_docs.PAGE.read_text(encoding="utf-8") == dag_docs.render(dags), "run `make docs`"


def _parsed(path: Path, then: str) -> str:
    """What `then` prints in a fresh process that has imported Airflow and executed the file."""
    program = (
        "import runpy, sys, time, airflow.sdk, airflow.triggers.base\n"
        "before, began = set(sys.modules), time.process_time()\n"
        f"runpy.run_path(sys.argv[1])\n{then}"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "PYTHONPATH": str(PROJECT / "plugins")},
    )
    return done.stdout.splitlines()[-1]
