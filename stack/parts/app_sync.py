"""Apps in the demo: a catalogue that nobody has read yet, some of it missing, one app poisoned and one broken."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
import requests
from psycopg.rows import DictRow, dict_row

from stack.parts.part import Ground, PartResult

TIMEOUT = 10
LIMIT, PERIOD = 600, 60.0
"""Calls/seconds that the sandbox's store allows; the client's pace is `stack.plan.SANDBOX_PACE`."""

SOURCES = ("storefront", "reviews")
SHOWN = 10
OUTCOMES = {"ok": "synced", "missing": "skipped", "poison": "failed", "broken": "failed"}
"""State of an app in the sandbox -> how reading it has to end."""

_SEED = """
with added as (
    insert into public.apps (appid, name)
    select appid, 'App ' || appid from unnest(%(appids)s::integer []) as wanted (appid)
    on conflict do nothing
)
insert into public.sync_status (appid)
select appid from unnest(%(appids)s::integer []) as wanted (appid)
on conflict do nothing
"""
# A demo reads everything anew, also one that runs on the data of another.
_FORGET = """
with states as (
    update penstock.app_sync_states set last_synced_at = null, not_before = null, failures = 0
    where appid = any(%(appids)s) and source = any(%(sources)s) and leased_until is null
)
update public.sync_status set
    last_storefront_sync = null, last_reviews_sync = null, next_reviews_sync = null, consecutive_errors = 0
where appid = any(%(appids)s)
"""
_OPEN = """
select count(*) as items
from unnest(%(sources)s::text []) as wanted (source)
cross join lateral penstock.app_sync_queue(wanted.source) as q
where q.appid = any(%(appids)s)
"""
_LEASED = "select count(*) as items from penstock.app_sync_states where leased_until > now()"

_STATES = """
select source, appid, last_outcome, failures from penstock.app_sync_states
where source = any(%(sources)s) and appid = any(%(appids)s)
"""
_STORED = """
select
    a.appid, a.name, a.type::text as type, a.is_free, a.is_released, a.release_date::text as release_date,
    a.has_workshop, a.has_developer_info, a.current_price_cents as price_cents,
    a.current_discount_percent as discount_percent, d.total_reviews, d.positive_reviews, d.negative_reviews
from public.apps as a
inner join lateral (
    select * from public.daily_metrics as each
    where each.appid = a.appid and each.total_reviews is not null
    order by each.metric_date desc limit 1
) as d on true
where a.appid = any(%(appids)s)
"""
_JOBS = """
select
    job_type, count(*) as jobs, sum(items_processed)::integer as processed, sum(items_succeeded)::integer as succeeded,
    sum(items_skipped)::integer as skipped, sum(items_failed)::integer as failed,
    extract(epoch from max(completed_at) - min(started_at))::integer as seconds,
    count(*) filter (where status <> 'completed') as not_completed
from public.sync_jobs
where started_at >= %(since)s
group by job_type order by job_type
"""


class AppSync:
    """`app_sync`: every app of the sandbox's store, for both sources."""

    name = "app_sync"
    dag_id = "app_sync"
    params: Mapping[str, Any] | None = {"refresh_priorities": "ALWAYS"}
    is_always_triggered = False

    def prepare(self, ground: Ground) -> None:
        """The store allows more than in public; the apps are known by their ids alone."""
        limits = {"details_limit": LIMIT, "details_period": PERIOD, "reviews_limit": LIMIT, "reviews_period": PERIOD}
        requests.put(f"{ground.sandbox_url}/sandbox/steam", json=limits, timeout=TIMEOUT).raise_for_status()
        wanted = _wanted(_truth(ground))
        with _connect(ground) as connection:
            connection.execute(_SEED, wanted)
            connection.execute(_FORGET, wanted)

    def is_over(self, ground: Ground) -> bool:
        wanted = _wanted(_truth(ground))
        with _connect(ground) as connection:
            return not any(_rows(connection, query, wanted)[0]["items"] for query in (_OPEN, _LEASED))

    def result(self, ground: Ground) -> PartResult:
        truth = _truth(ground)
        with _connect(ground) as connection:
            states = _rows(connection, _STATES, _wanted(truth))
            stored = {row["appid"]: row for row in _rows(connection, _STORED, _wanted(truth))}
            jobs = _rows(connection, _JOBS, {"since": ground.since})
        wrong_states = _wrong_states(truth, states)
        earlier = _truth(ground, ground.since.astimezone(dt.UTC).date())
        wrong_values = [appid for appid, app in truth.items() if _differs((app, earlier[appid]), stored.get(appid))]
        refused = _refused_calls(ground)
        data = {
            "apps": len(truth),
            "wrong_states": len(wrong_states),
            "wrong_values": len(wrong_values),
            "refused_calls": refused,
            "jobs": [dict(row) for row in jobs],
        }
        problems = [f"{source} of app {appid} ended {ended}" for source, appid, ended in wrong_states[:SHOWN]]
        problems += [f"app {appid}: what is stored is not what the store says" for appid in wrong_values[:SHOWN]]
        problems += [f"{job['job_type']}: {job['not_completed']} jobs failed" for job in jobs if job["not_completed"]]
        problems += _wrong_counts(truth, jobs)
        if refused:
            problems.append(f"the store refused {refused} calls: the limit was exceeded")
        return PartResult(data, _lines(data), problems)


