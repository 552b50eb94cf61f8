"""What producers should not write: it ends as an event or as a dead letter in words, and holds up nobody."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from penstock.warehouse.session import Warehouse
from tests.calendar_scene import Scene, upsert
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db

TEXTS: list[Any] = [
    "", " ", "x" * 40_000, "a\u202eb\u2066c", "<!channel> <@U1>", "'; drop table tasks; --", "😀" * 300, "`" * 200,
    "a\nb", None, 7, True, [], {"a": {"b": [1]}}, "\t",
]  # fmt: skip
TIMES: list[Any] = [
    "yesterday", "2026-02-29T10:00:00Z", "2028-02-29T10:00:00Z", "2026-03-29T02:30:00+01:00", "2026-13-01", "",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-12-01", None, 5, [], "2026-12-01T10:00:00+99:00",
]  # fmt: skip
RULES: list[Any] = [
    ["garbage"], ["RRULE:FREQ=SECONDLY"], ["RRULE:"], [None], ["RRULE:FREQ=DAILY;COUNT=0"], "RRULE:FREQ=DAILY", [""],
    ["RRULE:FREQ=WEEKLY;BYDAY=XX"], ["RRULE:FREQ=DAILY"] * 300, ["EXDATE:never"], ["x" * 5000], {}, 1,
]  # fmt: skip
ZONES: list[Any] = ["Foo/Bar", "../etc/passwd", "", None, 3, "Europe/Zurich\n", "x" * 2000]
EVENTS: list[dict[str, Any]] = [
    *({"title": text} for text in TEXTS),
    *({"description": text} for text in TEXTS),
    *({"location": text} for text in TEXTS),
    *({"start": time} for time in TIMES),
    *({"end": time} for time in TIMES),
    *({"start": start, "end": end, "isAllDay": True} for start, end in itertools.product(TIMES, TIMES[:7])),
    *({"recurrence": rules} for rules in RULES),
    *({"timeZone": zone} for zone in ZONES),
    *({"isAllDay": flag} for flag in ("yes", None, 1)),
    *({"colorId": color} for color in ("red", 99, None, "12")),
    {"title": "x", "padding": "y" * 5_000_000},
]
PAYLOADS: list[Any] = [
    {}, {"sourceType": "note"}, {"sourceId": "x" * 2000}, {"calendarId": ""}, {"calendarId": "c" * 2000},
    {"eventType": "PARTY"}, {"event": None}, {"event": [1]}, {"workspaceId": "x"}, {"sourceId": None}, {"event": "x"},
]  # fmt: skip


def test_bad_inputs_are_events_or_dead_letters_in_words_and_no_lane_is_stuck(
    warehouse: Warehouse, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(warehouse, sandbox.url)
    scene.reset()
    (workspace,) = scene.connect_workspaces()
    payloads = [upsert(workspace, number, **event) for number, event in enumerate(EVENTS)]
    payloads += [{**upsert(workspace, 1000 + number), **changed} for number, changed in enumerate(PAYLOADS)]
    assert len(payloads) >= 200
    for payload in payloads:
        scene.enqueue(workspace, "UPSERT_EVENT", payload)
    for bare in ([], "text", 7, None):
        scene.enqueue(workspace, "UPSERT_EVENT", bare)  # type: ignore[arg-type]
    scene.run()
    assert set(scene.states()) == {"COMPLETED", "DEAD_LETTER"}
    assert sum(scene.states().values()) == len(payloads) + 4
    letters = scene.fetch("select dead_reason, last_error from public.sync_outbox where status = 'DEAD_LETTER'")
    assert all(reason.startswith("CALENDAR_") and message for reason, message in letters)
    assert all(len(message) <= 500 for _, message in letters)
    assert "Traceback" not in caplog.text
    scene.upsert(workspace, 5000, "a good one")
    scene.run()
    assert "a good one" in scene.titles(workspace.calendar)
