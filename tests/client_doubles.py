"""What clients are given in tests: a limiter, a breaker, a clock and a wire that do what the test says."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from penstock.clients.answers import Answer
from penstock.clients.credentials import Credentials
from penstock.clients.transport import VendorClient
from penstock.core.errors import PenstockError
from penstock.sources.stream import Limit, Request

NOW = dt.datetime(2026, 11, 1, 12, 0, tzinfo=dt.UTC)
TOKEN = "EAAsecret+token/1234567890"
SECRET = "app-secret-0987654321"


class Limiter:
    """Answers every reservation with the next of `waits` (0 when none is left) and notes what it is told."""

    def __init__(self, waits: Iterable[float] = ()) -> None:
        self.waits = list(waits)
        self.reserved: list[tuple[str, int]] = []
        self.blocked: list[tuple[str, float, str]] = []
        self.observed: list[tuple[str, float]] = []

    def reserve(self, key: str, limits: Sequence[Limit], cost: int = 1) -> float:
        assert limits, f"{key} has no limits"
        self.reserved.append((key, cost))
        return self.waits.pop(0) if self.waits else 0.0

    def block(self, key: str, seconds: float, reason: str) -> None:
        self.blocked.append((key, seconds, reason))

    def observe(self, key: str, usage_percent: float) -> None:
        self.observed.append((key, usage_percent))


class Breaker:
    def __init__(self, allowed: Iterable[bool] = ()) -> None:
        self.allowed = list(allowed)
        self.events: list[str] = []

    def allow(self, key: str) -> bool:
        return self.allowed.pop(0) if self.allowed else True

    def success(self, key: str) -> None:
        self.events.append("success")

    def failure(self, key: str, message: str) -> None:
        self.events.append(message)


class Clock:
    """Time that only passes by sleeping."""

    def __init__(self, now: dt.datetime = NOW) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> dt.datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += dt.timedelta(seconds=seconds)


class Bench:
    """A client with everything around it at hand.

    answers: what the wire says, call after call: an Answer, or an error that no answer came.
    """

    def __init__(
        self,
        kind: type[VendorClient],
        limits: dict[str, tuple[Limit, ...]],
        answers: Iterable[Answer | PenstockError] = (),
        *,
        credentials: Credentials | None = None,
        account_id: str = "1",
        waits: Iterable[float] = (),
        allowed: Iterable[bool] = (),
        now: dt.datetime = NOW,
        rng: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self.limiter = Limiter(waits)
        self.breaker = Breaker(allowed)
        self.clock = Clock(now)
        self.calls: list[Request] = []
        self.answers = list(answers)
        given = credentials or Credentials("http://vendor.test", TOKEN, SECRET)
        self.client = kind(given, account_id, limits, self.limiter, self.breaker, self.clock, self.clock.sleep, rng)
        if self.answers:
            self.client._call = self.call  # type: ignore[method-assign]

    def call(self, request: Request) -> Answer:
        self.calls.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, PenstockError):
            raise answer
        return answer

    def refused(self, request: Request) -> PenstockError:
        """The error that `send` raises."""
        try:
            body = self.client.send(request)
        except PenstockError as failure:
            return failure
        raise AssertionError(f"no error but {body!r}")


def answer(status: int = 200, body: Any = None, **headers: str) -> Answer:
    """An answer; underscores of header names stand for hyphens, a body that is not bytes becomes JSON."""
    import json

    content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)
