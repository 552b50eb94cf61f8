"""Vendor pages to staging. A run is cut into slices once; every page is saved together with the place it stopped at,
so a run that dies goes on at its last saved page, whoever takes it over."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from penstock.core.errors import (
    AuthError,
    PenstockError,
    QuotaExhausted,
    RateLimited,
    error,
)
from penstock.core.lease import CLAIM_LEASE
from penstock.jobs.accounts import StoredAccount, load_account
from penstock.jobs.platform_etl.context import (
    SERVICE,
    SQL,
    HeldRun,
    RunContext,
    RunWaiting,
    VendorClient,
    begin_stage,
    delay_of,
    give_up_on_defect,
    give_up_or_retry,
    require_lease,
)
from penstock.jobs.platform_etl.cursors import cursors_of
from penstock.jobs.platform_etl.planning import Plan, Wish, plan
from penstock.jobs.platform_etl.reading import CallCounter, Reading, counts_of
from penstock.sources.stream import Account, Profile, Slice
from penstock.warehouse import failures

log = logging.getLogger(__name__)
TASK = "extract"

QUOTA_PATIENCE = dt.timedelta(hours=24)
"""Without a page. The longest quotas of the vendors are a day's; a run that reads one page a day goes on."""


def extract(context: RunContext) -> dict[str, Any]:
    """Reads every open slice of the run into staging.

    Returns counts for the task's XCom. Raises RunWaiting when a quota put the run back (after a day of that it goes on
    without what is missing; QUOTA_STALLED when that is all), the run's own error when nothing could be read or nobody
    may go on, and a retryable error while the task has tries left.
    """
    held = _begin(context)
    calls = CallCounter()
    try:
        return _read_as_registered(context, held, calls)
    except psycopg.Error as broken:
        cause = failures.classify(broken)
        give_up_or_retry(context, held, cause, task=TASK, api_calls=calls.take())
        raise cause from broken
    except RunWaiting:
        raise
    except (RateLimited, QuotaExhausted) as limited:
        if _waits_too_long(context, held):
            stalled = error("QUOTA_STALLED", f"no page in {QUOTA_PATIENCE}; the vendor's last word: {limited}")
            if counts := _go_on_without(context, held, calls, stalled):
                return counts
            give_up_or_retry(context, held, stalled, task=TASK, api_calls=calls.take())
            raise stalled from None
        raise _put_back(context, held, limited, calls.take()) from None
    except PenstockError as cause:
        give_up_or_retry(context, held, cause, task=TASK, api_calls=calls.take())
        raise
    except Exception as defect:
        give_up_on_defect(context, held, defect, task=TASK, api_calls=calls.take())
        raise


def _read_as_registered(context: RunContext, held: HeldRun, calls: CallCounter) -> dict[str, Any]:
    """Reads with the account's credentials. When they were exchanged meanwhile, and the vendor refuses the old ones, it
    goes on with the new ones: a history takes hours, and nobody has to act."""
    stored = _stored(context, held)
    while True:
        try:
            return _read(context, held, stored, calls)
        except AuthError as refused:
            before, stored = stored, _stored(context, held)
            if stored.credentials == before.credentials:
                raise
            log.warning("%s; the account has other credentials by now", refused)


def _stored(context: RunContext, held: HeldRun) -> StoredAccount:
    with context.warehouse.connection() as conn:
        return load_account(conn, context.vault, held.connection_id)


def _read(context: RunContext, held: HeldRun, stored: StoredAccount, calls: CallCounter) -> dict[str, Any]:
    client = context.open_client(context.source, stored.account, stored.credentials)
    calls.watch(client)
    try:
        account = _profiled(context, held, client, stored.account)
        _prepare_slices(context, held, account)
        if held.is_dry_run:
            return _dry_run(context, held, client)
        return Reading(context, held, client, account, calls).run()
    finally:
        client.close()


def _begin(context: RunContext) -> HeldRun:
    """Takes the run. One that had succeeded whole was cleared by a person, who wants it read again: it forgets its
    slices in the same moment. Any other keeps what it has read, however long ago and whoever takes it over."""
    with context.warehouse.transaction() as conn:
        held = begin_stage(context, is_first=True)
        if held.had_succeeded and not _is_open(_slices(conn, held)):
            conn.execute(SQL["begin_anew"], held.key)
            conn.execute(SQL["remove_slices"], held.key)
    return held


def _slices(conn: psycopg.Connection[Any], held: HeldRun) -> list[dict[str, Any]]:
    return conn.cursor(row_factory=dict_row).execute(SQL["slices"], held.key).fetchall()


def _is_open(rows: list[dict[str, Any]]) -> bool:
    """Whether some of these slices are still to be read."""
    return any(row["status"] in ("PENDING", "FAILED") for row in rows)


def _waits_too_long(context: RunContext, held: HeldRun) -> bool:
    """Whether another wait would be one too many. A run that is put back for ever would never be heard of."""
    parameters = held.key | {"patience": QUOTA_PATIENCE}
    with context.warehouse.connection() as conn:
        return conn.execute(SQL["waits_too_long"], parameters).fetchone() is not None


def _go_on_without(
    context: RunContext, held: HeldRun, calls: CallCounter, stalled: PenstockError
) -> dict[str, Any] | None:
    """The counts of a run that is loaded without what it has waited for in vain; None when it has read nothing."""
    stalled.service, stalled.task = SERVICE, TASK
    with context.warehouse.transaction() as conn:
        require_lease(conn.execute(SQL["lock_lease"], held.key).fetchone(), held)
        if not any(row["status"] == "DONE" for row in _slices(conn, held)):
            return None
        conn.execute(SQL["fail_open_slices"], held.key | {"error": Jsonb(stalled.as_json())})
        api_calls = calls.take()
        conn.execute(SQL["renew_lease"], held.key | {"lease": CLAIM_LEASE, "api_calls": api_calls})
        return counts_of(held, _slices(conn, held), api_calls)


