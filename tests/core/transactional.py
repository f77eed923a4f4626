"""Transactions in one slot, and a plain list of what committed readers are to be told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from core.container.ports import TransactionEnd
from core.log.format import IN_TRANSACTION, Buffer
from core.log.records import Put
from core.store import Store
from core.streams.entries import ReadResult
from core.streams.live import Slot
from tests.core.support import Outcome, owner_of, until
from tests.tier2.chunks import entry

TABLE = "transactions"


@dataclass
class Transactional:
    """Appends to a slot, and remembers it."""

    store: Store
    slot: Slot
    written: list[bytes] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # of entries, by their place in `written`
    open: dict[int, int] = field(default_factory=dict)  # writer id: where its transaction began
    aborted: list[tuple[int, int, int]] = field(default_factory=list)  # last, first, writer id

    async def append(self, writer_id: int = -1, count: int = 1, body: int = 10) -> int:
        """An entry, of the writer's transaction if one is named; the first sequence number."""
        slot, container = self.slot, owner_of(self.slot)
        payload = bytes(entry(slot.end, count, 1000 + slot.end, b"." * body).payload)
        outcome = Outcome()
        flags = 0 if writer_id < 0 else IN_TRANSACTION
        base = container.append(slot, payload, count, 1000 + slot.end, outcome, writer_id, 0, 0, flags)
        if writer_id >= 0:
            self.open.setdefault(writer_id, base)
        self._note(payload, base + count)
        await outcome.future
        if not container.log.can_roll:
            await until(lambda: container.log.can_roll)
        return base

    async def end(self, writer_id: int, *, committed: bool) -> int:
        """The marker of the writer's open transaction; its sequence number."""
        marker, timestamp = self.slot.end, 1000 + self.slot.end
        made: list[bytes] = []

        def made_at(base: int, leader_epoch: int) -> Buffer:
            made.append(bytes(entry(base, 1, timestamp, b"marker").payload))
            return made[-1]

        end = TransactionEnd(
            slot=self.slot,
            writer_id=writer_id,
            writer_epoch=0,
            committed=committed,
            timestamp=timestamp,
            entry=made_at,
        )
        done = owner_of(self.slot).end_transactions([end], [Put(TABLE, b"%d" % writer_id, b"ended")])
        first = self.open.pop(writer_id)
        if not committed:
            self.aborted.append((marker, first, writer_id))
        self._note(made[0], marker + 1)
        await done
        return marker

    def _note(self, payload: bytes, end: int) -> None:
        self.written.append(payload)
        self.ends.append(end)

    def aborted_in(self, first: int, end: int) -> list[tuple[int, int, int]]:
        """Aborted transactions that overlap [first, end), in the order of their markers."""
        return [one for one in self.aborted if one[0] >= first and one[1] < end]

    def check(self, offset: int, found: ReadResult) -> None:
        """A read returned whole entries in order, and all aborted transactions that they overlap, and no others."""
        place = next((n for n, end in enumerate(self.ends) if end > offset), len(self.ends))
        stop = place
        while stop < len(self.ends) and self.ends[stop] <= found.end:
            stop += 1
        assert b"".join(self.written[place:stop]) == b"".join(map(bytes, found.parts))
        assert self.aborted_in(offset, found.end) == told(found)


def told(found: ReadResult) -> list[tuple[int, int, int]]:
    """The aborted transactions that a read names: last, first, writer id."""
    return [(one.last, one.first, one.writer_id) for one in found.aborted]


async def check_all(model: Transactional, offsets: Sequence[int], limits: Sequence[int]) -> None:
    """Read on to the end from each offset, with each limit."""
    slot, reader = model.slot, model.store.hosted(model.slot).reader
    for start in offsets:
        for max_bytes in limits:
            offset = start
            while offset < slot.durable_end:
                found = await reader.read(slot, offset, slot.durable_end, max_bytes, True)
                assert found.end > offset
                model.check(offset, found)
                offset = found.end


async def check_each(model: Transactional, limits: Sequence[int]) -> None:
    """One read at each offset, with each limit."""
    slot, reader = model.slot, model.store.hosted(model.slot).reader
    for offset in range(slot.start, slot.durable_end):
        for max_bytes in limits:
            model.check(offset, await reader.read(slot, offset, slot.durable_end, max_bytes, True))


async def write_randomly(model: Transactional, random: Random, size: int, body: int) -> None:
    """Entries of several writers, with and without transactions, until there are `size` bytes of them."""
    begun = sum(map(len, model.written))
    while sum(map(len, model.written)) < begun + size:
        writer_id = random.choice((-1, 1, 2, 3, 4))
        if writer_id in model.open and random.random() < 0.4:
            await model.end(writer_id, committed=random.random() < 0.5)
        else:
            await model.append(writer_id, count=random.choice((1, 1, 3)), body=random.randrange(body))


async def end_all(model: Transactional, random: Random) -> None:
    """No transaction is open afterwards."""
    for writer_id in list(model.open):
        await model.end(writer_id, committed=random.random() < 0.5)
