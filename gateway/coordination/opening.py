"""What a broker does when a container comes or goes at runtime, beside its log.

Keeps: coordinators begin in the order of their dependence and end in the reverse one. None of them serves before those
of all kinds are loaded: a group's id may be a share group's, and a deleted topic's offsets may be a transaction's. The
container's partitions do not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from core.hosted import HostedContainer
from core.store import Store
from gateway.cluster.vacancies import Vacancies
from gateway.coordination.local import LocalCoordinators


class Openings:
    """`core.membership.Services` of a broker. `begun` is told of each container that is served, before its
    coordinators, and `ended` when it goes; `moved` then, too, and when the coordinators of one that goes have ended;
    `changed` at last."""

    def __init__(
        self,
        store: Store,
        kinds: Sequence[LocalCoordinators[Any]],
        begun: Callable[[HostedContainer], None],
        ended: Callable[[int], None],
        moved: Callable[[int], None],
        changed: Callable[[], None],
        vacancies: Vacancies,
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._begun = begun
        self._ended = ended
        self._moved = moved
        self._changed = changed
        self._vacancies = vacancies

    def __repr__(self) -> str:
        return f"<Openings of {len(self._kinds)} kinds of coordinators>"

    def expect(self, container_id: int) -> None:
        """It is being opened: whoever asks for its coordinators is to come again."""
        self._vacancies.coming.add(container_id)
        for kind in self._kinds:
            kind.expect(container_id)

    async def begin(self, container_id: int) -> None:
        """Load and serve what lies in it. Raises UnreadableRecord."""
        self._begun(self._store.containers[container_id])
        self._moved(container_id)
        self._vacancies.coming.discard(container_id)
        self._changed()
        for kind in self._kinds:
            await kind.load_in(container_id)
        for kind in self._kinds:
            await kind.start_in(container_id)
        self._changed()

    async def end(self, container_id: int) -> None:
        """Answer all who wait."""
        self._vacancies.coming.discard(container_id)
        self._ended(container_id)
        self._changed()
        for kind in reversed(self._kinds):
            await kind.release(container_id)
        self._moved(container_id)
        self._changed()
