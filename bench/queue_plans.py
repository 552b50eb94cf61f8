"""`python -m bench.queue_plans`: the queues' statements beside a long history: their plans, and how long they take.

1,000,000 finished rows, 100,000 that wait, 20,000 lanes, of each queue. Prints the partial index that each statement
uses, and the times of single claims and of the sweeps. Exits with 1 when a plan reads a queue's table from end to end,
or an aim was missed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg

from bench.machine import machine
from penstock.jobs.calendar_outbox import CalendarStore
from penstock.jobs.calendar_outbox.store import SQL as CALENDAR
from penstock.jobs.notifications import NotificationStore
from penstock.jobs.notifications.items import Item, Outcome
from penstock.jobs.notifications.store import SQL as NOTIFICATIONS
from penstock.warehouse.session import Warehouse

AIM_CLAIM_MS, AIM_SWEEP_MS = 5.0, 500.0
CLAIMS, SWEEPS = 500, 7
FRESH = 2000
QUEUE_TABLES = frozenset({"notification_queue", "notification_lanes", "sync_outbox", "calendar_keys", "calendar_lanes"})
SENT = Outcome("sent", "sent", slack_ts="1.0")

_FILL_NOTIFICATIONS = """
alter table public.notification_queue disable trigger user;
insert into notification_config (entity_type, event_type, channel_id, template)
select 'request', 'status_change', 'C1' || lpad(g::text, 5, '0'), '{{n}}' from generate_series(1, %(lanes)s::int) as g;
insert into notification_queue (
    config_id, entity_id, entity_type, event_data, state, is_processed, lane_key, expires_at, finished_at
)
select
    c.id, gen_random_uuid(), 'request', '{"n": 1}', case when g <= %(done)s then 'sent' else 'queued' end,
    g <= %(done)s, 'slack/' || c.channel_id, now() + interval '1 day',
    case when g <= %(done)s then now() - make_interval(hours => g %% 720) end
from generate_series(1, %(done)s::int + %(live)s::int) as g
inner join (select id, channel_id, row_number() over (order by channel_id) as number from notification_config) as c
    on c.number = g %% %(lanes)s::int + 1;
insert into penstock.notification_lanes (lane_key, workspace, destination, next_send_at)
select 'slack/' || channel_id, 'slack', channel_id, now() from notification_config;
alter table public.notification_queue enable trigger user;
vacuum (analyze) public.notification_queue;
vacuum (analyze) penstock.notification_lanes;
analyze public.notification_config
"""
_FILL_CALENDAR = """
alter table public.sync_outbox disable trigger user;
insert into public.workspaces (id, name)
select ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'w' from generate_series(1, %(lanes)s::int) as n;
insert into public.sync_outbox (workspace_id, operation, payload, status, processed_at)
select
    ('00000000-0000-0000-0000-' || lpad((n %% %(lanes)s::int + 1)::text, 12, '0'))::uuid, 'UPSERT_EVENT',
    jsonb_build_object('sourceType', 'task', 'sourceId', gen_random_uuid(), 'calendarId', 'c'),
    (case when n <= %(done)s then 'COMPLETED' else 'PENDING' end)::public.outbox_status,
    case when n <= %(done)s then now() - make_interval(hours => n %% 720) end
