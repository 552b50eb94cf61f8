"""Access tokens that a vendor hands out for a time: what they are, and who keeps them.

`warehouse/tokens.py` shares them between all workers; `LocalTokens` keeps them in one process.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """A token; its repr does not show it. From `renew_at` (aware) on it is not used for new calls."""

    value: str
    renew_at: dt.datetime

    def __repr__(self) -> str:
        return f"Token(renew_at={self.renew_at.isoformat()})"

    def is_good(self, now: dt.datetime, refused: str | None) -> bool:
        """Whether it may be used at `now`; `refused` is one that the vendor would not take."""
        return now < self.renew_at and self.value != refused


class TokenStore(Protocol):
    """Where tokens are kept between calls."""

    def get(self, key: str, login: Callable[[], Token], refused: str | None = None) -> str:
        """The token of `key`.

        login: gets a new one from the vendor; called by one caller at a time, and only when there is none that is
            good. Its PenstockErrors go through.
        refused: a token that the vendor has just refused; it is not returned again.
        """


class LocalTokens:
    """Tokens of one process. Threads may share it.

    clock: now, as an aware instant.
    """

    def __init__(self, clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, Token] = {}

    def get(self, key: str, login: Callable[[], Token], refused: str | None = None) -> str:
        """See `TokenStore`."""
        with self._lock:
            held = self._held.get(key)
            if held is None or not held.is_good(self._clock(), refused):
                held = self._held[key] = login()
            return held.value
