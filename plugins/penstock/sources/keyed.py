"""What a keyed source is: one that is asked for one known item at a time, again and again.

The keyed-entity worker (`jobs/app_sync`) knows nothing else of a source. Adding one = a `KeyedSource`, the statement
`include/sql/apps/transform/<name>.sql` that stores its records, and a line in `sources/apps.py`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.sources.stream import Limit, Request

HEADROOM = 0.95
"""Share of a limit that is used: calls that were spaced exactly arrive a little unevenly."""

DEFAULT_LIMITS: tuple[Limit, ...] = (Limit(10, 30.0 / HEADROOM, is_hard_window=True),)
"""10 calls in any 30 seconds, where a vendor says nothing of its limits."""

Send = Callable[[Request], Any]
"""One call, paced and retried: the body of its answer. Raises PenstockError."""

Record = Mapping[str, Any]
"""What is kept of an item: names and JSON values, as the source's statement reads them."""


@dataclass(frozen=True, slots=True)
class KeyedSource:
    """One kind of thing that a vendor tells about an item.

    name: unique; the value of the DAG's param, `sync_jobs.job_type`, and the file that stores its records.
    vendor: name of connection and client; sources of one vendor share both.
    fetch: (send, key) -> the record, or None when the vendor has no such item. Raises UnreadableRecord for an answer
        that cannot be stored; every other error is the client's.
    limits: rate-limit family -> limits. `fetch` names the family in its requests.
    concurrency: items of one worker in hand at the same time. More than the pace needs only makes the queue at the
        limit longer.
    batch_size: items of one DAG run, over all its workers.
    fixed_interval: between two readings of an item; None leaves it to the item's own `sync_interval_hours`.
    """

    name: str
    vendor: str
    fetch: Callable[[Send, int], Record | None]
    limits: Mapping[str, tuple[Limit, ...]] = field(default_factory=lambda: {"default": DEFAULT_LIMITS})
    concurrency: int = 4
    batch_size: int = 800
    fixed_interval: dt.timedelta | None = None
