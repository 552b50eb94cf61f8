"""One notification to Slack: looked up if it may be there already, rendered, posted; what came of it, and what now.

Slack has no idempotency key. The row's id travels in the message's metadata instead, and a row that was found half
sent is looked for in the channel's history before it is posted again.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from penstock.clients.slack import Posted, scope
from penstock.core.errors import PenstockError, error
from penstock.core.lease import retry_delay
from penstock.core.slack_errors import Scope
from penstock.core.slack_messages import SlackMessage, message, plain
from penstock.core.templates import render
from penstock.jobs.notifications.items import NO_DELAY, Item, Notice, Outcome, Pause, State
from penstock.sources.ports import Breaker

log = logging.getLogger(__name__)

PACE = dt.timedelta(seconds=1)
"""Between two messages of a channel (https://docs.slack.dev/apis/web-api/rate-limits), counted from Slack's answer."""

HISTORY_LAG = dt.timedelta(seconds=5)
"""A message may show in the history a little after it was accepted: nothing is looked up earlier."""

CLOCK_SKEW_S = 60.0
"""How far Slack's clock may be behind the database's; the look-up goes by keys, so more only costs a page."""

RETRY_BASE, RETRY_CAP = dt.timedelta(seconds=2), dt.timedelta(minutes=15)
PARKED = dt.timedelta(minutes=15)
"""How often a channel that Slack refuses is tried again; a person may have mended it."""

PAUSE_TOKEN_S, PAUSE_QUOTA_S = 60.0, 3600.0
CIRCUIT_PAUSE = dt.timedelta(seconds=5)
LEAST_RETRY_AFTER_S = 1.0

_NOT_GRANTED = frozenset({"missing_scope", "not_allowed_token_type"})
"""Said of one method: that the token is good for others is not in doubt."""

_CHANNEL_ID = re.compile(r"[CGD][A-Z0-9]{2,}")  # names of channels are lower case
_USER = re.compile(r"[UW][A-Z0-9]{4,}|[^@\s]+@[^@\s]+")


class Slack(Protocol):
    """What the courier needs of Slack's client."""

    def post(self, channel: str, message: SlackMessage) -> Posted: ...

    def find(self, channel_id: str, key: str, oldest: float) -> Posted | None: ...

    def direct_channel(self, user: str) -> str: ...

    def join(self, channel: str) -> None: ...


class Frozen(Exception):
    """The lease is nearly over: somebody else may be at the row."""


class Courier:
    """Delivers items of one workspace. Threads may share it.

    breaker: shared by all workers. rng: for back-off. monotonic: the clock of `Item.deadline`.
    """

    def __init__(
        self,
        slack: Slack,
        breaker: Breaker,
        rng: random.Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slack = slack
        self._breaker = breaker
        self._rng = rng or random.SystemRandom()
        self._monotonic = monotonic

    def deliver(self, item: Item) -> Outcome:
        """Deliver it once. Does not raise for Slack's sake."""
        if item.is_ambiguous:
            known = self._looked_up(item)
            if isinstance(known, Outcome):
                return known
            return self._deliver_unsent(item, is_open=not known)
        return self._deliver_unsent(item, is_open=False)

    # -- was it sent already?

    def _looked_up(self, item: Item) -> Outcome | bool:
        """The outcome, when it was found or nobody can tell now; else whether it is surely not there."""
        if not self._breaker.allow(_breaker_key(item)):
            return self._back(item, "circuit_open", CIRCUIT_PAUSE, "sending")
        try:
            channel = self._channel_id(item)
            if channel is None:
                return self._unknowable(item, "the channel is configured by name, and its id is not known yet")
            oldest = item.sending_at.timestamp() - CLOCK_SKEW_S
            found = self._slack.find(channel, item.id, oldest)
        except PenstockError as failure:
            return self._look_up_failed(item, failure)
        self._breaker.success(_breaker_key(item))
        if found is None:
            return True
        return Outcome("sent", "found", PACE, slack_ts=found.ts, channel_id=found.channel_id)

    def _look_up_failed(self, item: Item, failure: PenstockError) -> Outcome | bool:
        concerns = scope(failure)
        if concerns is Scope.WORKSPACE and failure.provider_code in _NOT_GRANTED:
            return self._unknowable(item, f"conversations.history: {failure.provider_code}")
        if concerns in (Scope.RATE, Scope.PASSING, Scope.AMBIGUOUS, Scope.WORKSPACE, Scope.QUOTA):
            # Reading changes nothing: whatever went wrong, the row is as ambiguous as before.
            return self._failed(item, failure, Scope.PASSING if concerns is Scope.AMBIGUOUS else concerns, "sending")
        self._tell_breaker(item, failure, concerns)
        return self._unknowable(item, f"conversations.history: {failure.message}")

    def _unknowable(self, item: Item, why: str) -> Outcome | bool:
        """What the configuration says for a row of which nobody can tell whether it was sent."""
        if item.on_ambiguous == "hold":
            return Outcome("dead", "dead", error_class="NOTIFICATION_AMBIGUOUS", error=why)
        log.warning("notification %s may be sent twice: %s", item.id, why)
        return False

    # -- sending

    def _deliver_unsent(self, item: Item, *, is_open: bool) -> Outcome:
        """is_open: it may have been sent before, and could not be looked up."""
        before: State = "sending" if is_open else "queued"
        refusal = _not_to_be_sent(item)
        if refusal is not None:
            return refusal
        try:
            text = render(item.template, _data(item.event_data), allow_broadcast=item.allow_broadcast)
        except (ValueError, RecursionError) as unreadable:
            return Outcome("dead", "dead", error_class="NOTIFICATION_BAD_DATA", error=str(unreadable)[:500])
        # The look-up has asked already. Asked again, a probe of the half-open breaker would be refused by itself.
        if not item.is_ambiguous and not self._breaker.allow(_breaker_key(item)):
            return self._back(item, "circuit_open", CIRCUIT_PAUSE, before)
        try:
            posted = self._post(item, text)
        except Frozen:
            return self._back(item, "frozen", NO_DELAY, before)
        except PenstockError as failure:
            return self._failed(item, failure, scope(failure), before)
        self._breaker.success(_breaker_key(item))
        event = "resent" if item.is_ambiguous else "sent"
        return Outcome("sent", event, PACE, slack_ts=posted.ts, channel_id=posted.channel_id)

    def _post(self, item: Item, text: str) -> Posted:
        """Post it; once more where the refusal says how. What Slack has refused it has not delivered."""
        channel = self._channel_id(item) or item.destination
        try:
            return self._send(item, channel, message(text, item.id))
        except PenstockError as refused:
            if refused.provider_code == "not_in_channel" and not item.is_parked and channel.startswith("C"):
                return self._post_after_joining(item, channel, message(text, item.id), refused)
            if scope(refused) is not Scope.MESSAGE:
                raise
            return self._send(item, channel, _simpler(refused, text, item.id))

    def _send(self, item: Item, channel: str, wanted: SlackMessage) -> Posted:
        """Every post looks at the lease first: what came before it (opening a direct message, joining, a refusal) took
        its time. Raises Frozen."""
        if self._monotonic() > item.deadline:
            raise Frozen
        return self._slack.post(channel, wanted)

    def _post_after_joining(self, item: Item, channel: str, wanted: SlackMessage, refused: PenstockError) -> Posted:
        try:
            self._slack.join(channel)
        except PenstockError:
            raise refused from None
        return self._send(item, channel, wanted)

    def _channel_id(self, item: Item) -> str | None:
        """Slack's id of where the item goes; None for a channel's name that no answer has told the id of."""
        if item.channel_id:
            return item.channel_id
        if _USER.fullmatch(item.destination):
            return self._direct_channel(item.destination)
        return item.destination if _CHANNEL_ID.fullmatch(item.destination) else None

    def _direct_channel(self, user: str) -> str:
        """The direct message's id. A token that may not open one is no reason to pause the channels."""
        try:
            return self._slack.direct_channel(user)
        except PenstockError as refused:
            if refused.provider_code not in _NOT_GRANTED:
                raise
            raise error(
                "SLACK_SCOPE_MISSING",
                refused.message,
                provider_code=refused.provider_code,
                context={"scope": Scope.CHANNEL.value},
            ) from None

    # -- failures

    def _failed(self, item: Item, failure: PenstockError, concerns: Scope, before: State) -> Outcome:
        """before: the state to go back to when nothing was delivered now."""
        error = failure.message[:500]
        self._tell_breaker(item, failure, concerns)
        match concerns:
            case Scope.RATE:
                wait = dt.timedelta(seconds=max(failure.retry_after or 0.0, LEAST_RETRY_AFTER_S))
                return Outcome(before, "rate_limited", wait, given_back=True, error=error)
            case Scope.PASSING:
                return Outcome(before, "retry", self._delay(item), given_back=True, failed=True, error=error)
            case Scope.CHANNEL:
                notice = None if item.is_parked else _channel_notice(item, failure)
                return Outcome(
                    before, "parked", PARKED, given_back=True, error=error, parked=failure.code, notice=notice
                )
            case Scope.WORKSPACE | Scope.QUOTA:
                seconds = PAUSE_QUOTA_S if concerns is Scope.QUOTA else PAUSE_TOKEN_S
                pause = Pause(failure.code, max(seconds, failure.retry_after or 0.0))
                notice = Notice(f"workspace {item.workspace}", failure.code, failure.message, item.workspace)
                return Outcome(before, "refused", PACE, given_back=True, error=error, pause=pause, notice=notice)
            case Scope.MESSAGE:
                return Outcome("dead", "dead", error_class="SLACK_MESSAGE_REFUSED", error=error)
            case Scope.AMBIGUOUS:
                delay = max(HISTORY_LAG, self._delay(item))
                return Outcome("sending", "ambiguous", delay, failed=True, error=error)
            case Scope.UNKNOWN:
                return self._unknown(item, error, before)

    def _unknown(self, item: Item, error: str, before: State) -> Outcome:
        if item.attempts >= item.max_attempts:
            return Outcome("dead", "dead", error_class="NOTIFICATION_ATTEMPTS_EXHAUSTED", error=error)
        return Outcome(before, "retry", self._delay(item), failed=True, error=error)

    def _back(self, item: Item, event: str, delay: dt.timedelta, before: State) -> Outcome:
        jitter = 1.0 + self._rng.random()
        return Outcome(before, event, delay * jitter, given_back=True)

    def _delay(self, item: Item) -> dt.timedelta:
        return retry_delay(item.failures + 1, base=RETRY_BASE, cap=RETRY_CAP, rng=self._rng)

    def _tell_breaker(self, item: Item, failure: PenstockError, concerns: Scope) -> None:
        if concerns in (Scope.PASSING, Scope.AMBIGUOUS):
            self._breaker.failure(_breaker_key(item), str(failure))
        else:
            self._breaker.success(_breaker_key(item))


def _not_to_be_sent(item: Item) -> Outcome | None:
    """Why the row ends without being sent, if it does."""
    if not item.is_active:
        return Outcome("cancelled", "skipped", error_class="NOTIFICATION_CONFIG_INACTIVE")
    if item.is_expired:
        return Outcome(
            "dead", "dead", error_class="NOTIFICATION_EXPIRED", error="not delivered within its time to live"
        )
    if item.attempts > item.max_attempts:
        return Outcome("dead", "dead", error_class="NOTIFICATION_ATTEMPTS_EXHAUSTED")
    return None


def _data(text: str | None) -> Mapping[str, Any]:
    """The event's data. Raises ValueError or RecursionError for what cannot be read."""
    data = json.loads(text) if text else None
    if data is not None and not isinstance(data, dict):
        raise ValueError("event_data is not a JSON object")
    return data or {}


def _simpler(refused: PenstockError, text: str, key: str) -> SlackMessage:
    """The one other form in which a refused message is tried."""
    if "metadata" in (refused.provider_code or ""):
        whole = message(text, key)
        return SlackMessage(whole.text, whole.blocks, {})
    return plain(text, key)


def _channel_notice(item: Item, failure: PenstockError) -> Notice:
    # A scope that is missing is missing for everybody: one alert, not one a person.
    is_everybody_s = failure.code == "SLACK_SCOPE_MISSING"
    key = f"direct messages of {item.workspace}: {failure.message}" if is_everybody_s else f"lane {item.lane_key}"
    return Notice(key, failure.code, failure.message, item.destination)


def _breaker_key(item: Item) -> str:
    return f"slack:{item.workspace}"
