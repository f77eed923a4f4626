"""The newest coordinator that each producer's transactions were ended by, as a container that takes part knows it.

A coordinator has the epoch of its container, which rises whenever the container is opened. One that was replaced and
does not know it yet may still send the end of a transaction; by then the producer may have begun the next one with the
same epoch. So its word is refused (Kafka: TRANSACTION_COORDINATOR_FENCED).

Keeps: an epoch that was accepted is logged in the step that it came with, and never falls. There are `count_max` at
most: beyond that the one that changed least recently is forgotten.

Table "transactions.coordinators". Key: i64 producer id, big-endian. Value: u8 version (1), u32 epoch, little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from core.applied.tables import Delete, Put
from gateway.groups.persistence import UnreadableRecord

COORDINATORS_TABLE: Final = "transactions.coordinators"
VERSION: Final = 1
_KEY: Final = struct.Struct(">q")
_VALUE: Final = struct.Struct("<BI")


class CoordinatorEpochs:
    """See the module."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._epochs: dict[int, int] = {}  # by producer id, in the order of their last change

    def __repr__(self) -> str:
        return f"<CoordinatorEpochs of {len(self._epochs)} producers>"

    def __len__(self) -> int:
        return len(self._epochs)

    def load(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Load some of the table, in its order. Raises UnreadableRecord."""
        for key, value in entries:
            try:
                (producer_id,), (version, epoch) = _KEY.unpack(key), _VALUE.unpack(value)
            except struct.error as error:
                raise UnreadableRecord(f"epoch of a coordinator: {key.hex()} {value.hex()}") from error
            if version != VERSION:
                raise UnreadableRecord(f"epoch of a coordinator has version {version}, this release reads {VERSION}")
            self._epochs[producer_id] = epoch

    def get(self, producer_id: int) -> int | None:
        """The newest epoch, if a coordinator elsewhere has ended a transaction of this producer."""
        return self._epochs.get(producer_id)

    def is_fenced(self, producer_id: int, epoch: int) -> bool:
        """Whether a later coordinator has been here."""
        known = self._epochs.get(producer_id)
        return known is not None and epoch < known

    def raising(self, producer_id: int, epoch: int) -> list[Put | Delete]:
        """The operations that log an epoch which is not fenced: none where it is known."""
        if self._epochs.get(producer_id) == epoch:
            return []
        changes: list[Put | Delete] = [self.row(producer_id, epoch)]
        if producer_id not in self._epochs and len(self._epochs) >= self._count_max:
            changes.append(Delete(COORDINATORS_TABLE, _KEY.pack(next(iter(self._epochs)))))
        return changes

    @staticmethod
    def row(producer_id: int, epoch: int) -> Put:
        """The operation that logs an epoch."""
        return Put(COORDINATORS_TABLE, _KEY.pack(producer_id), _VALUE.pack(VERSION, epoch))

    def raised(self, producer_id: int, epoch: int) -> None:
        """Those operations were queued for the log."""
        if self._epochs.get(producer_id) == epoch:
            return
        if self._epochs.pop(producer_id, None) is None and len(self._epochs) >= self._count_max:
            del self._epochs[next(iter(self._epochs))]
        self._epochs[producer_id] = epoch
