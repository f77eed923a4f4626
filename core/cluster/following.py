"""A store that has a part of a registry's containers: it follows what all processes decide there.

Each process knows every stream, and has the copies that belong into its own containers. A decision of this process or
of another one goes the same way: the registry first, then the copies here, then callers see it.

**Invariants**

- Changes of a stream are taken over in the order of their revisions; one that is known already changes nothing.
- A stream that another process made is visible here only when each container of this process has its copy.
- What a look found is taken over in the end, whatever went wrong with it at first; it holds up nothing else. A
  caller hears of an error when it is new; the log alone hears of it when the same fails again.
- A stream that the registry does not have any more is not begun, however old the word of it is that comes late.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from core.cluster.changes import Changes
from core.cluster.registry import Registry
from core.cluster.shares import Shares
from core.errors import StorageFull, StoreError, UnknownStream
from core.streams.live import Stream
from core.streams.registry import Streams
from core.streams.state import REGISTRY_DECIDES, StreamState

logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""The longest time between two looks: a word of another process's change may be lost, never the change."""
RETRY_S: Final = 1.0


class Changed(Protocol):
    """What a look of a shared registry found, see `core.cluster.changes.Changes`."""

    streams: list[StreamState]
    deleted: list[StreamState]
    kinds: set[str]
    nodes: bool


class SharedRegistry(Registry, Protocol):
    """A registry that other processes change, too."""

    changed: asyncio.Event

    async def look(self) -> Changes:
        """All changes since the last look, of this process and of others."""


class Follower(Protocol):
    """The store, as it takes over decisions."""

    def begin(self, state: StreamState) -> Stream:
        """Know a stream, which has no name yet."""

    def show(self, stream: Stream) -> None:
        """Make a stream's newest state visible: all copies that belong here are there."""

    def end(self, stream: Stream) -> None:
        """A stream is gone."""

    def followed(self, changed: Changed) -> None:
        """Changes of other kinds, and those of streams after they were taken over."""


class Following:
    """See the module."""

    def __init__(self, registry: SharedRegistry, streams: Streams, shares: Shares, follower: Follower) -> None:
        self._registry = registry
        self._streams = streams
        self._shares = shares
        self._follower = follower
        self._task: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._found = Changes()  # by looks, and not tried yet
        self._left = Changes()  # what was tried and could not be taken over

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow_for_ever(), name="registry")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def settle(self) -> None:
        """Make the copies right after a recovery, before anything is appended. Raises StoreError.

        A stream that is not in the registry was deleted while this process was away.
        """
        await self._registry.look()
        exist = {state.id for state in self._registry.streams()}
        for stream in [one for one in self._streams.all() if one.id not in exist]:
            if not self._registry.was_given(stream.id):
                logger.error(
                    "a container has a stream that the registry never heard of: its records are kept, not shown",
                    extra={"stream": stream.name},
                )
                continue
            self._follower.end(stream)
            await self._drop(stream)
        for state in self._registry.streams():
            await self.take(state)

    async def take(self, state: StreamState) -> Stream | None:
        """Take over the newest state of a stream; None if it has been deleted since the registry told of it."""
        stream = self._streams.by_id(state.id)
        if stream is None and self._registry.stream(state.id) is not None:
            stream = self._follower.begin(state)
        if stream is not None:
            async with stream.changing:
                await self.take_locked(stream, state)
        return stream

    async def take_locked(self, stream: Stream, state: StreamState) -> None:
        """The same by a caller that holds `stream.changing`."""
        if stream.deleted:
            return
        if state.revision < stream.logged.revision:
            state = stream.logged
        stream.go_by(state, REGISTRY_DECIDES)
        try:
            await self._shares.bring(stream)
        except StoreError as error:  # a container here has no room, or failed: its slots are refused, others are served
            self._shares.note_late(stream, error)
            if isinstance(error, StorageFull):
                return
        self._follower.show(stream)

    async def catch_up(self, stream: Stream) -> None:
        """Take over what another process has changed in a stream, for a caller that holds `stream.changing`.

        Raises UnknownStream.
        """
        await self.take_locked(stream, self.newest(stream))

    def newest(self, stream: Stream) -> StreamState:
        """The newest state of a stream that this process has heard of. Raises UnknownStream."""
        newest = self._registry.stream(stream.id)
        if newest is None:
            raise UnknownStream(stream.name)
        return newest

    async def _drop(self, stream: Stream) -> None:
        try:
            await self._shares.drop(stream)
        except StoreError as error:
            self._shares.note_late(stream, error)

    async def follow(self) -> None:
        """Take over all that is decided by now. Raises StoreError, and whatever else goes wrong for the first time."""
        errors, _ = await self._follow()
        if errors:
            raise errors[0]

    async def _follow(self) -> tuple[list[Exception], list[Exception]]:
        """Take over what those before have left, and what a look finds; returns the errors of what is found, and of
        what was left. What a cancelled call has not tried is found by the next one."""
        async with self._one_at_a_time:
            self._found.extend(await self._registry.look())
            self._left.give_way(self._found)
            again = list[Exception]()
            if self._left:
                self._left, again = await self._take_over(self._left)
            left, errors = await self._take_over(self._found)
            self._found = Changes()
            self._left.extend(left)
        return errors, again

    async def _take_over(self, changed: Changes) -> tuple[Changes, list[Exception]]:
        """Take over what can be; returns the rest, and what went wrong with it."""
        left, errors = Changes(), list[Exception]()
        for state in changed.streams:
            try:
                await self._follow_change(state)
            except Exception as error:
                left.streams.append(state)
                errors.append(error)
        for state in changed.deleted:
            try:
                await self._follow_deletion(state)
            except Exception as error:
                left.deleted.append(state)
                errors.append(error)
        try:
            self._follower.followed(changed)
        except Exception as error:
            left = changed  # who has heard of it hears of it again
            errors.append(error)
        return left, errors

    async def _follow_change(self, state: StreamState) -> None:
        known = self._streams.by_id(state.id)
        if known is None or known.logged.revision < state.revision or not self._streams.has_name(known):
            await self.take(state)

    async def _follow_deletion(self, state: StreamState) -> None:
        stream = self._streams.by_id(state.id)
        if stream is not None:
            async with stream.changing:
                if not stream.deleted:
                    self._follower.end(stream)
                await self._drop(stream)

    async def _follow_for_ever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._registry.changed.wait()
            except TimeoutError:
                pass
            try:
                errors, again = await self._follow()
                if errors or again:
                    raise (errors or again)[0]
            except StoreError as error:
                logger.warning("the registry cannot be read and will be tried again", extra={"reason": str(error)})
                await asyncio.sleep(RETRY_S)
            except Exception:  # or no change of a topic is seen here any more
                logger.exception("a defect: the registry was not followed, and will be tried again. Please report it")
                await asyncio.sleep(RETRY_S)
