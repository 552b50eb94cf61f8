"""Rate limits and circuit breakers that all workers on all machines share: rows in Postgres, by its clock.

A call first reserves its place and then sleeps until it: one round trip, no polling, nobody starves, because the
row's lock serves callers in turn. Limits in a process multiply with the workers; limits with a lock that callers
try for again and again leave some of them with nothing. A clock that goes back is borne, see
`ops/migrations/0007_bear_clocks_that_go_back.sql`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from penstock.core.errors import error
from penstock.sources.stream import Limit
from penstock.warehouse.session import Warehouse

MAX_WAIT_SECONDS = 90.0
"""A longer wait is told but not reserved: clients put the run back instead of sleeping (transport.PACE_LIMIT_S), and a
place that nobody takes would be lost."""
QUIET_USAGE_PERCENT = 75.0
"""Below it a vendor's usage is not worth a write."""
TRUST_SECONDS = 1.0
"""For so long a closed breaker is taken to be closed without asking again."""
PROBE_SECONDS = 60
"""A worker that was let through as the probe and never came back blocks the next probe for so long."""
QUICK_SPACING_SECONDS = 0.1
"""Calls that may come more often do not wait until their reservation is on the server's disk. A crash of the server
forgets those of its last 0.6 s (three times `wal_writer_delay`); it takes about as long to come back, so at a steady
pace nothing is exceeded. Where a whole burst is forgotten, the vendor may refuse calls of that minute: a 429, no harm.
https://www.postgresql.org/docs/current/wal-async-commit.html"""
MAX_MESSAGE_CHARACTERS = 500

_RESERVE = """
select penstock.reserve_limits(
    %(key)s, %(limit_keys)b::text[], %(counts)b::int[], %(spacings)b::float8[], %(tolerances)b::float8[],
    %(windows)b::float8[], %(cost)s, %(max_wait)s
)
"""
_RESERVE_QUICKLY = f"{_RESERVE.rstrip()}, set_config('synchronous_commit', 'off', true)"
"""Does not wait for the flush of the write-ahead log, which takes longer than the statement."""
_BLOCK = """
insert into penstock.rate_limits as r (limit_key, next_free_at, blocked_until, reason)
values (%(key)s, '-infinity', clock_timestamp() + make_interval(secs => %(seconds)s), %(reason)s)
on conflict (limit_key) do update set
    blocked_until = excluded.blocked_until, reason = excluded.reason, updated_at = clock_timestamp()
where coalesce(r.blocked_until, '-infinity') < excluded.blocked_until
"""
_OBSERVE = """
insert into penstock.rate_limits (limit_key, next_free_at, usage_percent, usage_at)
values (%(key)s, '-infinity', %(usage)s, clock_timestamp())
on conflict (limit_key) do update set usage_percent = excluded.usage_percent, usage_at = excluded.usage_at
"""


class SharedLimiter:
    """`sources.ports.Limiter` on the table `penstock.rate_limits`.

    Parameters
    ----------
    warehouse: uses its shared connection, so that a reservation commits at once.
    max_wait: seconds; a reservation further ahead is refused, see `MAX_WAIT_SECONDS`.
    """

    def __init__(self, warehouse: Warehouse, *, max_wait: float = MAX_WAIT_SECONDS) -> None:
        self._warehouse = warehouse
        self._max_wait = max_wait
        self._usage: dict[str, float] = {}

    def reserve(self, key: str, limits: Sequence[Limit], cost: int = 1) -> float:
        """Take `cost` units of all `limits` of `key`; the seconds to sleep before the call.

        The limits hold together: the call goes when the slowest lets it, and counts from then on in all of them.
        More than `max_wait`: nothing was taken. Raises CONFIG_INVALID for a cost that no window can hold.
        """
        for limit in limits:
            if not 1 <= cost <= limit.count or not 1 <= limit.burst <= limit.count:
                raise error("CONFIG_INVALID", f"{key}: cost {cost} or burst {limit.burst} do not fit into {limit}")
        parameters = {
            "key": key,
            "limit_keys": [f"{key}:{limit.count}/{limit.period:g}" for limit in limits],
            "counts": [limit.count for limit in limits],
            "spacings": [spacing(limit, cost) for limit in limits],
            "tolerances": [(limit.burst - 1) * spacing(limit, cost) for limit in limits],
            "windows": [float(limit.period) if limit.is_hard_window else None for limit in limits],
            "cost": cost,
            "max_wait": self._max_wait,
        }
        is_quick = all(not limit.is_hard_window and spacing(limit) <= QUICK_SPACING_SECONDS for limit in limits)
        row = self._warehouse.run_shared(_RESERVE_QUICKLY if is_quick else _RESERVE, parameters)
        return float(row[0]) if row else 0.0

    def block(self, key: str, seconds: float, reason: str) -> None:
        """Close `key` for every worker for `seconds`; an earlier, longer closing stays."""
        parameters = {"key": key, "seconds": max(0.0, seconds), "reason": reason[:MAX_MESSAGE_CHARACTERS]}
        self._warehouse.run_shared(_BLOCK, parameters)

    def observe(self, key: str, usage_percent: float) -> None:
        """Keep what the vendor says is used up, for people to see; clients close the key by `block`."""
        previous = self._usage.get(key, 0.0)
        self._usage[key] = usage_percent
        if max(previous, usage_percent) < QUIET_USAGE_PERCENT:
            return
        parameters = {"key": key, "usage": min(max(usage_percent, 0.0), 999.0)}
        self._warehouse.run_shared(_OBSERVE, parameters)


