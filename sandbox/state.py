"""What all vendors' modules share."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from sandbox.business import Business
from sandbox.clock import Clock
from sandbox.faults import Faults
from sandbox.ledger import Ledger
from sandbox.shops import VendorAccount
from sandbox.tokens import Tokens


@dataclass(slots=True)
class State:
    """One running sandbox.

    latency: seconds before every vendor's answer. bench_events: size of the benchmark account's event stream, 0
    for no such account. memory: what vendors' modules remember between calls (sent messages, report jobs), by
    module name; emptied by a reset. nivoda: switches of Nivoda's market that hold from the start.
    """

    seed: int
    clock: Clock
    faults: Faults
    ledger: Ledger
    business: Business
    tokens: Tokens
    latency: float = 0.0
    bench_events: int = 0
    memory: dict[str, dict[str, Any]] = field(default_factory=dict)
    nivoda: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        seed: int = 7,
        clock: Clock | None = None,
        faults: Faults | None = None,
        latency: float = 0.0,
        bench_events: int = 0,
        nivoda: dict[str, Any] | None = None,
    ) -> State:
        clock = clock or Clock()
        return cls(
            seed,
            clock,
            faults or Faults(seed=seed),
            Ledger(),
            Business(seed),
            Tokens(seed, clock),
            latency,
            bench_events,
            nivoda=nivoda or {},
        )

    def as_of(self, account: VendorAccount) -> dt.date:
        """The account's own calendar day at this moment."""
        return account.shop.today(self.clock.now())

    def remembered(self, module: str) -> dict[str, Any]:
        """The memory of one vendor's module; empty at the start and after a reset."""
        return self.memory.setdefault(module, {})

    def reset(self) -> None:
        """Back to the state at the start, except for the clock: ledger, faults and memories."""
        self.ledger.reset()
        self.faults.reset()
        self.memory.clear()
