"""The container that keeps the rows of a group or of a transactional id: its home.

Keeps: a name has the same home as long as the data directory has the same containers. Every process that serves a part
of them finds the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from crc32c import crc32c


class Homes:
    """Homes over these containers, which are all of the data directory, in the order of their creation."""

    __slots__ = ("_container_ids",)

    def __init__(self, container_ids: Sequence[int]) -> None:
        self._container_ids: Final = tuple(container_ids)

    def __repr__(self) -> str:
        return f"<Homes in {len(self._container_ids)} containers>"

    def __len__(self) -> int:
        return len(self._container_ids)

    @property
    def are_several(self) -> bool:
        """Whether two names may have different homes."""
        return len(self._container_ids) > 1

    @property
    def container_ids(self) -> Sequence[int]:
        return self._container_ids

    def of(self, name: str) -> int:
        """The id of a name's container."""
        return self._container_ids[self.place_of(name)]

    def place_of(self, name: str) -> int:
        """The place of a name's container among all: its CRC-32C, UTF-8, modulo their number."""
        several = len(self._container_ids)
        return crc32c(name.encode()) % several if several > 1 else 0
