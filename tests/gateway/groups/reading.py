"""What the clients of a group read and commit, beside a random history of it: no offset is lost.

Keeps: a commit that the group takes never sets an offset back, or records would come again for which no crash is to
blame; so nobody who has lost a partition commits over the one who has it now.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Generic, TypeVar

from kio.schema.errors import ErrorCode

PlaceT = TypeVar("PlaceT", bound=tuple[Any, int])


class Reading(Generic[PlaceT]):
    """See the module. `check` asks the group whether a member may commit for a place in an epoch."""

    def __init__(self, check: Callable[[str, int, PlaceT], ErrorCode]) -> None:
        self._check = check
        self._committed: dict[PlaceT, int] = {}
        self._read: dict[tuple[str, PlaceT], int] = {}
        self._asleep: list[tuple[str, int, dict[PlaceT, int]]] = []

    def read(self, member_id: str, epoch: int, places: Collection[PlaceT], count: int) -> None:
        """A client reads so many records of each of its places, and commits that."""
        for place, offset in self._owned(member_id, places).items():
            self._read[member_id, place] = offset + count
            self._commit(member_id, epoch, place, offset + count)

    def fall_asleep(self, member_id: str, epoch: int, places: Collection[PlaceT]) -> None:
        """A client pauses with all that it has, and will commit when it awakes, whatever has become of it."""
        self._asleep.append((member_id, epoch, self._owned(member_id, places)))

    def awake(self) -> None:
        for member_id, epoch, offsets in self._asleep:
            for place, offset in offsets.items():
                self._commit(member_id, epoch, place, offset)
        self._asleep.clear()

    def _owned(self, member_id: str, places: Collection[PlaceT]) -> dict[PlaceT, int]:
        """How far a client is in its places; in a new one it begins where the one before has committed."""
        for known_id, place in list(self._read):
            if known_id == member_id and place not in places:
                del self._read[known_id, place]
        return {
            place: self._read.setdefault((member_id, place), self._committed.get(place, 0)) for place in sorted(places)
        }

    def _commit(self, member_id: str, epoch: int, place: PlaceT, offset: int) -> None:
        if self._check(member_id, epoch, place) is not ErrorCode.none:
            return
        before = self._committed.get(place, 0)
        assert before <= offset, f"{member_id} took the offset of {place} back from {before} to {offset}"
        self._committed[place] = offset
