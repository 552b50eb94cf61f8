"""The one discipline of all vendor calls: paced, retried, time-boxed, counted, redacted.

Each HTTP attempt first takes its units from the limiter that all workers share. What the vendor answers
goes through its error table; errors that may pass are tried again within `RETRY_BUDGET_S` of waiting in all.
Longer waits are raised, so that the run is put back instead of holding a worker. Nobody else retries.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from penstock.clients.answers import Answer
from penstock.clients.credentials import Credentials
from penstock.clients.redaction import Redactor
from penstock.core.errors import PenstockError, QuotaExhausted, RateLimited, RetryableError, VendorUnavailable, error
from penstock.core.pacing import RetryBudget, backoff, retry_after
from penstock.sources.ports import Breaker, Limiter
from penstock.sources.stream import Limit, Request

# A place in our own schedule is taken when it is told, so it is waited for a little longer than a fault.
PACE_LIMIT_S = 90.0

# Families slower than this get one call at a time per client: whoever waits for the lock has taken no place yet.
SLOW_FAMILY_S = 10.0

BACKOFF_BASE_S = 1.0
BACKOFF_CAP_S = 20.0
LEAST_RATE_LIMIT_WAIT_S = 1.0
CIRCUIT_WAIT_S = 5.0

# Tries in all, the first among them.
ATTEMPTS: Mapping[str, int] = {
    "RESPONSE_NOT_JSON": 3,
    "RESPONSE_TRUNCATED": 3,
    "CIRCUIT_OPEN": 20,
    "RATE_LIMIT_WAIT_TOO_LONG": 1,
}
ATTEMPTS_UNAVAILABLE = 5
ATTEMPTS_RATE_LIMITED = 10


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A try of a request; `number` counts from 1."""

    request: Request
    number: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answered request; `body` is None when the answer was an error."""

    request: Request
    answer: Answer
    body: Any


class VendorClient(ABC):
    """Calls one account of one vendor. Threads may share it.

    Parameters
    ----------
    credentials: of the account.
    account_id: the vendor's id of the account; part of the limiter's keys.
    limits: family -> limits, from `Source.limits`.
    limiter, breaker: shared by all workers.
    clock: now, as an aware instant. sleep: seconds. rng: a number from 0 to 1.
    """

    source: ClassVar[str]
    attempts: ClassVar[Mapping[str, int]] = {}  # what the vendor's codes have instead of the defaults

    def __init__(
        self,
        credentials: Credentials,
        account_id: str,
        limits: Mapping[str, tuple[Limit, ...]],
        limiter: Limiter,
        breaker: Breaker,
        clock: Callable[[], dt.datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._credentials = credentials
        self._account_id = account_id
        self._limits = limits
        self._limiter = limiter
        self._breaker = breaker
        self._clock = clock
        self._sleep = sleep
        self._rng = rng
        self._redact = Redactor(credentials.secrets())
        self._lock = threading.Lock()
        self._requests = 0
        self._turns = {family: threading.Lock() for family, held in limits.items() if is_slow(held)}

    @property
    def requests(self) -> int:
        """HTTP attempts so far."""
        with self._lock:
            return self._requests

    def send(self, request: Request) -> Any:
        """The parsed JSON of one call, paced and retried.

        Raises PenstockError; of those that may pass, only what the retry budget could not cover.
        """
        with self._turn(request.limit):
            return self._send(request)

    @abstractmethod
    def check(self) -> str:
        """One cheap call that proves the credentials: a sentence for people. Raises PenstockError."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections of all threads."""

    # -- what a vendor's client adds

    @abstractmethod
    def _ready(self) -> None:
        """Import and open what a call needs, before its place is taken: a call that waits for an import comes late for
        its place, together with the calls of the places behind it, and the vendor sees them all at once."""

    @abstractmethod
    def _call(self, request: Request) -> Answer:
        """One HTTP call. Raises PenstockError for what got no answer."""

    @abstractmethod
    def _error(self, attempt: Attempt, answer: Answer) -> PenstockError | None:
        """The error in an answer, by the vendor's table; None when it is a good one."""

    @abstractmethod
    def _learn(self, outcome: Outcome) -> None:
        """Let what an answer says of the vendor's limits correct the shared ones."""

    def _pace_error(self, request: Request, wait: float) -> PenstockError:
        """The error of a place in the schedule that is too far off."""
        return error(
            "RATE_LIMIT_WAIT_TOO_LONG",
            f"{self._key(request)} is free again in {wait:.0f} s",
            retry_after=wait,
            resets_at=self._after(wait),
        )

    def _after(self, seconds: float | None) -> dt.datetime | None:
        return None if seconds is None else self._clock() + dt.timedelta(seconds=seconds)

    # -- the discipline

    @contextmanager
    def _turn(self, family: str) -> Iterator[None]:
        lock = self._turns.get(family)
        if lock is None:
            yield
            return
        with lock:
            yield

    def _send(self, request: Request) -> Any:
        budget = RetryBudget()
        number = 0
        while True:
            number += 1
            try:
                return self._try(Attempt(request, number))
            except RetryableError as failure:
                wait = self._wait_before_retry(failure, number)
                if wait is None or not budget.take(wait):
                    raise
            self._sleep(wait)

    def _try(self, attempt: Attempt) -> Any:
        request = attempt.request
        self._ready()
        # Asked twice: a place that an open circuit leaves unused is lost (some limits have 200 of them a day), and only
        # after the wait for the place is it known whether the call may be made.
        self._stop_if(self._breaker.refuses(self._breaker_key))
        self._take_place(request)
        self._stop_if(not self._breaker.allow(self._breaker_key))
        answer = self._exchange(request)
        body, failure = self._read(attempt, answer)
        self._learn(Outcome(request, answer, body))
        self._record(request, failure)
        if failure is not None:
            raise failure
        return body

    def _read(self, attempt: Attempt, answer: Answer) -> tuple[Any, PenstockError | None]:
        """The body of a good answer, or the error of a bad one."""
        failure = self._error(attempt, answer)
        if failure is not None:
            return None, failure
        try:
            return answer.json(attempt.request.unread), None
        except PenstockError as broken:
            return None, error(broken.code, self._redact(broken.message), http_status=answer.status)

    def _take_place(self, request: Request) -> None:
        wait = self._limiter.reserve(self._key(request), self._limits[request.limit], request.cost)
        if wait > PACE_LIMIT_S:
            raise self._stamp(self._pace_error(request, wait))
        if wait > 0:
            self._sleep(wait)

    def _stop_if(self, is_paused: bool) -> None:
        if is_paused:
            raise self._stamp(error("CIRCUIT_OPEN", f"{self._breaker_key} failed repeatedly; calls are paused"))

    def _exchange(self, request: Request) -> Answer:
        with self._lock:
            self._requests += 1
        try:
            return self._call(request)
        except PenstockError as failure:
            self._record(request, failure)
            raise

    def _record(self, request: Request, failure: PenstockError | None) -> None:
        """Tell breaker and limiter how the attempt ended."""
        if failure is None:
            self._breaker.success(self._breaker_key)
            return
        self._stamp(failure)
        if isinstance(failure, VendorUnavailable):
            self._breaker.failure(self._breaker_key, str(failure))
            return
        self._breaker.success(self._breaker_key)
        wait = self._closing_time(failure)
        if wait > 0:
            self._limiter.block(self._key(request), wait, failure.code)

    def _closing_time(self, failure: PenstockError) -> float:
        """For how long a limit is closed for everybody."""
        if isinstance(failure, QuotaExhausted) and failure.resets_at is not None:
            return (failure.resets_at - self._clock()).total_seconds()
        if isinstance(failure, RateLimited | QuotaExhausted) and failure.retry_after is not None:
            return failure.retry_after
        return 0.0

    def _wait_before_retry(self, failure: RetryableError, attempt: int) -> float | None:
        """Seconds to the next try; None when there is none."""
        if attempt >= self._allowed_attempts(failure):
            return None
        if failure.code == "CIRCUIT_OPEN":
            return CIRCUIT_WAIT_S * (1.0 + self._rng())
        pause = backoff(attempt, BACKOFF_BASE_S, BACKOFF_CAP_S, self._rng)
        if isinstance(failure, RateLimited):
            pause = max(LEAST_RATE_LIMIT_WAIT_S, pause)
        return max(pause, failure.retry_after or 0.0)

    def _allowed_attempts(self, failure: RetryableError) -> int:
        for table in (self.attempts, ATTEMPTS):
            if failure.code in table:
                return table[failure.code]
        if isinstance(failure, VendorUnavailable):
            return ATTEMPTS_UNAVAILABLE
        if isinstance(failure, RateLimited):
            return ATTEMPTS_RATE_LIMITED
        return 1

    def _retry_after(self, answer: Answer) -> float | None:
        return retry_after(answer.headers.get("retry-after"), self._clock(), answer.headers.get("date"))

    def _redirect_error(self, answer: Answer) -> PenstockError | None:
        if not 300 <= answer.status < 400:
            return None
        return error(
            "CONFIG_INVALID",
            f"{self._credentials.base_url} answered with a redirect (HTTP {answer.status}); correct the host",
            http_status=answer.status,
        )

    def _stamp(self, failure: PenstockError) -> PenstockError:
        failure.service = f"clients.{self.source}"
        failure.context.setdefault("account_id", self._account_id)
        return failure

    def _key(self, request: Request) -> str:
        return f"{self.source}:{self._account_id}:{request.limit}"

    @property
    def _breaker_key(self) -> str:
        return f"{self.source}:{self._account_id}"


def is_slow(limits: tuple[Limit, ...]) -> bool:
    """Whether the steady pace of a family is a call in ten seconds or less."""
    return any(limit.period / limit.count >= SLOW_FAMILY_S for limit in limits)
