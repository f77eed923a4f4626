"""What a recovery found, and what it did not: the words are `penstock recover`'s.

Keeps apart what is known to be gone and what cannot be known. A snapshot tells how far each slot was when it was taken;
nothing tells what was acknowledged afterwards and reached no chunk.
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
    """What of a slot is known to be gone, in sequence numbers. What came after the snapshot is not known."""

    known_end: int  # up to there the snapshot knew of acknowledged ones; -1 when it did not know the slot
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
    """What was recovered, and what was not."""

    streams: list[RecoveredStream] = field(default_factory=list)
    snapshots: dict[int, int] = field(default_factory=dict)  # by container: when it was made, ms
    newest_chunk_ms: int = -1  # when the newest chunk was begun: the store was alive then
    transactions: list[TornTransaction] = field(default_factory=list)
    transactions_more: int = 0  # torn ones that are not listed
    stream_names: dict[int, str] = field(default_factory=dict)  # by id
    chunks: int = 0
    bytes: int = 0
    unused: int = 0  # objects whose contents lie in newer ones, or are not wanted any more
    findings: list[str] = field(default_factory=list)
