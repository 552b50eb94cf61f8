from __future__ import annotations

import base64
import datetime as dt
import json
from typing import Any

import pytest

from penstock.clients.answers import Answer
from penstock.clients.credentials import Credentials
from penstock.clients.nivoda import NivodaClient, token_end
from penstock.core.errors import PenstockError, error
from penstock.sources.stream import Request
from penstock.sources.tokens import LocalTokens, Token
from tests.client_doubles import NOW, Breaker, Clock, Limiter, answer

PASSWORD = "password-of-the-user"
QUERY = {"labgrown": False}
COUNTED = answer(body={"data": {"n0": 5}})


def jwt(expires: dt.datetime | None = None, *, number: int = 1) -> str:
    claims = {"id": number} | ({"exp": expires.timestamp()} if expires else {})
    parts = [{"alg": "HS256"}, claims]
    return ".".join(
        [*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), "s"]
    )


def login(token: str) -> Answer:
    return answer(body={"data": {"authenticate": {"username_and_password": {"token": token, "expires": 1.0}}}})


def failed(message: str, status: int = 200, **more: Any) -> Answer:
    return answer(status, {"errors": [{"message": message, **more.pop("fault", {})}], "data": None}, **more)


class Wired:
    """A client whose answers are given; `sent` holds what it asked and with which token."""

    def __init__(self, *answers: Answer | PenstockError, token_life: dt.timedelta = dt.timedelta(hours=6)) -> None:
        self.clock = Clock()
        self.limiter, self.breaker = Limiter(), Breaker()
        self.logins = 0
        self.sent: list[tuple[Request, str | None]] = []
        self.answers = list(answers)
        self.token_life = token_life
        credentials = Credentials("https://nivoda.test/api", secret=PASSWORD, extra={"username": "me@example.com"})
        tokens = LocalTokens(self.clock)
        self.client = NivodaClient(
            credentials, self.limiter, self.breaker, tokens, clock=self.clock, sleep=self.clock.sleep, rng=lambda: 0.5
        )
        self.client._call = self.call  # type: ignore[method-assign]

    def call(self, request: Request) -> Answer:
        if request.path == "login":
            self.logins += 1
            return login(jwt(self.clock.now + self.token_life, number=self.logins))
        self.sent.append((request, self.client._held.token))
        given = self.answers.pop(0)
        if isinstance(given, PenstockError):
            raise given
        return given

    def refused(self) -> PenstockError:
        with pytest.raises(PenstockError) as caught:
            self.client.count(QUERY)
        return caught.value


