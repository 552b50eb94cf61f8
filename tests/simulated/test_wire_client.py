"""What happens on the wire itself, against servers that break in the ways that sandboxes and vendors do not."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from penstock.clients import sessions
from penstock.clients.credentials import Credentials
from penstock.clients.ga4 import GA4Client
from penstock.clients.google_ads import GoogleAdsClient
from penstock.clients.klaviyo import KlaviyoClient
from penstock.clients.meta_ads import MetaClient
from penstock.clients.transport import VendorClient
from penstock.core.errors import PenstockError
from penstock.sources import ga4, google_ads, klaviyo, meta_ads
from penstock.sources.stream import Request
from tests.client_doubles import SECRET, TOKEN, Bench

Reply = Callable[[BaseHTTPRequestHandler], None]
EVENTS = Request("GET", "api/events", limit="events")
ACCOUNT = Request("GET", "act_1", {"fields": "name"})


class Server:
    """An HTTP server whose answers the test writes, one after the other; the last is repeated."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                reply(self)

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def say(status: int, body: bytes, **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return reply


GOOD = say(200, b'{"data": []}')


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@pytest.fixture
def klaviyo_bench(server: Server) -> Iterator[Bench]:
    found = Bench(KlaviyoClient, klaviyo.LIMITS, credentials=Credentials(server.url, TOKEN))
    yield found
    found.client.close()


@pytest.fixture
def meta_bench(server: Server) -> Iterator[Bench]:
    found = Bench(MetaClient, meta_ads.LIMITS, credentials=Credentials(server.url, TOKEN, SECRET))
    yield found
    found.client.close()


def shorter(handler: BaseHTTPRequestHandler) -> None:
    say(200, b'{"data": [', **{"Content-Length": "5000"})(handler)


def nothing(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def test_a_body_shorter_than_promised_is_asked_for_again(server: Server, klaviyo_bench: Bench) -> None:
    server.replies = [shorter, GOOD]
    assert klaviyo_bench.client.send(EVENTS) == {"data": []}
    assert klaviyo_bench.breaker.events[0].startswith("RESPONSE_TRUNCATED")


def test_a_dropped_connection_is_tried_again(server: Server, klaviyo_bench: Bench, meta_bench: Bench) -> None:
    for bench, request in ((klaviyo_bench, EVENTS), (meta_bench, ACCOUNT)):
        server.replies = [nothing, GOOD]
        assert bench.client.send(request) == {"data": []}
        assert bench.client.requests == 2


def test_silence_is_a_time_out(server: Server, klaviyo_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "READ_TIMEOUT_S", 0.05)
    waiting = threading.Event()
    server.replies = [lambda handler: nothing(handler) if waiting.wait(0.3) else None, GOOD]
    assert klaviyo_bench.client.send(EVENTS) == {"data": []}
    assert klaviyo_bench.breaker.events[0].startswith("NETWORK_TIMEOUT")


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, always before the silence would be noticed."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(500):
            handler.wfile.write(b" ")
            time.sleep(0.02)
    handler.close_connection = True


def test_a_body_that_drips_for_ever_is_a_time_out(
    server: Server, klaviyo_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "TOTAL_TIMEOUT_S", 0.2)
    server.replies = [drip, GOOD]
    began = time.monotonic()
    assert klaviyo_bench.client.send(EVENTS) == {"data": []}
    assert time.monotonic() - began < 5
    assert klaviyo_bench.breaker.events[0].startswith("NETWORK_TIMEOUT")


def chunked(*chunks: bytes, ended: bool = True) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for chunk in (*chunks, b"") if ended else chunks:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        handler.close_connection = True

    return reply


def test_bodies_in_chunks_and_packed_ones_are_read_whole(server: Server, klaviyo_bench: Bench) -> None:
    records = [{"id": str(number), "text": "x" * 50} for number in range(50_000)]
    body = json.dumps({"data": records}).encode()
    packed = gzip.compress(body)
    for reply in (
        chunked(*(body[at : at + 70_000] for at in range(0, len(body), 70_000))),
        say(200, packed, **{"Content-Encoding": "gzip"}),
        say(200, body),
    ):
        server.replies = [reply]
        assert klaviyo_bench.client.send(EVENTS) == {"data": records}


@pytest.mark.parametrize(
    "broken",
    [
        chunked(b'{"data": ', ended=False),
        say(200, gzip.compress(json.dumps({"data": list(range(999))}).encode())[:-20], **{"Content-Encoding": "gzip"}),
        say(200, b"no gzip at all", **{"Content-Encoding": "gzip"}),
    ],
)
def test_a_chunk_or_a_packed_body_that_is_broken_off_is_asked_for_again(
    server: Server, klaviyo_bench: Bench, broken: Reply
) -> None:
    server.replies = [broken, GOOD]
    assert klaviyo_bench.client.send(EVENTS) == {"data": []}
    assert klaviyo_bench.breaker.events[0].startswith("RESPONSE_TRUNCATED")


def test_a_body_without_end_is_not_read_into_memory(
    server: Server, klaviyo_bench: Bench, meta_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_BODY_BYTES", 1000)
    server.replies = [say(200, b"[" + b"1," * 1000 + b"1]")]
    for bench, request in ((klaviyo_bench, EVENTS), (meta_bench, ACCOUNT)):
        failure = bench.refused(request)
        assert failure.code == "RESPONSE_TOO_LARGE"
        assert bench.client.requests == 1  # asking again would not make it smaller; the slice asks for less


def test_redirects_are_refused_and_the_token_stays_here(
    server: Server, klaviyo_bench: Bench, meta_bench: Bench
) -> None:
    server.replies = [say(302, b"", Location=f"{server.url}/elsewhere")]
    for bench, request in ((klaviyo_bench, EVENTS), (meta_bench, ACCOUNT)):
        assert bench.refused(request).code == "CONFIG_INVALID"
    assert not [path for path, _ in server.seen if "elsewhere" in path]


def test_a_page_of_html_is_no_answer_whatever_it_says(server: Server, meta_bench: Bench) -> None:
    """The SDK looks for the key "success" in any body, even in a text."""
    server.replies = [say(200, b"<html>success</html>"), say(200, b"<html>Service Unavailable</html>"), GOOD]
    assert meta_bench.client.send(ACCOUNT) == {"data": []}
    assert [event.split(":")[0] for event in meta_bench.breaker.events[:2]] == ["RESPONSE_NOT_JSON"] * 2


def test_meta_calls_carry_token_and_proof_and_no_retries_of_the_sdk(server: Server, meta_bench: Bench) -> None:
    server.replies = [say(503, b"")]
    assert meta_bench.refused(ACCOUNT).code == "META_TRANSIENT"
    assert len(server.seen) == meta_bench.client.requests == 5
    path = server.seen[0][0]
    assert path.startswith("/v26.0/act_1?")
    assert "appsecret_proof=" in path
    assert "access_token=" in path


def test_the_api_version_may_be_overridden(server: Server) -> None:
    server.replies = [GOOD]
    held = Credentials(server.url, TOKEN, None, {"api_version": "v27.0"})
    bench = Bench(MetaClient, meta_ads.LIMITS, credentials=held)
    bench.client.send(ACCOUNT)
    bench.client.close()
    assert server.seen[0][0].startswith("/v27.0/act_1?")
    assert "appsecret_proof" not in server.seen[0][0]


def test_klaviyo_calls_carry_key_and_revision(server: Server, klaviyo_bench: Bench) -> None:
    server.replies = [GOOD]
    klaviyo_bench.client.send(EVENTS)
    headers = server.seen[0][1]
    assert headers["authorization"] == f"Klaviyo-API-Key {TOKEN}"
    assert headers["revision"] == klaviyo.KLAVIYO_REVISION


@pytest.mark.parametrize(
    ("scheme", "code"), [("http", "NETWORK_UNREACHABLE"), ("https", "TLS_ERROR"), ("gopher", "CONFIG_INVALID")]
)
@pytest.mark.parametrize(
    ("kind", "limits", "request_"),
    [(KlaviyoClient, klaviyo.LIMITS, EVENTS), (MetaClient, meta_ads.LIMITS, ACCOUNT)],
    ids=["klaviyo", "meta"],
)
def test_no_message_and_no_traceback_shows_the_token(
    server: Server, kind: type[VendorClient], limits: Any, request_: Request, scheme: str, code: str
) -> None:
    server.replies = [GOOD]
    url = server.url.replace("http", scheme)
    if scheme == "http":
        url = "http://127.0.0.1:9"  # the discard port: nobody listens
    bench = Bench(kind, limits, credentials=Credentials(url, TOKEN, SECRET))
    failure = bench.refused(request_)
    bench.client.close()
    assert failure.code == code
    text = "".join(traceback.format_exception(failure)) + repr(failure) + repr(vars(failure))
    for secret in (TOKEN, SECRET, "EAAsecret", "1234567890"):
        assert secret not in text
    assert failure.__cause__ is None
    assert failure.__context__ is None


def test_threads_have_connections_of_their_own_and_share_the_count(server: Server, klaviyo_bench: Bench) -> None:
    server.replies = [GOOD]
    failures: list[PenstockError] = []

    def work() -> None:
        for _ in range(5):
            try:
                klaviyo_bench.client.send(EVENTS)
            except PenstockError as failure:
                failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert klaviyo_bench.client.requests == 20
    client: Any = klaviyo_bench.client
    assert len(client._sessions._all) == 4
    client.close()
    assert client._sessions._all == []
    client.send(EVENTS)
    assert client.requests == 21


@pytest.mark.parametrize(
    ("broken", "character"),
    [("pk_12345\u2026", "U+2026"), ("pk_\nsecret", "U+000A"), ("pk_secret\r\n", "U+000D"), ("pk_secret\n", "U+000A")],
    ids=ascii,
)
def test_a_key_that_no_header_can_carry_is_an_invalid_credential(server: Server, broken: str, character: str) -> None:
    benches = (
        Bench(KlaviyoClient, klaviyo.LIMITS, credentials=Credentials(server.url, broken)),
        Bench(GA4Client, ga4.LIMITS, credentials=Credentials(server.url, broken)),
        Bench(GoogleAdsClient, google_ads.LIMITS, credentials=Credentials(server.url, broken)),
        Bench(
            GoogleAdsClient,
            google_ads.LIMITS,
            credentials=Credentials(server.url, TOKEN, extra={"developer_token": broken}),
        ),
    )
    for bench in benches:
        with pytest.raises(PenstockError) as caught:
            bench.client.check()
        bench.client.close()
        failure = caught.value
        assert (failure.code, failure.retryable) == ("CREDENTIAL_INVALID", False)
        assert character in failure.message
        shown = "".join(traceback.format_exception(failure))
        assert not any(part in shown for part in ("12345", "pk_secret", "secret\n"))
    assert server.seen == []


def test_a_blank_before_a_header_s_value_is_one_that_it_cannot_carry(server: Server) -> None:
    credentials = Credentials(server.url, TOKEN, extra={"developer_token": " developer-secret"})
    bench = Bench(GoogleAdsClient, google_ads.LIMITS, credentials=credentials)
    with pytest.raises(PenstockError) as caught:
        bench.client.check()
    bench.client.close()
    assert caught.value.code == "CREDENTIAL_INVALID"
    assert "the header developer-token" in caught.value.message
