"""What the courier makes of Slack's answers: the item's state, and when its lane goes on."""

from __future__ import annotations

import dataclasses
import datetime as dt
import random
from typing import Any

import pytest

from penstock.clients.slack import Posted
from penstock.core.errors import PenstockError, error
from penstock.core.slack_errors import CODES, SCOPES, Scope
from penstock.core.slack_messages import SlackMessage
from penstock.jobs.notifications.courier import HISTORY_LAG, PACE, PARKED, Courier
from penstock.jobs.notifications.items import Item, Outcome

ITEM = Item(
    id="7", lane_key="slack/C00ALERTS", workspace="slack", destination="C00ALERTS", channel_id=None, lane_epoch=1,
    row_epoch=1, failures=0, is_parked=False, is_probe=False, is_ambiguous=False, attempts=1, max_attempts=5,
    event_data='{"who": "<!channel>"}', sending_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), is_expired=False,
    template="Hello {{who}}", is_active=True, allow_broadcast=False, on_ambiguous="resend",
)  # fmt: skip


def failure(concerns: Scope, string: str = "", retry_after: float | None = None) -> PenstockError:
    told = error(CODES[concerns], string or concerns.value, context={"scope": concerns.value}, retry_after=retry_after)
    told.provider_code = string or None
    return told


