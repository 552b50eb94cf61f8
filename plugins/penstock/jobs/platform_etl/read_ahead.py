"""Pages fetched ahead of whoever works on them."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable, Iterator

from penstock.sources.stream import Page

READ_AHEAD_PAGES = 4
"""Pages of a slice in memory, beside those of the batch. A commit takes about as long as three pages of a quick vendor:
with fewer, the vendor would be left idle meanwhile."""

HEAD_START_S = 0.005
"""Pause after a page that had to be waited for, so that the thread that fetches can send the next request before this
one takes the interpreter's lock; it would be held back by several times as much."""


class ReadAhead:
    """The pages of a slice, fetched by a thread that is at most `READ_AHEAD_PAGES` ahead of whoever iterates.

    Iterating raises what the fetch raised, after the pages before it. Leaving the block waits for the page on its way.
    """

    def __init__(self, fetch: Callable[[str | None], Page], token: str | None) -> None:
        self._fetch = fetch
        self._token = token
        self._pages: queue.SimpleQueue[Page | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(READ_AHEAD_PAGES)
        self._is_left = False
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "page")

    def __enter__(self) -> ReadAhead:
        self._work = self._pool.submit(self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_left = True
        self._room.release()
        self._pool.shutdown()

    def __iter__(self) -> Iterator[Page]:
        while (page := self._next()) is not None:
            yield page
            self._room.release()
        self._work.result()

    def _next(self) -> Page | None:
        if not self._pages.empty():
            return self._pages.get()
        page = self._pages.get()
        if page is not None and page.next_token is not None:
            time.sleep(HEAD_START_S)
        return page

    def _read(self) -> None:
        token = self._token
        try:
            while self._room.acquire() and not self._is_left:
                page = self._fetch(token)
                self._pages.put(page)
                token = page.next_token
                if token is None:
                    return
        finally:
            self._pages.put(None)
