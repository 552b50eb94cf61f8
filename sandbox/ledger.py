"""What was called: answers by vendor, account, endpoint and status, and the fullest window of every rate limit."""

from __future__ import annotations

import math
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

WINDOW_TOLERANCE = 0.05
"""A window counts as `period` less this share: calls that a client spaced exactly arrive a little unevenly."""


@dataclass(frozen=True, slots=True)
class Window:
    """At most `count` units in any `period` seconds."""

    count: int
    period: float
    name: str = ""

    @property
    def span(self) -> float:
        """The seconds that are really looked back on."""
        return self.period * (1 - WINDOW_TOLERANCE)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rate limit says to one call.

    retry_after: seconds until the call would be granted; 0 when it was.
    remaining, reset: of the longest window under a day (that is the one vendors report): units left, and seconds
        until it is empty again.
    """

    is_granted: bool
    retry_after: float
    window: Window
    remaining: int
    reset: float


@dataclass(slots=True)
class _Sliding:
    """Times of the calls inside one window: those granted decide, all that came are remembered as the maximum."""

    window: Window
    granted: deque[float] = field(default_factory=deque)
    attempted: deque[float] = field(default_factory=deque)
    most_granted: int = 0
    most_attempted: int = 0

    def advance(self, now: float) -> None:
        oldest = now - self.window.span
        for times in (self.granted, self.attempted):
            while times and times[0] <= oldest:
                times.popleft()

    def wait(self, now: float, cost: int) -> float:
        """Seconds until `cost` more units fit."""
        surplus = len(self.granted) + cost - self.window.count
        if surplus <= 0:
            return 0.0
        if surplus > len(self.granted):
            return self.window.span
        return max(0.0, self.granted[surplus - 1] + self.window.span - now)

    def add(self, now: float, cost: int, is_granted: bool) -> None:
        self.attempted.extend([now] * cost)
        self.most_attempted = max(self.most_attempted, len(self.attempted))
        if is_granted:
            self.granted.extend([now] * cost)
            self.most_granted = max(self.most_granted, len(self.granted))


Key = tuple[str, str, str]
"""Vendor, account, endpoint family."""


class Ledger:
    """Thread-safe counts of calls and the rate-limit windows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[tuple[str, str, str, int]] = Counter()
        self._windows: dict[Key, list[_Sliding]] = {}
        self._rejected: defaultdict[Key, int] = defaultdict(int)
        self._started: dict[Key, tuple[float, float]] = {}

    def reset(self) -> None:
        with self._lock:
            self._answers.clear()
            self._windows.clear()
            self._rejected.clear()
            self._started.clear()

    def record(self, vendor: str, account: str, endpoint: str, status: int) -> None:
        """Count one answer. Status 0: the connection was closed without one."""
        with self._lock:
            self._answers[(vendor, account, endpoint, status)] += 1

    def take(
        self, vendor: str, account: str, family: str, windows: Sequence[Window], now: float, cost: int = 1
    ) -> Decision:
        """Ask the hard sliding windows of one family for `cost` units. A refused call takes nothing."""
        key = (vendor, account, family)
        with self._lock:
            sliding = self._sliding(key, windows)
            for each in sliding:
                each.advance(now)
            waits = [(each.wait(now, cost), each) for each in sliding]
            retry_after, fullest = max(waits, key=lambda pair: pair[0])
            is_granted = retry_after <= 0
            for each in sliding:
                each.add(now, cost, is_granted)
            if not is_granted:
                self._rejected[key] += 1
            first, _ = self._started.get(key, (now, now))
            self._started[key] = (first, now)
            told = self._told(sliding)
            remaining = max(0, told.window.count - len(told.granted))
            reset = told.granted[0] + told.window.span - now if told.granted else 0.0
            return Decision(
                is_granted, retry_after, fullest.window if not is_granted else told.window, remaining, reset
            )

    def used(self, vendor: str, account: str, family: str, period: float, now: float) -> int:
        """Units granted in the family's window of `period` seconds, as of `now`."""
        with self._lock:
            for each in self._windows.get((vendor, account, family), ()):
                if math.isclose(each.window.period, period):
                    each.advance(now)
                    return len(each.granted)
        return 0

    def _sliding(self, key: Key, windows: Sequence[Window]) -> list[_Sliding]:
        known = self._windows.get(key)
        if known is None or [each.window for each in known] != list(windows):
            known = [_Sliding(window) for window in windows]
            self._windows[key] = known
        return known

    @staticmethod
    def _told(sliding: Sequence[_Sliding]) -> _Sliding:
        under_a_day = [each for each in sliding if each.window.period < 86_400] or list(sliding)
        return max(under_a_day, key=lambda each: each.window.period)

    def calls(self) -> dict[str, object]:
        """Everything counted so far, as JSON: `answers` and `limits` (one entry per window)."""
        with self._lock:
            answers = [
                {"vendor": vendor, "account": account, "endpoint": endpoint, "status": status, "count": count}
                for (vendor, account, endpoint, status), count in sorted(self._answers.items())
            ]
            limits = [self._limit_row(key, each) for key, windows in sorted(self._windows.items()) for each in windows]
        return {"answers": answers, "limits": limits, "total": sum(int(str(row["count"])) for row in answers)}

    def _limit_row(self, key: Key, each: _Sliding) -> dict[str, object]:
        vendor, account, family = key
        first, last = self._started.get(key, (0.0, 0.0))
        return {
            "vendor": vendor,
            "account": account,
            "family": family,
            "limit": each.window.count,
            "period": each.window.period,
            "most_in_window": each.most_attempted,
            "most_granted": each.most_granted,
            "is_exceeded": each.most_attempted > each.window.count,
            "rejected": self._rejected[key],
            "seconds": round(last - first, 3),
        }
