"""`python -m bench.queue_latency`: through Airflow, from the insert into notification_queue to the message in Slack.

    resident  single inserts while a drain stays for its minute; drains take over from each other meanwhile
    cold      single inserts while no drain runs and none is about to: NOTIFY has to start one. The DAG's copy has no
              timetable by the minute (it would start one by itself) and the trigger gathers for 1 s instead of 30
              (it would make us wait between inserts); after each message the drain is told to leave
    sweep     the project's own file, NOTIFY cut: the trigger on the table disabled and Airflow's triggerer stopped.
              Inserts while a drain is resident, then some after the resident was told to leave: the timetable has
              to start the next one

Starts what `make up` starts, in a folder of its own, with this DAG alone. Exits with 1 when an aim was missed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from bench.airflow_ground import DAG, TRIGGER, AirflowGround, airflow_ground, wait_for

AIM_RESIDENT_S, AIM_COLD_S = 1.0, 10.0
SWEPT_COLD = 4
WITHOUT_MINUTES: Mapping[str, str] = {
    'CronTriggerTimetable("* * * * *"': 'CronTriggerTimetable("0 0 1 1 *"',
    "QUIET_SECONDS = 30.0": "QUIET_SECONDS = 1.0",
}


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.queue_latency", description=__doc__)
    parser.add_argument("--inserts", type=int, default=50, help="of each scene")
    parser.add_argument("--only", choices=sorted(SCENES), action="append")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    met = [SCENES[name](options.inserts, random.Random(options.seed)) for name in options.only or SCENES]
    return 0 if all(met) else 1


# -- scenes


def resident(inserts: int, rng: random.Random) -> bool:
    with airflow_ground() as ground:
        wait_for(ground.resident, "a drain is resident")
        _seen_after(ground, "C1WARM", 0)
        holders, seconds = set(), []
        for number in range(inserts):
            time.sleep(rng.uniform(0.5, 4.0))
            holders.add(ground.resident())
            seconds.append(_seen_after(ground, f"C1RES{number:03d}", number))
    _show(f"a drain resident ({len(holders)} of them in turn)", seconds)
    return _p95(seconds) <= AIM_RESIDENT_S


def cold(inserts: int, rng: random.Random) -> bool:
    with airflow_ground(WITHOUT_MINUTES) as ground:
        _seen_after(ground, "C1WARM", 0)
        seconds = []
        for number in range(inserts):
            _send_the_resident_away(ground)
            wait_for(lambda: not ground.live_tasks(), "no drain runs and none is about to")
            _invite(ground)
            time.sleep(1.5 + rng.random())
            assert not ground.live_tasks()
            seconds.append(_seen_after(ground, f"C1COLD{number:03d}", number))
    _show("from cold", seconds)
    return _p95(seconds) <= AIM_COLD_S


def sweep(inserts: int, rng: random.Random) -> bool:
    with airflow_ground() as ground:
        wait_for(ground.resident, "a drain is resident")
        _seen_after(ground, "C1WARM", 0)
        ground.sql(f"alter table notification_queue disable trigger {TRIGGER}")
        os.kill(ground.stack.processes()["triggerer"], signal.SIGSTOP)
        swept = []
        for number in range(inserts):
            time.sleep(rng.uniform(0.5, 4.0))
            swept.append(_seen_after(ground, f"C1SWP{number:03d}", number))
        _show("NOTIFY cut, a drain resident", swept)
        from_cold = [_swept_from_cold(ground, number) for number in range(SWEPT_COLD)]
    _show("NOTIFY cut, from cold: the next minute's run", from_cold)
    return max(from_cold) <= 60.0 + AIM_COLD_S


def _swept_from_cold(ground: AirflowGround, number: int) -> float:
    """Seconds of an insert between the end of a resident that left early and the next minute's run."""
    _wait_for_second(8)
    _send_the_resident_away(ground)
    wait_for(lambda: not ground.live_tasks(), "no drain runs")
    _invite(ground)
    return _seen_after(ground, f"C1SWC{number:03d}", number)


SCENES: Mapping[str, Callable[[int, random.Random], bool]] = {"resident": resident, "cold": cold, "sweep": sweep}


# -- steps


def _seen_after(ground: AirflowGround, channel: str, number: int) -> float:
    """Seconds from the insert to the message, by the clock of this machine, which is also Slack's here."""
    config_id = ground.configure(channel)
    began = time.time()
    row_id = ground.insert(config_id, number)
    stamps = wait_for(lambda: ground.stamps().get(row_id), f"the message in {channel}", pause=0.1)
    return stamps[0] - began


def _send_the_resident_away(ground: AirflowGround) -> None:
    """Take its place, as the next minute's drain would: it leaves at its next look."""
    ground.sql(
        "insert into penstock.drain_residents (queue, leased_by, leased_until) "
        "values ('notifications', 'bench', clock_timestamp() + interval '1 hour') on conflict (queue) do update "
        "set leased_by = excluded.leased_by, leased_until = excluded.leased_until"
    )


def _invite(ground: AirflowGround) -> None:
    """Let the next drain be resident."""
    ground.sql("delete from penstock.drain_residents where leased_by = 'bench'")


def _wait_for_second(second: int) -> None:
    while int(time.time()) % 60 != second:
        time.sleep(0.2)


def _p95(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=20, method="inclusive")[-1]


def _show(what: str, seconds: Sequence[float]) -> None:
    print(
        f"{DAG}: insert -> seen in Slack, {what}: {len(seconds)} inserts, median {statistics.median(seconds):.2f} s, "
        f"p95 {_p95(seconds):.2f} s, all {min(seconds):.2f} to {max(seconds):.2f} s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
