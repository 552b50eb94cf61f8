"""Claims use their partial indexes, however long the history is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.jobs.calendar_outbox import CalendarStore
from penstock.jobs.calendar_outbox.store import SQL
from penstock.warehouse.session import Warehouse

pytestmark = pytest.mark.db
WORKSPACES, HISTORY, LIVE = 1000, 20_000, 2_000

FILL = """
insert into public.workspaces (id, name)
select ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'w' from generate_series(1, %(workspaces)s) as n;
insert into penstock.calendar_keys (event_key, workspace_id, source_type, source_id, dirty_seq, done_seq)
select
    'key ' || n, ('00000000-0000-0000-0000-' || lpad((n %% %(workspaces)s + 1)::text, 12, '0'))::uuid, 'task',
    gen_random_uuid(), n, case when n > %(history)s then 0 else n end
from generate_series(1, %(history)s + %(live)s) as n;
insert into penstock.calendar_lanes (workspace_id) select id from public.workspaces;
analyze penstock.calendar_keys, penstock.calendar_lanes;
"""


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(inner for child in plan.get("Plans", ()) for inner in nodes(child))]


def test_a_claim_looks_at_live_keys_alone(warehouse: Warehouse) -> None:
    sizes = {"workspaces": WORKSPACES, "history": HISTORY, "live": LIVE}
    parameters = {"workspace_id": None, "limit": 50, "holder": "w", "lease_seconds": 60.0}
    with warehouse.connection() as connection:
        for statement in FILL.split(";\n")[:-1]:
            connection.execute(statement, sizes)
        row = connection.execute(f"explain (format json) {SQL['claim_keys']}", parameters).fetchone()
    assert row is not None
    plan = nodes((json.loads(row[0]) if isinstance(row[0], str) else row[0])[0]["Plan"])
    read = {node["Relation Name"] for node in plan if "Relation Name" in node and node["Node Type"] != "ModifyTable"}
    assert {"calendar_keys", "calendar_lanes"} <= read
    scanned = {node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"}
    assert scanned & {"calendar_keys", "calendar_lanes"} == set()
    assert {node.get("Index Name") for node in plan} >= {"calendar_keys_ready_idx", "calendar_lanes_order_idx"}
    store = CalendarStore(warehouse, "w")
    claimed = [store.claim() for _ in range(WORKSPACES)]
    assert sum(len(claim.keys) for claim in claimed if claim) == LIVE
    assert len({claim.workspace_id for claim in claimed if claim}) == WORKSPACES
