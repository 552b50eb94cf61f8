"""Google's batch format: HTTP requests as parts of one request, HTTP answers as parts of one answer.

https://developers.google.com/workspace/calendar/api/guides/batch
"""

from __future__ import annotations

import email
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penstock.core.errors import error

BOUNDARY = "penstock_batch"
"""JSON with escaped control characters never holds a line that begins with it."""

CONTENT_TYPE = f"multipart/mixed; boundary={BOUNDARY}"


@dataclass(frozen=True, slots=True)
class Part:
    """One request: target is path and query."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = None


@dataclass(frozen=True, slots=True)
class PartAnswer:
    """One answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def encode(parts: Sequence[Part]) -> bytes:
    """The body of a batch; each part is named by its place."""
    pieces = []
    for number, part in enumerate(parts):
        content = b"" if part.body is None else json.dumps(part.body, separators=(",", ":")).encode("ascii")
        headers = dict(part.headers)
        if content:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
        head = [
            f"--{BOUNDARY}",
            "Content-Type: application/http",
            f"Content-ID: <{number}>",
            "",
            f"{part.method} {part.target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        pieces.append("\r\n".join(head).encode("ascii") + b"\r\n\r\n" + content + b"\r\n")
    return b"".join(pieces) + f"--{BOUNDARY}--\r\n".encode("ascii")


def decode(content_type: str, body: bytes, count: int) -> list[PartAnswer | None]:
    """The answers in the order of the requests; None for a part that is missing or cannot be read.

    Raises RESPONSE_NOT_JSON when the answer is no batch at all.
    """
    message = email.message_from_bytes(b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body)
    if not message.is_multipart():
        raise error("RESPONSE_NOT_JSON", f"the batch was answered with {content_type[:80]!r}, {len(body)} bytes")
    answers: list[PartAnswer | None] = [None] * count
    for piece in message.get_payload():
        if isinstance(piece, str):
            continue
        number = str(piece.get("Content-ID", "")).strip("<>").removeprefix("response-")
        if number.isdecimal() and int(number) < count:
            payload = piece.get_payload(decode=True)
            answers[int(number)] = _answer(payload if isinstance(payload, bytes) else b"")
    return answers


def _answer(payload: bytes) -> PartAnswer | None:
    head, _, body = payload.replace(b"\r\n", b"\n").partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        return None
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return PartAnswer(int(words[1]), headers, body)
