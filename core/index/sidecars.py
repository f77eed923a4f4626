"""Rows of complete log files, read from their sidecars through a cache that is bounded in bytes."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path

from core.errors import Corrupt
from core.index.rows import ADVICE, ROW_BYTES, BlockRef, Rows, decode_block, sidecar_path
from core.log.files import UNREADABLE, log_path


class Sidecars:
    """The sidecars of one container's log. For any thread."""

    def __init__(self, directory: Path, cache_bytes: int) -> None:
        self._directory = directory
        self._blocks = _BlockCache(cache_bytes)

    @property
    def cached_bytes(self) -> int:
        """Bytes of blocks held in memory."""
        return self._blocks.used

    def rows(self, ref: BlockRef) -> Rows:
        """A slot's rows of one file. Raises FileNotFoundError, Corrupt."""
        key = (ref.file_lsn, ref.stream_id, ref.slot)
        rows = self._blocks.get(key)
        if rows is None:
            path = sidecar_path(log_path(self._directory, ref.file_lsn))
            fd = os.open(path, os.O_RDONLY)
            try:
                block = os.pread(fd, ref.rows * ROW_BYTES, ref.position)
            except OSError as error:
                if error.errno not in UNREADABLE:
                    raise
                raise Corrupt(path, ref.position, f"cannot be read: {error.strerror}", ADVICE) from error
            finally:
                os.close(fd)
            rows = decode_block(path, ref, block)
            self._blocks.put(key, rows, len(block))
        return rows


class _BlockCache:
    """Least recently used sidecar blocks, bounded in bytes; shared by the pool's threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[int, int, int], tuple[Rows, int]] = OrderedDict()
        self.used = 0

    def get(self, key: tuple[int, int, int]) -> Rows | None:
        with self._lock:
            found = self._blocks.get(key)
            if found is None:
                return None
            self._blocks.move_to_end(key)
            return found[0]

    def put(self, key: tuple[int, int, int], rows: Rows, size: int) -> None:
        with self._lock:
            if key not in self._blocks:
                self._blocks[key] = rows, size
                self.used += size
            while self.used > self._limit and len(self._blocks) > 1:
                self.used -= self._blocks.popitem(last=False)[1][1]
