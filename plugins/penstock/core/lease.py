"""The one lease rule of all queues: who holds a row, for how long, and when a failed one is tried again.

A claim writes `leased_until`, `leased_by` and `lease_epoch + 1` in the statement that picks the row. Every later
write compares the epoch, so that a worker which was thought dead cannot write over its successor. Rescue needs no
job of its own: an expired lease is part of what a claim looks for.
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass

LEASE = dt.timedelta(minutes=5)
"""Far longer than a healthy worker is silent: it renews every `HEARTBEAT`, and no HTTP call lasts over a minute."""

CLAIM_LEASE = dt.timedelta(minutes=30)
"""From the claim to the first stage, and from what was read to its load: lanes wait for a slot in a pool while nobody
renews."""

HEARTBEAT = dt.timedelta(seconds=15)

RESERVATION = dt.timedelta(minutes=2)
"""How long a run waits for the DAG run that enqueued it before any other claims it."""

MAX_ATTEMPTS = 5
"""Starts of one run before it counts as a killer of workers and fails."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Proof that this worker holds the row: the epoch that its writes must match."""

    row_id: str
    holder: str
    epoch: int


def retry_delay(failures: int, *, base: dt.timedelta, cap: dt.timedelta, rng: random.Random) -> dt.timedelta:
    """Full jitter: uniform between a half and the whole of min(cap, base * 2^(failures - 1)).

    The lower half is kept out, so that a row which fails at once cannot come back at once
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/, "equal jitter").
    """
    doublings = min(max(failures, 1) - 1, 30)
    ceiling = min(cap, base * (1 << doublings))
    return ceiling * (0.5 + 0.5 * rng.random())
