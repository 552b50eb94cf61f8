"""What the courier makes of Slack's answers: the item's state, and when its lane goes on."""

from __future__ import annotations

import dataclasses
import datetime as dt
import random
from typing import Any

import pytest

from penstock.clients.slack import Posted
from penstock.core.errors import PenstockError, error
from penstock.core.lease import retry_delay
from penstock.core.slack_errors import CODES, SCOPES, Scope
from penstock.core.slack_messages import SlackMessage, message, plain
from penstock.jobs.notifications import courier as courier_module
from penstock.jobs.notifications.courier import (
    CIRCUIT_PAUSE,
    CLOCK_SKEW_S,
    HISTORY_LAG,
    PACE,
    PARKED,
    RETRY_BASE,
    RETRY_CAP,
    Courier,
)
from penstock.jobs.notifications.items import NO_DELAY, Item, Notice, Outcome, Pause

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
        self.finds: list[tuple[str, str, float]] = []

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
        self.finds.append((channel_id, key, oldest))
        return self._answer("find", channel_id, None)

    def direct_channel(self, user: str) -> str:
        return self._answer("direct_channel", user, "D0DIRECT")

    def join(self, channel: str) -> None:
        self._answer("join", channel, None)


class FakeBreaker:
    def __init__(self, is_open: bool = False) -> None:
        self.is_open = is_open
        self.failures = 0
        self.told: list[tuple[str, ...]] = []

    def allow(self, key: str) -> bool:
        self.told.append(("allow", key))
        return not self.is_open

    def success(self, key: str) -> None:
        self.told.append(("success", key))

    def failure(self, key: str, message: str) -> None:
        self.told.append(("failure", key, message))
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


@pytest.mark.parametrize("string", ["missing_scope", "not_allowed_token_type"])
def test_a_token_that_may_not_open_direct_messages_concerns_this_person_alone(string: str) -> None:
    refused = failure(Scope.WORKSPACE, string)
    slack = FakeSlack(direct_channel=[refused])
    assert deliver(slack, lane_key="slack/U0ANNA", destination="U0ANNA") == Outcome(
        *("queued", "parked", PARKED),
        given_back=True,
        error=string,
        parked="SLACK_SCOPE_MISSING",
        notice=Notice(f"direct messages of slack: {string}", "SLACK_SCOPE_MISSING", string, "U0ANNA"),
    )
    assert slack.posts == []
    again = FakeSlack(direct_channel=[refused])
    assert deliver(again, lane_key="slack/U0ANNA", destination="U0ANNA", is_parked=True).notice is None


def test_a_person_who_cannot_be_looked_up_either_stays_ambiguous() -> None:
    refused = failure(Scope.WORKSPACE, "missing_scope")
    slack = FakeSlack(direct_channel=[refused, refused])
    outcome = deliver(slack, destination="U0ANNA", is_ambiguous=True)
    assert (outcome.state, outcome.event, outcome.pause) == ("sending", "parked", None)


@pytest.mark.parametrize("string", ["token_revoked", "invalid_auth"])
def test_a_token_that_is_refused_at_a_direct_message_still_pauses_the_workspace(string: str) -> None:
    outcome = deliver(FakeSlack(direct_channel=[failure(Scope.WORKSPACE, string)]), destination="U0ANNA")
    assert (outcome.event, outcome.parked, outcome.pause) == ("refused", None, Pause("SLACK_AUTH_ERROR", 60.0))


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


# -- whole outcomes: every field is written to the row


def backed_off(failures: int = 0) -> dt.timedelta:
    return retry_delay(failures + 1, base=RETRY_BASE, cap=RETRY_CAP, rng=random.Random(1))


