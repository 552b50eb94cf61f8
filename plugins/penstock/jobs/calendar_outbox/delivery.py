"""One claim: the keys of one account, called in batches until each has its end, written down in one statement."""

from __future__ import annotations

import datetime as dt
import logging
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.clients.google_calendar import MAX_BATCH
from penstock.core.calendar_calls import Known, Verdict, Work
from penstock.core.calendar_events import Upsert, read_intent
from penstock.core.errors import FatalError, PenstockError, QuotaExhausted, RateLimited, error
from penstock.core.lease import retry_delay
from penstock.jobs.calendar_outbox.accounts import Account, Accounts
from penstock.jobs.calendar_outbox.store import CalendarStore, Claim, ClaimedKey

log = logging.getLogger(__name__)

RETRY_BASE, RETRY_CAP = dt.timedelta(seconds=2), dt.timedelta(hours=1)
RETRY_FOR_S = 24 * 3600.0
"""How long a passing fault is waited out before the item becomes a dead letter."""

LEAST_ATTEMPTS = 5
QUOTA_REST_S = 3600.0
RATE_REST_S = 5.0
CIRCUIT_REST_S = 15.0
CONFIGURATION_REST_S = 60.0
REFUSED_REST_S = 900.0
REFUSES_THE_ACCOUNT = frozenset({"CALENDAR_FORBIDDEN", "CALENDAR_NOT_FOUND", "CALENDAR_EVENT_REFUSED"})
"""Said of a whole batch: this account is refused, a suspended one or by its domain's rules. The others go on."""

