"""Making a damaged sidecar again from its log file while the store runs, so that an index does not pin the log.

**Invariant**: the new sidecar lists the same rows as the old one, so rows that were read from the old one stay right.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from core.errors import CorruptLog
from core.index.rows import BlockRef, SlotColumns, write_sidecar
from core.log.files import KEPT
from core.log.format import APPEND_BODY, APPEND_OVERHEAD, FILE_HEADER_SIZE, KIND_APPEND, BadFrame, decode_frame
from tier2.direct_io import open_direct, read_direct

if TYPE_CHECKING:
    from core.container.container import Container
    from core.log.log_file import LogFile

_ADVICE = "Its index is damaged too. Keep a copy of the data directory, then restore it from a backup"


def reindex(container: Container, file: LogFile) -> list[BlockRef]:
    """Write a complete log file's sidecar again, and the rows that name its blocks. Blocks.

    Raises CorruptLog when the log file is damaged as well, OSError.
    """
    columns: dict[tuple[int, int], SlotColumns] = {}
    fd = open_direct(file.path, os.O_RDONLY)
    try:
        data = read_direct(fd, file.size, 0)
    finally:
        os.close(fd)
    position = FILE_HEADER_SIZE
    for lsn in range(file.first_lsn, file.end_lsn):
        try:
            frame = decode_frame(data, position, file.file_id)
        except BadFrame as error:
            raise CorruptLog(file.path, position, f"the frame of LSN {lsn}: {error}", _ADVICE) from error
        if frame.kind == KIND_APPEND:
            _, stream_id, number, base, count, _, timestamp, *_ = APPEND_BODY.unpack_from(frame.body)
            _add(
                container, file, columns, (stream_id, number), (base, count, position, timestamp), frame.end - position
            )
        position = frame.end
    refs = write_sidecar(file, [(*place, own) for place, own in columns.items()])
    kept = [kept for kept in container.kept if kept.source_lsn == file.first_lsn]
    container.metadata.replace_blocks([ref for ref in refs if not any(one.holds(ref) for one in kept)])
    file.indexed = True
    return refs


def _add(
    container: Container,
    file: LogFile,
    columns: dict[tuple[int, int], SlotColumns],
    place: tuple[int, int],
    row: tuple[int, int, int, int],
    size: int,
) -> None:
    base, count, position, timestamp = row
    own = columns.get(place)
    if own is None:
        if place[0] not in container.streams:
            return
        known = container.metadata.block_at(*place, base)
        if known is None or known.first != base or known.file_lsn & ~KEPT != file.first_lsn:
            return  # no row names it: it lies before the slot's start, or is of a stay that is over
        own = columns[place] = SlotColumns(file, base, known.bytes_before)
    length = size - APPEND_OVERHEAD
    own.base.append(base)
    own.position.append(position)
    own.length.append(length)
    own.timestamp.append(timestamp)
    own.end = base + count
    own.total += length
