from __future__ import annotations

import datetime as dt
import random

from penstock.core.lease import HEARTBEAT, LEASE, retry_delay

MINUTE = dt.timedelta(minutes=1)


def test_retry_delay_grows_up_to_its_cap_and_is_never_short() -> None:
    rng = random.Random(7)
    for failures in range(1, 40):
        ceiling = min(60 * MINUTE, MINUTE * 2 ** (failures - 1))
        delay = retry_delay(failures, base=MINUTE, cap=60 * MINUTE, rng=rng)
        assert ceiling / 2 <= delay <= ceiling


def test_two_workers_do_not_come_back_together() -> None:
    rng = random.Random(7)
    delays = {retry_delay(4, base=MINUTE, cap=60 * MINUTE, rng=rng) for _ in range(20)}
    assert len(delays) == 20


def test_a_healthy_worker_renews_long_before_its_lease_ends() -> None:
    assert HEARTBEAT * 10 < LEASE
