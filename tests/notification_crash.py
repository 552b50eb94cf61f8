"""A drain of the notification queue that dies at a chosen statement or call, and a scene to let it die in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import requests

from penstock.clients.slack import SlackClient
from penstock.jobs.notifications import NotificationStore, courier
from penstock.warehouse.limits import SharedBreaker
from tests.notification_scene import Scene

CHANNELS, EACH = 2, 2


class Crash(BaseException):
    """The process is gone."""


@contextmanager
def dying_at(step: int, *, after: bool) -> Iterator[None]:
    """The `step`-th statement or call to Slack is the last: it is not made, or its answer is never read. From then on
    nothing of this worker happens any more."""
    taken = 0
    lock = threading.Lock()

    def guard(real: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            nonlocal taken
            with lock:
                taken += 1
                number = taken
            if number > step or (number == step and not after):
                raise Crash
            answer = real(*args, **kwargs)
            if number == step:
                raise Crash
            return answer

        return stepping

    with (
        mock.patch.object(NotificationStore, "_steady", guard(NotificationStore._steady)),
        mock.patch.object(SlackClient, "_call", guard(SlackClient._call)),
        mock.patch.object(SharedBreaker, "allow", guard(SharedBreaker.allow)),
        mock.patch.object(SharedBreaker, "success", guard(SharedBreaker.success)),
    ):
        yield


def drain_dies(scene: Scene, step: int, *, after: bool) -> bool:
    """Two channels and a person, one message of which an earlier worker may have sent; whether the drain died. Raises
    AssertionError for what people then see."""
    requests.post(f"{scene.sandbox_url}/sandbox/reset", timeout=30).raise_for_status()
    requests.put(f"{scene.sandbox_url}/sandbox/slack", json={"channel_seconds": 0.0}, timeout=30).raise_for_status()
    for table in ("public.notification_queue", "penstock.notification_lanes", "public.notification_config"):
        scene.rows(f"delete from {table}")
    expected = {f"C1000{number}": scene.fill(scene.config(f"C1000{number}"), EACH) for number in range(CHANNELS)}
    scene.store(lease=0.0).resolve()
    (lost, *_) = scene.store("dead", lease=0.0).claim(1)
    with (
        mock.patch.multiple(courier, PACE=courier.NO_DELAY, HISTORY_LAG=courier.NO_DELAY),
        mock.patch("penstock.jobs.notifications.drain.RESOLVE_EVERY_S", 0.05),
    ):
        died = _die(scene, step, after=after)
        scene.be_ready()
        scene.drain(horizon=0.2, threads=1)
    assert scene.seen() == expected, (step, after, lost.id)
    assert scene.states() == {"sent": CHANNELS * EACH}, (step, after)
    return died


def _die(scene: Scene, step: int, *, after: bool) -> bool:
    with dying_at(step, after=after):
        try:
            scene.drain(horizon=0.2, threads=1)
        except Crash:
            return True
    return False