@pytest.mark.parametrize(
    ("reply", "code", "tries"),
    [
        (failed("jwt expired"), "NIVODA_AUTH_ERROR", 2),
        (failed("Invalid token"), "NIVODA_AUTH_ERROR", 2),
        (failed("Unauthorized"), "NIVODA_AUTH_ERROR", 2),
        (failed("authentication required"), "NIVODA_AUTH_ERROR", 2),
        (failed("no", fault={"extensions": {"code": "UNAUTHENTICATED"}}), "NIVODA_AUTH_ERROR", 2),
        (failed("Forbidden", 401), "NIVODA_AUTH_ERROR", 2),
        (failed('Cannot query field "x" on type "Diamond".'), "NIVODA_INVALID_QUERY", 1),
        (failed('Cannot query field "x" on type "Diamond".', 400), "NIVODA_INVALID_QUERY", 1),
        (failed('Unknown type "X".'), "NIVODA_INVALID_QUERY", 1),
        (failed("Syntax Error: Unexpected Name", 400), "NIVODA_INVALID_QUERY", 1),
        (failed("anything", fault={"extensions": {"code": "BAD_USER_INPUT"}}), "NIVODA_INVALID_QUERY", 1),
        (answer(404, b"not here"), "NIVODA_INVALID_QUERY", 1),
        (failed("The operation timed out"), "NIVODA_TRANSIENT", 5),
        (failed("connect ECONNREFUSED"), "NIVODA_TRANSIENT", 5),
        (answer(503, b"<html>"), "NIVODA_TRANSIENT", 5),
        (failed("a message of next year"), "NIVODA_ERROR", 5),
        (answer(302, b"", location="https://elsewhere.test"), "CONFIG_INVALID", 1),
        (answer(body={"data": {"n0": None}}), "SCHEMA_MISMATCH", 1),
        (answer(body=b"<html>"), "RESPONSE_NOT_JSON", 3),
        (error("NETWORK_TIMEOUT", "silence"), "NETWORK_TIMEOUT", 5),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_errors_have_their_code_and_their_number_of_tries(reply: Answer | PenstockError, code: str, tries: int) -> None:
    wired = Wired(*[reply] * 10)
    failure = wired.refused()
    assert (failure.code, len(wired.sent)) == (code, tries)
    assert wired.logins == (2 if code == "NIVODA_AUTH_ERROR" else 1)
    assert failure.service == "clients.nivoda" or code == "SCHEMA_MISMATCH"


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (failed("slow down", 429, retry_after="7"), 7.0),
        (answer(429, b"Too many"), 30.0),
        (failed("Rate limit exceeded"), 30.0),
        (failed("Please wait 30 seconds between requests"), 30.0),
    ],
    ids=["told", "not told", "in a 200", "in words"],
)
def test_a_rate_limit_closes_the_pace_of_all_workers_and_the_call_is_repeated(reply: Answer, seconds: float) -> None:
    wired = Wired(reply, COUNTED)
    assert wired.client.count(QUERY) == 5
    assert wired.limiter.blocked == [("nivoda:me@example.com:graphql", seconds, "NIVODA_RATE_LIMIT")]
    assert max(wired.clock.slept) >= seconds


def test_a_wait_that_no_worker_should_sit_through_is_handed_up() -> None:
    wired = Wired(failed("slow down", 429, retry_after="600"))
    failure = wired.refused()
    assert (failure.code, failure.retry_after, len(wired.sent)) == ("NIVODA_RATE_LIMIT", 600.0, 1)


def test_errors_of_single_items_do_not_fail_the_page() -> None:
    fault = {"message": "Enum cannot represent value", "path": ["page", "items", 0, "diamond", "certificate", "color"]}
    wired = Wired(answer(body={"errors": [fault], "data": {"page": {"items": [None, {"id": "1"}]}}}))
    page = wired.client.page(QUERY, 0)
    assert (page.items, [place for place, _ in page.bad]) == ([{"id": "1"}], [0])


def test_another_error_beside_those_of_items_does() -> None:
    faults = [
        {"message": "Enum cannot represent value", "path": ["page", "items", 0, "diamond"]},
        {"message": "operation timed out", "path": ["n"]},
    ]
    wired = Wired(*[answer(body={"errors": faults, "data": {"page": {"items": [None]}, "n": None}})] * 5)
    with pytest.raises(PenstockError) as caught:
        wired.client.page(QUERY, 0, with_count=True)
    assert caught.value.code == "NIVODA_TRANSIENT"


def test_the_word_errors_in_a_stone_is_no_error() -> None:
    wired = Wired(answer(body={"data": {"page": {"items": [{"id": "1", "comments": 'no "errors" seen'}]}}}))
    assert len(wired.client.page(QUERY, 0).items) == 1


# -- tokens


def test_a_refused_token_is_not_sent_again() -> None:
    wired = Wired(failed("jwt expired"), COUNTED)
    assert wired.client.count(QUERY) == 5
    first, second = (token for _, token in wired.sent)
    assert first != second
    assert wired.logins == 2


