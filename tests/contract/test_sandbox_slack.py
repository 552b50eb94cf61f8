"""Slack's own SDK against the sandbox, unchanged."""

from __future__ import annotations

import time

import pytest
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler

from sandbox import slack
from tests.sandbox_fixture import Sandbox


@pytest.fixture
def client(sandbox: Sandbox) -> WebClient:
    return WebClient(token=slack.token(sandbox.state), base_url=sandbox.slack_url, retry_handlers=[])


def refused(error: pytest.ExceptionInfo[SlackApiError]) -> str:
    return str(error.value.response["error"])


def test_a_good_token_is_told_who_it_is(client: WebClient) -> None:
    assert client.auth_test()["team_id"] == slack.TEAM_ID


@pytest.mark.parametrize(
    ("token", "error"), [("", "not_authed"), ("xoxb-wrong", "invalid_auth"), ("revoked", "token_revoked")]
)
def test_a_bad_token_is_refused(sandbox: Sandbox, token: str, error: str) -> None:
    given = slack.revoked_token(sandbox.state) if token == "revoked" else token
    client = WebClient(token=given, base_url=sandbox.slack_url, retry_handlers=[])
    with pytest.raises(SlackApiError) as raised:
        client.auth_test()
    assert refused(raised) == error


def test_a_message_is_remembered_with_its_blocks(sandbox: Sandbox, client: WebClient) -> None:
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "*failed*"}}]
    answer = client.chat_postMessage(channel="#alerts", text="failed", blocks=blocks)
    assert answer["channel"] == "C00ALERTS"
    [message] = sandbox.get("slack/messages")
    assert (message["channel"], message["text"], message["ts"]) == ("C00ALERTS", "failed", answer["ts"])
    assert message["blocks"] == blocks


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"channel": "C0NOWHERE", "text": "x"}, "channel_not_found"),
        ({"channel": "C0ARCHIVED", "text": "x"}, "is_archived"),
        ({"channel": "C0PRIVATE", "text": "x"}, "not_in_channel"),
        ({"channel": "C00ALERTS", "text": ""}, "no_text"),
        ({"channel": "C00ALERTS", "text": "x" * 40_001}, "msg_too_long"),
        ({"channel": "C00ALERTS", "text": "x", "blocks": [{"type": "divider"}] * 51}, "invalid_blocks"),
        (
            {
                "channel": "C00ALERTS",
                "text": "x",
                "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "y" * 3001}}],
            },
            "invalid_blocks",
        ),
    ],
)
def test_a_message_that_slack_would_refuse_is_refused(
    sandbox: Sandbox, client: WebClient, arguments: dict[str, object], error: str
) -> None:
    with pytest.raises(SlackApiError) as raised:
        client.api_call("chat.postMessage", json=arguments)
    assert refused(raised) == error
    assert sandbox.get("slack/messages") == []


def test_a_channel_takes_one_message_a_second(sandbox: Sandbox, client: WebClient) -> None:
    client.chat_postMessage(channel="C00ALERTS", text="one")
    client.chat_postMessage(channel="C0REPORTS", text="another channel")
    with pytest.raises(SlackApiError) as raised:
        client.chat_postMessage(channel="C00ALERTS", text="two")
    assert refused(raised) == "ratelimited"
    assert (raised.value.response.status_code, raised.value.response.headers["retry-after"]) == (429, "1")


def test_the_sdk_waits_as_long_as_it_is_told(sandbox: Sandbox) -> None:
    client = WebClient(
        token=slack.token(sandbox.state),
        base_url=sandbox.slack_url,
        retry_handlers=[RateLimitErrorRetryHandler(max_retry_count=1)],
    )
    began = time.monotonic()
    for text in ("one", "two"):
        client.chat_postMessage(channel="C00ALERTS", text=text)
    assert time.monotonic() - began >= 0.95
    assert [each["text"] for each in sandbox.get("slack/messages")] == ["one", "two"]


def test_a_direct_message_is_opened_and_its_history_read(client: WebClient) -> None:
    channel = client.conversations_open(users="U0ANNA")["channel"]["id"]
    client.chat_postMessage(channel=channel, text="hello")
    history = client.conversations_history(channel=channel, limit=1)
    assert [each["text"] for each in history["messages"]] == ["hello"]
    assert history["has_more"] is False


def test_a_server_error_may_be_asked_for(sandbox: Sandbox, client: WebClient) -> None:
    sandbox.faults({"vendor": "slack", "action": "status", "times": 1, "params": {"status": 503}})
    with pytest.raises(SlackApiError) as raised:
        client.chat_postMessage(channel="C00ALERTS", text="x")
    assert raised.value.response.status_code == 503