MAX_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person has to know, once. `key` is what it is about."""

    key: str
    code: str
    message: str
    about: str = ""


@dataclass(slots=True)
class Report:
    """What one claim or rebuild came to. failure: what concerns every account, and ends the drain."""

    counts: Counter[str] = field(default_factory=Counter)
    notices: list[Notice] = field(default_factory=list)
    failure: PenstockError | None = None


class Delivery:
    """Delivers claims. Threads may share it.

    rng: for back-off. base, cap: of the back-off between a key's attempts.
    """

    def __init__(
        self,
        store: CalendarStore,
        accounts: Accounts,
        rng: random.Random | None = None,
        *,
        base: dt.timedelta = RETRY_BASE,
        cap: dt.timedelta = RETRY_CAP,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self.rng = rng or random.SystemRandom()
        self._base = base
        self._cap = cap

    def deliver(self, claim: Claim) -> Report:
        """Deliver it. Raises psycopg.Error alone: then the lease brings the keys back."""
        report = Report()
        try:
            account = self._accounts.account(claim.workspace_id)
        except PenstockError as refused:
            self._bury(claim.workspace_id, refused, report)
            return report
        turn = _Turn(self._store, account, claim)
        failure = turn.run()
        report.counts["calls"] += turn.batches
        report.counts["requests"] += turn.client_calls
        stop = failure or turn.refusal()
        if stop is not None:  # before the keys are given back, so that nobody takes them up at once
            self._stop_connection(claim.workspace_id, account, stop, report)
        written = [self._outcome(key, work) for key, work in turn.ends()]
        still_ours = self._store.acknowledge(written)
        self._count(written, report)
        turn.repair(still_ours)
        if turn.batches and stop is None:
            self._store.mark_used(account.connection_id)
        if stop is not None and stop.code == "OAUTH_INVALID":
            self._bury(claim.workspace_id, stop, report)
        return report

    def _outcome(self, key: ClaimedKey, work: Work | PenstockError | None) -> dict[str, Any]:
        """A row for the query `acknowledge`."""
        if isinstance(work, PenstockError):
            return _row(key, key.known, Verdict.DEAD, work.code, work.message)
        if work is None:
            # An old worker closed it: how it left the event, we do not know.
            return _row(key, replace(key.known, etag=None, body_hash=None), Verdict.DONE)
        verdict = work.verdict or Verdict.RELEASE
        row = _row(key, work.known, verdict, work.reason, work.message)
        if verdict is Verdict.RETRY:
            failures = key.attempts + 1
            if key.failing_seconds > RETRY_FOR_S and failures >= LEAST_ATTEMPTS:
                row["verdict"] = Verdict.DEAD.value
            delay = retry_delay(failures, base=self._base, cap=self._cap, rng=self.rng).total_seconds()
            row["delay_seconds"] = max(delay, work.retry_after or 0.0)
        elif verdict is Verdict.DONE and isinstance(work.intent, Upsert):
            row["binding"] = _binding(work.intent, work.event_id)
        return row

    @staticmethod
    def _count(written: Sequence[dict[str, Any]], report: Report) -> None:
        for row in written:
            report.counts[row["verdict"]] += 1
            if row["verdict"] == Verdict.DEAD:
                report.notices.append(Notice(f"dead {row['reason']}", row["reason"], row["message"], row["event_key"]))

    # -- what concerns the whole account

    def _stop_connection(self, workspace_id: str, account: Account, stop: PenstockError, report: Report) -> None:
        if stop.code == "OAUTH_INVALID":
            if self._store.invalidate(account.connection_id, stop.code, stop.message[:MAX_MESSAGE]):
                about = f"workspace {workspace_id}"
                report.notices.append(Notice(f"connection {account.connection_id}", stop.code, stop.message, about))
        elif stop.code in REFUSES_THE_ACCOUNT:
            self._store.put_off(workspace_id, REFUSED_REST_S, stop.code)
            about = f"workspace {workspace_id}"
            report.notices.append(Notice(f"refused {account.connection_id}", stop.code, stop.message, about))
        elif isinstance(stop, FatalError):
            # The OAuth client, the API, the host: no account can be served, and no item is at fault.
            self._store.put_off(workspace_id, CONFIGURATION_REST_S, stop.code)
            report.failure = stop
        else:
            self._store.put_off(workspace_id, self._rest(stop), stop.code)
            report.counts["put_off"] += 1

    def _rest(self, stop: PenstockError) -> float:
        if isinstance(stop, QuotaExhausted):
            return QUOTA_REST_S * (1.0 + self.rng.random())
        if stop.code == "RATE_LIMIT_WAIT_TOO_LONG":
            return stop.retry_after or RATE_REST_S
        if isinstance(stop, RateLimited):
            return max(stop.retry_after or 0.0, RATE_REST_S * (1.0 + self.rng.random()))
        return CIRCUIT_REST_S * (1.0 + self.rng.random())

    def _bury(self, workspace_id: str, refused: PenstockError, report: Report) -> None:
        """As the old worker did, but without a call: items of an account that cannot be used are dead letters, until
        it can be used again."""
        buried = self._store.bury(workspace_id, refused.code, refused.message[:MAX_MESSAGE])
        report.counts["dead"] += buried
        if buried and refused.code != "OAUTH_INVALID":
            report.notices.append(Notice(f"{refused.code} {workspace_id}", refused.code, refused.message, workspace_id))


class _Turn:
    """The calls of one claim."""

    def __init__(self, store: CalendarStore, account: Account, claim: Claim) -> None:
        self._store = store
        self._account = account
        self._keys = {key.event_key: key for key in claim.keys}
        self._works: dict[str, Work | PenstockError | None] = {
            key.event_key: _begin(key, claim.workspace_id, account.time_zone) for key in claim.keys
        }
        self._called: set[str] = set()
        # Of the claim, not of now: a process that was frozen in between must renew before it calls.
        self._renewed_at = claim.claimed_at
        self.batches = 0
        self.client_calls = 0

    def run(self) -> PenstockError | None:
        """Call until every key has its end; the failure of a whole batch, whose keys then have one too."""
        while pending := self._pending():
            self._renew(pending)
            batch = self._pending()[:MAX_BATCH]
            if not batch:
                break
            failure = self._call(batch)
            if failure is not None:
                self._give_up(self._pending(), failure, batch)
                return failure
            if self.refusal() is not None:
                self._give_up(self._pending(), None, ())
        return None

    def ends(self) -> list[tuple[ClaimedKey, Work | PenstockError | None]]:
        return [(self._keys[name], work) for name, work in self._works.items()]

    def refusal(self) -> PenstockError | None:
        """What Google said of the account in the answer to a single call, if anything; the worst first."""
        found = {
            work.reason: work
            for work in self._works.values()
            if isinstance(work, Work) and work.verdict is Verdict.RELEASE and work.reason
        }
        for code in ("OAUTH_INVALID", "CALENDAR_API_DISABLED", "CALENDAR_QUOTA", "CALENDAR_RATE_LIMIT"):
            if code in found:
                return error(code, found[code].message or code, retry_after=found[code].retry_after)
        return None

    def repair(self, still_ours: set[str]) -> None:
        """Keys that were called and then turned out to be another worker's: it may have been first, and we last."""
        lost = sorted(self._called - still_ours)
        if lost:
            log.warning("%d keys were taken over while they were being written; they are written again", len(lost))
            self._store.repair(lost)

    def _pending(self) -> list[Work]:
        return [work for work in self._works.values() if isinstance(work, Work) and work.call is not None]

    def _call(self, batch: Sequence[Work]) -> PenstockError | None:
        calls = [work.call for work in batch if work.call is not None]
        self.batches += 1
        self.client_calls += len(calls)
        self._called.update(work.event_key for work in batch)
        try:
            replies = self._account.client.perform(calls)
        except PenstockError as failure:
            return failure
        for work, reply in zip(batch, replies, strict=True):
            work.take(reply)
        return None

    @staticmethod
    def _give_up(pending: Sequence[Work], failure: PenstockError | None, batch: Sequence[Work]) -> None:
        """A fault of the vendor counts as an attempt of what was being sent; everything else is given back."""
        was_sent = failure is not None and failure.retryable and not _is_pause(failure)
        for work in pending:
            work.release()
            if was_sent and failure is not None and work in batch:
                work.verdict, work.reason = Verdict.RETRY, failure.code
                work.message, work.retry_after = failure.message, failure.retry_after

    def _renew(self, pending: Sequence[Work]) -> None:
        """Before every call but the first: what is not ours any more is not called."""
        lease = self._store.lease.total_seconds()
        if not self.batches and time.monotonic() - self._renewed_at < lease / 4:
            return
        ours = self._store.renew([self._keys[work.event_key] for work in pending])
        self._renewed_at = time.monotonic()
        for work in pending:
            if work.event_key not in ours:
                work.release()