def _lines(data: Mapping[str, Any]) -> list[str]:
    return [
        f"{data['apps']} apps, {data['wrong_states']} in a wrong state, {data['wrong_values']} with wrong values",
        *(
            f"{job['job_type']}: {job['processed']} read by {job['jobs']} workers in {job['seconds']} s "
            f"({job['succeeded']} synced, {job['skipped']} skipped, {job['failed']} failed)"
            for job in data["jobs"]
        ),
    ]


def _wrong_states(
    truth: Mapping[int, Mapping[str, Any]], states: Sequence[Mapping[str, Any]]
) -> list[tuple[str, int, str | None]]:
    """Source, app and outcome where it is not the one that the app's state asks for."""
    found = {(row["source"], row["appid"]): row["last_outcome"] for row in states}
    return [
        (source, appid, found.get((source, appid)))
        for source in SOURCES
        for appid, app in truth.items()
        if found.get((source, appid)) != OUTCOMES[app["state"]]
    ]


def _wrong_counts(truth: Mapping[int, Mapping[str, Any]], jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the jobs say they did, against what there was to do."""
    ended = [OUTCOMES[app["state"]] for app in truth.values()]
    expected = {"succeeded": ended.count("synced"), "skipped": ended.count("skipped"), "failed": ended.count("failed")}
    counted = {job["job_type"]: {name: job[name] for name in expected} for job in jobs}
    return [
        f"{source}: counted {counted.get(source)}, there were {expected}"
        for source in SOURCES
        if counted.get(source) != expected
    ]


def _differs(days: Sequence[Mapping[str, Any]], row: Mapping[str, Any] | None) -> bool:
    """Whether an app that can be read is stored otherwise, or one that cannot be read is stored at all.

    days: the app today and on the day when the demo began; over midnight it was read on either.
    """
    if days[0]["state"] != "ok":
        return row is not None
    return row is None or any(all(row[name] != app[name] for app in days) for name in row)


def _refused_calls(ground: Ground) -> int:
    answer = requests.get(f"{ground.sandbox_url}/sandbox/calls", timeout=TIMEOUT)
    answer.raise_for_status()
    return sum(row["rejected"] for row in answer.json()["limits"] if row["vendor"] == "steam")


def _wanted(truth: Mapping[int, Any]) -> dict[str, Any]:
    return {"sources": list(SOURCES), "appids": list(truth)}


def _connect(ground: Ground) -> psycopg.Connection[DictRow]:
    return psycopg.connect(ground.warehouse_dsn, autocommit=True, row_factory=dict_row)


def _rows(connection: psycopg.Connection[DictRow], query: str, parameters: Mapping[str, Any]) -> list[DictRow]:
    return connection.execute(query, parameters).fetchall()


def _truth(ground: Ground, day: dt.date | None = None) -> dict[int, dict[str, Any]]:
    """The store's apps, today or on another day."""
    parameters = {"day": day.isoformat()} if day else {}
    answer = requests.get(f"{ground.sandbox_url}/sandbox/steam/truth", params=parameters, timeout=TIMEOUT)
    answer.raise_for_status()
    return {app["appid"]: app for app in answer.json()["apps"]}
