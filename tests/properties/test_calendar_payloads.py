"""Outbox payloads and event ids, generated."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.calendar_events import EVENT_ID, Upsert, event_body, event_id
from penstock.core.errors import PenstockError
from tests.unit.test_calendar_events import WORKSPACE, payload, read

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
FIELDS = dict.fromkeys(("title", "start", "end", "isAllDay", "recurrence", "colorId", "location", "timeZone"), JSON)


@settings(max_examples=100, deadline=None)
@given(event=st.fixed_dictionaries({}, optional=FIELDS), whole=JSON, takes_whole=st.booleans())
def test_any_payload_is_read_or_refused_by_its_code(event: dict[str, Any], whole: Any, takes_whole: bool) -> None:
    told: Any
    try:
        intent = read(whole if takes_whole else payload(event))
        told = event_body(intent.event, "k", WORKSPACE) if isinstance(intent, Upsert) else None
    except PenstockError as refused:
        told = {"code": refused.code, "message": refused.message}
    assert told is not None
    assert told.get("code", "CALENDAR_EVENT_INVALID") == "CALENDAR_EVENT_INVALID"
    json.dumps(told).encode("ascii")


@given(st.text(max_size=3000), st.text(max_size=3000), st.integers(0, 5))
def test_every_event_id_is_one_that_google_takes(key: str, calendar: str, generation: int) -> None:
    made = event_id(key, calendar, generation)
    assert EVENT_ID.fullmatch(made)
    assert len(made) == 43
    assert made != event_id(key, calendar, generation + 1)
