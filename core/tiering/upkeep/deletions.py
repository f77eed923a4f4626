"""When an object may leave long-term storage: once a metadata snapshot there knows that nothing refers to it.

**Invariant**: an object that is free to go was unreferenced at an LSN that such a snapshot covers, or there is no room
for one before it goes.
"""

from __future__ import annotations

from core.container.container import Container
from core.tiering.context import Coverage
from tier2.chunk_format import ChunkId


class Deletions:
    """The chunks of one container that nothing refers to, each with the LSN that a snapshot must cover."""

    def __init__(self, container: Container, snapshots: Coverage) -> None:
        self._container = container
        self._snapshots = snapshots
        self._logged: dict[ChunkId, int] = {}

    def logged(self, chunk_id: ChunkId) -> None:
        """Note that from now on nothing refers to the chunk."""
        self._logged[chunk_id] = self._container.applied_lsn

    def is_free(self, chunk_id: ChunkId) -> bool:
        """Whether its object may go. If not, this asks for a snapshot."""
        covered = self._snapshots.covers(self._logged.setdefault(chunk_id, self._container.applied_lsn))
        return covered or self._snapshots.lacks_room

    def done(self, chunk_id: ChunkId) -> None:
        """Forget a chunk whose object is gone."""
        self._logged.pop(chunk_id, None)
