"""The vendor sandbox, running in a thread of the test process on a free port; reset before every test.

`sandbox` runs without faults and on a fixed day, so that numbers in tests hold for ever: a test moves the clock or
sets faults as it needs. Every folder's tests load this file: the server is imported by the fixture that starts it.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sandbox.shops import VendorAccount
    from sandbox.state import State

NOW = dt.datetime(2026, 11, 18, 20, 30, tzinfo=dt.UTC)
"""The tests' present: a Wednesday evening in Zurich, the same noon in Los Angeles, Thursday morning in Kiritimati."""

BENCH_EVENTS = 2_500
START_SECONDS = 10.0


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox: its URL and, for the tests' convenience, its state."""

    url: str
    state: State

    def base_url(self, vendor: str) -> str:
        """The base URL of one vendor: meta, ga4, klaviyo."""
        return f"{self.url}/{vendor}"

    @property
    def slack_url(self) -> str:
        return f"{self.url}/slack/api/"

    @property
    def token_url(self) -> str:
        return f"{self.url}/google/token"

    def account(self, platform: str, shop: str = "aurora") -> VendorAccount:
        """The account of a shop (aurora, borealis, kiritimati) on META, GA4 or KLAVIYO."""
        return next(each for each in self.state.business.accounts(platform) if each.shop.key == shop)

    def accounts(self) -> list[dict[str, Any]]:
        """All accounts with their credentials, as /sandbox/accounts tells them."""
        answer: list[dict[str, Any]] = self.get("accounts")
        return answer

    def faults(self, *rules: Mapping[str, Any]) -> None:
        """Let these rules be in force; none at all without arguments."""
        from sandbox.faults import parse

        self.state.faults.set(parse(rules))

    def now(self, now: dt.datetime) -> None:
        """Let it be that time."""
        self.state.clock.set(now)

    def as_of(self, account: VendorAccount) -> dt.date:
        return self.state.as_of(account)

    def get(self, door: str, **query: str) -> Any:
        """The JSON of a control door: health, accounts, truth, calls, slack/messages."""
        import requests

        answer = requests.get(f"{self.url}/sandbox/{door}", params=query, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def truth(self, account: VendorAccount, first: dt.date, last: dt.date) -> Sequence[Mapping[str, Any]]:
        """Per day what is true of an account."""
        answer = self.get(
            "truth",
            platform=account.platform,
            account_id=account.account_id,
            **{"from": first.isoformat(), "to": last.isoformat()},
        )
        days: Sequence[Mapping[str, Any]] = answer["days"]
        return days

    def answered(self, vendor: str, endpoint: str | None = None, status: int | None = None) -> int:
        """How many calls a vendor has answered, of one endpoint or with one status if given."""
        return sum(
            row["count"]
            for row in self.get("calls")["answers"]
            if row["vendor"] == vendor and endpoint in (None, row["endpoint"]) and status in (None, row["status"])
        )


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[Sandbox]:
    """The session's one server."""
    from sandbox.__main__ import create_server, listen
    from sandbox.clock import Clock
    from sandbox.state import State

    state = State.create(clock=Clock(NOW), bench_events=BENCH_EVENTS)
    listener = listen("127.0.0.1", 0)
    server = create_server(state, "critical")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="sandbox", daemon=True)
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        if time.monotonic() > deadline or not thread.is_alive():
            raise RuntimeError("the sandbox did not start")
        time.sleep(0.01)
    yield Sandbox(f"http://127.0.0.1:{listener.getsockname()[1]}", state)
    server.should_exit = True
    server.force_exit = True
    thread.join(START_SECONDS)
    listener.close()


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    """A sandbox without memory of other tests, without faults, at `NOW`."""
    running_sandbox.state.reset()
    running_sandbox.state.latency = 0.0
    running_sandbox.faults()
    running_sandbox.now(NOW)
    return running_sandbox
