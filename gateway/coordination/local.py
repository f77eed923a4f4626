"""The coordinators of one kind in this process: one for each container that is open here.

Invariants:
- A name is answered by the coordinator of its home alone. Where that is not open here, or its storage failed, it is
  NOT_COORDINATOR, on which a client looks for the coordinator anew; while it loads, COORDINATOR_LOAD_IN_PROGRESS.
- A coordinator loads in steps, between which others run. Nobody reads one whose rows are not all read, but for counts:
  `in_container` has it afterwards only, and a list says that something is missing (`are_loading`).
- A container that fails or is released takes its own coordinator with it, and no other, also one that loads. Its
  waiters are answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

    async def load(self) -> None:
        """Read its rows in steps; it may be cancelled, and `stop` follows then. Raises UnreadableRecord."""

    async def start(self) -> None:
        """Begin to serve."""

    async def stop(self) -> None:
        """Answer every waiter, and end. Returns when nothing of it is on its way to the log."""

    async def let_go(self) -> None:
        """Free what it knows, in turns, after its end; it may be cancelled. A late question gets an error, and no
        wrong answer."""


C = TypeVar("C", bound=Coordinator)


@dataclass(slots=True, eq=False)
class _Loading(Generic[C]):
    """A coordinator that does not serve yet. `work` reads its rows, and later starts it."""

    coordinator: C
    work: asyncio.Task[None]
    is_loaded: bool = False


class LocalCoordinators(Generic[C]):
    """See the module. `make` gives a container's coordinator, not loaded yet."""

    def __init__(self, store: Store, homes: Homes, make: Callable[[Container], C]) -> None:
        self._store = store
        self._make = make
        self._loading: dict[int, _Loading[C]] = {}  # by container
        self._serving: dict[int, C] = {}
        self._expected: set[int] = set()  # containers that are being opened
        self._ending: set[asyncio.Task[None]] = set()
        self._freeing: set[asyncio.Task[None]] = set()
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
        """A container's coordinator, once all of its rows are read: it serves, or is about to."""
        loading = self._loading.get(container_id)
        if loading is not None:
            return loading.coordinator if loading.is_loaded else None
        return self._serving.get(container_id)

    def all(self) -> Iterator[C]:
        """Every coordinator, also those that load, which know a part of what is theirs."""
        return iter([*self._serving.values(), *(one.coordinator for one in self._loading.values())])

    @property
    def are_loading(self) -> bool:
        """Whether a container that is here, or is being opened, is not served yet: then `all` may not be all."""
        return bool(self._loading or self._expected)

    @property
    def loading_count(self) -> int:
        """Containers that are open here, and whose coordinator does not serve yet."""
        return len(self._loading)

    # --- Life ---------------------------------------------------------------------------------

    async def load(self) -> None:
        """Make and load the coordinators of all containers that are open. Raises UnreadableRecord."""
        for container_id, hosted in list(self._store.containers.items()):
            if not hosted.container.failed.done():
                await self.load_in(container_id)

    async def start(self) -> None:
        """Have all that are loaded serve."""
        for container_id in list(self._loading):
            await self.start_in(container_id)

    def expect(self, container_id: int) -> None:
        """A container is being opened: `load_in` and `start_in` follow, or `release`."""
        self._expected.add(container_id)

    async def load_in(self, container_id: int) -> None:
        """Make and load the coordinator of a container that is open; returns early if that goes meanwhile. Raises
        UnreadableRecord."""
        container = self._store.containers[container_id].container
        made = self._make(container)
        loading = _Loading(made, asyncio.create_task(made.load(), name=f"load of {made!r}"))
        self._loading[container_id] = loading
        container.failed.add_done_callback(
            lambda failed: None if failed.cancelled() else self._container_failed(container_id, made, failed.result())
        )
        loading.is_loaded = await _is_done(loading.work)

    async def start_in(self, container_id: int) -> None:
        """Have one that is loaded serve. Does nothing if it was released meanwhile."""
        loading = self._loading.get(container_id)
        if loading is None or not loading.is_loaded:
            return
        loading.work = asyncio.create_task(loading.coordinator.start(), name=f"start of {loading.coordinator!r}")
        if await _is_done(loading.work) and self._loading.get(container_id) is loading:  # not released meanwhile
            del self._loading[container_id]
            self._serving[container_id] = loading.coordinator
            self._expected.discard(container_id)

    async def release(self, container_id: int) -> None:
        """End a container's coordinator; its waiters hear NOT_COORDINATOR. Does nothing where there is none."""
        self._expected.discard(container_id)
        loading = self._loading.pop(container_id, None)
        ended = self._serving.pop(container_id, None) if loading is None else loading.coordinator
        if loading is not None:
            loading.work.cancel()  # nothing, if it has ended
            await asyncio.wait([loading.work])
        if ended is not None:
            await ended.stop()
            freeing = asyncio.create_task(ended.let_go(), name=f"memory of {ended!r}")
            self._freeing.add(freeing)  # nobody waits: the container's next owner may be waiting for its log
            freeing.add_done_callback(self._freeing.discard)

    async def stop(self) -> None:
        """End all coordinators."""
        for container_id in [*self._serving, *self._loading]:
            await self.release(container_id)
        if self._ending:
            await asyncio.wait(self._ending)
        freeing = list(self._freeing)
        for one in freeing:
            one.cancel()
        await asyncio.gather(*freeing, return_exceptions=True)

    def _container_failed(self, container_id: int, coordinator: C, failure: StorageFailure) -> None:
        loading = self._loading.get(container_id)
        if (self._serving.get(container_id) if loading is None else loading.coordinator) is not coordinator:
            return
        told = {"coordinator": repr(coordinator), "container": container_id, "reason": str(failure)}
        if isinstance(failure, Deposed):
            _log.info("a coordinator ends: this node's claim of its container has ended", extra=told)
        else:
            _log.error("the storage of a coordinator failed: its names are not served", extra=told)
        ending = asyncio.create_task(self.release(container_id), name=f"end of {coordinator!r}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


async def _is_done(work: asyncio.Task[None]) -> bool:
    """Wait for a coordinator's load or start; False if its release has cut that off. Raises what the work raises."""
    try:
        await asyncio.wait([work])
    finally:
        work.cancel()  # nothing, if it has ended
    if work.cancelled():
        return False
    work.result()
    return True
