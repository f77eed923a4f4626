"""Changes of streams: decided in the registry, then logged by each container of the stream, then seen by callers.

**Invariants**

- A name belongs to one live stream at most, also while its creation is on its way to the log.
- Each change of a stream is made from the outcome of the one before, whoever made that.
- A growth or a creation that a container has no room for is taken back in all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol
from uuid import uuid4

from core.clock import Clock
from core.cluster.following import Following
from core.cluster.registry import NOTHING_HELD, Held, NewStream, Registry
from core.cluster.shares import Shares
from core.config import StoreConfig
from core.container.container import Container
from core.errors import (
    NotHosted,
    Stale,
    StorageFull,
    StoreError,
    UnknownStream,
)
from core.hosted import HostedContainer
from core.scaling.scaler import ScaleEvent, Scaler
from core.showing import Showing
from core.streams.live import Stream
from core.streams.registry import Streams
from core.streams.state import Epoch, StreamState

logger = logging.getLogger(__name__)

Configure = Callable[[Mapping[str, str]], Mapping[str, str]]
"""Makes a stream's next configuration from its newest one. It is called again if another process was faster."""
CHANGE_TRIES_MAX: Final = 20
"""How often a change is decided anew because another process changed the stream meanwhile."""
PAUSE_S: Final = 0.2
PAUSE_S_MAX: Final = 3.2
"""Between two questions to a registry that does not answer; twice as long each time."""


class Hosting(Protocol):
    """The store, as the place of new slots is chosen."""

    config: StoreConfig
    clock: Clock
    containers: dict[int, HostedContainer]

    @property
    def home(self) -> Container:
        """The container that keeps tables. Raises StoreClosed after a stop."""

    def open_containers(self) -> Sequence[Container]:
        """Those that this process has open."""


