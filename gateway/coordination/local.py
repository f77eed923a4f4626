"""The coordinators of one kind in this process: one for each container that is open here.

Invariants:
- A name is answered by the coordinator of its home alone. Where that is not open here, or its storage failed, it is
  NOT_COORDINATOR, on which a client looks for the coordinator anew; while it loads, COORDINATOR_LOAD_IN_PROGRESS.
- A container that fails or is released takes its own coordinator with it, and no other. Its waiters are answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Final, Generic, Protocol, TypeVar

from kio.schema.errors import ErrorCode

from core.container.container import Container
from core.errors import Deposed, StorageFailure
from core.store import Store
from gateway.coordination.homes import Homes
from gateway.refusals import Refusal

_log: Final = logging.getLogger(__name__)


class Coordinator(Protocol):
    """The life of a container's coordinator."""

    def load(self) -> None:
        """Read its rows. Raises UnreadableRecord."""

    async def start(self) -> None:
        """Begin to serve."""

    async def stop(self) -> None:
        """Answer every waiter, and end. Returns when nothing of it is on its way to the log."""


C = TypeVar("C", bound=Coordinator)


class LocalCoordinators(Generic[C]):
    """See the module. `make` gives a container's coordinator, not loaded yet."""

    def __init__(self, store: Store, homes: Homes, make: Callable[[Container], C]) -> None:
        self._store = store
        self._make = make
        self._loading: dict[int, C] = {}  # by container
        self._serving: dict[int, C] = {}
        self._expected: set[int] = set()  # containers that are being opened
        self._ending: set[asyncio.Task[None]] = set()
        self.homes = homes

    def of(self, name: str) -> C:
        """The coordinator that serves a name. Raises Refusal."""
        container_id = self.homes.of(name)
        found = self._serving.get(container_id)
        if found is None or not self._store.serves(container_id):
            is_coming = container_id in self._loading or container_id in self._expected
            raise Refusal(ErrorCode.coordinator_load_in_progress if is_coming else ErrorCode.not_coordinator)
        return found

    def is_here(self, name: str) -> bool:
        """Whether this process has the coordinator of a name, which may still be loading."""
        container_id = self.homes.of(name)
        is_known = container_id in self._serving or container_id in self._loading
        return is_known and self._store.serves(container_id)

    def in_container(self, container_id: int) -> C | None:
        """A container's coordinator, serving or loading."""
        found = self._serving.get(container_id)
        return self._loading.get(container_id) if found is None else found

    def all(self) -> Iterator[C]:
        """Every coordinator that serves, or loads."""
        return iter([*self._serving.values(), *self._loading.values()])

    # --- Life ---------------------------------------------------------------------------------

    def load(self) -> None:
        """Make and load the coordinators of all containers that are open. Raises UnreadableRecord."""
        for container_id in self._store.containers:
            self._load(container_id)

    async def start(self) -> None:
        """Have all that are loaded serve."""
        for container_id in list(self._loading):
            await self._start(container_id)

    def expect(self, container_id: int) -> None:
        """A container is being opened: `open` follows, or `release`."""
        self._expected.add(container_id)

    async def open(self, container_id: int) -> None:
        """Load and serve a container that was opened later. Raises UnreadableRecord."""
        self._load(container_id)
        await self._start(container_id)

    async def release(self, container_id: int) -> None:
        """End a container's coordinator; its waiters hear NOT_COORDINATOR. Does nothing where there is none."""
        self._expected.discard(container_id)
        ended = self.in_container(container_id)
        if ended is not None:
            self._serving.pop(container_id, None)
            self._loading.pop(container_id, None)
            await ended.stop()

    async def stop(self) -> None:
        """End all coordinators."""
        for container_id in [*self._serving, *self._loading]:
            await self.release(container_id)
        if self._ending:
            await asyncio.wait(self._ending)

    def _load(self, container_id: int) -> None:
        container = self._store.containers[container_id].container
        made = self._loading[container_id] = self._make(container)
        made.load()
        container.failed.add_done_callback(
            lambda failed: None if failed.cancelled() else self._container_failed(container_id, made, failed.result())
        )

    async def _start(self, container_id: int) -> None:
        made = self._loading[container_id]
        await made.start()
        if self._loading.get(container_id) is made:  # and it was not released, and has not failed, meanwhile
            self._serving[container_id] = self._loading.pop(container_id)
            self._expected.discard(container_id)

    def _container_failed(self, container_id: int, coordinator: C, failure: StorageFailure) -> None:
        if self.in_container(container_id) is not coordinator:
            return
        told = {"coordinator": repr(coordinator), "container": container_id, "reason": str(failure)}
        if isinstance(failure, Deposed):
            _log.info("a coordinator ends: this node's claim of its container has ended", extra=told)
        else:
            _log.error("the storage of a coordinator failed: its names are not served", extra=told)
        ending = asyncio.create_task(self.release(container_id), name=f"end of {coordinator!r}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
