"""A drain of the notification queue dies at a statement or a call, and people see each message once all the same.

Every sixth place here; `python -m bench.soak_notifications everywhere` takes them all.
"""

from __future__ import annotations

import pytest

from penstock.warehouse.session import Warehouse
from sandbox.slack import token
from tests.notification_crash import drain_dies
from tests.notification_scene import Scene
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.db


STRIDE = 6


@pytest.mark.parametrize(("first", "after"), [(2, False), (4, True)])
def test_a_drain_may_die_anywhere(warehouse: Warehouse, sandbox: Sandbox, first: int, after: bool) -> None:
    scene = Scene(warehouse, sandbox.url, token(sandbox.state))
    step = first
    while drain_dies(scene, step, after=after):
        step += STRIDE
    assert step > 20
