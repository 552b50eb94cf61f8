"""From what a workspace has (tasks, milestones, gate runs, reviews) to the payloads of its calendar. Pure.

A blocking task of priority P1 (or P0, which is more) has its deadline in the calendar; a milestone its day; a finished
gate run a reminder of the review a day later; a project review its series. What is done has a check mark; what is
cancelled has no event.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from penstock.core.calendar_events import MAX_TITLE

CHECK_MARK = "\N{CHECK MARK} "
BLOCKING_PRIORITIES = frozenset({"P0", "P1"})
REVIEW_AFTER = dt.timedelta(hours=24)
REVIEW_LENGTH = dt.timedelta(minutes=30)
DEADLINE_LENGTH = dt.timedelta(minutes=30)
GONE = frozenset({"CANCELLED"})
WEEKLY = "RRULE:FREQ=WEEKLY"

Row = Mapping[str, Any]


def wanted_payloads(
    workspace_id: str, calendar_id: str, weekly_rule: str | None, sources: Mapping[str, Sequence[Row]]
) -> dict[tuple[str, str], dict[str, Any]]:
    """(source type, source id) -> payload, for everything that belongs into the calendar.

    Parameters
    ----------
    weekly_rule: of the workspace, for reviews without a rule of their own.
    sources: source type -> rows of its table.
    """
    events = [
        *_tasks(sources.get("task", ())),
        *_milestones(sources.get("milestone", ())),
        *_gate_runs(sources.get("gate_run", ())),
        *_reviews(sources.get("project_review", ()), weekly_rule or WEEKLY),
    ]
    return {
        (source_type, source_id): {
            "workspaceId": workspace_id,
            "calendarId": calendar_id,
            "sourceType": source_type,
            "sourceId": source_id,
            "eventType": event_type,
            "event": event,
        }
        for source_type, source_id, event_type, event in events
    }


_Event = tuple[str, str, str, dict[str, Any]]


def _tasks(rows: Iterable[Row]) -> Iterable[_Event]:
    for row in rows:
        if not row["is_blocking"] or row["priority"] not in BLOCKING_PRIORITIES or row["status"] in GONE:
            continue
        due = row["due_at"]
        if due is None:
            continue
        event = _timed(_title(f"Deadline: {row['title']}", row["status"] == "DONE"), due - DEADLINE_LENGTH, due)
        yield "task", row["id"], "BLOCKER_DEADLINE", event | {"description": row["description"] or None}


def _milestones(rows: Iterable[Row]) -> Iterable[_Event]:
    for row in rows:
        day = row["due_date"]
        if day is None or row["status"] in GONE:
            continue
        event = {
            "title": _title(row["title"], row["status"] == "COMPLETED"),
            "start": day.isoformat(),
            "end": day.isoformat(),
            "isAllDay": True,
        }
        yield "milestone", row["id"], "MILESTONE", event


def _gate_runs(rows: Iterable[Row]) -> Iterable[_Event]:
    for row in rows:
        if row["status"] != "COMPLETED" or row["completed_at"] is None:
            continue
        start = row["completed_at"] + REVIEW_AFTER
        name = f"Gate review: {row['gate']} #{row['run_number']}"
        yield (
            "gate_run",
            row["id"],
            "GATE_REVIEW",
            _timed(_title(name, bool(row["decision"])), start, start + REVIEW_LENGTH),
        )


def _reviews(rows: Iterable[Row], weekly_rule: str) -> Iterable[_Event]:
    for row in rows:
        if row["status"] in GONE:
            continue
        start = row["first_review_at"]
        end = start + dt.timedelta(minutes=row["duration_minutes"])
        event = _timed(_title(row["title"], row["status"] == "DONE"), start, end)
        yield "project_review", row["id"], "PROJECT_REVIEW", event | {"recurrence": [row["recurrence"] or weekly_rule]}


def _timed(title: str, start: dt.datetime, end: dt.datetime) -> dict[str, Any]:
    return {"title": title, "start": start.isoformat(), "end": end.isoformat(), "isAllDay": False}


def _title(text: str, is_done: bool) -> str:
    return (CHECK_MARK + text if is_done else text)[:MAX_TITLE]
