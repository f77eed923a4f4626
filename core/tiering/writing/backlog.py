"""The backlog of a slot, its entries that are in no chunk yet, and its cutting into chunks.

A segment with a large backlog is cut along the log: the entries of the oldest files first, so that these files come
free first. The small backlogs of many slots go together, as many as fit into one chunk. A slot whose segment was sealed
has a backlog for each segment that it was appended to.

**Invariants**

- A piece ends between entries, at or below the durable end of its slot when the cut was made.
- The pieces of a slot follow one another without a gap, and none spans a seal.
- No chunk gets more than `RUNS_MAX` pieces, or two of one slot and one segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from core.errors import Corrupt, CorruptState, ErrorKind, StoreError
from core.index.rows import held_entry
from core.log.files import KEPT
from core.log.format import Buffer
from core.reading.reader import READ_BYTES_MAX, location_of
from tier2.chunk import Entry

if TYPE_CHECKING:
    from core.index.rows import Rows, SlotColumns
    from core.reading.reader import Reader
    from core.streams.damage import Damage
    from core.streams.live import Slot

RUNS_MAX: Final = 2000
"""The most pieces of one chunk: its commit, one record of the log, has some 180 bytes for each."""

HURRY: Final = 2
"""A segment's files are cut into several chunks if they hold more than this many times the size of one."""


class UnreadableEntry(StoreError):
    """A slot's entries can be read up to `first`, but not from there on."""

    kind = ErrorKind.CORRUPT

    def __init__(self, slot: Slot, first: int, bytes_before: int, error: Corrupt) -> None:
        super().__init__(str(error))
        self.slot, self.first, self.bytes_before, self.error = slot, first, bytes_before, error


class Backlog(NamedTuple):
    """A slot's stretch that waits in one segment: sequence numbers [first, end), and the slot's bytes before it."""

    slot: Slot
    segment_id: int
    first: int
    end: int
    bytes_before: int
    size: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a slot that one chunk takes: entries of one segment."""

    slot: Slot
    segment_id: int
    first: int
    end: int
    bytes_before: int
    size: int

    @property
    def place(self) -> tuple[int, int, int]:
        """The order of the runs of a chunk."""
        return self.slot.stream.id, self.segment_id, self.slot.number


def backlogs_of(slot: Slot, first: int, bytes_before: int, end: int, end_bytes: int) -> Iterator[Backlog]:
    """The backlogs of a slot between two places, oldest segment first."""
    while first < end:
        segment_id, following = slot.segment_at(first)
        if following is None or following.first >= end:
            yield Backlog(slot, segment_id, first, end, bytes_before, end_bytes - bytes_before)
            return
        size = following.bytes_before - bytes_before
        yield Backlog(slot, segment_id, first, following.first, bytes_before, size)
        first, bytes_before = following.first, following.bytes_before


def lost_of(damage: Damage, slot: Slot) -> Callable[[int], bool]:
    """Whether a slot's entry at a sequence number is known to be lost."""
    ranges = damage.of(slot)
    if not ranges:
        return lambda first: False
    return lambda first: any(one.first <= first < one.end for one in ranges)


def is_lost(damage: Damage, backlog: Backlog) -> bool:
    """Whether all of the backlog is lost; then it waits for entries behind it."""
    return bool(damage) and damage.bytes_in(backlog.slot, backlog.first, backlog.end) >= backlog.size


