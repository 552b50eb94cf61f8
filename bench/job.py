"""The job that every contender does: the sandbox's benchmark account, Placed Order events of some whole days."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from zoneinfo import ZoneInfo

import requests

ACCOUNT_ID = "BENCH1"
EVENTS_A_DAY = 24_000
"""What the sandbox's benchmark account has: a thousand an hour."""
PAGE_SIZE = 1000
REVISION = "2026-07-15"

CALL_SPACING_S = 1 / (350 * 0.95)
"""The vendor's burst limit of 350 calls a second, with our own headroom: nobody is faster, the bare client neither.
https://developers.klaviyo.com/en/reference/get_events"""


@dataclass(frozen=True, slots=True)
class Job:
    """What to read and where to.

    first_day, last_day: inclusive, ISO, in the account's zone. slice_days: days that one thread reads; so many slices
    are read at the same time.
    """

    sandbox_url: str
    dsn: str
    api_key: str
    metric_id: str
    time_zone: str
    first_day: str
    last_day: str
    slice_days: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        return cls(**json.loads(text))

    @property
    def slices(self) -> list[tuple[dt.datetime, dt.datetime]]:
        """Half-open windows of aware instants, cut at the account's midnights."""
        first, last = dt.date.fromisoformat(self.first_day), dt.date.fromisoformat(self.last_day)
        days = (last - first).days + 1
        starts = [first + dt.timedelta(days=number) for number in range(0, days, self.slice_days)]
        edges = [*starts, last + dt.timedelta(days=1)]
        zone = ZoneInfo(self.time_zone)
        instants = [dt.datetime.combine(day, dt.time(), tzinfo=zone) for day in edges]
        return list(itertools.pairwise(instants))

    @property
    def rows(self) -> int:
        """Events in all slices; a day on which the clocks change has an hour more or less."""
        # Two instants of one zone are subtracted by their clocks' faces: the hour that a change adds would be missing.
        lengths = (end.astimezone(dt.UTC) - start.astimezone(dt.UTC) for start, end in self.slices)
        return int(sum(lengths, dt.timedelta()) / dt.timedelta(days=1) * EVENTS_A_DAY)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Klaviyo-API-Key {self.api_key}", "revision": REVISION}

    def parameters(self, window: tuple[dt.datetime, dt.datetime]) -> dict[str, str]:
        """The query of the first page."""
        start, end = (edge.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for edge in window)
        return {
            "filter": f"equals(metric_id,'{self.metric_id}'),"
            f"greater-or-equal(datetime,{start}),less-than(datetime,{end})",
            "sort": "datetime",
            "page[size]": str(PAGE_SIZE),
        }


def account(sandbox_url: str) -> dict[str, Any]:
    """The benchmark account as the sandbox tells it, with its credentials."""
    listed: Sequence[dict[str, Any]] = requests.get(f"{sandbox_url}/sandbox/accounts", timeout=30).json()
    return next(each for each in listed if each["account_id"] == ACCOUNT_ID)


def describe(sandbox_url: str, dsn: str, *, days: int, slice_days: int) -> Job:
    """The job of the last `days` whole days that the account has."""
    found = account(sandbox_url)
    key = found["credentials"]["api_key"]
    headers = {"Authorization": f"Klaviyo-API-Key {key}", "revision": REVISION}
    metrics = requests.get(f"{sandbox_url}/klaviyo/api/metrics", headers=headers, timeout=30).json()["data"]
    metric = next(each["id"] for each in metrics if each["attributes"]["name"] == "Placed Order")
    # The stream ends at midnight UTC: yesterday may not be whole in every zone, the day before is.
    last = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=2)
    return Job(
        sandbox_url=sandbox_url,
        dsn=dsn,
        api_key=key,
        metric_id=metric,
        time_zone=found["time_zone"],
        first_day=(last - dt.timedelta(days=days - 1)).isoformat(),
        last_day=last.isoformat(),
        slice_days=slice_days,
    )
