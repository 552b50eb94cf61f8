"""`python -m bench.queue_stop`: a drain that runs in Airflow is told to end in the middle of its work.

    term     SIGTERM to the task's process
    failed   the task is marked failed, as in the UI
    cleared  the task is cleared, as in the UI

Slack answers slowly meanwhile, so that messages are under way. Counts what the drain still held when its process was
gone, then lets the next drains finish, and counts what was lost, seen twice and out of order. Exits with 1 when
anything was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil
import requests

from bench.airflow_ground import DAG, AirflowGround, airflow_ground, wait_for

TASK = "drain"
CHANNELS, EACH = 8, 40
SLOW_MS = 600
MESSAGES_FIRST = 16
HELD = """
select
    (select count(*) from notification_queue where state = 'sending') as sending,
    (select count(*) from penstock.notification_lanes where leased_until > clock_timestamp()) as lanes,
    (select count(*) from notification_queue where state = 'queued') as queued
"""


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.queue_stop", description=__doc__)
    parser.add_argument("--only", choices=sorted(SCENES), action="append")
    options = parser.parse_args()
    with airflow_ground() as ground:
        requests.put(f"{ground.stack.sandbox_url}/sandbox/latency", json={"milliseconds": SLOW_MS}, timeout=30)
        clean = [scene(ground, name) for name in options.only or SCENES]
    return 0 if all(clean) else 1


def scene(ground: AirflowGround, name: str) -> bool:
    before = ground.resident()
    wait_for(lambda: ground.resident() not in (None, before), "a drain has just become resident")
    ground.api.pause(DAG)  # nobody takes over while we look
    run_id, process = working(ground)
    expected = fill(ground, name)
    wait_for(lambda: len(seen(ground, expected)) >= MESSAGES_FIRST, "the drain is at work", pause=0.1)
    began = time.monotonic()
    SCENES[name](ground, run_id, process)
    process.wait(timeout=60)
    seconds = time.monotonic() - began
    ((sending, lanes, queued),) = ground.sql(HELD)
    state = wait_for(lambda: ended(ground, run_id), "Airflow knows that it has ended")
    ground.api.unpause(DAG)
    wait_for(lambda: len(seen(ground, expected)) == CHANNELS * EACH, "everything is sent")
    time.sleep(5.0)
    told = judge(ground, expected) | {"scene": name, "ended_in_seconds": round(seconds, 1), "task": state}
    told |= {"left_sending": sending, "left_leased": lanes, "given_back": queued}
    print(json.dumps(told), flush=True)
    is_hit = queued > 0  # else it had nothing more to do, and the scene shows nothing
    return is_hit and not (told["lost"] or told["seen_twice"] or told["out_of_order"] or sending or lanes)


# -- how it is told


def term(ground: AirflowGround, run_id: str, process: psutil.Process) -> None:
    process.send_signal(signal.SIGTERM)


def failed(ground: AirflowGround, run_id: str, process: psutil.Process) -> None:
    ground.api.mark_failed(DAG, run_id, TASK)


def cleared(ground: AirflowGround, run_id: str, process: psutil.Process) -> None:
    ground.api.clear(DAG, run_id, TASK)


SCENES: Mapping[str, Callable[[AirflowGround, str, psutil.Process], None]] = {
    "term": term,
    "failed": failed,
    "cleared": cleared,
}


# -- steps


def fill(ground: AirflowGround, name: str) -> dict[str, list[str]]:
    """Configuration, each with a channel of its own -> the ids of its rows, in their order."""
    configs = [ground.configure(f"C1{name[0].upper()}{number:02d}") for number in range(CHANNELS)]
    rows = ground.sql(
        "insert into notification_queue (config_id, entity_id, entity_type, event_data) "
        "select c::uuid, gen_random_uuid(), 'request', jsonb_build_object('n', n) "
        "from generate_series(1, %s::int) as n cross join unnest(%s::text[]) as c order by n "
        "returning config_id, id::text",
        EACH,
        configs,
    )
    return {config: [identity for owner, identity in rows if str(owner) == config] for config in configs}


def seen(ground: AirflowGround, expected: Mapping[str, list[str]]) -> list[str]:
    ours = {identity for rows in expected.values() for identity in rows}
    return [identity for identity in ground.stamps() if identity in ours]


def judge(ground: AirflowGround, expected: Mapping[str, list[str]]) -> dict[str, Any]:
    """What people see against what was queued."""
    stamps = ground.stamps()
    rows = [identity for each in expected.values() for identity in each]
    out_of_order = sum(
        stamps[one][0] > stamps[two][0]
        for each in expected.values()
        for one, two in itertools.pairwise(each)
        if one in stamps and two in stamps
    )
    return {
        "messages": len(rows),
        "lost": sum(identity not in stamps for identity in rows),
        "seen_twice": sum(len(stamps.get(identity, ())) > 1 for identity in rows),
        "out_of_order": out_of_order,
    }


def working(ground: AirflowGround) -> tuple[str, psutil.Process]:
    """The DAG run of the resident drain, and its task's process."""
    holder = wait_for(ground.resident, "a drain is resident")
    run_id = holder.removeprefix(f"{DAG}/")
    (task,) = ground.api.task_instances(DAG, run_id)
    for process in psutil.process_iter(["cmdline"]):
        if task["id"] in " ".join(process.info["cmdline"] or ()) and process.children():
            return run_id, process.children()[0]
    raise RuntimeError(f"no process of {run_id}")


def ended(ground: AirflowGround, run_id: str) -> str | None:
    """The task's state, once it runs no more; a cleared one begins again."""
    (task,) = ground.api.task_instances(DAG, run_id)
    return None if task["state"] in ("running", "restarting") else str(task["state"] or "cleared")


if __name__ == "__main__":
    sys.exit(main())
