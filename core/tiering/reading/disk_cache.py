"""Pages of chunks as files: a cache that may be deleted at any time, by anybody.

**Invariants**

- There are at most `bytes_max` in files, counted before they are written.
- The cache begins empty, so no file is older than this process.
- A file that is gone, short or unreadable counts as a missing page. Readers check the bytes as if they came from afar.
- Nothing is synced, and nobody waits for a write.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from core.log.format import Buffer

logger = logging.getLogger(__name__)

WRITES_WAITING_MAX: Final = 16
"""The most pages in memory on their way to the disk. If the disk is slower, pages are left out."""


class DiskCache:
    """Least recently used pages go first. For the event loop; files are touched in one thread."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._names: OrderedDict[Hashable, tuple[str, int]] = OrderedDict()
        self._used = 0
        self._made = 0
        self._writing = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tier2-disk-cache")
        self._thread.submit(empty, directory)

    @property
    def used(self) -> int:
        """Bytes in files."""
        return self._used

    def __contains__(self, key: Hashable) -> bool:
        return key in self._names

    async def read(self, keys: Sequence[Hashable]) -> list[bytes] | None:
        """Some pages; None unless all of them can be read."""
        files: list[tuple[Path, int]] = []
        for key in keys:
            known = self._names.get(key)
            if known is None:
                return None
            self._names.move_to_end(key)
            files.append((self._directory / known[0], known[1]))
        found = await asyncio.get_running_loop().run_in_executor(self._thread, _read, files)
        if found is None:
            for key in keys:
                self.forget(key)
        return found

    def write(self, key: Hashable, data: Buffer) -> None:
        """Keep a page, unless the disk is behind."""
        if key in self._names or self._writing >= WRITES_WAITING_MAX or len(data) > self._bytes_max:
            return
        while self._used + len(data) > self._bytes_max:
            self.forget(next(iter(self._names)))
        self._made += 1
        name = f"{self._made:x}.page"
        self._names[key] = name, len(data)
        self._used += len(data)
        self._writing += 1
        writing = asyncio.get_running_loop().run_in_executor(self._thread, _write, self._directory / name, data)
        writing.add_done_callback(lambda done: self._written(key, name, done))

    def forget(self, key: Hashable) -> None:
        known = self._names.pop(key, None)
        if known is not None:
            self._used -= known[1]
            self._thread.submit(_remove, self._directory / known[0])

    def _written(self, key: Hashable, name: str, done: asyncio.Future[None]) -> None:
        self._writing -= 1
        if done.cancelled() or done.exception() is None:
            return
        logger.warning("page not cached on disk", extra={"error": str(done.exception())})
        if self._names.get(key, ("", 0))[0] == name:
            self.forget(key)

    def close(self) -> None:
        self._names.clear()
        self._thread.submit(empty, self._directory)
        self._thread.shutdown()


def empty(directory: Path) -> None:
    """Delete the files of an earlier process, even if this one keeps none. Blocks."""
    shutil.rmtree(directory, ignore_errors=True)


def _read(files: Sequence[tuple[Path, int]]) -> list[bytes] | None:
    try:
        pages = [path.read_bytes() for path, _ in files]
    except OSError:
        return None
    return pages if [len(page) for page in pages] == [size for _, size in files] else None


def _write(path: Path, data: Buffer) -> None:
    path.parent.mkdir(exist_ok=True)
    try:
        path.write_bytes(data)
    except OSError:
        _remove(path)
        raise


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("page not removed from the disk cache", extra={"error": str(error)})
