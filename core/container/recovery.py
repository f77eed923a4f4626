"""Recovery at a start: the applied state, and the log from P on, give back the durable state.

The steps, in this order:

1. Load tables, streams and slots as of the last checkpoint.
2. Read the log files. Only those without a sidecar or with frames after P are scanned; the frames after P are applied.
3. Cut a torn tail.
4. Write missing index rows.

**Invariants**

- Recovery changes nothing that a second recovery would need, so it may be killed at every step.
- Before the tail is cut nothing on disk is touched, so a refused start leaves the data as it was.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from core.applied.tables import STORED_TABLES
from core.container.arrivals import ARRIVING_TABLE
from core.container.container import CONTAINER_TABLE, EPOCH_KEY
from core.container.keeper import is_needed_by
from core.container.kept import restore
from core.container.ports import Chunks
from core.errors import Corrupt, CorruptLog, CorruptState
from core.index.rows import SIDECAR_SUFFIX, BlockRef, SlotColumns, read_directory, write_sidecar
from core.log.files import LOG_SUFFIX
from core.log.format import (
    APPEND_BODY,
    APPEND_OVERHEAD,
    COMMIT_MARKER,
    FILE_HEADER_SIZE,
    FRAME_HEADER_SIZE,
    KIND_APPEND,
    MARKER,
    SLOT_OF_APPEND,
    SLOT_POSITION,
    BadFrame,
)
from core.log.log_file import LogFile, LogPosition
from core.log.records import Delete, Put, decode_update
from core.log.replay import ScannedFrame, cut_tail, open_log_files, scan
from core.streams.saving import load_slot
from core.streams.state import STREAMS_TABLE

if TYPE_CHECKING:
    from core.container.container import Container
    from core.streams.live import Slot
    from core.streams.markers import Marker

logger = logging.getLogger(__name__)

OWNING_TABLES: Final = (STREAMS_TABLE, ARRIVING_TABLE)
"""Tables whose rows say which slots are here."""

_ADVICE: Final = "Keep a copy of the data directory, then restore it from a backup"


@dataclass(slots=True)
class Recovered:
    """The findings of a recovery."""

    next_lsn: int
    epoch: int
    replayed_bytes: int
    clean: bool


def recover(container: Container, chunks: Chunks) -> Recovered:
    """Fill an empty container from its directory. Blocks; nothing else may use the container meanwhile.

    Raises CorruptLog, CorruptState.
    """
    return _Recovery(container, chunks).run()


class _Target:
    """A slot that takes in entries: as rows if their file has no sidecar, as state if they lie beyond P."""

    __slots__ = ("_columns", "_container", "_slot")

    def __init__(self, container: Container, slot: Slot | None, columns: SlotColumns | None) -> None:
        self._container = container
        self._slot = slot  # None: its stream is gone
        self._columns = columns

    def append(self, frame: ScannedFrame, new: bool, now_ms: int) -> None:
        """Take in an append frame. The innermost loop of a start. Raises BadFrame."""
        slot, columns = self._slot, self._columns
        if slot is None:
            return
        (segment_id, _, _, base, count, epoch, timestamp, writer_id, sequence, writer_epoch, flags) = (
            APPEND_BODY.unpack_from(frame.data, frame.at + FRAME_HEADER_SIZE)
        )
        length = frame.size - APPEND_OVERHEAD
        if length < 0:
            raise BadFrame("append is cut off")
        end = base + count
        if columns is not None:
            columns.base.append(base)
            columns.position.append(frame.position)
            columns.length.append(length)
            columns.timestamp.append(timestamp)
            columns.end = end
        expected = slot.end
        if not new or base < expected:
            return
        if base > expected:
            raise BadFrame(f"{slot!r} misses the entries before offset {base}")
        marker: Marker | None = None
        if flags & MARKER:
            committed = bool(flags & COMMIT_MARKER)
            marker = slot.mark_transaction(writer_id, writer_epoch, base, now_ms, committed=committed)
        slot.appended(
            base,
            count,
            length,
            segment_id,
            epoch,
            timestamp,
            writer_id,
            writer_epoch,
            sequence,
            flags,
            now_ms,
        )
        slot.durable(end, length)
        if marker is not None:
            marker.appended()
        if not slot.dirty:
            self._container.mark_dirty(slot)


class _Recovery:
    def __init__(self, container: Container, chunks: Chunks) -> None:
        self._container = container
        self._chunks = chunks
        self._applied = LogPosition(0, 1, FILE_HEADER_SIZE)
        self._newest_value_lsn = 0
        self._replayed_bytes = 0
        self._indexed_lsn = container.metadata.indexed_lsn()
        self._newest_epoch = -1
        self._unregistered: list[BlockRef] = []

    def run(self) -> Recovered:
        container = self._container
        self._applied = container.metadata.position() or self._applied
        self._load_tables()
        self._load_slots()
        files = open_log_files(container.directory)
        self._newest_epoch = max((file.epoch for file in files), default=-1)
        self._check_beginning(files)
        for file in files:
            self._read_file(file, newest=file is files[-1])
        end_lsn = files[-1].end_lsn if files else self._applied.lsn + 1
        self._check_end(end_lsn)
        self._settle_bytes_before(files)
        begun = self._settle_files(files)
        epoch, clean = self._epoch(end_lsn, begun)
        return Recovered(end_lsn, epoch, self._replayed_bytes, clean)

    # The applied state

    def _load_tables(self) -> None:
        puts: dict[str, list[Put]] = {}
        for table, key, lsn, value in self._container.metadata.tables(skipped=STORED_TABLES):
            self._newest_value_lsn = max(self._newest_value_lsn, lsn)
            puts.setdefault(table, []).append(Put(table, key, value))
        for operations in puts.values():
            self._container.outcomes.apply(operations)
        self._container.unsaved.rows_are_saved()

    def _load_slots(self) -> None:
        streams = self._container.streams
        for stream_id, number, lsn, state in self._container.metadata.slots():
            self._newest_value_lsn = max(self._newest_value_lsn, lsn)
            stream = streams.get(stream_id)
            if stream is None:
                self._container.unsaved.mark_dead(stream_id)
                continue
            slot = self._container.slot_at(stream_id, number)
            if slot is not None:
                self._container.known_writers.slot_gone(slot)
                load_slot(slot, state)
                self._container.known_writers.added(len(slot.writers or ()))
            elif number < self._container.outcomes.copies[stream_id].slots:
                self._container.unsaved.mark_gone((stream_id, number))
            # Else it has grown after P: the log holds all of the slot.
        self._container.outcomes.slots_are_loaded()

    # The log

    def _check_beginning(self, files: list[LogFile]) -> None:
        wanted = self._applied.lsn + 1
        directory = self._container.directory
        if not files and self._applied.lsn:
            raise CorruptState(f"{directory} holds no log, but the applied state reflects LSN {wanted - 1}. {_ADVICE}")
        if files and files[0].first_lsn > wanted:
            raise CorruptLog(files[0].path, 0, f"the log begins here, but LSN {wanted} is needed", _ADVICE)

    def _check_end(self, end_lsn: int) -> None:
        newest = max(self._newest_value_lsn, self._applied.lsn)
        if newest >= end_lsn:
            raise CorruptState(
                f"the applied state in {self._container.directory} reflects LSN {newest}, but the log ends before "
                f"LSN {end_lsn}: the end of the log was lost. {_ADVICE}"
            )

    def _read_file(self, file: LogFile, *, newest: bool) -> None:
        try:
            following = file.end_lsn
            refs = read_directory(file)
        except (FileNotFoundError, Corrupt) as error:
            if isinstance(error, Corrupt):
                logger.warning("index sidecar is built again", extra={"reason": str(error)})
            self._scan(file, newest=newest)
            return
        if not newest and file.end_lsn != following:
            raise CorruptLog(file.path, 0, f"ends at LSN {file.end_lsn}, the next file begins at {following}", _ADVICE)
        if file.end_lsn > self._applied.lsn + 1:
            self._scan(file, newest=False)  # a file with a sidecar was complete, so its end is known
        if file.end_lsn > self._applied.lsn + 1 or file.first_lsn > self._indexed_lsn:
            self._unregistered += refs

    def _scan(self, file: LogFile, *, newest: bool) -> None:
        logger.info("reading log file", extra={"file": file.path.name, "from_lsn": file.first_lsn})
        rows: dict[tuple[int, int], SlotColumns] | None = None if file.indexed else {}
        slots: dict[tuple[int, int], _Target] = {}
        applied_lsn = self._applied.lsn
        now_ms = self._container.trusted.stamp_ms()
        start = FILE_HEADER_SIZE if file.first_lsn > applied_lsn else None
        for frame in scan(file, newest=newest):
            if start is None and frame.lsn > applied_lsn:
                start = frame.position
            try:
                if frame.kind == KIND_APPEND:
                    key = SLOT_OF_APPEND.unpack_from(frame.data, frame.at + SLOT_POSITION)
                    target = slots.get(key)
                    if target is None:
                        target = slots[key] = self._target(file, key, rows)
                    target.append(frame, frame.lsn > applied_lsn, now_ms)
                elif frame.lsn > applied_lsn:
                    operations = decode_update(frame.body)
                    self._container.outcomes.apply(operations)
                    if any(isinstance(op, Put | Delete) and op.table in OWNING_TABLES for op in operations):
                        slots.clear()  # streams came, grew or went, or slots did
            except BadFrame as error:
                raise CorruptLog(file.path, frame.position, str(error), _ADVICE) from error
        for columns in (rows or {}).values():
            columns.total = sum(columns.length)
        if start is not None:
            self._replayed_bytes += file.size - start

    def _target(self, file: LogFile, key: tuple[int, int], rows: dict[tuple[int, int], SlotColumns] | None) -> _Target:
        """The target of a slot's entries while one file is read."""
        stream = self._container.streams.get(key[0])
        if stream is None:
            return _Target(self._container, None, None)
        slot = self._container.slot_at(*key)
        if slot is None and key[1] >= stream.slot_count:
            raise BadFrame(f"stream {stream.name!r} has no slot {key[1]}")
        if slot is None or file.first_lsn < slot.since_lsn:
            return _Target(self._container, None, None)
        if rows is not None and key not in rows:
            rows[key] = self._container.files.begin_columns(slot, file, 0)
        return _Target(self._container, slot, None if rows is None else rows[key])

    # Afterwards

    def _settle_bytes_before(self, files: list[LogFile]) -> None:
        """Set the bytes before rows that were built without: count back from the rows behind, or the slot's total."""
        container = self._container
        left = sum(not file.indexed for file in files)
        before: dict[tuple[int, int], int] = {}
        for file in reversed(files):
            if not left:
                break
            if file.indexed:
                before.update({(ref.stream_id, ref.slot): ref.bytes_before for ref in read_directory(file)})
                continue
            left -= 1
            for slot, rows in container.files.columns_of(file):
                if slot.has_moved:
                    continue  # of a stay that is over
                key = slot.stream.id, slot.number
                rows.bytes_before = before[key] = before.get(key, slot.total_bytes) - rows.total

    def _settle_files(self, files: list[LogFile]) -> bool:
        """Cut the tail: now the disk changes. Returns whether the newest file is empty; then it leaves `files`."""
        container = self._container
        begun, oldest = False, files[0].first_lsn if files else None
        if files:
            cut = cut_tail(files[-1])
            if cut:
                logger.info("cut the unused end of the log", extra={"file": files[-1].path.name, "bytes": cut})
            if files[-1].end_lsn == files[-1].first_lsn:
                begun = True
                files.pop()  # the next file takes its name and so replaces it
        container.metadata.register([ref for ref in self._unregistered if container.slot_of(ref) is not None])
        self._build_missing_sidecars(files)
        container.kept = restore(container.directory, files, container.metadata, is_needed_by(container, self._chunks))
        # After `restore`, which leaves only needed rows of kept files: this stops at any such row.
        forgotten = 0 if oldest is None else container.metadata.forget_blocks_before(oldest)
        if forgotten:
            logger.info("rows of log files that are gone were forgotten again", extra={"rows": forgotten})
        container.files.found(files)
        self._sweep_sidecars()
        return begun

    def _build_missing_sidecars(self, files: list[LogFile]) -> None:
        """Drop all rows from memory but those of the newest files. Readers take them to follow all rows of sidecars."""
        container = self._container
        newest_indexed = max((index for index, file in enumerate(files) if file.indexed), default=0)
        for file in files[:newest_indexed]:
            if file.indexed:
                continue
            columns = container.files.columns_of(file)
            here = [(slot, rows) for slot, rows in columns if not slot.has_moved]
            refs = write_sidecar(file, [(slot.stream.id, slot.number, rows) for slot, rows in here])
            container.metadata.register([ref for ref in refs if container.slot_of(ref) is not None])
            container.files.drop_columns(file)
            file.indexed = True

    def _sweep_sidecars(self) -> None:
        directory = self._container.directory
        for path in directory.glob(f"*{SIDECAR_SUFFIX}"):
            if not path.with_suffix(LOG_SUFFIX).exists():
                path.unlink()

    def _epoch(self, end_lsn: int, begun: bool) -> tuple[int, bool]:
        """The leader epoch to serve with: one more than any before, unless the last stop was clean.

        Files name their epoch too: the record that raised it may be lost if the log is synced by intervals.
        """
        table = self._container.tables.get(CONTAINER_TABLE)
        before = int.from_bytes(table.get(EPOCH_KEY) or b"", "big") if table is not None else -1
        before = max(before, self._newest_epoch)
        clean = self._container.metadata.clean_lsn() == end_lsn - 1 and not begun
        return (before if clean and before >= 0 else before + 1), clean
