"""Outbox items and Google Calendar events: reading an item's payload, building an event's body, naming it. Pure.

The payload is the old worker's contract: `workspaceId`, `calendarId`, `sourceType`, `sourceId`, and for an UPSERT_EVENT
`eventType` and `event {title, description, start, end, isAllDay, recurrence[], location, colorId}`.
Events: https://developers.google.com/workspace/calendar/api/v3/reference/events
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from penstock.core.errors import PenstockError, error
from penstock.core.recurrence import check_rule

UPSERT, CANCEL, REBUILD = "UPSERT_EVENT", "CANCEL_EVENT", "REBUILD_ALL"
SOURCE_TYPES = ("task", "milestone", "gate_run", "project_review")
EVENT_TYPES = ("GATE_REVIEW", "BLOCKER_DEADLINE", "MILESTONE", "PROJECT_REVIEW")

MAX_TITLE = 500
MAX_DESCRIPTION = 8192  # Google's own limit, in characters
MAX_LOCATION = 1024
MAX_CALENDAR_ID = 254
MAX_RECURRENCE_LINES = 20
MAX_PROPERTY = 1024  # of an extended property's value

KEY_PROPERTY, WORKSPACE_PROPERTY, HASH_PROPERTY = "itc_key", "itc_ws", "itc_hash"
"""Private extended properties by which our events are found again."""

EVENT_ID = re.compile(r"[0-9a-v]{5,1024}")
"""What Google takes as an id from a client; ids that it made itself for instances of a series have a suffix."""

_FOREIGN_EVENT_ID = re.compile(r"[A-Za-z0-9_@.-]{1,1024}")
_COLOUR = re.compile(r"[0-9]{1,2}")
_SURROGATES = re.compile("[\ud800-\udfff]")
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_LAST_YEAR = 9000  # a later instant cannot be moved into every time zone


@dataclass(frozen=True, slots=True)
class Event:
    """What an event is to be. Instants are aware; an all-day event has dates instead, `last_day` itself included."""

    title: str
    description: str | None
    location: str | None
    colour: str | None
    recurrence: tuple[str, ...]
    zone: ZoneInfo
    start: dt.datetime | None = None
    end: dt.datetime | None = None
    first_day: dt.date | None = None
    last_day: dt.date | None = None


@dataclass(frozen=True, slots=True)
class Upsert:
    """The event is to be in the calendar, as `event` says."""

    calendar_id: str
    event_type: str
    event: Event


@dataclass(frozen=True, slots=True)
class Cancel:
    """The event is not to be in the calendar. google_event_id: what the producer believes it is called."""

    calendar_id: str | None
    google_event_id: str | None


Intent = Upsert | Cancel


def read_intent(operation: str, payload: Any, workspace_id: str, time_zone: str) -> Intent:
    """What an outbox item asks for.

    Parameters
    ----------
    time_zone: the workspace's, an IANA name; all-day events are cut in it.

    Raises CALENDAR_EVENT_INVALID, in words for the producer's author.
    """
    reader = _Reader(payload)
    reader.same_workspace(workspace_id)
    reader.choice("sourceType", SOURCE_TYPES)
    reader.uuid("sourceId")
    if operation == CANCEL:
        event_id = reader.text("googleEventId", 1024, optional=True)
        if event_id is not None and not _FOREIGN_EVENT_ID.fullmatch(event_id):
            raise invalid("googleEventId is not the id of an event")
        return Cancel(reader.text("calendarId", MAX_CALENDAR_ID, optional=True), event_id)
    if operation != UPSERT:
        raise invalid(f"there is no operation {operation[:40]!r}")
    calendar_id = reader.required_text("calendarId", MAX_CALENDAR_ID)
    event_type = reader.choice("eventType", EVENT_TYPES)
    return Upsert(calendar_id, event_type, _event(reader.mapping("event"), time_zone))


def _event(values: Mapping[str, Any], time_zone: str) -> Event:
    reader = _Reader(values, "event.")
    zone = read_zone(reader.text("timeZone", 64, optional=True) or time_zone)
    common: dict[str, Any] = {
        "title": reader.required_text("title", MAX_TITLE),
        "description": reader.text("description", MAX_DESCRIPTION, optional=True),
        "location": reader.text("location", MAX_LOCATION, optional=True),
        "colour": _colour(values.get("colorId")),
        "recurrence": _recurrence(values.get("recurrence")),
        "zone": zone,
    }
    start, end = reader.instant("start", zone), reader.instant("end", zone)
    if end < start:
        raise invalid("event.end is before event.start")
    if reader.flag("isAllDay"):
        first, last = _days(start, end, zone)
        return Event(**common, first_day=first, last_day=last)
    return Event(**common, start=start, end=end)


def _days(start: dt.datetime, end: dt.datetime, zone: ZoneInfo) -> tuple[dt.date, dt.date]:
    """First and last day, in the calendar's own zone. An end at midnight belongs to the day that it ends."""
    first, until = start.astimezone(zone), end.astimezone(zone)
    last = until.date()
    if until.time() == dt.time() and last > first.date():
        last -= dt.timedelta(days=1)
    return first.date(), last


def _colour(value: Any) -> str | None:
    if value is None:
        return None
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not _COLOUR.fullmatch(text):
        raise invalid("event.colorId is not the number of a colour")
    return text


