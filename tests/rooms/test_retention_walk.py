"""The statements and the way through a table, without a database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from penstock.core import retention
from penstock.jobs.retention import walk
from penstock.jobs.retention.statements import Relation, Statements

NOW = dt.datetime(2026, 3, 1, 2, tzinfo=dt.UTC)
AIM = retention.AIM_SECONDS
ENTITIES = retention.entities(["meta_ads_ads", "ga4_reports", "meta_ads_ads"])


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