CHANNEL_NOTICE = Notice("lane slack/C00ALERTS", "SLACK_CHANNEL_ERROR", "said", "C00ALERTS")
WHOLE = [
    (Scope.RATE, {}, Outcome("queued", "rate_limited", dt.timedelta(seconds=1), given_back=True, error="said")),
    (Scope.PASSING, {}, Outcome("queued", "retry", backed_off(), given_back=True, failed=True, error="said")),
    (
        Scope.PASSING,
        {"failures": 3},
        Outcome("queued", "retry", backed_off(3), given_back=True, failed=True, error="said"),
    ),
    (Scope.AMBIGUOUS, {}, Outcome("sending", "ambiguous", HISTORY_LAG, failed=True, error="said")),
    (Scope.AMBIGUOUS, {"failures": 6}, Outcome("sending", "ambiguous", backed_off(6), failed=True, error="said")),
    (
        Scope.CHANNEL,
        {},
        Outcome(
            *("queued", "parked", PARKED),
            given_back=True,
            error="said",
            parked="SLACK_CHANNEL_ERROR",
            notice=CHANNEL_NOTICE,
        ),
    ),
    (
        Scope.WORKSPACE,
        {},
        Outcome(
            *("queued", "refused", PACE),
            given_back=True,
            error="said",
            pause=Pause("SLACK_AUTH_ERROR", 60.0),
            notice=Notice("workspace slack", "SLACK_AUTH_ERROR", "said", "slack"),
        ),
    ),
    (
        Scope.QUOTA,
        {},
        Outcome(
            *("queued", "refused", PACE),
            given_back=True,
            error="said",
            pause=Pause("SLACK_QUOTA", 3600.0),
            notice=Notice("workspace slack", "SLACK_QUOTA", "said", "slack"),
        ),
    ),
    (Scope.UNKNOWN, {}, Outcome("queued", "retry", backed_off(), failed=True, error="said")),
    (
        Scope.UNKNOWN,
        {"attempts": 5},
        Outcome("dead", "dead", error_class="NOTIFICATION_ATTEMPTS_EXHAUSTED", error="said"),
    ),
]


@pytest.mark.parametrize(("concerns", "changes", "expected"), WHOLE)
def test_each_field_of_an_outcome_is_as_the_error_table_says(
    concerns: Scope, changes: dict[str, Any], expected: Outcome
) -> None:
    breaker = FakeBreaker()
    assert deliver(FakeSlack(post=[failure(concerns, "said")]), breaker, **changes) == expected
    (asked, told) = breaker.told
    assert asked == ("allow", "slack:slack")
    is_slack_s = concerns in (Scope.PASSING, Scope.AMBIGUOUS)
    assert told[:2] == ("failure" if is_slack_s else "success", "slack:slack")
    assert not is_slack_s or "said" in told[2]


def test_a_pause_lasts_at_least_as_long_as_slack_asks() -> None:
    outcome = deliver(FakeSlack(post=[failure(Scope.WORKSPACE, "said", retry_after=90.0)]))
    assert outcome.pause == Pause("SLACK_AUTH_ERROR", 90.0)


def test_what_is_not_to_be_sent_says_why() -> None:
    assert deliver(FakeSlack(), is_active=False) == Outcome(
        "cancelled", "skipped", error_class="NOTIFICATION_CONFIG_INACTIVE"
    )
    assert deliver(FakeSlack(), is_expired=True) == Outcome(
        "dead", "dead", error_class="NOTIFICATION_EXPIRED", error="not delivered within its time to live"
    )
    assert deliver(FakeSlack(), attempts=6) == Outcome("dead", "dead", error_class="NOTIFICATION_ATTEMPTS_EXHAUSTED")
    assert deliver(FakeSlack(), event_data="[1]") == Outcome(
        "dead", "dead", error_class="NOTIFICATION_BAD_DATA", error="event_data is not a JSON object"
    )
    assert len(deliver(FakeSlack(), event_data="[" * 100_000).error or "") <= 500


def test_the_last_attempt_is_made_and_no_data_is_no_hindrance() -> None:
    assert deliver(FakeSlack(), attempts=5).state == "sent"
    for nothing in (None, "", "null"):
        slack = FakeSlack()
        assert deliver(slack, event_data=nothing).state == "sent"
        assert slack.posts[0].text == "Hello {{who}}"


def test_a_message_is_looked_for_in_its_channel_by_its_key_since_the_first_try() -> None:
    slack, breaker = FakeSlack(find=[Posted("C0REAL", "0.9")]), FakeBreaker()
    outcome = deliver(slack, breaker, is_ambiguous=True, channel_id="C0REAL")
    assert outcome == Outcome("sent", "found", PACE, slack_ts="0.9", channel_id="C0REAL")
    assert slack.finds == [("C0REAL", "7", ITEM.sending_at.timestamp() - CLOCK_SKEW_S)]
    assert breaker.told == [("allow", "slack:slack"), ("success", "slack:slack")]


def test_an_open_circuit_s_pause_is_spread() -> None:
    jitter = 1.0 + random.Random(1).random()
    for is_ambiguous, state in ((False, "queued"), (True, "sending")):
        outcome = deliver(FakeSlack(), FakeBreaker(is_open=True), is_ambiguous=is_ambiguous)
        assert outcome == Outcome(state, "circuit_open", CIRCUIT_PAUSE * jitter, given_back=True)  # type: ignore[arg-type]


def test_a_frozen_process_gives_the_row_back_at_once() -> None:
    assert deliver(FakeSlack(), deadline=99.0) == Outcome("queued", "frozen", NO_DELAY, given_back=True)
    assert deliver(FakeSlack(), deadline=100.0).state == "sent"


