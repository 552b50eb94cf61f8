"""What ages, cut-offs, batch sizes and the statements, without a database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest

from penstock.core import retention
from penstock.core.errors import PenstockError
from penstock.core.retention import CutOffs, Policy
from penstock.jobs.retention import walk
from penstock.jobs.retention.statements import Relation, Statements

NOW = dt.datetime(2026, 3, 1, 2, tzinfo=dt.UTC)
AIM = retention.AIM_SECONDS
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


def test_names_are_quoted_and_values_are_bound() -> None:
    hostile = Relation("public", 'x"; drop table y; --', ("id", 'a"b', "created_at", "legal_hold"))
    archive = Relation("public", "archive", hostile.columns)
    text = Statements(ENTITIES["activity_log"].tables[0], hostile, archive).along_time.plain.as_string(None)
    assert 'delete from "public"."x""; drop table y; --" as t' in text
    assert 'insert into "public"."archive" ("id", "a""b", "created_at", "legal_hold")' in text
    assert "select *" not in text
    assert '"t"."legal_hold" is not true' in text
    assert {"%(before)s", "%(from_time)s", "%(size)s"} <= set(text.split())


def test_children_without_a_foreign_key_go_in_the_same_statement() -> None:
    slices = Relation("penstock", "slices", ("run_id", "slice_no", "updated_at"))
    text = Statements(ENTITIES["run_slices"].tables[0], slices, None).through_pages.plain.as_string(None)
    assert 'delete from "penstock"."slice_keys" as c using gone where' in text
    assert 'c."run_id" = gone."run_id" and c."slice_no" = gone."slice_no"' in text


class Moves:
    """Stands for the task of a walk: notes where each batch was asked to be taken, and says how it went."""

    def __init__(self, *batches: tuple[int, dt.datetime | None, float], first: str | None = None) -> None:
        self.first = first
        self.statements = Statements(ENTITIES["activity_log"].tables[0], Relation("public", "t", ("id",)), None)
        self.places: list[Mapping[str, Any]] = []
        self.pauses: list[float] = []
        self.sleep = self.pauses.append
        self._batches = iter(batches)

    def first_time(self) -> str | None:
        return self.first

    def move(self, _: object, place: Mapping[str, Any]) -> walk.Batch:
        self.places.append(place)
        rows, newest_at, seconds = next(self._batches, (0, None, AIM))
        return walk.Batch(rows, newest_at, newest_at, 0, seconds)


def test_each_batch_begins_where_the_one_before_ended() -> None:
    moves = Moves((500, NOW, AIM), (500, NOW + dt.timedelta(hours=1), 2 * AIM), first="-infinity")
    walk._walk_along_time(moves)  # type: ignore[arg-type]
    assert [(place["from_time"], place["size"]) for place in moves.places] == [
        ("-infinity", 500),
        ("2026-03-01T02:00:00+00:00", 500),
        ("2026-03-01T03:00:00+00:00", 250),
    ]
    assert moves.pauses == [retention.pause(AIM), retention.pause(2 * AIM)]


def test_without_an_old_row_there_is_no_batch() -> None:
    moves = Moves((500, NOW, AIM), first=None)
    walk._walk_along_time(moves)  # type: ignore[arg-type]
    assert (moves.places, moves.pauses) == ([], [])


def test_every_page_is_gone_through_once() -> None:
    moves = Moves((0, None, AIM / 2))
    walk._walk_through_pages(moves, 80)  # type: ignore[arg-type]
    ranges = [(place["first"], place["end"]) for place in moves.places]
    assert ranges == [("(0,0)", "(16,0)"), ("(16,0)", "(48,0)"), ("(48,0)", "(80,0)")]
