"""A file of the log and a place in it: the values in memory that writer, index, cache and replay share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.log.format import FILE_HEADER_SIZE
from core.log.slabs import FileImage


class LogFile:
    """One file of the log, as memory knows it."""

    __slots__ = ("created_ms", "end_lsn", "epoch", "file_id", "first_lsn", "gone", "image", "indexed", "path", "size")

    def __init__(self, first_lsn: int, path: Path, file_id: int, created_ms: int, epoch: int) -> None:
        self.first_lsn = first_lsn
        self.path = path
        self.file_id = file_id
        self.created_ms = created_ms
        self.epoch = epoch  # of the container, when the file was begun
        self.end_lsn = first_lsn  # LSN after its last frame; final once the file is rolled
        self.size = FILE_HEADER_SIZE  # bytes in use; final once the file is rolled
        self.indexed = False  # its sidecar lies on disk
        self.gone = False  # from the disk; memory may still have its newest bytes
        self.image: FileImage | None = None  # its newest bytes in memory; None if this process did not write it

    def __repr__(self) -> str:
        return f"<LogFile {self.path.name} lsn {self.first_lsn}-{self.end_lsn} {self.size} bytes>"


@dataclass(frozen=True, slots=True)
class LogPosition:
    """The log up to `lsn`; the next frame lies at `position` of `file_lsn`'s file."""

    lsn: int
    file_lsn: int
    position: int
