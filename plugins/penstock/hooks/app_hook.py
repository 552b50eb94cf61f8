"""What the hooks of vendors of keyed sources share: no accounts, one client for everybody."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from penstock.hooks.vendor import Unlimited, VendorHook

if TYPE_CHECKING:
    from penstock.clients.transport import VendorClient
    from penstock.sources.ports import Breaker, Limiter


class AppHook(VendorHook):
    """A vendor that is asked for items by their key."""

    needs_account: ClassVar[bool] = False

    @abstractmethod
    def open_app_client(
        self, limiter: Limiter, breaker: Breaker, sleep: Callable[[float], None] = time.sleep
    ) -> VendorClient:
        """A client that shares its pace with every other one."""

    def get_conn(self) -> VendorClient:
        """A client for a call by hand; unpaced."""
        return self.open_app_client(Unlimited(), Unlimited())
