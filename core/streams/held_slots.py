"""The slots of one stream that memory holds, by their numbers and, once the stream is spread, by their containers.

**Invariant**: a slot that is held is the one of its number. While the stream is spread, it is also in the share of its
own container and in no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Placed(Protocol):
    """A slot, with its place."""

    number: int
    container_id: int


S = TypeVar("S", bound=Placed)


class HeldSlots(Generic[S]):
    """For the event loop."""

    __slots__ = ("_shares", "by_number")

    def __init__(self, *, is_spread: bool) -> None:
        self.by_number: dict[int, S] = {}  # `Stream.slot` looks itself: each batch asks
        self._shares: dict[int, dict[int, S]] | None = {} if is_spread else None  # by container

    def __repr__(self) -> str:
        return f"<HeldSlots {len(self.by_number)}{', spread' if self.is_spread else ''}>"

    @property
    def is_spread(self) -> bool:
        """Whether slots are known by their containers."""
        return self._shares is not None

    def spread(self, container_id: int) -> None:
        """Know slots by their containers from here on. All that are held lie in this one."""
        assert self._shares is None, "it is spread once"
        self._shares = {container_id: dict(self.by_number)}

    def in_container(self, container_id: int) -> Iterator[S]:
        """The slots of a container; all, while the stream is not spread."""
        if self._shares is None:
            return iter(self.by_number.values())
        return iter(self._shares.get(container_id, {}).values())

    def put(self, slot: S) -> S | None:
        """Hold a slot; returns the one that had its number before."""
        before = self.by_number.get(slot.number)
        self.by_number[slot.number] = slot
        if self._shares is not None:
            if before is not None:
                self._shares.get(before.container_id, {}).pop(before.number, None)
            self._shares.setdefault(slot.container_id, {})[slot.number] = slot
        return before

    def remove(self, slot: S) -> None:
        """Hold this one no longer."""
        del self.by_number[slot.number]
        if self._shares is not None:
            self._shares.get(slot.container_id, {}).pop(slot.number, None)

    def take(self, container_id: int) -> list[S]:
        """Hold the slots of a container no longer, or all while the stream is not spread; returns them."""
        if self._shares is None:
            taken, self.by_number = list(self.by_number.values()), {}
            return taken
        taken = list(self._shares.pop(container_id, {}).values())
        for slot in taken:
            self.by_number.pop(slot.number, None)
        return taken
