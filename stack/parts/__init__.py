"""What the demo does for each concern beside the platform ETL: rows to begin with, and a comparison at the end."""

from __future__ import annotations

from stack.parts.app_sync import AppSync
from stack.parts.calendar_outbox import CalendarOutbox
from stack.parts.metrics_sync import MetricsSync
from stack.parts.nivoda import Nivoda
from stack.parts.notifications import Notifications
from stack.parts.part import Ground, Part, PartResult
from stack.parts.retention import Retention

PARTS: tuple[Part, ...] = (AppSync(), CalendarOutbox(), MetricsSync(), Nivoda(), Notifications(), Retention())

__all__ = ["PARTS", "Ground", "Part", "PartResult"]
