"""What a run may do when only some of its partitions were read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from penstock.core.errors import PenstockError, error
from penstock.jobs import nivoda_ingestion as jobs
from penstock.warehouse.session import Warehouse
from tests.diamonds import Diamonds
from tests.nivoda_bench import post, switch
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db

PARTITIONS = 10


@pytest.fixture
def diamonds(warehouse: Warehouse, sandbox: Sandbox) -> Diamonds:
    switch(sandbox, natural=400, labgrown=100)
    return Diamonds(warehouse, sandbox)


def number(partition_id: str) -> int:
    return int(partition_id.removeprefix("partition-"))


@pytest.mark.parametrize(
    ("completed", "decision", "status", "is_consolidated"),
    [
        (10, "consolidate", "completed", True),
        (7, "consolidate_partial", "partial", True),
        (6, "blocked", "failed", False),
        (0, "blocked", "failed", False),
    ],
)
def test_consolidation_watermark_and_deletions_follow_from_the_share_that_was_read(
    diamonds: Diamonds, completed: int, decision: str, status: str, is_consolidated: bool
) -> None:
    diamonds.run(partitions=1)
    first = diamonds.watermark
    everything = diamonds.active_ids()
    post(diamonds.sandbox, "take_away", feed="natural", share=0.05)
    diamonds.fetch("update raw_diamonds_nivoda set payload_hash = 'another' returning 1")
    planned = diamonds.plan(partitions=PARTITIONS, run_type="full")
    assert len(planned.lanes) == PARTITIONS
    run_id = str(planned.run_id)
    diamonds.ingest(planned, only=lambda partition_id: number(partition_id) <= completed)
    if completed < PARTITIONS:
        jobs.fail_partition(diamonds.context, run_id, "partition-10", error("NIVODA_TRANSIENT", "down"))
    summary = diamonds.finish(run_id)
    assert (summary["decision"], summary["status"], summary["completed"]) == (decision, status, completed)
    row = diamonds.fetch("select completed_workers, failed_workers from run_metadata where run_id = %(r)s", r=run_id)
    assert row == [(completed, PARTITIONS - completed)]
    pending = diamonds.value("select count(*) from raw_diamonds_nivoda where consolidation_status = 'pending'")
    assert (pending == 0) == (is_consolidated or completed == 0)
    is_complete = completed == PARTITIONS
    assert (diamonds.watermark != first) == is_complete
    assert (diamonds.active_ids() == everything) == (not is_complete)
    assert diamonds.value("select count(*) from penstock.ingest_debt") == PARTITIONS - completed


def test_a_retry_reads_the_failed_partitions_only_and_then_the_watermark_moves(diamonds: Diamonds) -> None:
    planned = diamonds.plan(partitions=PARTITIONS)
    run_id = str(planned.run_id)
    diamonds.ingest(planned, only=lambda partition_id: number(partition_id) <= 7)
    assert diamonds.finish(run_id)["status"] == "partial"
    assert diamonds.watermark is None
    one = diamonds.plan(retry_run_id=run_id, partition_ids=("partition-9", "partition-2"))
    assert [lane["partition_id"] for lane in one.lanes] == ["partition-9"]
    diamonds.ingest(one)
    assert diamonds.finish(run_id)["completed"] == 8
    assert diamonds.watermark is None
    rest = diamonds.plan(retry_run_id=run_id)
    assert [lane["partition_id"] for lane in rest.lanes] == ["partition-8", "partition-10"]
    diamonds.ingest(rest)
    summary = diamonds.finish(run_id)
    assert (summary["status"], summary["run_id"]) == ("completed", run_id)
    assert diamonds.watermark is not None
    assert diamonds.value("select count(*) from penstock.ingest_debt") == 0
    assert diamonds.active_ids() == set(diamonds.truth(ids="1")["ids"])
    attempts = diamonds.fetch("select attempts from penstock.nivoda_partitions order by position")
    assert [row[0] for row in attempts] == [1] * 10


def test_a_dry_retry_only_tells_what_it_would_read(diamonds: Diamonds, caplog: pytest.LogCaptureFixture) -> None:
    planned = diamonds.plan(partitions=PARTITIONS)
    run_id = str(planned.run_id)
    diamonds.ingest(planned, only=lambda partition_id: number(partition_id) <= 7)
    diamonds.finish(run_id)
    rows = "select status, updated_at from penstock.nivoda_partitions order by position"
    before = diamonds.fetch(rows)
    with caplog.at_level("INFO"):
        named = ("partition-8", "partition-9", "partition-2")
        dry = diamonds.plan(retry_run_id=run_id, partition_ids=named, is_dry_run=True)
    assert (dry.run_id, dry.lanes) == (None, [])
    assert "2 partitions" in dry.text
    assert "partition-8" in caplog.text
    assert "partition-10" not in caplog.text
    assert diamonds.fetch(rows) == before
    assert diamonds.value("select completed_at from run_metadata") is not None


@pytest.mark.parametrize(
    ("wish", "named"),
    [
        ({"partition_ids": ("partition-3",)}, "retry_run_id"),
        ({"retry_run_id": "{run}", "partition_ids": ("partition-3", "partition-11")}, "partition-11"),
    ],
)
def test_partitions_that_no_run_has_begin_nothing(diamonds: Diamonds, wish: dict[str, Any], named: str) -> None:
    """Else the whole feed would be read in their place, or nothing."""
    planned = diamonds.plan(partitions=PARTITIONS)
    wish = {name: value.format(run=planned.run_id) if isinstance(value, str) else value for name, value in wish.items()}
    with pytest.raises(PenstockError, match=f"CONFIG_INVALID.*{named}"):
        diamonds.plan(**wish)
    assert diamonds.value("select count(*) from run_metadata") == 1


def test_a_retry_that_is_at_work_when_the_gate_looks_again_is_left_alone(diamonds: Diamonds) -> None:
    planned = diamonds.plan(partitions=PARTITIONS)
    run_id = str(planned.run_id)
    diamonds.ingest(planned, only=lambda partition_id: number(partition_id) <= 9)
    assert jobs.judge_partitions(diamonds.context, run_id).decision == "consolidate_partial"
    looks = []

    def looked_at(client: Any) -> Any:
        page = client.page

        def while_the_gate_looks(*arguments: Any) -> Any:
            if not looks:
                looks.append(jobs.judge_partitions(diamonds.context, run_id, is_second_look=True))
            return page(*arguments)

        client.page = while_the_gate_looks
        return client

    retry = replace(diamonds, wrap=looked_at)
    ended = retry.ingest(planned, only=lambda partition_id: number(partition_id) == 10)
    assert ended["partition-10"]["status"] == "completed"
    assert [(gate.completed, gate.failed) for gate in looks] == [(9, 0)]
    assert diamonds.value("select count(*) from penstock.ingest_debt") == 0
    assert diamonds.finish(run_id)["status"] == "completed"


def test_a_complete_full_run_pays_the_debts_of_a_partial_one(diamonds: Diamonds) -> None:
    planned = diamonds.plan(partitions=PARTITIONS)
    diamonds.ingest(planned, only=lambda partition_id: number(partition_id) <= 7)
    diamonds.finish(str(planned.run_id))
    assert diamonds.value("select count(*) from penstock.ingest_debt") == 3
    assert diamonds.run(partitions=2)["run_type"] == "full"  # there is no watermark yet
    assert diamonds.value("select count(*) from penstock.ingest_debt") == 0
    assert diamonds.watermark is not None


def test_a_late_retry_does_not_move_the_watermark_backwards(diamonds: Diamonds) -> None:
    planned = diamonds.plan(partitions=PARTITIONS)
    diamonds.ingest(planned, only=lambda partition_id: number(partition_id) <= 7)
    diamonds.finish(str(planned.run_id))
    diamonds.run(partitions=2)
    moved = diamonds.watermark
    diamonds.ingest(diamonds.plan(retry_run_id=planned.run_id))
    summary = diamonds.finish(str(planned.run_id))
    assert summary["watermark"] == "stays: another run has moved it meanwhile"
    assert diamonds.watermark == moved


def test_an_approved_run_is_consolidated_and_its_watermark_stays(diamonds: Diamonds) -> None:
    planned = diamonds.plan(partitions=PARTITIONS)
    run_id = str(planned.run_id)
    diamonds.ingest(planned, only=lambda partition_id: number(partition_id) <= 3)
    assert jobs.judge_partitions(diamonds.context, run_id).decision == "blocked"
    jobs.approve(diamonds.warehouse, run_id)
    consolidated = jobs.consolidate(diamonds.context, run_id)
    assert consolidated["written"] == len(diamonds.active_ids()) > 0
    assert jobs.reconcile_vanished(diamonds.context, run_id)["skipped"] == "some partitions failed or are incomplete"
    assert jobs.move_watermark(diamonds.context, run_id)["watermark"] == "stays: some partitions failed"
    assert jobs.summarise(diamonds.context, run_id)["status"] == "partial"


@pytest.mark.parametrize(
    ("expected", "completed", "decision"),
    [
        (0, 0, "nothing"),
        (1, 0, "blocked"),
        (1, 1, "consolidate"),
        (10, 6, "blocked"),
        (10, 7, "consolidate_partial"),
        (10, 9, "consolidate_partial"),
        (3, 2, "blocked"),
    ],
)
def test_the_gate_opens_at_seventy_percent(expected: int, completed: int, decision: str) -> None:
    assert jobs.decide(expected, completed) == decision
