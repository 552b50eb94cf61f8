"""Google's batch format, whole and damaged."""

from __future__ import annotations

import pytest

from penstock.clients import multipart
from penstock.clients.multipart import Part
from penstock.core.errors import PenstockError

ANSWER = (
    b"--b\r\nContent-Type: application/http\r\nContent-ID: <response-1>\r\n\r\n"
    b'HTTP/1.1 200 OK\r\nETag: "7"\r\nContent-Type: application/json\r\n\r\n{"id": "z\xc3\xbc"}\r\n'
    b"--b\r\nContent-Type: application/http\r\nContent-ID: <response-0>\r\n\r\n"
    b"HTTP/1.1 204 No Content\r\n\r\n\r\n--b--\r\n"
)


def test_requests_become_parts_in_their_order() -> None:
    text = multipart.encode(
        [Part("POST", "/a?b=c", {"If-Match": '"1"'}, {"t": "\N{CHECK MARK}"}), Part("DELETE", "/d")]
    )
    first, second = text.split(b"--penstock_batch")[1:3]
    assert b"Content-ID: <0>" in first
    assert b'POST /a?b=c HTTP/1.1\r\nIf-Match: "1"\r\nContent-Type: application/json' in first
    assert b'\r\n\r\n{"t":"\\u2713"}\r\n' in first
    assert b"DELETE /d HTTP/1.1\r\n\r\n" in second
    assert text.endswith(b"--penstock_batch--\r\n")


def test_answers_come_back_in_the_order_of_the_requests() -> None:
    first, second = multipart.decode("multipart/mixed; boundary=b", ANSWER, 2)
    assert first is not None
    assert (first.status, first.body.strip()) == (204, b"")
    assert second is not None
    assert (second.status, second.headers["etag"], second.body.strip().decode()) == (200, '"7"', '{"id": "zü"}')


@pytest.mark.parametrize("length", [80, 100, 140, 180, 230])
def test_a_cut_answer_lacks_parts_and_never_has_wrong_ones(length: int) -> None:
    parts = multipart.decode("multipart/mixed; boundary=b", ANSWER[:length], 2)
    assert parts[0] is None or parts[0].status == 204
    assert parts[1] is None or parts[1].status == 200


def test_a_page_of_html_is_no_batch() -> None:
    with pytest.raises(PenstockError) as refused:
        multipart.decode("text/html", b"<h1>Bad Gateway</h1>", 2)
    assert refused.value.code == "RESPONSE_NOT_JSON"


def test_parts_that_nobody_asked_for_are_left_out() -> None:
    assert multipart.decode("multipart/mixed; boundary=b", ANSWER.replace(b"response-0", b"response-9"), 2)[0] is None