def spacing(limit: Limit, cost: int = 1) -> float:
    """Seconds between two units, such that no window of `period` ever holds more than `count` units: those that a
    burst may take ahead of their turn are missing from the steady pace."""
    if limit.is_hard_window:
        return 0.0
    return limit.period / (limit.count - max(limit.burst, cost) + 1)


_PAUSE_IS_OVER = """(
    (b.state = 'open' and b.open_until <= clock_timestamp())
    or (b.state = 'half_open' and b.probe_until <= clock_timestamp())
)"""
_LOOK = f"""
select b.state = 'closed', {_PAUSE_IS_OVER} is true, b.failures
from penstock.circuit_breakers as b where b.breaker_key = %(key)s
"""  # noqa: S608 - a constant
_ALLOW = f"""
update penstock.circuit_breakers as b set
    state = case b.state when 'closed' then 'closed' else 'half_open' end,
    probe_owner = case b.state when 'closed' then b.probe_owner else %(me)s end,
    probe_until = case
        when b.state = 'closed' then b.probe_until
        else clock_timestamp() + make_interval(secs => %(probe)s)
    end,
    updated_at = clock_timestamp()
where b.breaker_key = %(key)s and (b.state = 'closed' or {_PAUSE_IS_OVER})
returning b.state
"""  # noqa: S608 - a constant
_CLOSE = """
update penstock.circuit_breakers
set state = 'closed', failures = 0, cooldown = %(cooldown)s, open_until = null, probe_owner = null,
    probe_until = null, updated_at = clock_timestamp()
where breaker_key = %(key)s
"""
_FAIL = """
insert into penstock.circuit_breakers as b (breaker_key, failures, threshold, cooldown, last_error, state, open_until)
values (
    %(key)s, 1, %(threshold)s, %(cooldown)s, %(message)s,
    case when %(threshold)s <= 1 then 'open' else 'closed' end,
    case when %(threshold)s <= 1 then clock_timestamp() + %(cooldown)s end
)
on conflict (breaker_key) do update set
    failures = b.failures + 1,
    last_error = excluded.last_error,
    state = case
        when b.state = 'half_open' or b.failures + 1 >= b.threshold then 'open' else b.state
    end,
    open_until = case
        when b.state = 'half_open' or (b.state = 'closed' and b.failures + 1 >= b.threshold)
            then clock_timestamp() + b.cooldown * (1 + random() * 0.2)
        else b.open_until
    end,
    cooldown = case when b.state = 'half_open' then least(b.cooldown * 2, interval '1 hour') else b.cooldown end,
    probe_owner = null,
    probe_until = null,
    updated_at = clock_timestamp()
"""


@dataclass(slots=True)
class _Known:
    """What this process last heard of a breaker."""

    until: float  # on the monotonic clock
    failures: int


class _Admits(Enum):
    """Whom a breaker lets through."""

    EVERYBODY = "every call"
    PROBE = "one call, when its pause is over"
    NOBODY = "no call"


class SharedBreaker:
    """`sources.ports.Breaker` on the table `penstock.circuit_breakers`.

    After `threshold` failures in a row nobody calls for `cooldown` seconds; then one worker may try. Its success closes
    the breaker, its failure opens it again for twice as long, up to an hour.
    """

    def __init__(self, warehouse: Warehouse, *, threshold: int = 5, cooldown: float = 30.0) -> None:
        self._warehouse = warehouse
        self._threshold = threshold
        self._cooldown = cooldown
        self._me = f"{socket.gethostname()}:{os.getpid()}"
        self._known: dict[str, _Known] = {}
        self._guard = threading.Lock()

    def refuses(self, key: str) -> bool:
        """Whether `allow` would say no now; nobody becomes the probe by asking."""
        return self._look(key) is _Admits.NOBODY

    def allow(self, key: str) -> bool:
        """Whether a call may be made now. When the pause is over, one worker alone may find out: it is the probe."""
        admitted = self._look(key)
        if admitted is not _Admits.PROBE:
            return admitted is _Admits.EVERYBODY
        parameters = {"key": key, "me": self._me, "probe": PROBE_SECONDS}
        if self._warehouse.run_shared(_ALLOW, parameters) is None:
            return False
        self._forget(key)  # what this process remembers is older than the failures: the probe's success must be told
        return True

    def success(self, key: str) -> None:
        """The vendor answered."""
        with self._guard:
            known = self._known.get(key)
        if known is not None and known.failures == 0:
            return
        self._warehouse.run_shared(_CLOSE, self._parameters(key))
        self._remember(key, 0)

    def failure(self, key: str, message: str) -> None:
        """The vendor did not answer, or answered with a fault of its own."""
        self._forget(key)
        self._warehouse.run_shared(_FAIL, {**self._parameters(key), "message": message[:MAX_MESSAGE_CHARACTERS]})

    def _look(self, key: str) -> _Admits:
        with self._guard:
            known = self._known.get(key)
        if known is not None and time.monotonic() < known.until:
            return _Admits.EVERYBODY
        seen = self._warehouse.run_shared(_LOOK, {"key": key})
        is_closed, is_due, failures = seen or (True, False, 0)
        if is_closed:
            self._remember(key, failures)
            return _Admits.EVERYBODY
        return _Admits.PROBE if is_due else _Admits.NOBODY

    def _remember(self, key: str, failures: int) -> None:
        with self._guard:
            self._known[key] = _Known(time.monotonic() + TRUST_SECONDS, failures)

    def _forget(self, key: str) -> None:
        with self._guard:
            self._known.pop(key, None)

    def _parameters(self, key: str) -> dict[str, object]:
        return {"key": key, "threshold": self._threshold, "cooldown": f"{self._cooldown} seconds"}
