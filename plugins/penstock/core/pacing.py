"""How long to wait: back-off, Retry-After, the resets of quotas. Clock and randomness are passed in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from zoneinfo import ZoneInfo

RETRY_BUDGET_S = 60.0  # what one call may wait in all before the run is put back instead

LONGEST_WAIT_S = 7 * 86400.0
"""What a vendor's word closes an account for at most, whatever it says. The longest quotas that our vendors document
are of a day (Klaviyo's reports, GA4's and Google Ads' quotas); more than a week is a fault of theirs, which must not
stop an account for years. After it the vendor is asked again, and says it again if it means it."""

PACIFIC = ZoneInfo("America/Los_Angeles")  # where Google's days begin


def backoff(attempt: int, base: float, cap: float, rng: Callable[[], float]) -> float:
    """Seconds before the next try, with full jitter: anything from 0 to `base` * 2^(attempt-1), at most `cap`.

    Parameters
    ----------
    attempt: tries made so far, from 1.
    rng: a random number from 0 to 1.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    exponent = min(max(attempt - 1, 0), 30)
    return min(cap, base * 2.0**exponent) * rng()


def retry_after(value: str | None, now: dt.datetime, sent_at: str | None = None) -> float | None:
    """The seconds that a Retry-After header asks for, at most LONGEST_WAIT_S; None when it is absent or unreadable.

    Parameters
    ----------
    value: seconds, or an HTTP date (https://www.rfc-editor.org/rfc/rfc9110#field.retry-after).
    now: aware instant.
    sent_at: the answer's Date header. A date is counted from it, so that clocks need not agree.
    """
    if value is None:
        return None
    text = value.strip()
    try:
        seconds = float(text)
    except ValueError:
        moment = http_date(text)
        if moment is None:
            return None
        seconds = (moment - (http_date(sent_at) or now)).total_seconds()
    return longest_wait(max(0.0, seconds)) if seconds < float("inf") else None


def longest_wait(seconds: float) -> float:
    """The wait that a vendor names, as far as it is believed."""
    return min(seconds, LONGEST_WAIT_S)


def http_date(value: str | None) -> dt.datetime | None:
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def next_midnight(now: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    """The next start of a day in `zone`, through changes of the clock as well."""
    tomorrow = now.astimezone(zone).date() + dt.timedelta(days=1)
    return dt.datetime.combine(tomorrow, dt.time.min, tzinfo=zone).astimezone(dt.UTC)


def next_full_hour(now: dt.datetime) -> dt.datetime:
    return (now + dt.timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)


class RetryBudget:
    """The waiting that one call has left.

    Not for several threads: one call makes one.
    """

    def __init__(self, seconds: float = RETRY_BUDGET_S) -> None:
        self._left = seconds

    @property
    def left(self) -> float:
        return self._left

    def take(self, seconds: float) -> bool:
        """Take `seconds` if they are left; False, and nothing taken, if not."""
        if seconds > self._left:
            return False
        self._left -= seconds
        return True
