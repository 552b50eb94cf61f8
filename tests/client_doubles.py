"""What clients are given in tests: a limiter, a breaker, a clock and a wire that do what the test says."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from penstock.clients.answers import Answer
from penstock.clients.credentials import Credentials
from penstock.clients.transport import VendorClient
from penstock.core.errors import PenstockError
from penstock.sources.stream import Account, Kind, Limit, Request, Row, Slice, Stream

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
    """Answers every attempt with the next of `allowed` (yes when none is left) and notes how the calls ended."""

    def __init__(self, allowed: Iterable[bool] = ()) -> None:
        self.allowed = list(allowed)
        self.events: list[str] = []

    def refuses(self, key: str) -> bool:
        """An answer that is no is used up by this look; a yes is left for `allow`."""
        is_refusal = self.allowed[:1] == [False]
        del self.allowed[: int(is_refusal)]
        return is_refusal

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


def sandbox_bench(sandbox: Any, platform: str, shop: str = "aurora", **changes: Any) -> Bench:
    """A client of a sandbox's account. `changes` replace parts of its credentials; `account_id` asks for another's."""
    from penstock.clients import CLIENTS
    from penstock.sources import by_platform

    source = by_platform(platform)
    listed = next(each for each in sandbox.accounts() if (each["platform"], each["shop_id"]) == (platform, shop))
    held = listed["credentials"]
    account_id = changes.pop("account_id", listed["account_id"])
    given = {
        "base_url": sandbox.base_url({"META": "meta"}.get(platform, platform.lower())),
        "token": held.get("access_token") or held.get("api_key") or "",
        "secret": held.get("app_secret"),
        "extra": {"service_account": held["service_account_json"]} if "service_account_json" in held else {},
    }
    credentials = Credentials(**{**given, **changes})
    return Bench(
        CLIENTS[source.name],
        dict(source.limits),
        credentials=credentials,
        account_id=account_id,
        now=sandbox.state.clock.now(),
    )


def profiled(bench: Bench, platform: str) -> Account:
    """The account as a run sees it: with what the vendor says of it."""
    from penstock.sources import by_platform

    source = by_platform(platform)
    account = Account("connection", "shop", bench.client._account_id)
    found = source.profile(account, [bench.client.send(request) for request in source.profile_requests(account)])
    return replace(account, name=found.name, time_zone=found.time_zone, currency=found.currency, facts=found.facts)


def read_stream(bench: Bench, platform: str, name: str, days: int = 3, **options: Any) -> list[Row]:
    """All rows of a stream's last days, page by page, every variant of it. A record that is refused raises."""
    from penstock.sources import by_platform
    from penstock.warehouse import loader

    stream = by_platform(platform).stream(name)
    account = options.pop("account", None) or profiled(bench, platform)
    rows: list[Row] = []
    for params in stream.variants(account):
        window = stream_window(stream, account, bench.clock.now, days, params, options.get("page_size"))
        token: str | None = None
        while True:
            request = stream.request(account, window, token)
            page = stream.parse(bench.client.send(request), request)
            rows.extend(stream.row(loader.read_record(record), account) for record in page.records)
            token = page.next_token
            if token is None:
                break
    return rows


def stream_window(
    stream: Stream,
    account: Account,
    now: dt.datetime,
    days: int,
    params: Mapping[str, str],
    page_size: int | None = None,
) -> Slice:
    """The slice of the last `days` days of an account."""
    if stream.kind is Kind.ENTITY:
        return Slice(0, stream.name, params=params, page_size=page_size)
    last = account.today(now) - dt.timedelta(days=0 if stream.includes_today else 1)
    first = last - dt.timedelta(days=0 if stream.is_as_of else days - 1)
    start, end = (dt.datetime.combine(day, dt.time(), account.zone) for day in (first, last + dt.timedelta(days=1)))
    return Slice(0, stream.name, start, end, params, page_size)
