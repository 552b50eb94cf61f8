"""The events of Google's calendars: what the methods of the resource do to them, without HTTP.

https://developers.google.com/workspace/calendar/api/v3/reference/events
"""

from __future__ import annotations

import copy
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from sandbox.state import State

MODULE = "google_calendar"
DEFAULT_PAGE, LARGEST_PAGE = 250, 2500
EVENT_ID = re.compile(r"[0-9a-v]{5,1024}")
OCCURRENCE_ID = re.compile(r"(?P<series>[0-9a-v]{5,1024})_(?P<start>\d{8}(T\d{6}Z)?)")
RULE = re.compile(r"(RRULE|EXRULE):(?=.*\bFREQ=(DAILY|WEEKLY|MONTHLY|YEARLY)\b)[A-Z0-9=;,+-]+|(RDATE|EXDATE)[;:].+")
EDITABLE = frozenset({"summary", "description", "location", "colorId", "start", "end", "recurrence", "status"})
FIXED = ("id", "recurringEventId", "originalStartTime")


class Refusal(Exception):
    """An error answer: HTTP status, machine-readable reason, message, and seconds to wait."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


@dataclass(slots=True)
class Calendar:
    """One calendar. Every change raises `version`, which is what etags and sync tokens are made of."""

    calendar_id: str
    version: int = 0
    oldest_sync: int = 0
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    def put(self, event: dict[str, Any], now: dt.datetime) -> dict[str, Any]:
        """Store a changed event; the resource as it is answered."""
        self.version += 1
        event["etag"] = f'"{self.version:016d}"'
        event["updated"] = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.events[event["id"]] = event
        self.versions[event["id"]] = self.version
        return copy.deepcopy(event)

    def visible(self) -> list[dict[str, Any]]:
        """What a person sees, in the order of their starts."""
        shown = [event for event in self.events.values() if event["status"] != "cancelled"]
        return sorted(copy.deepcopy(shown), key=lambda event: (_start_text(event), event["id"]))


def calendar_of(state: State, calendar_id: str) -> Calendar:
    calendars: dict[str, Calendar] = state.remembered(MODULE).setdefault("calendars", {})
    return calendars.setdefault(calendar_id, Calendar(calendar_id))


def insert(state: State, calendar: Calendar, body: Mapping[str, Any]) -> dict[str, Any]:
    """A new event. Raises Refusal: 400, or 409 for an id that is taken, be its event deleted or not."""
    given = body.get("id")
    if given is not None and not (isinstance(given, str) and EVENT_ID.fullmatch(given)):
        raise Refusal(400, "invalid", "Invalid resource id value.")
    event_id = given or f"sandbox{calendar.version:08d}"
    if event_id in calendar.events:
        raise Refusal(409, "duplicate", "The requested identifier already exists.")
    now = state.clock.now()
    event = {
        "kind": "calendar#event",
        "id": event_id,
        "status": "confirmed",
        "created": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "iCalUID": f"{event_id}@google.com",
        "sequence": 0,
        "reminders": {"useDefault": True},
        "eventType": "default",
        **{name: value for name, value in copy.deepcopy(dict(body)).items() if value is not None},
    }
    _check(event)
    return calendar.put(event, now)


def change(
    state: State, calendar: Calendar, event_id: str, body: Mapping[str, Any], etag: str | None, *, is_patch: bool
) -> dict[str, Any]:
    """Patch: what is named is set, null removes. Update: what is not named is gone. Raises Refusal."""
    event = _existing(calendar, event_id, etag)
    if event["status"] == "cancelled" and state.remembered(MODULE).get("refuses_revival"):
        raise Refusal(403, "forbidden", "The event has been deleted.")
    kept = event if is_patch else {name: value for name, value in event.items() if name not in EDITABLE}
    fresh = _merged(kept, body) if is_patch else {**kept, "status": "confirmed", **_merged({}, body)}
    fresh = {**fresh, **{name: event[name] for name in FIXED if name in event}, "sequence": event["sequence"] + 1}
    _check(fresh)
    return calendar.put(fresh, state.clock.now())


def delete(state: State, calendar: Calendar, event_id: str, etag: str | None) -> None:
    """Deleted events keep their id and are cancelled; a series takes its occurrences along. Raises Refusal: 404, 410,
    412."""
    event = _existing(calendar, event_id, etag)
    if event["status"] == "cancelled":
        raise Refusal(410, "deleted", "Resource has been deleted")
    changed = [each for each in calendar.events.values() if each.get("recurringEventId") == event_id]
    for each in (event, *changed):
        calendar.put({**each, "status": "cancelled"}, state.clock.now())


def get(calendar: Calendar, event_id: str) -> dict[str, Any]:
    """The event, be it deleted. Raises Refusal."""
    return copy.deepcopy(_existing(calendar, event_id, None))


def listing(calendar: Calendar, query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """One page of events. Raises Refusal: 410 for a sync token that is too old."""
    single = dict(query)
    wanted = [value.partition("=") for name, value in query if name == "privateExtendedProperty"]
    since = _synced_since(calendar, single.get("syncToken"))
    if since is not None and wanted:
        raise Refusal(400, "invalid", "Sync token cannot be used with the given parameters.")
    shows_deleted = single.get("showDeleted") == "true" or since is not None
    found = [
        copy.deepcopy(event)
        for event_id, event in sorted(calendar.events.items(), key=lambda item: calendar.versions[item[0]])
        if (shows_deleted or event["status"] != "cancelled" or _is_taken_out(calendar, event))
        and (since is None or calendar.versions[event_id] > since)
        and all(_private(event).get(name) == value for name, _, value in wanted)
    ]
    size = min(int(single.get("maxResults", DEFAULT_PAGE)), LARGEST_PAGE)
    start = _page_start(single.get("pageToken"))
    answer: dict[str, Any] = {
        "kind": "calendar#events",
        "etag": f'"{calendar.version:016d}"',
        "summary": calendar.calendar_id,
        "timeZone": "UTC",
        "accessRole": "owner",
        "items": found[start : start + size],
    }
    if start + size < len(found):
        answer["nextPageToken"] = f"page{start + size}"
    else:
        answer["nextSyncToken"] = f"sync{calendar.version}"
    return answer


def _is_taken_out(calendar: Calendar, event: Mapping[str, Any]) -> bool:
    """A cancelled occurrence of a series that goes on: listed even where deleted events are not."""
    series = calendar.events.get(event.get("recurringEventId", ""))
    return series is not None and series["status"] != "cancelled"


def _occurrence(calendar: Calendar, event_id: str) -> dict[str, Any] | None:
    """One of a series, as it is before it is changed: then it becomes an event of its own, with the series' properties.

    Rules are not expanded here: whatever start after the first one an id names is one of the series.
    """
    match = OCCURRENCE_ID.fullmatch(event_id)
    series = calendar.events.get(match["series"]) if match else None
    if match is None or series is None or not series.get("recurrence") or series["status"] == "cancelled":
        return None
    if ("date" in series["start"]) == ("T" in match["start"]):
        return None
    first, last = _edge(series["start"]), _edge(series["end"])
    start = _edge({"date" if "date" in series["start"] else "dateTime": match["start"], "timeZone": "UTC"})
    if start < first:
        return None
    begin = _moved_edge(series["start"], start)
    return {
        **{name: value for name, value in copy.deepcopy(series).items() if name != "recurrence"},
        "id": event_id,
        "recurringEventId": match["series"],
        "originalStartTime": begin,
        "start": begin,
        "end": _moved_edge({**series["end"], "timeZone": begin.get("timeZone")}, start + (last - first)),
    }


def _moved_edge(edge: Mapping[str, Any], moment: dt.datetime) -> dict[str, str]:
    """The same kind of start or end at another time."""
    if "date" in edge:
        return {"date": moment.date().isoformat()}
    local = moment.astimezone(ZoneInfo(edge["timeZone"]))
    return {"dateTime": local.isoformat(timespec="seconds"), "timeZone": edge["timeZone"]}


def _existing(calendar: Calendar, event_id: str, etag: str | None) -> dict[str, Any]:
    event = calendar.events.get(event_id) or _occurrence(calendar, event_id)
    if event is None:
        raise Refusal(404, "notFound", "Not Found")
    if etag not in (None, "*", event["etag"]):
        raise Refusal(412, "conditionNotMet", "Precondition Failed")
    return event


def _merged(kept: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(dict(kept))
    for name, value in body.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            held = result.get(name)
            result[name] = _merged(held if isinstance(held, Mapping) else {}, value)
        else:
            result[name] = copy.deepcopy(value)
    return result


def _check(event: Mapping[str, Any]) -> None:
    """Raises Refusal for an event that Google does not take."""
    start, end = event.get("start"), event.get("end")
    if not isinstance(start, Mapping) or not isinstance(end, Mapping):
        raise Refusal(400, "required", "Missing end time." if start else "Missing start time.")
    if len(str(event.get("summary", ""))) > 8192:
        raise Refusal(400, "invalid", "The summary is too long.")
    _check_recurrence(event)
    if event["status"] not in ("confirmed", "tentative", "cancelled"):
        raise Refusal(400, "invalid", "Invalid status value.")
    if ("date" in start) != ("date" in end):
        raise Refusal(400, "invalid", "Start and end times must either both be date or both be dateTime.")
    first, last = _edge(start), _edge(end)
    if last < first or ("date" in start and last == first):
        raise Refusal(400, "timeRangeEmpty", "The specified time range is empty.")


def _check_recurrence(event: Mapping[str, Any]) -> None:
    rules = event.get("recurrence") or ()
    if not isinstance(rules, list | tuple) or not all(isinstance(line, str) and RULE.fullmatch(line) for line in rules):
        raise Refusal(400, "invalid", "Invalid recurrence rule.")
    if rules and "dateTime" in event["start"] and not event["start"].get("timeZone"):
        raise Refusal(400, "required", "Missing time zone definition for start time.")


def _edge(edge: Mapping[str, Any]) -> dt.datetime:
    try:
        if "date" in edge:
            return dt.datetime.combine(dt.date.fromisoformat(edge["date"]), dt.time(), tzinfo=dt.UTC)
        moment = dt.datetime.fromisoformat(edge["dateTime"])
        zone = ZoneInfo(edge["timeZone"]) if edge.get("timeZone") else None
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise Refusal(400, "invalid", "Invalid start or end time.") from error
    if moment.tzinfo is None and zone is None:
        raise Refusal(400, "required", "Missing time zone definition for start time.")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)


def _synced_since(calendar: Calendar, token: str | None) -> int | None:
    if token is None:
        return None
    number = token.removeprefix("sync")
    if not number.isdecimal() or int(number) < calendar.oldest_sync:
        raise Refusal(410, "fullSyncRequired", "Sync token is no longer valid, a full sync is required.")
    return int(number)


def _page_start(token: str | None) -> int:
    if token is None:
        return 0
    number = token.removeprefix("page")
    if not number.isdecimal():
        raise Refusal(400, "invalid", "Invalid page token value.")
    return int(number)


def _private(event: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = event.get("extendedProperties") or {}
    private: Mapping[str, Any] = properties.get("private") or {}
    return private


def _start_text(event: Mapping[str, Any]) -> str:
    start = event["start"]
    return str(start.get("dateTime") or start.get("date"))
