"""Kept files: entries that pin the log, moved out of its way.

The log is one queue for all slots, and its files leave it from the front. An entry that cannot leave (behind a slot's
stable end, behind a damaged entry) would hold up all entries behind it. So when the log is pressed, the entries that
pin its oldest file are copied, frame by frame, into a file of their own, and the log lets go of the old file. Readers
and the storage writer find these entries by the index, as they did in the log.

A kept file is a log file beside a sidecar, in ``kept/`` below the log's directory. It has a header block, then frames
exactly as they were written, damaged ones too, with LSNs that rise but do not follow one another. Its name and header
have the first LSN of the log file that it was copied from. In the header, in the sidecar and in index rows that number
has bit 62 set (`KEPT`), so neither file can be taken for the other.

**Invariants**

- A kept file and its sidecar are complete and synced before a row names them, and that row is flushed before the log
  file goes. So a crash at any step leaves the log file, the kept file, or both. If both are left, either is right.
- A kept file holds nothing that a start must replay, because the log file that it was copied from lay before P.
- A slot's entries in the log have no gap: its kept entries go before, or with, the log file that follows them.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from core.applied.metadata import Metadata
from core.errors import CorruptLog
from core.index.rows import BlockRef, Rows, SlotColumns, read_directory, sidecar_path, write_sidecar
from core.index.sidecars import Sidecars
from core.log.files import KEPT, KEPT_DIRECTORY, LOG_SUFFIX, log_path, make_directory, sync_directory
from core.log.format import APPEND_OVERHEAD, BadFrame, FileHeader, decode_file_header, encode_file_header
from core.log.log_file import LogFile
from tier2.direct_io import open_direct, read_direct

logger = logging.getLogger(__name__)

READ_BYTES: Final = 4 << 20
"""Most bytes that one read takes, unless a single frame is larger."""
GAP_BYTES: Final = 64 << 10
"""Two wanted ranges closer than this are read in one call: the gap costs less than a second read."""
PARTIAL_SUFFIX: Final = ".partial"


@dataclass(eq=False, slots=True)
class KeptFile:
    """One kept file, and the rows in it that are still needed."""

    file: LogFile
    refs: list[BlockRef]
    places: frozenset[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.need(self.refs)

    def need(self, refs: list[BlockRef]) -> None:
        """No others of its rows are needed."""
        self.refs = refs
        self.places = frozenset((ref.stream_id, ref.slot) for ref in refs)

    @property
    def source_lsn(self) -> int:
        """The first LSN of the log file that it was copied from."""
        return self.file.first_lsn & ~KEPT

    @property
    def size(self) -> int:
        return self.file.size

    def holds(self, ref: BlockRef) -> bool:
        """Whether these rows of the log file that it was copied from are here."""
        return ref.file_lsn == self.source_lsn and (ref.stream_id, ref.slot) in self.places


def copy(container_id: int, directory: Path, source: LogFile, refs: Iterable[BlockRef]) -> KeptFile:
    """Copy the entries of these rows from a log file into a kept file, durably. No row names it yet.

    Blocks. Raises Corrupt when the rows cannot be read, OSError.
    """
    make_directory(directory / KEPT_DIRECTORY)
    sidecars = Sidecars(directory, 0)
    wanted = [(ref, sidecars.rows(ref)) for ref in refs]
    lsn = source.first_lsn | KEPT
    file = LogFile(lsn, log_path(directory, lsn), source.file_id, source.created_ms, source.epoch)
    header = FileHeader(
        container=container_id,
        first_lsn=lsn,
        file_id=source.file_id,
        epoch=source.epoch,
        created_ms=source.created_ms,
    )
    partial = file.path.with_suffix(PARTIAL_SUFFIX)
    columns = {id(ref): SlotColumns(file, ref.first, ref.bytes_before) for ref, _ in wanted}
    with partial.open("wb") as out:
        out.write(encode_file_header(header))
        for ref, row, frame in _frames(source.path, wanted):
            own, rows = columns[id(ref)], row[0]
            own.base.append(rows.base[row[1]])
            own.position.append(out.tell())
            own.length.append(rows.length[row[1]])
            own.timestamp.append(rows.timestamp[row[1]])
            out.write(frame)
        file.size = out.tell()
        out.flush()
        os.fsync(out.fileno())
    partial.rename(file.path)
    sync_directory(file.path.parent)
    for ref, _ in wanted:
        columns[id(ref)].end, columns[id(ref)].total = ref.end, ref.bytes
    file.end_lsn = source.end_lsn
    kept = write_sidecar(file, [(ref.stream_id, ref.slot, columns[id(ref)]) for ref, _ in wanted])
    file.indexed = True
    return KeptFile(file, kept)


def _frames(path: Path, wanted: list[tuple[BlockRef, Rows]]) -> Iterable[tuple[BlockRef, tuple[Rows, int], memoryview]]:
    """The frames of these rows as they lie in the file, in its order."""
    places = sorted(
        (position, APPEND_OVERHEAD + rows.length[row], index, row)
        for index, (_, rows) in enumerate(wanted)
        for row, position in enumerate(rows.position)
    )
    fd = open_direct(path, os.O_RDONLY)
    try:
        at = 0
        while at < len(places):
            first, stop, reached = places[at][0], at, places[at][0]
            while stop < len(places) and (
                stop == at or (places[stop][0] - reached <= GAP_BYTES and sum(places[stop][:2]) - first <= READ_BYTES)
            ):
                reached = sum(places[stop][:2])
                stop += 1
            data = _read(fd, reached - first, first)
            for position, size, index, row in places[at:stop]:
                frame = _read(fd, size, position) if data is None else data[position - first : position - first + size]
                # Bytes that the disk does not give, or has lost, are kept as zeros: they fail their check anywhere.
                ref, rows = wanted[index]
                yield ref, (rows, row), memoryview(bytes(size) if frame is None else bytes(frame).ljust(size, b"\0"))
            at = stop
    finally:
        os.close(fd)


def _read(fd: int, size: int, position: int) -> memoryview | None:
    """None: the disk does not give it."""
    try:
        return read_direct(fd, size, position)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None


def restore(
    log_directory: Path, files: Sequence[LogFile], metadata: Metadata, is_needed: Callable[[BlockRef], bool]
) -> list[KeptFile]:
    """The kept files that a start finds. The index names those that are still needed, and no others. Blocks.

    `files` are the log's. Raises Corrupt.
    """
    directory = log_directory / KEPT_DIRECTORY
    found: list[KeptFile] = []
    if not directory.exists():
        return found
    for path in sorted(directory.glob(f"*{LOG_SUFFIX}")):
        file = _opened(path)
        if not sidecar_path(path).exists() and any(own.first_lsn == file.first_lsn & ~KEPT for own in files):
            logger.info("a copy of pinning entries was not completed: it is made again", extra={"file": path.name})
            continue  # swept below
        try:
            refs = read_directory(file)
        except FileNotFoundError as error:
            advice = "Put it back from a backup of the data directory: the entries themselves are there"
            raise CorruptLog(sidecar_path(path), 0, "the index of entries that were kept is gone", advice) from error
        needed = [ref for ref in refs if is_needed(ref)]
        metadata.replace_blocks(needed, [ref for ref in refs if not is_needed(ref)])
        if needed:
            found.append(KeptFile(file, needed))
    known = {kept.file.path.stem for kept in found}
    for path in directory.iterdir():
        if path.stem not in known or path.suffix == PARTIAL_SUFFIX:
            path.unlink()
    sync_directory(directory)
    return found


def _opened(path: Path) -> LogFile:
    with path.open("rb") as stream:
        block = stream.read(4096)
    try:
        header = decode_file_header(block)
    except BadFrame as error:
        raise CorruptLog(path, 0, str(error), "Keep a copy, then restore the data directory from a backup") from error
    return LogFile(header.first_lsn, path, header.file_id, header.created_ms, header.epoch)


def discard(kept: KeptFile) -> None:
    """Remove a kept file that is needed no longer and that no row names. Blocks."""
    path = kept.file.path
    # A start takes a file without its sidecar for damage, but it sweeps a sidecar without its file.
    path.unlink(missing_ok=True)
    sync_directory(path.parent)
    sidecar_path(path).unlink(missing_ok=True)