from generate_series(1, %(done)s::int + %(live)s::int) as n;
insert into penstock.calendar_keys (event_key, workspace_id, source_type, source_id, dirty_seq, done_seq)
select event_key, workspace_id, 'task', gen_random_uuid(), seq, case when processed_at is null then 0 else seq end
from public.sync_outbox;
insert into penstock.calendar_lanes (workspace_id) select id from public.workspaces;
alter table public.sync_outbox enable trigger user;
vacuum (analyze) public.sync_outbox;
vacuum (analyze) penstock.calendar_keys;
vacuum (analyze) penstock.calendar_lanes
"""
_INSERT_FRESH = """
insert into notification_queue (config_id, entity_id, entity_type, event_data)
select id, gen_random_uuid(), 'request', '{"n": 1}' from notification_config limit %(fresh)s
"""


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.queue_plans", description=__doc__)
    parser.add_argument("--done", type=int, default=1_000_000)
    parser.add_argument("--live", type=int, default=100_000)
    parser.add_argument("--lanes", type=int, default=20_000)
    options = parser.parse_args()
    sizes = {"done": options.done, "live": options.live, "lanes": options.lanes}
    with machine(0) as ground:
        met = [notifications(ground.database(), sizes), calendar(ground.database(), sizes)]
    return 0 if all(met) else 1


def notifications(dsn: str, sizes: Mapping[str, int]) -> bool:
    fill(dsn, _FILL_NOTIFICATIONS, sizes)
    with Warehouse(dsn) as warehouse:
        store = NotificationStore(warehouse, "bench")
        statements = {
            "claim": {"limit": 16, "lease": dt.timedelta(seconds=120), "holder": "bench"},
            "resolve": {"workspace": "slack", "limit": FRESH, "max_open": 3600, "max_bytes": 1000},
            "follow": {"workspace": "slack"},
            "expire": {"limit": 1000},
        }
        met = [plan(dsn, name, NOTIFICATIONS[name], given) for name, given in statements.items()]

        for limit in (1, 16):
            claims: list[float] = []
            acknowledgements: list[float] = []
            for _ in range(CLAIMS):
                items: list[Item] = []
                claims += timed(lambda limit=limit, items=items: items.extend(store.claim(limit)), 1)
                assert len(items) == limit
                for item in items:
                    acknowledgements += timed(lambda item=item: store.settle(item, SENT), 1)
            aim = AIM_CLAIM_MS if limit == 1 else None
            met.append(shown(f"notifications: claim of {limit} lanes", claims, aim))
            shown("notifications: acknowledge", acknowledgements, None)
        shown("notifications: when is the next lane ready", timed(store.next_ready, CLAIMS), None)
        woken: list[float] = []
        resolved: list[float] = []
        for _ in range(SWEEPS):
            run(dsn, "update penstock.notification_lanes set next_send_at = 'infinity'")
            woken += timed(store.wake, 1)
            run(dsn, _INSERT_FRESH, {"fresh": FRESH})
            resolved += timed(store.resolve, 1)
        sweeps = {
            "wake all lanes": woken,
            f"resolve {FRESH:,} new rows": resolved,
            "expire": timed(store.expire, SWEEPS),
            "health": timed(store.health, SWEEPS),
        }
        met += [shown(f"notifications: sweep: {name}", took, AIM_SWEEP_MS) for name, took in sweeps.items()]
    return all(met)


def calendar(dsn: str, sizes: Mapping[str, int]) -> bool:
    fill(dsn, _FILL_CALENDAR, sizes)
    with Warehouse(dsn) as warehouse:
        store = CalendarStore(warehouse, "bench")
        given = {"workspace_id": None, "limit": 50, "holder": "bench", "lease_seconds": 120.0}
        met = [plan(dsn, "claim_keys", CALENDAR["claim_keys"], given)]

        def claim() -> None:
            claimed = store.claim()
            assert claimed is not None
            assert claimed.keys

        met.append(shown("calendar: claim of one workspace's keys", timed(claim, CLAIMS), AIM_CLAIM_MS))
        woken: list[float] = []
        for _ in range(SWEEPS):
            run(dsn, "update penstock.calendar_lanes set next_turn_at = 'infinity'")
            woken += timed(store.wake, 1)
        sweeps = {
            "wake all lanes": woken,
            "next due": timed(store.next_due, SWEEPS),
            "oldest": timed(store.oldest, SWEEPS),
        }
        met += [shown(f"calendar: sweep: {name}", took, AIM_SWEEP_MS) for name, took in sweeps.items()]
    return all(met)


# -- steps


def fill(dsn: str, script: str, sizes: Mapping[str, int]) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in script.split(";\n"):
            connection.execute(statement, sizes if "%" in statement else None)
    print(", ".join(f"{count:,} {name}" for name, count in sizes.items()), flush=True)


def run(dsn: str, statement: str, parameters: Mapping[str, Any] | None = None) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement, parameters)


def plan(dsn: str, name: str, statement: str, parameters: Mapping[str, Any]) -> bool:
    """Whether the statement reads no queue's table from end to end."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(f"explain (format json) {statement}", parameters).fetchone()
    nodes = list(_nodes(row[0][0]["Plan"])) if row else []
    scanned = sorted({node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"})
    used = sorted({node["Index Name"] for node in nodes if "Index Name" in node})
    is_met = not QUEUE_TABLES & set(scanned)
    print(f"  {name}: {', '.join(used)}; read whole: {', '.join(scanned) or 'nothing'}{'' if is_met else ' MISSED'}")
    return is_met


def _nodes(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [node, *(inner for child in node.get("Plans", ()) for inner in _nodes(child))]


def timed(work: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append((time.perf_counter() - began) * 1e3)
    return took


def shown(what: str, took: Sequence[float], aim: float | None) -> bool:
    """Whether the 95th percentile meets the aim, in milliseconds."""
    p95 = statistics.quantiles(took, n=20, method="inclusive")[-1]
    is_met = aim is None or p95 <= aim
    told = "" if aim is None else f" (aim {aim:g}){'' if is_met else ' MISSED'}"
    print(f"  {what}: median {statistics.median(took):.2f} ms, p95 {p95:.2f} ms{told}", flush=True)
    return is_met


if __name__ == "__main__":
    sys.exit(main())
