"""Retention in the demo: old rows of every kind, gone or archived afterwards, and not one missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from stack.parts.part import Ground, PartResult

KEPT, ARCHIVED, PURGED = 500, 2_000, 300
"""Rows of the activity log: younger than 90 days, older, and older than 365."""

# The same ids at each demo: what an earlier one has archived is not archived twice.
_ACTIVITY = """
insert into public.activity_log (id, entity_type, entity_id, action, details, created_at)
select
    md5('retention demo ' || n)::uuid, 'request', md5('retention demo')::uuid, 'status_changed',
    jsonb_build_object('number', n),
    now() - case
        when n <= %(kept)s then interval '5 days'
        when n <= %(kept)s + %(archived)s then interval '100 days' + interval '1 day' * (n %% 200)
        else interval '400 days'
    end
from generate_series(1, %(kept)s + %(archived)s + %(purged)s) as n
on conflict (id) do nothing
"""
_OLD_ROWS: Mapping[str, str] = {
    "notification_queue": """
        insert into public.notification_queue (entity_id, entity_type, state, error_class, finished_at, created_at)
        select
            md5('retention demo')::uuid, 'request', s.state, case s.state when 'dead' then 'NOTIFICATION_EXPIRED' end,
            now() - interval '40 days', now() - interval '41 days'
        from unnest(array['sent', 'dead', 'cancelled']) as s (state) cross join generate_series(1, 20)
    """,
    "metric_sync_logs": """
        insert into public.metric_sync_logs (status, start_time, end_time)
        select 'success', now() - interval '120 days', now() - interval '120 days' from generate_series(1, 30)
    """,
    "sync_jobs": """
        insert into public.sync_jobs (job_type, status, started_at, completed_at)
        select 'storefront', 'completed', now() - interval '120 days', now() - interval '120 days'
        from generate_series(1, 30)
    """,
    "staging": """
        insert into staging_ingest.meta_ads_insights (
            run_id, slice_no, connection_id, report_key, record_key, record_date, payload, payload_hash, ingested_at
        )
        select
            md5('retention demo')::uuid, 1, md5('retention demo')::uuid, 'insights_ad', 'old ' || n, '2025-01-01',
            '{}', '', now() - interval '120 days'
        from generate_series(1, 200) as n
        on conflict do nothing
    """,
    "rejected_records": """
        insert into staging_ingest.rejected_records (
            run_id, slice_no, connection_id, source, stream, reason_code, reason, payload, payload_hash, last_seen_at
        )
        select
            md5('retention demo')::uuid, 1, md5('retention demo')::uuid, 'meta_ads', 'insights_ad', 'WRONG_TYPE',
            'an old one', '{}', 'old ' || n, now() - interval '120 days'
        from generate_series(1, 20) as n
        on conflict do nothing
    """,
}
_ACTIVITY_NOW = """
with numbered as (
    select n, md5('retention demo ' || n)::uuid as id
    from generate_series(1, %(kept)s + %(archived)s + %(purged)s) as n
)
select
    count(live.id) filter (where n <= %(kept)s) as kept,
    count(archive.id) filter (where n > %(kept)s and n <= %(kept)s + %(archived)s) as archived,
    count(*) filter (where n > %(kept)s + %(archived)s and live.id is null and archive.id is null) as purged,
    count(*) filter (where live.id is not null and archive.id is not null) as doubled
from numbered
left join public.activity_log as live on numbered.id = live.id
left join public.archived_activity_log as archive on numbered.id = archive.id
"""
_RUNS = """
select
    entity_type, status, requested_by, rows_found, rows_archived, rows_purged, rows_left, bytes_found, batches,
    longest_batch_ms, error ->> 'message' as message
from penstock.retention_runs
where started_at >= %(since)s and not is_dry_run
order by entity_type
"""
_SEEDED = {"kept": KEPT, "archived": ARCHIVED, "purged": PURGED}


class Retention:
    """Triggered by hand and meant: a dry run would change nothing."""

    name = "retention"
    dag_id = "retention"
    params: Mapping[str, Any] | None = {"dry_run": False}
    is_always_triggered = True  # the scheduler's own run is late and only counts

    def prepare(self, ground: Ground) -> None:
        with psycopg.connect(ground.warehouse_dsn, autocommit=True) as connection:
            connection.execute(_ACTIVITY, _SEEDED)
            for statement in _OLD_ROWS.values():
                connection.execute(statement)

    def is_over(self, ground: Ground) -> bool:
        """Its DAG run is all of it, and the demo waits for that."""
        return True

    def result(self, ground: Ground) -> PartResult:
        with psycopg.connect(ground.warehouse_dsn, autocommit=True, row_factory=dict_row) as connection:
            runs = connection.execute(_RUNS, {"since": ground.since}).fetchall()
            activity = connection.execute(_ACTIVITY_NOW, _SEEDED).fetchone() or {}
        data = {"activity_log": dict(activity), "policies": {run["entity_type"]: _counts(run) for run in runs}}
        return PartResult(data, [_line(run) for run in runs], problems(runs, activity))


def problems(runs: Sequence[Mapping[str, Any]], activity: Mapping[str, Any]) -> list[str]:
    """What retention should have done and did not."""
    found = [
        f"{run['entity_type']}: {run['status']} {run['message'] or ''}".strip()
        for run in runs
        if run["status"] not in ("SUCCEEDED", "ABSENT") or run["rows_left"]
    ]
    worked = {run["entity_type"]: run for run in runs}
    for entity_type in _OLD_ROWS:
        if not (worked.get(entity_type) or {}).get("rows_purged"):
            found.append(f"{entity_type}: no old row was deleted")
    if dict(activity) != {**_SEEDED, "doubled": 0}:
        found.append(f"activity_log: {dict(activity)}, not {_SEEDED}")
    return found


def _counts(run: Mapping[str, Any]) -> dict[str, Any]:
    names = ("status", "rows_found", "rows_archived", "rows_purged", "rows_left", "bytes_found", "longest_batch_ms")
    return {name: run[name] for name in names}


def _line(run: Mapping[str, Any]) -> str:
    if run["status"] != "SUCCEEDED":
        return f"{run['entity_type']}: {run['status'].lower()}"
    return (
        f"{run['entity_type']}: {run['rows_archived']:,} archived, {run['rows_purged']:,} deleted in "
        f"{run['batches']} batches, the longest {run['longest_batch_ms']} ms"
    )
