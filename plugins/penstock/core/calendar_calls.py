"""From an intent to calls, and from what Google answers to the next call or the end: one small machine per key. Pure.

Events have ids of our own choosing, so that every call may be repeated: an insert that was made already answers 409, a
delete 404 or 410. What Google's answers mean: `REFUSALS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from penstock.core.calendar_events import Cancel, Intent, Upsert, body_hash, event_body, event_id, without_nulls

MAX_CALLS = 8
"""Calls of one key in one turn. More: somebody changes the event as fast as we do; the next turn goes on."""

MAX_GENERATION = 5
"""Ids tried for one event before a person has to look."""


class Kind(StrEnum):
    INSERT = "insert"
    PATCH = "patch"
    UPDATE = "update"  # replaces the whole event; brings a deleted one back
    DELETE = "delete"
    GET = "get"


@dataclass(frozen=True, slots=True)
class Call:
    """One call to Google. etag: the event must be as we left it (If-Match)."""

    kind: Kind
    calendar_id: str
    event_id: str
    body: Mapping[str, Any] | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What Google answered to one call; `reason` is the machine-readable one of an error. status 0: no answer."""

    status: int
    reason: str = ""
    message: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    retry_after: float | None = None

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        return self.status in (404, 410)

    @property
    def etag(self) -> str | None:
        value = self.body.get("etag")
        return value if isinstance(value, str) and value.isascii() and value.isprintable() else None


@dataclass(frozen=True, slots=True)
class Refusal:
    """One line of the error table: all that is given must fit. Empty: fits everything."""

    code: str
    statuses: frozenset[int]
    reasons: frozenset[str] = frozenset()