class Deciding:
    """See the module. `following` is that of a registry that other processes change, too."""

    def __init__(
        self,
        store: Hosting,
        registry: Registry,
        streams: Streams,
        shares: Shares,
        showing: Showing,
        following: Following | None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._streams = streams
        self._shares = shares
        self._showing = showing
        self._following = following
        self._under_way: set[asyncio.Task[Stream]] = set()  # creations, which go on when their caller has gone

    def __repr__(self) -> str:
        return f"<Deciding: {len(self._under_way)} creations under way>"

    async def finish(self) -> None:
        """Wait for the creations that are under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def create(self, name: str, *, slots: int, config: Mapping[str, str] | None = None) -> Stream:
        """Make a stream; it is durable in all of its containers when this returns.

        Raises StreamExists (also while another call makes it), ValueError for less than one slot, StoreError.
        """
        if slots < 1:
            raise ValueError(f"a stream has at least one slot, not {slots}")
        try:
            return await self._create_once(name, slots, config or {})
        except StorageFull:  # the container that had no room is left out now, if it was one of several
            return await self._create_once(name, slots, config or {})

    async def _create_once(self, name: str, slots: int, config: Mapping[str, str]) -> Stream:
        policy = self._showing.policy_for(config)
        wanted = NewStream(
            name=name,
            uuid=uuid4(),
            slots=slots,
            created_ms=self._store.clock.wall_ms(),
            config=config,
            segments=policy.scaling.min_segments,
            placement=self._place(slots, spread=policy.spread),
        )
        self._showing.loads.expect(wanted.placement, slots)
        creation = asyncio.create_task(self._create(wanted))
        self._under_way.add(creation)
        creation.add_done_callback(self._under_way.discard)
        creation.add_done_callback(lambda _: self._showing.loads.expect(wanted.placement, -slots))
        return await asyncio.shield(creation)

    def _place(self, slots: int, *, spread: bool) -> Sequence[int]:
        """The containers for the slots of a stream. Raises StorageFailure when all have failed."""
        open_now = {one.id: one for one in self._store.open_containers() if not one.failed.done()}
        if self._following is not None:
            failed = self._store.containers.keys() - open_now.keys()
            return self._showing.loads.place(slots, set(self._store.config.container_ids) - failed, spread=spread)
        if not open_now:
            raise self._store.home.failed.result()
        if len(open_now) > 1:
            appended = {one.id: one.appended_bytes for one in open_now.values()}
            self._showing.loads.observe(appended, self._store.clock.monotonic_s())
        with_room = [id for id, one in open_now.items() if not self._shares.has_refused(one)]
        return self._showing.loads.place(slots, with_room or list(open_now), spread=spread)

    async def _create(self, wanted: NewStream) -> Stream:
        state = await self._registry.create(wanted)
        if self._following is not None:
            return await self._create_shared(self._following, state)
        stream = self._streams.by_id(state.id)
        assert stream is not None, "the registry's decision was applied"
        if state.is_elsewhere:
            try:
                await self._shares.bring(stream)
            except StoreError:
                await self._take_back(stream)
                raise
            self._showing.show(stream)
        return stream

    async def _create_shared(self, following: Following, state: StreamState) -> Stream:
        stream = await following.take(state)
        if stream is None or stream.deleted:
            raise UnknownStream(state.name)
        if not self._streams.has_name(stream):
            await self._take_back(stream)
            raise StorageFull(f"a container has no room for stream {state.name!r}: free some disk space")
        return stream

    async def _take_back(self, stream: Stream) -> None:
        """End a stream that could not be made in all of its containers. If this fails, the next start settles it."""
        try:
            await self._registry.delete(stream.state)
            await self._shares.drop(stream)
        except StoreError as error:
            self._shares.note_late(stream, error)

    async def update(self, stream: Stream, *, config: Mapping[str, str] | Configure) -> None:
        """Replace a stream's configuration, durably, by this one, or by what it makes of the newest one. Raises
        UnknownStream, StoreError, and what it raises."""

        def configured(state: StreamState) -> StreamState:
            return state.configured(config if isinstance(config, Mapping) else config(state.config))

        await self._change(stream, configured)

    async def grow(self, stream: Stream, slots: int) -> None:
        """Give a stream more slots, durably: a scale that seals every segment.

        Raises UnknownStream, StreamSealed, ValueError if the stream already has as many, StoreError.
        """
        places = self._place(slots, spread=True) if stream.policy.spread else ()
        await self._change(stream, lambda state: state.grown(slots, self._store.clock.wall_ms(), places), "grown")

    async def scale(
        self, stream: Stream, sealed: Collection[int], cuts: Collection[int], reason: str, kind: str = "manual"
    ) -> Epoch:
        """Seal neighbouring segments and open others over their slots, in one atomic record; returns the new epoch.

        `cuts` are positions in key order.
        Raises UnknownStream, StreamSealed, ValueError if the arguments describe no scale, StoreError.
        """
        return await self._change(
            stream, lambda state: state.scaled(sealed, cuts, self._store.clock.wall_ms(), reason), kind
        )

    async def seal(self, stream: Stream) -> None:
        """End a stream, durably: it takes no more entries and is still read.

        Raises UnknownStream, StreamSealed when it is already, StoreError.
        """
        await self._change(stream, lambda state: state.sealed_at(self._store.clock.wall_ms()))

    async def delete(self, stream: Stream) -> None:
        """Delete a stream, durably. Raises UnknownStream, StoreError."""
        async with stream.changing:
            if stream.deleted:
                raise UnknownStream(stream.name)
            await self._registry.delete(stream.state)
            if not stream.deleted:
                self._showing.end(stream)
            try:
                await self._shares.drop(stream)
            except StoreError as error:
                self._shares.note_late(stream, error)

    async def _change(
        self, stream: Stream, changed: Callable[[StreamState], StreamState], kind: str | None = None
    ) -> Epoch:
        async with stream.changing:
            return await self._change_locked(stream, changed, kind)

    async def _change_locked(
        self,
        stream: Stream,
        changed: Callable[[StreamState], StreamState],
        kind: str | None,
        held: Held = NOTHING_HELD,
    ) -> Epoch:
        # Each change starts from the outcome of the one before: a record holds the whole state.
        for _ in range(CHANGE_TRIES_MAX - 1):
            with contextlib.suppress(Stale):
                return await self._change_once(stream, changed, kind, held)
            assert self._following is not None, "nobody else changes streams"
            await self._following.catch_up(stream)
        return await self._change_once(stream, changed, kind, held)

    async def move_locked(self, stream: Stream, number: int, target: int, held: Held = NOTHING_HELD) -> None:
        """Name another container as a slot's, for `core.moving`; the caller holds `stream.changing`.

        Raises UnknownStream, StreamSealed, ValueError for a slot that is there already, NotHosted if a claim in `held`
        is not there any more, StoreError.
        """
        await self._change_locked(stream, lambda state: self._moved(state, number, target), "move", held)

    async def was_moved(self, stream: Stream, number: int, target: int) -> bool:
        """Whether a call of `move_locked` that left it open has named the container; else it never will.

        The registry may still make a change that it has not answered. One that is made from the same state, and changes
        nothing, takes its place: whichever comes second finds another state. It is asked until it tells, whatever
        goes wrong: nobody else ever asks for this slot. The caller holds `stream.changing`.
        Raises UnknownStream; where a container's table is the registry, StorageFailure if the slot's container and the
        target have failed as well: then the next start tells.
        """
        following, pause_s = self._following, PAUSE_S
        if following is None:
            return await self._was_moved_by_copies(stream, number, target)
        while True:
            state = following.newest(stream)
            if state.container_of_slot(number) == target:
                await following.take_locked(stream, state)
                return True
            try:
                await self._registry.change(state.after(state))
            except Stale:
                continue  # now the newest state is known
            except UnknownStream:
                raise
            except Exception as error:
                told = {"stream": stream.name, "reason": str(error)}
                if isinstance(error, StoreError):
                    logger.warning("the registry is asked again", extra=told)
                else:
                    logger.exception("a defect: the registry is asked again. Please report it", extra=told)
                await asyncio.sleep(pause_s)
                pause_s = min(PAUSE_S_MAX, 2 * pause_s)
            else:
                await following.take_locked(stream, following.newest(stream))
                return False

    async def _was_moved_by_copies(self, stream: Stream, number: int, target: int) -> bool:
        """The same where the container that decides has failed, with a record that may be in its log or not.

        Of two copies the one with the higher revision is right, also for a start: so a later one, in the log of the
        slot's container, says that the slot stays. If that container has failed, it takes nothing more for the slot;
        the target has all of it by now, and with a later copy in its log, the slot. Raises StorageFailure.
        """
        state, source = stream.state, stream.state.container_of_slot(number)
        is_moved = source == target  # it was durable before the failure
        if not is_moved:
            newest = max(state, stream.logged, key=lambda one: one.revision)
            is_moved = self._has_failed(source)
            outcome = self._moved(state, number, target) if is_moved else state
            await self._outdo(stream, outcome.after(newest.after(newest)), target if is_moved else source)
        try:
            await self._shares.bring(stream)
        except StoreError as error:  # of the one that has failed, among others
            self._shares.note_late(stream, error)
        self._showing.show(stream)
        return is_moved

    def _has_failed(self, container_id: int) -> bool:
        hosted = self._store.containers.get(container_id)
        return hosted is not None and hosted.container.failed.done()

    def _moved(self, state: StreamState, number: int, target: int) -> StreamState:
        return state.moved(number, target, self._store.clock.wall_ms(), f"slot {number} moved to container {target}")

    async def _outdo(self, stream: Stream, state: StreamState, container_id: int) -> None:
        """Have a state synced in the log of a container, once it has room."""
        hosted = self._store.containers.get(container_id)
        if hosted is None:
            raise NotHosted(container_id)
        while True:
            try:
                await hosted.container.change_stream(stream, state)
                await hosted.container.synced()
                return
            except StorageFull as error:
                logger.warning("a decision waits for room", extra={"stream": stream.name, "reason": str(error)})
            await asyncio.sleep(PAUSE_S_MAX)

    async def _change_once(
        self, stream: Stream, changed: Callable[[StreamState], StreamState], kind: str | None, held: Held
    ) -> Epoch:
        if stream.deleted:
            raise UnknownStream(stream.name)
        before, state = stream.state.current, changed(stream.state)
        if state.current is not before:
            going_on = {segment.number for segment in state.current.segments}
            sealed = [segment for segment in before.segments if segment.number not in going_on]
            state = state.measured({segment.number: stream.segment_bytes(segment) for segment in sealed})
        await self._decide(stream, state, held)
        if kind is not None:
            _record(self._scaler_of_epoch(state), stream, before, state.current, kind)
        return state.current

    async def _decide(self, stream: Stream, state: StreamState, held: Held) -> None:
        """Make this a stream's state. If a container has no room for it, a growth is taken back."""
        before = stream.state
        await self._registry.change(state, held)
        if self._following is not None:
            await self._following.take_locked(stream, state)
            return
        if not state.is_elsewhere and not before.is_elsewhere:
            return
        try:
            await self._shares.bring(stream)
        except StoreError as error:
            if state.slots != before.slots:
                await self._registry.change(before.after(state))
                self._showing.show(stream)
                self._shares.note_late(stream, error)
                raise
            self._shares.note_late(stream, error)
        self._showing.show(stream)

    def _scaler_of_epoch(self, state: StreamState) -> Scaler | None:
        """The scaler that remembers a stream's newest epoch: that of the first segment it opened, if it is here."""
        found = self._store.containers.get(state.container_of(state.current.opened[0]))
        return next((one.scaler for one in self._store.containers.values()), None) if found is None else found.scaler


def _record(scaler: Scaler | None, stream: Stream, before: Epoch, after: Epoch, kind: str) -> None:
    going_on = {segment.number for segment in after.segments}
    event = ScaleEvent(
        time_ms=after.started_ms,
        stream=stream.name,
        epoch=after.epoch,
        kind=kind,
        reason=after.reason,
        sealed=tuple(segment.number for segment in before.segments if segment.number not in going_on),
        opened=tuple(segment.number for segment in after.opened),
    )
    if scaler is not None:
        scaler.record(event)
    logger.info(
        "stream scaled",
        extra={"stream": event.stream, "epoch": event.epoch, "kind": kind, "reason": event.reason}
        | {"sealed": event.sealed, "opened": event.opened},
    )
