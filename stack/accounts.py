"""The accounts that a stack works on: those of the sandbox, and those that a deployment names in its environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from penstock.clients.credentials import Credentials
from penstock.clients.klaviyo import KlaviyoClient
from penstock.core.errors import PenstockError
from penstock.jobs.accounts import register_account
from penstock.sources.klaviyo import LIMITS
from penstock.warehouse.limits import SharedBreaker, SharedLimiter
from penstock.warehouse.session import Connection, Warehouse
from penstock.warehouse.vault import Vault
from stack import sandbox
from stack.plan import KLAVIYO, Plan, Vendor

SANDBOX = "sandbox"
ENVIRONMENT = "environment"

# An account that this start does not name any more would be called with another vendor's credentials: it is parked,
# and comes back when it is named again. Accounts that people made, or other installations, are theirs.
_PARK = """
update public.platform_connections
set is_active = false, settings = settings || '{"is_parked": true}', updated_at = now()
where settings ->> 'registered_from' = %(installation)s and is_active is not false and not id = any(%(kept)s::uuid[])
returning platform, account_id
"""
_UNPARK = """
update public.platform_connections
set is_active = true, settings = settings - 'is_parked', updated_at = now()
where id = any(%(kept)s::uuid[]) and settings ? 'is_parked'
"""
_KNOWN = """
select account_id
from public.platform_connections
where
    platform = %(platform)s and is_active is not false
    and settings ->> 'registered_by' = %(origin)s and settings ->> 'registered_from' = %(installation)s
order by account_id
"""


@dataclass(frozen=True, slots=True)
class Registered:
    """An account that the stack has registered."""

    source: str
    platform: str
    account_id: str
    connection_id: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """An account to register; without credentials of its own it uses the Airflow connection's."""

    vendor: Vendor
    shop_id: str
    shop_name: str
    account_id: str
    account_name: str
    origin: str
    credentials: Mapping[str, str] | None = field(default=None, repr=False)
    time_zone: str | None = None
    currency: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def register(
    plan: Plan,
    *,
    warehouse_dsn: str,
    vault_keys: str,
    sandbox_url: str | None,
    installation: str,
    say: Callable[[str], None],
) -> list[Registered]:
    """Register every account of the plan and park those that earlier starts registered and this one does not.

    installation: by what this stack knows its own accounts; several may share a warehouse.
    """
    vault = Vault.from_environment({**plan.values, "PENSTOCK_ENCRYPTION_KEYS": vault_keys})
    with closing(Warehouse(warehouse_dsn)) as warehouse:
        candidates = [*of_environment(plan), *of_klaviyos_key(plan, warehouse, installation, say)]
        if sandbox_url:
            candidates += of_sandbox(plan, sandbox.accounts(sandbox_url))
        registered = [_register(warehouse, vault, candidate, installation) for candidate in candidates]
        with warehouse.transaction() as connection:
            _park(connection, [account.connection_id for account in registered], installation, say)
    for vendor in (*plan.real, *plan.sandboxed):
        count = sum(account.source == vendor.conn_id for account in registered)
        if vendor.platform and count:
            say(f"{vendor.title}: {count} account{'s' if count > 1 else ''} registered")
        elif vendor.platform:
            say(f"{vendor.title}: accounts of platform_connections ({vendor.account} is not set)")
    return registered


def of_sandbox(plan: Plan, answer: Sequence[Mapping[str, Any]]) -> Iterator[Candidate]:
    """The sandbox's accounts of those vendors that it stands in for."""
    vendors = {vendor.platform: vendor for vendor in plan.sandboxed if vendor.platform}
    for item in answer:
        vendor = vendors.get(item["platform"])
        if vendor is not None:
            yield Candidate(
                vendor=vendor,
                shop_id=item["shop_id"],
                shop_name=item["shop_name"],
                account_id=item["account_id"],
                account_name=item["account_name"],
                origin=SANDBOX,
                credentials=item["credentials"],
                time_zone=item["time_zone"],
                currency=item["currency"],
                settings=item["settings"],
            )


def of_environment(plan: Plan) -> Iterator[Candidate]:
    """The accounts that variables name: several ids are separated by commas. They belong to the shop SHOP_ID."""
    for vendor in plan.real:
        if vendor.platform is None or vendor.account is None:
            continue
        for part in plan.values.get(vendor.account, "").split(","):
            account_id = part.strip().removeprefix("act_").removeprefix("properties/")
            if account_id:
                yield _of_the_shop(plan, vendor, account_id)


def of_klaviyos_key(
    plan: Plan, warehouse: Warehouse, installation: str, say: Callable[[str], None]
) -> Iterator[Candidate]:
    """The account of Klaviyo's private key, where no variable names it: the old worker knew the key alone, and a key
    belongs to one account. Klaviyo is asked; while it does not answer, the account of the last start stays."""
    key = plan.values.get(KLAVIYO.credential)
    is_named = KLAVIYO.account is not None and bool(plan.values.get(KLAVIYO.account))
    if not key or is_named or KLAVIYO.conn_id in plan.given_connections:
        return
    try:
        found = [_account_of(key, plan, warehouse)]
    except PenstockError as failure:
        say(f"{KLAVIYO.title}: which account the key belongs to cannot be told: {failure} What to do: {failure.remedy}")
        known = {"platform": KLAVIYO.platform, "origin": ENVIRONMENT, "installation": installation}
        with warehouse.connection() as connection:
            found = [row[0] for row in connection.execute(_KNOWN, known)]
    for account_id in found:
        yield _of_the_shop(plan, KLAVIYO, account_id)


def _account_of(key: str, plan: Plan, warehouse: Warehouse) -> str:
    base_url = plan.values.get(KLAVIYO.base_url) or KLAVIYO.default_url
    credentials = Credentials(base_url, key, extra={"revision": plan.values.get("KLAVIYO_REVISION")})
    client = KlaviyoClient(credentials, "", LIMITS, SharedLimiter(warehouse), SharedBreaker(warehouse))
    with closing(client):
        return client.own_account_id()


def _of_the_shop(plan: Plan, vendor: Vendor, account_id: str) -> Candidate:
    shop_id = plan.values.get("SHOP_ID") or "default"
    return Candidate(
        vendor=vendor,
        shop_id=shop_id,
        shop_name=plan.values.get("SHOP_NAME") or shop_id,
        account_id=account_id,
        account_name=account_id,
        origin=ENVIRONMENT,
    )


def _register(warehouse: Warehouse, vault: Vault, candidate: Candidate, installation: str) -> Registered:
    platform = candidate.vendor.platform or ""
    connection_id = register_account(
        warehouse,
        vault,
        platform=platform,
        shop_id=candidate.shop_id,
        shop_name=candidate.shop_name,
        account_id=candidate.account_id,
        account_name=candidate.account_name,
        credentials=candidate.credentials,
        time_zone=candidate.time_zone,
        currency=candidate.currency,
        settings={**candidate.settings, "registered_by": candidate.origin, "registered_from": installation},
    )
    return Registered(candidate.vendor.conn_id, platform, candidate.account_id, connection_id)


def _park(connection: Connection, kept: Sequence[str], installation: str, say: Callable[[str], None]) -> None:
    connection.execute(_UNPARK, {"kept": list(kept)})
    values = {"kept": list(kept), "installation": installation}
    for platform, account_id in connection.execute(_PARK, values).fetchall():
        say(f"{platform} {account_id}: parked, because this start does not name it")