@pytest.mark.parametrize(
    ("concerns", "string", "why"),
    [
        (Scope.WORKSPACE, "missing_scope", "conversations.history: missing_scope"),
        (Scope.WORKSPACE, "not_allowed_token_type", "conversations.history: not_allowed_token_type"),
        (Scope.CHANNEL, "channel_not_found", "conversations.history: channel_not_found"),
        (Scope.MESSAGE, "invalid_cursor", "conversations.history: invalid_cursor"),
        (Scope.UNKNOWN, "brand_new", "conversations.history: brand_new"),
    ],
)
def test_why_nobody_can_tell_is_kept_and_a_second_try_stays_ambiguous(
    concerns: Scope, string: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(courier_module.log, "warning", lambda text, *values: warnings.append(text % values))
    held = deliver(FakeSlack(find=[failure(concerns, string)]), is_ambiguous=True, on_ambiguous="hold")
    assert held == Outcome("dead", "dead", error_class="NOTIFICATION_AMBIGUOUS", error=why)
    slack = FakeSlack(find=[failure(concerns, string)], post=[failure(Scope.RATE, "said")])
    resent = deliver(slack, is_ambiguous=True)
    assert resent == Outcome("sending", "rate_limited", dt.timedelta(seconds=1), given_back=True, error="said")
    assert warnings == [f"notification 7 may be sent twice: {why}"]


def test_a_channel_s_name_cannot_be_looked_up() -> None:
    held = deliver(FakeSlack(), is_ambiguous=True, on_ambiguous="hold", destination="#alerts")
    assert held.error == "the channel is configured by name, and its id is not known yet"


@pytest.mark.parametrize(
    ("concerns", "event"),
    [(Scope.RATE, "rate_limited"), (Scope.PASSING, "retry"), (Scope.AMBIGUOUS, "retry"), (Scope.QUOTA, "refused"),
     (Scope.WORKSPACE, "refused")],
)  # fmt: skip
def test_a_look_up_that_fails_tells_what_failed(concerns: Scope, event: str) -> None:
    breaker = FakeBreaker()
    outcome = deliver(FakeSlack(find=[failure(concerns, "said")]), breaker, is_ambiguous=True)
    assert (outcome.state, outcome.event, outcome.error, outcome.given_back) == ("sending", event, "said", True)
    assert (outcome.pause is not None) is (concerns in (Scope.QUOTA, Scope.WORKSPACE))


@pytest.mark.parametrize("concerns", [Scope.CHANNEL, Scope.UNKNOWN])
def test_a_look_up_that_is_refused_is_no_trouble_of_slack_s(concerns: Scope) -> None:
    breaker = FakeBreaker()
    deliver(FakeSlack(find=[failure(concerns, "said")]), breaker, is_ambiguous=True)
    assert breaker.told[:2] == [("allow", "slack:slack"), ("success", "slack:slack")]


def test_after_entering_the_same_message_is_posted_to_the_same_channel() -> None:
    slack = FakeSlack(post=[failure(Scope.CHANNEL, "not_in_channel")])
    deliver(slack)
    assert slack.calls == [("post", "C00ALERTS"), ("join", "C00ALERTS"), ("post", "C00ALERTS")]
    assert slack.posts[0] == slack.posts[1] == message("Hello &lt;!channel&gt;", "7")


def test_nobody_enters_a_private_channel_or_a_direct_message() -> None:
    refusal = failure(Scope.CHANNEL, "not_in_channel")
    slack = FakeSlack(post=[refusal])
    assert deliver(slack, channel_id="G0PRIVATE").parked == "SLACK_CHANNEL_ERROR"
    assert slack.calls == [("post", "G0PRIVATE")]


def test_the_plain_form_goes_to_the_same_channel() -> None:
    slack = FakeSlack(post=[failure(Scope.MESSAGE, "invalid_blocks")])
    assert deliver(slack) == Outcome("sent", "sent", PACE, slack_ts="1.5", channel_id="C00ALERTS")
    assert slack.calls == [("post", "C00ALERTS"), ("post", "C00ALERTS")]
    assert slack.posts[1] == plain("Hello &lt;!channel&gt;", "7")


def test_a_broadcast_of_the_template_pings_where_it_is_allowed() -> None:
    slack = FakeSlack()
    deliver(slack, template="<!here> {{who}}", allow_broadcast=True)
    deliver(slack, template="<!here> {{who}}")
    assert [post.text for post in slack.posts] == ["<!here> &lt;!channel&gt;", "@here &lt;!channel&gt;"]


def test_a_workspace_has_a_circuit_of_its_own() -> None:
    breaker = FakeBreaker()
    deliver(FakeSlack(), breaker, workspace="other")
    assert {key for _, key in breaker.told} == {"slack:other"}
