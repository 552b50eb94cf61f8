"""The calendar outbox: items of `public.sync_outbox` into Google Calendar, each with its effect exactly once."""

from __future__ import annotations

from penstock.jobs.calendar_outbox.accounts import Account, Accounts, OpenClient, bound_to
from penstock.jobs.calendar_outbox.delivery import Delivery, Notice, Report
from penstock.jobs.calendar_outbox.drain import RESIDENCE_S, THREADS, Drain, Orders, Tally
from penstock.jobs.calendar_outbox.store import CHANNEL, CalendarStore, Choice, Claim

__all__ = [
    "CHANNEL",
    "RESIDENCE_S",
    "THREADS",
    "Account",
    "Accounts",
    "CalendarStore",
    "Choice",
    "Claim",
    "Delivery",
    "Drain",
    "Notice",
    "OpenClient",
    "Orders",
    "Report",
    "Tally",
    "bound_to",
]
