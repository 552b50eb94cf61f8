"""The sandbox's time: real time, shifted so that any day can be today. It always moves on."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable


class Clock:
    """Wall time for the vendors' data. Rate limits run on `monotonic`, which no shift touches."""

    def __init__(self, now: dt.datetime | None = None, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._shift = 0.0
        if now is not None:
            self.set(now)

    def set(self, now: dt.datetime) -> None:
        """Let it be `now` (aware) at this moment. Raises ValueError for a time without a zone."""
        if now.tzinfo is None:
            raise ValueError(f"the clock needs a time with a zone, got {now.isoformat()}")
        self._shift = now.timestamp() - self._source()

    def reset(self) -> None:
        """Back to real time."""
        self._shift = 0.0

    def now(self) -> dt.datetime:
        """The present instant, aware, in UTC."""
        return dt.datetime.fromtimestamp(self._source() + self._shift, tz=dt.UTC)

    def real(self) -> float:
        """The machine's own time in seconds since 1970, for tokens: clients sign with it."""
        return self._source()

    def monotonic(self) -> float:
        """Seconds that only grow, for windows and durations."""
        return time.monotonic()


def parse_instant(text: str) -> dt.datetime:
    """ISO 8601 with or without a zone (none means UTC) as an aware instant. Raises ValueError."""
    instant = dt.datetime.fromisoformat(text)
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=dt.UTC)
