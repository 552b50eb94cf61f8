"""Ages, cut-offs and batch sizes."""

from __future__ import annotations

import datetime as dt

import pytest

from penstock.core import retention
from penstock.core.errors import PenstockError
from penstock.core.retention import CutOffs, Policy

NOW = dt.datetime(2026, 3, 1, 2, tzinfo=dt.UTC)
ENTITIES = retention.entities(["meta_ads_ads", "ga4_reports", "meta_ads_ads"])


def test_the_times_are_counted_back_from_the_beginning_of_the_run() -> None:
    assert retention.cut_offs(Policy("activity_log", 90, 365), NOW) == CutOffs(
        dt.datetime(2025, 12, 1, 2, tzinfo=dt.UTC), dt.datetime(2025, 3, 1, 2, tzinfo=dt.UTC)
    )


@pytest.mark.parametrize("days", [(0, 1), (-1, 5), (2, 1), (1, 36_501), (36_501, 36_501)])
def test_a_policy_that_makes_no_sense_has_no_times(days: tuple[int, int]) -> None:
    with pytest.raises(PenstockError, match="RETENTION_POLICY_INVALID") as refused:
        retention.cut_offs(Policy("activity_log", *days), NOW)
    assert not refused.value.retryable


@pytest.mark.parametrize("days", [(1, 1), (36_500, 36_500)])
def test_the_bounds_of_a_policy_are_allowed(days: tuple[int, int]) -> None:
    Policy("activity_log", *days).check()


def test_an_archived_entity_is_archived_first_and_its_archive_purged_after_that() -> None:
    instants = CutOffs(NOW, NOW - dt.timedelta(days=1))
    first, second = retention.steps(ENTITIES["activity_log"], instants)
    assert (first.table.name, first.before) == ("public.activity_log", NOW)
    assert first.archive is second.table
    assert (second.before, second.archive) == (NOW - dt.timedelta(days=1), None)


def test_an_entity_without_an_archive_is_deleted_after_its_active_time() -> None:
    steps = retention.steps(ENTITIES["staging"], CutOffs(NOW, NOW - dt.timedelta(days=1)))
    assert [(step.table.name, step.before, step.archive) for step in steps] == [
        ("staging_ingest.meta_ads_ads", NOW, None),
        ("staging_ingest.ga4_reports", NOW, None),
    ]


def test_every_table_of_the_allow_list_names_its_schema_and_no_sql() -> None:
    for entity in ENTITIES.values():
        for table in entity.tables:
            for name in (table.name, *table.needs, *(child.table for child in table.children)):
                schema, _, relation = name.partition(".")
                assert schema.isidentifier()
                assert relation.isidentifier()


@pytest.mark.parametrize(
    ("size", "seconds", "expected"),
    [
        (500, 0.05, 500),
        (500, 0.1, 250),
        (500, 0.001, 1000),  # at most twice as many at once
        (500, 0.0, 1000),
        (500, 30.0, 50),  # never fewer than the smallest
        (15_000, 0.02, 20_000),  # never more than the largest
    ],
)
def test_the_next_batch_is_as_large_as_the_last_one_was_quick(size: int, seconds: float, expected: int) -> None:
    assert retention.next_size(size, seconds, smallest=50, largest=20_000, aim=0.05) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.04, 0.01), (0.0, 0.002), (60.0, 1.0)])
def test_a_pause_is_in_proportion_to_the_batch(seconds: float, expected: float) -> None:
    assert retention.pause(seconds) == pytest.approx(expected)
