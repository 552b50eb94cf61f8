"""The pages of a slice, fetched ahead of whoever writes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from penstock.jobs.platform_etl.read_ahead import READ_AHEAD_PAGES, ReadAhead
from penstock.sources.stream import Page


class Vendor:
    """Pages 0, 1, 2 ... `last`; the token of a page is its number."""

    def __init__(self, last: int, broken: int | None = None) -> None:
        self.asked: list[int] = []
        self._last = last
        self._broken = broken

    def __call__(self, token: str | None) -> Page:
        number = int(token or 0)
        self.asked.append(number)
        if number == self._broken:
            raise ConnectionError(f"page {number}")
        return Page([{"id": number}], None if number == self._last else str(number + 1))


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert is_so()


def test_all_pages_come_once_and_in_order_from_the_given_token_on() -> None:
    vendor = Vendor(last=9)
    with ReadAhead(vendor, "3") as pages:
        assert [page.records[0]["id"] for page in pages] == [3, 4, 5, 6, 7, 8, 9]
    assert vendor.asked == [3, 4, 5, 6, 7, 8, 9]


def test_no_more_than_its_share_of_pages_lies_in_memory() -> None:
    vendor = Vendor(last=99)
    with ReadAhead(vendor, None) as pages:
        written = iter(pages)
        wait_for(lambda: len(vendor.asked) == READ_AHEAD_PAGES)
        next(written)
        time.sleep(0.02)
        assert len(vendor.asked) == READ_AHEAD_PAGES, "the page that is being written counts"
        next(written)
        wait_for(lambda: len(vendor.asked) == READ_AHEAD_PAGES + 1)


def test_an_error_comes_after_the_pages_before_it() -> None:
    with ReadAhead(Vendor(last=9, broken=2), None) as pages:
        written = iter(pages)
        assert [next(written).records[0]["id"] for _ in range(2)] == [0, 1]
        with pytest.raises(ConnectionError, match="page 2"):
            next(written)


def test_who_leaves_early_waits_for_the_page_on_its_way_and_asks_for_no_other() -> None:
    vendor = Vendor(last=99)
    is_on_its_way, may_come = threading.Event(), threading.Event()

    def slow(token: str | None) -> Page:
        if token == "1":
            is_on_its_way.set()
            assert may_come.wait(5)
        return vendor(token)

    with ReadAhead(slow, None) as pages:
        next(iter(pages))
        assert is_on_its_way.wait(5)
        threading.Timer(0.02, may_come.set).start()
    assert vendor.asked == [0, 1]
    assert not any(thread.name.startswith("page") for thread in threading.enumerate())