def cut_segment(
    reader: Reader, slots: Iterable[Backlog], chunk_bytes: int, failed: list[UnreadableEntry], *, whole: bool
) -> list[list[Piece]]:
    """Chunks of about `chunk_bytes` from one segment's slots, oldest first. Blocks.

    The rest, of less than a chunk, is taken only if `whole`. A slot whose rows cannot be read is cut up to there, and
    the reason is added to `failed`.
    """
    by_file: dict[int, list[_Stretch]] = {}
    for backlog in slots:
        reached = backlog.first, backlog.bytes_before
        try:
            for stretch in _stretches(reader, backlog):
                by_file.setdefault(stretch.file_lsn & ~KEPT, []).append(stretch)
                reached = stretch.ends[-1], stretch.bytes_before + stretch.size
        except Corrupt as error:
            failed.append(UnreadableEntry(backlog.slot, *reached, error))
    chunks: list[list[Piece]] = []
    gathered: list[Piece] = []
    for _, stretches in sorted(by_file.items()):
        size = sum(stretch.size for stretch in stretches)
        if size > HURRY * chunk_bytes:
            if gathered:
                chunks.append(gathered)
                gathered = []
            parts = -(-size // chunk_bytes)
            chunks += ([piece for s in stretches for piece in s.part(n, parts)] for n in range(parts))
            continue
        gathered = _joined(gathered, [piece for s in stretches for piece in s.part(0, 1)])
        if sum(piece.size for piece in gathered) >= chunk_bytes:
            chunks.append(gathered)
            gathered = []
    if gathered and whole:
        chunks.append(gathered)
    return [some for chunk in chunks if chunk for some in _batched(sorted(chunk, key=lambda piece: piece.place))]


def pack(slots: Iterable[Backlog], chunk_bytes: int) -> list[list[Piece]]:
    """Chunks from the small backlogs of many slots, each slot's whole."""
    chunks: list[list[Piece]] = []
    gathered: list[Piece] = []
    size = 0
    for backlog in slots:
        gathered.append(Piece(*backlog))
        size += backlog.size
        if size >= chunk_bytes or len(gathered) >= RUNS_MAX:
            chunks.append(sorted(gathered, key=lambda piece: piece.place))
            gathered, size = [], 0
    if gathered:
        chunks.append(sorted(gathered, key=lambda piece: piece.place))
    return chunks


def adjoining(pieces: Sequence[Piece], reached: Callable[[Slot], int]) -> list[Piece]:
    """The pieces that go on where their slot's chunks end, which is before `reached` if its start has moved since.

    Behind a gap, entries in between would leave the log. With an overlap, a run would take another one's place.
    """
    ends: dict[Slot, int] = {}
    found: list[int] = []
    for number, piece in sorted(enumerate(pieces), key=lambda numbered: numbered[1].first):
        slot, end = piece.slot, ends.get(piece.slot)
        if piece.first == end if end is not None else slot.tiered_end <= piece.first <= reached(slot):
            ends[slot] = piece.end
            found.append(number)
    return [pieces[number] for number in sorted(found)]


def entries(reader: Reader, piece: Piece) -> Iterator[Entry]:
    """The entries of a piece, from memory or the log. Blocks.

    Raises OutOfRange when they are gone, UnreadableEntry for the first one that fails its checks.
    """
    slot = piece.slot
    epoch = slot.epoch_at(piece.end - 1)
    damage, reached, size = reader.damage, piece.first, 0
    try:
        for file_lsn, rows in reader.all_rows(slot, piece.first, lambda ref: True):
            if rows.base[0] >= piece.end:
                return
            for payload, row in _payloads(reader, piece, file_lsn, rows):
                first = rows.base[row]
                yield Entry(first, rows.row_end(row) - first, rows.timestamp[row], epoch, payload)
                reached, size = rows.row_end(row), size + rows.length[row]
    except Corrupt as error:
        reached = next((one.end for one in reversed(damage.of(slot)) if one.first == reached), reached)
        before = piece.bytes_before + size + damage.bytes_in(slot, piece.first, reached)
        raise UnreadableEntry(slot, reached, before, error) from error


def all_entries(reader: Reader, piece: Piece) -> Iterator[Entry]:
    """As `entries`. Raises CorruptState, too, when the index of the log lacks one of them."""
    reached = piece.first
    for one in entries(reader, piece):
        if one.first > reached:
            _check_lost(reader.damage, piece, reached, one.first)
        yield one
        reached = one.first + one.count
    if reached < piece.end:
        _check_lost(reader.damage, piece, reached, piece.end)


def _check_lost(damage: Damage, piece: Piece, first: int, end: int) -> None:
    """Raises CorruptState unless all of the entries in between are known to be lost, or gone since."""
    slot = piece.slot
    reached = max(first, slot.start)
    for one in damage.of(slot):
        if one.first <= reached:
            reached = max(reached, one.end)
    if reached < end and not (slot.stream.deleted or slot.has_moved):
        what = f"the index of the log lacks offset {reached} of {slot.stream.name}-{slot.number}"
        raise CorruptState(f"{what}: what is behind it in the log cannot go to long-term storage")


def _payloads(reader: Reader, piece: Piece, file_lsn: int, rows: Rows | SlotColumns) -> Iterator[tuple[Buffer, int]]:
    row, last = max(0, rows.row_of(piece.first)), len(rows.base)
    lost = lost_of(reader.damage, piece.slot)
    while row < last and rows.base[row] < piece.end:
        if lost(rows.base[row]):
            row += 1
            continue
        cached = held_entry(rows, row)
        if cached is not None:
            yield cached, row
            row += 1
            continue
        begin, size = row, 0
        while row < last and rows.base[row] < piece.end and size < READ_BYTES_MAX and not lost(rows.base[row]):
            size += rows.length[row]
            row += 1
        wanted = [location_of(file_lsn, rows, number) for number in range(begin, row)]
        try:
            found = reader.payloads(piece.slot, wanted)
        except Corrupt:  # one by one, up to the damaged one
            for number, location in zip(range(begin, row), wanted, strict=True):
                yield reader.payloads(piece.slot, [location])[0], number
        else:
            yield from zip(found, range(begin, row), strict=True)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A slot's waiting rows in one log file: `ends` and `sizes` of its entries."""

    file_lsn: int
    slot: Slot
    segment_id: int
    first: int
    bytes_before: int
    ends: Sequence[int]
    sizes: Sequence[int]

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def part(self, number: int, parts: int) -> Iterator[Piece]:
        """One of several parts with the same number of entries; none if there is no entry for it."""
        begin, stop = (len(self.ends) * n // parts for n in (number, number + 1))
        if begin < stop:
            first = self.ends[begin - 1] if begin else self.first
            before = self.bytes_before + sum(self.sizes[:begin])
            yield Piece(self.slot, self.segment_id, first, self.ends[stop - 1], before, sum(self.sizes[begin:stop]))


def _stretches(reader: Reader, backlog: Backlog) -> Iterator[_Stretch]:
    first, before, size = backlog.first, backlog.bytes_before, 0
    lost = lost_of(reader.damage, backlog.slot)
    for file_lsn, rows in reader.all_rows(backlog.slot, first, lambda ref: True):
        ends: list[int] = []
        sizes: list[int] = []
        for row in range(max(0, rows.row_of(first)), len(rows.base)):
            # In this order: a row behind the backlog may be half written by now.
            if rows.base[row] >= backlog.end or (end := rows.row_end(row)) > backlog.end:
                break
            size += rows.length[row]
            if not lost(rows.base[row]):  # no piece ends with a lost range, so each has entries
                ends.append(end)
                sizes.append(size)
                size = 0
        if ends:
            yield _Stretch(file_lsn, backlog.slot, backlog.segment_id, first, before, ends, sizes)
            first, before = ends[-1], before + sum(sizes)
        elif not size:
            return


def _joined(earlier: list[Piece], later: list[Piece]) -> list[Piece]:
    """Pieces of the same slots and segment, one after the other, as one piece for each slot."""
    known = {piece.slot: piece for piece in earlier}
    for piece in later:
        old = known.get(piece.slot)
        if old is not None:
            size = old.size + piece.size
            piece = replace(old, end=piece.end, size=size)  # noqa: PLW2901 - both as one
        known[piece.slot] = piece
    return list(known.values())


def _batched(pieces: list[Piece]) -> Iterator[list[Piece]]:
    remaining = iter(pieces)
    while some := list(islice(remaining, RUNS_MAX)):
        yield some
