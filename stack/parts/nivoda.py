"""Diamonds in the demo: all of the public data set's stones and some lab-grown ones, to the cent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
import requests
from psycopg.rows import DictRow, dict_row

from stack.parts.part import Ground, PartResult

TIMEOUT = 30
DAG_ID = "nivoda_ingestion"
FEEDS = {"nivoda-natural": "natural", "nivoda-labgrown": "labgrown"}
"""Feed as the tables call it -> as the sandbox does."""

_ENDED = """
select count(distinct feed) as feeds, count(*) filter (where completed_at is null) as running
from run_metadata where started_at >= %(since)s
"""
_STOCK = """
select count(*) as stones, coalesce(sum(feed_price * 100), 0)::bigint as cents
from diamonds where feed = %(feed)s and status = 'active'
"""
_RUN = """
select
    status, run_type, partitions, incomplete, distinct_read, duplicates::bigint as duplicates, surely_missed,
    possibly_missed, rows_written::bigint as rows_written, rejected, requests, seconds, coverage, watermark,
    not exists (
        select from run_metadata as earlier
        where earlier.feed = %(feed)s and earlier.started_at < %(since)s and earlier.completed_at is not null
    ) as is_first
from reporting.nivoda_runs
where level = 'run' and feed = %(feed)s and started_at >= %(since)s
order by started_at desc limit 1
"""


class Nivoda:
    """Both feeds in a full run each; a demo on the data of another one shows that nothing is written again."""

    name = "diamonds"
    dag_id = DAG_ID
    params: Mapping[str, Any] | None = {"run_type": "full"}
    is_always_triggered = False

    def prepare(self, ground: Ground) -> None:
        """Nobody writes anything into this concern but its DAG."""

    def is_over(self, ground: Ground) -> bool:
        row = _rows(ground, _ENDED, {"since": ground.since})[0]
        return bool(row["feeds"] == len(FEEDS) and row["running"] == 0)

    def result(self, ground: Ground) -> PartResult:
        answer = requests.get(f"{ground.sandbox_url}/sandbox/nivoda/truth", timeout=TIMEOUT)
        answer.raise_for_status()
        truth = answer.json()["feeds"]
        data: dict[str, Any] = {}
        lines: list[str] = []
        problems: list[str] = []
        for feed, name in FEEDS.items():
            runs = _rows(ground, _RUN, {"feed": feed, "since": ground.since})
            stock = _rows(ground, _STOCK, {"feed": feed})[0]
            if not runs:
                problems.append(f"{feed}: no run")
                continue
            data[feed] = {
                **{key: _plain(value) for key, value in runs[0].items()},
                "stones": stock["stones"],
                "stones_of_vendor": truth[name]["active"],
                "cents": stock["cents"],
                "cents_of_vendor": truth[name]["price_cents"],
            }
            lines.append(_line(feed, data[feed]))
            problems += [f"{feed}: {problem}" for problem in _problems(data[feed])]
        return PartResult(data=data, lines=lines, problems=problems)


def _line(feed: str, found: Mapping[str, Any]) -> str:
    return (
        f"{feed}: {found['stones']:,} of {found['stones_of_vendor']:,} stones, "
        f"${found['cents'] / 100:,.2f} of ${found['cents_of_vendor'] / 100:,.2f}, {found['rows_written']:,} written, "
        f"{found['requests']:,} requests in {found['seconds']:.0f} s, {found['partitions']} partitions, "
        f"missed {found['surely_missed']} to {found['possibly_missed']}"
    )


def _problems(found: Mapping[str, Any]) -> list[str]:
    problems = []
    if found["status"] != "completed":
        problems.append(f"its run is {found['status']}")
    for what in ("stones", "cents"):
        if found[what] != found[f"{what}_of_vendor"]:
            problems.append(f"{found[what]:,} {what} instead of {found[f'{what}_of_vendor']:,}")
    if found["surely_missed"]:
        problems.append(f"{found['surely_missed']} stones were missed")
    if not found["is_first"] and found["rows_written"]:
        problems.append(f"a run over unchanged stones wrote {found['rows_written']:,} rows")
    return problems


def _plain(value: Any) -> Any:
    """Decimals as numbers, for JSON."""
    return value if value is None or isinstance(value, bool | int | str) else float(value)


def _rows(ground: Ground, query: str, parameters: Mapping[str, Any]) -> list[DictRow]:
    with psycopg.connect(ground.warehouse_dsn, autocommit=True, row_factory=dict_row) as connection:
        return connection.execute(query, parameters).fetchall()
