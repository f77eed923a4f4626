"""Writer state, which makes an append of an idempotent writer happen once.

For each slot and writer id it has the epoch, and the last five batches with their sequences, offset and timestamp.
Pure state, no I/O. After Kafka's ProducerStateManager (KIP-98, KIP-360).

**Invariants**

- The batches of a writer are in append order. A client has at most five requests in flight, so a batch that it may
  still send again is among the five.
- The newest durable batch is remembered, and every batch behind it. A checkpoint saves it, and the writer goes on there
  if a crash takes all batches in flight. So more than five batches may be remembered: as many as are in flight.

Sequences count records and wrap from 2^31 - 1 to 0.

A store that was recovered without its disk knows the batches that came back, and not those written since. A writer's
newest batch is then a *gap* (see `gap_after`): batches that came back are still answered as duplicates, and the writer
goes on at any other sequence, like a new writer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from core.errors import SequenceGap, StaleWriterEpoch

BATCHES_KEPT: Final = 5
SEQUENCE_MAX: Final = 2**31 - 1
GAP: Final = -2
"""In place of a batch's sequences: the batches behind it are lost. No sequence follows it, as -1 would be the next."""


class WriterBatch(NamedTuple):
    """One appended batch of a writer."""

    epoch: int
    first_sequence: int
    last_sequence: int
    base: int  # sequence number of the slot: Kafka's offset
    records: int
    timestamp: int  # the largest in it, ms


def new_batch(epoch: int, first_sequence: int, base: int, records: int, timestamp: int) -> WriterBatch:
    """A batch of `records` sequence numbers."""
    return WriterBatch(epoch, first_sequence, sequence_after(first_sequence, records - 1), base, records, timestamp)


def gap_after(batch: WriterBatch) -> WriterBatch:
    """The gap behind the last batch of a writer that came back: at the same place, without sequences."""
    return batch._replace(first_sequence=GAP, last_sequence=GAP)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The batch is there already, at `base`."""

    base: int
    end: int
    timestamp: int


class WriterState:
    """One slot's memory of one writer."""

    __slots__ = ("batches", "epoch", "last_use_ms", "marked_epoch")

    def __init__(self, epoch: int, last_use_ms: int) -> None:
        self.epoch = epoch
        self.last_use_ms = last_use_ms
        self.marked_epoch = -1  # the largest of a marker that is durable
        self.batches: list[WriterBatch] = []

    def record(self, batch: WriterBatch, now_ms: int, durable_end: int) -> None:
        """Take in an appended batch; everything before `durable_end` is durable."""
        self.epoch = batch.epoch
        self.last_use_ms = now_ms
        self.batches.append(batch)
        surplus = len(self.batches) - BATCHES_KEPT
        if surplus > 0 and self.batches[1].base < durable_end:
            self._forget(surplus, durable_end)

    def _forget(self, surplus: int, durable_end: int) -> None:
        """Drop the oldest batches, but not the newest durable one."""
        gone = 1
        while gone < surplus and self.batches[gone + 1].base < durable_end:
            gone += 1
        del self.batches[:gone]

    def durable_batches(self, durable_end: int) -> list[WriterBatch]:
        """The writer as a checkpoint saves it."""
        durable = [batch for batch in self.batches if batch.base < durable_end]
        kept = BATCHES_KEPT + (bool(durable) and durable[-1].first_sequence == GAP)  # a gap is no batch
        return durable[-kept:]

    def fence(self, epoch: int, now_ms: int) -> None:
        """Take in an appended marker of this epoch: earlier epochs are stale."""
        self.epoch = max(self.epoch, epoch)
        self.last_use_ms = now_ms

    def marked(self, epoch: int) -> None:
        """Take in a durable marker."""
        self.marked_epoch = max(self.marked_epoch, epoch)

    def check(self, writer_id: int, epoch: int, first_sequence: int, count: int) -> Duplicate | None:
        """None when the batch is the next one, Duplicate when it is there already.

        Raises StaleWriterEpoch, SequenceGap.
        """
        if epoch != self.epoch:
            if epoch < self.epoch:
                raise StaleWriterEpoch(writer_id, epoch, self.epoch)
            if first_sequence != 0 and not self.has_gap:
                raise SequenceGap(writer_id, 0, first_sequence)
            return None
        last_sequence = sequence_after(first_sequence, count - 1)
        batches = self.batches
        newest = batches[-1] if batches else None
        expected = sequence_after(newest.last_sequence, 1) if newest and newest.epoch == epoch else 0
        if first_sequence == expected:
            return None
        for batch in batches:
            if batch.epoch == epoch and batch.first_sequence == first_sequence and batch.last_sequence == last_sequence:
                return Duplicate(batch.base, batch.base + batch.records, batch.timestamp)
        if self.has_gap:
            return None
        raise SequenceGap(writer_id, expected, first_sequence)

    @property
    def has_gap(self) -> bool:
        """Whether its newest batches are lost: it goes on at any sequence."""
        return bool(self.batches) and self.batches[-1].first_sequence == GAP


def sequence_after(sequence: int, count: int) -> int:
    """The sequence `count` records after this one, with Kafka's wrap."""
    following = sequence + count
    return following if following <= SEQUENCE_MAX else following - SEQUENCE_MAX - 1
