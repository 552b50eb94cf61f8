"""Access tokens that all workers on all machines share: encrypted rows in Postgres, renewed by one worker at a time."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from penstock.core.errors import AuthError, PenstockError, error
from penstock.sources.tokens import LocalTokens, Token
from penstock.warehouse.session import Warehouse
from penstock.warehouse.vault import Vault

log = logging.getLogger(__name__)

LEASE_SECONDS = 90.0
"""After so long the next worker logs in, whatever the first one does: what that one brings later is not stored."""

POLL_SECONDS = 0.25
MAX_MESSAGE_CHARACTERS = 500

_LOOK = """
select token, renew_at, failure_code, failure, failed_at >= %(since)s
from penstock.vendor_tokens where token_key = %(key)s
"""
_NOW = "select clock_timestamp()"
_CLAIM = """
insert into penstock.vendor_tokens as t (token_key, leased_by, leased_until, lease_epoch)
values (%(key)s, %(me)s, clock_timestamp() + make_interval(secs => %(lease)s), 1)
on conflict (token_key) do update set
    leased_by = excluded.leased_by, leased_until = excluded.leased_until, lease_epoch = t.lease_epoch + 1,
    updated_at = clock_timestamp()
where t.leased_until is null or t.leased_until < clock_timestamp() or t.leased_by = excluded.leased_by
returning t.lease_epoch
"""
_STORE = """
update penstock.vendor_tokens set
    token = %(token)s, renew_at = %(renew_at)s, leased_until = null, leased_by = null, failure_code = null,
    failure = null, failed_at = null, updated_at = clock_timestamp()
where token_key = %(key)s and lease_epoch = %(epoch)s
"""
_RELEASE = """
update penstock.vendor_tokens set
    leased_until = null, leased_by = null, failure_code = %(code)s, failure = %(failure)s,
    failed_at = case when %(code)s::text is null then null else clock_timestamp() end, updated_at = clock_timestamp()
where token_key = %(key)s and lease_epoch = %(epoch)s
"""


@dataclass(frozen=True, slots=True)
class _Row:
    """What the table holds of a key: a token that may be used, or how the last login since we began has failed."""

    token: Token | None
    failure: PenstockError | None


class SharedTokens:
    """`sources.tokens.TokenStore` on the table `penstock.vendor_tokens`.

    Parameters
    ----------
    warehouse: uses its shared connection, so that a new token is there for all at once.
    vault: without a key nothing is stored, and every process logs in by itself.
    clock: now, as an aware instant. sleep: seconds.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        vault: Vault,
        *,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._warehouse = warehouse
        self._vault = vault
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._held: dict[str, Token] = {}
        self._local = LocalTokens(clock)

    def get(self, key: str, login: Callable[[], Token], refused: str | None = None) -> str:
        """See `TokenStore`. A login that another worker has just seen refused is not tried again: its error is raised,
        because a vendor locks a user after a few of them."""
        if not self._vault.can_encrypt:
            return self._local.get(key, self._unshared(login), refused)
        with self._lock:
            held = self._held.get(key)
            if held is None or not held.is_good(self._clock(), refused):
                held = self._held[key] = self._fetch(key, login, refused)
            return held.value

    def _fetch(self, key: str, login: Callable[[], Token], refused: str | None) -> Token:
        """The stored token, or a new one that this worker, or another one meanwhile, has got."""
        me = uuid.uuid4().hex
        began = self._warehouse.run_shared(_NOW, {})
        since = began[0] if began else self._clock()
        while True:
            row = self._look(key, since, refused)
            if row.token is not None:
                return row.token
            if row.failure is not None:
                raise row.failure
            claimed = self._warehouse.run_shared(_CLAIM, {"key": key, "me": me, "lease": LEASE_SECONDS})
            if claimed is not None:
                return self._renew(key, login, refused, since, int(claimed[0]))
            self._sleep(POLL_SECONDS)

    def _renew(
        self, key: str, login: Callable[[], Token], refused: str | None, since: dt.datetime, epoch: int
    ) -> Token:
        lease = {"key": key, "epoch": epoch}
        # Whoever had the lease before may have been just done.
        row = self._look(key, since, refused)
        if row.token is not None or row.failure is not None:
            self._warehouse.run_shared(_RELEASE, {**lease, **_failure(row.failure)})
        if row.failure is not None:
            raise row.failure
        if row.token is not None:
            return row.token
        try:
            token = login()
        except PenstockError as failure:
            # Only a refusal is told to the others; what may pass each of them may try for itself.
            self._warehouse.run_shared(_RELEASE, {**lease, **_failure(failure)})
            raise
        sealed = self._vault.encrypt(token.value, bound_to(key))
        self._warehouse.run_shared(_STORE, {**lease, "token": sealed, "renew_at": token.renew_at})
        return token

    def _look(self, key: str, since: dt.datetime, refused: str | None) -> _Row:
        row = self._warehouse.run_shared(_LOOK, {"key": key, "since": since})
        if row is None:
            return _Row(None, None)
        sealed, renew_at, code, failure, has_failed = row
        token = self._opened(key, sealed, renew_at)
        if token is not None and token.is_good(self._clock(), refused):
            return _Row(token, None)
        return _Row(None, error(code, failure) if has_failed and code else None)

    def _opened(self, key: str, sealed: str | None, renew_at: dt.datetime | None) -> Token | None:
        if sealed is None or renew_at is None:
            return None
        try:
            plain, _ = self._vault.decrypt(sealed, bound_to(key))
        except PenstockError as unreadable:
            log.warning("the stored token of %s is not readable, asking for a new one: %s", key, unreadable)
            return None
        return Token(plain, renew_at)

    def _unshared(self, login: Callable[[], Token]) -> Callable[[], Token]:
        def told() -> Token:
            log.warning("no encryption key: the token is not shared, every process logs in by itself")
            return login()

        return told


def _failure(failure: PenstockError | None) -> dict[str, str | None]:
    if not isinstance(failure, AuthError):
        return {"code": None, "failure": None}
    return {"code": failure.code, "failure": failure.message[:MAX_MESSAGE_CHARACTERS]}


def bound_to(key: str) -> str:
    """What a stored token is encrypted for."""
    return f"vendor_tokens:{key}"