def _put_back(context: RunContext, held: HeldRun, cause: PenstockError, api_calls: int) -> RunWaiting:
    """Back into the queue until the vendor's reset, told as a delay: the database's clock decides when it is over."""
    now = context.now()
    delay = delay_of(cause, now)
    parameters = held.key | {"delay": delay, "error": Jsonb(cause.as_json()), "api_calls": api_calls}
    with context.warehouse.connection() as conn:
        require_lease(conn.execute(SQL["put_back"], parameters).fetchone(), held)
    return RunWaiting(cause, now + delay)


def _profiled(context: RunContext, held: HeldRun, client: VendorClient, account: Account) -> Account:
    """The account with what the vendor says of it: its zone and currency are read, never guessed."""
    source = context.source
    bodies = [client.send(request) for request in source.profile_requests(account)]
    profile = source.profile(account, bodies)
    if profile.problem:
        raise error(profile.problem, f"account {account.account_id} ({profile.name}) cannot be read")
    _check_zone(profile)
    with context.warehouse.transaction() as conn:
        _store_profile(conn, held, profile)
        _note_findings(conn, held, account, profile)
    return Account(
        connection_id=account.connection_id,
        shop_id=account.shop_id,
        account_id=account.account_id,
        name=profile.name,
        time_zone=profile.time_zone,
        currency=profile.currency,
        settings=account.settings,
        facts={**account.facts, **profile.facts},
    )


def _check_zone(profile: Profile) -> None:
    """Raises CONFIG_INVALID for a zone that this machine does not know: its days could not be cut."""
    try:
        ZoneInfo(profile.time_zone)
    except (LookupError, ValueError):
        raise error("CONFIG_INVALID", f"the vendor names an unknown time zone {profile.time_zone!r}") from None


def _store_profile(conn: psycopg.Connection[Any], held: HeldRun, profile: Profile) -> None:
    parameters = {
        "connection_id": held.connection_id,
        "name": profile.name,
        "time_zone": profile.time_zone,
        "currency": profile.currency,
        "facts": Jsonb({**profile.facts, "read_as": _read_as(profile)}),
        "shop_id": held.shop_id,
    }
    conn.execute(SQL["store_profile"], parameters)
    conn.execute(SQL["complete_shop"], parameters)


def _read_as(profile: Profile) -> dict[str, str]:
    """What the account's days are cut and its money is counted in. The columns of the row do not tell what our own runs
    used: the metrics sync stores what it hears there too."""
    return {"time_zone": profile.time_zone, "currency": profile.currency}


def _note_findings(conn: psycopg.Connection[Any], held: HeldRun, account: Account, profile: Profile) -> None:
    """What the profile says that a person should know; `transform` tells it once."""
    found = [(code, "", message) for code, message in profile.findings.items()]
    now, before = _read_as(profile), account.facts.get("read_as", {})
    for name, old in before.items():
        if now[name] != old:
            change = f"{name}: {old} -> {now[name]}"
            found.append(("ACCOUNT_CHANGED", change, f"the vendor has changed the account's {change}"))
    for code, scope, message in found:
        log.warning("%s: %s", code, message)
        finding = {"run_id": held.lease.row_id, "check_code": code, "scope": scope, "severity": "WARN"}
        detail = Jsonb({"message": message})
        conn.execute(SQL["add_finding"], finding | {"observed": None, "expected": None, "detail": detail})


def _prepare_slices(context: RunContext, held: HeldRun, account: Account) -> None:
    """Plans the run the first time; later tries find its slices and open the failed ones again."""
    with context.warehouse.transaction() as conn:
        require_lease(conn.execute(SQL["lock_lease"], held.key).fetchone(), held)
        known = _slices(conn, held)
        if _is_open(known):
            conn.execute(SQL["reopen_slices"], held.key)
        if known:
            return
        _insert_slices(conn, held, _plan(conn, context, held, account))


def _plan(conn: psycopg.Connection[Any], context: RunContext, held: HeldRun, account: Account) -> Plan:
    wish = Wish(
        job_type=held.job_type,
        window_start=held.window_start,
        window_end=held.window_end,
        streams=held.streams,
        cursors=cursors_of(conn, context.source, account, held),
    )
    return plan(context.source, account, wish, context.now())


def _insert_slices(conn: psycopg.Connection[Any], held: HeldRun, planned: Plan) -> None:
    for warning in planned.warnings:
        log.warning("%s", warning)
    conn.cursor().executemany(SQL["add_slice"], [slice_row(held, each, None) for each in planned.slices])


def slice_row(held: HeldRun, each: Slice, parent_slice_no: int | None) -> dict[str, Any]:
    return {
        "run_id": held.lease.row_id,
        "slice_no": each.slice_no,
        "parent_slice_no": parent_slice_no,
        "stream": each.stream,
        "params": Jsonb(dict(each.params)),
        "window_start": each.start,
        "window_end": each.end,
        "page_size": each.page_size,
    }


def _dry_run(context: RunContext, held: HeldRun, client: VendorClient) -> dict[str, Any]:
    """What the run would read; nothing is asked of the vendor beyond the account itself, nothing is written."""
    with context.warehouse.connection() as conn:
        rows = _slices(conn, held)
    for row in rows:
        log.info(
            "would read %s %s [%s, %s)", row["stream"], row["params"] or "", row["window_start"], row["window_end"]
        )
    return {"run_id": held.lease.row_id, "slices": len(rows), "requests": client.requests, "is_dry_run": True}