def test_a_token_that_another_worker_renewed_meanwhile_costs_no_login() -> None:
    wired = Wired(COUNTED, failed("jwt expired"), COUNTED)
    wired.client.count(QUERY)
    fresh = Token(jwt(NOW + dt.timedelta(hours=6), number=99), NOW + dt.timedelta(hours=5))
    held = wired.client._tokens._held  # type: ignore[attr-defined]

    def call(request: Request) -> Answer:
        given = wired.call(request)
        held[wired.client._token_key] = fresh
        return given

    wired.client._call = call  # type: ignore[method-assign]
    assert wired.client.count(QUERY) == 5
    assert wired.logins == 1
    assert wired.sent[-1][1] == fresh.value


@pytest.mark.parametrize(
    ("life", "used_until"),
    [
        (dt.timedelta(hours=24), dt.timedelta(hours=24, minutes=-5)),
        (dt.timedelta(hours=6), dt.timedelta(hours=6, minutes=-5)),
        (dt.timedelta(seconds=100), dt.timedelta(seconds=90)),
    ],
    ids=str,
)
def test_a_token_is_renewed_a_little_before_it_ends(life: dt.timedelta, used_until: dt.timedelta) -> None:
    wired = Wired(*[COUNTED] * 3, token_life=life)
    wired.client.count(QUERY)
    wired.clock.now = NOW + used_until - dt.timedelta(seconds=1)
    wired.client.count(QUERY)
    assert wired.logins == 1
    wired.clock.now = NOW + used_until
    wired.client.count(QUERY)
    assert wired.logins == 2


def test_the_end_of_a_token_is_read_without_checking_its_signature() -> None:
    assert token_end(jwt(NOW)) == NOW


@pytest.mark.parametrize("token", ["opaque", "a.b.c", "..", jwt(None), "a.bnVsbA.c", "a.eyJleHAiOiAxZTMwfQ.c"])
def test_a_token_that_does_not_say_when_it_ends_lives_six_hours(token: str) -> None:
    assert token_end(token) is None
    wired = Wired(COUNTED, COUNTED, COUNTED)
    tokens: list[str] = []

    def call(request: Request) -> Answer:
        if request.path == "login":
            tokens.append(token)
            return login(token)
        return COUNTED

    wired.client._call = call  # type: ignore[method-assign]
    for hours in (0, 5.9, 0.1):
        wired.clock.now += dt.timedelta(hours=hours)
        wired.client.count(QUERY)
    assert len(tokens) == 2


@pytest.mark.parametrize(
    "reply",
    [
        failed("Invalid username or password"),
        failed("nope", fault={"extensions": {"code": "UNAUTHENTICATED"}}),
        answer(401, b"no"),
        answer(body={"data": {"authenticate": {"username_and_password": None}}}),
    ],
    ids=["words", "code", "status", "no session"],
)
def test_a_refused_login_is_tried_once(reply: Answer) -> None:
    wired = Wired()
    logins: list[Request] = []

    def call(request: Request) -> Answer:
        logins.append(request)
        return reply

    wired.client._call = call  # type: ignore[method-assign]
    assert (wired.refused().code, len(logins)) == ("NIVODA_AUTH_ERROR", 1)


def test_without_a_password_nothing_is_called() -> None:
    wired = Wired()
    wired.client._credentials = Credentials("https://nivoda.test", extra={"username": "me"})
    assert wired.refused().code == "CREDENTIAL_NOT_FOUND"
    assert wired.client.requests == 0


def test_neither_password_nor_token_are_in_errors_and_reprs() -> None:
    opaque = "opaque-token-0123456789"
    issued = [jwt(NOW + dt.timedelta(hours=6)), opaque]
    for token in issued:
        wired = Wired()

        def call(request: Request, token: str = token) -> Answer:
            quoted = f"jwt malformed: {token}, Bearer {token}, {PASSWORD}"
            return login(token) if request.path == "login" else failed(quoted)

        wired.client._call = call  # type: ignore[method-assign]
        failure = wired.refused()
        told = f"{failure} {failure!r} {failure.as_json()} {wired.client._credentials!r} {Token(token, NOW)!r}"
        assert failure.code == "NIVODA_AUTH_ERROR"
        assert PASSWORD not in told
        assert token not in told
