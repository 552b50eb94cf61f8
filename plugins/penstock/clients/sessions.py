"""HTTP sessions: one per thread, bounded in time and size, without surprises."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from penstock.core.errors import PenstockError, error

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 50.0  # silence between two bytes
TOTAL_TIMEOUT_S = 60.0  # of one answer, however slowly it drips
MAX_BODY_BYTES = 128 * 2**20
CHUNK_BYTES = 2**20  # each read gives the interpreter's lock away and waits to have it back, so few of them

_UNSENDABLE = re.compile(r"^\s|[\r\n]|[^\x00-\xff]")

# At DEBUG urllib3 logs whole URLs, and Meta's SDK puts the token into every one of them.
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)


class BodyTooLarge(Exception):
    """The answer is larger than `MAX_BODY_BYTES`."""


class BodyTooSlow(Exception):
    """The answer took longer than `TOTAL_TIMEOUT_S`."""


def new_session(
    *, read_timeout: float | None = None, total_timeout: float | None = None, connections: int = 2
) -> requests.Session:
    """A session that reads bodies within bounds, follows no redirect, retries nothing and ignores `.netrc`.

    A redirect would carry a token to a host that nobody configured.

    read_timeout, total_timeout: seconds; default `READ_TIMEOUT_S`, `TOTAL_TIMEOUT_S`.
    connections: kept open per host, for threads that share the session.
    """
    import requests
    from requests.adapters import HTTPAdapter

    class BoundedSession(requests.Session):
        def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
            refuse_unsendable({**self.headers, **(request.headers or {})})
            return super().prepare_request(request)

        def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
            silence, total = read_timeout or READ_TIMEOUT_S, TOTAL_TIMEOUT_S if total_timeout is None else total_timeout
            kwargs.update(stream=True, allow_redirects=False, timeout=(CONNECT_TIMEOUT_S, silence))
            began = time.monotonic()
            response = super().send(request, **kwargs)
            # The body is read here, so that users of the session (a vendor's SDK among them) get it whole.
            response._content = read_bounded(response, began + total)
            response._content_consumed = True  # type: ignore[attr-defined]
            response.encoding = "utf-8"
            return response

    session = BoundedSession()
    session.auth = keep_authorization
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=0, pool_connections=2, pool_maxsize=connections))
    return session


def refuse_unsendable(headers: Mapping[str, Any]) -> None:
    """Raises CREDENTIAL_INVALID for a value that a header cannot carry, such as a key that was pasted with an ellipsis
    or a line's end. Left to requests and http.client, their messages would quote the key."""
    for name, value in headers.items():
        found = _UNSENDABLE.search(value) if isinstance(value, str) else None
        if found:
            character = f"U+{ord(found[0]):04X}"
            raise error(
                "CREDENTIAL_INVALID", f"the header {name} cannot be sent: its value has the character {character}"
            )


def keep_authorization(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An explicit "no change": without it requests would take credentials from `.netrc`."""
    return request


def read_bounded(response: requests.Response, deadline: float) -> bytes:
    """The body. Raises BodyTooLarge, BodyTooSlow and whatever requests raises."""
    chunks = []
    size = 0
    try:
        while chunk := _read_some(response):
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise BodyTooLarge
            if time.monotonic() > deadline:
                raise BodyTooSlow
    finally:
        response.close()
    return b"".join(chunks)


def _read_some(response: requests.Response) -> bytes:
    """What has arrived of the body; nothing at its end. Raises what `Response.iter_content` raises, which waits until a
    chunk is full: for hours, where a vendor sends a byte now and then."""
    from requests import exceptions
    from urllib3 import exceptions as causes

    try:
        some: bytes = response.raw.read1(CHUNK_BYTES, decode_content=True)
    except causes.ProtocolError as failure:
        raise exceptions.ChunkedEncodingError(failure) from failure
    except causes.DecodeError as failure:
        raise exceptions.ContentDecodingError(failure) from failure
    except causes.ReadTimeoutError as failure:
        raise exceptions.ReadTimeout(failure) from failure
    except causes.SSLError as failure:
        raise exceptions.SSLError(failure) from failure
    return some


class ThreadLocal(Generic[T]):
    """One object per thread, made when first used; `close` closes those of all threads."""

    def __init__(self, make: Callable[[], T], close: Callable[[T], None]) -> None:
        self._make = make
        self._close = close
        self._local = threading.local()
        self._lock = threading.Lock()
        self._all: list[T] = []

    def get(self) -> T:
        found: T | None = getattr(self._local, "value", None)
        if found is None:
            found = self._make()
            self._local.value = found
            with self._lock:
                self._all.append(found)
        return found

    def close(self) -> None:
        with self._lock:
            made, self._all = self._all, []
        self._local = threading.local()
        for value in made:
            self._close(value)


def network_error(failure: Exception, redact: Callable[[str], str]) -> PenstockError:
    """The error of a call that got no whole answer. `failure` holds URLs with tokens: do not chain it."""
    import requests
    from requests import exceptions

    if isinstance(failure, BodyTooLarge):
        return error("RESPONSE_TOO_LARGE", f"the answer is larger than {MAX_BODY_BYTES} bytes")
    if isinstance(failure, BodyTooSlow):
        return error("NETWORK_TIMEOUT", f"the answer took longer than {TOTAL_TIMEOUT_S:g} s")
    table: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
        (exceptions.Timeout, "NETWORK_TIMEOUT"),
        (exceptions.SSLError, "TLS_ERROR"),
        ((exceptions.ChunkedEncodingError, exceptions.ContentDecodingError), "RESPONSE_TRUNCATED"),
        (exceptions.ConnectionError, "NETWORK_UNREACHABLE"),
        (requests.RequestException, "CONFIG_INVALID"),
    )
    code = next(code for kinds, code in table if isinstance(failure, kinds))
    if code == "NETWORK_UNREACHABLE" and "timed out" in str(failure):
        code = "NETWORK_TIMEOUT"
    return error(code, redact(f"{type(failure).__name__}: {failure}")[:500])
