"""The hook of each source, and what a stage of a run is handed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from penstock.core.errors import error
from penstock.hooks.ga4 import GA4Hook
from penstock.hooks.google_ads import GoogleAdsHook
from penstock.hooks.klaviyo import KlaviyoHook
from penstock.hooks.meta_ads import MetaAdsHook
from penstock.hooks.vault import open_vault
from penstock.hooks.vendor import VendorHook

if TYPE_CHECKING:
    from penstock.clients.transport import VendorClient
    from penstock.jobs.platform_etl import RunContext
    from penstock.sources.stream import Account, Source
    from penstock.warehouse.session import Warehouse

HOOKS: Mapping[str, Callable[[], VendorHook]] = {
    "meta_ads": MetaAdsHook,
    "ga4": GA4Hook,
    "klaviyo": KlaviyoHook,
    "google_ads": GoogleAdsHook,
}
"""Registry name of a source -> its hook. The default connection id is the name."""


def hook_for(source: str) -> VendorHook:
    """The hook of a source. Raises SOURCE_NOT_SUPPORTED."""
    if source not in HOOKS:
        raise error("SOURCE_NOT_SUPPORTED", f"there is no hook for source {source!r}")
    return HOOKS[source]()


def client_for(
    warehouse: Warehouse, source: Source, account: Account, credentials: Mapping[str, str] | None
) -> VendorClient:
    """A client for one account, paced by the limits that all workers share through the warehouse."""
    from penstock.warehouse.limits import SharedBreaker, SharedLimiter

    limiter, breaker = SharedLimiter(warehouse), SharedBreaker(warehouse)
    return hook_for(source.name).open_client(account, source.limits, limiter, breaker, credentials)


def run_context(warehouse: Warehouse, claimed: Mapping[str, Any], *, is_last_try: bool) -> RunContext:
    """What a stage of the claimed run works with."""
    from penstock.jobs.platform_etl import RunContext

    def open_client(source: Source, account: Account, credentials: Mapping[str, str] | None) -> VendorClient:
        return client_for(warehouse, source, account, credentials)

    return RunContext(
        warehouse=warehouse, vault=open_vault(), run=claimed, open_client=open_client, is_last_try=is_last_try
    )
