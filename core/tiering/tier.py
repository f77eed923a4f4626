"""A container's side of long-term storage: what the store is given, and the parts that use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.container import Container
    from tier2.chunk import EntryHeadOf
    from tier2.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class LongTermStorage:
    """Where chunks go. `head_of` reads the header of an entry as it is stored."""

    storage: Storage
    cluster_id: str
    head_of: EntryHeadOf


class Tier:
    """Long-term storage for one container."""

    def __init__(self, container: Container, long_term: LongTermStorage) -> None:
        self.container = container
        self.long_term = long_term