class FakeSlack:
    """Answers each call with the next of its list, a `Posted` when there is none."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.calls: list[tuple[str, Any]] = []
        self.posts: list[SlackMessage] = []

    def _answer(self, method: str, argument: Any, default: Any) -> Any:
        self.calls.append((method, argument))
        waiting = self.answers.get(method)
        answer = waiting.pop(0) if waiting else default
        if isinstance(answer, Exception):
            raise answer
        return answer

    def post(self, channel: str, message: SlackMessage) -> Posted:
        self.posts.append(message)
        return self._answer("post", channel, Posted(channel, "1.5"))

    def find(self, channel_id: str, key: str, oldest: float) -> Posted | None:
        return self._answer("find", channel_id, None)

    def direct_channel(self, user: str) -> str:
        return self._answer("direct_channel", user, "D0DIRECT")

    def join(self, channel: str) -> None:
        self._answer("join", channel, None)


class FakeBreaker:
    def __init__(self, is_open: bool = False) -> None:
        self.is_open = is_open
        self.failures = 0

    def allow(self, key: str) -> bool:
        return not self.is_open

    def success(self, key: str) -> None:
        pass

    def failure(self, key: str, message: str) -> None:
        self.failures += 1


def deliver(slack: FakeSlack, breaker: FakeBreaker | None = None, **changes: Any) -> Outcome:
    courier = Courier(slack, breaker or FakeBreaker(), random.Random(1), monotonic=lambda: 100.0)
    return courier.deliver(dataclasses.replace(ITEM, **changes))


def test_a_good_message_is_sent_and_the_lane_waits_a_second() -> None:
    slack = FakeSlack()
    assert deliver(slack) == Outcome("sent", "sent", PACE, slack_ts="1.5", channel_id="C00ALERTS")
    assert slack.posts[0].text == "Hello &lt;!channel&gt;"


@pytest.mark.parametrize(
    ("concerns", "state", "given_back", "event"),
    [
        (Scope.RATE, "queued", True, "rate_limited"),
        (Scope.PASSING, "queued", True, "retry"),
        (Scope.AMBIGUOUS, "sending", False, "ambiguous"),
        (Scope.CHANNEL, "queued", True, "parked"),
        (Scope.WORKSPACE, "queued", True, "refused"),
        (Scope.QUOTA, "queued", True, "refused"),
        (Scope.UNKNOWN, "queued", False, "retry"),
    ],
)
def test_a_failure_leaves_the_row_as_far_as_it_got(concerns: Scope, state: str, given_back: bool, event: str) -> None:
    outcome = deliver(FakeSlack(post=[failure(concerns)]))
    assert (outcome.state, outcome.given_back, outcome.event) == (state, given_back, event)
    assert outcome.delay > dt.timedelta(0)


def test_every_error_string_ends_in_its_place() -> None:
    places = {
        Scope.RATE: ("queued", None, False, False),
        Scope.PASSING: ("queued", None, False, False),
        Scope.AMBIGUOUS: ("sending", None, False, False),
        Scope.CHANNEL: ("queued", "SLACK_CHANNEL_ERROR", False, True),
        Scope.WORKSPACE: ("queued", None, True, True),
        Scope.QUOTA: ("queued", None, True, True),
        Scope.MESSAGE: ("dead", None, False, False),
    }

    def place(string: str, concerns: Scope) -> tuple[str, str | None, bool, bool]:
        outcome = deliver(FakeSlack(post=[failure(concerns, string)] * 2, join=[failure(Scope.CHANNEL)]))
        return outcome.state, outcome.parked, outcome.pause is not None, outcome.notice is not None

    ends = {string: place(string, concerns) for string, concerns in SCOPES.items()}
    assert ends == {string: places[concerns] for string, concerns in SCOPES.items()}


def test_retry_after_is_the_lane_s_pause() -> None:
    outcome = deliver(FakeSlack(post=[failure(Scope.RATE, "ratelimited", retry_after=30.0)]))
    assert outcome.delay == dt.timedelta(seconds=30)


def test_a_refused_message_is_tried_once_as_plain_text() -> None:
    slack = FakeSlack(post=[failure(Scope.MESSAGE, "invalid_blocks")])
    assert deliver(slack).state == "sent"
    assert [len(post.blocks) for post in slack.posts] == [1, 0]
    twice = FakeSlack(post=[failure(Scope.MESSAGE, "invalid_blocks"), failure(Scope.MESSAGE, "no_text")])
    outcome = deliver(twice)
    assert (outcome.state, outcome.error_class, outcome.error) == ("dead", "SLACK_MESSAGE_REFUSED", "no_text")


def test_metadata_that_is_refused_is_left_out_and_the_key_stays_in_the_block() -> None:
    slack = FakeSlack(post=[failure(Scope.MESSAGE, "metadata_must_be_sent_from_app")])
    assert deliver(slack).state == "sent"
    assert slack.posts[1].metadata == {}
    assert slack.posts[1].blocks[0]["block_id"] == "n:7"


def test_the_bot_enters_a_public_channel_once() -> None:
    refusal = failure(Scope.CHANNEL, "not_in_channel")
    slack = FakeSlack(post=[refusal])
    assert deliver(slack).state == "sent"
    assert [name for name, _ in slack.calls] == ["post", "join", "post"]
    parked = FakeSlack(post=[refusal])
    assert deliver(parked, is_parked=True).parked == "SLACK_CHANNEL_ERROR"
    assert [name for name, _ in parked.calls] == ["post"]


def test_a_parked_channel_that_still_refuses_is_told_once_only() -> None:
    assert deliver(FakeSlack(post=[failure(Scope.CHANNEL)]), is_parked=True).notice is None
    assert deliver(FakeSlack(post=[failure(Scope.CHANNEL)]), is_parked=True).delay == PARKED


def test_an_ambiguous_row_is_looked_up_before_anything_is_sent() -> None:
    found = FakeSlack(find=[Posted("C00ALERTS", "0.9")])
    outcome = deliver(found, is_ambiguous=True)
    assert (outcome.state, outcome.event, outcome.slack_ts) == ("sent", "found", "0.9")
    assert found.posts == []
    missing = FakeSlack()
    assert deliver(missing, is_ambiguous=True).event == "resent"
    assert [name for name, _ in missing.calls] == ["find", "post"]


def test_what_the_look_up_has_cleared_is_not_ambiguous_any_more() -> None:
    outcome = deliver(FakeSlack(post=[failure(Scope.RATE)]), is_ambiguous=True)
    assert (outcome.state, outcome.given_back) == ("queued", True)


@pytest.mark.parametrize("concerns", [Scope.RATE, Scope.PASSING, Scope.AMBIGUOUS, Scope.QUOTA])
def test_a_look_up_that_fails_leaves_the_row_ambiguous(concerns: Scope) -> None:
    slack = FakeSlack(find=[failure(concerns)])
    outcome = deliver(slack, is_ambiguous=True)
    assert (outcome.state, outcome.given_back) == ("sending", True)
    assert slack.posts == []


@pytest.mark.parametrize(("policy", "state"), [("resend", "sent"), ("hold", "dead")])
def test_where_no_look_up_is_possible_the_configuration_decides(policy: str, state: str) -> None:
    denied = failure(Scope.WORKSPACE, "missing_scope")
    outcome = deliver(FakeSlack(find=[denied]), is_ambiguous=True, on_ambiguous=policy)
    assert outcome.state == state
    assert outcome.error_class == ("NOTIFICATION_AMBIGUOUS" if policy == "hold" else None)


def test_after_an_unclear_answer_the_lane_waits_for_the_history() -> None:
    assert deliver(FakeSlack(post=[failure(Scope.AMBIGUOUS)])).delay >= HISTORY_LAG


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({"is_active": False}, "cancelled", "NOTIFICATION_CONFIG_INACTIVE"),
        ({"is_expired": True}, "dead", "NOTIFICATION_EXPIRED"),
        ({"attempts": 6}, "dead", "NOTIFICATION_ATTEMPTS_EXHAUSTED"),
        ({"event_data": "[1]"}, "dead", "NOTIFICATION_BAD_DATA"),
        ({"event_data": "[" * 100_000}, "dead", "NOTIFICATION_BAD_DATA"),
    ],
)
def test_what_is_not_to_be_sent_ends_without_a_call(changes: dict[str, Any], state: str, reason: str) -> None:
    slack = FakeSlack()
    outcome = deliver(slack, **changes)
    assert (outcome.state, outcome.error_class) == (state, reason)
    assert slack.calls == []


def test_an_expired_row_that_may_have_been_sent_is_looked_up_first() -> None:
    assert deliver(FakeSlack(find=[Posted("C00ALERTS", "1")]), is_ambiguous=True, is_expired=True).state == "sent"
    assert deliver(FakeSlack(), is_ambiguous=True, is_expired=True).error_class == "NOTIFICATION_EXPIRED"


def test_an_unknown_error_is_a_dead_letter_at_the_last_attempt() -> None:
    outcome = deliver(FakeSlack(post=[failure(Scope.UNKNOWN, "brand_new")]), attempts=5)
    assert (outcome.state, outcome.error_class) == ("dead", "NOTIFICATION_ATTEMPTS_EXHAUSTED")


def test_a_process_that_was_frozen_for_longer_than_its_lease_sends_nothing() -> None:
    slack = FakeSlack()
    outcome = deliver(slack, deadline=99.0)
    assert (outcome.state, outcome.event, outcome.given_back) == ("queued", "frozen", True)
    assert slack.posts == []


def test_an_open_circuit_costs_no_attempt() -> None:
    slack = FakeSlack()
    outcome = deliver(slack, FakeBreaker(is_open=True))
    assert (outcome.state, outcome.given_back, slack.calls) == ("queued", True, [])
    assert deliver(slack, FakeBreaker(is_open=True), is_ambiguous=True).state == "sending"


@pytest.mark.parametrize("user", ["U0ANNA", "anna@example.com"])
def test_a_person_is_written_to_through_their_direct_message(user: str) -> None:
    slack = FakeSlack()
    assert deliver(slack, destination=user).channel_id == "D0DIRECT"
    assert slack.calls == [("direct_channel", user), ("post", "D0DIRECT")]


def test_slack_s_own_trouble_opens_the_circuit_and_a_refusal_does_not() -> None:
    breaker = FakeBreaker()
    deliver(FakeSlack(post=[failure(Scope.PASSING)]), breaker)
    deliver(FakeSlack(post=[failure(Scope.AMBIGUOUS)]), breaker)
    deliver(FakeSlack(post=[failure(Scope.CHANNEL)]), breaker)
    deliver(FakeSlack(post=[failure(Scope.RATE)]), breaker)
    assert breaker.failures == 2


class ProbeBreaker(FakeBreaker):
    """Half open: one worker may try, and nobody else until that one has told how it went."""

    is_taken = False

    def allow(self, key: str) -> bool:
        was_taken, self.is_taken = self.is_taken, True
        return not was_taken


@pytest.mark.parametrize("destination", ["#alerts", "C00ALERTS"])
def test_a_probe_that_looks_up_first_is_not_refused_by_itself(destination: str) -> None:
    slack = FakeSlack(find=[failure(Scope.CHANNEL, "channel_not_found")])
    outcome = deliver(slack, ProbeBreaker(), is_ambiguous=True, destination=destination)
    assert (outcome.state, outcome.event) == ("sent", "resent")


@pytest.mark.parametrize("string", ["not_in_channel", "invalid_blocks"])
def test_a_second_post_looks_at_the_lease_again(string: str) -> None:
    concerns = SCOPES[string]
    slack, times = FakeSlack(post=[failure(concerns, string)]), iter([100.0, 130.0])
    courier = Courier(slack, FakeBreaker(), random.Random(1), monotonic=lambda: next(times))
    outcome = courier.deliver(dataclasses.replace(ITEM, deadline=120.0))
    assert (outcome.state, outcome.event, outcome.given_back) == ("queued", "frozen", True)
    assert len(slack.posts) == 1
