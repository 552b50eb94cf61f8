"""`nivoda_ingestion` in Airflow's own runner."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from airflow.providers.standard.operators.hitl import HITLOperator

from tests.e2e.conftest import Deployment
from tests.nivoda_bench import credentials, switch, truth

pytestmark = [
    pytest.mark.dags,
    pytest.mark.db,
    pytest.mark.e2e,
    # Here Airflow itself runs, and it and its libraries warn about each other.
    pytest.mark.filterwarnings("default"),
]
SETTINGS = {"base_filter": "none", "concurrency": "1", "requests_per_second": "25"}


@pytest.fixture
def diamonds(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment with a small market."""
    switch(deployment.sandbox, natural=700, labgrown=400)
    given = credentials(deployment.sandbox)
    connection = {
        "conn_type": "nivoda",
        "host": given.base_url,
        "login": given.extra["username"],
        "password": given.secret,
        "extra": SETTINGS,
    }
    monkeypatch.setenv("AIRFLOW_CONN_NIVODA", json.dumps(connection))
    return deployment


def test_both_feeds_arrive_partition_by_partition(diamonds: Deployment) -> None:
    ended = diamonds.run("nivoda_ingestion", run_conf={"partitions": 2})
    assert ended.state == "success"
    assert ended.tasks["natural.partition.ingest_partition"] == ["success", "success"]
    labels = [label for feed in ("natural", "labgrown") for label in ended.labels[f"{feed}.partition.ingest_partition"]]
    assert all(label is not None and label.startswith("nivoda-") and "$" in label for label in labels)
    for feed in ("natural", "labgrown"):
        (row,) = diamonds.rows(
            "select count(*) as stones, sum(feed_price) * 100 as cents from diamonds where feed = %s", f"nivoda-{feed}"
        )
        told = truth(diamonds.sandbox, feed)
        assert (row["stones"], row["cents"]) == (told["active"], told["price_cents"])
    runs = diamonds.rows("select status, watermark, chart_svg from reporting.nivoda_runs where level = 'run'")
    assert [run["status"] for run in runs] == ["completed", "completed"]
    assert all(run["watermark"].startswith("moved") and "</svg>" in run["chart_svg"] for run in runs)
    assert "missed for certain 0" in diamonds.alerts[-1]["text"]


def test_a_blocked_run_is_told_of_and_consolidated_only_if_a_person_approves(
    diamonds: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch(diamonds.sandbox, offset_limit=0)
    for task in diamonds.dags["nivoda_ingestion"].tasks:
        task.retries = 0
    # `dag.test` waits for ever for the answer of a person: here it is given when it is asked for.
    event = {"chosen_options": ["Reject"], "params_input": {}, "responded_at": dt.datetime.now(dt.UTC)}
    event["responded_by_user"] = None
    monkeypatch.setattr(HITLOperator, "execute", lambda self, context: self.execute_complete(context, event))
    ended = diamonds.run("nivoda_ingestion", run_conf={"feed": "natural", "partitions": 2})
    assert ended.tasks["natural.partition.ingest_partition"] == ["failed", "failed"]
    assert ended.tasks["natural.approve_consolidation"] == ["success"]
    assert ended.tasks["natural.consolidate"] == ["skipped"]
    assert ended.tasks["natural.summarise"] == ["failed"]
    assert any("NIVODA_GATE_BLOCKED" in message["text"] for message in diamonds.alerts_a_minute_later())
    assert diamonds.rows("select 1 from diamonds") == []
    assert diamonds.rows("select 1 from penstock.feed_watermarks") == []
    assert diamonds.rows("select decision from penstock.nivoda_plans") == [{"decision": "blocked"}]


def test_a_partial_run_is_consolidated_after_the_pause_and_ends_red(diamonds: Deployment) -> None:
    dag = diamonds.dags["nivoda_ingestion"]
    for task in dag.tasks:
        task.retries = 0
    dag.get_task("natural.gate").wait = dt.timedelta(seconds=1)
    diamonds.execute(
        """
        create function fail_one() returns trigger language plpgsql as $$
        begin
            if new.partition_id = 'partition-1' then raise exception 'no'; end if;
            return new;
        end $$
        """
    )
    diamonds.execute(
        "create trigger fail_one before update of next_offset on penstock.nivoda_partitions "
        "for each row execute function fail_one()"
    )
    ended = diamonds.run("nivoda_ingestion", run_conf={"feed": "natural", "partitions": 4})
    assert sorted(ended.tasks["natural.partition.ingest_partition"]) == ["failed", "success", "success", "success"]
    assert ended.tasks["natural.consolidate"] == ["success"]
    assert ended.tasks["natural.summarise"] == ["failed"]
    assert ended.tasks["labgrown.summarise"] == ["skipped"]
    assert ended.state == "failed"
    assert diamonds.rows("select status, watermark from reporting.nivoda_runs where level = 'run'") == [
        {"status": "partial", "watermark": "stays: some partitions failed"}
    ]
    diamonds.execute("drop trigger fail_one on penstock.nivoda_partitions")
    (run,) = diamonds.rows("select run_id::text from run_metadata")
    again = diamonds.run("nivoda_ingestion", run_conf={"retry_run_id": run["run_id"]})
    assert again.state == "success"
    assert again.tasks["natural.partition.ingest_partition"] == ["success"]
    (row,) = diamonds.rows("select count(*) as stones from diamonds")
    assert row["stones"] == truth(diamonds.sandbox, "natural")["active"]
    assert diamonds.rows("select 1 from penstock.feed_watermarks where feed = 'nivoda-natural'") != []
