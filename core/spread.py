"""A node's part in spreading the slots of hot containers over its cluster, and in bringing cold ones back.

It looks at the loads that all nodes tell (`core.balance`), and at the rates of its own slots. What it decides
(`core.cluster.spreading`) it wants as an operator does (`core.relocation`).

**Invariant**: what goes wrong here moves nothing, and keeps nothing else from its work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from core.background import Background
from core.cluster.balancing import distribution
from core.cluster.coordination import Life, Owner, Stage, Wish
from core.cluster.levels import Feature, allows
from core.cluster.spreading import ColdSlot, SlotLoad, SlotMove, Spreader
from core.cluster.wanted_moves import Place
from core.hosted import HostedContainer
from core.scaling.decisions import MERGE_BELOW
from core.store import Store
from core.streams.averages import TWENTY, TWO, WINDOWS_S
from core.streams.keyspace import slot_at_position
from core.streams.live import Stream
from core.streams.policy import ScalingKind
from core.turns import in_turns

logger = logging.getLogger(__name__)

LOOK_S: Final = 10.0
COLD_MAX: Final = 100
"""The most cold slots that one look considers."""


class Cluster(Protocol):
    """What is needed of the coordinator, see `core.cluster.coordination`."""

    @property
    def node(self) -> int: ...

    @property
    def level(self) -> int: ...

    @property
    def containers(self) -> Sequence[int]: ...

    def owners(self) -> Mapping[int, Owner]: ...

    def lives(self) -> Mapping[int, Life]: ...

    def wishes(self) -> Mapping[int, Wish]: ...

    def is_fresh(self) -> bool: ...


class Wants(Protocol):
    """Takes what is wanted, see `core.relocation`."""

    @property
    def is_at_work(self) -> bool: ...

    async def want(self, stream: Stream, number: int, target: int) -> None: ...


class Spread:
    """See the module. For the event loop; end it with `stop`."""

    def __init__(
        self, cluster: Cluster, wants: Wants, store: Store, weights: Callable[[], Mapping[int, float]]
    ) -> None:
        """`weights`: how heavy containers are, see `core.cluster.loads`."""
        self._cluster = cluster
        self._wants = wants
        self._store = store
        self._weights = weights
        self._spreader = Spreader()
        self._background = Background("spreading of slots", None, self._step, retry_s=LOOK_S, first_s=LOOK_S)

    def __repr__(self) -> str:
        return f"<Spread of node {self._cluster.node}: {self._spreader!r}>"

    def start(self) -> None:
        """Look from now on."""
        self._background.start()

    async def stop(self) -> None:
        """End. What is wanted goes on."""
        await self._background.stop()

    async def _step(self) -> float:
        await self.step(time.monotonic())
        return LOOK_S

    async def step(self, now_s: float) -> None:
        """One look. Raises StoreError."""
        seen = self._cluster
        if not allows(seen.level, Feature.SLOT_MOVES) or not seen.is_fresh():
            return
        nodes = distribution(seen.owners(), seen.lives(), self._weights())
        is_at_rest = self._is_at_rest()
        hot = self._spreader.look(nodes, seen.node, now_s, is_at_rest=is_at_rest)
        hosted = None if hot is None else self._store.containers.get(hot.container)
        move: SlotMove | None = None
        if hot is not None and hosted is not None:
            move = self._spreader.go(hot, await self._loads_in(hosted), now_s)
        elif is_at_rest and seen.node in nodes:  # else the other container could not come here
            move = self._spreader.back(await self._cold(), now_s)
        if move is not None:
            await self._want(move)

    def _is_at_rest(self) -> bool:
        owners, wishes = self._cluster.owners(), self._cluster.wishes()
        served = [owner for owner in owners.values() if owner.stage is Stage.SERVING]
        return len(served) == len(self._cluster.containers) and not wishes and not self._wants.is_at_work

    async def _want(self, move: SlotMove) -> None:
        stream = self._store.stream_of(move.place[0])
        if stream is None or stream.deleted:
            return
        told = {"stream": stream.name, "slot": move.place[1], "to": move.target, "reason": move.reason}
        logger.info("a slot is to move", extra=told | {"stored_bytes": move.stored_bytes})
        await self._wants.want(stream, move.place[1], move.target)

    async def _loads_in(self, hosted: HostedContainer) -> Sequence[SlotLoad]:
        return [one for one in await loads_in(hosted) if self._can_leave(one.place)]

    def _can_leave(self, place: Place) -> bool:
        stream = self._store.stream_of(place[0])
        return stream is not None and self._store.mover.why_stays(stream.slot(place[1])) is None

    async def _cold(self) -> Sequence[ColdSlot]:
        found: list[ColdSlot] = []
        for hosted in list(self._store.containers.values()):
            async for stream in in_turns(list(hosted.container.streams.values())):
                found += [one for one in cold_slots(hosted, stream) if self._can_leave(one.place)]
                if len(found) >= COLD_MAX:
                    return found[:COLD_MAX]
        return found


async def loads_in(hosted: HostedContainer) -> Sequence[SlotLoad]:
    """The slots of a container into which anything comes."""
    rates, own = hosted.scaler.rates, hosted.id
    streams = [one for one in hosted.container.streams.values() if not one.is_sealed and not one.deleted]
    slots = [slot for stream in streams for slot in stream.slots_in(own) if slot.rate is not None]
    known = [(slot, rates.bytes_of(slot)[TWO]) async for slot in in_turns(slots)]
    whole = sum(rate for _, rate in known) or 1.0
    return [SlotLoad((slot.stream.id, slot.number), rate / whole, slot.size_bytes) for slot, rate in known if rate > 0]


def cold_slots(hosted: HostedContainer, stream: Stream) -> Iterator[ColdSlot]:
    """The slots of a stream that scales by itself, each of which alone is a cold segment of this container."""
    policy, state = stream.policy.scaling, stream.logged
    if policy.kind is ScalingKind.FIXED or stream.is_sealed or stream.deleted or len(state.containers) < 2:
        return
    segments, averages_of = state.current.segments, hosted.scaler.rates.bytes_of
    if policy.kind is ScalingKind.EVENTS:
        averages_of = hosted.scaler.rates.events_of
    factor = hosted.container.config.scaler_time_factor
    for place, segment in enumerate(segments):
        if segment.last - segment.first > 1 or state.container_of(segment) != hosted.id:
            continue
        slot = stream.known_slot(slot_at_position(segment.first, state.slots))
        is_new = hosted.scaler.age_of(stream, segment) < WINDOWS_S[TWENTY] * factor
        if slot is None or is_new or averages_of(slot)[TWENTY] >= MERGE_BELOW * policy.target_rate:
            continue
        left = state.container_of(segments[place - 1]) if place else None
        right = state.container_of(segments[place + 1]) if place + 1 < len(segments) else None
        yield ColdSlot((stream.id, slot.number), hosted.id, left, right, slot.size_bytes)
