"""The results of a recovery, found and lost, which `penstock recover` prints.

**Invariant**: known losses are kept apart from unknown ones. A snapshot has each slot's end at its time. Nothing tells
which entries were acknowledged afterwards and reached no chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from core.tiering.snapshots.tails import TornTransaction


class RecoveredSlot(NamedTuple):
    """[start, end) can be read."""

    slot: int
    start: int
    end: int


class SlotLoss(NamedTuple):
    """The known losses of a slot, in sequence numbers. Losses after the snapshot are unknown."""

    known_end: int  # end of the acknowledged ones that the snapshot knew; -1 when it did not know the slot
    untiered: int  # the snapshot knew them, and they had not reached long-term storage
    lost: int  # they had, and are not there
    left_out: int  # they are there, behind others that are not

    @property
    def gone(self) -> int:
        return self.untiered + self.lost + self.left_out


@dataclass(frozen=True, slots=True)
class RecoveredStream:
    """A stream of the new store; `untiered`: sequence numbers that were acknowledged and are gone with the disk."""

    name: str
    slots: Sequence[RecoveredSlot]
    untiered: int
    losses: Mapping[int, SlotLoss] = field(default_factory=dict)  # by slot, where anything is known


@dataclass(slots=True)
class Report:
    """The recovered streams, and the losses."""

    streams: list[RecoveredStream] = field(default_factory=list)
    containers: int = 1
    snapshots: dict[int, int] = field(default_factory=dict)  # by container: when it was made, ms
    newest_chunk_ms: int = -1  # when the newest chunk was begun: the store was alive then
    transactions: list[TornTransaction] = field(default_factory=list)
    transactions_more: int = 0  # torn ones that are not listed
    stream_names: dict[int, str] = field(default_factory=dict)  # by id
    chunks: int = 0
    bytes: int = 0
    unused: int = 0  # objects whose contents lie in newer ones, or are not wanted any more
    findings: list[str] = field(default_factory=list)
