"""The diamond ingestion: plan a run, read its partitions, judge, consolidate, reconcile, move the watermark, tell.

    plan -> ingest_partition (many at a time) -> judge_partitions -> consolidate -> reconcile_vanished
    -> move_watermark -> summarise

Each stage is a function over an `Ingestion` and the id of a run; each may be killed at any statement and called again.
"""

from __future__ import annotations

from penstock.jobs.nivoda_ingestion.closing import move_watermark, summarise, text_of
from penstock.jobs.nivoda_ingestion.consolidation import Gate, approve, consolidate, decide, judge_partitions
from penstock.jobs.nivoda_ingestion.context import Ingestion, Nivoda
from penstock.jobs.nivoda_ingestion.planning import PlannedRun, PlanRequest, plan
from penstock.jobs.nivoda_ingestion.reading import fail_partition, ingest_partition
from penstock.jobs.nivoda_ingestion.settings import STORED_FEEDS, Settings, stored_feed
from penstock.jobs.nivoda_ingestion.vanished import reconcile_vanished

__all__ = [
    "Gate",
    "Ingestion",
    "Nivoda",
    "PlanRequest",
    "PlannedRun",
    "STORED_FEEDS",
    "Settings",
    "approve",
    "consolidate",
    "decide",
    "fail_partition",
    "ingest_partition",
    "judge_partitions",
    "move_watermark",
    "plan",
    "reconcile_vanished",
    "stored_feed",
    "summarise",
    "text_of",
]