def _recurrence(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MAX_RECURRENCE_LINES:
        raise invalid(f"event.recurrence is a list of at most {MAX_RECURRENCE_LINES} rules")
    return tuple(check_rule(line) for line in value)


def read_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name. Raises CALENDAR_EVENT_INVALID."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, UnicodeError):
        known = None
    if known is None:
        raise invalid(f"there is no time zone {name[:64]!r}")
    return known


def read_instant(value: Any, zone: ZoneInfo) -> dt.datetime | None:
    """An aware instant from an ISO text: without an offset it is local time of `zone`, a bare day begins at its
    midnight there. None for anything else. A time that the clock skips is the one an hour later."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        moment = dt.datetime.fromisoformat(value)
    except ValueError:
        return None
    if not 1970 <= moment.year <= _LAST_YEAR:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    return aware.astimezone(dt.UTC).astimezone(zone)


def text_problem(value: str) -> str | None:
    """Why a text cannot be stored or sent."""
    if _SURROGATES.search(value):
        return "holds half a surrogate pair"
    return "holds a control character" if _FORBIDDEN.search(value) else None


def invalid(message: str) -> PenstockError:
    return error("CALENDAR_EVENT_INVALID", message)


class _Reader:
    """Typed access to an object of somebody else's making; every refusal names the field."""

    def __init__(self, values: Any, prefix: str = "") -> None:
        if not isinstance(values, Mapping):
            raise invalid(f"{prefix.rstrip('.') or 'the payload'} is not an object")
        self._values = values
        self._prefix = prefix

    def text(self, name: str, longest: int, *, optional: bool = False) -> str | None:
        value = self._values.get(name)
        if value is None and optional:
            return None
        if not isinstance(value, str):
            raise invalid(f"{self._prefix}{name} is missing or no text")
        problem = text_problem(value)
        if problem:
            raise invalid(f"{self._prefix}{name} {problem}")
        if len(value) > longest:
            raise invalid(f"{self._prefix}{name} has {len(value)} characters, at most {longest} are possible")
        return value

    def required_text(self, name: str, longest: int) -> str:
        value = self.text(name, longest)
        if value is None or not value.strip():
            raise invalid(f"{self._prefix}{name} is empty")
        return value

    def choice(self, name: str, known: Sequence[str]) -> str:
        value = self._values.get(name)
        if value not in known:
            raise invalid(f"{self._prefix}{name} is none of {', '.join(known)}")
        return str(value)

    def uuid(self, name: str) -> str:
        value = self._values.get(name)
        try:
            return str(uuid.UUID(value if isinstance(value, str) else ""))
        except ValueError:
            known = None
        if known is None:
            raise invalid(f"{self._prefix}{name} is not a uuid")
        return known

    def same_workspace(self, workspace_id: str) -> None:
        """A token of one workspace never serves another's item."""
        if self._values.get("workspaceId") is not None and self.uuid("workspaceId") != workspace_id.lower():
            raise invalid("workspaceId differs from the item's own workspace")

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self._values.get(name)
        if not isinstance(value, Mapping):
            raise invalid(f"{self._prefix}{name} is missing or no object")
        return value

    def flag(self, name: str) -> bool:
        value = self._values.get(name, False)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise invalid(f"{self._prefix}{name} is neither true nor false")
        return value

    def instant(self, name: str, zone: ZoneInfo) -> dt.datetime:
        found = read_instant(self._values.get(name), zone)
        if found is None:
            raise invalid(f"{self._prefix}{name} is not an ISO time between 1970 and {_LAST_YEAR}")
        return found


# -- the event as Google takes it -------------------------------------------------------------------------------


def event_body(event: Event, event_key: str, workspace_id: str) -> dict[str, Any]:
    """The whole resource without its id. Fields that are empty are null, so that a patch clears them; what is not
    named here (reminders, attendees, a person's colour) a patch leaves alone."""
    body: dict[str, Any] = {
        "summary": event.title,
        "description": event.description,
        "location": event.location,
        "start": _edge(event, event.start, event.first_day),
        "end": _edge(event, event.end, event.last_day and event.last_day + dt.timedelta(days=1)),
        "recurrence": list(event.recurrence) or None,
        "status": "confirmed",
    }
    if event.colour is not None:
        body["colorId"] = event.colour
    body["extendedProperties"] = {
        "private": {
            KEY_PROPERTY: event_key[:MAX_PROPERTY],
            WORKSPACE_PROPERTY: workspace_id,
            HASH_PROPERTY: body_hash(body),
        }
    }
    return body


def _edge(event: Event, instant: dt.datetime | None, day: dt.date | None) -> dict[str, str | None]:
    """Start or end; the form that it has not is null, for an event that changes from one to the other."""
    if instant is None:
        return {"date": day.isoformat() if day else None, "dateTime": None, "timeZone": None}
    local = instant.astimezone(event.zone)
    return {"date": None, "dateTime": local.isoformat(timespec="seconds"), "timeZone": event.zone.key}


def without_nulls(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body as an insert takes it."""
    return {
        name: without_nulls(value) if isinstance(value, Mapping) else value
        for name, value in body.items()
        if value is not None
    }


def body_hash(body: Mapping[str, Any]) -> str:
    """Equal for equal events, whatever the order of their fields."""
    content = {name: value for name, value in body.items() if name != "extendedProperties"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def event_id(event_key: str, calendar_id: str, generation: int = 0) -> str:
    """The id of an event, the same at every try: base32hex in lower case, 43 characters, as Google takes it.

    https://developers.google.com/workspace/calendar/api/v3/reference/events/insert
    """
    named = "\x1f".join((event_key, calendar_id, str(generation)))
    digest = hashlib.sha256(named.encode("utf-8", "surrogatepass")).digest()[:25]
    return "itc" + base64.b32hexencode(digest).decode().lower()
