"""The context that all parts of a container's tiering share: its storage, the catalog of chunks, the log's pressure.

Each part gets this, and never `Tier`, which only makes and starts the parts. No part reaches into another.

**Invariant**: `changing` is held from reading the rows of verified chunks until changing them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from core.container.container import Container
from core.reading.reader import Reader
from core.tiering.catalog import Catalog
from core.tiering.filters import WorkerSetup
from tier2.chunk import EntryHeadOf
from tier2.storage import Storage

PRESSURE: Final = 0.5
"""The share of the log in use from which everything is moved out of it, whatever its age."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongTermStorage:
    """The storage of chunks. `head_of` reads the header of an entry as it is stored.

    `log_puts` is the same storage with threads, connections and time-outs of its own, for the groups of a log that lies
    there: chunks on their way do not hold up what producers wait for.

    `admit` is called before anything is put or deleted there, and hears whether the store has chunks. It raises the
    error that ends the start. `had_another_life`: another copy of the store may have put things there, and was given up
    (`core.tiering.snapshots.lives`). `rewriting` sets up the process that rewrites chunks; without it no chunk is
    rewritten. `promised` are tables whose deletions clients have been told of: a snapshot follows them soon.
    `private` are tables that no snapshot has: what is in them must not leave the data directory.
    """

    storage: Storage
    log_puts: Storage | None = None
    cluster_id: str
    head_of: EntryHeadOf
    admit: Callable[[bool], Awaitable[None]] | None = None
    had_another_life: bool = False
    rewriting: WorkerSetup | None = None
    promised: frozenset[str] = frozenset()
    private: frozenset[str] = frozenset()


class Coverage(Protocol):
    """The part of the log that metadata snapshots in long-term storage reflect."""

    @property
    def lacks_room(self) -> bool:
        """Whether long-term storage had no room for the last one."""

    def covers(self, lsn: int) -> bool:
        """Whether a snapshot reflects the log up to here. If not, this asks for one."""


class TierContext:
    """The context of one container. For the event loop."""

    def __init__(
        self, container: Container, reader: Reader, catalog: Catalog, long_term: LongTermStorage, snapshots: Coverage
    ) -> None:
        self.container = container
        self.reader = reader
        self.catalog = catalog
        self.long_term = long_term
        self.snapshots = snapshots
        self.changing = asyncio.Lock()
        self.rows_changed = 0  # counts chunks that came and runs that went: there may be something to rewrite
        self._has_unseen_deaths = False

    @property
    def pressure(self) -> float:
        """How full the log is. From 1 on, all work that shortens it is urgent."""
        return self.container.log_bytes / (PRESSURE * self.container.config.log_max_bytes)

    @property
    def is_pressed(self) -> bool:
        return self.pressure > 1

    def look_again(self) -> None:
        """Have the collector look at everything once: something may have died where it does not look."""
        self._has_unseen_deaths = True

    def take_unseen_deaths(self) -> bool:
        """Whether such a look was asked for since the last call."""
        asked, self._has_unseen_deaths = self._has_unseen_deaths, False
        return asked
