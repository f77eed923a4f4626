"""The transactions of a slot: which are open, where committed readers stop, which entries they skip. Pure.

A writer's transaction begins in a slot with its first entry that is marked so, and ends with a *marker*, an entry of
its own. After Kafka's ProducerStateManager and TransactionIndex (KIP-98).

**Invariants**

- A writer has one transaction open at most.
- A transaction leaves `open` when its marker is appended, and `unstable` when that marker is durable.
- `unstable` is in the order of first sequence numbers, so its first key is where committed readers stop.
- Rows of `aborted` are in the order of their markers. Rows are added in place and removed by making another array, so
  a reference to the array keeps all its rows.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Generator, Iterator, Sequence
from typing import Final, NamedTuple

assert sys.byteorder == "little", "aborted transactions are stored as the bytes of memory"

COLUMNS: Final = 4
ROWS_PER_STEP: Final = 1_000
"""Transactions that one step encodes: half a millisecond."""
_COUNT: Final = struct.Struct("<I")
_UNSTABLE: Final = struct.Struct("<qqQ")


class Unstable(NamedTuple):
    """A transaction that is not known to be over."""

    writer_id: int
    bytes_before: int  # of the slot, when it began


class Aborted(NamedTuple):
    """A transaction whose entries committed readers skip, and its marker's sequence number."""

    last: int
    first: int
    writer_id: int
    stable_end: int  # when it had ended: transactions that ended later began at or behind this


class SlotTransactions:
    """The transactions of one slot."""

    __slots__ = ("aborted", "open", "unstable")

    def __init__(self) -> None:
        self.open: dict[int, int] = {}  # writer id: first sequence number
        self.unstable: dict[int, Unstable] = {}  # by first sequence number, ascending
        self.aborted: array[int] = array("q")  # flat rows of `Aborted`

    def __repr__(self) -> str:
        return f"<SlotTransactions {len(self.unstable)} unstable, {len(self.aborted) // COLUMNS} aborted>"

    def began(self, writer_id: int, base: int, bytes_before: int) -> None:
        """Begin a transaction with the entry appended at `base`; does nothing if it has begun already."""
        if writer_id not in self.open:
            self.open[writer_id] = base
            self.unstable[base] = Unstable(writer_id, bytes_before)

    def ending(self, writer_id: int) -> int | None:
        """Take in an appended marker; returns where the transaction began, None if there is none."""
        return self.open.pop(writer_id, None)

    def ended(self, first: int, marker: int, *, committed: bool) -> None:
        """Take in the durable marker at `marker` of the transaction that began at `first`."""
        writer_id, _ = self.unstable.pop(first)
        if not committed:
            # Transactions begun behind the marker may not be durable; after a crash others begin there.
            stable_end = min(marker + 1, next(iter(self.unstable), marker + 1))
            self.aborted.extend(Aborted(marker, first, writer_id, stable_end))

    def copy(self) -> SlotTransactions:
        """The same, to go on by itself."""
        made = SlotTransactions()
        made.open, made.unstable, made.aborted = dict(self.open), dict(self.unstable), self.aborted[:]
        return made

    def forget_before(self, offset: int) -> None:
        """Drop aborted transactions that ended before `offset`."""
        gone = first_row(self.aborted, offset)
        if gone:
            self.aborted = self.aborted[gone * COLUMNS :]

    # Saving and loading

    def encode(self, durable_end: int) -> bytes:
        """The state as laid out in `core.streams.slot_format`, without transactions in flight."""
        steps = self.encoding(durable_end)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]

    def encoding(self, durable_end: int) -> Generator[None, None, bytes]:
        """The same in steps. The result is the state at this call, whatever happens in between."""
        return _encoding(list(self.unstable.items()), self.aborted, len(self.aborted), durable_end)

    @classmethod
    def decode(cls, value: bytes, position: int) -> tuple[SlotTransactions | None, int]:
        """The state saved at `position` (None if it is empty), and the position behind it. Raises struct.error."""
        decoded = cls()
        (count,) = _COUNT.unpack_from(value, position)
        position += _COUNT.size
        for _ in range(count):
            first, writer_id, bytes_before = _UNSTABLE.unpack_from(value, position)
            decoded.began(writer_id, first, bytes_before)
            position += _UNSTABLE.size
        (count,) = _COUNT.unpack_from(value, position)
        position += _COUNT.size
        end = position + count * COLUMNS * decoded.aborted.itemsize
        if end > len(value):
            raise struct.error(f"{count} aborted transactions are cut off")
        decoded.aborted.frombytes(value[position:end])
        return (decoded if decoded.unstable or decoded.aborted else None), end


def _encoding(
    unstable: Sequence[tuple[int, Unstable]], aborted: array[int], aborted_end: int, durable_end: int
) -> Generator[None, None, bytes]:
    rows = bytearray()
    for at in range(0, len(unstable), ROWS_PER_STEP):
        for first, known in unstable[at : at + ROWS_PER_STEP]:
            if first < durable_end:
                rows += _UNSTABLE.pack(first, *known)
        yield
    ended = aborted[:aborted_end]
    counts = _COUNT.pack(len(rows) // _UNSTABLE.size), _COUNT.pack(aborted_end // COLUMNS)
    return b"".join((counts[0], rows, counts[1], ended.tobytes()))


NO_TRANSACTIONS: Final = _COUNT.pack(0) + _COUNT.pack(0)
"""The saved state of a slot without transactions."""


def first_row(rows: Sequence[int], offset: int) -> int:
    """The number of the first row whose marker is at or behind `offset`."""
    return bisect_left(range(len(rows) // COLUMNS), offset, key=lambda row: rows[row * COLUMNS])


def overlapping(rows: Sequence[int], first: int, end: int) -> Iterator[Aborted]:
    """The flat rows of `Aborted` that overlap [first, end), in the order of their markers."""
    for at in range(first_row(rows, first) * COLUMNS, len(rows), COLUMNS):
        row = Aborted(*rows[at : at + COLUMNS])
        if row.first < end:
            yield row
        if row.stable_end >= end:
            return
