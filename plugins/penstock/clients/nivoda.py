"""Nivoda over HTTP: one GraphQL endpoint, a user's password for a token that runs out, errors inside HTTP 200."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.clients.answers import Answer, Fault, classify, rule
from penstock.clients.credentials import Credentials
from penstock.clients.redaction import Redactor
from penstock.clients.sessions import BodyTooLarge, BodyTooSlow, ThreadLocal, network_error, new_session
from penstock.clients.transport import Attempt, Outcome, VendorClient, utc_now
from penstock.core.errors import PenstockError, error
from penstock.sources.fields import find
from penstock.sources.nivoda import (
    CERTIFICATES_PER_CALL,
    LIMITS,
    LOGIN_PATH,
    PAGE_SIZE,
    LookUp,
    Page,
    base_query,
    counts_request,
    item_place,
    login_request,
    page_request,
    parse_counts,
    parse_page,
)
from penstock.sources.ports import Breaker, Limiter
from penstock.sources.stream import Limit, Record, Request
from penstock.sources.tokens import Token, TokenStore

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

TOKEN_LIFE = dt.timedelta(hours=6)
"""Of a token that does not say itself (the vendor's guide: "valid for 6 hours")."""

RENEW_EARLY = dt.timedelta(minutes=5)
"""So long before its end a token is not used any more; of a short life a tenth."""

RATE_LIMIT_WAIT_S = 30.0
"""Where a refusal does not say how long to wait."""

REFUSED = "NIVODA_TOKEN_REFUSED"

# One table for all of Nivoda's errors; the first rule that fits decides. The vendor documents none: texts are those
# that its clients look for.
RULES = (
    rule("NIVODA_RATE_LIMIT", statuses=(429,)),
    rule("NIVODA_RATE_LIMIT", text=r"rate.?limit|too many requests|\b30 seconds\b"),
    rule("NIVODA_AUTH_ERROR", families=(LOGIN_PATH,), statuses=(401, 403)),
    rule("NIVODA_AUTH_ERROR", families=(LOGIN_PATH,), codes=("UNAUTHENTICATED", "FORBIDDEN")),
    rule("NIVODA_AUTH_ERROR", families=(LOGIN_PATH,), text=r"password|username|credential|two.?factor|unauthori[sz]ed"),
    rule(REFUSED, statuses=(401, 403)),
    rule(REFUSED, codes=("UNAUTHENTICATED",)),
    rule(
        REFUSED,
        text=r"jwt (expired|malformed)|(invalid|expired) (token|signature)|token (is )?expired"
        r"|unauthori[sz]ed|authentication required|not authenticated",
    ),
    rule("NIVODA_TRANSIENT", statuses=(408, 500, 502, 503, 504, 520, 521, 522, 523, 524)),
    rule("NIVODA_INVALID_QUERY", codes=("GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED", "BAD_USER_INPUT")),
    rule("NIVODA_TRANSIENT", text=r"timed? ?out|ETIMEDOUT|ECONNRE|socket hang up|internal server error"),
    rule(
        "NIVODA_INVALID_QUERY",
        text=r"cannot query field|unknown (type|argument|field|directive)|is not defined by type|syntax|validation"
        r"|got invalid value|of (required )?type .* was not provided|\b(limit|offset) argument|invalid input",
    ),
    rule("NIVODA_INVALID_QUERY", statuses=(400, 404, 405, 413, 415, 422)),
)


class NivodaClient(VendorClient):
    """One user of Nivoda.

    Parameters
    ----------
    credentials: `base_url` is the endpoint, `secret` the password, extra `username`.
    tokens: shared by all workers.
    limits: family -> limits, see `sources.nivoda.limits`.
    count_batch: counts asked for in one call; it falls back to 1 when the vendor does not like it.
    without: certificate fields that are not asked for (`sources.nivoda.STAGING_ENUMS` on staging).
    """

    source = "nivoda"

    def __init__(
        self,
        credentials: Credentials,
        limiter: Limiter,
        breaker: Breaker,
        tokens: TokenStore,
        *,
        limits: Mapping[str, tuple[Limit, ...]] = LIMITS,
        count_batch: int = 1,
        without: frozenset[str] = frozenset(),
        clock: Callable[[], dt.datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._username = str(credentials.extra.get("username") or "")
        super().__init__(credentials, self._username, limits, limiter, breaker, clock, sleep, rng)
        self._tokens = tokens
        self._token_key = f"nivoda:{credentials.base_url}:{self._username}"
        self._count_batch = max(1, count_batch)
        self._without = without
        self._held = threading.local()
        self._sessions: ThreadLocal[requests.Session] = ThreadLocal(new_session, lambda session: session.close())

    # -- what it is asked

    def count(self, query: Mapping[str, Any]) -> int:
        """How many stones a query finds. Raises PenstockError."""
        return parse_counts(self.send(counts_request([query])), 1)[0]

    def counts(self, queries: Sequence[Mapping[str, Any]]) -> list[int]:
        """`count` of each query, several in a call when `count_batch` allows it. Raises PenstockError."""
        found: list[int] = []
        while len(found) < len(queries):
            batch = queries[len(found) : len(found) + self._count_batch]
            try:
                found += parse_counts(self.send(counts_request(batch)), len(batch))
            except PenstockError as refused:
                if len(batch) == 1 or refused.code != "NIVODA_INVALID_QUERY":
                    raise
                log.warning("Nivoda refuses %d counts in one call, asking one by one: %s", len(batch), refused)
                self._count_batch = 1
        return found

    def page(
        self,
        query: Mapping[str, Any],
        offset: int,
        limit: int = PAGE_SIZE,
        order: str = "createdAt",
        direction: str = "ASC",
        with_count: bool = False,
    ) -> Page:
        """One page, and with `with_count` the number of all stones as of the same moment. Raises PenstockError."""
        request = page_request(query, offset, limit, order, direction, with_count=with_count, without=self._without)
        return parse_page(self.send(request))

    def by_certificates(self, numbers: Sequence[str]) -> LookUp:
        """The items with these certificates, whatever their availability; other filters do not count.

        Raises PenstockError.
        """
        found: list[Record] = []
        unclear: set[str] = set()
        for first in range(0, len(numbers), CERTIFICATES_PER_CALL):
            asked = list(numbers[first : first + CERTIFICATES_PER_CALL])
            items, is_clear = self._certificates(asked)
            found += items
            if not is_clear:
                unclear.update(asked)
        return LookUp(found, frozenset(unclear))

    def _certificates(self, numbers: list[str]) -> tuple[list[Record], bool]:
        """The items of some certificates, and whether all came and can be read."""
        found: list[Record] = []
        offset, has_bad = 0, False
        while True:
            page = self.page({"certificate_numbers": numbers}, offset, with_count=True)
            found += page.items
            offset += page.length
            has_bad = has_bad or bool(page.bad)
            listed = page.count or 0
            if not page.length or offset >= listed:
                return found, offset >= listed and not has_bad

    def check(self) -> str:
        found = self.count(base_query("natural"))
        return f"Nivoda as {self._username}: {found:,} natural stones"

    def send(self, request: Request) -> Any:
        """As the base class; a refused token is renewed once."""
        if request.path == LOGIN_PATH:
            return super().send(request)
        self._hold(None)
        try:
            return super().send(request)
        except PenstockError as refused:
            if refused.code != REFUSED:
                raise
        self._hold(refused=self._held.token)
        try:
            return super().send(request)
        except PenstockError as refused_again:
            if refused_again.code != REFUSED:
                raise
            message = f"a token that was just issued is refused: {refused_again.message}"
        raise self._stamp(error("NIVODA_AUTH_ERROR", message))

    def close(self) -> None:
        self._sessions.close()

    # -- tokens

    def _hold(self, refused: str | None) -> None:
        """Have a token at hand for this thread's next call."""
        token = self._tokens.get(self._token_key, self._login, refused)
        if token != getattr(self._held, "token", None):
            self._redact = Redactor((*self._credentials.secrets(), token))
        self._held.token = token

    def _login(self) -> Token:
        password = self._credentials.secret
        if not self._username or not password:
            raise self._stamp(error("CREDENTIAL_NOT_FOUND", "the connection `nivoda` lacks user name or password"))
        body = super().send(login_request(self._username, password))
        value = find(body, "data", "authenticate", "username_and_password", "token")
        if not isinstance(value, str) or not value:
            raise self._stamp(error("NIVODA_AUTH_ERROR", "the login was answered without a token"))
        now = self._clock()
        expires = token_end(value) or now + TOKEN_LIFE
        return Token(value, expires - min(RENEW_EARLY, max(expires - now, dt.timedelta()) / 10))

    # -- one call

    def _ready(self) -> None:
        self._sessions.get()

    def _call(self, request: Request) -> Answer:
        from requests import RequestException

        headers = {"accept": "application/json"}
        if request.path != LOGIN_PATH:
            headers["authorization"] = f"Bearer {self._held.token}"
        try:
            reply = self._sessions.get().post(self._credentials.base_url, json=request.body, headers=headers)
        except (RequestException, BodyTooLarge, BodyTooSlow) as failure:
            broken = network_error(failure, self._redact)
        else:
            return Answer(reply.status_code, {key.lower(): text for key, text in reply.headers.items()}, reply.content)
        raise broken

    def _error(self, attempt: Attempt, answer: Answer) -> PenstockError | None:
        if 300 <= answer.status < 400:
            return self._redirect_error(answer)
        if answer.status < 300 and b'"errors"' not in answer.body:
            return None
        fault = read_fault(attempt.request, answer, self._retry_after(answer))
        if fault is None:
            return None
        code = classify(RULES, fault, otherwise="NIVODA_ERROR")
        wait = fault.retry_after
        if code == "NIVODA_RATE_LIMIT" and wait is None:
            wait = RATE_LIMIT_WAIT_S
        return error(
            code,
            self._redact(fault.message),
            http_status=fault.status,
            provider_code=fault.code or None,
            retry_after=wait,
            resets_at=self._after(wait),
        )

    def _learn(self, outcome: Outcome) -> None:
        """Nivoda says nothing of its limits."""


def read_fault(request: Request, answer: Answer, wait: float | None) -> Fault | None:
    """What an answer complains of; None when it concerns single items of a page, whose others are good."""
    try:
        body = answer.json()
    except PenstockError:
        if answer.status < 300:
            return None  # the reading of the body says what is wrong with it
        body = None
    errors = find(body, "errors")
    listed = [each for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []
    if answer.status < 300 and find(body, "data") is not None:
        listed = [each for each in listed if item_place(each) is None]
    if answer.status < 300 and not listed:
        return None
    first = listed[0] if listed else {}
    return Fault(
        status=answer.status,
        message=str(first.get("message") or f"HTTP {answer.status}: {answer.excerpt()}"),
        code=str(find(first, "extensions", "code") or ""),
        family=LOGIN_PATH if request.path == LOGIN_PATH else request.limit,
        retry_after=wait,
    )


def token_end(token: str) -> dt.datetime | None:
    """When a JSON Web Token ends, by its own word (claim `exp`, https://www.rfc-editor.org/rfc/rfc7519#section-4.1.4).

    Its signature is the vendor's affair. None: it is no such token, or does not say.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return dt.datetime.fromtimestamp(float(claims["exp"]), tz=dt.UTC)
    except (ValueError, TypeError, KeyError, OverflowError, OSError, binascii.Error):
        return None
