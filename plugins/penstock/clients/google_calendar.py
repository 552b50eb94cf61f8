"""Google Calendar API v3 for one connected account: events in batches, listings, OAuth refresh tokens.

Every call to events has an id of our own and may be repeated, so a batch that got no answer is simply sent again, by
the queue and never from here. https://developers.google.com/workspace/calendar/api/v3/reference/events
"""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from penstock.clients import multipart
from penstock.clients.answers import Answer
from penstock.clients.multipart import Part, PartAnswer
from penstock.clients.sessions import BodyTooLarge, BodyTooSlow, ThreadLocal, network_error, new_session
from penstock.clients.transport import Attempt, Outcome, VendorClient
from penstock.core.calendar_calls import Call, Kind, Reply, refusal_code
from penstock.core.calendar_events import KEY_PROPERTY, WORKSPACE_PROPERTY
from penstock.core.errors import PenstockError, RetryableError, error
from penstock.core.templates import clean
from penstock.sources.stream import Limit, Request

if TYPE_CHECKING:
    import requests

SCOPE = "https://www.googleapis.com/auth/calendar.events"

MAX_BATCH = 50
"""Google takes 1,000 calls in a batch; so many are one turn of a calendar's own limit."""

PAGE_SIZE = 2500
MAX_PAGES = 400  # a million events

# Projects made since May 2026: https://developers.google.com/workspace/calendar/api/guides/quota
# A call in a batch counts as a call. How fast one calendar may be changed is not documented: five a second have been
# found to be well, here averaged over ten seconds.
LIMITS: Mapping[str, tuple[Limit, ...]] = {
    "project": (Limit(10_000, 60.0, burst=1_000),),
    "user": (Limit(600, 60.0, is_hard_window=True),),
    "calendar": (Limit(50, 10.0, is_hard_window=True),),
}

PATIENCE_S = 2.0
"""A longer wait is left to the queue, which serves other accounts meanwhile."""

QUOTA_REST = dt.timedelta(hours=1)
"""`quotaExceeded` (usage limits of a calendar) is known to last for hours."""

MAX_MESSAGE = 500
_LISTED_FIELDS = f"id,etag,status,recurringEventId,extendedProperties/private/{KEY_PROPERTY}"
WRITE, READ = "write", "read"

_METHODS = {
    Kind.INSERT: "POST",
    Kind.PATCH: "PATCH",
    Kind.UPDATE: "PUT",
    Kind.DELETE: "DELETE",
    Kind.GET: "GET",
}


