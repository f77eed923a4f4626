"""A container's complete log files, and the rows of them that memory holds.

**Invariants**

- `complete` is in the order of LSNs; a file leaves it from the front only.
- A file is in `unindexed` from its completion until its sidecar is written and registered.
- Rows in memory are those of the newest files. A slot's `columns` are the rows of its files, oldest first, then those
  of the open file. Some of these files may be gone from the disk: their rows lead to bytes in memory only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from core.index.rows import SlotColumns
from core.log.log_file import LogFile
from core.log.slabs import Slabs
from core.streams.live import Slot


class LogFiles:
    """The complete files of one container. For the event loop; recovery fills it in a thread of its own."""

    def __init__(self, slabs: Slabs) -> None:
        self._slabs = slabs
        self.complete: list[LogFile] = []
        self.unindexed: list[LogFile] = []
        self.first_lsn = 0  # of the log, once it is known: a start found files, or the log gave one up
        self._gone: deque[LogFile] = deque()  # from the disk, while memory has some of their bytes
        self.rolled = asyncio.Event()  # a file was completed: its sidecar is due
        self._columns: dict[int, list[tuple[Slot, SlotColumns]]] = {}  # by the file's first LSN

    def __repr__(self) -> str:
        return (
            f"<LogFiles {len(self.complete)} complete, {len(self.unindexed)} unindexed, {len(self._columns)} in memory>"
        )

    @property
    def bytes(self) -> int:
        """The bytes in use of complete files."""
        return sum(file.size for file in self.complete)

    def found(self, files: list[LogFile]) -> None:
        """Take in the files that a start has found."""
        self.complete = files
        self.first_lsn = files[0].first_lsn if files else 0
        self.unindexed = [file for file in files if not file.indexed]

    def completed(self, file: LogFile) -> None:
        """Take in a complete file: the log goes on in another one."""
        self.complete.append(file)
        self.unindexed.append(file)
        self.rolled.set()

    def indexed(self, file: LogFile) -> None:
        """Note that the file's sidecar is written, and its rows are registered."""
        file.indexed = True
        self.unindexed.remove(file)

    def gave_up(self, file: LogFile) -> None:
        """Let go of the oldest file of the log. Its bytes in memory can still be read."""
        assert file is self.complete[0], "a log file leaves from the front"
        del self.complete[0]
        self.first_lsn = file.end_lsn
        file.gone = True
        self._gone.append(file)
        self.forget()

    # Rows in memory

    def begin_columns(self, slot: Slot, file: LogFile, bytes_before: int) -> SlotColumns:
        """Hold the rows of a slot in a file from here on."""
        columns = SlotColumns(file, slot.end, bytes_before)
        slot.columns.append(columns)
        self._columns.setdefault(file.first_lsn, []).append((slot, columns))
        return columns

    def columns_of(self, file: LogFile) -> Sequence[tuple[Slot, SlotColumns]]:
        """The rows that memory holds of a file."""
        return self._columns.get(file.first_lsn, ())

    def forget(self) -> None:
        """Let rows leave memory with the last bytes of their file. Those of the newest complete file stay."""
        while self._gone and not _is_held(self._gone[0]):
            self.drop_columns(self._gone.popleft())
        for file in [file for file in self.complete if file.first_lsn in self._columns][:-1]:
            if not file.indexed or _is_held(file):
                break
            self.drop_columns(file)

    def drop_columns(self, file: LogFile) -> None:
        """Drop a file's rows from memory, and its bytes, to which nothing else leads."""
        for slot, columns in self._columns.pop(file.first_lsn, ()):
            slot.columns.remove(columns)
        if file.image is not None:
            self._slabs.dropped(file.image)
            file.image = None


def _is_held(file: LogFile) -> bool:
    return file.image is not None and file.image.held > 0
