"""A store in plain lists: what the machine of `test_store_machine` compares the real one with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from core.streams.state import Epoch
from tests.core.transaction_model import Walked, walk


@dataclass
class Entry:
    base: int
    count: int
    timestamp: int
    payload: bytes
    segment: int
    writer: int = -1  # whose transaction it belongs to or ends
    ends: bool | None = None  # a marker: whether it commits

    @property
    def end(self) -> int:
        return self.base + self.count


@dataclass
class ModelSlot:
    entries: list[Entry] = field(default_factory=list)
    start: int = 0
    sequences: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)  # writer: (first, count, base)
    writers: dict[int, tuple[int, int]] = field(default_factory=dict)  # of transactions: epoch, next sequence

    @property
    def end(self) -> int:
        return self.entries[-1].end if self.entries else 0

    @property
    def live(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.end > self.start]

    @property
    def transactions(self) -> Walked:
        return walk(self.entries)

    @property
    def stable_end(self) -> int:
        return self.transactions.stable_end(self.start, self.end)


@dataclass
class ModelStream:
    slots: list[ModelSlot]
    config: dict[str, str]
    uuid: Any
    epochs: tuple[Epoch, ...]