class GoogleCalendarClient(VendorClient):
    """One account that was connected by OAuth.

    Credentials: `token` is the refresh token, `secret` that of the OAuth client; `extra`: `client_id`, `token_uri`.

    on_secret: called with every access token before it is used, so that logs can mask it.
    """

    source = "google_calendar"

    def __init__(self, *args: Any, on_secret: Callable[[str], None] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._on_secret = on_secret
        self._sessions: ThreadLocal[requests.Session] = ThreadLocal(new_session, lambda session: session.close())
        self._google: Any = None
        self._token_lock = threading.Lock()

    def perform(self, calls: Sequence[Call]) -> list[Reply]:
        """One batch, and each call's reply; a part without a readable answer is a reply of status 0.

        Raises PenstockError when the batch as a whole failed: its calls may have been made all the same.
        """
        if not 1 <= len(calls) <= MAX_BATCH:
            raise ValueError(f"a batch holds 1 to {MAX_BATCH} calls, not {len(calls)}")
        calendars = {call.calendar_id: 0 for call in calls if call.kind is not Kind.GET}
        for call in calls:
            if call.kind is not Kind.GET:
                calendars[call.calendar_id] += 1
        body = {"parts": [_part(call) for call in calls], "calendars": calendars}
        replies: list[Reply] = self.send(Request("POST", "batch/calendar/v3", body=body, limit=WRITE, cost=len(calls)))
        return replies

    def own_events(self, calendar_id: str, workspace_id: str) -> Iterator[dict[str, Any]]:
        """The events of a calendar that carry the workspace's mark, a series as one. Raises PenstockError.

        An occurrence that a person moved or took out is listed beside its series, with the series' mark, but it is not
        ours: to delete it would take its date out of the series for good.
        """
        token: str | None = None
        for _ in range(MAX_PAGES):
            params = {
                "privateExtendedProperty": f"{WORKSPACE_PROPERTY}={workspace_id}",
                "maxResults": str(PAGE_SIZE),
                "fields": f"nextPageToken,items({_LISTED_FIELDS})",
            }
            if token:
                params["pageToken"] = token
            page = self.send(Request("GET", _events_path(calendar_id), params=params, limit=READ))
            items = (item for item in page.get("items") or () if isinstance(item, dict))
            yield from (item for item in items if not item.get("recurringEventId"))
            following = page.get("nextPageToken")
            if not following:
                return
            if following == token:
                raise error("RESPONSE_REPEATED_CURSOR", f"calendar {calendar_id} repeats page {token}")
            token = str(following)

    def check(self) -> str:
        page = self.send(
            Request("GET", _events_path("primary"), params={"maxResults": "1", "fields": "summary"}, limit=READ)
        )
        return f"Google Calendar of {page.get('summary') or 'the connected account'}"

    def close(self) -> None:
        self._sessions.close()

    # -- tokens

    def _bearer(self) -> str:
        """A valid access token: one refresh at a time, kept in memory alone. Raises PenstockError."""
        with self._token_lock:
            if self._google is None:
                self._google = self._new_credentials()
            if not self._google.valid:
                self._refresh()
            return str(self._google.token)

    def _new_credentials(self) -> Any:
        from google.oauth2.credentials import Credentials

        extra = self._credentials.extra
        return Credentials(
            None,
            refresh_token=self._credentials.token,
            client_id=extra.get("client_id"),
            client_secret=self._credentials.secret,
            token_uri=extra.get("token_uri"),
        )

    def _refresh(self) -> None:
        from google.auth import exceptions
        from google.auth.transport.requests import Request as TokenRequest

        try:
            self._google.refresh(TokenRequest(self._sessions.get()))
        except exceptions.TransportError as failure:
            broken = error("NETWORK_UNREACHABLE", self._said(f"the token endpoint cannot be reached: {failure}"))
        except exceptions.RefreshError as failure:
            broken = self._refresh_error(failure)
        except (BodyTooLarge, BodyTooSlow) as failure:
            broken = network_error(failure, self._redact)
        except (TypeError, ValueError, AttributeError, KeyError) as failure:
            # What google-auth comes to over a page that is no token (a proxy's, with status 200).
            broken = error("CALENDAR_TRANSIENT", f"no access token: unreadable answer ({type(failure).__name__})")
        else:
            if self._on_secret is not None:
                self._on_secret(str(self._google.token))
            return
        raise broken

    def _refresh_error(self, failure: Any) -> PenstockError:
        """https://developers.google.com/identity/protocols/oauth2/web-server#refresh-token-errors"""
        details = next((part for part in failure.args if isinstance(part, Mapping)), {})
        found = details.get("error")
        reason = found if isinstance(found, str) else ""
        message = self._said(f"no access token: {reason} {details.get('error_description') or failure}")
        if reason in ("invalid_client", "unauthorized_client", "deleted_client", "disabled_client"):
            return error("CALENDAR_CLIENT_INVALID", message)
        if getattr(failure, "retryable", False) or reason in ("internal_failure", "server_error", "backend_error"):
            return error("CALENDAR_TRANSIENT", message)
        if not reason and self._credentials.token:
            # A gateway's page (502, a proxy), not the endpoint's own answer: it says nothing of the grant.
            return error("CALENDAR_TRANSIENT", message)
        return error("OAUTH_INVALID", message, provider_code=reason or None)

    def _said(self, text: str) -> str:
        """What a vendor said, as it may be stored and shown: without secrets, and without characters that Postgres
        refuses (one of them would make the acknowledgement of a whole batch fail, every time)."""
        return clean(self._redact(text))[:MAX_MESSAGE]

    def _forget_token(self) -> None:
        with self._token_lock:
            if self._google is not None:
                self._google.token = None

    # -- the wire

    def _take_place(self, request: Request) -> None:
        """The narrowest limit first: what it refuses has taken nothing from the others."""
        body = request.body or {}
        places = [
            *((f"calendar:{calendar_id}", "calendar", cost) for calendar_id, cost in body.get("calendars", {}).items()),
            (f"user:{self._account_id}", "user", request.cost),
            ("project", "project", request.cost),
        ]
        for name, family, cost in places:
            wait = self._limiter.reserve(f"{self.source}:{name}", self._limits[family], cost)
            if wait > PATIENCE_S:
                raise self._stamp(self._pace_error(request, wait))
            if wait > 0:
                self._sleep(wait)

    def _key(self, request: Request) -> str:
        """What a rate limit of Google's closes: the user's."""
        return f"{self.source}:user:{self._account_id}"

    def _ready(self) -> None:
        self._sessions.get()

    def _call(self, request: Request) -> Answer:
        answer = self._exchange_once(request, self._bearer())
        if not self._is_token_refused(request, answer):
            return answer
        self._forget_token()
        with self._lock:
            self._requests += 1
        return self._exchange_once(request, self._bearer())

    def _is_token_refused(self, request: Request, answer: Answer) -> bool:
        """Google answers for a batch as a whole, or in its parts: a token that ends meanwhile is refused in some. All
        calls may be repeated, and only a new token can tell whether the grant is at fault."""
        if answer.status == 401 or request.limit != WRITE:
            return answer.status == 401
        return answer.status == 200 and any(reply.status == 401 for reply in self._replies(request, answer))

    def _exchange_once(self, request: Request, token: str) -> Answer:
        from requests import RequestException

        headers = {"Authorization": f"Bearer {token}"}
        content: bytes | None = None
        if request.limit == WRITE and request.body is not None:
            content = multipart.encode(request.body["parts"])
            headers["Content-Type"] = multipart.CONTENT_TYPE
        url = f"{self._credentials.base_url.rstrip('/')}/{request.path}"
        try:
            reply = self._sessions.get().request(
                request.method, url, params=dict(request.params), data=content, headers=headers
            )
        except (RequestException, BodyTooLarge, BodyTooSlow) as failure:
            broken = network_error(failure, self._redact)
        else:
            return Answer(
                reply.status_code, {name.lower(): value for name, value in reply.headers.items()}, reply.content
            )
        raise broken

    def _read(self, attempt: Attempt, answer: Answer) -> tuple[Any, PenstockError | None]:
        if attempt.request.limit != WRITE or answer.status != 200:
            return super()._read(attempt, answer)
        try:
            replies = self._replies(attempt.request, answer)
        except PenstockError as broken:
            return None, error(broken.code, self._redact(broken.message), http_status=answer.status)
        if all(reply.status == 0 or reply.status >= 500 for reply in replies):
            first = replies[0]
            return None, error("CALENDAR_TRANSIENT", f"all {len(replies)} calls: HTTP {first.status} {first.message}")
        return replies, None

    def _replies(self, request: Request, answer: Answer) -> list[Reply]:
        count = len((request.body or {})["parts"])
        parts = multipart.decode(answer.headers.get("content-type", ""), answer.body, count)
        return [self._reply(part) for part in parts]

    def _reply(self, part: PartAnswer | None) -> Reply:
        if part is None:
            return Reply(0, "missing", "the batch's answer lacks this call")
        try:
            body = json.loads(part.body) if part.body.strip() else {}
        except (ValueError, RecursionError):
            return Reply(0, "truncated", f"HTTP {part.status} with a body that is no JSON")
        found = body if isinstance(body, Mapping) else {}
        if part.status < 300:
            return Reply(part.status, body=found)
        reason, message = (clean(text) for text in read_error(found))
        wait = self._retry_after(Answer(part.status, part.headers, b""))
        return Reply(part.status, reason, self._said(message or f"HTTP {part.status}"), retry_after=wait)

    def _error(self, attempt: Attempt, answer: Answer) -> PenstockError | None:
        if answer.status < 300:
            return None
        if answer.status < 400:
            return self._redirect_error(answer)
        try:
            reason, message = read_error(answer.json())
        except PenstockError:
            reason, message = "", answer.excerpt()
        code = refusal_code(answer.status, reason)
        failure = error(
            code,
            self._said(message),
            http_status=answer.status,
            provider_code=reason or None,
            retry_after=self._retry_after(answer),
        )
        if code == "CALENDAR_QUOTA":
            failure.resets_at = self._clock() + QUOTA_REST
        return failure

    def _learn(self, outcome: Outcome) -> None:
        """Google tells nothing of what is left."""

    def _allowed_attempts(self, failure: RetryableError) -> int:
        """The queue tries again, with a back-off of its own; meanwhile other accounts have their turn."""
        return 1


def _part(call: Call) -> Part:
    path = f"/{_events_path(call.calendar_id)}"
    if call.kind is not Kind.INSERT:
        path += f"/{quote(call.event_id, safe='')}"
    if call.kind is not Kind.GET:
        # Nobody gets mail because a mirror was brought up to date.
        path += "?" + urlencode({"sendUpdates": "none"})
    headers = {"If-Match": call.etag} if call.etag and call.kind is Kind.PATCH else {}
    return Part(_METHODS[call.kind], path, headers, call.body)


def _events_path(calendar_id: str) -> str:
    return f"calendar/v3/calendars/{quote(calendar_id, safe='')}/events"


def read_error(body: Any) -> tuple[str, str]:
    """Reason and message of Google's error object, in its old form or its new one."""
    found = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(found, Mapping):
        return str(found or ""), ""
    for key in ("errors", "details"):
        for item in found.get(key) or ():
            if isinstance(item, Mapping) and item.get("reason"):
                return str(item["reason"]), str(found.get("message") or "")
    return str(found.get("status") or ""), str(found.get("message") or "")
