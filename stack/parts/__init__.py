"""What the demo does for each concern beside the platform ETL: rows to begin with, and a comparison at the end."""

from __future__ import annotations

from stack.parts.app_sync import AppSync
from stack.parts.calendar_outbox import CalendarOutbox
from stack.parts.metrics_sync import MetricsSync
from stack.parts.nivoda import Nivoda
from stack.parts.notifications import Notifications
from stack.parts.part import Ground, Part, PartResult
from stack.parts.retention import Retention

# In the order in which they prepare their rows. MetricsSync is the first: its DAG begins as soon as it is parsed, and
# what is prepared too late for it waits for its next run, ten minutes later.
PARTS: tuple[Part, ...] = (MetricsSync(), AppSync(), CalendarOutbox(), Nivoda(), Notifications(), Retention())

__all__ = ["PARTS", "Ground", "Part", "PartResult"]
