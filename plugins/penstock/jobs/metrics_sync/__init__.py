"""Metrics sync: the ads of the agency's requests, by day, into `performance_metrics`.

claim              claims.py    which connections are due, under a lease
sync_connection    sync.py      one connection: pages -> ad days -> the metrics of its requests, in one transaction
"""

from __future__ import annotations

from penstock.jobs.metrics_sync.claims import claim
from penstock.jobs.metrics_sync.context import SyncContext, SyncFailed, SyncWaiting
from penstock.jobs.metrics_sync.sync import sync_connection

__all__ = ["SyncContext", "SyncFailed", "SyncWaiting", "claim", "sync_connection"]
