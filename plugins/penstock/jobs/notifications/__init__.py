"""The notification queue: rows of `public.notification_queue` to Slack, each seen once."""

from __future__ import annotations

from penstock.jobs.notifications.courier import Courier
from penstock.jobs.notifications.drain import RESIDENCE_S, THREADS, Drain, Orders
from penstock.jobs.notifications.items import Item, Notice, Outcome, Tally
from penstock.jobs.notifications.store import CHANNEL, WORKSPACE, Choice, NotificationStore

__all__ = [
    "CHANNEL",
    "RESIDENCE_S",
    "THREADS",
    "WORKSPACE",
    "Choice",
    "Courier",
    "Drain",
    "Item",
    "Notice",
    "NotificationStore",
    "Orders",
    "Outcome",
    "Tally",
]
