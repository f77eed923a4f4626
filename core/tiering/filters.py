"""Filters of compaction. The owner of the entries' format gives them to the store, which does not know that format.

A *round* compacts a slot from its start up to `CompactionScope.end`. First `learn` sees every entry from `begin` on.
Then `keep` sees every entry from the slot's start on. Both get entries in order. Before the entries of each run, in
either pass, `run_begins` gets the aborted transactions that they may belong to. Filters live in a worker process, so
the maker of one must be a callable of a module: its name alone is sent there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tier2.chunk import EntryHeadOf
from tier2.chunk_format import AbortedTransaction
from tier2.storage import Buffer, Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionScope:
    """One slot's part of a round."""

    begin: int  # entries before it have been through an earlier round
    end: int  # entries from here on are not touched
    now_ms: int  # by which delete horizons are judged
    tombstone_ms: int  # how long markers, of deleted keys or of transactions, stay after a round has first seen them
    writers: Mapping[int, int] = field(default_factory=dict)  # writer id: the last sequence number of its last entry
    stamp_ms: int = 0  # from when new horizons count, if later: while a jump of the clock is not believed


class EntryFilter(Protocol):
    """Decides over one slot's entries in one round."""

    @property
    def held(self) -> int:
        """Keys in memory; the worker ends the round before there are too many."""
        ...

    @property
    def due_ms(self) -> int | None:
        """The time when a round would remove more of the kept entries, even without new ones."""
        ...

    def run_begins(self, aborted: Sequence[AbortedTransaction]) -> None:
        """Begin a run whose entries follow. It overlaps these transactions, which are in the order of their ends."""
        ...

    def learn(self, entry: memoryview) -> None:
        """Note the keys of an entry."""
        ...

    def end_at(self, end: int) -> None:
        """Note the end of the last entry that `keep` will see. Of that entry keep at least enough to show this end."""
        ...

    def keep(self, entry: memoryview) -> Buffer | None:
        """The entry, or the rest of it under the same sequence numbers; None when nothing is left."""
        ...

    def has_left(self, transaction: AbortedTransaction) -> bool:
        """Whether `keep` has left anything of an aborted transaction, so that readers must know of it."""
        ...


FilterFactory = Callable[[CompactionScope], EntryFilter]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetup:
    """The settings of the rewriting process. All callables are found by their names, in modules."""

    open_storage: Callable[..., Awaitable[Storage]]
    arguments: tuple[object, ...]
    head_of: EntryHeadOf
    filter_for: FilterFactory | None = None
