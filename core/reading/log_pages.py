"""Pages of complete log files in memory: the disk is read once for all readers, and ahead of sequential ones.

The log is written past the page cache, so only these pages stand between its readers and the disk. Entries of many
slots lie side by side in a file. Readers that catch up with them ask for the same pages at about the same time.

**Invariants**

- A page holds only bytes that were durable before it was read: files that are still written to have no pages.
- Kept pages have at most `bytes_max` bytes, but at least two are kept. Besides them, one page is read ahead, and each
  reading thread reads one.
- A page is read by one thread at a time, and nobody waits for a page that no thread reads yet.
- Readers get copies. So an answer that a slow peer does not take keeps its own bytes alive, not whole pages.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from core.log.files import log_path
from tier2.direct_io import open_direct, read_direct

PAGE_BYTES: Final = 4 << 20
"""The size of a read, large enough for the disk's full speed."""

PageKey = tuple[int, int]
"""A file's first LSN, never used again, and the page's number in it."""


class LogPages:
    """The pages of one container's log. For threads; every method may block."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self._pages_max = max(2, bytes_max // PAGE_BYTES)
        self._lock = threading.Lock()  # guards the two below
        self._pages: OrderedDict[PageKey, memoryview] = OrderedDict()
        self._loading: dict[PageKey, Future[memoryview]] = {}
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="log-ahead")

    def __repr__(self) -> str:
        return f"<LogPages {len(self._pages)}/{self._pages_max} pages, {len(self._loading)} on their way>"

    @property
    def used(self) -> int:
        """Bytes of kept pages."""
        with self._lock:
            return sum(map(len, self._pages.values()))

    def close(self) -> None:
        self._ahead.shutdown(cancel_futures=True)

    def bytes_at(self, file_lsn: int, position: int, size: int) -> bytes:
        """Bytes [position, position + size) of a complete file, fewer where it ends. Raises OSError."""
        parts = []
        stop = position + size
        for number in range(position // PAGE_BYTES, -(-stop // PAGE_BYTES)):
            start = number * PAGE_BYTES
            parts.append(self._page((file_lsn, number))[max(0, position - start) : stop - start])
        return b"".join(parts)

    def _page(self, key: PageKey) -> memoryview:
        file_lsn, number = key
        following = file_lsn, number + 1
        with self._lock:
            page = self._pages.get(key)
            if page is not None:
                self._pages.move_to_end(key)
            reads_on = number == 0 or (file_lsn, number - 1) in self._pages
            ahead = reads_on and following not in self._pages and following not in self._loading
        if page is None:
            page = self._load(key)
        if ahead and len(page) == PAGE_BYTES:
            self._ahead.submit(self._load_ahead, following)
        return page

    def _load(self, key: PageKey) -> memoryview:
        with self._lock:
            page, loading = self._pages.get(key), self._loading.get(key)
            if page is not None:
                return page
            if loading is None:
                own: Future[memoryview] = Future()
                self._loading[key] = own
        if loading is not None:
            return loading.result()
        try:
            page = self._read(key)
        except BaseException as error:
            with self._lock:
                del self._loading[key]
            own.set_exception(error)
            raise
        with self._lock:
            del self._loading[key]
            self._pages[key] = page
            while len(self._pages) > self._pages_max:
                self._pages.popitem(last=False)
        own.set_result(page)
        return page

    def _load_ahead(self, key: PageKey) -> None:
        try:
            self._load(key)
        except OSError:
            return  # a reader that comes to want it will hear of it

    def _read(self, key: PageKey) -> memoryview:
        file_lsn, number = key
        fd = open_direct(log_path(self._directory, file_lsn), os.O_RDONLY)
        try:
            return read_direct(fd, PAGE_BYTES, number * PAGE_BYTES)
        finally:
            os.close(fd)
