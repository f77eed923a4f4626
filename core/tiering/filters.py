"""What a compaction asks of the owner of the entries' format. The store does not know it: a filter is given to it.

A *round* compacts a slot from its start up to `CompactionScope.end`: first every entry from `begin` on is shown to
`learn`, then every entry from the slot's start on to `keep`, both in order. Before the entries of each run, in either
pass, `run_begins` tells of the aborted transactions that they may belong to. Filters live in a worker process: what
makes one must be a callable of a module, so that its name alone can be sent there.
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

    begin: int  # what lies before has been through an earlier round
    end: int  # nothing from here on is touched
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
        """When a round would remove more of what was kept, though nothing new came."""
        ...

    def run_begins(self, aborted: Sequence[AbortedTransaction]) -> None:
        """The next entries are those of a run that overlaps these, which are in the order of their ends."""
        ...

    def learn(self, entry: memoryview) -> None:
        """Note the keys of an entry."""
        ...

    def end_at(self, end: int) -> None:
        """The last entry that `keep` will see ends here; keep at least what tells so."""
        ...

    def keep(self, entry: memoryview) -> Buffer | None:
        """The entry, or what is left of it under the same sequence numbers; None when nothing is."""
        ...

    def has_left(self, transaction: AbortedTransaction) -> bool:
        """Whether `keep` has left anything of an aborted transaction, so that readers must be told of it."""
        ...


FilterFactory = Callable[[CompactionScope], EntryFilter]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetup:
    """What the process is made with. All callables are found by their names, in modules."""

    open_storage: Callable[..., Awaitable[Storage]]
    arguments: tuple[object, ...]
    head_of: EntryHeadOf
    filter_for: FilterFactory | None = None
