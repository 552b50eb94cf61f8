"""A property's quotas: what a report costs, what is left, when it comes back.

https://developers.google.com/analytics/devguides/reporting/data/v1/quotas
"""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from sandbox import ga4_errors as errors
from sandbox.ga4_json import without_defaults
from sandbox.settings import Ga4Settings, ga4_settings
from sandbox.state import State

PACIFIC = ZoneInfo("America/Los_Angeles")
"""Daily quotas come back at midnight Pacific time."""

_lock = threading.Lock()


@dataclass(slots=True)
class Used:
    """What one property has used in the running hour and day."""

    hour: dt.datetime
    day: dt.date
    tokens_of_hour: int = 0
    tokens_of_day: int = 0
    server_errors: int = 0
    thresholded: int = 0
    running: int = 0


class Quota:
    """The quotas of one property. The hours are whole hours of the clock."""

    def __init__(self, state: State, account: str) -> None:
        self._state = state
        self._account = account
        self._settings: Ga4Settings = ga4_settings(state, account)

    def enter(self) -> None:
        """Count one request as running. Raises GoogleError when a quota is used up; then it is not counted."""
        limits = self._settings
        with _lock:
            used = self._used()
            for name, is_over in (
                ("serverErrorsPerProjectPerHour", used.server_errors >= limits.server_errors_per_hour),
                ("tokensPerDay", used.tokens_of_day >= limits.tokens_per_day),
                ("tokensPerHour", used.tokens_of_hour >= limits.tokens_per_hour),
                ("tokensPerProjectPerHour", used.tokens_of_hour >= limits.tokens_per_project_per_hour),
                ("potentiallyThresholdedRequestsPerHour", used.thresholded >= limits.thresholded_requests_per_hour),
                ("concurrentRequests", used.running >= limits.concurrent_requests),
            ):
                if is_over:
                    raise errors.quota_exhausted(name)
            used.running += 1

    def leave(self) -> None:
        """The request is over."""
        with _lock:
            self._used().running -= 1

    def spend(self, tokens: int) -> dict[str, Any]:
        """Take a report's tokens; the answer's `propertyQuota`."""
        limits = self._settings
        with _lock:
            used = self._used()
            used.tokens_of_hour += tokens
            used.tokens_of_day += tokens
            return {
                "tokensPerDay": _status(tokens, limits.tokens_per_day - used.tokens_of_day),
                "tokensPerHour": _status(tokens, limits.tokens_per_hour - used.tokens_of_hour),
                "concurrentRequests": _status(0, limits.concurrent_requests - used.running),
                "serverErrorsPerProjectPerHour": _status(0, limits.server_errors_per_hour - used.server_errors),
                "potentiallyThresholdedRequestsPerHour": _status(
                    0, limits.thresholded_requests_per_hour - used.thresholded
                ),
                "tokensPerProjectPerHour": _status(tokens, limits.tokens_per_project_per_hour - used.tokens_of_hour),
            }

    def server_error(self) -> None:
        """The API failed: that counts too."""
        with _lock:
            self._used().server_errors += 1

    def thresholded(self) -> None:
        """A report that may have to withhold rows."""
        with _lock:
            self._used().thresholded += 1

    def _used(self) -> Used:
        now = self._state.clock.now()
        hour, day = now.replace(minute=0, second=0, microsecond=0), now.astimezone(PACIFIC).date()
        memory: dict[str, Used] = self._state.remembered("ga4_quota")
        used = memory.setdefault(self._account, Used(hour, day))
        if used.hour != hour:
            used.hour, used.tokens_of_hour, used.server_errors, used.thresholded = hour, 0, 0, 0
        if used.day != day:
            used.day, used.tokens_of_day = day, 0
        return used


def _status(consumed: int, remaining: int) -> dict[str, Any]:
    return without_defaults({"consumed": consumed, "remaining": max(0, remaining)})


def cost(days: int, columns: int, rows: int) -> int:
    """Tokens of one report: mostly one or a few, more for long ranges, many columns and many rows."""
    return 1 + days // 30 + columns // 8 + rows // 5_000
