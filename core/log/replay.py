"""Reading the log back: its frames, its end, and whether that end is legal.

**Invariant**: this yields every frame that was ever reported as synced, in LSN order, and perhaps some later ones. If
it cannot show that, it raises CorruptLog and names file, position and LSN.

A file ends where its next frame would carry the next file's first LSN. The newest file ends at its first bad frame x,
unless a later whole frame of the same file says that the log was synced up to x or beyond. A step of several frames is
there as a whole or not at all: if the newest file ends within a step, it ends before it. A sector that the disk cannot
read may hold an acknowledged frame, so it is no legal end: the start is refused.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from crc32c import crc32c

from core.errors import CorruptLog
from core.log.files import LOG_SUFFIX, UNREADABLE
from core.log.format import (
    BODY_SIZE_MAX,
    FILE_HEADER_SIZE,
    FILE_ID_AT,
    FRAME_HEADER,
    FRAME_HEADER_SIZE,
    KINDS,
    BadFrame,
    decode_file_header,
    decode_frame,
)
from core.log.log_file import LogFile

logger = logging.getLogger(__name__)

_ADVICE = (
    "The log holds damage in what was acknowledged. Keep a copy of the data directory, then restore it from "
    "a backup; nothing was changed"
)
_UNREADABLE_ADVICE = (
    "Nothing was changed. Copy the data directory with a tool that goes on behind bad sectors, as GNU ddrescue does: "
    "the next start finds out whether synced frames lie behind zeros in their place. Or restore it from a backup"
)

WINDOW_BYTES: Final = 4 << 20
"""The bytes of a file in memory at a time, unless a frame or a step is larger."""
SECTOR_BYTES: Final = 4096
"""The smallest unit that a disk reads: the steps of a search for an unreadable place."""


@dataclass(slots=True)
class ScannedFrame:
    """A frame: its place in its file, and its bytes; only valid until the next one is scanned."""

    data: memoryview = field(default_factory=lambda: memoryview(b""))
    at: int = 0  # of its beginning in `data`
    size: int = 0
    position: int = 0
    lsn: int = 0
    kind: int = 0

    @property
    def body(self) -> memoryview:
        return self.data[self.at + FRAME_HEADER_SIZE : self.at + self.size]


def open_log_files(directory: Path) -> list[LogFile]:
    """All log files, oldest first, headers checked; each end is known but the newest's.

    Raises CorruptLog when a header is damaged or a file is missing between two others.
    """
    files: list[LogFile] = []
    # Not `glob`, which finds nothing in a directory that it may not read.
    for path in sorted(path for path in directory.iterdir() if path.name.endswith(LOG_SUFFIX)):
        block = _read_header(path)
        try:
            header = decode_file_header(block)
        except BadFrame as error:
            raise CorruptLog(path, 0, str(error), _ADVICE) from error
        if path.stem != f"{header.first_lsn:020d}":
            raise CorruptLog(path, 0, f"its header says it begins at LSN {header.first_lsn}", _ADVICE)
        files.append(LogFile(header.first_lsn, path, header.file_id, header.created_ms, header.epoch))
    for file, following in itertools.pairwise(files):
        file.end_lsn = following.first_lsn
        file.size = file.path.stat().st_size
    return files


def _read_header(path: Path) -> bytes:
    try:
        with path.open("rb", buffering=0) as stream:
            return stream.read(FILE_HEADER_SIZE)
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        why = f"the disk cannot read its header: {error.strerror}; its name says LSN {int(path.stem)}"
        raise CorruptLog(path, 0, why, _UNREADABLE_ADVICE) from error


def scan(file: LogFile, *, newest: bool) -> Iterator[ScannedFrame]:
    """Every frame of a file; afterwards `file.size` and `file.end_lsn` are exact. Raises CorruptLog.

    The yielded object is the same each time, refilled.
    """
    expected = None if newest else file.end_lsn
    with _opened(file.path) as source:
        lsn, position = file.first_lsn, FILE_HEADER_SIZE
        frame = ScannedFrame()
        unpack, file_id = FRAME_HEADER.unpack_from, file.file_id
        step: list[tuple[int, int, int, int]] = []  # frames of a step whose last one has not come yet
        while lsn != expected:
            at = position - source.start
            if at + FRAME_HEADER_SIZE > len(source.data):
                if not source.holds(position, FRAME_HEADER_SIZE, lsn):
                    break
                at = position - source.start
            length, crc, own_lsn, _, own_id, kind, follows, _ = unpack(source.data, at)
            if own_lsn != lsn or own_id != file_id or length > BODY_SIZE_MAX:
                break
            size = FRAME_HEADER_SIZE + length
            if at + size > len(source.data):
                if not source.holds(position, size, lsn):
                    break
                at = position - source.start
            if crc32c(source.data[at + 8 : at + size]) != crc or kind not in KINDS:
                break
            if follows or step:
                step.append((position, size, lsn, kind))
                source.keep(step[0][0])
            else:
                frame.data, frame.at = source.data, at
                frame.position, frame.size, frame.lsn, frame.kind = position, size, lsn, kind
                yield frame
            lsn, position = lsn + 1, position + size
            if step and not follows:
                frame.data = source.data
                for frame.position, frame.size, frame.lsn, frame.kind in step:
                    frame.at = frame.position - source.start
                    yield frame
                step = []
                source.keep(None)
        if newest:
            source.keep(None)
            _check_tail(file, source, position, lsn)
            if step:
                position, _, lsn, _ = step[0]
            file.end_lsn = lsn
        elif lsn != expected:
            raise CorruptLog(
                file.path,
                position,
                f"the frame of LSN {lsn} is damaged, the next file has {expected}",
                _ADVICE,
            )
        elif step:
            raise CorruptLog(file.path, position, f"the step that began with LSN {step[0][2]} is not ended", _ADVICE)
        file.size = position


class _Source:
    """A file's bytes, one window at a time. They are read, never mapped: an unreadable sector that is mapped kills.

    `data` has the bytes from position `start` on.
    """

    __slots__ = ("_bytes", "_end", "_fd", "_kept", "_path", "_size", "data", "start")

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._end = 0  # position behind `data`
        self._kept: int | None = None  # bytes from here on stay in `data`
        self._bytes = b""
        self.data = memoryview(self._bytes)
        self.start = 0

    def keep(self, position: int | None) -> None:
        """Let bytes from here on stay, however much is read behind them."""
        self._kept = position

    def holds(self, position: int, size: int, lsn: int) -> bool:
        """Have these bytes in `data`; False if the file ends before.

        Raises CorruptLog when they cannot be read; `lsn` is that of the frame that is looked for.
        """
        if position + size <= self._end and position >= self.start:
            return True
        if position + size > self._size:
            return False
        begin = position if self._kept is None else min(position, self._kept)
        held = self._bytes[begin - self.start :] if self.start <= begin < self._end else b""
        wanted = min(max(size, WINDOW_BYTES), self._size - position) + position - begin
        self._bytes = held + self._read(begin + len(held), wanted - len(held))
        self.data, self.start, self._end = memoryview(self._bytes), begin, begin + len(self._bytes)
        if position + size > self._end:
            self._refuse(self._end, lsn)
        return True

    def find(self, needle: bytes, position: int, lsn: int) -> int:
        """The next position of these bytes in the file, -1 if there is none. Raises CorruptLog, as `holds`."""
        while self.holds(position, len(needle), lsn):
            found = self._bytes.find(needle, position - self.start)
            if found >= 0:
                return self.start + found
            position = self._end - len(needle) + 1
        return -1

    def _read(self, position: int, size: int) -> bytes:
        """The bytes from a position on, up to the place that the disk cannot read."""
        try:
            return _read_whole(self._fd, position, size)
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
        parts: list[bytes] = []
        while size > 0:
            part = min(size, SECTOR_BYTES - position % SECTOR_BYTES)
            try:
                parts.append(_read_whole(self._fd, position, part))
            except OSError as error:
                if error.errno not in UNREADABLE:
                    raise
                break
            position, size = position + part, size - part
        return b"".join(parts)

    def _refuse(self, position: int, lsn: int) -> NoReturn:
        raise CorruptLog(
            self._path,
            position,
            f"the disk cannot read what lies here, where the frame of LSN {lsn} or a later one is looked for",
            _UNREADABLE_ADVICE,
        )


def _read_whole(fd: int, position: int, size: int) -> bytes:
    """All of these bytes, or fewer if the file ends. Raises OSError."""
    data = os.pread(fd, size, position)
    while len(data) < size and (more := os.pread(fd, size - len(data), position + len(data))):
        data += more
    return data


@contextmanager
def _opened(path: Path) -> Iterator[_Source]:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        yield _Source(path, fd)
    finally:
        os.close(fd)


def _check_tail(file: LogFile, source: _Source, position: int, lsn: int) -> None:
    """Raise CorruptLog when a whole frame after `position` says that `lsn` was synced.

    Damage may have moved the borders of frames, so this looks for the file id's bytes anywhere after it.
    """
    needle = file.file_id.to_bytes(4, "little")
    at = position
    while (at := source.find(needle, at, lsn)) >= 0:
        start = at - FILE_ID_AT
        at += 1
        if start < position or not source.holds(start, FRAME_HEADER_SIZE, lsn):
            continue
        length = FRAME_HEADER.unpack_from(source.data, start - source.start)[0]
        if length > BODY_SIZE_MAX or not source.holds(start, FRAME_HEADER_SIZE + length, lsn):
            continue
        try:
            frame = decode_frame(source.data, start - source.start, file.file_id)
        except BadFrame:
            continue
        if frame.synced_lsn >= lsn:
            raise CorruptLog(
                file.path,
                position,
                f"the frame of LSN {lsn} is damaged, but the one of LSN {frame.lsn} at byte {start} "
                f"says that the log was synced up to {frame.synced_lsn}",
                _ADVICE,
            )


def cut_tail(file: LogFile) -> int:
    """Cut the newest file at its end and sync it; returns the number of bytes cut (with room that held nothing).

    It is synced even when nothing is cut: its last frames may have been read from memory that no sync had reached, and
    they count as durable from now on.
    """
    fd = os.open(file.path, os.O_RDWR)
    try:
        size = os.fstat(fd).st_size
        os.ftruncate(fd, file.size)
        os.fsync(fd)
    finally:
        os.close(fd)
    return size - file.size
