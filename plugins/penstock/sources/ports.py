"""What clients need from whoever runs them: paces and circuit breakers shared by all workers.

`warehouse/limits.py` keeps both in Postgres; tests hand in objects of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from penstock.sources.stream import Limit


class Limiter(Protocol):
    """Rate limits shared by every worker on every machine."""

    def reserve(self, key: str, limits: Sequence[Limit], cost: int = 1) -> float:
        """Take `cost` units of all `limits` of `key`; the seconds to sleep before the call."""

    def block(self, key: str, seconds: float, reason: str) -> None:
        """The vendor said wait: nobody gets a unit of `key` for `seconds`."""

    def observe(self, key: str, usage_percent: float) -> None:
        """What the vendor's headers say is used up of its own limit."""


class Breaker(Protocol):
    """Circuit breakers shared by every worker: a vendor that is down is not hammered."""

    def refuses(self, key: str) -> bool:
        """Whether `allow` would say no now. Asking binds nobody: it comes before a place in a limit is taken."""

    def allow(self, key: str) -> bool:
        """Whether a call may be made now. Whoever is told so makes it: it may be the only one."""

    def success(self, key: str) -> None:
        """The vendor answered (an error of ours in it counts as an answer)."""

    def failure(self, key: str, message: str) -> None:
        """The vendor did not answer, or answered with a fault of its own."""