def _begin(key: ClaimedKey, workspace_id: str, time_zone: str) -> Work | PenstockError | None:
    """The work on a key; None when its newest item is closed already; the error of an item that cannot be read."""
    if key.operation is None:
        return None
    try:
        intent = read_intent(key.operation, key.payload, workspace_id, time_zone)
    except PenstockError as unreadable:
        return unreadable
    return Work(key.event_key, workspace_id, intent, key.known)


def _is_pause(failure: PenstockError) -> bool:
    """Whether nothing was sent: our own pace, the open breaker, the vendor's limits."""
    return isinstance(failure, RateLimited | QuotaExhausted) or failure.code == "CIRCUIT_OPEN"


def _row(
    key: ClaimedKey, known: Known, verdict: Verdict, reason: str | None = None, message: str | None = None
) -> dict[str, Any]:
    return {
        "event_key": key.event_key,
        "seq": key.seq,
        "epoch": key.epoch,
        "verdict": verdict.value,
        "is_created": known.is_created,
        "calendar_id": known.calendar_id,
        "google_event_id": known.google_event_id,
        "generation": known.generation,
        "etag": known.etag,
        "body_hash": known.body_hash,
        "delay_seconds": 0.0,
        "reason": reason,
        "message": None if message is None else message[:MAX_MESSAGE],
        "binding": None,
    }


def _binding(intent: Upsert, event_id: str) -> dict[str, Any]:
    event = intent.event
    start = event.start.isoformat() if event.start else f"{event.first_day}T00:00:00Z"
    end = event.end.isoformat() if event.end else f"{event.last_day}T00:00:00Z"
    return {
        "google_event_id": event_id,
        "event_type": intent.event_type,
        "event_title": event.title,
        "event_start": start,
        "event_end": end,
    }
