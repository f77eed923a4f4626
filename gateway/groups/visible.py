"""The topics that groups can subscribe to and commit offsets for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from core.streams.live import Stream


class VisibleTopics(Protocol):
    """Real and internal topics; iteration gives those that are listed."""

    def __iter__(self) -> Iterator[Stream]: ...

    def __len__(self) -> int: ...

    def get(self, name: str) -> Stream | None: ...

    def by_uuid(self, uuid: UUID) -> Stream | None: ...
