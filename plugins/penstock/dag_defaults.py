"""What every DAG of Penstock shares: default arguments, the retry policy, tags, the first date."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule, WeightRule

from penstock.alerts import alert_failure
from penstock.core import errors
from penstock.sources.stream import Source

START_DATE = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
"""Backfills may reach back to here. A constant, so that parsing twice gives the same DAG version."""

DOC_HEADINGS = ("What it does", "When it runs", "Parameters", "When it fails", "Run it again")
"""The sections of every DAG's page, in this order."""


class Tag(StrEnum):
    """The tags a DAG may carry, beside the registry names of sources."""

    PLATFORM_ETL = "platform_etl"
    METRICS = "metrics"
    APP_SYNC = "app_sync"
    DIAMONDS = "diamonds"
    NOTIFICATIONS = "notifications"
    CALENDAR = "calendar"
    QUEUE = "queue"
    MAINTENANCE = "maintenance"


# Decided by class, never by message. The clients have spent their own minute of retries before an error
# gets here, so what is left is a crash, an outage (again later) or something that a person must mend.
RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=[errors.FatalError, errors.SkippableError],
            action=RetryAction.FAIL,
            reason="a person has to act: trying again cannot help",
        ),
        RetryRule(
            exception=[errors.RateLimited, errors.QuotaExhausted],
            action=RetryAction.RETRY,
            retry_delay=dt.timedelta(minutes=5),
            reason="the vendor asked for a pause",
        ),
        RetryRule(
            exception=errors.RetryableError,
            action=RetryAction.RETRY,
            retry_delay=dt.timedelta(minutes=2),
            reason="the vendor is unavailable",
        ),
        RetryRule(
            exception=[errors.InternalError, ConnectionError, TimeoutError],
            action=RetryAction.RETRY,
            reason="infrastructure: the next try resumes where this one stopped",
        ),
        # A defect in the code answers the same next time; the run's error says so at once.
        RetryRule(
            exception=[*errors.DEFECTS],
            action=RetryAction.FAIL,
            reason="a defect: trying again cannot help",
        ),
    ],
    default=RetryAction.DEFAULT,
)

DEFAULT_ARGS: dict[str, Any] = {
    "owner": "penstock",
    "depends_on_past": False,
    "retries": 2,
    "retry_delay": dt.timedelta(minutes=1),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": dt.timedelta(minutes=15),
    "retry_policy": RETRY_POLICY,
    "execution_timeout": dt.timedelta(hours=1),
    # Later tasks first: a claimed run is finished before the next one is begun, so leases stay short.
    "weight_rule": WeightRule.UPSTREAM,
    "on_failure_callback": [alert_failure],
}


def stream_table(source: Source) -> str:
    """The part of a source's page that lists its streams."""
    lines = [
        f"## Streams of {source.name}",
        "",
        "| stream | staging table | kind | days per slice | kept by the vendor | read by default |",
        "|---|---|---|---|---|---|",
    ]
    for stream in source.streams:
        kept = f"{stream.retention_days} days" if stream.retention_days else "always"
        lines.append(
            f"| `{stream.name}` | `staging_ingest.{source.name}_{stream.table}` | {stream.kind} "
            f"| {stream.slice_days or 'all'} | {kept} | {'yes' if stream.is_default else 'no'} |"
        )
    return "\n".join(lines)
