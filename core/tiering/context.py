"""What the parts of a container's tiering share: where chunks go, what is known of them, and how pressing it all is.

Each part gets this, and never `Tier`, which only makes and starts them; no part reaches into another.

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
"""How full the log is when everything is moved out of it, whatever its age."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongTermStorage:
    """Where chunks go. `head_of` reads the header of an entry as it is stored.

    `admit` is asked before anything is put or deleted there, with whether the store has chunks; it raises what ends
    the start. `had_another_life`: another copy of the store may have put things there, and was given up
    (`core.tiering.snapshots.lives`). `rewriting` is what the process that rewrites chunks is made with; without it,
    none are. `promised` are tables of which a deletion is something that a client was told: a snapshot follows soon.
    """

    storage: Storage
    cluster_id: str
    head_of: EntryHeadOf
    admit: Callable[[bool], Awaitable[None]] | None = None
    had_another_life: bool = False
    rewriting: WorkerSetup | None = None
    promised: frozenset[str] = frozenset()


class Coverage(Protocol):
    """How much of the log metadata snapshots in long-term storage reflect."""

    @property
    def lacks_room(self) -> bool:
        """Long-term storage had no room for the last one."""

    def covers(self, lsn: int) -> bool:
        """Whether a snapshot reflects the log up to here; if not, one is asked for."""


class TierContext:
    """Of one container. For the event loop."""

    def __init__(
        self, container: Container, reader: Reader, catalog: Catalog, long_term: LongTermStorage, snapshots: Coverage
    ) -> None:
        self.container = container
        self.reader = reader
        self.catalog = catalog
        self.long_term = long_term
        self.snapshots = snapshots
        self.changing = asyncio.Lock()
        self.rows_changed = 0  # chunks that came and runs that went: there may be something to rewrite
        self._has_unseen_deaths = False

    @property
    def pressure(self) -> float:
        """How full the log is; from 1 on all that makes it shorter is urgent."""
        return self.container.log_bytes / (PRESSURE * self.container.config.log_max_bytes)

    @property
    def is_pressed(self) -> bool:
        return self.pressure > 1

    def look_again(self) -> None:
        """Something may have died where the collector does not look: have it look at everything once."""
        self._has_unseen_deaths = True

    def take_unseen_deaths(self) -> bool:
        """Whether that was asked for since this was called last."""
        asked, self._has_unseen_deaths = self._has_unseen_deaths, False
        return asked
