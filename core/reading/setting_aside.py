"""Setting aside entries that the log cannot give any more: their bytes, as they are, go into a file for a person.

`core.streams.damage` says how such a range is recorded, and why readers are refused there.

**Invariant**: a range is returned only once its file is complete and synced.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from core.errors import CorruptLog
from core.log.files import log_path, make_directory, write_durably
from core.log.format import APPEND_OVERHEAD
from core.reading.log_reader import Location, location_of
from core.reading.reader import Reader
from core.streams.damage import DAMAGED_DIRECTORY, DamagedRange
from core.streams.live import Slot
from tier2.direct_io import open_direct, read_direct

SET_ASIDE_BYTES: Final = 64 << 20
"""A range ends behind the entry that makes it this long. Damage behind it becomes another range."""


def set_aside(reader: Reader, directory: Path, slot: Slot, first: int, end: int) -> DamagedRange | None:
    """Put the entries from `first` on that cannot be read, one behind the other, into a file, as they are. Blocks.

    None when the first one can be read. Raises Corrupt when it is not known where they lie, OSError.
    """
    lost: list[Location] = []
    for location in _locations(reader, slot, first, end):
        try:
            reader.payloads(slot, [location])
            break
        except CorruptLog:
            lost.append(location)
        if sum(one.length for one in lost) >= SET_ASIDE_BYTES:
            break
    if not lost:
        return None
    name = f"{slot.stream.id}-{slot.number}-{lost[0].base}.frames"
    frames = [frame for one in lost if (frame := raw_frame(log_path(directory, one.file_lsn), one)) is not None]
    make_directory(directory / DAMAGED_DIRECTORY)
    write_durably(directory / DAMAGED_DIRECTORY / name, b"".join(frames))
    size = sum(one.length for one in lost)
    return DamagedRange(slot.stream.id, slot.number, lost[0].base, lost[-1].end, size, name)


def _locations(reader: Reader, slot: Slot, first: int, end: int) -> Iterator[Location]:
    for file_lsn, rows in reader.all_rows(slot, first, lambda ref: True):
        for row in range(max(0, rows.row_of(first)), len(rows.base)):
            if rows.base[row] >= end or rows.row_end(row) > end:  # one behind the end may be half written by now
                return
            yield location_of(file_lsn, rows, row)


def raw_frame(path: Path, location: Location) -> bytes | None:
    """The bytes where an entry's frame lies, unchecked; None when the disk does not give them."""
    try:
        fd = open_direct(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return bytes(read_direct(fd, APPEND_OVERHEAD + location.length, location.position))
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    finally:
        os.close(fd)
