"""The Slack client's part in notifications, against the sandbox: what a failure says about the message."""

from __future__ import annotations

import time
from typing import Any

import pytest

from penstock.clients.credentials import Credentials
from penstock.clients.slack import SlackClient, scope
from penstock.core.errors import PenstockError
from penstock.core.slack_errors import Scope
from penstock.core.slack_messages import message
from sandbox.slack import token
from sandbox.slack_store import store_of
from tests.sandbox_fixture import Sandbox

CHANNEL = "C00ALERTS"


@pytest.fixture
def client(sandbox: Sandbox) -> SlackClient:
    store_of(sandbox.state).switches.change({"channel_seconds": 1e-6})
    return SlackClient(Credentials(sandbox.slack_url, token(sandbox.state)))


def failed(client: SlackClient) -> PenstockError:
    with pytest.raises(PenstockError) as raised:
        client.post(CHANNEL, message("hello", "k"))
    return raised.value


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"action": "drop"}, Scope.AMBIGUOUS),
        ({"action": "stored_then_drop"}, Scope.AMBIGUOUS),
        ({"action": "stored_then_status"}, Scope.AMBIGUOUS),
        ({"action": "html"}, Scope.AMBIGUOUS),
        ({"action": "html", "params": {"status": 502}}, Scope.AMBIGUOUS),
        ({"action": "truncate"}, Scope.AMBIGUOUS),
        ({"action": "truncate", "params": {"wrong_length": True}}, Scope.AMBIGUOUS),
        ({"action": "status", "params": {"status": 503}}, Scope.AMBIGUOUS),
        ({"action": "status", "params": {"status": 429, "retry_after": 7}}, Scope.RATE),
        ({"action": "expired_token"}, Scope.WORKSPACE),
        ({"action": "status", "params": {"status": 200, "error": "is_archived"}}, Scope.CHANNEL),
        ({"action": "status", "params": {"status": 200, "error": "invalid_blocks"}}, Scope.MESSAGE),
        ({"action": "status", "params": {"status": 200, "error": "never_heard_of"}}, Scope.UNKNOWN),
    ],
    ids=str,
)
def test_a_failure_says_whether_the_message_can_have_arrived(
    sandbox: Sandbox, client: SlackClient, fault: dict[str, Any], expected: Scope
) -> None:
    sandbox.faults({"vendor": "slack", "times": 1, **fault})
    before = client.calls
    failure = failed(client)
    assert scope(failure) is expected
    assert client.calls == before + 1, "nothing is sent twice"
    assert failure.retry_after == (7.0 if expected is Scope.RATE else None)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://no-such-host.invalid/"])
def test_a_connection_that_never_came_to_be_has_delivered_nothing(sandbox: Sandbox, url: str) -> None:
    assert scope(failed(SlackClient(Credentials(url, token(sandbox.state))))) is Scope.PASSING


def test_a_token_that_no_header_can_carry_is_the_workspace_s_error(sandbox: Sandbox) -> None:
    failure = failed(SlackClient(Credentials(sandbox.slack_url, "xoxb-1234567890\u2026")))
    assert (failure.code, scope(failure)) == ("CREDENTIAL_INVALID", Scope.WORKSPACE)
    assert "1234567890" not in str(failure)
    assert failure.__context__ is None


def test_a_time_out_is_ambiguous_and_does_not_last(sandbox: Sandbox) -> None:
    client = SlackClient(Credentials(sandbox.slack_url, token(sandbox.state)), timeout=0.3)
    sandbox.faults({"vendor": "slack", "action": "timeout", "params": {"seconds": 3}})
    began = time.monotonic()
    assert scope(failed(client)) is Scope.AMBIGUOUS
    assert time.monotonic() - began < 1.3


def test_a_message_is_found_again_by_its_key_over_several_pages(
    sandbox: Sandbox, client: SlackClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.clients.slack.HISTORY_PAGE", 3)
    posted = [client.post(CHANNEL, message(f"text {number}", f"key-{number}")) for number in range(8)]
    assert client.find(CHANNEL, "key-1", oldest=time.time() - 60) == posted[1]
    assert client.find(CHANNEL, "key-9", oldest=time.time() - 60) is None
    assert client.find(CHANNEL, "key-1", oldest=time.time() + 60) is None
    assert all(each["blocks"][0]["text"]["verbatim"] for each in sandbox.get("slack/messages"))


def test_a_person_is_named_by_id_or_address_and_asked_for_once(sandbox: Sandbox, client: SlackClient) -> None:
    assert client.direct_channel("U0ANNA") == client.direct_channel("anna@example.com") == "D00ANNA"
    assert client.direct_channel("anna@example.com") == "D00ANNA"
    assert sandbox.answered("slack", "conversations.open") == 2
    assert sandbox.answered("slack", "users.lookupByEmail") == 1


@pytest.mark.parametrize("user", ["U9NOBODY", "nobody@example.com"])
def test_a_person_that_slack_does_not_know_is_the_channel_s_error(client: SlackClient, user: str) -> None:
    with pytest.raises(PenstockError) as raised:
        client.direct_channel(user)
    assert scope(raised.value) is Scope.CHANNEL


def test_a_message_too_large_for_slack_never_leaves_us(client: SlackClient, sandbox: Sandbox) -> None:
    client.post(CHANNEL, message("&lt;x " * 20_000, "k"))
    (stored,) = sandbox.get("slack/messages")
    assert len(stored["blocks"]) <= 50
