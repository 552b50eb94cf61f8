"""A Nivoda client on the sandbox, with everything around it at hand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

import requests

from penstock.clients.credentials import Credentials
from penstock.clients.nivoda import NivodaClient
from penstock.sources.tokens import LocalTokens, TokenStore
from tests.client_doubles import Breaker, Clock, Limiter
from tests.sandbox_fixture import Sandbox


class NivodaBench:
    """A client with a limiter, a breaker and a clock of the test's own.

    waits: what the limiter answers. tokens: None for a store of the bench's own; it lives by the real time, as the
    sandbox's tokens do.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        tokens: TokenStore | None = None,
        waits: Iterable[float] = (),
        changes: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.sandbox = sandbox
        self.limiter = Limiter(waits)
        self.breaker = Breaker()
        self.clock = Clock(dt.datetime.now(dt.UTC))
        self.tokens = tokens or LocalTokens()
        self.credentials = credentials(sandbox, **(changes or {}))
        self.client = NivodaClient(
            self.credentials,
            self.limiter,
            self.breaker,
            self.tokens,
            clock=self.clock,
            sleep=self.clock.sleep,
            rng=lambda: 0.5,
            **options,
        )


def credentials(sandbox: Sandbox, **changes: Any) -> Credentials:
    """The credentials of the sandbox's one user; `changes` replace parts."""
    given = sandbox.get("credentials")["nivoda"]
    values = {
        "base_url": f"{sandbox.url}/nivoda/api/diamonds",
        "secret": given["password"],
        "extra": {"username": given["username"]},
    }
    return Credentials(**{**values, **changes})


def switch(sandbox: Sandbox, **switches: Any) -> None:
    """Set switches of the sandbox's market."""
    requests.put(f"{sandbox.url}/sandbox/nivoda", json=switches, timeout=30).raise_for_status()


def advance(sandbox: Sandbox, seconds: float) -> None:
    """Let market seconds pass."""
    requests.post(f"{sandbox.url}/sandbox/nivoda/advance", json={"seconds": seconds}, timeout=30).raise_for_status()


def post(sandbox: Sandbox, door: str, **body: Any) -> Any:
    """Use another door of the market."""
    answer = requests.post(f"{sandbox.url}/sandbox/nivoda/{door}", json=body, timeout=30)
    answer.raise_for_status()
    return answer.json()


def truth(sandbox: Sandbox, feed: str = "natural", **query: str) -> Mapping[str, Any]:
    """What is true of a feed now."""
    found: Mapping[str, Any] = sandbox.get("nivoda/truth", feed=feed, **query)["feeds"][feed]
    return found