# The first that fits decides. https://developers.google.com/workspace/calendar/api/guides/errors
REFUSALS = (
    Refusal("OAUTH_INVALID", frozenset({401})),
    Refusal("CALENDAR_RATE_LIMIT", frozenset({403}), frozenset({"rateLimitExceeded", "userRateLimitExceeded"})),
    Refusal("CALENDAR_QUOTA", frozenset({403, 429}), frozenset({"quotaExceeded", "dailyLimitExceeded"})),
    Refusal("CALENDAR_NOT_ORGANIZER", frozenset({403}), frozenset({"forbiddenForNonOrganizer"})),
    Refusal("CALENDAR_API_DISABLED", frozenset({403}), frozenset({"accessNotConfigured", "SERVICE_DISABLED"})),
    Refusal(
        "OAUTH_INVALID",
        frozenset({403}),
        frozenset({"insufficientPermissions", "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "authError", "invalid_grant"}),
    ),
    Refusal("CALENDAR_FORBIDDEN", frozenset({403})),
    Refusal("CALENDAR_RATE_LIMIT", frozenset({429})),
    Refusal("CALENDAR_NOT_FOUND", frozenset({404, 410})),
    Refusal("CALENDAR_ID_CONFLICT", frozenset({409})),
    Refusal("CALENDAR_TRANSIENT", frozenset({0, 408, 412, 425, *range(500, 600)})),
)


def refusal_code(status: int, reason: str = "") -> str:
    """The catalogue's code of an answer that is not good; what the table does not name is the event's own fault."""
    for line in REFUSALS:
        if status in line.statuses and (not line.reasons or reason in line.reasons):
            return line.code
    return "CALENDAR_EVENT_REFUSED"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a key's event.

    calendar_id: where it is or was about to be made. google_event_id: None for the derived id.
    """

    calendar_id: str | None
    google_event_id: str | None = None
    generation: int = 0
    is_created: bool = False
    etag: str | None = None
    body_hash: str | None = None


class Verdict(StrEnum):
    """What becomes of a key; as the query `acknowledge` takes it."""

    DONE = "done"
    DEAD = "dead"
    RETRY = "retry"
    AGAIN = "again"
    RELEASE = "release"


class Work:
    """One key on its way. `call` is the next call, until `verdict` says that there is none."""

    def __init__(self, event_key: str, workspace_id: str, intent: Intent, known: Known) -> None:
        self.event_key = event_key
        self.known = known
        self.intent = intent
        self.call: Call | None = None
        self.verdict: Verdict | None = None
        self.reason: str | None = None
        self.message: str | None = None
        self.retry_after: float | None = None
        self.calls = 0
        self._targets: list[tuple[str, str]] = []
        self._body: dict[str, Any] = {}
        if isinstance(intent, Upsert):
            self._body = event_body(intent.event, event_key, workspace_id)
            self._begin_upsert(intent)
        else:
            self._begin_cancel(intent)

    @property
    def event_id(self) -> str:
        """The id of the event where it is now."""
        return self.known.google_event_id or event_id(
            self.event_key, self.known.calendar_id or "", self.known.generation
        )

    def take(self, reply: Reply) -> None:
        """Go on from what Google answered to `call`."""
        call = self.call
        if call is None:
            raise ValueError(f"{self.event_key}: there was no call")
        self.call = None
        self.calls += 1
        if isinstance(self.intent, Cancel):
            self._after_delete(reply)
        elif call.kind is Kind.DELETE:
            self._after_leaving(self.intent, reply)
        else:
            self._after(call, reply)
        if self.call is not None and self.calls >= MAX_CALLS:
            self.call = None
            self._end(Verdict.RETRY, "CALENDAR_TRANSIENT", "the event changes faster than it can be written")

    def release(self) -> None:
        """Nothing was done: give the key back."""
        self.call = None
        self._end(Verdict.RELEASE)

    # -- the event is to be there

    def _begin_upsert(self, intent: Upsert) -> None:
        known = self.known
        if known.calendar_id is None:
            self.known = known = replace(known, calendar_id=intent.calendar_id)
        if known.calendar_id != intent.calendar_id:
            self._targets = self._own_targets(str(known.calendar_id))
            self._delete_next()
        elif known.is_created and known.body_hash == body_hash(self._body):
            self._end(Verdict.DONE)
        elif known.is_created:
            self._patch(known.etag)
        else:
            self._insert()

    def _insert(self) -> None:
        # An id that Google or an old worker chose cannot be made again.
        self.known = replace(self.known, google_event_id=None, is_created=False, etag=None, body_hash=None)
        body = {"id": self.event_id, **without_nulls(self._body)}
        self.call = Call(Kind.INSERT, str(self.known.calendar_id), self.event_id, body)

    def _patch(self, etag: str | None) -> None:
        self.call = Call(Kind.PATCH, str(self.known.calendar_id), self.event_id, self._body, etag)

    def _revive(self) -> None:
        """Its id is taken: by our own earlier try, or by the event before it was deleted."""
        self.call = Call(Kind.UPDATE, str(self.known.calendar_id), self.event_id, without_nulls(self._body))

    def _after(self, call: Call, reply: Reply) -> None:
        if call.kind is Kind.GET:
            self._after_get(reply)
        elif reply.is_good:
            self._is_there(reply)
        elif call.kind is Kind.INSERT and reply.status == 409:
            self._revive()
        elif call.kind is Kind.PATCH and reply.is_gone:
            self._insert()
        elif call.kind is Kind.PATCH and reply.status == 412:
            self.call = Call(Kind.GET, call.calendar_id, call.event_id)
        elif call.kind is Kind.UPDATE and self._is_final(reply):
            self._next_generation(reply)
        else:
            self._refused(reply)

    def _after_get(self, reply: Reply) -> None:
        """Somebody changed the event. Ours is what counts: it is a mirror."""
        if reply.is_gone:
            self._insert()
        elif not reply.is_good:
            self._refused(reply)
        elif reply.body.get("status") == "cancelled":
            self._revive()
        else:
            self._patch(reply.etag)

    def _is_there(self, reply: Reply) -> None:
        self.known = replace(
            self.known,
            google_event_id=self.event_id,
            is_created=True,
            etag=reply.etag,
            body_hash=body_hash(self._body),
        )
        self._end(Verdict.DONE)

    def _next_generation(self, reply: Reply) -> None:
        """Google neither makes nor changes it: another id, written down before it is used."""
        if self.known.generation >= MAX_GENERATION:
            self._end(Verdict.DEAD, "CALENDAR_ID_CONFLICT", reply.message)
            return
        self.known = Known(self.known.calendar_id, generation=self.known.generation + 1)
        self._end(Verdict.AGAIN)

    def _after_leaving(self, intent: Upsert, reply: Reply) -> None:
        """The event moves to another calendar: gone from the old one, written down, then made in the new one."""
        is_lost = refusal_code(reply.status, reply.reason) == "CALENDAR_FORBIDDEN"
        if not (reply.is_good or reply.is_gone or is_lost):
            self._refused(reply)
        elif self._targets:
            self._delete_next()
        else:
            self.known = Known(intent.calendar_id, generation=self.known.generation)
            self._end(Verdict.AGAIN)

    # -- the event is not to be there

    def _begin_cancel(self, intent: Cancel) -> None:
        calendar_id = self.known.calendar_id or intent.calendar_id
        if calendar_id is None:
            self._end(Verdict.DONE)  # nothing was ever made
            return
        self.known = replace(self.known, calendar_id=calendar_id)
        self._targets = self._own_targets(calendar_id)
        named = (intent.calendar_id or calendar_id, intent.google_event_id or "")
        if intent.google_event_id and not self.known.is_created and named not in self._targets:
            self._targets.append(named)
        self._delete_next()

    def _own_targets(self, calendar_id: str) -> list[tuple[str, str]]:
        """Where the event may be: under the id that it was given, and under the one that a worker which died may have
        made in its place."""
        derived = event_id(self.event_key, calendar_id, self.known.generation)
        return [(calendar_id, target) for target in dict.fromkeys((self.event_id, derived))]

    def _delete_next(self) -> None:
        self.call = Call(Kind.DELETE, *self._targets.pop(0))

    def _after_delete(self, reply: Reply) -> None:
        if not (reply.is_good or reply.is_gone):
            self._refused(reply)
        elif self._targets:
            self._delete_next()
        else:
            self.known = Known(self.known.calendar_id, generation=self.known.generation)
            self._end(Verdict.DONE)

    # -- ends

    @staticmethod
    def _is_final(reply: Reply) -> bool:
        """Whether the same call would be refused again."""
        code = refusal_code(reply.status, reply.reason)
        return code not in ("CALENDAR_RATE_LIMIT", "CALENDAR_QUOTA", "CALENDAR_TRANSIENT", "OAUTH_INVALID")

    def _refused(self, reply: Reply) -> None:
        code = refusal_code(reply.status, reply.reason)
        message = f"HTTP {reply.status} {reply.reason}: {reply.message}" if reply.status else reply.message
        self.retry_after = reply.retry_after
        match code:
            case "CALENDAR_TRANSIENT":
                self._end(Verdict.RETRY, code, message)
            case "CALENDAR_RATE_LIMIT" | "CALENDAR_QUOTA" | "OAUTH_INVALID" | "CALENDAR_API_DISABLED":
                self._end(Verdict.RELEASE, code, message)  # the connection's affair, not the event's
            case _:
                self._end(Verdict.DEAD, code, message)

    def _end(self, verdict: Verdict, reason: str | None = None, message: str | None = None) -> None:
        self.verdict, self.reason, self.message = verdict, reason, message
