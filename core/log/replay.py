"""Reading the log back: which frames are there, where it ends, and whether that end is legal.

**Invariant**: what this yields is every frame that was ever reported as synced, in LSN order, and perhaps some
later ones; where that cannot be shown, it raises CorruptLog and names file, position and LSN.

A file ends where its next frame would carry the next file's first LSN. The newest file ends at its first bad
frame x, unless a later whole frame of the same file says that the log was synced up to x or beyond. A step of
several frames is there as a whole or not at all: where the newest file ends within one, it ends before it.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crc32c import crc32c

from core.errors import CorruptLog
from core.log.durable_log import LogFile
from core.log.files import LOG_SUFFIX
from core.log.format import (
    BODY_SIZE_MAX,
    FILE_HEADER_SIZE,
    FRAME_HEADER,
    FRAME_HEADER_SIZE,
    KINDS,
    BadFrame,
    decode_file_header,
    decode_frame,
)

logger = logging.getLogger(__name__)

_ADVICE = (
    "The log holds damage in what was acknowledged. Keep a copy of the data directory, then restore it from "
    "a backup; nothing was changed"
)


@dataclass(slots=True)
class ScannedFrame:
    """A frame and where it lies in its file's bytes; only valid while the file is being scanned."""

    data: memoryview
    position: int = 0
    end: int = 0
    lsn: int = 0
    kind: int = 0

    @property
    def body(self) -> memoryview:
        return self.data[self.position + FRAME_HEADER_SIZE : self.end]


def open_log_files(directory: Path) -> list[LogFile]:
    """All log files, oldest first, headers checked; ends are known but for the newest.

    Raises CorruptLog when a header is damaged or a file is missing between two others.
    """
    files: list[LogFile] = []
    # Not `glob`, which finds nothing in a directory that it may not read.
    for path in sorted(path for path in directory.iterdir() if path.name.endswith(LOG_SUFFIX)):
        with path.open("rb") as stream:
            block = stream.read(FILE_HEADER_SIZE)
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


def scan(file: LogFile, *, newest: bool) -> Iterator[ScannedFrame]:
    """Every frame of a file; afterwards `file.size` and `file.end_lsn` are exact. Raises CorruptLog.

    The yielded object is the same each time, refilled.
    """
    expected = None if newest else file.end_lsn
    with _mapped(file.path) as mapped, memoryview(mapped) as data:
        lsn, position = file.first_lsn, FILE_HEADER_SIZE
        frame = ScannedFrame(data)
        unpack, size, file_id = FRAME_HEADER.unpack_from, len(data), file.file_id
        step: list[tuple[int, int, int, int]] = []  # frames of a step whose last one was not met yet
        while lsn != expected and position + FRAME_HEADER_SIZE <= size:
            length, crc, own_lsn, _, own_id, kind, follows, _ = unpack(data, position)
            end = position + FRAME_HEADER_SIZE + length
            if own_lsn != lsn or own_id != file_id or length > BODY_SIZE_MAX or end > size:
                break
            if crc32c(data[position + 8 : end]) != crc or kind not in KINDS:
                break
            if follows or step:
                step.append((position, end, lsn, kind))
            else:
                frame.position, frame.end, frame.lsn, frame.kind = position, end, lsn, kind
                yield frame
            lsn, position = lsn + 1, end
            if step and not follows:
                for frame.position, frame.end, frame.lsn, frame.kind in step:
                    yield frame
                step = []
        if newest:
            _check_tail(file, mapped, data, position, lsn)
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


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    fd = os.open(path, os.O_RDONLY)
    try:
        mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
    mapped.madvise(mmap.MADV_SEQUENTIAL)
    with mapped:
        yield mapped


def _check_tail(file: LogFile, mapped: mmap.mmap, data: memoryview, position: int, lsn: int) -> None:
    """Raise CorruptLog when a whole frame after `position` says that `lsn` was synced.

    Damage may have moved frame borders, so this looks for the file id's bytes anywhere after it.
    """
    needle = file.file_id.to_bytes(4, "little")
    at = mapped.find(needle, position)
    while at >= 0:
        start = at - 24
        if start >= position:
            try:
                frame = decode_frame(data, start, file.file_id)
            except BadFrame:
                pass
            else:
                frame.body.release()
                if frame.synced_lsn >= lsn:
                    raise CorruptLog(
                        file.path,
                        position,
                        f"the frame of LSN {lsn} is damaged, but the one of LSN {frame.lsn} at byte {start} "
                        f"says that the log was synced up to {frame.synced_lsn}",
                        _ADVICE,
                    )
        at = mapped.find(needle, at + 1)


def cut_tail(file: LogFile) -> int:
    """Cut the newest file at its end and sync it; returns how many bytes went (room that held nothing included).

    Synced even when nothing is cut: its last frames may have been read from memory that no sync had reached, and they
    count as durable from now on.
    """
    fd = os.open(file.path, os.O_RDWR)
    try:
        size = os.fstat(fd).st_size
        os.ftruncate(fd, file.size)
        os.fsync(fd)
    finally:
        os.close(fd)
    return size - file.size
