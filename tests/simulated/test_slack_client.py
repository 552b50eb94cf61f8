"""The Slack client against the sandbox."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from penstock.clients.credentials import Credentials
from penstock.clients.slack import SlackClient, retry_after_of
from penstock.core.errors import PenstockError
from penstock.core.pacing import LONGEST_WAIT_S
from sandbox.slack import revoked_token, token
from tests.client_doubles import Clock
from tests.sandbox_fixture import Sandbox


@pytest.fixture
def clock() -> Clock:
    return Clock()


def slack(sandbox: Sandbox, clock: Clock, **changes: Any) -> SlackClient:
    given = {"base_url": sandbox.slack_url, "token": token(sandbox.state)}
    return SlackClient(Credentials(**{**given, **changes}), clock.sleep)


def refused(client: SlackClient, channel: str = "C00ALERTS") -> PenstockError:
    with pytest.raises(PenstockError) as failure:
        client.post_message(channel, "a run failed")
    return failure.value


def test_a_message_arrives_with_its_blocks(sandbox: Sandbox, clock: Clock) -> None:
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "*META_AUTH_ERROR*"}}]
    stamp = slack(sandbox, clock).post_message("C00ALERTS", "a run failed", blocks)
    (message,) = sandbox.get("slack/messages")
    assert (message["channel"], message["text"], message["ts"]) == ("C00ALERTS", "a run failed", stamp)
    assert message["blocks"] == blocks


def test_check_says_whose_token_it_is(sandbox: Sandbox, clock: Clock) -> None:
    assert slack(sandbox, clock).check().startswith("Slack workspace Sandbox")


@pytest.mark.parametrize(
    ("channel", "code"),
    [
        ("C0NOWHERE", "SLACK_CHANNEL_ERROR"),
        ("C0ARCHIVED", "SLACK_CHANNEL_ERROR"),
        ("C0PRIVATE", "SLACK_CHANNEL_ERROR"),
    ],
)
def test_channels_that_cannot_be_written_to_say_so(sandbox: Sandbox, clock: Clock, channel: str, code: str) -> None:
    failure = refused(slack(sandbox, clock), channel)
    assert (failure.code, failure.retryable) == (code, False)
    assert failure.provider_code


def test_a_revoked_token_is_an_error_of_authentication_and_stays_unseen(sandbox: Sandbox, clock: Clock) -> None:
    secret = revoked_token(sandbox.state)
    failure = refused(slack(sandbox, clock, token=secret))
    assert failure.code == "SLACK_AUTH_ERROR"
    assert secret not in "".join(traceback.format_exception(failure))
    assert failure.__context__ is None


def test_a_message_refused_for_its_rate_is_sent_after_the_wait(sandbox: Sandbox, clock: Clock) -> None:
    sandbox.faults({"vendor": "slack", "action": "status", "times": 1, "params": {"status": 429, "retry_after": 4}})
    assert slack(sandbox, clock).post_message("C00ALERTS", "later")
    assert clock.slept == [4.0]
    assert len(sandbox.get("slack/messages")) == 1


def test_a_wait_of_more_than_a_minute_is_not_for_an_alert(sandbox: Sandbox, clock: Clock) -> None:
    sandbox.faults({"vendor": "slack", "action": "status", "params": {"status": 429, "retry_after": 90}})
    failure = refused(slack(sandbox, clock))
    assert (failure.code, failure.retry_after) == ("SLACK_RATE_LIMIT", 90.0)


def test_a_wait_that_no_calendar_can_show_is_a_week() -> None:
    assert retry_after_of({"Retry-After": "9" * 20}) == LONGEST_WAIT_S


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"action": "status", "params": {"status": 500}}, "SLACK_ERROR"),
        ({"action": "drop"}, "NETWORK_UNREACHABLE"),
        ({"action": "html"}, "RESPONSE_NOT_JSON"),
        ({"action": "truncate"}, "RESPONSE_NOT_JSON"),
    ],
    ids=str,
)
def test_after_an_unclear_answer_a_message_is_not_sent_again(
    sandbox: Sandbox, clock: Clock, fault: dict[str, Any], code: str
) -> None:
    sandbox.faults({"vendor": "slack", **fault})
    failure = refused(slack(sandbox, clock))
    assert (failure.code, failure.retryable) == (code, True)
    assert clock.slept == []


def test_a_host_that_nobody_listens_on(sandbox: Sandbox, clock: Clock) -> None:
    assert refused(slack(sandbox, clock, base_url="http://127.0.0.1:9/api")).code == "NETWORK_UNREACHABLE"
