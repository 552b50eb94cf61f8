"""The drain dies at a statement or a call, and the calendar is right all the same.

Every sixth place here; `python -m bench.soak_calendar` takes them all.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock.warehouse.session import Warehouse
from tests.calendar_crash import drain_dies, rebuild_dies
from tests.calendar_scene import Scene
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db
STRIDE = 6


@pytest.mark.parametrize(("first", "after"), [(2, False), (4, True)])
@pytest.mark.parametrize("dies", [drain_dies, rebuild_dies])
def test_a_worker_may_die_anywhere(
    warehouse: Warehouse, sandbox: Sandbox, dies: Callable[..., bool], first: int, after: bool
) -> None:
    scene = Scene(warehouse, sandbox.url)
    step = first
    while dies(scene, step, after=after):
        step += STRIDE
    assert step > 8
