"""`python -m penstock.hooks.check`: says of every connection and every active account whether it works.

Prints one line each: ok, or the code, the cause and what to do. Exits 1 when any of them failed. With `--json` the
same as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Set
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from penstock.core.errors import PenstockError, error

if TYPE_CHECKING:
    from penstock.hooks.vendor import VendorHook
    from penstock.warehouse.session import Warehouse


Outcome = tuple[bool, str]
"""Whether it works; what to say of it."""


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
    from penstock.hooks.connections import FALLBACKS
    from penstock.hooks.registry import HOOKS

    answering = set()
    for conn_id in ("warehouse", *filter(_is_given, FALLBACKS)):
        database = _attempt(f"connection {conn_id}", partial(_database, conn_id))
        answering |= {conn_id} if database.is_ok else set()
        yield database
    yield _attempt("connection vault", _vault)
    for hook in (make() for make in HOOKS.values()):
        yield _attempt(f"connection {hook.conn_id}", partial(_vendor, hook))
    for app_hook in (make() for make in APP_HOOKS.values()):
        yield _attempt(f"connection {app_hook.conn_id}", partial(_public, app_hook))
    yield _attempt("connection nivoda", _nivoda)
    yield _attempt("connection google_calendar", _google_calendar)
    yield _attempt("connection slack", _slack)
    yield from _accounts_of(answering)


def _is_given(conn_id: str) -> bool:
    """Whether the database has a connection of its own, rather than the warehouse's."""
    from penstock.hooks.connections import own_connection

    return own_connection(conn_id) is not None


def _database(conn_id: str) -> Outcome:
    from penstock.hooks.warehouse import WarehouseHook

    return WarehouseHook(conn_id).test_connection()


def _vendor(hook: VendorHook) -> Outcome:
    """What cannot be tried here is no fault: every account's own credentials are tried below."""
    try:
        hook.credentials()
    except PenstockError as exc:
        if exc.code != "CREDENTIAL_NOT_FOUND":
            raise
        return True, "no credential of its own: accounts have to carry theirs"
    if hook.needs_account and not hook.test_account_id:
        return True, "has a credential, tried with the accounts below"
    return hook.test_connection()


def _nivoda() -> Outcome:
    from penstock.hooks.nivoda import NivodaHook

    hook = NivodaHook()
    return hook.test_connection() if hook.is_configured else (True, "not configured: no diamonds are read")


def _google_calendar() -> Outcome:
    from penstock.hooks.google_calendar import GoogleCalendarHook

    hook = GoogleCalendarHook()
    return hook.test_connection() if hook.is_configured else (True, "not configured: no calendar is written")


def _slack() -> Outcome:
    from penstock.hooks.slack import SlackAlertHook

    hook = SlackAlertHook()
    return hook.test_connection() if hook.client else (True, "not configured: alerts stay in the task logs")


def _public(hook: VendorHook) -> Outcome:
    """A vendor that asks for no credential is not called unless somebody wants it."""
    from penstock.hooks.connections import find_connection

    if find_connection(hook.conn_id) is None:
        return True, "not configured: the public address is read"
    return _vendor(hook)


def _vault() -> Outcome:
    from penstock.hooks.vault import open_vault

    vault = open_vault()
    plain, _ = vault.decrypt(vault.encrypt("penstock", "check"), "check")
    if plain != "penstock":
        raise error("CREDENTIAL_UNDECRYPTABLE", "what the newest key encrypted does not decrypt")
    return True, "the newest key encrypts and decrypts"


def _accounts_of(answering: Set[str]) -> Iterator[Finding]:
    """Those of the ETL, and those of the metrics sync, which the agency's database has where it is one of its own."""
    from penstock.hooks.warehouse import WarehouseHook

    found = (WarehouseHook(conn_id).warehouse for conn_id in ("warehouse", "agency_db") if conn_id in answering)
    for warehouse in {each.dsn: each for each in found}.values():
        with warehouse:
            yield from _accounts(warehouse)


def _accounts(warehouse: Warehouse) -> Iterator[Finding]:
    import psycopg

    from penstock.hooks.vendor import explained
    from penstock.warehouse.failures import classify

    try:
        with warehouse.connection() as connection:
            rows = connection.execute(
                "select id::text, platform, account_id, coalesce(account_name, '') from public.platform_connections "
                "where is_active is not false order by platform, account_id"
            ).fetchall()
    except psycopg.Error as exc:
        yield Finding("accounts", False, explained(classify(exc)))
        return
    for connection_id, platform, account_id, name in rows:
        what = f"account {platform} {account_id} {name}".rstrip()
        yield _attempt(what, partial(_account, warehouse, connection_id))


def _account(warehouse: Warehouse, connection_id: str) -> Outcome:
    from penstock import sources
    from penstock.hooks.registry import client_for
    from penstock.hooks.vault import open_vault
    from penstock.hooks.vendor import check
    from penstock.jobs.accounts import load_account

    with warehouse.connection() as connection:
        stored = load_account(connection, open_vault(), connection_id)
    source = sources.by_platform(stored.platform)
    return True, check(client_for(warehouse, source, stored.account, stored.credentials))


def _attempt(what: str, attempt: Callable[[], Outcome]) -> Finding:
    """What an attempt found. One that fails as nobody foresaw must not keep the others from being made."""
    from penstock.hooks.vendor import explained

    try:
        return Finding(what, *attempt())
    except PenstockError as exc:
        return Finding(what, False, explained(exc))
    except Exception as exc:  # noqa: BLE001
        return Finding(what, False, explained(_unforeseen(exc)))


def _unforeseen(failure: Exception) -> PenstockError:
    """Its own text may quote a secret: its kind and its place have to do."""
    place = traceback.extract_tb(failure.__traceback__)[-1]
    return error("UNKNOWN", f"{type(failure).__name__} in {place.filename}:{place.lineno}")


if __name__ == "__main__":
    sys.exit(main())
