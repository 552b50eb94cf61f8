"""The keyed-entity worker: items that are due, asked for one by one at the pace that all workers share.

plan_lanes               lanes.py        which sources have how much to do, split over workers
sync                     worker.py       one worker's job: claim, fetch, store, acknowledge, until its share is done
refresh_priorities       priorities.py   the nightly scores and intervals
report_disabled          priorities.py   apps that were given up, told to people once
"""

from __future__ import annotations

from penstock.jobs.app_sync.context import Counts, Stopped, SyncContext, stoppable_sleep
from penstock.jobs.app_sync.lanes import Lane, plan_lanes
from penstock.jobs.app_sync.priorities import DisabledApp, refresh_priorities, report_disabled
from penstock.jobs.app_sync.worker import sync

__all__ = [
    "Counts",
    "DisabledApp",
    "Lane",
    "Stopped",
    "SyncContext",
    "plan_lanes",
    "refresh_priorities",
    "report_disabled",
    "stoppable_sleep",
    "sync",
]
