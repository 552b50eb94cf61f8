"""`python -m penstock.hooks.check`: says of every connection and every active account whether it works.

Prints one line each: ok, or the code, the cause and what to do. Exits 1 when any of them failed. With `--json` the
same as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from penstock.core.errors import PenstockError, error

if TYPE_CHECKING:
    from penstock.hooks.vendor import VendorHook
    from penstock.warehouse.session import Warehouse


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    what: str
    is_ok: bool
    text: str

    def line(self, width: int) -> str:
        return f"{self.what:<{width}}  {'ok' if self.is_ok else 'FAILED':<6}  {self.text}"


def main(arguments: list[str] | None = None) -> int:
    """Checks everything; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m penstock.hooks.check", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    options = parser.parse_args(arguments)
    # Connections made in the UI are in Airflow's database, which Airflow shows only to what calls itself a server.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    failed = False
    for finding in findings():
        print(json.dumps(asdict(finding)) if options.json else finding.line(width=44), flush=True)
        failed = failed or not finding.is_ok
    return 1 if failed else 0


def findings() -> Iterator[Finding]:
    """One finding per connection, then one per active account."""
    from penstock.hooks.app_sources import APP_HOOKS
    from penstock.hooks.registry import HOOKS
    from penstock.hooks.slack import SlackAlertHook
    from penstock.hooks.warehouse import WarehouseHook

    warehouse_hook = WarehouseHook()
    is_ok, text = warehouse_hook.test_connection()
    yield Finding("connection warehouse", is_ok, text)
    yield _attempt("connection vault", _vault)
    for hook in HOOKS.values():
        yield _vendor(hook())
    for app_hook in APP_HOOKS.values():
        yield _public(app_hook())
    yield _nivoda()
    yield _google_calendar()
    slack = SlackAlertHook()
    if slack.client is None:
        yield Finding("connection slack", True, "not configured: alerts stay in the task logs")
    else:
        yield Finding("connection slack", *slack.test_connection())
    if is_ok:
        with warehouse_hook.warehouse as warehouse:
            yield from _accounts(warehouse)
            yield from _accounts_of_agency(warehouse)


def _vendor(hook: VendorHook) -> Finding:
    """What cannot be tried here is no fault: every account's own credentials are tried below."""
    what = f"connection {hook.conn_id}"
    try:
        hook.credentials()
    except PenstockError as exc:
        if exc.code == "CREDENTIAL_NOT_FOUND":
            return Finding(what, True, "no credential of its own: accounts have to carry theirs")
    if hook.needs_account and not hook.test_account_id:
        return Finding(what, True, "has a credential, tried with the accounts below")
    return Finding(what, *hook.test_connection())


def _nivoda() -> Finding:
    from penstock.hooks.nivoda import NivodaHook

    hook = NivodaHook()
    if not hook.is_configured:
        return Finding("connection nivoda", True, "not configured: no diamonds are read")
    return Finding("connection nivoda", *hook.test_connection())


def _google_calendar() -> Finding:
    from penstock.hooks.google_calendar import GoogleCalendarHook

    hook = GoogleCalendarHook()
    if not hook.is_configured:
        return Finding("connection google_calendar", True, "not configured: no calendar is written")
    return Finding("connection google_calendar", *hook.test_connection())


def _public(hook: VendorHook) -> Finding:
    """A vendor that asks for no credential is not called unless somebody wants it."""
    from penstock.hooks.connections import find_connection

    if find_connection(hook.conn_id) is None:
        return Finding(f"connection {hook.conn_id}", True, "not configured: the public address is read")
    return _vendor(hook)


def _vault() -> str:
    from penstock.hooks.vault import open_vault

    vault = open_vault()
    plain, _ = vault.decrypt(vault.encrypt("penstock", "check"), "check")
    if plain != "penstock":
        raise error("CREDENTIAL_UNDECRYPTABLE", "what the newest key encrypted does not decrypt")
    return "the newest key encrypts and decrypts"


def _accounts(warehouse: Warehouse) -> Iterator[Finding]:
    import psycopg

    from penstock.hooks.vendor import explained
    from penstock.warehouse.failures import classify

    try:
        with warehouse.connection() as connection:
            rows = connection.execute(
                "select id::text, platform, account_id, coalesce(account_name, '') from public.platform_connections "
                "where is_active order by platform, account_id"
            ).fetchall()
    except psycopg.Error as exc:
        yield Finding("accounts", False, explained(classify(exc)))
        return
    for connection_id, platform, account_id, name in rows:
        what = f"account {platform} {account_id} {name}".rstrip()
        yield _attempt(what, lambda connection_id=connection_id: _account(warehouse, connection_id))


def _accounts_of_agency(warehouse: Warehouse) -> Iterator[Finding]:
    """Those of the metrics sync, where the agency has a database of its own."""
    from penstock.hooks.warehouse import WarehouseHook

    agency = WarehouseHook("agency_db").warehouse
    if agency.dsn != warehouse.dsn:
        with agency:
            yield from _accounts(agency)


def _account(warehouse: Warehouse, connection_id: str) -> str:
    from penstock import sources
    from penstock.hooks.registry import client_for
    from penstock.hooks.vault import open_vault
    from penstock.hooks.vendor import check
    from penstock.jobs.accounts import load_account

    with warehouse.connection() as connection:
        stored = load_account(connection, open_vault(), connection_id)
    source = sources.by_platform(stored.platform)
    return check(client_for(warehouse, source, stored.account, stored.credentials))


def _attempt(what: str, attempt: Callable[[], str]) -> Finding:
    from penstock.hooks.vendor import explained

    try:
        return Finding(what, True, attempt())
    except PenstockError as exc:
        return Finding(what, False, explained(exc))


if __name__ == "__main__":
    sys.exit(main())
